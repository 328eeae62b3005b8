package actors

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/internal/telemetry"
)

// A panic in each kind of actor: the message is quarantined, the actor starts
// again, nothing is lost, and the others do not notice. faults.md R7, D10, D16.
func TestPanicInEachKindOfActor(t *testing.T) {
	for point, kind := range map[Point]telemetry.Actor{
		PointHost: telemetry.ActorHost, PointInstallation: telemetry.ActorInstallation,
		PointGroup: telemetry.ActorGroup, PointStream: telemetry.ActorStream,
	} {
		t.Run(string(point), func(t *testing.T) {
			inWorld(t, func(w *world) {
				p := w.people(3)
				id, other := w.group(p[0], p[1]), w.group(p[0], p[2])
				st := w.stream(p[1])
				w.once(point)
				if point == PointHost {
					ref, _ := w.sys.engine.Lookup(hostName)
					w.ok(w.sys.engine.Tell(ref, wakeAll{}))
				}
				w.add(p[0], other, p[1])
				for i := range 5 {
					w.say(p[0], id, strconv.Itoa(i))
				}
				w.hears(st, "0", "1", "2", "3", "4")
				w.say(p[0], other, "elsewhere")
				w.hears(st, "elsewhere")
				w.sync(p[2], other)
				w.reads(p[2], other, "elsewhere")
				w.agree(id, p[:2]...)
				w.agree(other, p...)
				if n := w.tel.Quarantined.Of(kind).Value(); n != 1 {
					t.Errorf("%d messages of %v actors quarantined", n, kind)
				}
				if n := w.tel.Restarts.Of(kind).Value(); n != 1 || w.sys.Restarts() != 1 {
					t.Errorf("%d restarts of %v actors, %d in all", n, kind, w.sys.Restarts())
				}
			})
		})
	}
}

// Panics at every so many-th message of group actors, welcomes and streams:
// everything still arrives, once and in order.
func TestPanicsAllTheTime(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(3)
		id := w.group(p[0], p[1])
		st := w.stream(p[1])
		n := 0
		w.failing(func(at Point) error {
			if at == PointSave {
				return nil
			}
			w.mu.Lock()
			n++
			hit := n%11 == 0
			w.mu.Unlock()
			if hit {
				panic("again")
			}
			return nil
		})
		var want []string
		for i := range 20 {
			want = append(want, strconv.Itoa(i))
			w.send(p[0], id, want[i])
			elapse(time.Second)
		}
		w.hears(st, want...)
		elapse(time.Hour)
		w.failing(nil)
		w.sync(p[0], id)
		w.reads(p[0], id, want...)
		w.reads(p[1], id, want...)
		w.agree(id, p[:2]...)
	})
}

// Welcomes that come while their actor crashes over an earlier one are not
// skipped.
func TestAPanicSkipsNoWelcome(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		st, err := w.sys.Stream(w.ctx, p[1], Scope{}, StreamConversations)
		w.ok(err)
		synctest.Wait()
		dice := rand.New(rand.NewPCG(1, 2))
		w.failing(func(at Point) error {
			if at == PointInstallation && dice.IntN(4) == 0 {
				panic("over a welcome")
			}
			return nil
		})
		const groups = 12
		for range groups {
			id := w.group(p[0])
			w.add(p[0], id, p[1])
		}
		elapse(time.Hour)
		joined, err := w.sys.Groups(w.ctx, p[1])
		w.ok(err)
		if len(joined) != groups {
			t.Errorf("joined %d of %d groups", len(joined), groups)
		}
		ctx, cancel := context.WithTimeout(w.ctx, time.Hour)
		defer cancel()
		for heard := 0; heard < groups; {
			items, err := st.Next(ctx)
			if err != nil {
				t.Fatalf("heard of %d groups: %v", heard, err)
			}
			heard += len(items)
		}
	})
}

// A follower with too much in its mailbox is told to catch up, and misses
// nothing: also not what comes while it reads.
func TestFollowerThatFallsBehind(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		st := w.stream(p[1])
		// One message holds the actor, while the log grows.
		hold := make(chan struct{})
		name := groupName(p[1], id)
		w.ok(w.sys.names.Tell(name, look{func(*group.Replica) any { <-hold; return nil }}))
		synctest.Wait()
		var want []string
		for i := range maxQueued + 50 {
			want = append(want, strconv.Itoa(i))
			w.say(p[0], id, want[i])
		}
		synctest.Wait()
		if depth := w.sys.depth(name); depth > maxQueued+2 {
			t.Errorf("%d messages in a mailbox", depth)
		}
		commits, _ := topicsOf(id)
		w.sys.feed.mu.Lock()
		behind := w.sys.feed.logs[commits].readers[name].behind
		w.sys.feed.mu.Unlock()
		if !behind {
			t.Error("nobody told it that it is behind")
		}
		close(hold)
		w.hears(st, want...)
		w.say(p[0], id, "live again")
		w.hears(st, "live again")
		w.agree(id, p...)
	})
}

