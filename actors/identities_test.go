package actors

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/persistence/memory"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/identityapi"
)

// A networkLog is one inbox's identity log, as the network has it.
type networkLog struct {
	Network // nothing else is asked
	inbox   string
	wallet  *ethereum.Key
	mu      sync.Mutex
	updates []*identityapi.GetIdentityUpdatesResponse_IdentityUpdateLog
}

func (n *networkLog) GetIdentityUpdates(_ context.Context, r *identityapi.GetIdentityUpdatesRequest) (*identityapi.GetIdentityUpdatesResponse, error) {
	answer := &identityapi.GetIdentityUpdatesResponse_Response{InboxId: n.inbox}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, u := range n.updates {
		if u.SequenceId > r.Requests[0].SequenceId {
			answer.Updates = append(answer.Updates, u)
		}
	}
	return &identityapi.GetIdentityUpdatesResponse{Responses: []*identityapi.GetIdentityUpdatesResponse_Response{answer}}, nil
}

// publish appends an update that is signed by whoever signs it.
func (n *networkLog) publish(t *testing.T, d *identity.Draft) {
	t.Helper()
	u, err := d.Update()
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.updates = append(n.updates, &identityapi.GetIdentityUpdatesResponse_IdentityUpdateLog{
		SequenceId: uint64(10 * (len(n.updates) + 1)), ServerTimestampNs: uint64(time.Now().UnixNano()), Update: u,
	})
}

// add links one more installation to the inbox.
func (n *networkLog) add(t *testing.T) {
	t.Helper()
	d := identity.NewDraft(n.inbox, time.Now())
	app, id := newInstallation(t)
	if err := errors.Join(d.Add(id, n.wallet.Identifier()).Sign(n.wallet), d.SignInstallation(app)); err != nil {
		t.Fatal(err)
	}
	n.publish(t, d)
}

func newInstallation(t *testing.T) (ed25519.PrivateKey, identity.Identifier) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.InstallationFrom(public)
	if err != nil {
		t.Fatal(err)
	}
	return private, id
}

// newNetworkLog has a registered inbox.
func newNetworkLog(t *testing.T) *networkLog {
	t.Helper()
	w, err := ethereum.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	inbox, err := identity.InboxID(w.Identifier(), 1)
	if err != nil {
		t.Fatal(err)
	}
	app, id := newInstallation(t)
	d, err := identity.Register(w.Identifier(), 1, id, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Sign(w), d.SignInstallation(app)); err != nil {
		t.Fatal(err)
	}
	n := &networkLog{inbox: inbox, wallet: w}
	n.publish(t, d)
	return n
}

func openRegistry(t *testing.T, n *networkLog, store *memory.Store, v identity.Verifier) *identities {
	return newIdentities(t.Context(), Config{Network: n, Verifier: v, Store: store, Logger: slog.New(slog.DiscardHandler)})
}

// What could not be stored leaves no gap in an identity log: what was stored
// after it is not taken for its continuation.
func TestStoredIdentityLogHasNoGap(t *testing.T) {
	n, store := newNetworkLog(t), memory.New()
	d := openRegistry(t, n, store, ethereum.Verifier{})
	refresh := func() {
		t.Helper()
		if err := d.refresh(t.Context(), []string{n.inbox}); err != nil {
			t.Fatal(err)
		}
	}
	refresh()
	n.add(t)
	store.FailNext(errors.New("disk full"))
	refresh() // known, but not stored
	n.add(t)
	refresh()
	for range 3 {
		d = openRegistry(t, n, store, ethereum.Verifier{})
		if s, id := d.latest(n.inbox); len(s.Installations()) != int(id/10) {
			t.Errorf("in the store it has %d installations as of update %d", len(s.Installations()), id)
		}
		for range 2 {
			refresh()
			n.add(t)
		}
		refresh()
		if s, _ := d.latest(n.inbox); len(s.Installations()) != len(n.updates) {
			t.Errorf("it has %d installations after %d updates", len(s.Installations()), len(n.updates))
		}
	}
}

// A deafChain answers when it is told to.
type deafChain struct{ asked, answer chan struct{} }

func (c deafChain) VerifyContract(_ identity.Account, block *uint64, _ [32]byte, _ []byte) (uint64, error) {
	c.asked <- struct{}{}
	<-c.answer
	return *block, nil
}

// addContract adds a contract wallet to the inbox, which signs on its chain.
func (n *networkLog) addContract(t *testing.T) identity.Identifier {
	t.Helper()
	contract := identity.AddressFrom([20]byte(bytes.Repeat([]byte{7}, 20)))
	link := identity.NewDraft(n.inbox, time.Now()).Add(contract, n.wallet.Identifier())
	if err := errors.Join(link.Sign(n.wallet), link.Attach(contract, &associations.Signature{Signature: &associations.Signature_Erc_6492{
		Erc_6492: &associations.SmartContractWalletSignature{
			AccountId: identity.Account{Chain: 1, Address: contract}.String(), BlockNumber: 42, Signature: []byte("signed"),
		},
	}})); err != nil {
		t.Fatal(err)
	}
	n.publish(t, link)
	return contract
}

