package identity_test

import (
	"errors"
	"testing"

	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/proto/associations"
)

// S01: one wallet's inbox lists exactly the installations that it signed for.
// S02: each has its own key.
func TestTwoInstallationsOfOneWallet(t *testing.T) {
	w := newWorld(t)
	s := apply(t, w.state, sign(t, w.draft().Add(w.a2.id, w.w1.Identifier()), w.w1, w.a2))
	got := s.Installations()
	if len(got) != 2 || got[0].ID != w.a1.id || got[1].ID != w.a2.id || w.a1.id == w.a2.id {
		t.Errorf("installations = %v", got)
	}
	for _, m := range got {
		if m.AddedBy != w.w1.Identifier() {
			t.Errorf("%s was added by %s", m.ID, m.AddedBy)
		}
	}
	if s.Recovery() != w.w1.Identifier() || s.InboxID() != w.inbox {
		t.Errorf("recovery %s, inbox %s", s.Recovery(), s.InboxID())
	}
}

// S15: a second wallet is linked by an installation and its own signature, and
// unlinked by the recovery wallet.
func TestSecondWallet(t *testing.T) {
	w := newWorld(t)
	linked := apply(t, w.state, sign(t, w.draft().Add(w.w2.Identifier(), w.a1.id), w.w2, w.a1))
	if added, removed := identity.Diff(w.state, linked); len(added) != 1 || added[0] != w.w2.Identifier() || removed != nil {
		t.Errorf("diff = +%v -%v", added, removed)
	}
	byW2 := apply(t, linked, sign(t, w.draft().Add(w.a2.id, w.w2.Identifier()), w.w2, w.a2))
	if !byW2.Has(w.a2.id) {
		t.Fatal("the second wallet could not add an installation")
	}
	unlinked := apply(t, byW2, sign(t, w.draft().Revoke(w.w2.Identifier(), w.w1.Identifier()), w.w1))
	if unlinked.Has(w.w2.Identifier()) || unlinked.Has(w.a2.id) || !unlinked.Has(w.a1.id) {
		t.Error("revoking a wallet removes it and the installations it added, and nothing else")
	}
	if !byW2.Has(w.w2.Identifier()) {
		t.Error("the older state changed")
	}
}

func TestRevokingAnInstallationKeepsTheWalletItAdded(t *testing.T) {
	w := newWorld(t)
	s := apply(t, w.state, sign(t, w.draft().Add(w.w2.Identifier(), w.a1.id), w.w2, w.a1))
	s = apply(t, s, sign(t, w.draft().Revoke(w.a1.id, w.w1.Identifier()), w.w1))
	if s.Has(w.a1.id) || !s.Has(w.w2.Identifier()) {
		t.Error("want the installation gone and the wallet kept")
	}
}

func TestRecoveryNeedNotBeAMember(t *testing.T) {
	w := newWorld(t)
	s := apply(t, w.state, sign(t, w.draft().ChangeRecovery(w.w3.Identifier(), w.w1.Identifier()), w.w1))
	if s.Has(w.w3.Identifier()) || s.Recovery() != w.w3.Identifier() {
		t.Fatal("want a recovery identifier outside the inbox")
	}
	s = apply(t, s, sign(t, w.draft().Add(w.a2.id, w.w3.Identifier()), w.w3, w.a2))
	s = apply(t, s, sign(t, w.draft().Revoke(w.w1.Identifier(), w.w3.Identifier()), w.w3))
	if s.Has(w.w1.Identifier()) || s.Has(w.a1.id) || !s.Has(w.a2.id) {
		t.Error("recovery adds and revokes")
	}
}

