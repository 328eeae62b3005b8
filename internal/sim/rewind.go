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

// toldOf: the seat's host has noticed that the log went back.
func (s *seat) toldOf(end uint64) {
	if s.rewound != nil {
		end = min(end, *s.rewound)
	}
	s.rewound = &end
}

// reconnected: the host is back. It follows the log from where its replica
// stands, and reads what there is.
func (s *seat) reconnected() {
	s.cut, s.fed, s.again = false, s.replica.Cursor(), true
}
