package node_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/identityapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// A network is a bus with a node on it, and a client.
type network struct {
	*memory.Bus
	*node.Client
	node *node.Node
}

func newNetwork(t testing.TB, c memory.Config, limits node.Limits) *network {
	t.Helper()
	if c.Now == nil {
		c.Now = func() time.Time { return now }
	}
	return serveOn(t, memory.New(c), nil, limits)
}

// serveOn starts one more node on a bus; wrap, where given, stands between them.
func serveOn(t testing.TB, b *memory.Bus, wrap func(bus.Bus) bus.Bus, limits node.Limits) *network {
	t.Helper()
	var under bus.Bus = b
	if wrap != nil {
		under = wrap(b)
	}
	n, err := node.Serve(t.Context(), under, node.Config{
		Verifier: ethereum.Verifier{}, Now: func() time.Time { return now }, Limits: limits,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Close()
		b.Close()
	})
	return &network{b, node.NewClient(b), n}
}

// A person has a wallet, one installation and an inbox.
type person struct {
	wallet *ethereum.Key
	app    ed25519.PrivateKey
	appID  identity.Identifier
	inbox  string
}

func newApp(t testing.TB) (ed25519.PrivateKey, identity.Identifier) {
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

func newPerson(t testing.TB) *person {
	t.Helper()
	w, err := ethereum.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	p := &person{wallet: w}
	p.app, p.appID = newApp(t)
	if p.inbox, err = identity.InboxID(w.Identifier(), identity.DefaultNonce); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *person) id() identity.Identifier { return p.wallet.Identifier() }

// registration is the update that makes the inbox.
func (p *person) registration(t testing.TB) *associations.IdentityUpdate {
	t.Helper()
	d, err := identity.Register(p.id(), identity.DefaultNonce, p.appID, now)
	if err != nil {
		t.Fatal(err)
	}
	return sign(t, d, p.wallet, p.app)
}

func (p *person) draft() *identity.Draft { return identity.NewDraft(p.inbox, now.Add(time.Second)) }

func sign(t testing.TB, d *identity.Draft, signers ...any) *associations.IdentityUpdate {
	t.Helper()
	for _, s := range signers {
		var err error
		switch s := s.(type) {
		case *ethereum.Key:
			err = d.Sign(s)
		case ed25519.PrivateKey:
			err = d.SignInstallation(s)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	u, err := d.Update()
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// keyPackage makes a key package at a time.
func (p *person) keyPackage(t testing.TB, at time.Time) []byte {
	t.Helper()
	signer, err := mls.NewSigner(mls.MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519, p.app.Seed())
	if err != nil {
		t.Fatal(err)
	}
	kp, _, err := group.NewKeyPackage(group.KeyPackageConfig{Rand: rand.Reader, Signer: signer, Inbox: p.inbox, Now: at})
	if err != nil {
		t.Fatal(err)
	}
	return kp.MLS.Bytes()
}

func (n *network) publish(t testing.TB, u *associations.IdentityUpdate) {
	t.Helper()
	if err := n.PublishIdentityUpdate(t.Context(), u); err != nil {
		t.Fatal(err)
	}
}

// updates returns an inbox's log after a sequence id.
func (n *network) updates(t testing.TB, inbox string, after uint64) []*identityapi.GetIdentityUpdatesResponse_IdentityUpdateLog {
	t.Helper()
	r, err := n.GetIdentityUpdates(t.Context(), &identityapi.GetIdentityUpdatesRequest{
		Requests: []*identityapi.GetIdentityUpdatesRequest_Request{{InboxId: inbox, SequenceId: after}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetResponses()[0].GetUpdates()
}

// inboxOf looks one identifier up.
func (n *network) inboxOf(t testing.TB, id identity.Identifier) string {
	t.Helper()
	m, err := n.GetInboxIDs(t.Context(), []identity.Identifier{id})
	if err != nil {
		t.Fatal(err)
	}
	return m[id]
}

func wantCode(t testing.TB, err error, code string) {
	t.Helper()
	var refused *bus.ServiceError
	if !errors.As(err, &refused) || refused.Code != code {
		t.Errorf("err = %v, want code %s", err, code)
	}
}

// A faulty bus lets a test decide what happens to a publish.
type faulty struct {
	bus.Bus
	publish func(ctx context.Context, topic bus.Topic, payload []byte, opts ...bus.PublishOption) (bus.Ack, error)
}

func (f *faulty) Publish(ctx context.Context, topic bus.Topic, payload []byte, opts ...bus.PublishOption) (bus.Ack, error) {
	return f.publish(ctx, topic, payload, opts...)
}
