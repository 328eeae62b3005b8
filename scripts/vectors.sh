#!/usr/bin/env bash
# Runs every official and captured vector file and prints a line for each:
#   file  cases passed failed skipped
# The last line is "N passed, 0 failed, M skipped".
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CONCLAVE_VECTORS:?set CONCLAVE_VECTORS to the absolute path of the test vectors: mls/ holds the files of github.com/mlswg/mls-implementations (test-vectors/), xmtp/ the captured ones}"
[ -d "$CONCLAVE_VECTORS/mls" ] || { echo "CONCLAVE_VECTORS=$CONCLAVE_VECTORS holds no mls/ folder"; exit 1; }
report=$(mktemp)
trap 'rm -f "$report"' EXIT
status=0
CONCLAVE_VECTORS_REPORT=$report go test -count=1 -run 'Vectors' ./mls/... ./identity/... ./group/... >"$report.log" 2>&1 || status=$?
[ "$status" -eq 0 ] || cat "$report.log"
rm -f "$report.log"
sort "$report" | awk '
  { printf "%-48s cases %4d  passed %4d  failed %4d  skipped %4d%s\n", $1, $2, $3, $4, $5, ($6 == "" ? "" : "  suites " $6); p += $3; f += $4; s += $5 }
  END { if (NR == 0) { print "no vector file was run"; exit 1 } printf "%d passed, %d failed, %d skipped\n", p, f, s }'
exit "$status"
