package mls

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

// A StagedCommit is a valid commit that has not been merged: the next epoch,
// ready to enter. It is immutable.
type StagedCommit struct {
	*transition
	from    *publicState
	own     bool // made by this member
	aad     []byte
	message []byte // own only
	welcome []byte // own only
	sent    *Group // own only: the group after it sent the commit

	// The next epoch, unless the commit removes this member or is that of an
	// OwnMessageError or a PathError.
	ownLeaf LeafIndex
	entered epoch
	keys    *pathKeys

	private *stagedSecrets // own only
}

// stagedSecrets is what it takes, besides a commit's message, to stage an own
// commit again after a restart.
type stagedSecrets struct {
	content *authenticatedContent
	commit  secret
	psk     secret
}

// Format prints which epoch the commit begins.
func (s StagedCommit) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "StagedCommit(%x epoch %d)", s.next.context.GroupID, s.next.context.Epoch)
}

// Committer returns the committer's place in the new tree.
func (s *StagedCommit) Committer() LeafIndex { return s.committer }

// External reports whether the committer joins by this commit.
func (s *StagedCommit) External() bool { return s.externalInit != nil }

// Own reports whether this member made the commit.
func (s *StagedCommit) Own() bool { return s.own }

// AAD returns the commit's authenticated data.
func (s *StagedCommit) AAD() []byte { return s.aad }

// Proposals returns what the commit applies, in its order.
func (s *StagedCommit) Proposals() []StagedProposal { return slices.Clone(s.list) }

// HasPath reports whether the committer has renewed its keys.
func (s *StagedCommit) HasPath() bool { return s.path != nil }

// Added returns the places of the members that Adds brought in, in the new tree.
func (s *StagedCommit) Added() []LeafIndex { return slices.Clone(s.added) }

// Removed returns the places, in the old tree, of the members that are gone.
func (s *StagedCommit) Removed() []LeafIndex { return slices.Clone(s.removed) }

// SelfRemoved reports whether this member is among Removed.
func (s *StagedCommit) SelfRemoved() bool {
	return s.keys == nil && slices.Contains(s.removed, s.ownLeaf)
}

// Epoch returns the number of the epoch that the commit begins.
func (s *StagedCommit) Epoch() uint64 { return s.next.context.Epoch }

// Context returns the group context of the epoch that the commit begins.
func (s *StagedCommit) Context() *GroupContext { return s.next.context }

// PathLeaf returns the committer's new leaf, nil without a path.
func (s *StagedCommit) PathLeaf() *LeafNode {
	if s.path == nil {
		return nil
	}
	return s.path.leaf
}

// Leaf returns the member at i in the new tree.
func (s *StagedCommit) Leaf(i LeafIndex) (*LeafNode, bool) { return s.next.tree.member(i) }

// EpochAuthenticator returns that of the new epoch, nil if this member has no
// part in it.
func (s *StagedCommit) EpochAuthenticator() []byte {
	if s.keys == nil {
		return nil
	}
	return slices.Clone(s.entered.secrets.authenticator)
}

// Message returns an own commit as an MLSMessage.
func (s *StagedCommit) Message() []byte { return s.message }

// Welcome returns the Welcome (an MLSMessage) for all whom an own commit adds;
// nil if it adds nobody.
func (s *StagedCommit) Welcome() []byte { return s.welcome }

// Sent returns the group after it has sent an own commit: in the same epoch,
// with one more generation used. Who may make a second commit in this epoch goes
// on with it, so that no two use one key.
func (s *StagedCommit) Sent() *Group { return s.sent }

// stage processes a verified commit: RFC 9420, Section 12.4.2.
func (g *Group) stage(a *authenticatedContent, id contentID) (*StagedCommit, error) {
	s, err := g.stagePublic(a, id)
	if err != nil {
		return nil, err
	}
	t := s.transition
	if slices.Contains(t.removed, g.own) {
		return s, nil
	}
	initSecret := g.secrets.init
	if t.externalInit != nil {
		if initSecret, err = g.secrets.decapsulateInit(t.externalInit.KEMOutput); err != nil {
			return nil, err
		}
	}
	psks, err := g.findPSKs(t.psks)
	if err != nil {
		return nil, err
	}
	keys, commitSecret, err := g.openPath(t)
	if errors.Is(err, ErrCannotDecryptPath) {
		return nil, &PathError{Commit: s, cause: err}
	}
	if err != nil {
		return nil, err
	}
	s.keys = keys
	if s.entered, err = t.enter(initSecret, commitSecret, g.Suite().pskSecret(psks), a.confirmationTag); err != nil {
		return nil, err
	}
	return s, nil
}

