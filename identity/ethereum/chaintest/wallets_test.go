package chaintest_test

import (
	"bytes"
	"errors"
	"math/big"
	"strings"
	"sync"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/conclave-chat/conclave/identity"
	conclave "github.com/conclave-chat/conclave/identity/ethereum"
)

const text = "text"

var hash = identity.HashMessage(text)

// A verdict is what a question about a signature may come to.
type verdict string

const (
	yes     verdict = "yes"
	no      verdict = "no"
	unknown verdict = "no answer"
)

func verdictOf(err error) verdict {
	switch {
	case err == nil:
		return yes
	case errors.Is(err, identity.ErrNeedChain):
		return unknown
	}
	return no
}

// want asks about a signature over hash and compares the verdict.
func want(t *testing.T, chains *conclave.Chains, name string, a common.Address, block uint64, sig []byte, want verdict) {
	t.Helper()
	at, err := chains.VerifyContract(account(a), &block, hash, sig)
	if got := verdictOf(err); got != want {
		t.Errorf("%s: %s (%v), want %s", name, got, err, want)
	}
	if err == nil && at != block {
		t.Errorf("%s: answered for block %d, asked for %d", name, at, block)
	}
}

// ERC-1271: the contract says whose signature it takes.
func TestDeployedWallet(t *testing.T) {
	c := newChain(t)
	owner, stranger := newKey(t), newKey(t)
	wallet, at := c.deploy("Wallet", word(addressOf(owner)))
	chains := c.chains()
	want(t, chains, "its owner's", wallet, at, signed(t, owner, text), yes)
	want(t, chains, "a stranger's", wallet, at, signed(t, stranger, text), no)
	want(t, chains, "over another text", wallet, at, signed(t, owner, "other"), no)
	want(t, chains, "empty", wallet, at, nil, no)
	want(t, chains, "one byte", wallet, at, []byte{1}, no)
	want(t, chains, "before the contract was there", wallet, at-1, signed(t, owner, text), no)
	want(t, chains, "in a block that is not there yet", wallet, at+1000, signed(t, owner, text), unknown)
	// The largest there may be still reach the contract, which says no.
	big := make([]byte, 40<<10)
	want(t, chains, "of 40 KiB", wallet, at, big, no)
	want(t, chains, "of 40 KiB, wrapped", wallet, at, wrap(t, wallet, nil, big[:40<<10-32*7]), no)
	want(t, chains, "of 48 KiB", wallet, at, make([]byte, 48<<10), no)
	want(t, chains, "of 1 MiB", wallet, at, make([]byte, 1<<20), no)
}

// A signature holds as of its block: an owner that changed later changes nothing.
func TestAnswersAreOfTheirBlock(t *testing.T) {
	c := newChain(t)
	first, second := newKey(t), newKey(t)
	wallet, before := c.deploy("Wallet", word(addressOf(first)))
	payer := addressOf(first)
	c.send(c.rich, &payer, 1e18, nil)
	_, after := c.send(first, &wallet, 0, call("setOwner(address)", word(addressOf(second))))
	chains := c.chains()
	want(t, chains, "the first owner's, before", wallet, before, signed(t, first, text), yes)
	want(t, chains, "the first owner's, after", wallet, after, signed(t, first, text), no)
	want(t, chains, "the second owner's, before", wallet, before, signed(t, second, text), no)
	want(t, chains, "the second owner's, after", wallet, after, signed(t, second, text), yes)
	for owner, expected := range map[*conclave.Key]verdict{first: no, second: yes} {
		at, err := chains.VerifyContract(account(wallet), nil, hash, signed(t, owner, text))
		if verdictOf(err) != expected || at != c.newest() {
			t.Errorf("as of the newest block: %v at %d, want %s at %d", err, at, expected, c.newest())
		}
	}
}

