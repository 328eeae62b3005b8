package sim

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/internal/forge"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/contents"
)

// forge lets a member publish a commit that is good MLS and against the rules.
// From then on nothing is promised to it.
func (s *seat) forge() bool {
	r := s.replica
	if !r.Active() || s.home == s.truth.founder || s.truth.forked || r.Metadata().RoleOf(s.person.inbox) != group.Member {
		return false
	}
	g := r.Group()
	var proposals []mls.Proposal
	switch s.rand.IntN(4) {
	case 0: // it makes itself a super admin
		exts, err := forge.Metadata(g.Extensions(), func(m *contents.GroupMutableMetadataV1) {
			m.SuperAdminList.InboxIds = append(m.SuperAdminList.InboxIds, s.person.inbox)
		})
		s.must(err)
		proposals = []mls.Proposal{mls.GroupContextExtensions{Extensions: exts}}
	case 1: // it takes a member out without saying so
		var others []mls.LeafIndex
		for leaf := range g.Members() {
			if leaf != g.OwnLeaf() {
				others = append(others, leaf)
			}
		}
		if len(others) == 0 {
			return false
		}
		proposals = []mls.Proposal{mls.Remove{Removed: others[s.rand.IntN(len(others))]}}
	case 2: // it brings somebody in without saying so
		h := s.homes[s.rand.IntN(len(s.homes))]
		if _, member := g.Find(h.signer.Public()); member {
			return false
		}
		proposals = []mls.Proposal{mls.Add{KeyPackage: h.secrets[len(h.secrets)-1].KeyPackage.MLS}}
	default: // it changes what only super admins change
		exts, err := forge.Metadata(g.Extensions(), func(m *contents.GroupMutableMetadataV1) {
			m.Attributes["_super"] = "forged"
		})
		s.must(err)
		proposals = []mls.Proposal{mls.GroupContextExtensions{Extensions: exts}}
	}
	staged, err := g.Commit(mls.CommitConfig{Rand: s.keys, Proposals: proposals})
	if err != nil {
		s.tell("%s: forgery refused: %v", s.name, err)
		return false
	}
	s.evil = true
	data := staged.Message()
	s.truth.sent[sha256.Sum256(data)] = &envelope{from: s, epoch: g.Epoch(), within: string(g.EpochAuthenticator()), commit: true, forged: true}
	s.mustPublish(group.TopicCommits, forge.Envelope(data))
	return true
}

// sendThoughRemoved lets somebody who was removed use the keys that it kept.
func (s *seat) sendThoughRemoved() bool {
	if s.replica.Active() {
		return false
	}
	for _, r := range slices.Backward(s.truth.removals) {
		if r.seat != s {
			continue
		}
		s.sends++
		key, content := fmt.Sprint(s.sends), fmt.Appendf(nil, "message %d of %s, who was removed", s.sends, s.name)
		_, data, err := r.before.Seal(s.keys, nil, forge.Plaintext(key, content))
		s.must(err)
		s.truth.sent[sha256.Sum256(data)] = &envelope{
			from: s, epoch: r.before.Epoch(), within: string(r.before.EpochAuthenticator()),
			message: group.NewMessageID(s.truth.id, key, content), rogue: true,
		}
		s.mustPublish(group.TopicMessages, forge.Envelope(data))
		return true
	}
	return false
}