// Each rule has its own error, and a refused update leaves the state as it was.
func TestEveryRuleRefuses(t *testing.T) {
	w := newWorld(t)
	id1, id2, id3 := w.w1.Identifier(), w.w2.Identifier(), w.w3.Identifier()
	tests := map[string]struct {
		update *associations.IdentityUpdate
		on     *identity.State
		want   error
	}{
		"create twice":                                     {w.first, w.state, identity.ErrMultipleCreate},
		"nothing to add to":                                {sign(t, w.draft().Add(w.a2.id, id1), w.w1, w.a2), nil, identity.ErrNotCreated},
		"nothing to revoke from":                           {sign(t, w.draft().Revoke(w.a1.id, id1), w.w1), nil, identity.ErrNotCreated},
		"nothing at all":                                   {&associations.IdentityUpdate{InboxId: w.inbox}, nil, identity.ErrNotCreated},
		"stranger adds":                                    {sign(t, w.draft().Add(w.a2.id, id2), w.w2, w.a2), w.state, identity.ErrNotMember},
		"unknown installation adds":                        {sign(t, w.draft().Add(id2, w.a2.id), w.w2, w.a2), w.state, identity.ErrNotMember},
		"installation adds one":                            {sign(t, w.draft().Add(w.a2.id, w.a1.id), w.a1, w.a2), w.state, identity.ErrInstallationAdds},
		"adds itself":                                      {sign(t, w.draft().Add(id1, id1), w.w1), w.state, identity.ErrSelfAdd},
		"stranger revokes":                                 {sign(t, w.draft().Revoke(w.a1.id, id2), w.w2), w.state, identity.ErrNotRecovery},
		"installation revokes":                             {sign(t, w.draft().Revoke(id1, w.a1.id), w.a1), w.state, identity.ErrNotRecovery},
		"I7: a stolen installation key takes recovery":     {sign(t, w.draft().ChangeRecovery(id3, w.a1.id), w.a1), w.state, identity.ErrNotRecovery},
		"I7: a second wallet takes recovery":               {sign(t, w.draft().ChangeRecovery(id2, id2), w.w2), apply(t, w.state, sign(t, w.draft().Add(id2, w.a1.id), w.w2, w.a1)), identity.ErrNotRecovery},
		"I8: text and signatures are for another inbox":    {sign(t, identity.NewDraft(inboxOf(t, id2), start).Add(w.a2.id, id1), w.w1, w.a2), w.state, identity.ErrWrongInbox},
		"I8: create names an inbox that is not its own":    {sign(t, identity.NewDraft(inboxOf(t, id2), start).CreateInbox(id1, 1), w.w1), nil, identity.ErrWrongInbox},
		"the second action is bad, so the first is undone": {sign(t, w.draft().Add(w.a2.id, id1).Revoke(w.a1.id, id2), w.w1, w.w2, w.a2), w.state, identity.ErrNotRecovery},
		"new member's place signed by another": {edit(sign(t, w.draft().Add(w.a2.id, id1), w.w1, w.a2), func(u *associations.IdentityUpdate) {
			add := u.Actions[0].GetAdd()
			add.NewMemberSignature = add.ExistingMemberSignature
		}), w.state, identity.ErrWrongSigner},
		"owner's place signed by another": {edit(w.first, func(u *associations.IdentityUpdate) {
			u.Actions[0].GetCreateInbox().InitialIdentifierSignature = u.Actions[1].GetAdd().NewMemberSignature
		}), nil, identity.ErrWrongSigner},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			next, err := tt.on.Apply(verify(t, tt.update))
			if !errors.Is(err, tt.want) || next != nil {
				t.Errorf("err = %v, want %v", err, tt.want)
			}
			if w.state.Has(w.a2.id) || !w.state.Has(w.a1.id) || w.state.SeenCount() != 2 {
				t.Error("the state changed")
			}
		})
	}
}

func inboxOf(t *testing.T, owner identity.Identifier) string {
	id, err := identity.InboxID(owner, identity.DefaultNonce)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// What is not well formed is refused before any rule is asked.
func TestMalformedUpdates(t *testing.T) {
	w := newWorld(t)
	revocation := sign(t, w.draft().Revoke(w.w1.Identifier(), w.w1.Identifier()), w.w1)
	tests := map[string]struct {
		change func(*associations.IdentityUpdate)
		want   error
	}{
		"no inbox id":    {func(u *associations.IdentityUpdate) { u.InboxId = "" }, identity.ErrBadInboxID},
		"year 2554":      {func(u *associations.IdentityUpdate) { u.ClientTimestampNs = 1<<64 - 1 }, identity.ErrMalformed},
		"empty action":   {func(u *associations.IdentityUpdate) { u.Actions[0].Kind = nil }, identity.ErrMalformed},
		"no signature":   {func(u *associations.IdentityUpdate) { u.Actions[0].GetRevoke().RecoveryIdentifierSignature = nil }, identity.ErrMalformed},
		"no member":      {func(u *associations.IdentityUpdate) { u.Actions[0].GetRevoke().MemberToRevoke = nil }, identity.ErrMalformed},
		"257 actions":    {func(u *associations.IdentityUpdate) { u.Actions = make([]*associations.IdentityAction, 257) }, identity.ErrMalformed},
		"I8: upper case": {func(u *associations.IdentityUpdate) { setRevoked(u, "0x5AAEB6053F3E94C9B9A09F33669435E7EF1BEAED") }, identity.ErrBadAddress},
		"I8: short":      {func(u *associations.IdentityUpdate) { setRevoked(u, "0x5aaeb6053f3e94c9b9a09f33669435e7ef1bea") }, identity.ErrBadAddress},
	}
	for name, tt := range tests {
		if _, err := identity.Verify(edit(revocation, tt.change), ethereum.Verifier{}); !errors.Is(err, tt.want) {
			t.Errorf("%s: err = %v, want %v", name, err, tt.want)
		}
	}
	if _, err := identity.Decode(make([]byte, identity.MaxUpdateSize+1)); !errors.Is(err, identity.ErrMalformed) {
		t.Errorf("over the size limit: %v", err)
	}
}

func setRevoked(u *associations.IdentityUpdate, address string) {
	u.Actions[0].GetRevoke().MemberToRevoke.Kind = &associations.MemberIdentifier_EthereumAddress{EthereumAddress: address}
}

// confused is a Verifier that recovers an installation from a wallet's signature.
type confused struct {
	ethereum.Verifier
	who identity.Identifier
}

func (c confused) RecoverEOA(string, []byte) (identity.Identifier, []byte, error) {
	return c.who, []byte("x"), nil
}

// Role and kind fit: a wallet's signature never speaks for an installation.
func TestSignatureKindMustFit(t *testing.T) {
	w := newWorld(t)
	if _, err := identity.Verify(w.first, confused{who: w.a1.id}); !errors.Is(err, identity.ErrSignatureKind) {
		t.Errorf("err = %v", err)
	}
}
