package sim

import (
	"crypto/sha256"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/persistence"
)

// A plant is a bug that a test puts into the world, to see that an invariant
// finds it. Without one none of this does anything.
type plant int

const (
	plantNone      plant = iota
	plantForgetful       // the next own generation is not saved
	plantLazy            // what is sent is not on the disk yet
	plantKeeps           // old keys are not deleted
	plantGap             // an envelope is left out, and the host vouches for it
	plantSwap            // two envelopes change their places, for one host
	plantFork            // commits change their places, for one host
	plantLiar            // the bus says no, for good, to what it has taken
	plantBlind           // the store does not say which messages it has
	plantAmnesia         // of what was sealed anew, the earlier sealings are not saved
	plantLeak            // who was removed gets another member's keys
	plantPast            // who joins gets an old member's keys
	plantHalf            // a command is declined and done all the same
	plantHole            // a feed with holes is taken for the log
	plantTorn            // a read of two topics is not one cut
	plantOnce            // what was sealed once more for newcomers does not come to them
	plantBlank           // a row that cannot be read is taken for none
)

// rows is what a host with the bug saves.
func (p plant) rows(rows []group.Row) []group.Row {
	var kept []group.Row
	for _, r := range rows {
		if p == plantForgetful && r.Table == group.TableOwn || p == plantKeeps && r.Table == group.TableMember && r.Value == nil || p == plantAmnesia && r.Table == group.TableStray {
			continue
		}
		kept = append(kept, r)
	}
	return kept
}

func (p plant) durability(d persistence.Durability) persistence.Durability {
	if p == plantLazy {
		return persistence.Lazy
	}
	return d
}

// deliveries is what a host with the bug delivers.
func (p plant) deliveries(s *seat, items []group.Delivered) []group.Delivered {
	if p != plantOnce && (s.calm || s.host.index != 0 || len(items) < 2) {
		return items
	}
	swap := p == plantSwap || p == plantFork && items[0].Commit && items[1].Commit
	switch {
	case p == plantOnce:
		items = s.truth.firstCopies(s, items)
	case p == plantGap:
		items = items[1:]
		items[0].After = 0
	case swap:
		items[0].Data, items[1].Data = items[1].Data, items[0].Data
		items[0].Message, items[1].Message = items[1].Message, items[0].Message
	}
	return items
}

// firstCopies leaves out what carries a message that stands in the log already,
// sealed before this member came.
func (g *truth) firstCopies(s *seat, items []group.Delivered) (kept []group.Delivered) {
	came := uint64(g.since(s, int(s.replica.Epoch())))
	old := map[group.MessageID]bool{}
	for _, e := range g.log() {
		if sealed := g.envelopeOf(e.Payload); sealed != nil && !sealed.commit && sealed.epoch < came {
			old[sealed.message] = true
		}
	}
	for _, d := range items {
		d.After = min(d.After, s.replica.Cursor()) // so that nothing seems to be missing
		if sealed := g.sent[sha256.Sum256(d.Data)]; sealed == nil || !old[sealed.message] {
			kept = append(kept, d)
		}
	}
	return kept
}

// leaked is what somebody holds with the bug's help.
func (p plant) leaked(leak plant, s *seat, state *mls.Group) *mls.Group {
	if p != leak {
		return state
	}
	for _, other := range s.truth.seats() {
		if other != s && other.replica != nil && other.replica.Active() {
			return other.replica.Group()
		}
	}
	return state
}
