package actors

import (
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

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
		st, err := w.sys.Stream(w.ctx, p[1], nil, StreamConversations)
		w.ok(err)
		synctest.Wait()
		n := 0
		w.failing(func(at Point) error {
			if at == PointInstallation {
				if n++; n%3 == 1 {
					panic("over a welcome")
				}
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
		heard := 0
		for heard < groups {
			items, err := st.Next(w.ctx)
			w.ok(err)
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
		mark := func() *readMark {
			w.sys.feed.mu.Lock()
			defer w.sys.feed.mu.Unlock()
			return w.sys.feed.logs[commits].readers[name]
		}
		// It is passed over while nothing else will ever wake it.
		w.sys.feed.mu.Lock()
		w.sys.feed.logs[commits].readers[name].behind = true
		w.sys.feed.mu.Unlock()
		hold := make(chan struct{})
		w.ok(w.sys.names.Tell(name, fallenBehind{}))
		w.ok(w.sys.names.Tell(name, look{func(*group.Replica) any { <-hold; return nil }}))
		synctest.Wait()
		w.say(p[0], id, "in between")
		close(hold)
		w.hears(st, "in between")
		if mark().behind {
			t.Error("its credit was not given back")
		}
	})
}

// A crash of a reader in the middle of a catch-up: a Sync that comes later is
// not answered by the old one.
func TestSyncAfterACrashReads(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		for i := range 3 {
			w.say(p[0], id, fmt.Sprint(i))
			w.once(PointGroup)
			_ = w.sys.names.Tell(groupName(p[1], id), fallenBehind{})
			w.sync(p[1], id)
			w.failing(nil)
		}
		w.sync(p[1], id)
		w.reads(p[1], id, "0", "1", "2")
	})
}
