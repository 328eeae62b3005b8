package chaintest_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"go.uber.org/goleak"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/node"
	memstore "github.com/conclave-chat/conclave/persistence/memory"
	"github.com/conclave-chat/conclave/proto/associations"
)

// An inbox that a contract owns, with one installation.
type contractInbox struct {
	address identity.Identifier
	inbox   string
	app     ed25519.PrivateKey
	appID   identity.Identifier
}

func newContractInbox(t *testing.T, wallet common.Address) *contractInbox {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &contractInbox{address: identity.AddressFrom(wallet), app: private}
	if i.appID, err = identity.InstallationFrom(public); err != nil {
		t.Fatal(err)
	}
	if i.inbox, err = identity.InboxID(i.address, identity.DefaultNonce); err != nil {
		t.Fatal(err)
	}
	return i
}

// update signs a draft with the installation where it is asked, and as the
// contract, with whatever wrap makes of its owner's signature.
func (i *contractInbox) update(t *testing.T, d *identity.Draft, owner *ethereum.Key, block uint64, wrap func([]byte) []byte) *associations.IdentityUpdate {
	t.Helper()
	text, err := d.Text()
	if err != nil {
		t.Fatal(err)
	}
	err = d.Attach(i.address, &associations.Signature{Signature: &associations.Signature_Erc_6492{Erc_6492: &associations.SmartContractWalletSignature{
		AccountId:   identity.Account{Chain: chainID, Address: i.address}.String(),
		BlockNumber: block,
		Signature:   wrap(signed(t, owner, text)),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SignInstallation(i.app); err != nil && !errors.Is(err, identity.ErrNotAsked) {
		t.Fatal(err)
	}
	u, err := d.Update()
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (i *contractInbox) register(t *testing.T) *identity.Draft {
	t.Helper()
	d, err := identity.Register(i.address, identity.DefaultNonce, i.appID, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (i *contractInbox) keyPackage(t *testing.T) []byte {
	t.Helper()
	signer, err := mls.NewSigner(mls.MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519, i.app.Seed())
	if err != nil {
		t.Fatal(err)
	}
	kp, _, err := group.NewKeyPackage(group.KeyPackageConfig{Rand: rand.Reader, Signer: signer, Inbox: i.inbox, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return kp.MLS.Bytes()
}

// A wallet that is not even deployed registers an inbox on a node, which asks the
// chain. A host that has no chain lets the node verify what it reads, and has the
// contract's inbox in a group; one with a chain of its own asks that.
func TestContractInboxOnTheNetwork(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := newChain(t)
	owner := newKey(t)
	factory, at := c.deploy("Factory")
	f := c.future(factory, owner)

	log := memory.New(memory.Config{})
	defer log.Close()
	n, err := node.Serve(ctx, log, node.Config{Verifier: ethereum.Verifier{Chain: c.chains()}})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	client := node.NewClient(log)

	wallet := newContractInbox(t, f.address)
	if err := client.UploadKeyPackage(ctx, wallet.keyPackage(t)); err != nil {
		t.Fatal(err)
	}
	wrap := func(sig []byte) []byte { return f.wrap(t, sig) }
	for name, forged := range map[string]*associations.IdentityUpdate{
		"a stranger's": wallet.update(t, wallet.register(t), newKey(t), at, wrap),
		"bare":         wallet.update(t, wallet.register(t), owner, at, func(sig []byte) []byte { return sig }),
	} {
		if err := client.PublishIdentityUpdate(ctx, forged); err == nil {
			t.Errorf("%s: registered", name)
		}
	}
	if err := client.PublishIdentityUpdate(ctx, wallet.update(t, wallet.register(t), owner, at, wrap)); err != nil {
		t.Fatal(err)
	}
	found, err := client.GetInboxIDs(ctx, []identity.Identifier{wallet.address})
	if err != nil || found[wallet.address] != wallet.inbox {
		t.Fatalf("looked up %v, %v", found, err)
	}

	for name, chains := range map[string]map[uint64]string{"the node's chain": nil, "a chain of its own": {chainID: c.url}} {
		host, err := conclave.Open(ctx, conclave.Config{Bus: log, Store: memstore.New(), Chains: chains})
		if err != nil {
			t.Fatal(err)
		}
		before := c.calls.Load()
		state, err := host.InboxState(ctx, wallet.inbox)
		if err != nil || len(state.Addresses) != 1 || state.Addresses[0] != wallet.address.String() || len(state.Installations) != 1 {
			t.Errorf("by %s: %v, %v", name, state, err)
		}
		// The node has verified this before; a host of its own asks for itself.
		if asked := c.calls.Load() - before; asked != int64(len(chains)) {
			t.Errorf("by %s: the chain was asked %d times", name, asked)
		}
		alix, err := host.CreateClient(ctx, newKey(t), conclave.ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		g, err := alix.Conversations().NewGroup(ctx, []string{f.address.Hex()}, conclave.GroupOptions{})
		if err != nil {
			t.Fatalf("by %s: %v", name, err)
		}
		members, err := g.Members(ctx)
		if err != nil || len(members) != 2 {
			t.Errorf("by %s: members %v, %v", name, members, err)
		}
		if err := host.Close(ctx); err != nil {
			t.Error(err)
		}
	}

	// Deployed since, and its owner changed: the old updates stay, the new owner
	// writes the next.
	c.send(c.rich, &factory, 0, f.deploy)
	payer, next := addressOf(owner), newKey(t)
	c.send(c.rich, &payer, 1e18, nil)
	_, rotated := c.send(owner, &f.address, 0, call("setOwner(address)", word(addressOf(next))))
	revoke := func() *identity.Draft {
		return identity.NewDraft(wallet.inbox, time.Now()).Revoke(wallet.appID, wallet.address)
	}
	bare := func(sig []byte) []byte { return sig }
	if err := client.PublishIdentityUpdate(ctx, wallet.update(t, revoke(), owner, rotated, bare)); err == nil {
		t.Error("the former owner revoked")
	}
	if err := client.PublishIdentityUpdate(ctx, wallet.update(t, revoke(), next, rotated, bare)); err != nil {
		t.Errorf("the new owner: %v", err)
	}
}

func TestMain(m *testing.M) {
	// These a simulated chain leaves behind when it is closed.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/syndtr/goleveldb/leveldb.(*DB).mpoolDrain"),
		goleak.IgnoreAnyFunction("github.com/ethereum/go-ethereum/core.(*txSenderCacher).cache"))
}
