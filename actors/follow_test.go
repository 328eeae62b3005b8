package actors

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-chat/conclave/bus"
	membus "github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/group"
)

// A gate is a bus whose feed holds what it has in hand, or a Follow that is under
// way, until it is let go. It counts the calls for a Follow.
type gate struct {
	bus.Bus
	mu      sync.Mutex
	hands   chan struct{}                     // closed when what is in hand may go on; nil: at once
	follow  func([]bus.Topic) <-chan struct{} // what a Follow waits for; nil: nothing
	refuse  func(bus.ID, ...bus.Topic) error  // instead of a Follow
	follows []bus.Topic                       // the first topic of each Follow
}

func (g *gate) set(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

// holding makes the feed keep its next batch in hand until the result is called.
func (g *gate) holding() (letGo func()) {
	hold := make(chan struct{})
	g.set(func() { g.hands = hold })
	return func() {
		g.set(func() { g.hands = nil })
		close(hold)
	}
}

// slow makes the Follow of one group's log wait until the result is called.
func (g *gate) slow(id GroupID) (letGo func()) {
	commits, _ := topicsOf(id)
	hold := make(chan struct{})
	g.set(func() {
		g.follow = func(topics []bus.Topic) <-chan struct{} {
			if topics[0] == commits {
				return hold
			}
			return nil
		}
	})
	return func() {
		g.set(func() { g.follow = nil })
		close(hold)
	}
}

// followed is how often a group's log was followed.
func (g *gate) followed(id GroupID) (n int) {
	commits, _ := topicsOf(id)
	g.set(func() {
		for _, t := range g.follows {
			if t == commits {
				n++
			}
		}
	})
	return n
}

func (g *gate) Open(ctx context.Context) (bus.Feed, error) {
	f, err := g.Bus.Open(ctx)
	return &gateFeed{f, g}, err
}

type gateFeed struct {
	bus.Feed
	g *gate
}

func (f *gateFeed) Next(ctx context.Context) ([]bus.Envelope, error) {
	batch, err := f.Feed.Next(ctx)
	var hold chan struct{}
	f.g.set(func() { hold = f.g.hands })
	if hold != nil {
		<-hold
	}
	return batch, err
}

func (f *gateFeed) Follow(ctx context.Context, after bus.ID, topics ...bus.Topic) (err error) {
	var hold <-chan struct{}
	f.g.set(func() {
		f.g.follows = append(f.g.follows, topics[0])
		if f.g.follow != nil {
			hold = f.g.follow(topics)
		}
		if f.g.refuse != nil {
			err = f.g.refuse(after, topics...)
		}
	})
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err != nil {
		return err
	}
	return f.Feed.Follow(ctx, after, topics...)
}

// throughGate is a world whose host reads the bus through a gate.
func throughGate(t *testing.T, run func(w *world, g *gate)) {
	g := new(gate)
	inWorld(t, func(w *world) { run(w, g) }, func(c *Config) { g.Bus = c.Bus; c.Bus = g; c.CommitLogEvery = -1 })
}

// inHand makes a group of three that have read "one", and of which nobody listens
// any more. The host has a batch with "two" in hand until the result is called.
func inHand(w *world, g *gate) (p []InstallationID, id GroupID, letGo func()) {
	p = w.people(3)
	id = w.group(p[0], p[1], p[2])
	for _, m := range p {
		w.sync(m, id)
	}
	first := w.stream(p[0])
	w.say(p[2], id, "one")
	w.hears(first, "one")
	letGo = g.holding()
	w.say(p[2], id, "two")
	synctest.Wait() // it is in hand
	w.ok(first.Close())
	synctest.Wait() // nobody follows
	return p, id, letGo
}

// A batch was taken from the log before its last follower left, and another one
// follows with an older cursor: what lies between is not passed over.
func TestABatchOfAFollowThatIsOver(t *testing.T) {
	throughGate(t, func(w *world, g *gate) {
		p, id, letGo := inHand(w, g)
		second := w.stream(p[1])
		letGo()
		elapse(time.Minute)
		w.hears(second, "one", "two")
		w.say(p[2], id, "three")
		w.hears(second, "three")
		w.reads(p[1], id, "one", "two", "three")
		// Another one joins it, while it is not known what the feed goes on with.
		third := w.stream(p[0])
		w.say(p[2], id, "four")
		w.hears(third, "two", "three", "four")
		w.hears(second, "four")
	})
}

// The same, and the newcomer's Follow has not begun: its worker waits.
func TestABatchBeforeItsFollow(t *testing.T) {
	throughGate(t, func(w *world, g *gate) {
		p, id, letGo := inHand(w, g)
		w.sys.feed.mu.Lock()
		w.sys.feed.workers += followsAtOnce // as many as there may be are at something else
		w.sys.feed.mu.Unlock()
		second := w.stream(p[1])
		letGo()
		elapse(time.Minute)
		w.sys.feed.mu.Lock()
		w.sys.feed.workers -= followsAtOnce - 1
		w.sys.feed.beside(w.sys.feed.worker)
		w.sys.feed.mu.Unlock()
		elapse(time.Minute)
		w.hears(second, "one", "two")
		w.reads(p[1], id, "one", "two")
		w.say(p[2], id, "three")
		w.hears(second, "three")
	})
}

// Streams begin and end all the time, over a feed that brings what it took before
// after that: nobody skips anything.
func TestStreamsTakeTurns(t *testing.T) {
	for seed := range uint64(10) {
		log := membus.Config{Faults: membus.Faults{Hit: membus.Seeded(seed, 2, membus.Stale)}}
		inWorldOf(t, log, func(w *world) {
			p := w.people(3)
			id := w.group(p[0], p[1], p[2])
			dice := rand.New(rand.NewPCG(seed, 7))
			var open [2]*Stream
			var want []string
			for i := range 40 {
				want = append(want, strconv.Itoa(i))
				w.send(p[2], id, want[i])
				if dice.IntN(2) == 0 {
					synctest.Wait()
				}
				who := dice.IntN(2)
				if open[who] == nil {
					st, err := w.sys.Stream(w.ctx, p[who], Scope{}, StreamMessages)
					w.ok(err)
					open[who] = st
				} else {
					w.ok(open[who].Close())
					open[who] = nil
				}
			}
			elapse(time.Second)
			for who, st := range open {
				if st == nil {
					open[who] = w.stream(p[who])
				}
			}
			want = append(want, "last")
			w.say(p[2], id, "last")
			elapse(time.Minute)
			w.reads(p[0], id, want...)
			w.reads(p[1], id, want...)
		}, func(c *Config) { c.CommitLogEvery = -1 })
	}
}

// One group's Follow waits for the network. The others are delivered, followed
// and unfollowed meanwhile, and its members do what needs no network.
func TestAFollowHoldsUpNobody(t *testing.T) {
	throughGate(t, func(w *world, g *gate) {
		p := w.people(4)
		one, two := w.group(p[0], p[1]), w.group(p[2], p[1], p[3])
		live := w.stream(p[0])
		letGo := g.slow(two)
		slow := []*Stream{w.stream(p[2]), w.stream(p[3])}
		elapse(time.Second)
		w.say(p[1], one, "during")
		w.hears(live, "during")
		w.ok(live.Close())
		live = w.stream(p[0])
		w.say(p[1], one, "during, again")
		w.hears(live, "during, again")
		if _, err := Look(w.ctx, w.sys, p[2], two, func(r *group.Replica) uint64 { return r.Epoch() }); err != nil {
			t.Error(err)
		}
		w.say(p[1], two, "to those who wait")
		w.sync(p[2], two)
		letGo()
		for _, st := range slow {
			w.hears(st, "to those who wait")
		}
		w.say(p[1], two, "live")
		for _, st := range slow {
			w.hears(st, "live")
		}
		if n := g.followed(two); n != 1 {
			t.Errorf("%d Follows of one log for its members here", n)
		}
	})
}

// The last reader leaves while its Follow is under way, and comes again.
func TestAFollowNobodyWantsAnyMore(t *testing.T) {
	throughGate(t, func(w *world, g *gate) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		letGo := g.slow(id)
		for range 3 {
			w.ok(w.stream(p[1]).Close())
		}
		letGo()
		elapse(time.Second)
		w.sys.feed.mu.Lock()
		n := len(w.sys.feed.logs)
		w.sys.feed.mu.Unlock()
		if n != 0 {
			t.Errorf("%d logs are followed, and nobody listens", n)
		}
		st := w.stream(p[1])
		w.say(p[0], id, "hello")
		w.hears(st, "hello")
	})
}

