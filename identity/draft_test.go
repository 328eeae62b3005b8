package identity_test

import (
	"crypto/ed25519"
	"errors"
	"slices"
	"testing"

	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/proto/associations"
)

func TestDraftAsksEachSignerOnce(t *testing.T) {
	w := newWorld(t)
	d, err := identity.Register(w.w1.Identifier(), identity.DefaultNonce, w.a1.id, start)
	if err != nil {
		t.Fatal(err)
	}
	if got := d.Waiting(); !slices.Equal(got, []identity.Identifier{w.w1.Identifier(), w.a1.id}) {
		t.Errorf("waiting for %v", got)
	}
	asked := 0
	counting := identity.SignerFunc(w.w1.Address(), func(text string) ([]byte, error) {
		asked++
		return w.w1.SignMessage(text)
	})
	if err := d.Sign(counting); err != nil || asked != 1 {
		t.Errorf("asked %d times, %v", asked, err)
	}
	if _, err := d.Update(); !errors.Is(err, identity.ErrUnsigned) {
		t.Errorf("half signed: %v", err)
	}
	if err := d.Sign(w.w2); !errors.Is(err, identity.ErrNotAsked) {
		t.Errorf("a wallet that is not asked: %v", err)
	}
	if err := d.SignInstallation(w.a2.key); !errors.Is(err, identity.ErrNotAsked) {
		t.Errorf("an installation that is not asked: %v", err)
	}
	if err := d.SignInstallation(ed25519.PrivateKey{1}); !errors.Is(err, identity.ErrBadIdentifier) {
		t.Errorf("a key of one byte: %v", err)
	}
	if err := d.SignInstallation(w.a1.key); err != nil {
		t.Fatal(err)
	}
	u, err := d.Update()
	if err != nil {
		t.Fatal(err)
	}
	apply(t, nil, u)
}

func TestWalletThatRefuses(t *testing.T) {
	w := newWorld(t)
	refuses := errors.New("user said no")
	d := w.draft().Revoke(w.a1.id, w.w1.Identifier())
	err := d.Sign(identity.SignerFunc(w.w1.Address(), func(string) ([]byte, error) { return nil, refuses }))
	if !errors.Is(err, refuses) {
		t.Errorf("err = %v", err)
	}
	if err := d.Sign(identity.SignerFunc("0x12", w.w1.SignMessage)); !errors.Is(err, identity.ErrBadAddress) {
		t.Errorf("err = %v", err)
	}
}

// Bytes from outside never panic, and what is refused is refused by name.
func FuzzUpdate(f *testing.F) {
	w := newWorld(f)
	for _, u := range []*associations.IdentityUpdate{
		w.first,
		sign(f, w.draft().Add(w.w2.Identifier(), w.a1.id), w.w2, w.a1),
		sign(f, w.draft().Revoke(w.a1.id, w.w1.Identifier()).ChangeRecovery(w.w2.Identifier(), w.w1.Identifier()), w.w1),
		{},
	} {
		b, err := identity.Encode(u)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	before := w.state.SeenCount()
	f.Fuzz(func(t *testing.T, b []byte) {
		u, err := identity.Decode(b)
		if err != nil {
			if !errors.Is(err, identity.ErrMalformed) {
				t.Errorf("unnamed error: %v", err)
			}
			return
		}
		v, err := identity.Verify(u, ethereum.Verifier{})
		if err != nil {
			return
		}
		for _, s := range []*identity.State{nil, w.state} {
			next, err := s.Apply(v)
			if (err == nil) != (next != nil) {
				t.Errorf("state %v with error %v", next, err)
			}
			if err == nil && next.InboxID() != v.InboxID() {
				t.Errorf("state of inbox %s after an update of %s", next.InboxID(), v.InboxID())
			}
		}
		if w.state.SeenCount() != before || !w.state.Has(w.a1.id) {
			t.Error("a state changed")
		}
	})
}

// What one registration costs the node and each host that learns of it.
func BenchmarkVerifyAndFoldRegistration(b *testing.B) {
	w := newWorld(b)
	b.ReportAllocs()
	for b.Loop() {
		v, err := identity.Verify(w.first, ethereum.Verifier{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := identity.Fold(v); err != nil {
			b.Fatal(err)
		}
	}
}
