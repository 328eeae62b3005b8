package jetstream_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
)

// A service that is asked more than it can do refuses what may not wait, by name
// and at once, and forgets what waited longer than its asker. Another service of
// the same bus does not notice. faults.md B9.
func TestFullServiceRefusesByName(t *testing.T) {
	t.Parallel()
	b := open(t, jetstream.Config{Dir: t.TempDir()})
	hold, release := context.WithCancel(t.Context())
	handled := make(chan struct{}, 1<<14)
	for name, handle := range map[string]bus.Handler{
		"slow": func(context.Context, []byte) ([]byte, error) { handled <- struct{}{}; <-hold.Done(); return nil, nil },
		"echo": func(_ context.Context, payload []byte) ([]byte, error) { return payload, nil },
	} {
		stop, err := b.Serve(name, handle)
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
	}
	defer release()
	var asking sync.WaitGroup
	ask := func(n int, patience time.Duration) chan error {
		answers := make(chan error, n)
		for range n {
			asking.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				_, err := b.Request(ctx, "slow", nil)
				answers <- err
			})
		}
		return answers
	}
	const places, queue, more = 256, 4096, 50
	answers := ask(places+queue+more, time.Minute)
	for range more {
		var refused *bus.ServiceError
		if err := <-answers; !errors.As(err, &refused) || refused.Code != bus.CodeExhausted {
			t.Fatalf("more than may wait: %v", err)
		}
	}
	if _, err := b.Request(t.Context(), "echo", nil); err != nil {
		t.Errorf("another service: %v", err)
	}
	release()
	for range places + queue {
		if err := <-answers; err != nil {
			t.Fatalf("who waited: %v", err)
		}
	}
	asking.Wait()
	if n := len(handled); n != places+queue {
		t.Errorf("%d requests were handled", n)
	}
}

// A request whose asker waits no more is not worked on when its turn comes.
func TestWhoWaitsNoMoreIsNotAnswered(t *testing.T) {
	t.Parallel()
	b := open(t, jetstream.Config{Dir: t.TempDir()})
	hold, release := context.WithCancel(t.Context())
	defer release()
	handled := make(chan string, 1<<14)
	stop, err := b.Serve("slow", func(_ context.Context, payload []byte) ([]byte, error) {
		handled <- string(payload)
		<-hold.Done()
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	var asking sync.WaitGroup
	for range 256 {
		asking.Go(func() { _, _ = b.Request(t.Context(), "slow", nil) })
	}
	for range 256 {
		<-handled
	}
	impatient := func(patience time.Duration, payload string) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := b.Request(ctx, "slow", []byte(payload)); err == nil {
			t.Error("answered while all handlers wait")
		}
	}
	for range 20 {
		asking.Go(func() { impatient(200*time.Millisecond, "gone") })
	}
	impatient(time.Second, "") // and so outlasts the others
	release()
	asking.Wait()
	if _, err := b.Request(t.Context(), "slow", nil); err != nil {
		t.Fatal(err)
	}
	for len(handled) > 0 {
		if <-handled == "gone" {
			t.Error("a request was worked on for nobody")
		}
	}
}