// enter derives the epoch that a commit leads to, and checks that the commit's
// confirmation tag is of that epoch.
func (t *transition) enter(init, commit, psk secret, tag []byte) (epoch, error) {
	_, secrets, encryption := t.next.context.CipherSuite.nextEpochSecrets(init, commit, psk, t.next.encoded)
	if err := secrets.verifyConfirmationTag(t.next.context.ConfirmedTranscriptHash, tag); err != nil {
		return epoch{}, err
	}
	return newEpoch(t.next, secrets, encryption), nil
}

// stagePublic is what of a verified commit no secret is needed for.
func (g *Group) stagePublic(a *authenticatedContent, id contentID) (*StagedCommit, error) {
	list, err := a.commit.resolve(a.sender, g.queue)
	if err != nil {
		return nil, err
	}
	t, err := g.realm.transition(g.publicState, a, id, func() (*transition, error) {
		return g.publicState.transition(g.realm, a, list)
	})
	if err != nil {
		return nil, err
	}
	return &StagedCommit{transition: t, from: g.publicState, aad: a.aad, ownLeaf: g.own}, nil
}

// openPath returns this member's private keys after a commit, and its commit
// secret.
func (g *Group) openPath(t *transition) (*pathKeys, secret, error) {
	leafKey, err := g.leafKeyIn(t.next.tree)
	if err != nil {
		return nil, nil, err
	}
	keys := g.keys.carry(leafKey, g.tree, t.next.tree)
	if t.path == nil {
		return keys, g.Suite().zeroSecret(), nil
	}
	fresh, commitSecret, err := t.next.tree.openPath(g.own, keys, t.path, t.steps, t.added, t.pathContext)
	if errors.Is(err, ErrInvalid) {
		return nil, nil, fmt.Errorf("%w: %v", ErrCannotDecryptPath, err)
	}
	if err != nil {
		return nil, nil, err
	}
	keys.parents = append(keys.parents, fresh...)
	return keys, commitSecret, nil
}

// leafKeyIn finds the private key of this member's leaf in a new tree: the same
// as before, unless an own Update was committed.
func (g *Group) leafKeyIn(after *tree) (secret, error) {
	before, _ := g.tree.member(g.own)
	leaf, _ := after.member(g.own)
	if bytes.Equal(before.EncryptionKey, leaf.EncryptionKey) {
		return g.keys.leaf, nil
	}
	for _, q := range g.queue {
		if u, ok := q.Proposal.(Update); ok && q.leafKey != nil && bytes.Equal(u.LeafNode.EncryptionKey, leaf.EncryptionKey) {
			return q.leafKey, nil
		}
	}
	return nil, fmt.Errorf("%w: no private key for the own leaf", ErrCannotDecryptPath)
}

// Merge enters the epoch of a staged commit. It is the only way into one. If
// the commit removes this member, or closes the group by a ReInit, the result
// is not active.
func (g *Group) Merge(s *StagedCommit) (*Group, error) {
	if s.from.id != g.id {
		return g, &EpochError{Got: s.from.context.Epoch, Want: g.Epoch()}
	}
	next := *g
	next.queue = nil
	if s.SelfRemoved() {
		next.active, next.keys = false, nil
		return &next, nil
	}
	if s.keys == nil {
		if s.committer == s.ownLeaf {
			return g, fmt.Errorf("%w: a copy of this member made it", ErrCannotDecryptPath)
		}
		return g, ErrCannotDecryptPath
	}
	next.own, next.keys, next.epoch = s.ownLeaf, s.keys, s.entered
	next.active = s.reInit == nil
	if g.secrets != nil { // nil in an outsider that joins by s
		last := g.epoch
		last.secrets = g.secrets.past()
		next.past = append([]epoch{last}, g.past[:min(len(g.past), keepEpochs-1)]...)
		next.lineage = next.lineage.after(last.lineage, next.Epoch())
	}
	return &next, nil
}

// past is what of an epoch's secrets is needed after it: to open late messages,
// and as a resumption PSK.
func (e *epochSecrets) past() *epochSecrets {
	return &epochSecrets{suite: e.suite, senderData: e.senderData, resumption: e.resumption}
}