// A Follow that never comes back is given up, and tried again.
func TestAFollowWithoutAnAnswer(t *testing.T) {
	throughGate(t, func(w *world, g *gate) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		g.slow(id)
		st := w.stream(p[1])
		elapse(time.Second)
		g.set(func() { g.follow = nil })
		w.say(p[0], id, "hello")
		elapse(followTime)
		w.hears(st, "hello")
		w.say(p[0], id, "live")
		w.hears(st, "live")
	})
}

// One reader's cursor is beyond the log's end, and the log cannot be followed
// from there: that is no reason why the other one should not.
func TestACursorBeyondTheLogIsItsReadersAlone(t *testing.T) {
	throughGate(t, func(w *world, g *gate) {
		p := w.people(3)
		id := w.group(p[0], p[1], p[2])
		for _, m := range p[1:] {
			w.sync(m, id)
		}
		w.say(p[0], id, "one")
		w.sync(p[2], id)
		ahead, err := Look(w.ctx, w.sys, p[2], id, func(r *group.Replica) uint64 { return r.Cursor() })
		w.ok(err)
		g.set(func() {
			g.refuse = func(after bus.ID, topics ...bus.Topic) error {
				if topics[0].Kind() == bus.GroupCommits && uint64(after) >= ahead {
					return bus.ErrLogRolledBack
				}
				return nil
			}
		})
		letGo := g.slow(id)
		w.stream(p[2])
		st := w.stream(p[1])
		letGo()
		w.hears(st, "one")
		w.say(p[0], id, "two")
		w.hears(st, "two")
	})
}

