package bustest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/bus"
)

var serviceCases = []testCase{
	{"service/a request is answered from any connection", answered, ours},
	{"service/nobody serves that name", noService, ours},
	{"service/an error comes back with its code", serviceErrors, ours},
	{"service/a handler that panics answers, and goes on", panics, ours},
	{"service/handlers run concurrently", concurrentHandlers, ours},
	{"service/stop waits for what runs", stopWaits, ours},
	{"service/an asker's deadline reaches the handler", deadline, ours},
	{"service/a silent handler does not hold the asker", silent, ours},
	{"service/servers of one name share the work", share, ours},
	{"service/large requests and answers", largeRequests, ours},
	{"service/names that are none are refused", badNames, nil},
}

func (e *env) serve(t *testing.T, b bus.Bus, name string, h bus.Handler) (stop func()) {
	t.Helper()
	stop, err := b.Serve(name, h)
	if err != nil {
		t.Fatalf("serve: %v", err)
	}
	return stop
}

func echo(_ context.Context, payload []byte) ([]byte, error) { return payload, nil }

func answered(t *testing.T, e *env) {
	other := e.connect(t)
	e.serve(t, e.bus, "echo.v1", echo)
	for _, b := range []bus.Bus{e.bus, other} {
		for _, payload := range []string{"", "x", "\x00\r\n"} {
			got, err := b.Request(e.ctx, "echo.v1", []byte(payload))
			if err != nil || string(got) != payload {
				t.Fatalf("asked %q: %q, %v", payload, got, err)
			}
		}
	}
}

func noService(t *testing.T, e *env) {
	if _, err := e.bus.Request(e.ctx, "nobody", nil); !errors.Is(err, bus.ErrNoService) {
		t.Fatalf("never served: %v", err)
	}
	stop := e.serve(t, e.bus, "short", echo)
	if _, err := e.bus.Request(e.ctx, "short", nil); err != nil {
		t.Fatal(err)
	}
	stop()
	stop()
	if _, err := e.bus.Request(e.ctx, "short", nil); !errors.Is(err, bus.ErrNoService) {
		t.Fatalf("stopped: %v", err)
	}
}

func serviceErrors(t *testing.T, e *env) {
	e.serve(t, e.bus, "picky", func(_ context.Context, payload []byte) ([]byte, error) {
		if len(payload) == 0 {
			return nil, errors.New("plain")
		}
		return nil, fmt.Errorf("wrapped: %w", &bus.ServiceError{Code: "not_found", Message: "no «" + string(payload) + "»\nhere"})
	})
	b := e.connect(t)
	var failed *bus.ServiceError
	if _, err := b.Request(e.ctx, "picky", []byte("key")); !errors.As(err, &failed) ||
		failed.Code != "not_found" || failed.Message != "no «key»\nhere" {
		t.Fatalf("got %v", err)
	}
	if _, err := b.Request(e.ctx, "picky", nil); !errors.As(err, &failed) || failed.Code != bus.CodeInternal {
		t.Fatalf("got %v", err)
	}
}

func panics(t *testing.T, e *env) {
	e.serve(t, e.bus, "fragile", func(_ context.Context, payload []byte) ([]byte, error) {
		if len(payload) == 0 {
			panic("secret detail")
		}
		return payload, nil
	})
	var failed *bus.ServiceError
	_, err := e.bus.Request(e.ctx, "fragile", nil)
	if !errors.As(err, &failed) || failed.Code != bus.CodeInternal || bytes.Contains([]byte(err.Error()), []byte("secret")) {
		t.Fatalf("got %v", err)
	}
	if got, err := e.bus.Request(e.ctx, "fragile", []byte("x")); err != nil || string(got) != "x" {
		t.Fatalf("after a panic: %q, %v", got, err)
	}
}

func concurrentHandlers(t *testing.T, e *env) {
	const n = 32
	var inside sync.WaitGroup
	inside.Add(n)
	e.serve(t, e.bus, "meet", func(_ context.Context, payload []byte) ([]byte, error) {
		inside.Done()
		inside.Wait() // returns only when all are inside
		return payload, nil
	})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if got, err := e.bus.Request(e.ctx, "meet", fmt.Append(nil, i)); err != nil || string(got) != fmt.Sprint(i) {
				t.Errorf("%d: %q, %v", i, got, err)
			}
		})
	}
	wg.Wait()
}

