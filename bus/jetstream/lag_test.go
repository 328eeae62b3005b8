package jetstream

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/conclave-chat/conclave/bus"
)

// A follower that lags answers every other read, and knows nothing: what was
// acknowledged is read all the same, since the leader is asked about the end.
func TestReadsAreCompleteThoughAFollowerLags(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	b, err := Open(ctx, Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	b.replicated.Store(true)

	follower, err := nats.Connect("", b.server.dialOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	defer follower.Close()
	b.directGet = "LAGGING."
	asked := 0
	_, err = follower.Subscribe(b.directGet+b.stream(0), func(m *nats.Msg) {
		if asked++; asked%2 == 0 {
			if err := follower.PublishRequest("$JS.API.DIRECT.GET."+b.stream(0), m.Reply, m.Data); err != nil {
				t.Error(err)
			}
			return
		}
		answer := nats.NewMsg(m.Reply)
		answer.Header.Set("Status", "404")
		answer.Header.Set("Description", "Message Not Found")
		if err := follower.PublishMsg(answer); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := follower.Flush(); err != nil {
		t.Fatal(err)
	}

	var topics []bus.Topic
	for n := range sweepFrom + 1 {
		topic, err := bus.MessagesOf(fmt.Appendf(nil, "%016d", n))
		if err != nil {
			t.Fatal(err)
		}
		topics = append(topics, topic)
	}
	const each = 20
	m := topics[0]
	for n := range each {
		if _, err := b.Publish(ctx, m, fmt.Append(nil, n)); err != nil {
			t.Fatal(err)
		}
		got, err := b.Read(ctx, 0, 100, m)
		if err != nil || len(got) != n+1 {
			t.Fatalf("read %d of %d, %v", len(got), n+1, err)
		}
		last, err := b.Last(ctx, m)
		if err != nil || last[0] != got[n].ID {
			t.Fatalf("last is %v, %v; want %d", last, err, got[n].ID)
		}
	}
	// A feed catches up by topics, and by one sweep where they are many.
	for _, follow := range [][]bus.Topic{topics[:2], topics} {
		f, err := b.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Follow(ctx, 0, follow...); err != nil {
			t.Fatal(err)
		}
		var newest bus.ID
		for n := 0; n < each; {
			batch, err := f.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range batch {
				if string(e.Payload) != fmt.Sprint(n) || e.ID <= newest {
					t.Fatalf("envelope %d is %q", n, e.Payload)
				}
				n, newest = n+1, e.ID
			}
		}
		f.Close()
	}
}

// The tail's consumer may run on a follower that is ahead of the leader. What the
// leader does not have yet is waited for: its end is not the end.
func TestReadsAreCompleteThoughTheLeaderLags(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	b, err := Open(ctx, Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	b.replicated.Store(true)
	m, err := bus.MessagesOf(make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	publish := func(n int) {
		t.Helper()
		if _, err := b.Publish(ctx, m, fmt.Append(nil, n)); err != nil {
			t.Fatal(err)
		}
	}
	publish(1)
	publish(2)

	seen := span{shard: 0, upTo: 3, limit: 100, bytes: 1 << 20}
	b.tails[0].position.Store(seen.upTo) // of which a follower knows
	for name, read := range map[string]func(context.Context) ([]bus.Envelope, error){
		"merge": func(ctx context.Context) ([]bus.Envelope, error) {
			got, _, err := b.merge(ctx, seen, map[bus.Topic]bus.ID{m: bus.MakeID(1, 0)})
			return got, err
		},
		"sweep": func(ctx context.Context) ([]bus.Envelope, error) {
			got, _, err := b.sweep(ctx, seen, map[bus.Topic]bus.ID{m: bus.MakeID(1, 0)})
			return got, err
		},
	} {
		soon, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		if got, err := read(soon); err == nil {
			t.Errorf("%s before the leader has all: %d envelopes and no error", name, len(got))
		}
		cancel()
		defer func() {
			if got, err := read(ctx); err != nil || len(got) != 2 {
				t.Errorf("%s when it has: %d envelopes, %v", name, len(got), err)
			}
		}()
	}
	publish(3)
}
