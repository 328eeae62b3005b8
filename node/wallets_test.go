package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/identityapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// A scriptedChain is chain 1 at block 100, where every contract signs with its
// own address. Other chains are not there. What is real about chains, package
// chaintest shows.
type scriptedChain struct{}

func (scriptedChain) VerifyContract(account identity.Account, block *uint64, hash [32]byte, sig []byte) (uint64, error) {
	at := uint64(100)
	if block != nil {
		at = *block
	}
	if account.Chain != 1 {
		return 0, fmt.Errorf("no endpoint: %w", identity.ErrNeedChain)
	}
	if !bytes.Equal(sig, account.Address.Bytes()) {
		return at, errors.New("the contract says no")
	}
	return at, nil
}

// withChain serves a node that verifies with a chain, or with none.
func withChain(t *testing.T, chain ethereum.Chain) (*memory.Bus, *node.Node) {
	t.Helper()
	b := memory.New(memory.Config{Now: func() time.Time { return now }})
	n, err := node.Serve(t.Context(), b, node.Config{Verifier: ethereum.Verifier{Chain: chain}, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Close()
		b.Close()
	})
	return b, n
}

type (
	question = identityapi.VerifySmartContractWalletSignatureRequestSignature
	verdict  = identityapi.VerifySmartContractWalletSignaturesResponse_ValidationResponse
)

func ask(t *testing.T, n *node.Node, questions ...*question) ([]*verdict, error) {
	t.Helper()
	r, err := n.VerifySmartContractWalletSignatures(t.Context(), &identityapi.VerifySmartContractWalletSignaturesRequest{Signatures: questions})
	return r.GetResponses(), err
}

// Each signature has its own verdict, at the place where it was asked: valid, not
// valid, or no answer and why.
func TestVerifySmartContractWalletSignatures(t *testing.T) {
	_, n := withChain(t, scriptedChain{})
	address := identity.AddressFrom([20]byte{7})
	on := func(chain uint64) string { return identity.Account{Chain: chain, Address: address}.String() }
	block, hash := uint64(42), make([]byte, 32)
	good := &question{AccountId: on(1), BlockNumber: &block, Signature: address.Bytes(), Hash: hash}
	cases := []struct {
		q     *question
		valid bool
		block uint64 // 0: none is told
		err   string // a part of the error; "": none is told
	}{
		{good, true, 42, ""},
		{&question{AccountId: on(1), Signature: address.Bytes(), Hash: hash}, true, 100, ""},
		{&question{AccountId: on(1), BlockNumber: &block, Signature: []byte("x"), Hash: hash}, false, 42, ""},
		{&question{AccountId: on(1), BlockNumber: &block, Hash: hash}, false, 42, ""},
		{&question{AccountId: on(5), BlockNumber: &block, Signature: address.Bytes(), Hash: hash}, false, 0, "no endpoint"},
		{&question{AccountId: "eip155:1", Signature: address.Bytes(), Hash: hash}, false, 0, "eip155:<chain>:<address>"},
		{&question{AccountId: on(1), Signature: address.Bytes(), Hash: hash[:31]}, false, 0, "31 bytes"},
		{&question{AccountId: on(1), Signature: address.Bytes()}, false, 0, "0 bytes"},
		{&question{}, false, 0, "account"},
	}
	var questions []*question
	for _, c := range cases {
		questions = append(questions, c.q)
	}
	verdicts, err := ask(t, n, questions...)
	if err != nil || len(verdicts) != len(cases) {
		t.Fatalf("%d verdicts, %v", len(verdicts), err)
	}
	for i, c := range cases {
		v := verdicts[i]
		if v.GetIsValid() != c.valid || v.GetBlockNumber() != c.block || (v.BlockNumber == nil) != (c.block == 0) ||
			(v.Error == nil) != (c.err == "") || !strings.Contains(v.GetError(), c.err) {
			t.Errorf("%d: %v, want %v", i, v, c)
		}
	}
	// Real clients panic where there is no verdict, and a batch has its bound.
	_, err = ask(t, n)
	wantCode(t, err, bus.CodeInvalid)
	many := make([]*question, 51)
	for i := range many {
		many[i] = good
	}
	_, err = ask(t, n, many...)
	wantCode(t, err, bus.CodeInvalid)
	if verdicts, err = ask(t, n, many[:50]...); err != nil || len(verdicts) != 50 {
		t.Errorf("50 at a time: %d, %v", len(verdicts), err)
	}
}

