#!/usr/bin/env bash
# Runs every official and captured vector file and prints a line for each. The
# last line is "N passed, 0 failed, M skipped". A skip names its cipher suite.
set -uo pipefail
cd "$(dirname "$0")/.."
: "${CONCLAVE_VECTORS:?set CONCLAVE_VECTORS to the absolute path of the test vectors: mls/ holds the files of github.com/mlswg/mls-implementations (test-vectors/), xmtp/ the captured ones}"
[ -d "$CONCLAVE_VECTORS/mls" ] || { echo "CONCLAVE_VECTORS=$CONCLAVE_VECTORS holds no mls/ folder"; exit 1; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
CONCLAVE_VECTORS_REPORT=1 go test -count=1 -v -run 'Vectors|Captured' ./mls ./identity ./content ./group >"$log" 2>&1
status=$?
[ "$status" -eq 0 ] || grep -v '^=== ' "$log"
awk -v want="$(ls "$CONCLAVE_VECTORS"/mls/*.json | wc -l)" '
  /^[A-Za-z0-9_\/.-]+\.(json|bin) +[0-9]+ +[0-9]+ +[0-9]+ +[0-9]+/ {
    if (!n++) printf "%-46s %6s %7s %7s %8s\n", "file", "cases", "passed", "failed", "skipped"
    note = ""; for (i = 6; i <= NF; i++) note = note " " $i
    printf "%-46s %6d %7d %7d %8d %s\n", $1, $2, $3, $4, $5, note
    if ($1 !~ /^xmtp\//) official++
    p += $3; f += $4; s += $5
  }
  END {
    if (official < want) { printf "only %d of %d official files were run\n", official, want; exit 1 }
    printf "%d passed, %d failed, %d skipped\n", p, f, s
    exit f > 0
  }' "$log" || status=1
exit "$status"
