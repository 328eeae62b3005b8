package mls

import (
	"fmt"
	"io"
	"slices"
)

// ExternalConfig says who joins which group by an external commit.
type ExternalConfig struct {
	Realm          *Realm
	Rand           io.Reader
	Signer         *Signer
	Credential     Credential
	Capabilities   Capabilities
	LeafExtensions Extensions
	// GroupInfo is a member's Info, of the group's current epoch.
	GroupInfo *Message
	// RatchetTree is the data of a ratchet_tree extension, for a GroupInfo that
	// does not bring the tree.
	RatchetTree []byte
	// Resync removes the member with the same signature key: the joiner's own
	// earlier self.
	Resync bool
	AAD    []byte
	PSKs   []PreSharedKeyID // mixed into the new epoch
	PSK    PSKSource        // may be nil
	Each   Each
}

// JoinExternal makes an external commit: RFC 9420, Section 12.4.3.2. The
// outsider is the group as seen from without, not active; once the group has
// accepted the commit, merging it makes the outsider a member.
func JoinExternal(c ExternalConfig) (outsider *Group, s *StagedCommit, err error) {
	if c.GroupInfo.wire != WireGroupInfo {
		return nil, nil, errMessageKind
	}
	info := c.GroupInfo.groupInfo
	state, err := info.verifiedState(c.Realm, c.RatchetTree)
	if err != nil {
		return nil, nil, err
	}
	data, ok := info.extensions.Get(ExtensionExternalPub)
	if !ok {
		return nil, nil, errNoExternalPub
	}
	r := newReader(data)
	external := r.vector()
	if err := r.end(); err != nil {
		return nil, nil, fmt.Errorf("decode external key: %w", err)
	}
	kemOutput, init, err := info.context.CipherSuite.encapsulateInit(c.Rand, external)
	if err != nil {
		return nil, nil, err
	}
	commit := &Commit{proposals: []proposalOrRef{{proposal: ExternalInit{KEMOutput: kemOutput}}}}
	if c.Resync {
		i, ok := state.tree.signatureKeys.get(c.Signer.Public())
		if !ok {
			return nil, nil, errBlankLeaf
		}
		commit.proposals = append(commit.proposals, proposalOrRef{proposal: Remove{Removed: LeafIndex(i)}})
	}
	for _, id := range c.PSKs {
		commit.proposals = append(commit.proposals, proposalOrRef{proposal: PreSharedKey{ID: id}})
	}
	outsider = &Group{realm: c.Realm, signer: c.Signer, psk: c.PSK, epoch: epoch{publicState: state}}
	s, err = outsider.create(creation{
		CommitConfig: CommitConfig{Rand: c.Rand, AAD: c.AAD, Each: c.Each},
		commit:       commit,
		from:         sender{Type: SenderNewMemberCommit},
		leaf:         LeafNode{Credential: c.Credential, Capabilities: c.Capabilities, Extensions: slices.Clone(c.LeafExtensions)},
		init:         init,
	})
	if err != nil {
		return nil, nil, err
	}
	return outsider, s, nil
}
