# Every target calls Go or one script. `make help` lists them.
export CGO_ENABLED ?= 0
TOOL := go tool -modfile=tools/go.mod
MEMBERS ?= 400
SEEDS ?= 300
FUZZTIME ?= 3s
# Where cargo builds what plays OpenMLS and mls-rs.
PEERS_TARGET ?= $(or $(CARGO_TARGET_DIR),$(CURDIR)/mls/peers/rust/target)
ROUNDS ?= 1
# The newest published SDK; its streams are bidirectional where they are asked to be.
NIGHTLY ?= 6.1.0-nightly.20260726.b649d1a

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

demo: ## 400 installations, one group, a transcript, and a check of every store (MEMBERS=, TRANSCRIPT=, DIR=)
	@go run ./cmd/conclave demo --members $(MEMBERS) $(if $(TRANSCRIPT),--transcript $(TRANSCRIPT)) $(if $(DIR),--dir $(DIR))

test: ## the whole suite
	go test ./...

check: vet arch race chain vectors sim fuzz chaos ## everything CI asks for, but interop

vet: ## go vet, gofmt and staticcheck
	@test -z "$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go'))" || { gofmt -l .; exit 1; }
	go vet ./...
	go vet -tags interop ./interop
	go vet -tags forge ./mls
	$(TOOL) staticcheck ./...

arch: ## the house's floors, doors and pure rooms
	go test -count=1 ./internal/arch

# docs and deploy only run programs, which are not built with the detector.
race: ## the suite under the race detector, the bus's contract on one number of shards
	CGO_ENABLED=1 go test -race -short -timeout 25m $$(go list ./... | grep -v -e /docs$$ -e /deploy$$)

chain: ## contract wallets on go-ethereum's simulated chain (a module of its own)
	cd identity/ethereum/chaintest && go vet ./... && go test ./...

vectors: ## official and captured test vectors, with a count per file
	@./scripts/vectors.sh

sim: ## seeded simulation (SEEDS=n, FIRST=n)
	go test -v -count=1 ./internal/sim -run TestSeeds -seeds $(SEEDS) $(if $(FIRST),-first $(FIRST)) -timeout 0

attack: ## attackers in four places, and random ones, with the verdict on each (SEEDS=n, FIRST=n, V=1)
	@go run ./internal/attack/list $(if $(filter command environment,$(firstword $(origin SEEDS))),-seeds $(SEEDS)) $(if $(FIRST),-first $(FIRST)) $(if $(V),-v)

fuzz: ## every fuzz target for a few seconds (FUZZTIME=)
	@FUZZTIME=$(FUZZTIME) ./scripts/fuzz.sh

interop: ## XMTP's published SDK and Conclave in the same groups (needs npm's registry)
	@./interop/setup.sh
	@go test -tags interop -count=1 -v -timeout 10m ./interop
	@./interop/setup.sh $(NIGHTLY)
	@XMTP_BIDI_STREAMS_ENABLED=1 CONCLAVE_INTEROP_SDK=$(NIGHTLY) go test -tags interop -count=1 -v -timeout 10m -run '^TestWalk(Streams|Disconnect)$$' ./interop

interop-matrix: ## the functional walk with 6.0.0, the newest 6.x and the newest published SDK
	@./interop/matrix.sh

interop-bench: ## createGroup of 250, send, sync of 200 and fan-out to 100 with the real SDK, as JSON
	@./interop/setup.sh
	@go test -tags interop -c -o interop/.sdk/interop.test ./interop && cd interop && .sdk/interop.test -figures

peers: ## random groups of Conclave, OpenMLS and mls-rs, and forged messages judged by all three (needs cargo; STEPS=, SEED=, VERDICTS=-write)
	cargo build --locked --manifest-path mls/peers/rust/Cargo.toml --target-dir $(PEERS_TARGET)
	cd mls/peers && go vet -tags forge . && go run -tags forge . -engines $(PEERS_TARGET)/debug/peers -steps $(or $(STEPS),1000) -seed $(or $(SEED),1) $(VERDICTS)

bench: ## the benchmarks, as JSON
	@./scripts/bench.sh

chaos: ## real processes killed, frozen, cut off and damaged, and every store audited (ROUNDS=n, ONLY=name, SEED=n)
	@go run ./chaos -rounds $(ROUNDS) $(if $(ONLY),-only $(ONLY)) $(if $(SEED),-seed $(SEED)) $(if $(JSON),-json)

proto: ## regenerate proto/*/*.pb.go (needs protoc)
	@./scripts/proto.sh

vuln: ## known vulnerabilities in what we link
	$(TOOL) govulncheck ./...

.PHONY: help demo test check vet arch race chain vectors sim attack fuzz interop interop-matrix interop-bench peers bench chaos proto vuln
