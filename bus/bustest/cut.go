package bustest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/bus"
)

// What other publishers do between two answers, and what an answer that never came
// leaves open.
var cutCases = []testCase{
	{"cut/readers that page from their cursors pass over nothing", pagesAreCuts, nil},
	{"cut/what was acknowledged before is in every answer", answersAreCurrent, ours},
	{"cut/an unknown outcome is settled by the log", outcomesAreSettled, nil},
	{"cut/a batch from before a Follow comes before what is followed", staleBatch, whole},
	{"cut/a reader that takes a feed with holes for a hint misses nothing", hints, holes},
}

// storm publishes to all the topics at once until the log has been busy for long
// enough, or has enough. The result tells the newest ID that was acknowledged, where
// IDs are told, and whether the storm is over.
func (e *env) storm(t *testing.T, long time.Duration, topics ...bus.Topic) (acknowledged func() bus.ID, over func() bool) {
	const most = 5_000 // of each publisher, whom a log in memory does not slow down
	if testing.Short() {
		long /= 10
	}
	var newest atomic.Uint64
	var running atomic.Int32
	var wg sync.WaitGroup
	stop := time.Now().Add(long)
	for p, topic := range slices.Concat(topics, topics) {
		running.Add(1)
		wg.Go(func() {
			defer running.Add(-1)
			for i := 0; i < most && time.Now().Before(stop) && !t.Failed(); i++ {
				ack, err := e.bus.Publish(e.ctx, topic, e.wrap(topic, fmt.Sprintf("%d/%d", p, i)))
				if err != nil {
					t.Errorf("publish: %v", err)
					return
				}
				for seen := newest.Load(); uint64(ack.ID) > seen && !newest.CompareAndSwap(seen, uint64(ack.ID)); {
					seen = newest.Load()
				}
			}
		})
	}
	t.Cleanup(wg.Wait)
	return func() bus.ID { return bus.ID(newest.Load()) }, func() bool { return running.Load() == 0 }
}

// pagesAreCuts: an envelope that lands between the requests of one Read lies below
// what that Read returns, or is left to the next.
func pagesAreCuts(t *testing.T, e *env) {
	c, m := group(t, 1)
	_, over := e.storm(t, 5*time.Second, c, m)
	var wg sync.WaitGroup
	for _, limit := range []int{256, 256, 7} {
		wg.Go(func() {
			var seen []bus.ID
			var after bus.ID
			for last := false; ; {
				last = over()
				page, err := e.bus.Read(e.ctx, after, limit, c, m)
				if err != nil {
					t.Errorf("read after %d: %v", after, err)
					return
				}
				for _, env := range page {
					if env.ID <= after {
						t.Errorf("ID %d after %d", env.ID, after)
						return
					}
					after = env.ID
					seen = append(seen, after)
				}
				if last && len(page) < limit {
					break
				}
			}
			e.missedNothing(t, fmt.Sprintf("a reader of pages of %d", limit), seen, c, m)
		})
	}
	wg.Wait()
}

// missedNothing compares what a reader has with the log, each topic read alone.
func (e *env) missedNothing(t *testing.T, who string, seen []bus.ID, topics ...bus.Topic) {
	var all []bus.ID
	for _, topic := range topics {
		got, err := e.bus.Read(e.ctx, 0, 1<<20, topic)
		if err != nil {
			t.Error(err)
			return
		}
		for _, env := range got {
			all = append(all, env.ID)
		}
	}
	slices.Sort(all)
	missed := 0
	for _, id := range all {
		if _, found := slices.BinarySearch(seen, id); !found {
			missed++
		}
	}
	if missed > 0 || len(seen) != len(all) {
		t.Errorf("%s missed %d of %d envelopes, and has %d", who, missed, len(all), len(seen))
	}
}

// answersAreCurrent: whoever asks after an acknowledgement learns of the envelope, by
// whichever question.
func answersAreCurrent(t *testing.T, e *env) {
	c, m := group(t, 1)
	acknowledged, over := e.storm(t, time.Second, c, m)
	other := e.connect(t)
	var wg sync.WaitGroup
	for what, ask := range map[string]func(b bus.Bus) (bus.ID, error){
		"last": func(b bus.Bus) (bus.ID, error) {
			ids, err := b.Last(e.ctx, c, m)
			return max(ids[0], ids[1]), err
		},
		"end": func(b bus.Bus) (bus.ID, error) { return b.End(e.ctx, c) },
		"read": func(b bus.Bus) (bus.ID, error) {
			from := acknowledged()
			page, err := b.Read(e.ctx, from, 1<<20, c, m)
			for _, env := range page {
				from = env.ID
			}
			return from, err
		},
	} {
		for _, b := range []bus.Bus{e.bus, other} {
			wg.Go(func() {
				for !over() {
					before := acknowledged()
					if got, err := ask(b); err != nil || got < before {
						t.Errorf("%s: %d, %v, though %d was acknowledged", what, got, err, before)
						return
					}
				}
			})
		}
	}
	wg.Wait()
}