// The log grows between the end of a catch-up and its being taken note of: that
// is read, too.
func TestNothingIsMissedAtTheEndOfACatchUp(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		st := w.stream(p[1])
		name := groupName(p[1], id)
		commits, _ := topicsOf(id)
		mark := func(at func(*readMark)) {
			w.sys.feed.mu.Lock()
			defer w.sys.feed.mu.Unlock()
			at(w.sys.feed.logs[commits].readers[name])
		}
		// It is passed over while nothing else will ever wake it.
		mark(func(m *readMark) { m.behind = true })
		hold := make(chan struct{})
		w.ok(w.sys.names.Tell(name, fallenBehind{}))
		w.ok(w.sys.names.Tell(name, look{func(*group.Replica) any { <-hold; return nil }}))
		synctest.Wait()
		w.say(p[0], id, "in between")
		close(hold)
		w.hears(st, "in between")
		synctest.Wait() // the read goes on behind what it emits
		mark(func(m *readMark) {
			if m.behind {
				t.Error("its credit was not given back")
			}
		})
	})
}

// A crash over one welcome while the next one waits behind it: both are joined.
func TestTheWelcomeBehindAPanicDoesNotOvertake(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		w.stream(p[1])
		hold := make(chan struct{})
		var first sync.Once
		w.failing(func(at Point) error {
			if at == PointInstallation {
				first.Do(func() { <-hold; panic("over a welcome") })
			}
			return nil
		})
		for range 2 {
			w.add(p[0], w.group(p[0]), p[1])
			synctest.Wait()
		}
		close(hold)
		elapse(time.Minute)
		joined, err := w.sys.Groups(w.ctx, p[1])
		w.ok(err)
		if len(joined) != 2 {
			t.Errorf("joined %d groups", len(joined))
		}
	})
}

// What a read brings that was begun before a crash is not mistaken for the next
// welcomes: what its life had in memory was lost.
func TestWelcomesReadBeforeACrash(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(4)
		hidden := &hiding{Bus: w.log} // the first welcome waits for its pointee
		w.sys.pointees.bus = hidden
		w.add(p[0], w.group(p[0]), p[1:]...)
		go func() { _ = w.sys.SyncWelcomes(w.ctx, p[1]) }()
		synctest.Wait()
		w.add(p[0], w.group(p[0]), p[1])
		next := w.line.queueing(bus.Welcomes)
		go func() { _ = w.sys.SyncWelcomes(w.ctx, p[1]) }() // reads behind the first
		synctest.Wait()
		w.once(PointInstallation)
		w.ok(w.sys.names.Tell(installationName(p[1]), fallenBehind{}))
		elapse(time.Second)
		hidden.show()
		next()
		w.line.flowing()
		elapse(time.Minute)
		next()
		w.ok(w.sys.SyncWelcomes(w.ctx, p[1]))
		joined, err := w.sys.Groups(w.ctx, p[1])
		w.ok(err)
		if len(joined) != 2 {
			t.Errorf("joined %d groups", len(joined))
		}
	})
}

// A Sync after a crash is answered by what the log has by then, not by a page that
// was begun before.
func TestSyncAfterACrashReads(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		w.sync(p[1], id)
		name := groupName(p[1], id)
		next := w.line.queueing(bus.GroupCommits)
		w.ok(w.sys.names.Tell(name, fallenBehind{}))
		synctest.Wait()
		w.once(PointGroup)
		w.ok(w.sys.names.Tell(name, fallenBehind{}))
		elapse(time.Second)
		done := make(chan error, 1)
		go func() { done <- w.sys.Sync(w.ctx, p[1], id) }()
		next() // the page of the read before the crash
		select {
		case err := <-done:
			t.Errorf("answered by a page that was begun before it: %v", err)
		default:
		}
		w.line.flowing()
		next() // the one that was begun since
		w.ok(<-done)
	})
}
