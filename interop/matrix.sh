#!/usr/bin/env bash
# Runs the functional walk with 6.0.0, the newest 6.x and the newest published
# SDK, and prints what fails with each. The exit code is that of 6.0.0's walk.
set -uo pipefail
cd "$(dirname "$0")"
./setup.sh || exit 1
# npm lists versions the lowest first.
published=$(.sdk/npm view @xmtp/node-sdk versions --json 2>/dev/null) || { echo "interop/matrix.sh: npm's registry cannot be read" >&2; exit 1; }
newest=$(grep -o '[0-9][^"]*' <<<"$published" | tail -1)
newest6=$(grep -oE '"6\.[0-9]+\.[0-9]+"' <<<"$published" | tr -d '"' | tail -1)
columns=$(printf '%s\n' 6.0.0 "$newest6" "$newest" | awk '!seen[$0]++')
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
for version in $columns; do
  if ./setup.sh "$version" >"$logs/$version" 2>&1; then
    CONCLAVE_INTEROP_SDK="$version" go test -tags interop -count=1 -v -timeout 10m -run '^TestWalk' . >"$logs/$version" 2>&1
  fi
done
# One line a scenario, one column a version; then what each failure says.
awk -v columns="$(echo $columns)" '
  FNR == 1 { version = FILENAME; sub(".*/", "", version) }
  /^ *--- (PASS|FAIL): / {
    name = $3; sub("TestWalk", "", name)
    if (!(name in known)) { known[name] = 1; order[++n] = name }
    said[name, version] = $2 == "PASS:" ? "ok" : "FAILS"
  }
  END {
    count = split(columns, column, " ")
    printf "%-44s", "@xmtp/node-sdk"
    for (i = 1; i <= count; i++) printf "  %-30s", column[i]
    print ""
    for (j = 1; j <= n; j++) {
      printf "%-44s", order[j]
      for (i = 1; i <= count; i++) {
        word = said[order[j], column[i]]
        printf "  %-30s", word == "" ? "not run" : word
      }
      print ""
    }
  }' $(for version in $columns; do echo "$logs/$version"; done)
for version in $columns; do
  if ! grep -q '^ok' "$logs/$version"; then
    echo
    echo "$version:"
    grep -E '_test.go:[0-9]+: |^(FAIL|panic|interop/)' "$logs/$version" | cut -c1-300
  fi
done
grep -q '^ok' "$logs/6.0.0"
