package actors

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/internal/telemetry"
)

func soonIdle(c *Config) { c.IdleAfter = time.Minute }

func (w *world) live() int { return w.sys.engine.Stats().Live }

// Idle groups and installations are put to sleep; a call wakes them, and so does
// an envelope where somebody listens. S93.
func TestPassivationAndWaking(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(3)
		id := w.group(p[0], p[1:]...)
		w.say(p[0], id, "one")
		st := w.stream(p[1])
		w.hears(st, "one")
		elapse(10 * time.Minute)
		if n := w.live(); n != 2 {
			t.Errorf("%d actors are awake, want the host and the stream", n)
		}
		if n := w.tel.Passivations.Of(telemetry.ActorInstallation).Value(); n == 0 {
			t.Error("no installation was put to sleep")
		}
		w.say(p[0], id, "two")
		w.hears(st, "two")
		elapse(10 * time.Minute)
		w.sync(p[2], id)
		w.reads(p[2], id, "one", "two")
		other := w.group(p[2])
		w.add(p[2], other, p[1]) // a welcome wakes the one that listens
		w.say(p[2], other, "three")
		w.hears(st, "three")
		w.agree(id, p...)
	}, soonIdle)
}

// Messages that come at the very moment of passivation are not lost.
func TestPassivationLosesNoMessage(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		st := w.stream(p[1])
		var want []string
		for i := range 60 {
			want = append(want, strconv.Itoa(i))
			w.send(p[0], id, want[i])
			// Around the bound, in steps that meet every phase of a tick.
			time.Sleep(55*time.Second + time.Duration(i)*331*time.Millisecond)
		}
		w.hears(st, want...)
		w.reads(p[1], id, want...)
		if n := w.tel.Passivations.Of(telemetry.ActorGroup).Value(); n == 0 {
			t.Error("nothing was put to sleep")
		}
	}, soonIdle)
}

// What sleeps costs no goroutine and little memory: nothing of it is left in
// the host's tables but the installation itself.
func TestSleepersCostLittle(t *testing.T) {
	inWorld(t, func(w *world) {
		first := w.person()
		w.group(first)
		elapse(10 * time.Minute)
		before := runtime.NumGoroutine()
		const n = 64
		for range n {
			w.group(w.person())
		}
		elapse(10 * time.Minute)
		if more := runtime.NumGoroutine() - before; more > 2 {
			t.Errorf("%d sleeping installations hold %d goroutines", n, more)
		}
		if live := w.live(); live != 1 {
			t.Errorf("%d actors are awake", live)
		}
		w.sys.feed.mu.Lock()
		followed := len(w.sys.feed.logs)
		w.sys.feed.mu.Unlock()
		if followed != 0 || len(w.sys.reader.pages) != 0 || len(w.sys.sweeper.due) != 0 || len(w.sys.streams.of) != 0 {
			t.Errorf("left: %d followed logs, %d pages, %d sweeps, %d streams", followed, len(w.sys.reader.pages), len(w.sys.sweeper.due), len(w.sys.streams.of))
		}
	}, soonIdle)
}

// A stream's consumer that takes its time: its queue is bounded, and it gets
// everything, in order. S65.
func TestSlowConsumer(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		st := w.stream(p[1])
		var want []string
		for i := range streamQueue + 200 {
			want = append(want, strconv.Itoa(i))
			w.say(p[0], id, want[i])
		}
		synctest.Wait()
		st.mu.Lock()
		queued := len(st.queue)
		st.mu.Unlock()
		if queued > streamQueue {
			t.Errorf("%d items are kept for a slow consumer", queued)
		}
		if w.tel.StreamsBehind.Value() == 0 {
			t.Error("the stream was never behind")
		}
		w.once(PointStream) // a crash of its actor loses nothing either
		w.hears(st, want...)
		w.failing(nil)
		w.say(p[0], id, "live again")
		w.hears(st, "live again")
		w.ok(st.Close())
		w.ok(st.Close())
		if _, err := st.Next(w.ctx); !errors.Is(err, ErrClosed) {
			t.Errorf("Next of a closed stream: %v", err)
		}
	})
}

// Close with messages under way: what was accepted is on disk and goes out when
// the host is there again.
func TestCloseWithMessagesUnderWay(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		var want []string
		for i := range 50 {
			want = append(want, strconv.Itoa(i))
			w.send(p[0], id, want[i])
		}
		w.restart()
		w.sync(p[0], id)
		w.reads(p[0], id, want...)
		w.sync(p[1], id)
		w.reads(p[1], id, want...)
		if n := len(w.published(id)); n != len(want) {
			t.Errorf("%d envelopes for %d messages", n, len(want))
		}
	})
}

// Close is idempotent and answers everybody who waits.
func TestCloseAnswersWhoWaits(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		st := w.stream(p[1])
		w.line.sever()
		message := w.send(p[0], id, "cut off")
		var wg sync.WaitGroup
		waits := func(what string, wait func(context.Context) error) {
			wg.Go(func() {
				if err := wait(w.ctx); !errors.Is(err, ErrClosed) {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		waits("AwaitMessage", func(ctx context.Context) error {
			_, err := w.sys.AwaitMessage(ctx, p[0], id, message)
			return err
		})
		waits("Do", func(ctx context.Context) error {
			_, err := w.sys.Do(ctx, p[0], id, group.UpdateMetadata{Field: "group_name", Value: "never"})
			return err
		})
		waits("Next", func(ctx context.Context) error {
			_, err := st.Next(ctx)
			return err
		})
		synctest.Wait()
		w.close()
		wg.Wait()
		w.close()
		if _, err := w.sys.Submit(w.ctx, p[0], id, group.Send{Content: []byte("late")}); !errors.Is(err, ErrClosed) {
			t.Errorf("a closed host says %v", err)
		}
		w.line.mend()
	})
}

// Closing twice at once, and a context that bounds the wait.
func TestCloseTogether(t *testing.T) {
	inWorld(t, func(w *world) {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(w.close)
		}
		wg.Wait()
	})
}

// An installation that is closed leaves nothing behind; opened again it goes on.
func TestSleepAndWake(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		st := w.stream(p[1])
		w.say(p[0], id, "one")
		w.hears(st, "one")
		w.ok(w.sys.Sleep(w.ctx, p[1]))
		if _, err := st.Next(w.ctx); !errors.Is(err, ErrAsleep) && !errors.Is(err, ErrClosed) {
			t.Errorf("a stream of a closed installation says %v", err)
		}
		w.ok(st.Close())
		w.say(p[0], id, "two")
		_, err := w.sys.Wake(w.ctx, p[1], w.keys[p[1]])
		w.ok(err)
		w.sync(p[1], id)
		w.reads(p[1], id, "one", "two")
	})
}
