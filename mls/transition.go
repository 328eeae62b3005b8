package mls

import "bytes"

// A transition is the public outcome of a valid commit: all that does not need
// a secret, so that the members of a realm compute it once. It is immutable.
type transition struct {
	*change
	committer   LeafIndex // in the new tree
	path        *UpdatePath
	steps       []pathStep // of path
	pathContext []byte     // provisional group context; RFC 9420, Section 12.4.1
	next        *publicState
}

// transition validates a commit whose signature has been verified, as far as
// its bytes allow, and computes the next state: RFC 9420, Section 12.4.2. The
// confirmation tag is still to be verified by each member.
func (s *publicState) transition(realm *Realm, a *authenticatedContent, list []StagedProposal) (*transition, error) {
	c, err := s.apply(realm, a.sender, list)
	if err != nil {
		return nil, err
	}
	t := &transition{change: c, committer: a.sender.leaf(), path: a.commit.path}
	after := c.tree
	if t.path == nil {
		if needsPath(list) {
			return nil, errPathMissing
		}
	} else if after, err = s.merge(realm, a, t); err != nil {
		return nil, err
	}
	if err := t.checkTree(after, s.tree); err != nil {
		return nil, err
	}
	t.next = s.successor(a, t.change, after).confirmed(after, a.confirmationTag)
	return t, nil
}

// merge checks and merges the commit's path.
func (s *publicState) merge(realm *Realm, a *authenticatedContent, t *transition) (*tree, error) {
	suite, before := s.context.CipherSuite, t.tree
	if a.sender.Type == SenderNewMemberCommit {
		var err error
		if before, t.committer, err = before.withVacancy(); err != nil {
			return nil, err
		}
		// A joiner that replaces an old self brings a new key, as in an Update.
		for _, i := range t.removed {
			if old, _ := s.tree.member(i); bytes.Equal(old.EncryptionKey, t.path.leaf.EncryptionKey) {
				return nil, errEncryptionKeyTaken
			}
		}
	}
	leaf := t.path.leaf
	if leaf.Source != SourceCommit {
		return nil, errLeafSource
	}
	if err := leaf.verify(realm, suite, s.context.GroupID, t.committer); err != nil {
		return nil, err
	}
	after, steps, err := before.mergePath(t.committer, t.path, t.added)
	if err != nil {
		return nil, err
	}
	t.steps = steps
	t.pathContext = s.provisional(t.change, after).append(nil)
	return after, nil
}

// checkTree checks the leaves that are new against the group.
func (t *transition) checkTree(after, before *tree) error {
	leaves := t.leaves
	if t.path != nil {
		leaves = append(leaves[:len(leaves):len(leaves)], t.committer)
	}
	return after.checkLeaves(leaves, t.requirements, before)
}

// provisional is the group context to which path secrets are encrypted: the new
// one, but for the transcript hash, which is the old one.
func (s *publicState) provisional(c *change, after *tree) *GroupContext {
	return &GroupContext{
		CipherSuite:             s.context.CipherSuite,
		GroupID:                 s.context.GroupID,
		Epoch:                   s.context.Epoch + 1,
		TreeHash:                after.hash(),
		ConfirmedTranscriptHash: s.context.ConfirmedTranscriptHash,
		Extensions:              c.extensions,
	}
}

// successor is the group context after a commit.
func (s *publicState) successor(a *authenticatedContent, c *change, after *tree) *GroupContext {
	next := s.provisional(c, after)
	next.ConfirmedTranscriptHash = a.confirmedTranscriptHash(s.context.CipherSuite, s.interim)
	return next
}

// confirmed is the state of a context that a commit's confirmation tag, which
// is in the interim transcript hash, confirms.
func (c *GroupContext) confirmed(t *tree, confirmationTag []byte) *publicState {
	return newPublicState(c, t, c.CipherSuite.interimTranscriptHash(c.ConfirmedTranscriptHash, confirmationTag))
}
