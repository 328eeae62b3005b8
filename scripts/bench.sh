#!/usr/bin/env bash
# Runs every benchmark of benchmarks/README.md; one JSON object each.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -buildvcs=auto -o "$bin/conclave" ./cmd/conclave
for b in "form --members 400" "fanout --members 400 --messages 200 --verify" "commit --members 400" \
  "idle --installations 5000" "mixed --installations 2000 --groups 200" "node"; do
  # shellcheck disable=SC2086 # the words are arguments
  "$bin/conclave" bench $b --json
done
