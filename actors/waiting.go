package actors

import (
	"slices"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
)

// A guest is one welcome that was read and is not done with.
//
//	state      what it waits for                                  leads to
//	waiting    to be opened                                       opening
//	opening    is unwrapped, beside the mailbox                   deferred, aside, done
//	deferred   to be joined, in the order below                   entering, aside
//	entering   its identities or its group, beside the mailbox    aside, done
//	aside      the time at which it is tried again                opening, done
//	done       that those before it in the log are done
//
// Deferred guests are joined in this order. Guests of a known inviter come first. Of
// strangers, the one who had the fewest turns is next. The welcomes of one inviter are
// joined in the order of the log, and so are two welcomes to one group, since messages
// may lie between them. A stranger's guest is joined only after the log was read to its
// end and every guest in it was opened: so no number of strangers delays a friend.
type guest struct {
	id      bus.ID
	time    time.Time
	state   guestState
	payload []byte // nil where it is not in memory: see setAside
	size    int    // bytes that it takes in memory

	join     *group.JoinConfig
	resolved bool             // the identities that it needs were looked up: what is missing does not exist
	from     group.Invitation // zero: nothing else was there, and nobody asked
	friend   bool             // who invites is known

	stored bool // it was set aside: the cursor of the topic has passed it
	kept   int  // bytes of it in the store
	why    error
	tries  int
	due    time.Time // when it is tried again
}

// A guestState is where a guest is in the table above.
type guestState uint8

const (
	waiting guestState = iota
	opening
	deferred
	entering
	aside
	done
)

// A lobby holds an installation's guests. It knows neither store nor network.
type lobby struct {
	queue []*guest       // in the order of the log, from the first that is not done
	aside []*guest       // those that are stored, in the order in which that was done
	bytes int            // what both take in memory
	kept  int            // what is stored of those
	turns map[string]int // how often each inbox was served since the lobby was empty last; nil: nobody was
}

// Bounds of a lobby. What does not fit waits in the log.
const (
	maxGuests     = 256
	maxGuestBytes = 4 << 20
	maxAside      = 4096 // they take some 200 bytes each
	maxTurns      = 64   // of a friend, who is served like a stranger after that
	opensAtOnce   = 8
	entersAtOnce  = 4 // of strangers: a friend's welcome waits for none of them
)

// room reports whether the queue takes more.
func (l *lobby) room() bool { return len(l.queue) < maxGuests && l.bytes < maxGuestBytes }

// hold changes what a guest holds in memory.
func (l *lobby) hold(g *guest, payload []byte, join *group.JoinConfig) {
	l.bytes -= g.size
	g.payload, g.join, g.size = payload, join, len(payload)
	if join != nil {
		g.size += len(join.Welcome.Data)
	}
	l.bytes += g.size
}

// is counts the guests of the queue and of the store in a state.
func (l *lobby) is(s guestState) (queued, stored int) {
	for _, g := range l.queue {
		if g.state == s {
			queued++
		}
	}
	for _, g := range l.aside {
		if g.state == s {
			stored++
		}
	}
	return queued, stored
}

// unopened returns the guests that may be opened now. What is set aside comes when
// the queue was opened, a few at a time.
func (l *lobby) unopened(now time.Time, readAll bool) (all []*guest) {
	for _, g := range l.queue {
		if g.state == waiting {
			all = append(all, g)
		}
	}
	if _, opened := l.is(deferred); len(all) > 0 || !readAll || opened > 0 {
		return all
	}
	for _, g := range l.aside {
		if g.state == aside && !g.due.After(now) {
			all = append(all, g)
		}
	}
	slices.SortStableFunc(all, func(g, o *guest) int {
		switch {
		case l.before(g, o):
			return -1
		case l.before(o, g):
			return 1
		}
		return 0
	})
	return all[:min(len(all), opensAtOnce)]
}