// ERC-6492: a wallet signs before it is there.
func TestWalletThatIsNotDeployed(t *testing.T) {
	c := newChain(t)
	owner, stranger := newKey(t), newKey(t)
	factory, at := c.deploy("Factory")
	f := c.future(factory, owner)
	chains := c.chains()
	good := f.wrap(t, signed(t, owner, text))
	want(t, chains, "its owner's", f.address, at, good, yes)
	want(t, chains, "a stranger's", f.address, at, f.wrap(t, signed(t, stranger, text)), no)
	want(t, chains, "without its wrapper", f.address, at, signed(t, owner, text), no)
	want(t, chains, "of another account", c.future(factory, stranger).address, at, good, no)
	want(t, chains, "before the factory was there", f.address, at-1, good, no)
	for name, deploy := range map[string][]byte{
		"a factory that reverts":          call("fail()"),
		"a factory that burns its gas":    call("burn()"),
		"a call that the factory has not": {1, 2, 3, 4},
		"no call":                         nil,
	} {
		want(t, chains, name, f.address, at, wrap(t, factory, deploy, signed(t, owner, text)), no)
	}
	want(t, chains, "a factory that is none", f.address, at, wrap(t, addressOf(owner), f.deploy, signed(t, owner, text)), no)
	// The precompile at 4 returns what it is given, which for this hash begins as
	// a yes does, but is no contract.
	echo := account(common.BytesToAddress([]byte{4}))
	if _, err := chains.VerifyContract(echo, &at, [32]byte{}, good); verdictOf(err) != no {
		t.Errorf("a precompile: %v", err)
	}
	if code, err := c.Client().CodeAt(t.Context(), f.address, nil); err != nil || len(code) != 0 {
		t.Errorf("asking deployed the wallet: %d bytes, %v", len(code), err)
	}

	// Once it is there its word counts, wrapped or not, and the factory's no more.
	_, deployed := c.send(c.rich, &factory, 0, f.deploy)
	want(t, chains, "deployed: wrapped", f.address, deployed, good, yes)
	want(t, chains, "deployed: bare", f.address, deployed, signed(t, owner, text), yes)
	want(t, chains, "deployed: a stranger's", f.address, deployed, f.wrap(t, signed(t, stranger, text)), no)
	want(t, chains, "deployed: with a factory that fails", f.address, deployed, wrap(t, factory, call("fail()"), signed(t, owner, text)), yes)
	payer := addressOf(owner)
	c.send(c.rich, &payer, 1e18, nil)
	_, rotated := c.send(owner, &f.address, 0, call("setOwner(address)", word(addressOf(stranger))))
	want(t, chains, "another owner since: the first one's", f.address, rotated, good, no)
	want(t, chains, "another owner since: the second one's", f.address, rotated, f.wrap(t, signed(t, stranger, text)), yes)
}

// ERC-6492 also prepares a contract that is there and does not know its signer.
func TestWalletThatIsPrepared(t *testing.T) {
	c := newChain(t)
	owner, stranger := newKey(t), newKey(t)
	wallet, at := c.deploy("Registered")
	chains := c.chains()
	sig, register := signed(t, owner, text), call("register(address)", word(addressOf(owner)))
	want(t, chains, "not prepared", wallet, at, sig, no)
	want(t, chains, "prepared", wallet, at, wrap(t, wallet, register, sig), yes)
	want(t, chains, "prepared for another", wallet, at, wrap(t, wallet, call("register(address)", word(addressOf(stranger))), sig), no)
	_, taken := c.send(c.rich, &wallet, 0, call("register(address)", word(addressOf(stranger))))
	want(t, chains, "another came first", wallet, taken, wrap(t, wallet, register, sig), no)
}