// brokenChain is one that cannot be asked.
type brokenChain struct{}

func (brokenChain) VerifyContract(identity.Account, *uint64, [32]byte, []byte) (uint64, error) {
	return 0, identity.ErrNeedChain
}

// While a chain cannot be asked it is not known whether an update exists that a
// contract signed: who waits for it goes on waiting, and who needs another one does
// not.
func TestAChainThatCannotBeAskedIsNoVerdict(t *testing.T) {
	n, store := newNetworkLog(t), memory.New()
	n.addContract(t)
	needs := func(seq uint64) []group.IdentityAt { return []group.IdentityAt{{Inbox: n.inbox, Sequence: seq}} }
	d := openRegistry(t, n, store, ethereum.Verifier{Chain: brokenChain{}})
	if err := d.resolve(t.Context(), needs(20)); !errors.Is(err, identity.ErrNeedChain) {
		t.Errorf("who waits for what was not judged hears %v", err)
	}
	if err := d.resolve(t.Context(), needs(10)); err != nil {
		t.Errorf("who needs what was judged hears %v", err)
	}
	d.verifier = ethereum.Verifier{Chain: askedChain{}}
	if err := d.resolve(t.Context(), append(needs(20), needs(30)...)); err != nil {
		t.Errorf("when the chain answers: %v", err)
	}
}

// askedChain answers at once that a contract has signed.
type askedChain struct{}

func (askedChain) VerifyContract(_ identity.Account, block *uint64, _ [32]byte, _ []byte) (uint64, error) {
	return *block, nil
}

// While a chain is asked about a contract's signature, whoever needs the inbox
// does not wait for it: neither when it is read, nor after a restart.
func TestAChainHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, store := newNetworkLog(t), memory.New()
		chain := deafChain{make(chan struct{}, 1), make(chan struct{})}
		v := ethereum.Verifier{Chain: chain}
		contract := n.addContract(t)

		for _, known := range []uint64{0, 10} { // at first nothing, then what was stored
			d := openRegistry(t, n, store, v)
			read := make(chan error, 1)
			go func() { read <- d.refresh(t.Context(), []string{n.inbox}) }()
			<-chain.asked
			if _, id := d.latest(n.inbox); id != known {
				t.Errorf("while the chain is asked the inbox is known up to %d, want %d", id, known)
			}
			chain.answer <- struct{}{}
			if err := <-read; err != nil {
				t.Fatal(err)
			}
			if s, id := d.latest(n.inbox); id != 20 || !s.Has(contract) {
				t.Errorf("then it is known up to %d", id)
			}
		}
	})
}

// An id that no update has yet may have one that counts, for as long as the log's
// servers may put it at the time of who cites it. So long, and no longer, nobody
// answers what it stands for; by what was read of the log, and not by this host's
// clock, that time may be over.
func TestAnUpdateThatMayStillComeIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetworkLog(t)
		d := openRegistry(t, n, memory.New(), ethereum.Verifier{})
		resolve := func(need ...group.IdentityAt) time.Duration {
			t.Helper()
			began := time.Now()
			if err := d.resolve(t.Context(), need); err != nil {
				t.Fatal(err)
			}
			return time.Since(began)
		}
		at := func(seq uint64, by time.Time) group.IdentityAt {
			return group.IdentityAt{Inbox: n.inbox, Sequence: seq, By: by}
		}
		exact := func(need group.IdentityAt) bool {
			_, is := d.asOf(need.Inbox, need.Sequence, need.By)
			return is
		}
		behind := time.Now().Add(-time.Hour) // the log's clock, which is not this host's
		for name, c := range map[string]struct {
			need group.IdentityAt
			want time.Duration
		}{
			"one that is there":               {at(10, behind), 0},
			"a gap that nothing can fill":     {at(9, behind), 0},
			"one that nobody cited at a time": {at(20, time.Time{}), 0},
			"one that may come":               {at(20, behind), identity.Settled},
		} {
			if got := resolve(c.need); got != c.want {
				t.Errorf("%s is waited for for %v, not %v", name, got, c.want)
			}
		}
		if got := resolve(at(20, behind.Add(time.Second))); got > time.Second {
			t.Errorf("waits beside each other take %v", got)
		}
		d.clock.saw(behind.Add(time.Minute))
		if got := resolve(at(20, behind.Add(50*time.Second))); got != 0 {
			t.Errorf("by what was read it is late enough, and it takes %v", got)
		}

		now := at(20, time.Now())
		soon := time.AfterFunc(time.Second, func() { n.add(t) })
		defer soon.Stop()
		if resolve(now); !exact(now) {
			t.Error("an update that came in time does not count")
		}
		n.add(t)
		if late := at(30, now.By); resolve(late) != 0 || exact(late) {
			t.Error("an update that came too late counts")
		}
	})
}
