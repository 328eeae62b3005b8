package identity_test

import (
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/proto/associations"
)

// Every spelling of one wallet signature (I1).
var spellings = map[string]func([]byte) []byte{
	"as signed": func(b []byte) []byte { return b },
	"V from 0": func(b []byte) []byte {
		b[64] -= 27
		return b
	},
	"high-S twin": highS,
	"high-S twin, V from 0": func(b []byte) []byte {
		b = highS(b)
		b[64] -= 27
		return b
	},
	"ERC-2098": func(b []byte) []byte {
		b[32] |= (b[64] - 27) << 7
		return b[:64]
	},
}

func highS(b []byte) []byte {
	s := new(big.Int).SetBytes(b[32:64])
	s.Sub(crypto.S256().Params().N, s).FillBytes(b[32:64])
	b[64] = 27 + ((b[64] - 27) ^ 1)
	return b
}

// I1: an update that was applied is refused when it comes again, however its
// signatures are spelled. Fresh, each spelling is the same signature.
func TestReplaysAreRefusedInEverySpelling(t *testing.T) {
	w := newWorld(t)
	update := sign(t, w.draft().Revoke(w.a1.id, w.w1.Identifier()), w.w1)
	once := apply(t, w.state, update)
	for name, spell := range spellings {
		t.Run(name, func(t *testing.T) {
			twin := respell(update, spell)
			if s := apply(t, w.state, twin); s.Has(w.a1.id) || s.SeenCount() != once.SeenCount() {
				t.Error("fresh: want the same state as with the signature as signed")
			}
			if next, err := once.Apply(verify(t, twin)); !errors.Is(err, identity.ErrReplay) || next != nil {
				t.Errorf("replayed: err = %v, want ErrReplay", err)
			}
		})
	}
}

// I1: an installation's own signature and an added wallet's are used up as well.
func TestReplayOfConsentIsRefused(t *testing.T) {
	w := newWorld(t)
	id1, id2 := w.w1.Identifier(), w.w2.Identifier()
	link := sign(t, w.draft().Add(id2, w.a1.id), w.w2, w.a1)
	s := apply(t, w.state, link)
	s = apply(t, s, sign(t, w.draft().Revoke(id2, id1), w.w1))
	if _, err := s.Apply(verify(t, link)); !errors.Is(err, identity.ErrReplay) {
		t.Errorf("linking a revoked wallet again with its old consent: %v", err)
	}
}

// I1, I8: signatures made for one inbox or one text do not serve another.
func TestSignaturesAreBoundToTheirText(t *testing.T) {
	w := newWorld(t)
	update := sign(t, w.draft().Add(w.a2.id, w.w1.Identifier()), w.w1, w.a2)
	for name, change := range map[string]func(*associations.IdentityUpdate){
		"another inbox":  func(u *associations.IdentityUpdate) { u.InboxId = inboxOf(t, w.w2.Identifier()) },
		"another second": func(u *associations.IdentityUpdate) { u.ClientTimestampNs += 1e9 },
		"one action more": func(u *associations.IdentityUpdate) {
			u.Actions = append(u.Actions, u.Actions[0])
		},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := identity.Verify(edit(update, change), ethereum.Verifier{}); !errors.Is(err, identity.ErrBadSignature) {
				t.Errorf("err = %v, want ErrBadSignature (the installation's does not verify)", err)
			}
		})
	}
	// A wallet's signature over another text recovers somebody, but not the wallet.
	other := edit(sign(t, w.draft().Revoke(w.a1.id, w.w1.Identifier()), w.w1), func(u *associations.IdentityUpdate) {
		u.ClientTimestampNs += 1e9
	})
	if _, err := w.state.Apply(verify(t, other)); !errors.Is(err, identity.ErrNotRecovery) {
		t.Errorf("err = %v, want ErrNotRecovery", err)
	}
}

