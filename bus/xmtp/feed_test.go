package xmtp_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/bus/xmtp"
	"github.com/conclave-chat/conclave/gateway"
)

func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// topics are the two of the n-th group.
func topics(t testing.TB, n int) (commits, messages bus.Topic) {
	t.Helper()
	id := fmt.Appendf(nil, "%016d", n)
	commits, err := bus.CommitsOf(id)
	if err != nil {
		t.Fatal(err)
	}
	messages, err = bus.MessagesOf(id)
	if err != nil {
		t.Fatal(err)
	}
	return commits, messages
}

func publish(t testing.TB, b bus.Bus, topic bus.Topic, text string) {
	t.Helper()
	if _, err := b.Publish(t.Context(), topic, payload(topic, text)); err != nil {
		t.Fatalf("publish %.20q: %v", text, err)
	}
}

func follow(t testing.TB, b bus.Bus) bus.Feed {
	t.Helper()
	f, err := b.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// receive takes n envelopes, each once and those of a group in order. Between
// them the feed may say that the network cannot be reached.
func receive(ctx context.Context, t *testing.T, f bus.Feed, n int) (got []bus.Envelope, disturbed int) {
	t.Helper()
	newest := make(map[string]bus.ID)
	for len(got) < n {
		batch, err := f.Next(ctx)
		if errors.Is(err, bus.ErrUnavailable) {
			disturbed++
			continue
		}
		if err != nil {
			t.Fatalf("after %d of %d: %v", len(got), n, err)
		}
		for _, e := range batch {
			if group := string(e.Topic.ID()); e.ID <= newest[group] {
				t.Fatalf("%v: %d after %d", e.Topic, e.ID, newest[group])
			} else {
				newest[group] = e.ID
			}
		}
		got = append(got, batch...)
	}
	if len(got) > n {
		t.Fatalf("%d envelopes, want %d", len(got), n)
	}
	return got, disturbed
}

// A host has thousands of groups on one connection: they share a few streams,
// which are not opened again for every one that is added.
func TestManyGroupsShareAFewStreams(t *testing.T) {
	const groups = 500
	ctx, log := patient(t), embedded(t, jetstream.Config{})
	url, _ := serve(t, log, "127.0.0.1:0", gateway.Config{})
	w := newWire(t, url)
	f := follow(t, connect(t, xmtp.Config{URL: w.url}))
	for n := range groups {
		c, m := topics(t, n)
		if err := f.Follow(ctx, 0, c, m); err != nil {
			t.Fatal(err)
		}
	}
	for n := range groups {
		_, m := topics(t, n)
		publish(t, log, m, "hello")
	}
	receive(ctx, t, f, groups)
	if opened := w.count(subscribeGroups); opened > groups/10 {
		t.Errorf("%d streams were opened for %d groups", opened, groups)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.most > 10 { // two, and those that they take the place of
		t.Errorf("%d streams were open at a time", w.most)
	}
}

// A network that goes away and comes back is said, and has lost nothing.
func TestFeedGoesOnAfterAnOutage(t *testing.T) {
	ctx, log := patient(t), embedded(t, jetstream.Config{})
	url, stop := serve(t, log, "127.0.0.1:0", gateway.Config{})
	b := connect(t, xmtp.Config{URL: url})
	f := follow(t, b)
	c, m := topics(t, 1)
	if err := f.Follow(ctx, 0, c, m); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		publish(t, log, []bus.Topic{c, m}[i%2], fmt.Sprint("before ", i))
	}
	receive(ctx, t, f, 20)
	stop()
	if _, err := f.Next(ctx); !errors.Is(err, bus.ErrUnavailable) {
		t.Fatalf("a network that is gone: %v", err)
	}
	if _, err := b.Publish(ctx, m, payload(m, "lost?")); !errors.Is(err, bus.ErrUnavailable) {
		t.Fatalf("publish to a network that is gone: %v", err)
	}
	for i := range 20 {
		publish(t, log, []bus.Topic{c, m}[i%2], fmt.Sprint("meanwhile ", i))
	}
	serve(t, log, strings.TrimPrefix(url, "http://"), gateway.Config{})
	receive(ctx, t, f, 20)
	publish(t, b, m, "after")
	receive(ctx, t, f, 1)
}

// A watched bus tells when a feed of its is closed, as a node closes that of a
// stream which has ended.
type watched struct {
	bus.Bus
	closed chan struct{}
}

func (w *watched) Open(ctx context.Context) (bus.Feed, error) {
	f, err := w.Bus.Open(ctx)
	return watchedFeed{f, w.closed}, err
}

type watchedFeed struct {
	bus.Feed
	closed chan struct{}
}

func (f watchedFeed) Close() error {
	f.closed <- struct{}{}
	return f.Feed.Close()
}

// A reader that sleeps is cut off by the network, and has lost nothing: what it
// did not take is read from its cursor.
func TestReaderThatIsCutOffLosesNothing(t *testing.T) {
	const envelopes = 80 // of a megabyte, so that no buffer on the way holds them
	ctx, log := patient(t), &watched{embedded(t, jetstream.Config{}), make(chan struct{}, 100)}
	url, _ := serve(t, log, "127.0.0.1:0", gateway.Config{Limits: gateway.Limits{StallTimeout: 50 * time.Millisecond}})
	f := follow(t, connect(t, xmtp.Config{URL: url}))
	c, m := topics(t, 1)
	for i := range envelopes {
		publish(t, log, []bus.Topic{c, m}[i%2], fmt.Sprint(i, strings.Repeat("x", 1<<20)))
	}
	if err := f.Follow(ctx, 0, c, m); err != nil {
		t.Fatal(err)
	}
	select {
	case <-log.closed:
	case <-ctx.Done():
		t.Fatal("the stream was not cut off")
	}
	receive(ctx, t, f, envelopes)
	publish(t, log, m, "after")
	receive(ctx, t, f, 1)
}

// The two topics of a group have cursors of their own, on one stream.
func TestTopicsOfAGroupAreFollowedFromDifferentPositions(t *testing.T) {
	ctx, log := patient(t), embedded(t, jetstream.Config{})
	url, _ := serve(t, log, "127.0.0.1:0", gateway.Config{})
	b := connect(t, xmtp.Config{URL: url})
	c, m := topics(t, 1)
	for i := range 6 {
		publish(t, log, []bus.Topic{c, m}[i%2], fmt.Sprint(i))
	}
	last, err := b.Last(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	f := follow(t, b)
	if err := f.Follow(ctx, last[0], m); err != nil {
		t.Fatal(err)
	}
	publish(t, log, m, "new")
	receive(ctx, t, f, 1)
	if err := f.Follow(ctx, 0, c); err != nil {
		t.Fatal(err)
	}
	got, _ := receive(ctx, t, f, 3)
	for _, e := range got {
		if e.Topic != c {
			t.Errorf("%v comes again", e.Topic)
		}
	}
}

// Our own nodes say it when their log went backwards; readers and feeds hear it,
// and go on from what is there.
func TestLogThatWentBackwards(t *testing.T) {
	ctx, log := patient(t), memory.New(memory.Config{})
	defer log.Close()
	url, _ := serve(t, log, "127.0.0.1:0", gateway.Config{})
	b := connect(t, xmtp.Config{URL: url})
	f := follow(t, b)
	c, m := topics(t, 1)
	publish(t, log, m, "kept")
	publish(t, log, m, "lost")
	if err := f.Follow(ctx, 0, c, m); err != nil {
		t.Fatal(err)
	}
	got, _ := receive(ctx, t, f, 2)
	log.Rewind(0, got[0].ID)
	if _, err := b.Read(ctx, got[1].ID, 10, c, m); !errors.Is(err, bus.ErrLogRolledBack) {
		t.Errorf("read: %v", err)
	}
	for {
		_, err := f.Next(ctx)
		if errors.Is(err, bus.ErrLogRolledBack) {
			break
		}
		if err == nil || ctx.Err() != nil {
			t.Fatalf("next: %v", err)
		}
	}
	if err := f.Follow(ctx, 0, c, m); err != nil {
		t.Fatal(err)
	}
	receive(ctx, t, f, 1)
	publish(t, log, m, "another")
	receive(ctx, t, f, 1)
}

// Whatever is followed, followed again from elsewhere and unfollowed, in any
// order, each topic brings what lies above where it was followed from, once.
func TestFollowingInAnyOrder(t *testing.T) {
	const groups, rounds, acts = 150, 40, 25
	ctx, log := patient(t), embedded(t, jetstream.Config{Shards: 4})
	url, _ := serve(t, log, "127.0.0.1:0", gateway.Config{})
	f := follow(t, connect(t, xmtp.Config{URL: url}))
	r := rand.New(rand.NewPCG(1, 2))
	published := make(map[bus.Topic][]bus.ID)
	cursors := make(map[bus.Topic]bus.ID) // of what is followed
	number := 0
	for range rounds {
		for range acts {
			c, m := topics(t, r.IntN(groups))
			some := [][]bus.Topic{{c}, {m}, {c, m}}[r.IntN(3)]
			switch r.IntN(4) {
			case 0:
				f.Unfollow(some...)
				for _, topic := range some {
					delete(cursors, topic)
				}
			case 1, 2:
				var after bus.ID
				if all := slices.Concat(published[c], published[m]); len(all) > 0 && r.IntN(3) > 0 {
					after = all[r.IntN(len(all))]
				}
				if err := f.Follow(ctx, after, some...); err != nil {
					t.Fatal(err)
				}
				for _, topic := range some {
					cursors[topic] = after
				}
			default:
				for _, topic := range some {
					number++
					ack, err := log.Publish(ctx, topic, payload(topic, fmt.Sprint(number)))
					if err != nil {
						t.Fatal(err)
					}
					published[topic] = append(published[topic], ack.ID)
				}
			}
		}
		expected := 0
		for topic, cursor := range cursors {
			for _, id := range published[topic] {
				if id > cursor {
					expected++
				}
			}
		}
		for expected > 0 {
			batch, err := f.Next(ctx)
			if err != nil {
				t.Fatalf("%d envelopes are missing: %v", expected, err)
			}
			for _, e := range batch {
				cursor, followed := cursors[e.Topic]
				next := slices.IndexFunc(published[e.Topic], func(id bus.ID) bool { return id > cursor })
				if !followed || next < 0 || published[e.Topic][next] != e.ID {
					t.Fatalf("%v brings %d after %d, of %v", e.Topic, e.ID, cursor, published[e.Topic])
				}
				cursors[e.Topic] = e.ID
				expected--
			}
		}
	}
}
