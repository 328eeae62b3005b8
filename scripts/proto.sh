#!/usr/bin/env bash
# Regenerates the Go code of proto/. Needs protoc; the Go plugin is pinned in tools/go.mod.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v protoc >/dev/null || { echo "protoc is missing: install your system's protobuf compiler"; exit 1; }
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -modfile=tools/go.mod -o "$bin/protoc-gen-go" google.golang.org/protobuf/cmd/protoc-gen-go
PATH="$bin:$PATH" protoc -Iproto --go_out=. --go_opt=module=github.com/conclave-chat/conclave proto/*/*.proto