// outcomesAreSettled: whoever gets no answer reads on, and publishes again what is
// not there. Then all of it is in the log, and what was answered at once is there
// once.
func outcomesAreSettled(t *testing.T, e *env) {
	const total = 200
	m := messages(t, 1)
	tries := make(map[string]int)
	for i := range total {
		text := fmt.Sprint(i)
		for there := false; !there; {
			tries[text]++
			_, err := e.bus.Publish(e.ctx, m, e.wrap(m, text))
			if there = err == nil; there {
				break
			}
			if !errors.Is(err, bus.ErrUnavailable) {
				t.Fatal(err)
			}
			there = slices.ContainsFunc(e.readAll(t, m), func(env bus.Envelope) bool { return string(env.Payload) == text })
		}
	}
	copies := make(map[string]int)
	for _, env := range e.readAll(t, m) {
		copies[string(env.Payload)]++
	}
	for text, n := range tries {
		if copies[text] < 1 || copies[text] > n {
			t.Errorf("%q was published %d times, and is in the log %d times", text, n, copies[text])
		}
	}
}

// readAll reads a topic however often that fails.
func (e *env) readAll(t *testing.T, topic bus.Topic) []bus.Envelope {
	t.Helper()
	for {
		got, err := e.bus.Read(e.ctx, 0, 1<<20, topic)
		if err == nil {
			return e.unwrap(got)
		}
		if !errors.Is(err, bus.ErrUnavailable) {
			t.Fatal(err)
		}
	}
}

// staleBatch: what a feed took before it was told to follow from elsewhere may still
// come, before all else. What is followed then comes whole and in order.
func staleBatch(t *testing.T, e *env) {
	m := messages(t, 1)
	f := e.open(t, e.bus)
	var ids []bus.ID
	publish := func() { ids = append(ids, e.publish(t, m, fmt.Sprint(len(ids)))) }
	publish()
	for range 20 {
		start := len(ids)
		e.follow(t, f, ids[start-1], m)
		for range 4 {
			publish()
		}
		e.follow(t, f, ids[start+1], m)
		publish()
		var got []bus.ID
		for len(got) == 0 || got[len(got)-1] != ids[start+4] {
			for _, env := range e.next(t, f) {
				got = append(got, env.ID)
			}
		}
		before := max(0, len(got)-3)
		if stale := got[:before]; before > 4 || !slices.Equal(stale, ids[start:start+before]) || !slices.Equal(got[before:], ids[start+2:]) {
			t.Fatalf("followed after %d, then after %d: got %d of %d", ids[start-1], ids[start+1], got, ids[start:])
		}
	}
}

// hints: a reader that has news from a feed reads on from its cursor, and looks once
// more when there was none for a while.
func hints(t *testing.T, e *env) {
	c, m := group(t, 1)
	f := e.open(t, e.bus)
	e.follow(t, f, 0, c, m)
	_, over := e.storm(t, time.Second, c, m)
	var seen []bus.ID
	var after bus.ID
	newest := make(map[bus.Topic]bus.ID)
	heard := 0
	for done := false; !done; {
		done = over()
		ctx, cancel := context.WithTimeout(e.ctx, 20*time.Millisecond)
		batch, err := f.Next(ctx)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("next: %v", err)
		}
		heard += len(batch)
		for _, env := range batch {
			if env.ID <= newest[env.Topic] {
				t.Fatalf("%v: %d delivered after %d", env.Topic, env.ID, newest[env.Topic])
			}
			newest[env.Topic] = env.ID
		}
		for more := true; more; {
			page := e.read(t, after, 256, c, m)
			for _, env := range page {
				after = env.ID
				seen = append(seen, after)
			}
			more = len(page) == 256
		}
	}
	e.missedNothing(t, "a reader that was told by its feed", seen, c, m)
	if heard == 0 {
		t.Error("the feed told nothing")
	}
}
