package group

import (
	"bytes"

	"github.com/conclave-chat/conclave/mls"
)

// A welcome says where in the log the commit lies that added its receiver, and not
// which one that is. So a newcomer reads from before that place, and remembers the
// commit that it finds: it is the first milestone. Without it a newcomer would not
// know that the log has lost the way to its first epoch, and would go on alone.

// idStep is how far below an ID the log is read from to have that ID among what is
// read: neighbours in a shard are that far apart. On a log whose IDs are closer a few
// envelopes before it are read as well, and passed over.
const idStep = 64

// unseen reports whether the commit that added this member was not read yet.
func (r *Replica) unseen() bool {
	return len(r.path) > 0 && r.path[0].at == r.joined && r.path[0].hash == [32]byte{} && r.joined > 0
}

// entrance looks for the commit that added this member. It reports false where the
// delivery is needed for nothing else.
func (s *step) entrance(d Delivered) bool {
	switch {
	case !s.unseen() || s.check.done || d.ID < s.joined:
	case d.ID > s.joined:
		switch {
		case d.After == 0 && s.ReadFrom() > 0:
			s.check.done = true // the host vouches for what it delivers, and reads nothing before it
		case d.After < s.joined:
			s.noEntrance()
		}
	case !s.leadsIn(d):
		s.noEntrance()
		return false
	default:
		s.enterBy(d)
		return false
	}
	return true
}

// leadsIn reports whether a delivery may be the commit that led to the first epoch
// of this membership.
func (s *step) leadsIn(d Delivered) bool {
	m := d.Message
	if m == nil {
		var err error
		if m, err = s.env.Realm.Parse(d.Data); err != nil {
			return false
		}
	}
	first := s.Epoch() - uint64(len(s.path)-1)
	return d.Commit && m.WireFormat() == mls.WirePrivateMessage && m.ContentType() == mls.ContentCommit &&
		bytes.Equal(m.GroupID(), s.id) && m.Epoch()+1 == first
}

// enterBy makes a commit the first milestone, and the first link of the chain.
func (s *step) enterBy(d Delivered) {
	hash := hashOfDelivered(d)
	s.setEntrance(milestone{at: d.ID, hash: hash})
	if len(s.chain.links) == 0 {
		s.chain.base = d.After
		s.chain.add(link{d.ID, markOf(hash), !d.Commit}, d.Time)
		s.check.next, s.check.agreed = 1, d.ID
	}
}

// noEntrance: the log was read, and the commit that added this member is not where
// it was. Its welcome is from before the log lost that. Who has applied commits
// since is with the others all the same.
func (s *step) noEntrance() {
	if !s.unseen() || s.check.done {
		return
	}
	if len(s.path) > 1 {
		s.check.done = true
		return
	}
	s.setEntrance(milestone{})
	s.met(commitsLost, "the log does not have commit %d, which added this installation", s.joined)
}

func (s *step) setEntrance(m milestone) {
	s.path, s.dirt = append([]milestone{m}, s.path[1:]...), true
}