// An account without code is a key's, in one spelling only.
func TestAccountThatIsNoContract(t *testing.T) {
	c := newChain(t)
	owner, stranger := newKey(t), newKey(t)
	chains, at := c.chains(), c.newest()
	sig := signed(t, owner, text)
	want(t, chains, "its key's", addressOf(owner), at, sig, yes)
	want(t, chains, "a stranger's", addressOf(owner), at, signed(t, stranger, text), no)
	want(t, chains, "no signature", addressOf(owner), at, nil, no)
	zeroV := bytes.Clone(sig)
	zeroV[64] -= 27
	want(t, chains, "V from 0", addressOf(owner), at, zeroV, no)
	twin := bytes.Clone(sig)
	new(big.Int).Sub(crypto.S256().Params().N, new(big.Int).SetBytes(sig[32:64])).FillBytes(twin[32:64])
	twin[64] = 27 + 28 - twin[64]
	want(t, chains, "the twin in the upper half", addressOf(owner), at, twin, no)
	want(t, chains, "wrapped around nothing", addressOf(owner), at, wrap(t, addressOf(owner), nil, sig), no)
}

// What is not ERC-1271's yes is no, whatever it costs the contract, and bounds
// what it costs the node.
func TestContractsThatMisbehave(t *testing.T) {
	c := newChain(t)
	wallet, at := c.deploy("Misbehaved")
	factory, at2 := c.deploy("Factory")
	chains := c.chains()
	for way, name := range []string{
		"reverts with the magic value", "returns 4 bytes", "returns nothing", "returns the magic value and dirt",
		"returns the magic value at the wrong end", "returns true", "stops by an invalid opcode", "loops",
		"returns 10 MB of zeros", "writes",
	} {
		want(t, chains, name, wallet, at, []byte{byte(way)}, no)
		// The worst there is: asked twice, with a factory that burns as much.
		want(t, chains, name+", wrapped", wallet, at2, wrap(t, factory, call("burn()"), []byte{byte(way)}), no)
	}
	want(t, chains, "trusts who has no address", wallet, at, []byte{11}, no)
	want(t, chains, "returns the magic value and 1 MB behind it", wallet, at, []byte{10}, yes)
}

// An answer at a block is remembered, with everything it depends on.
func TestAnswersAreRemembered(t *testing.T) {
	c := newChain(t)
	owner := newKey(t)
	wallet, at := c.deploy("Wallet", word(addressOf(owner)))
	chains := c.chains()
	good, bad := signed(t, owner, text), signed(t, owner, "other")
	for range 3 {
		want(t, chains, "good", wallet, at, good, yes)
		want(t, chains, "bad", wallet, at, bad, no)
	}
	if got := c.calls.Load(); got != 2 {
		t.Errorf("%d calls for two questions", got)
	}
	want(t, chains, "another block", wallet, at-1, good, no)
	want(t, chains, "another account", addressOf(newKey(t)), at, good, no)
	if _, err := chains.VerifyContract(account(wallet), &at, identity.HashMessage("other"), bad); err != nil {
		t.Errorf("another hash: %v", err)
	}
	if got := c.calls.Load(); got != 5 {
		t.Errorf("%d calls for five questions", got)
	}
	// A failure is not: the endpoint may have the block the next time.
	for range 2 {
		want(t, chains, "no such block yet", wallet, at+100, good, unknown)
	}
	if got := c.calls.Load(); got != 7 {
		t.Errorf("%d calls, want the failed one asked again", got)
	}
}

func TestManyAskAtATime(t *testing.T) {
	c := newChain(t)
	owner := newKey(t)
	wallet, at := c.deploy("Wallet", word(addressOf(owner)))
	chains := c.chains()
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			text := strings.Repeat("x", i%16)
			if _, err := chains.VerifyContract(account(wallet), &at, identity.HashMessage(text), signed(t, owner, text)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// An endpoint of another chain would answer for other contracts.
func TestEndpointOfAnotherChain(t *testing.T) {
	c := newChain(t)
	chains, err := conclave.NewChains(map[uint64]string{1: c.url})
	if err != nil {
		t.Fatal(err)
	}
	defer chains.Close()
	owner := newKey(t)
	a := identity.Account{Chain: 1, Address: owner.Identifier()}
	_, err = chains.VerifyContract(a, nil, hash, signed(t, owner, text))
	if verdictOf(err) != unknown || !strings.Contains(err.Error(), "it serves chain 1337") {
		t.Errorf("err = %v", err)
	}
}