// A node without a chain says so, and refuses nothing that it cannot judge.
func TestNodeWithoutChain(t *testing.T) {
	b, n := withChain(t, nil)
	address := identity.AddressFrom([20]byte{7})
	account := identity.Account{Chain: 1, Address: address}
	verdicts, err := ask(t, n, &question{AccountId: account.String(), Signature: address.Bytes(), Hash: make([]byte, 32)})
	if err != nil || len(verdicts) != 1 || verdicts[0].GetIsValid() || !strings.Contains(verdicts[0].GetError(), "no chain configured") {
		t.Errorf("%v, %v", verdicts, err)
	}
	err = node.NewClient(b).PublishIdentityUpdate(t.Context(), contractInbox(t, address, 1))
	wantCode(t, err, bus.CodeUnavailable)
}

// contractInbox registers an inbox that a contract of the scriptedChain owns.
func contractInbox(t *testing.T, address identity.Identifier, chain uint64) *associations.IdentityUpdate {
	t.Helper()
	app, id := newApp(t)
	d, err := identity.Register(address, identity.DefaultNonce, id, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Attach(address, &associations.Signature{Signature: &associations.Signature_Erc_6492{Erc_6492: &associations.SmartContractWalletSignature{
		AccountId: identity.Account{Chain: chain, Address: address}.String(), BlockNumber: 42, Signature: address.Bytes(),
	}}}); err != nil {
		t.Fatal(err)
	}
	return sign(t, d, app)
}

// A contract's inbox is registered and looked up like any other.
func TestContractRegisters(t *testing.T) {
	b, n := withChain(t, scriptedChain{})
	network := &network{b, node.NewClient(b), n}
	address := identity.AddressFrom([20]byte{7})
	update := contractInbox(t, address, 1)
	network.publish(t, update)
	if got := network.inboxOf(t, address); got != update.GetInboxId() {
		t.Errorf("inbox = %q", got)
	}
	forged := contractInbox(t, identity.AddressFrom([20]byte{8}), 1)
	forged.Actions[0].GetCreateInbox().GetInitialIdentifierSignature().GetErc_6492().Signature = []byte("x")
	wantCode(t, network.PublishIdentityUpdate(t.Context(), forged), bus.CodeInvalid)
	wantCode(t, network.PublishIdentityUpdate(t.Context(), contractInbox(t, identity.AddressFrom([20]byte{9}), 5)), bus.CodeUnavailable)
}

// A host without a chain lets the node verify, and tells "no" from "no answer".
func TestHostAsksTheNode(t *testing.T) {
	b, _ := withChain(t, scriptedChain{})
	address := identity.AddressFrom([20]byte{7})
	remote := ethereum.Verifier{Chain: node.NewClient(b)}
	if _, err := identity.Verify(contractInbox(t, address, 1), remote); err != nil {
		t.Errorf("signed: %v", err)
	}
	account := identity.Account{Chain: 1, Address: address}
	if at, err := remote.VerifyContract(account, nil, [32]byte{}, address.Bytes()); err != nil || at != 100 {
		t.Errorf("as of the newest block: %d, %v", at, err)
	}
	block := uint64(42)
	if at, err := remote.VerifyContract(account, &block, [32]byte{}, []byte("x")); err == nil || at != 42 || errors.Is(err, identity.ErrNeedChain) {
		t.Errorf("not signed: %d, %v", at, err)
	}
	account.Chain = 5
	if _, err := remote.VerifyContract(account, nil, [32]byte{}, address.Bytes()); !errors.Is(err, identity.ErrNeedChain) || !strings.Contains(err.Error(), "no endpoint") {
		t.Errorf("a chain that the node has not: %v", err)
	}
	nobody := memory.New(memory.Config{})
	defer nobody.Close()
	if _, err := node.NewClient(nobody).VerifyContract(account, nil, [32]byte{}, nil); !errors.Is(err, identity.ErrNeedChain) {
		t.Errorf("no node: %v", err)
	}
}

// A request may ask about fifty signatures, and an update may have a hundred: each
// is paid for out of the caller's day, however few the requests are. Others, and
// what asks no chain, are not concerned.
func TestSignaturesOfContractsHaveABudget(t *testing.T) {
	clock := now
	b := memory.New(memory.Config{Now: func() time.Time { return clock }})
	n, err := node.Serve(t.Context(), b, node.Config{
		Verifier: ethereum.Verifier{Chain: scriptedChain{}}, Now: func() time.Time { return clock }, Limits: node.Limits{CallerWallets: 100},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close(); b.Close() })
	mallory, alice := node.WithCaller(t.Context(), "mallory"), node.WithCaller(t.Context(), "alice")
	block := uint64(42)
	questions := func(ctx context.Context, count int) error {
		request := new(identityapi.VerifySmartContractWalletSignaturesRequest)
		for i := range count {
			a := identity.AddressFrom([20]byte{byte(i), 9})
			request.Signatures = append(request.Signatures, &question{
				AccountId: identity.Account{Chain: 1, Address: a}.String(), BlockNumber: &block, Hash: make([]byte, 32), Signature: a.Bytes(),
			})
		}
		_, err := n.VerifySmartContractWalletSignatures(ctx, request)
		return err
	}
	exhausted := func(err error) bool {
		var refusal *bus.ServiceError
		return errors.As(err, &refusal) && refusal.Code == bus.CodeExhausted
	}
	for i := range 2 {
		if err := questions(mallory, 50); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	if err := questions(mallory, 1); !exhausted(err) {
		t.Errorf("the 101st signature of a day: %v", err)
	}
	if _, err := n.PublishIdentityUpdate(mallory, publishRequest(manyContracts(t, 60))); !exhausted(err) {
		t.Errorf("an update with 61 signatures of contracts: %v", err)
	}
	if _, err := n.PublishIdentityUpdate(alice, publishRequest(manyContracts(t, 60))); err != nil {
		t.Errorf("somebody else's: %v", err)
	}
	if err := questions(alice, 50); !exhausted(err) {
		t.Errorf("an update's signatures do not count: %v", err)
	}
	if err := questions(t.Context(), 50); err != nil {
		t.Errorf("a host: %v", err)
	}
	clock = clock.Add(12 * time.Hour)
	if err := questions(mallory, 50); err != nil {
		t.Errorf("half a day later: %v", err)
	}
}

// A slow chain is asked so many questions at a time, however few requests they come
// in, and what waits for it holds up nobody else.
func TestQuestionsAtATimeAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chain := &countedChain{}
		_, n := withChain(t, chain)
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				var all []*question
				for i := range 50 {
					a := identity.AddressFrom([20]byte{byte(i), 9})
					all = append(all, &question{AccountId: identity.Account{Chain: 1, Address: a}.String(), Hash: make([]byte, 32), Signature: a.Bytes()})
				}
				_, _ = ask(t, n, all...)
			})
		}
		synctest.Wait()
		began := time.Now()
		if _, err := n.QueryGroupMessages(t.Context(), &mlsapi.QueryGroupMessagesRequest{GroupId: make([]byte, 16)}); err != nil || time.Since(began) > 0 {
			t.Errorf("a query beside them took %v: %v", time.Since(began), err)
		}
		wg.Wait()
		if most := chain.most.Load(); most == 0 || most > max(256, int64(16*runtime.GOMAXPROCS(0))) {
			t.Errorf("%d questions at a time", most)
		}
	})
}

// A countedChain answers late, and counts how many wait.
type countedChain struct{ now, most atomic.Int64 }

func (c *countedChain) VerifyContract(a identity.Account, block *uint64, hash [32]byte, sig []byte) (uint64, error) {
	at := c.now.Add(1)
	defer c.now.Add(-1)
	for most := c.most.Load(); at > most && !c.most.CompareAndSwap(most, at); most = c.most.Load() {
	}
	return lateChain{}.VerifyContract(a, block, hash, sig)
}
