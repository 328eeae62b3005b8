#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME each.
set -euo pipefail
cd "$(dirname "$0")/.."
count=0
for package in $(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do
  for target in $(grep -h -o '^func Fuzz[A-Za-z0-9_]*' "$package"/*_test.go | sed 's/^func //' | sort -u); do
    printf '%-24s %s\n' "$package" "$target"
    go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-3s}" >/tmp/conclave-fuzz.$$ 2>&1 || { cat /tmp/conclave-fuzz.$$; exit 1; }
    count=$((count + 1))
  done
done
rm -f /tmp/conclave-fuzz.$$
[ "$count" -gt 0 ] || { echo "no fuzz targets found"; exit 1; }
echo "$count fuzz targets, ${FUZZTIME:-3s} each, no failure"
