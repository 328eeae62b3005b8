package bustest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/conclave-chat/conclave/bus"
)

var followAllCases = []testCase{
	{"all/every topic of every shard arrives, in the order of its shard", allTopics, all(followAll, whole)},
	{"all/what came before does not", allFromNowOn, all(followAll, whole)},
	{"all/followed while others publish: no gap, no double", allUnderLoad, all(followAll, whole)},
	{"all/a reader that sleeps loses nothing", allSlowReader, all(followAll, whole)},
	{"all/asked for again, it changes nothing", allAgain, all(followAll, whole)},
	{"all/a feed follows topics or everything", allOrTopics, all(followAll, whole)},
	{"all/its own close ends it", allCloses, all(followAll, whole)},
	{"all/a log that went backwards is said, and taken up again", allRewound, all(followAll, canRewind, whole)},
	{"all/an adapter without it says so", allAbsent, noFollowAll},
}

func (e *env) followAll(t *testing.T, b bus.Bus) bus.Feed {
	t.Helper()
	f := e.open(t, b)
	if err := f.FollowAll(e.ctx); err != nil {
		t.Fatalf("follow all: %v", err)
	}
	return f
}

// everyKind returns topics of each kind, n of each.
func everyKind(t *testing.T, n int) (topics []bus.Topic) {
	t.Helper()
	for i := range n {
		id := sha256.Sum256(fmt.Appendf(nil, "id %d", i))
		for _, build := range []func() (bus.Topic, error){
			func() (bus.Topic, error) { return bus.CommitsOf(id[:16]) },
			func() (bus.Topic, error) { return bus.MessagesOf(id[:16]) },
			func() (bus.Topic, error) { return bus.CommitLogOf(id[:16]) },
			func() (bus.Topic, error) { return bus.WelcomesFor(id[:]) },
			func() (bus.Topic, error) { return bus.IdentityOf(id[:]) },
			func() (bus.Topic, error) { return bus.KeyPackagesOf(id[:]) },
		} {
			topic, err := build()
			if err != nil {
				t.Fatal(err)
			}
			topics = append(topics, topic)
		}
	}
	return topics
}

// risingByShard checks the order in which all of a shard was delivered.
func risingByShard(t *testing.T, got []bus.Envelope) {
	t.Helper()
	newest := make(map[int]bus.ID)
	for _, env := range got {
		if shard := env.ID.Shard(); env.ID <= newest[shard] {
			t.Fatalf("ID %d after %d in shard %d", env.ID, newest[shard], shard)
		} else {
			newest[shard] = env.ID
		}
	}
}

func allTopics(t *testing.T, e *env) {
	topics := everyKind(t, 50)
	f := e.followAll(t, e.connect(t))
	sent := e.fill(t, 3*len(topics), "", topics...)
	got := e.receive(t, f, len(sent))
	risingByShard(t, got)
	same(t, got, sent)
	for _, env := range got {
		if !slices.Contains(topics, env.Topic) {
			t.Fatalf("ID %d is said to be in %v", env.ID, env.Topic)
		}
	}
}

func allFromNowOn(t *testing.T, e *env) {
	topics := everyKind(t, 10)
	first := e.followAll(t, e.bus) // so that what reads the log's end runs already
	old := e.fill(t, 200, "old ", topics...)
	f := e.followAll(t, e.bus)
	sent := e.fill(t, 200, "new ", topics...)
	same(t, e.receive(t, f, len(sent)), sent)
	got := e.receive(t, first, len(old)+len(sent))
	risingByShard(t, got)
}

