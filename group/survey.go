package group

import (
	"bytes"
	"errors"

	"github.com/conclave-chat/conclave/mls"
)

// A log that an operator has accepted a loss of has holes, or has lost its end. Both
// look alike to a replica that misses something. They are not: behind a hole the log
// goes on from the commits that are missing, and who has applied them goes on as well;
// behind a lost end nobody can follow before they are offered again. So a replica that
// is told of a loss looks at the log first, and takes nothing from it:
//
//	event                                     rule
//	told of a loss, or something is missing   a survey begins, which is saved: the commits
//	on a log with an accepted loss            from there on are looked at
//	the last commit lies where it was, or     the log leads to this epoch: it is gone back
//	a member's commit of this epoch lies      in, and nothing of the path is lost
//	there, when the log was read to its end
//	neither does                              the log lost its end: it went backwards
//	a member's commit of this epoch comes     the others go on all the same: it is gone back
//	after all, before the own is found        to where the log lost entries, and surveyed
//	an epoch is entered that envelopes were   so it is: they lie behind the hole, and can be
//	of before                                 read now
//
// An own commit that may lie in a hole is offered again, for whoever had not applied it:
// such a member is Apart until then, enters the epoch by the second copy, and reads what
// lies between anew.
type survey struct {
	from uint64 // the ID after which the log is looked at, plus one; 0: there is none
	led  bool   // the log leads to this epoch
	done bool   // it was read to its end, and Rewound is asked for
}

// surveys reports whether a Rewound waits for a survey, which it begins where there is
// none. hole is what a survey that is done has found: it is gone back to where that
// began.
func (s *step) surveys(in *Rewound) (waits, hole bool) {
	if !in.Lost || len(s.path) == 0 {
		s.survey = survey{}
		return false, in.Lost // in its first epoch a group has no commit to lose
	}
	if s.survey.done && s.survey.from <= in.End+1 {
		hole, in.End, s.survey = s.survey.led, s.survey.from-1, survey{}
		return false, hole
	}
	first := s.joined - min(s.joined, idStep) // nothing before this membership is asked for
	if end := max(in.End, min(first, s.cursor)); s.survey.from == 0 || end+1 < s.survey.from {
		s.survey = survey{from: end + 1}
	}
	s.survey.done = false
	s.caughtUp, s.dirt = false, true
	s.unsettleAll()
	s.read()
	return true, false
}

// lookAt is what a survey does with a delivery.
func (s *step) lookAt(d Delivered) {
	if s.survey.led || !d.Commit {
		return
	}
	m, hash, last := d.Message, hashOfDelivered(d), s.path[len(s.path)-1]
	if last.at == d.ID && last.hash == hash || s.unseen() && d.ID == s.joined && s.leadsIn(d) {
		s.survey.led = true
		return
	}
	if m == nil {
		var err error
		if m, err = s.env.Realm.Parse(d.Data); err != nil {
			return
		}
	}
	s.survey.led = s.goesOn(hash, m)
}

// goesOn reports whether an envelope is a commit of this epoch, an own one or another
// member's, be it valid or not.
func (s *step) goesOn(hash [32]byte, m *mls.Message) bool {
	if m.WireFormat() != mls.WirePrivateMessage || m.ContentType() != mls.ContentCommit || m.Epoch() != s.Epoch() || !bytes.Equal(m.GroupID(), s.id) {
		return false
	}
	if it := s.outstanding(hash); it != nil {
		return true
	}
	_, _, err := s.group.Open(m)
	var own *mls.OwnMessageError
	var path *mls.PathError
	return err == nil || errors.As(err, &own) && own.Verified || errors.As(err, &path)
}

// seeksKept is how often a replica goes back to a hole by itself: anybody can claim an
// epoch.
const seeksKept = pathKept

// seekHole goes back to where the log has lost entries. It reports false where that was
// done often enough.
func (s *step) seekHole() bool {
	if s.hole == 0 || s.seeks == seeksKept || s.hole > s.cursor {
		return false
	}
	s.seeks++
	s.goBack(s.hole - 1)
	return true
}

// surveyed: the log was read to its end.
func (s *step) surveyed(in CaughtUp) {
	if in.Mark < s.marks {
		return // an older read
	}
	back := s.survey.from - 1
	s.survey.done, s.reading = true, 0
	s.fx.Back = &back
}
