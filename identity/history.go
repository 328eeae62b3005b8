package identity

import (
	"fmt"
	"sort"
	"time"
)

// A History is one inbox's update log: what the inbox was at each sequence id.
// Groups cite exact ids, so a state exists only at an id that an update has.
// Each update has the time at which the log took it, so that what somebody could
// cite at some time is the same whenever one asks.
//
// The log is kept as verified updates and the newest state; older states are
// folded again when asked for. The zero History is an empty log. It is not safe
// for concurrent use while it grows.
type History struct {
	entries []entry
	latest  *State
	broken  error
}

type entry struct {
	seq    uint64
	at     time.Time
	update Verified
}

// ClockSkew is how far apart the clocks of a network's servers may be. An update is
// taken to be there for whoever cites it up to so much before the log took it: what
// was fetched and cited at once is not refused where the servers' clocks differ.
const ClockSkew = 2 * time.Second

// Settled is how long after a time no update comes any more that was there at that
// time: the log's servers count it up to ClockSkew later, by a clock that is behind
// by as much.
const Settled = 2 * ClockSkew

// Append adds the next update of the log, which took it at a time. Sequence ids rise; an update whose id
// is already there is ignored, so that overlapping reads do no harm. An update
// that breaks a rule breaks the inbox for good, as it does for every client:
// Append returns that error from then on, and the states before it stay.
func (h *History) Append(seq uint64, at time.Time, u Verified) error {
	if h.broken != nil {
		return h.broken
	}
	if seq <= h.LatestID() {
		return nil
	}
	next, err := h.latest.Apply(u)
	if err != nil {
		h.broken = fmt.Errorf("identity: update %d breaks inbox %s: %w", seq, u.inbox, err)
		return h.broken
	}
	h.entries = append(h.entries, entry{seq, at, u})
	h.latest = next
	return nil
}

// Broken returns the error of the update that broke the inbox, or nil.
func (h *History) Broken() error { return h.broken }

// Len returns the number of updates.
func (h *History) Len() int { return len(h.entries) }

// LatestID returns the newest update's sequence id, 0 where there is none.
func (h *History) LatestID() uint64 {
	if len(h.entries) == 0 {
		return 0
	}
	return h.entries[len(h.entries)-1].seq
}

// Latest returns the newest state, nil where there is none.
func (h *History) Latest() *State { return h.latest }

// TookBack reports whether the inbox had a member once, and has it no more.
func (h *History) TookBack(member Identifier) bool {
	if h.latest.Has(member) {
		return false
	}
	var s *State
	for _, e := range h.entries {
		if s, _ = s.Apply(e.update); s.Has(member) { // each applied when it was appended
			return true
		}
	}
	return false
}

// At returns the state as of exactly seq, and false where no update has that id.
func (h *History) At(seq uint64) (*State, bool) {
	n := sort.Search(len(h.entries), func(i int) bool { return h.entries[i].seq >= seq })
	if n == len(h.entries) || h.entries[n].seq != seq {
		return nil, false
	}
	if n == len(h.entries)-1 {
		return h.latest, true
	}
	var s *State
	for _, e := range h.entries[:n+1] {
		s, _ = s.Apply(e.update) // each applied when it was appended
	}
	return s, true
}

// AsOf returns the state after the last update at or below seq, nil where there
// is none, and whether an update has exactly that id and was there at a time. The zero
// time stands for now. An update of which the log tells no time was always there.
func (h *History) AsOf(seq uint64, by time.Time) (s *State, exact bool) {
	n := sort.Search(len(h.entries), func(i int) bool { return h.entries[i].seq > seq })
	if n == 0 {
		return nil, false
	}
	last := h.entries[n-1]
	s, _ = h.At(last.seq)
	return s, last.seq == seq && (by.IsZero() || !last.at.After(by.Add(ClockSkew)))
}
