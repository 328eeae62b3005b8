package identity

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
)

// A State says who may act for an inbox. It is immutable and small: a few
// hundred bytes for an inbox of one wallet and one installation. A nil *State is
// the inbox before its first update.
type State struct {
	inbox    string
	recovery Identifier
	members  []Member    // in the order in which they were added
	seen     []replayKey // every signature that served an update
}

// A Member is one wallet, passkey or installation of an inbox.
type Member struct {
	ID      Identifier
	AddedBy Identifier // zero for the owner who created the inbox
	AddedAt uint64     // the client's time stamp in ns; 0 for that owner
	Chain   uint64     // the chain id of a smart contract wallet; otherwise 0
}

// InboxID returns the inbox's id.
func (s *State) InboxID() string { return s.inbox }

// Recovery returns the identifier that may revoke members and name its own
// successor. It need not be a member.
func (s *State) Recovery() Identifier { return s.recovery }

// Members yields the members in the order in which they were added.
func (s *State) Members() iter.Seq[Member] { return slices.Values(s.members) }

// Has reports whether id is a member.
func (s *State) Has(id Identifier) bool { return s != nil && s.find(id) != nil }

// Installations returns the members that are installations, oldest first.
func (s *State) Installations() []Member {
	var out []Member
	for _, m := range s.members {
		if m.ID.kind == Installation {
			out = append(out, m)
		}
	}
	slices.SortStableFunc(out, func(a, b Member) int { return cmp.Compare(a.AddedAt, b.AddedAt) })
	return out
}

// Diff returns who is a member after but not before, and the other way round.
// Either state may be nil.
func Diff(before, after *State) (added, removed []Identifier) {
	return missingFrom(before, after), missingFrom(after, before)
}

func missingFrom(s, other *State) (ids []Identifier) {
	if other == nil {
		return nil
	}
	for _, m := range other.members {
		if !s.Has(m.ID) {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// Fold applies updates to the inbox before its first update.
func Fold(updates ...Verified) (*State, error) {
	var s *State
	for _, u := range updates {
		var err error
		if s, err = s.Apply(u); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Apply returns the state after an update; s itself stays as it was. All actions
// apply in order, and one that breaks a rule fails the update.
func (s *State) Apply(u Verified) (*State, error) {
	var next *State
	if s != nil {
		next = &State{s.inbox, s.recovery, slices.Clone(s.members), s.seen}
	}
	for i, a := range u.actions {
		var err error
		if next, err = next.act(a, u.at); err != nil {
			return nil, fmt.Errorf("identity: apply action %d: %w", i+1, err)
		}
	}
	if next == nil {
		return nil, ErrNotCreated
	}
	if next.inbox != u.inbox {
		return nil, ErrWrongInbox
	}
	// Only now: one signature may serve several actions of its own update.
	seen := slices.Clone(s.signatures())
	for _, a := range u.actions {
		seen = remember(seen, a.by.key)
		if a.kind == add {
			seen = remember(seen, a.consent.key)
		}
	}
	next.seen = seen
	return next, nil
}

func (s *State) signatures() []replayKey {
	if s == nil {
		return nil
	}
	return s.seen
}

func remember(seen []replayKey, k replayKey) []replayKey {
	if slices.Contains(seen, k) {
		return seen
	}
	return append(seen, k)
}

// act applies one action to a state that nobody else holds.
func (s *State) act(a action, at uint64) (*State, error) {
	if a.kind == create {
		if s != nil {
			return nil, ErrMultipleCreate
		}
		return createInbox(a)
	}
	if s == nil {
		return nil, ErrNotCreated
	}
	if slices.Contains(s.seen, a.by.key) || a.kind == add && slices.Contains(s.seen, a.consent.key) {
		return nil, ErrReplay
	}
	switch a.kind {
	case add:
		return s, s.addMember(a, at)
	case revoke:
		if err := s.mustBeRecovery(a.by); err != nil {
			return nil, err
		}
		s.remove(a.subject)
		return s, nil
	default:
		if err := s.mustBeRecovery(a.by); err != nil {
			return nil, err
		}
		s.recovery = a.subject
		return s, nil
	}
}

func createInbox(a action) (*State, error) {
	if a.by.signer != a.subject {
		return nil, ErrWrongSigner
	}
	if a.by.kind == byLegacyKey && a.nonce != 0 {
		return nil, ErrLegacySignature
	}
	inbox, err := InboxID(a.subject, a.nonce)
	if err != nil {
		return nil, err
	}
	return &State{
		inbox:    inbox,
		recovery: a.subject,
		members:  []Member{{ID: a.subject, Chain: a.by.chain}},
	}, nil
}

func (s *State) addMember(a action, at uint64) error {
	if a.consent.signer != a.subject {
		return ErrWrongSigner
	}
	if a.consent.signer == a.by.signer {
		return ErrSelfAdd
	}
	if a.by.kind == byLegacyKey || a.consent.kind == byLegacyKey {
		// An existing signer that is an installation has no inbox id to compare.
		if id, err := InboxID(a.by.signer, 0); err == nil && id != s.inbox {
			return ErrLegacySignature
		}
	}
	if existing := s.find(a.by.signer); existing != nil {
		if existing.Chain != a.by.chain {
			return ErrChainMismatch
		}
	} else if a.by.signer != s.recovery {
		return ErrNotMember
	} else if a.by.kind == byLegacyKey {
		return ErrLegacySignature
	}
	if a.by.signer.kind == Installation && a.subject.kind == Installation {
		return ErrInstallationAdds
	}
	m := Member{ID: a.subject, AddedBy: a.by.signer, AddedAt: at, Chain: a.consent.chain}
	if existing := s.find(a.subject); existing != nil {
		*existing = m
		return nil
	}
	s.members = append(s.members, m)
	return nil
}

func (s *State) mustBeRecovery(by proof) error {
	if m := s.find(by.signer); m != nil && m.Chain != by.chain {
		return ErrChainMismatch
	}
	if by.kind == byLegacyKey {
		return ErrLegacySignature
	}
	if by.signer != s.recovery {
		return ErrNotRecovery
	}
	return nil
}

// remove drops a member and the installations that it added. Wallets that it
// added stay. Removing somebody who is no member changes nothing but that.
func (s *State) remove(id Identifier) {
	s.members = slices.DeleteFunc(s.members, func(m Member) bool {
		return m.ID == id || m.ID.kind == Installation && m.AddedBy == id
	})
}

func (s *State) find(id Identifier) *Member {
	for i := range s.members {
		if s.members[i].ID == id {
			return &s.members[i]
		}
	}
	return nil
}
