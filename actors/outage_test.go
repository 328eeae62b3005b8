package actors

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
)

// An outage during which the app goes on asking.
func TestAskingDuringAnOutage(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		w.stream(p[1])
		c := &countingLine{Bus: w.sys.cfg.Bus}
		w.sys.cfg.Bus = c
		w.line.sever()
		per := func() int64 {
			before := c.asked.Load()
			elapse(10 * time.Second)
			return (c.asked.Load() - before) / 10
		}
		elapse(time.Minute)
		first := per()
		for range 100 {
			_ = w.sys.SyncWelcomes(w.ctx, p[1])
			_ = w.sys.Sync(w.ctx, p[1], id)
			elapse(1100 * time.Millisecond)
		}
		if more := per(); more > first+4 {
			t.Errorf("%d questions a second before, %d after 100 Syncs", first, more)
		}
		w.line.mend()
	})
}

// A countingLine counts what a log is asked.
type countingLine struct {
	bus.Bus
	asked atomic.Int64
}

func (c *countingLine) Read(ctx context.Context, after bus.ID, limit int, topics ...bus.Topic) ([]bus.Envelope, error) {
	c.asked.Add(1)
	return c.Bus.Read(ctx, after, limit, topics...)
}

func (c *countingLine) End(ctx context.Context, topic bus.Topic) (bus.ID, error) {
	c.asked.Add(1)
	return c.Bus.End(ctx, topic)
}

// Who waits while the installation is closed.
func TestSleepSaysAsleep(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		w.line.sever()
		m := w.send(p[0], id, "cut off")
		done := make(chan error, 2)
		go func() { _, err := w.sys.AwaitMessage(w.ctx, p[0], id, m); done <- err }()
		go func() { done <- w.sys.SyncWelcomes(w.ctx, p[0]) }()
		synctest.Wait()
		w.ok(w.sys.Sleep(w.ctx, p[0]))
		for range 2 {
			if err := <-done; !errors.Is(err, ErrAsleep) && !errors.Is(err, errCut) {
				t.Errorf("who waits hears %v", err)
			}
		}
		w.line.mend()
	})
}

// A welcome that the network refuses for good.
func TestRefusedWelcome(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(3)
		id := w.group(p[0], p[1])
		w.line.refusing(func(topic bus.Topic) error {
			if topic == welcomeTopic(p[2]) {
				return bus.ErrRefused
			}
			return nil
		})
		added := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(w.ctx, 24*time.Hour)
			defer cancel()
			_, err := w.sys.Do(ctx, p[0], id, group.AddMembers{Inboxes: []string{w.inbox(p[2])}})
			added <- err
		}()
		elapse(time.Minute)
		m := w.send(p[0], id, "to the others")
		ctx, cancel := context.WithTimeout(w.ctx, 24*time.Hour)
		defer cancel()
		if s, err := w.sys.AwaitMessage(ctx, p[0], id, m); err != nil {
			t.Errorf("a message behind it: %v %v", s, err)
		}
		if err := <-added; err != nil {
			t.Errorf("the others who are added: %v", err)
		}
	})
}

// The log goes backwards, and its installations' welcomes with it.
func TestWelcomesAfterARewind(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		a, b, c := w.group(p[0]), w.group(p[0]), w.group(p[0])
		end, err := w.log.End(w.ctx, welcomeTopic(p[1]))
		w.ok(err)
		for range 4 {
			w.add(p[0], w.group(p[0]), p[1])
		}
		w.add(p[0], a, p[1])
		w.ok(w.sys.SyncWelcomes(w.ctx, p[1]))
		w.log.Rewind(bus.ShardOf(welcomeTopic(p[1]), w.log.Info().Shards), end)
		elapse(time.Minute)
		w.add(p[0], b, p[1])
		for i := 0; i < 3 && w.sys.SyncWelcomes(w.ctx, p[1]) != nil; i++ { // says so once, at most
		}
		for range 8 {
			w.add(p[0], w.group(p[0]), p[1])
		}
		w.add(p[0], c, p[1])
		w.ok(w.sys.SyncWelcomes(w.ctx, p[1]))
		for _, id := range []GroupID{b, c} {
			if err := w.sys.knows(w.ctx, p[1], id); err != nil {
				t.Errorf("a welcome was skipped: %v", err)
			}
		}
	})
}
