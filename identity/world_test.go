package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/proto/associations"
)

var start = time.Date(2026, 11, 22, 22, 1, 18, 715_283_893, time.UTC)

// wallet returns a wallet that is the same in every run.
func wallet(t testing.TB, name string) *ethereum.Key {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	k, err := ethereum.ParseKey(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// app is an installation that is the same in every run.
type app struct {
	key ed25519.PrivateKey
	id  identity.Identifier
}

func installation(t testing.TB, name string) app {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	key := ed25519.NewKeyFromSeed(seed[:])
	id, err := identity.InstallationFrom(key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return app{key, id}
}

// sign lets everybody sign a draft and returns the update.
func sign(t testing.TB, d *identity.Draft, signers ...any) *associations.IdentityUpdate {
	t.Helper()
	for _, s := range signers {
		var err error
		switch s := s.(type) {
		case *ethereum.Key:
			err = d.Sign(s)
		case app:
			err = d.SignInstallation(s.key)
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

func verify(t testing.TB, u *associations.IdentityUpdate) identity.Verified {
	t.Helper()
	v, err := identity.Verify(u, ethereum.Verifier{})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func apply(t testing.TB, s *identity.State, u *associations.IdentityUpdate) *identity.State {
	t.Helper()
	next, err := s.Apply(verify(t, u))
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// A world is one inbox of one wallet and one installation, and some strangers.
type world struct {
	w1, w2, w3 *ethereum.Key
	a1, a2     app
	inbox      string
	first      *associations.IdentityUpdate
	state      *identity.State
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		w1: wallet(t, "w1"), w2: wallet(t, "w2"), w3: wallet(t, "w3"),
		a1: installation(t, "a1"), a2: installation(t, "a2"),
	}
	d, err := identity.Register(w.w1.Identifier(), identity.DefaultNonce, w.a1.id, start)
	if err != nil {
		t.Fatal(err)
	}
	w.first = sign(t, d, w.w1, w.a1)
	w.inbox = w.first.GetInboxId()
	w.state = apply(t, nil, w.first)
	return w
}

// draft starts an update of the world's inbox, one second after the first.
func (w *world) draft() *identity.Draft {
	return identity.NewDraft(w.inbox, start.Add(time.Second))
}

// edit returns a copy of u that f has changed.
func edit(u *associations.IdentityUpdate, f func(*associations.IdentityUpdate)) *associations.IdentityUpdate {
	c := proto.CloneOf(u)
	f(c)
	return c
}

// respell returns u with every wallet signature spelled by f.
func respell(u *associations.IdentityUpdate, f func([]byte) []byte) *associations.IdentityUpdate {
	return edit(u, func(u *associations.IdentityUpdate) {
		for _, a := range u.Actions {
			for _, s := range []*associations.Signature{
				a.GetCreateInbox().GetInitialIdentifierSignature(), a.GetAdd().GetExistingMemberSignature(),
				a.GetAdd().GetNewMemberSignature(), a.GetRevoke().GetRecoveryIdentifierSignature(),
				a.GetChangeRecoveryAddress().GetExistingRecoveryIdentifierSignature(),
			} {
				if e := s.GetErc_191(); e != nil {
					e.Bytes = f(bytes.Clone(e.Bytes))
				}
			}
		}
	})
}