func stopWaits(t *testing.T, e *env) {
	entered, leave := make(chan struct{}), make(chan struct{})
	var done atomic.Bool
	stop := e.serve(t, e.bus, "long", func(_ context.Context, payload []byte) ([]byte, error) {
		close(entered)
		<-leave
		done.Store(true)
		return payload, nil
	})
	answer := make(chan error)
	go func() {
		_, err := e.bus.Request(e.ctx, "long", nil)
		answer <- err
	}()
	<-entered
	stopped := make(chan struct{})
	go func() {
		stop()
		if !done.Load() {
			t.Error("stop returned while a handler ran")
		}
		close(stopped)
	}()
	close(leave)
	<-stopped
	if err := <-answer; err != nil {
		t.Errorf("the request that ran: %v", err)
	}
}

func deadline(t *testing.T, e *env) {
	e.serve(t, e.bus, "patient", func(ctx context.Context, _ []byte) ([]byte, error) {
		at, ok := ctx.Deadline()
		if !ok {
			return nil, errors.New("no deadline")
		}
		return fmt.Append(nil, time.Until(at)), nil
	})
	ctx, cancel := context.WithTimeout(e.ctx, 20*time.Second)
	defer cancel()
	got, err := e.bus.Request(ctx, "patient", nil)
	if err != nil {
		t.Fatal(err)
	}
	left, err := time.ParseDuration(string(got))
	if err != nil || left <= 0 || left > 20*time.Second {
		t.Fatalf("the handler has %s left, %v", got, err)
	}
}

func silent(t *testing.T, e *env) {
	release := make(chan struct{})
	stop := e.serve(t, e.bus, "silent", func(ctx context.Context, _ []byte) ([]byte, error) {
		<-release
		return nil, nil
	})
	ctx, cancel := context.WithCancel(e.ctx)
	answer := make(chan error)
	go func() {
		_, err := e.bus.Request(ctx, "silent", nil)
		answer <- err
	}()
	cancel()
	if err := <-answer; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(release)
	stop()
}

func share(t *testing.T, e *env) {
	other := e.connect(t)
	var here, there atomic.Int32
	count := func(n *atomic.Int32) bus.Handler {
		return func(context.Context, []byte) ([]byte, error) { n.Add(1); return nil, nil }
	}
	stop := e.serve(t, e.bus, "shared", count(&here))
	e.serve(t, other, "shared", count(&there))
	for range 200 {
		if _, err := e.bus.Request(e.ctx, "shared", nil); err != nil {
			t.Fatal(err)
		}
	}
	if here.Load()+there.Load() != 200 || here.Load() == 0 || there.Load() == 0 {
		t.Errorf("%d here, %d there", here.Load(), there.Load())
	}
	stop()
	if _, err := e.bus.Request(e.ctx, "shared", nil); err != nil {
		t.Errorf("with one server left: %v", err)
	}
}

func largeRequests(t *testing.T, e *env) {
	e.serve(t, e.bus, "large", func(_ context.Context, payload []byte) ([]byte, error) {
		if len(payload) == 0 {
			return make([]byte, bus.MaxRequest+1), nil
		}
		return payload, nil
	})
	big := bytes.Repeat([]byte("0123456789abcdef"), bus.MaxRequest/16)
	if got, err := e.bus.Request(e.ctx, "large", big); err != nil || !bytes.Equal(got, big) {
		t.Fatalf("%d bytes: got %d, %v", len(big), len(got), err)
	}
	if _, err := e.bus.Request(e.ctx, "large", make([]byte, bus.MaxRequest+1)); !errors.Is(err, bus.ErrTooLarge) {
		t.Errorf("a request over the limit: %v", err)
	}
	var failed *bus.ServiceError
	if _, err := e.bus.Request(e.ctx, "large", nil); !errors.As(err, &failed) || failed.Code != bus.CodeTooLarge {
		t.Errorf("an answer over the limit: %v", err)
	}
}

func badNames(t *testing.T, e *env) {
	for _, name := range []string{"", ".", "a.", ".a", "a..b", "*", "a.>", "A", "a b", "a\x00", "ü", string(make([]byte, 65))} {
		if _, err := e.bus.Serve(name, echo); !errors.Is(err, bus.ErrBadService) {
			t.Errorf("serve %q: %v", name, err)
		}
		if _, err := e.bus.Request(e.ctx, name, nil); !errors.Is(err, bus.ErrBadService) {
			t.Errorf("request %q: %v", name, err)
		}
	}
}
