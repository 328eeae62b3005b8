package memory

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/conclave-chat/conclave/bus"
)

// A Fault is what package bus lets an adapter do, and this one does of its own
// accord never.
type Fault int

const (
	// Between two requests of one Read or Last, others go on: Faults.Meanwhile is
	// called.
	Between Fault = iota
	// Unreachable: a call has no effect, and answers bus.ErrUnavailable.
	Unreachable
	// Unanswered: a Publish is stored, and answers bus.ErrUnavailable.
	Unanswered
	// Late: a Publish answers bus.ErrUnavailable, and is on its way. At each later
	// call of anybody Hit is asked again: it lands as soon as that says no, with its
	// condition judged then.
	Late
	// Again: a repeat is stored though it comes within the window.
	Again
	// Lag: a feed has nothing yet of what there is. Faults.Meanwhile is called, and
	// Hit is asked again, until it says no.
	Lag
	// Stale: Follow, Unfollow and Rewind come between a Next and its answer. The
	// next Next returns what the feed would have brought before them.
	Stale
	// Hole: a feed passes over an envelope for ever. It is asked for where
	// Config.Holes says that feeds are like that.
	Hole

	faults
)

var faultNames = [faults]string{"between", "unreachable", "unanswered", "late", "again", "lag", "stale", "hole"}

func (f Fault) String() string { return faultNames[f] }

// Faults make a log as nasty as a real one may be. A simulation hands in its own
// dice, and what the others of its world do:
//
//	memory.Config{Holes: true, Faults: memory.Faults{
//		Hit:       func(f memory.Fault) bool { return w.hit(names[f], 1, 8) },
//		Meanwhile: func() { w.somebodyPublishes() },
//	}}
//
// Everything happens in the caller's goroutine, in an order that Hit alone
// decides: with the same answers the same calls give the same log. Once Hit says no
// for good, what is late lands with the next call, and the log is well. A simulation
// has it say no too while it looks at the log itself.
type Faults struct {
	// Hit is asked each time there is a chance for a fault, and says whether it
	// happens. It must not call the log, whose lock is held. Nil: never.
	Hit func(Fault) bool
	// Meanwhile may call the log. It is not called for a call that it makes
	// itself. Nil: nobody does anything.
	Meanwhile func()
}

// Seeded is a Hit of its own dice: each of the faults happens about once in so
// many chances.
func Seeded(seed uint64, in int, of ...Fault) func(Fault) bool {
	dice := rand.New(rand.NewPCG(seed, 0xfa17))
	return func(f Fault) bool { return slices.Contains(of, f) && dice.IntN(in) == 0 }
}

// errUnanswered is all that the caller of a Publish learns.
var errUnanswered = fmt.Errorf("%w: no answer", bus.ErrUnavailable)

// The methods from here on are called with the log's mutex held.

func (l *memlog) hit(f Fault) bool { return l.cfg.Faults.Hit != nil && l.cfg.Faults.Hit(f) }

// meanwhile lets others go on, where a fault happens.
func (l *memlog) meanwhile(f Fault) bool {
	if !l.hit(f) {
		return false
	}
	if l.aside || l.cfg.Faults.Meanwhile == nil {
		return true
	}
	l.aside = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.aside = false
	}()
	l.cfg.Faults.Meanwhile()
	return true
}

// land stores what was late, as far as it has arrived.
func (l *memlog) land() {
	l.late = slices.DeleteFunc(l.late, func(p publication) bool {
		if l.hit(Late) {
			return false
		}
		_, _ = l.store(p) // nobody hears of it
		return true
	})
}

// lossy is a Publish that may stay without its answer.
func (l *memlog) lossy(p publication) (bus.Ack, error) {
	if l.hit(Late) {
		l.late = append(l.late, p)
		return bus.Ack{}, errUnanswered
	}
	ack, err := l.store(p)
	if err == nil && l.hit(Unanswered) {
		return bus.Ack{}, errUnanswered
	}
	return ack, err
}

// hold keeps what the reader would get now, for its next Next.
func (f *feed) hold() {
	if f.bus.log.hit(Stale) {
		f.held = append(f.held, f.due()...)
	}
}

// pierce leaves holes in what a feed brings.
func (f *feed) pierce(batch []bus.Envelope) []bus.Envelope {
	l := f.bus.log
	if !l.cfg.Holes {
		return batch
	}
	return slices.DeleteFunc(batch, func(bus.Envelope) bool { return l.hit(Hole) })
}

// Rewind makes a shard's log go backwards, as the restore of an old backup
// does: everything above to is gone, and its IDs will be given again.
func (b *Bus) Rewind(shard int, to bus.ID) {
	l := b.log
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.shards[shard]
	if to.Sequence() >= s.end {
		return
	}
	following := maps.Clone(s.everybody)
	for _, feeds := range s.followers {
		maps.Copy(following, feeds)
	}
	told := slices.SortedFunc(maps.Keys(following), func(a, b *feed) int { return a.number - b.number })
	for _, f := range told {
		f.hold()
	}
	s.end = to.Sequence()
	s.lose(func(id bus.ID) bool { return id > to })
	for _, f := range told {
		f.rolledBack(shard)
	}
}

// Lose takes single envelopes out of the log, as damage to its files does that an
// operator has accepted. No feed is told, and their IDs are not given again.
func (b *Bus) Lose(ids ...bus.ID) {
	l := b.log
	l.mu.Lock()
	defer l.mu.Unlock()
	l.losses.Add(1)
	for i := range l.shards {
		s := &l.shards[i]
		s.lose(func(id bus.ID) bool { return slices.Contains(ids, id) })
		for _, id := range ids {
			if id.Shard() == i && (s.lost == 0 || id.Sequence() < s.lost) {
				s.lost = id.Sequence()
			}
		}
	}
}

// lose drops envelopes, and forgets that they were ever there.
func (s *shard) lose(gone func(bus.ID) bool) {
	for t := range s.topics {
		s.drop(t, func(e entry) bool { return gone(e.ID) })
	}
	maps.DeleteFunc(s.recent, func(_ [32]byte, id bus.ID) bool { return gone(id) })
	s.arrivals = slices.DeleteFunc(s.arrivals, func(a arrival) bool { _, kept := s.recent[a.hash]; return !kept })
}
