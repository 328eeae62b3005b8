package sim

import (
	"slices"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/group"
)

// A read of a group's two topics is two requests to a real log, and between them
// others go on. The adapter makes one cut of them.

// readLog reads the group's log, as a seat's host does.
func (s *seat) readLog(after uint64, limit int) ([]bus.Envelope, error) {
	if s.plant == plantTorn {
		return s.readTorn(bus.ID(after), limit)
	}
	if s.view != nil {
		return s.readView(bus.ID(after), limit)
	}
	s.world.reader = s
	defer func() { s.world.reader = nil }()
	return s.bus.Read(ctx, bus.ID(after), limit, s.truth.commits, s.truth.messages)
}

// torn are the log's faults: only those reads are torn that a seat makes.
func (w *world) torn() memory.Faults {
	return memory.Faults{
		Hit: func(f memory.Fault) bool {
			return f == memory.Between && w.reader != nil && w.hit(faultTorn, 1, 4)
		},
		Meanwhile: func() { w.othersSend(w.reader) },
	}
}

// othersSend lets one member commit and another one write, or publish what they
// have to publish.
func (w *world) othersSend(reader *seat) {
	w.reader = nil
	defer func() { w.reader = reader }()
	do := []func(*seat) bool{
		func(s *seat) bool { return s.submit(group.KeyUpdate{}) },
		(*seat).sendMessage,
	}
	n := w.rand.IntN(len(w.homes))
	for i := range w.homes {
		s := w.homes[(n+i)%len(w.homes)].seats[reader.truth.index]
		if s == reader || s.replica == nil || s.cut || s.rewound != nil || !s.replica.Active() {
			continue
		}
		if (len(s.outbox) > 0 || do[0](s)) && s.send() {
			if do = do[1:]; len(do) == 0 {
				return
			}
		}
	}
}

// readTorn is what an adapter with the bug does: each topic up to a now of its
// own. The commits are those of some steps ago.
func (s *seat) readTorn(after bus.ID, limit int) ([]bus.Envelope, error) {
	all, err := s.bus.Read(ctx, after, limit, s.truth.commits, s.truth.messages)
	s.ends = append(s.ends, s.end())
	if then := s.ends[max(0, len(s.ends)-20)]; !s.calm {
		all = slices.DeleteFunc(all, func(e bus.Envelope) bool { return e.Topic == s.truth.commits && uint64(e.ID) > then })
	}
	return all, err
}
