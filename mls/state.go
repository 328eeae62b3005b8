package mls

import "crypto/sha256"

// A publicState is what the members of an epoch agree on and what anyone may
// know: the group context, the ratchet tree under its tree hash, and the interim
// transcript hash. It is immutable, and shared by the members of a realm.
type publicState struct {
	context *GroupContext
	encoded []byte // context
	tree    *tree
	interim []byte // interim_transcript_hash
	id      stateID
}

// A stateID names a publicState by its content: the context binds the tree by
// its hash.
type stateID [sha256.Size]byte

func newPublicState(c *GroupContext, t *tree, interim []byte) *publicState {
	encoded := c.append(nil)
	return &publicState{
		context: c,
		encoded: encoded,
		tree:    t,
		interim: interim,
		id:      sha256.Sum256(appendVector(encoded[:len(encoded):len(encoded)], interim)),
	}
}

// signatureKey finds the key that belongs to a message's sender: RFC 9420,
// Section 6.1.
func (s *publicState) signatureKey(f *framedContent) ([]byte, error) {
	switch f.sender.Type {
	case SenderMember:
		leaf, ok := s.tree.member(f.sender.leaf())
		if !ok {
			return nil, errBlankLeaf
		}
		return leaf.SignatureKey, nil
	case SenderExternal:
		data, _ := s.context.Extensions.Get(ExtensionExternalSenders)
		list, err := ParseExternalSenders(data)
		if err != nil || uint64(f.sender.index) >= uint64(len(list)) {
			return nil, errExternalSender
		}
		return list[f.sender.index].SignatureKey, nil
	case SenderNewMemberProposal:
		if p, ok := f.proposal.(Add); ok {
			return p.KeyPackage.LeafNode.SignatureKey, nil
		}
	case SenderNewMemberCommit:
		if f.commit != nil && f.commit.path != nil {
			return f.commit.path.leaf.SignatureKey, nil
		}
	}
	return nil, errSenderContent
}
