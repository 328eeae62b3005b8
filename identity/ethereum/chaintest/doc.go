// Package chaintest holds tests only: smart contract wallets that live on a real
// chain, go-ethereum's simulated one, and everything that asks them, up to a
// host that registers an inbox whose owner is a contract. They stand apart so
// that an EVM is compiled for them alone.
//
// testdata/wallets.sol is the contracts' source; testdata/build.mjs compiles it
// into testdata/wallets.json.
package chaintest