// One signature may serve several actions of its own update.
func TestOneSignatureServesOneUpdate(t *testing.T) {
	w := newWorld(t)
	s := apply(t, w.state, sign(t, w.draft().Add(w.a2.id, w.w1.Identifier()), w.w1, w.a2))
	s = apply(t, s, sign(t, w.draft().Revoke(w.a1.id, w.w1.Identifier()).Revoke(w.a2.id, w.w1.Identifier()), w.w1))
	if len(s.Installations()) != 0 {
		t.Error("want both installations revoked by one signature")
	}
}

func TestReorderedUpdatesAreRefused(t *testing.T) {
	w := newWorld(t)
	link := sign(t, w.draft().Add(w.w2.Identifier(), w.a1.id), w.w2, w.a1)
	byLinked := sign(t, w.draft().Add(w.a2.id, w.w2.Identifier()), w.w2, w.a2)
	if _, err := identity.Fold(verify(t, w.first), verify(t, link), verify(t, byLinked)); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Fold(verify(t, w.first), verify(t, byLinked), verify(t, link)); !errors.Is(err, identity.ErrNotMember) {
		t.Errorf("err = %v, want ErrNotMember", err)
	}
	if _, err := identity.Fold(verify(t, link), verify(t, w.first)); !errors.Is(err, identity.ErrNotCreated) {
		t.Errorf("err = %v, want ErrNotCreated", err)
	}
}

// One bad update breaks its inbox for good; the states before it stay.
func TestHistoryStopsAtABadUpdate(t *testing.T) {
	w := newWorld(t)
	var h identity.History
	if h.Latest() != nil || h.LatestID() != 0 {
		t.Error("an empty log has a state")
	}
	if err := h.Append(7, time.Unix(7, 0), verify(t, w.first)); err != nil {
		t.Fatal(err)
	}
	if err := h.Append(7, time.Unix(7, 0), verify(t, w.first)); err != nil || h.Len() != 1 {
		t.Errorf("the same entry read twice: %v", err)
	}
	bad := verify(t, sign(t, w.draft().Revoke(w.a1.id, w.w2.Identifier()), w.w2))
	good := verify(t, sign(t, w.draft().Add(w.a2.id, w.w1.Identifier()), w.w1, w.a2))
	if err := h.Append(8, time.Unix(8, 0), bad); !errors.Is(err, identity.ErrNotRecovery) {
		t.Errorf("err = %v", err)
	}
	if err := h.Append(9, time.Unix(9, 0), good); !errors.Is(err, identity.ErrNotRecovery) || h.Broken() == nil {
		t.Errorf("after the bad update: %v", err)
	}
	if s, ok := h.At(7); !ok || !s.Has(w.a1.id) {
		t.Error("the state before the bad update is gone")
	}
	if _, ok := h.At(9); ok {
		t.Error("a state after the bad update")
	}
}

// What was there at a time is the same whenever one asks, and clocks may differ a
// little. A log that tells no time has its updates at all times.
func TestAnUpdateCountsFromItsTimeOn(t *testing.T) {
	w := newWorld(t)
	var h, timeless identity.History
	at := time.Unix(1000, 0)
	u := verify(t, w.first)
	if err := errors.Join(h.Append(7, at, u), timeless.Append(7, time.Time{}, u)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		log  *identity.History
		seq  uint64
		by   time.Time
		want bool
	}{
		{&h, 7, at, true},
		{&h, 7, at.Add(time.Hour), true},
		{&h, 7, at.Add(-identity.ClockSkew), true},
		{&h, 7, at.Add(-identity.ClockSkew - 1), false},
		{&h, 7, time.Time{}, true}, // now
		{&h, 8, at, false},
		{&h, 6, at, false},
		{&timeless, 7, at.Add(-time.Hour), true},
	} {
		if _, got := c.log.AsOf(c.seq, c.by); got != c.want {
			t.Errorf("%d at %v: %v", c.seq, c.by, got)
		}
	}
}