// The log goes backwards. What is published after that, and before it is followed
// anew, reaches its followers though nothing follows it.
func TestNothingIsMissedWhileItIsFollowedAnew(t *testing.T) {
	throughGate(t, func(w *world, g *gate) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		st := w.stream(p[1])
		w.say(p[0], id, "kept")
		w.hears(st, "kept")
		commits, messages := topicsOf(id)
		end, err := w.log.End(w.ctx, messages)
		w.ok(err)
		w.say(p[0], id, "lost by the log")
		w.hears(st, "lost by the log")
		letGo := g.slow(id)
		w.log.Rewind(bus.ShardOf(commits, w.log.Info().Shards), end)
		elapse(time.Second)
		w.say(p[0], id, "meanwhile")
		letGo()
		elapse(time.Minute)
		w.hears(st, "meanwhile")
		w.say(p[0], id, "live")
		w.hears(st, "live")
		w.agree(id, p...)
	})
}

// The log goes backwards, and one group's cannot be followed anew: the others
// are, and are told once.
func TestOneLogIsNotFollowedAnew(t *testing.T) {
	throughGate(t, func(w *world, g *gate) {
		p := w.people(3)
		one, two := w.group(p[0], p[1]), w.group(p[2])
		commits, _ := topicsOf(two)
		live, other := w.stream(p[1]), w.stream(p[2])
		end, err := w.log.End(w.ctx, commits)
		w.ok(err)
		w.say(p[0], one, "lost by the log")
		w.hears(live, "lost by the log")
		g.set(func() {
			g.refuse = func(_ bus.ID, topics ...bus.Topic) error {
				if topics[0] == commits {
					return errors.Join(bus.ErrUnavailable, errors.New("of one log"))
				}
				return nil
			}
		})
		w.log.Rewind(bus.ShardOf(commits, w.log.Info().Shards), end)
		elapse(time.Minute)
		before := g.followed(one)
		w.say(p[0], one, "live")
		w.hears(live, "live")
		if restarts := w.sys.Restarts(); restarts > 6 {
			t.Errorf("%d actors started again", restarts)
		}
		elapse(time.Minute)
		if n := g.followed(one) - before; n != 0 || g.followed(two) < 100 {
			t.Errorf("the log that is followed was followed %d times more, the other one %d times", n, g.followed(two))
		}
		g.set(func() { g.refuse = nil })
		elapse(time.Second)
		w.say(p[2], two, "here, too")
		w.hears(other, "here, too")
		if !slices.Contains(w.texts(p[0], one), "live") {
			t.Error("lost")
		}
	})
}
