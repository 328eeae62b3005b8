package bustest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/conclave-chat/conclave/bus"
)

var feedCases = []testCase{
	{"feed/replays, then goes on live", replayThenLive, whole},
	{"feed/followed while others publish: no gap, no double", followUnderLoad, whole},
	{"feed/starts above the position it is given", fromPosition, whole},
	{"feed/delivers what is followed and nothing else", onlyFollowed, whole},
	{"feed/unfollow ends delivery", unfollow, whole},
	{"feed/following again starts again", followAgain, whole},
	{"feed/a restart from the last ID misses nothing", restart, whole},
	{"feed/feeds are independent", twoFeeds, whole},
	{"feed/what another connection publishes arrives", foreign, whole},
	{"feed/a reader that sleeps loses nothing and holds up nobody", slowReader, whole},
	{"feed/many topics over all shards", manyTopics, whole},
	{"feed/many topics followed by one call are merged", oneCall, all(ours, whole)},
	{"feed/its own close ends it", feedCloses, nil},
	{"feed/a log that went backwards is said", feedRewound, all(canRewind, whole)},
}

func replayThenLive(t *testing.T, e *env) {
	c, m := group(t, 1)
	sent := e.fill(t, 700, "old ", c, m)
	f := e.open(t, e.bus)
	e.follow(t, f, 0, c, m)
	got := e.receive(t, f, 700)
	rising(t, got)
	same(t, got, sent)
	for i := range 20 {
		payload := fmt.Sprint("live ", i)
		id := e.publish(t, []bus.Topic{c, m}[i%2], payload)
		if got := e.receive(t, f, 1)[0]; got.ID != id || string(got.Payload) != payload {
			t.Fatalf("published %q as %d, got %q as %d", payload, id, got.Payload, got.ID)
		}
	}
}

func followUnderLoad(t *testing.T, e *env) {
	const groups, each = 12, 60
	f := e.open(t, e.bus)
	var topics []bus.Topic
	for n := range groups {
		c, m := group(t, n)
		topics = append(topics, c, m)
	}
	sent := make(map[bus.ID]string)
	var wg sync.WaitGroup
	wg.Go(func() { sent = e.fill(t, 2*groups*each, "", topics...) })
	for n := range groups { // each at another moment of the load
		wg.Go(func() { e.follow(t, f, 0, topics[2*n], topics[2*n+1]) })
		if n%3 == 2 {
			e.publish(t, messages(t, 100+n), "pace")
		}
	}
	got := e.receive(t, f, 2*groups*each)
	wg.Wait()
	same(t, got, sent)
	for n := range groups {
		rising(t, slices.DeleteFunc(slices.Clone(got), func(env bus.Envelope) bool {
			return env.Topic != topics[2*n] && env.Topic != topics[2*n+1]
		}))
	}
	e.quiet(t, f, topics[0])
}

func fromPosition(t *testing.T, e *env) {
	m := messages(t, 1)
	var ids []bus.ID
	for i := range 5 {
		ids = append(ids, e.publish(t, m, fmt.Sprint(i)))
	}
	for i, after := range ids[:4] {
		f := e.open(t, e.bus)
		e.follow(t, f, after, m)
		if got := e.receive(t, f, 4-i); got[0].ID != ids[i+1] {
			t.Fatalf("first after %d is %d, want %d", after, got[0].ID, ids[i+1])
		}
	}
	f := e.open(t, e.bus)
	e.follow(t, f, ids[4], m)
	e.quiet(t, f, m)
}

func onlyFollowed(t *testing.T, e *env) {
	topics := e.together(t, 3)
	c, m := group(t, 0)
	f := e.open(t, e.bus)
	e.follow(t, f, 0, m)
	for _, other := range append(topics[1:], c) {
		e.publish(t, other, "not for this feed")
	}
	e.quiet(t, f, m)
}

func unfollow(t *testing.T, e *env) {
	topics := e.together(t, 2)
	f := e.open(t, e.bus)
	e.follow(t, f, 0, topics...)
	e.publish(t, topics[0], "1")
	e.publish(t, topics[1], "2")
	e.receive(t, f, 2)
	f.Unfollow(topics[0])
	f.Unfollow(topics[0], messages(t, 50)) // what is not followed does no harm
	e.publish(t, topics[0], "3")
	e.quiet(t, f, topics[1])
}

func followAgain(t *testing.T, e *env) {
	m := messages(t, 1)
	f := e.open(t, e.bus)
	e.follow(t, f, 0, m)
	first := e.publish(t, m, "1")
	e.publish(t, m, "2")
	e.receive(t, f, 2)
	e.follow(t, f, first, m)
	if got := payloads(e.receive(t, f, 1)); got != "2" {
		t.Fatalf("followed again after the first: %q", got)
	}
	f.Unfollow(m)
	e.follow(t, f, 0, m)
	if got := payloads(e.receive(t, f, 2)); got != "1 2" {
		t.Fatalf("followed again from the start: %q", got)
	}
	e.quiet(t, f, m)
}