// nextJoin returns the guest that may be joined now; nil: none. readAll says that
// nothing is left in the log that was not looked at.
func (l *lobby) nextJoin(readAll bool) *guest {
	var stranger *guest
	for _, g := range l.queue {
		if g.state < deferred {
			readAll = false
			break // what comes behind may be of its group
		}
		if g.state != deferred {
			continue
		}
		switch first := l.firstOf(g); {
		case first.state != deferred:
		case g.from.Group == nil || l.isKnown(g):
			return first
		case stranger == nil || l.before(first, stranger):
			stranger = first
		}
	}
	for _, g := range l.aside {
		switch {
		case g.state != deferred:
		case l.isKnown(g):
			return g
		case stranger == nil || l.before(g, stranger):
			stranger = g
		}
	}
	if queued, stored := l.is(entering); !readAll || queued+stored >= entersAtOnce {
		return nil
	}
	return stranger
}

// firstOf returns the first guest of the queue that leads to the group of g and is
// not done.
func (l *lobby) firstOf(g *guest) *guest {
	for _, o := range l.queue {
		if o == g || o.state != done && g.from.Group != nil && string(o.from.Group) == string(g.from.Group) {
			return o
		}
	}
	return g
}

func (l *lobby) isKnown(g *guest) bool { return g.friend && l.turns[g.from.Inbox] < maxTurns }

// before orders those that wait for their turn.
func (l *lobby) before(g, o *guest) bool {
	if a, b := l.turns[g.from.Inbox], l.turns[o.from.Inbox]; a != b {
		return a < b
	}
	if g.tries != o.tries {
		return g.tries < o.tries
	}
	return g.time.Before(o.time)
}

// took counts a turn.
func (l *lobby) took(g *guest) {
	if l.turns == nil || len(l.turns) >= maxAside {
		l.turns = map[string]int{}
	}
	l.turns[g.from.Inbox]++
}

// leave takes a guest out, and returns those that the cursor passes with that.
func (l *lobby) leave(g *guest) (passed []*guest) {
	l.hold(g, nil, nil)
	g.state = done
	if g.stored {
		l.aside, l.kept = without(l.aside, g), l.kept-g.kept
		return nil
	}
	n := l.front()
	passed, l.queue = l.queue[:n:n], l.queue[n:]
	if len(l.queue) == 0 {
		l.queue = nil // an idle installation holds on to no guest
	}
	return passed
}

// front is how many guests at the front of the queue are done.
func (l *lobby) front() int {
	for i, g := range l.queue {
		if g.state != done {
			return i
		}
	}
	return len(l.queue)
}

// store moves a guest from the queue to those that were set aside.
func (l *lobby) store(g *guest, bytes int) (passed []*guest) {
	passed = l.leave(g)
	g.stored, g.kept = true, bytes
	l.kept += bytes
	l.aside = append(l.aside, g)
	return passed
}

// evicted returns whom to send away where too many are set aside: one that was
// tried in vain, the oldest; one whose group is damaged here only if there is no
// other.
func (l *lobby) evicted(keep func(error) bool) (worst *guest) {
	for _, g := range l.aside {
		if g.state != aside || g.tries == 0 {
			continue
		}
		if !keep(g.why) {
			return g
		}
		if worst == nil {
			worst = g
		}
	}
	return worst
}

// isDue reports whether something that was set aside is to be tried now.
func (l *lobby) isDue(now time.Time) bool {
	for _, g := range l.aside {
		if g.state != aside || !g.due.After(now) {
			return true
		}
	}
	return false
}

// nextDue is when the next that was set aside is to be tried; zero: none waits.
func (l *lobby) nextDue() (at time.Time) {
	for _, g := range l.aside {
		if g.state == aside && (at.IsZero() || g.due.Before(at)) {
			at = g.due
		}
	}
	return at
}

func without(all []*guest, g *guest) []*guest {
	for i, o := range all {
		if o == g {
			return append(all[:i:i], all[i+1:]...)
		}
	}
	return all
}