func allUnderLoad(t *testing.T, e *env) {
	const total, feeds = 3000, 10
	topics := everyKind(t, 20)
	var (
		sent map[bus.ID]string
		wg   sync.WaitGroup
	)
	first := e.followAll(t, e.bus)
	wg.Go(func() { sent = e.fill(t, total, "", topics...) })
	// Each feed begins where the load is when it comes, and has from each shard
	// all that follows the first that it gets.
	heard := make([][]bus.Envelope, feeds)
	for i := range feeds {
		f := e.followAll(t, e.bus)
		wg.Go(func() {
			for done := make(map[bus.Topic]bool); len(done) < len(topics); {
				batch, err := f.Next(e.ctx)
				if err != nil {
					t.Errorf("next: %v", err)
					return
				}
				for _, env := range batch {
					if string(env.Payload) == "end" {
						done[env.Topic] = true
						continue
					}
					heard[i] = append(heard[i], env)
				}
			}
		})
		e.publish(t, messages(t, 100+i), "pace")
	}
	got := e.receive(t, first, total+feeds)
	risingByShard(t, got)
	for _, topic := range topics {
		e.publish(t, topic, "end")
	}
	wg.Wait()
	if len(sent) != total {
		t.Fatalf("%d of %d were published", len(sent), total)
	}
	for i := range feeds {
		risingByShard(t, heard[i])
		from := make(map[int]bus.ID)
		for _, env := range slices.Backward(heard[i]) {
			from[env.ID.Shard()] = env.ID
		}
		want := slices.DeleteFunc(slices.Clone(got), func(env bus.Envelope) bool {
			first, ok := from[env.ID.Shard()]
			return !ok || env.ID < first
		})
		if len(heard[i]) != len(want) {
			t.Fatalf("feed %d got %d envelopes, want %d", i, len(heard[i]), len(want))
		}
	}
}

func allSlowReader(t *testing.T, e *env) {
	const total = 6000
	topics := everyKind(t, 20)
	f := e.followAll(t, e.bus)
	sent := e.fill(t, total, "", topics...) // more than any feed holds
	got := e.receive(t, f, total)
	risingByShard(t, got)
	same(t, got, sent)
	e.quiet(t, f, topics[1])
}

func allAgain(t *testing.T, e *env) {
	m := messages(t, 1)
	f := e.followAll(t, e.bus)
	e.publish(t, m, "1")
	if err := f.FollowAll(e.ctx); err != nil {
		t.Fatal(err)
	}
	e.publish(t, m, "2")
	if got := payloads(e.receive(t, f, 2)); got != "1 2" {
		t.Fatalf("got %q", got)
	}
	e.quiet(t, f, m)
}

func allOrTopics(t *testing.T, e *env) {
	m := messages(t, 1)
	f := e.open(t, e.bus)
	e.follow(t, f, 0, m)
	if err := f.FollowAll(e.ctx); !errors.Is(err, bus.ErrBadTopic) {
		t.Errorf("everything after topics: %v", err)
	}
	e.quiet(t, f, m)
	f.Unfollow(m)
	if err := f.FollowAll(e.ctx); err != nil {
		t.Errorf("everything after topics that are followed no more: %v", err)
	}
	if err := f.Follow(e.ctx, 0, m); !errors.Is(err, bus.ErrBadTopic) {
		t.Errorf("topics after everything: %v", err)
	}
	f.Unfollow(m)
	e.quiet(t, f, m)
}

func allCloses(t *testing.T, e *env) {
	m := messages(t, 1)
	f, kept := e.followAll(t, e.bus), e.followAll(t, e.bus)
	e.publish(t, m, "never taken")
	for range 2 {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.Next(e.ctx); !errors.Is(err, bus.ErrClosed) {
		t.Fatalf("next: %v", err)
	}
	if err := f.FollowAll(e.ctx); !errors.Is(err, bus.ErrClosed) {
		t.Fatalf("follow all: %v", err)
	}
	e.receive(t, kept, 1)
	e.quiet(t, kept, m)
}

func allRewound(t *testing.T, e *env) {
	m := messages(t, 1)
	f := e.followAll(t, e.bus)
	kept := e.publish(t, m, "kept")
	e.publish(t, m, "lost")
	e.receive(t, f, 2)
	e.rewind(t, kept.Shard(), kept)
	if _, err := f.Next(e.ctx); !errors.Is(err, bus.ErrLogRolledBack) {
		t.Fatalf("next: %v", err)
	}
	if err := f.FollowAll(e.ctx); err != nil {
		t.Fatal(err)
	}
	e.quiet(t, f, m)
}

func allAbsent(t *testing.T, e *env) {
	if err := e.open(t, e.bus).FollowAll(e.ctx); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("follow all: %v", err)
	}
}