func restart(t *testing.T, e *env) {
	const total = 400
	c, m := group(t, 1)
	var (
		sent map[bus.ID]string
		wg   sync.WaitGroup
		got  []bus.Envelope
		last bus.ID
	)
	wg.Go(func() { sent = e.fill(t, total, "", c, m) })
	for len(got) < total {
		f := e.open(t, e.bus)
		e.follow(t, f, last, c, m)
		for _, env := range e.next(t, f) {
			got, last = append(got, env), env.ID
			if len(got)%37 == 0 {
				break // the rest of the batch is lost in the crash
			}
		}
		f.Close()
	}
	wg.Wait()
	rising(t, got)
	same(t, got, sent)
}

func twoFeeds(t *testing.T, e *env) {
	topics := e.together(t, 3)
	both := topics[0]
	f, g := e.open(t, e.bus), e.open(t, e.bus)
	e.follow(t, f, 0, both, topics[1])
	e.follow(t, g, 0, both, topics[2])
	for i, topic := range topics {
		e.publish(t, topic, fmt.Sprint(i))
	}
	texts := func(got []bus.Envelope) string {
		words := strings.Fields(payloads(got))
		slices.Sort(words)
		return strings.Join(words, " ")
	}
	if got := texts(e.receive(t, f, 2)); got != "0 1" {
		t.Fatalf("first feed got %q", got)
	}
	if got := texts(e.receive(t, g, 2)); got != "0 2" {
		t.Fatalf("second feed got %q", got)
	}
	f.Unfollow(both)
	e.quiet(t, g, both)
	g.Close()
	e.quiet(t, f, topics[1])
}

func foreign(t *testing.T, e *env) {
	c, m := group(t, 1)
	f := e.open(t, e.connect(t))
	e.follow(t, f, 0, c, m)
	sent := e.fill(t, 200, "", c, m)
	got := e.receive(t, f, len(sent))
	rising(t, got)
	same(t, got, sent)
}

func slowReader(t *testing.T, e *env) {
	const total = 6000
	topics := e.together(t, 4)
	slow, quick := e.open(t, e.bus), e.open(t, e.bus)
	e.follow(t, slow, 0, topics...)
	e.follow(t, quick, 0, topics[0])
	var (
		sent map[bus.ID]string
		wg   sync.WaitGroup
	)
	wg.Go(func() { sent = e.fill(t, total, "", topics...) })
	got := e.receive(t, quick, total/len(topics)) // while slow sleeps
	rising(t, got)
	wg.Wait()
	got = e.receive(t, slow, total)
	e.rising(t, got)
	same(t, got, sent)
	e.quiet(t, slow, topics[1])
	e.quiet(t, quick, topics[0])
}

func manyTopics(t *testing.T, e *env) {
	const groups = 400
	f := e.open(t, e.bus)
	var topics []bus.Topic
	for n := range groups {
		c, m := group(t, n)
		topics = append(topics, c, m)
	}
	old := e.fill(t, len(topics), "old ", topics...)
	for n := range groups {
		e.follow(t, f, 0, topics[2*n], topics[2*n+1])
	}
	same(t, e.receive(t, f, len(old)), old)
	sent := e.fill(t, len(topics), "new ", topics...)
	same(t, e.receive(t, f, len(sent)), sent)
}

func oneCall(t *testing.T, e *env) {
	topics := e.together(t, 300)
	f := e.open(t, e.bus)
	old := e.fill(t, 1500, "old ", topics...)
	e.follow(t, f, 0, topics...)
	got := e.receive(t, f, len(old))
	rising(t, got)
	same(t, got, old)
	sent := e.fill(t, 600, "new ", topics...)
	got = e.receive(t, f, len(sent))
	rising(t, got)
	same(t, got, sent)
}

func feedCloses(t *testing.T, e *env) {
	m := messages(t, 1)
	f := e.open(t, e.bus)
	e.follow(t, f, 0, m)
	e.publish(t, m, "never taken")
	for range 2 {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := f.Next(e.ctx); !errors.Is(err, bus.ErrClosed) {
			t.Fatalf("next: %v", err)
		}
	}
	if err := f.Follow(e.ctx, 0, m); !errors.Is(err, bus.ErrClosed) {
		t.Fatalf("follow: %v", err)
	}
	waiting := e.open(t, e.bus)
	ended := make(chan error)
	go func() {
		_, err := waiting.Next(e.ctx)
		ended <- err
	}()
	waiting.Close()
	if err := <-ended; !errors.Is(err, bus.ErrClosed) {
		t.Fatalf("a waiting next: %v", err)
	}
}

func feedRewound(t *testing.T, e *env) {
	m := messages(t, 1)
	f := e.open(t, e.bus)
	e.follow(t, f, 0, m)
	kept := e.publish(t, m, "kept")
	lost := e.publish(t, m, "lost")
	e.receive(t, f, 2)
	e.rewind(t, kept.Shard(), kept)
	if _, err := f.Next(e.ctx); !errors.Is(err, bus.ErrLogRolledBack) {
		t.Fatalf("next: %v", err)
	}
	if err := f.Follow(e.ctx, lost, m); !errors.Is(err, bus.ErrLogRolledBack) {
		t.Fatalf("follow from what is gone: %v", err)
	}
	e.follow(t, f, 0, m)
	if got := payloads(e.receive(t, f, 1)); got != "kept" {
		t.Fatalf("followed anew: %q", got)
	}
	e.quiet(t, f, m)
}
