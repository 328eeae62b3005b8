package sim

import "github.com/conclave-chat/conclave/bus"

// mostRewinds is how often one world's log goes back: it is a restored backup,
// or a machine that lost its last seconds.
const mostRewinds = 2

// rewindLog makes the log lose its tail, once in a while a long one. Whoever
// follows it is told before it does anything else; but some hosts may be away,
// and find a log that ends before their cursor, at it or beyond.
func (s *seat) rewindLog() bool {
	last := bus.ID(s.end())
	back := uint64(1 + s.rand.IntN(6))
	if s.chance(1, 4) {
		back = uint64(6 + s.rand.IntN(30))
	}
	if last.Sequence() <= back || s.counters[string(faultRewind)] == mostRewinds {
		return false
	}
	to := bus.MakeID(last.Sequence()-back, 0)
	s.tell("the log goes back from %d to %d", last, to)
	for _, g := range s.groups {
		g.rewound(uint64(to))
	}
	s.bus.Rewind(0, to)
	for _, h := range s.hosts {
		h.backup = nil // one from before would not know of it
		if h.steps >= h.away && s.hit(faultUnnoticed, 1, 2) {
			h.away = s.steps + 5 + s.rand.IntN(60)
			s.tell("host %d: away until %d", h.index, h.away)
		}
	}
	for _, h := range s.homes {
		for _, t := range h.seats {
			t.reading = nil
			if h.away > s.steps {
				t.cut = true
			} else {
				t.toldOf(uint64(to))
			}
		}
		if h.away <= s.steps {
			h.rewoundTo(uint64(to))
		}
	}
	return true
}

// damage takes entries out of the middle of the log. The log says so itself, and
// the operator goes on without them: everybody is told where the first one was that
// was ever lost, once it is there.
func (s *seat) damage() bool {
	log := s.truth.log()
	if s.counters[string(faultDamage)] == mostRewinds || len(log) < 3 {
		return false
	}
	first := s.rand.IntN(len(log) - 2)
	lost := log[first:min(first+1+s.rand.IntN(3), len(log)-1)]
	if s.chance(1, 2) {
		lost = lost[:1]
	}
	ids := make([]bus.ID, len(lost))
	for i, e := range lost {
		ids[i] = e.ID
	}
	s.tell("the log loses %d", ids)
	s.truth.lose(lost)
	if s.truth.forked { // what is sealed in an epoch that the log does not lead to goes again
		s.truth.taint(log[first:])
	}
	s.bus.Lose(ids...)
	before, _ := s.bus.Lost(s.truth.commits)
	to := uint64(before)
	for _, h := range s.hosts {
		h.backup = nil // one from before would not know of it
	}
	for _, h := range s.homes {
		h.seats[s.truth.index].toldOf(to)
		h.seats[s.truth.index].reading = nil
	}
	return true
}

// toldOf: the seat's host has noticed that the log went back.
func (s *seat) toldOf(end uint64) {
	if s.rewound != nil {
		end = min(end, *s.rewound)
	}
	s.rewound = &end
}

// reconnected: the host is back, and its bus says that the log is not the one that
// it was. The log may have grown again beyond where the replica stands.
func (s *seat) reconnected() {
	s.cut, s.fed, s.again = false, s.replica.Cursor(), true
	s.toldOf(s.end())
}
