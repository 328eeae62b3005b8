// Package enginetest shows that an engine keeps the contract of package
// engine. Every runtime runs it.
package enginetest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-chat/conclave/actors/engine"
)

// New makes the engine under test.
type New func(engine.Config) (*engine.Engine, error)

// Run proves the contract, point by point.
func Run(t *testing.T, newEngine New) {
	for _, c := range []struct {
		name string
		test func(*testing.T, New)
	}{
		{"order per sender", orderPerSender},
		{"a name is unique", nameIsUnique},
		{"a successor waits for its predecessor", successorWaits},
		{"ask is answered in each ending", askIsAnswered},
		{"a reply given later", laterReply},
		{"a crash keeps the queue and quarantines the message", crashKeepsQueue},
		{"back-off doubles, jitters, is forgotten", backoff},
		{"a start that fails is tried again, and stalls visibly", startFails},
		{"who tries an actor that cannot start is told so", whoTries},
		{"stop during the back-off does not wait for it", stopDuringBackoff},
		{"an actor that cannot come back returns its queue", abandoned},
		{"an idle actor is passivated and wakes", passivation},
		{"who is busy is not passivated", busyIsNotPassivated},
		{"no message is lost between passivation and wake-up", passivationRace},
		{"no message is lost between stop and tell", stopRace},
		{"no message is lost in a storm of crashes", crashStorm},
		{"delayed messages end with their actor", delayed},
		{"shutdown drains", shutdownDrains},
		{"shutdown gives up with its context", shutdownGivesUp},
		{"crashes print no message", crashPrintsNoMessage},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, newEngine) })
	}
}

// open makes an engine that is shut down at the end of the test.
func open(t *testing.T, newEngine New, config engine.Config) *engine.Engine {
	t.Helper()
	e, err := newEngine(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := e.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return e
}

// inBubble runs f over an engine whose clock is virtual.
func inBubble(t *testing.T, newEngine New, config engine.Config, f func(*testing.T, *engine.Engine)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, open(t, newEngine, config)) })
}

// pass lets d go by in a bubble, and what it set off come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// script is a Behavior out of functions; what is nil does nothing.
type script struct {
	start   func(*engine.Context) error
	receive func(*engine.Context, any) error
	idle    func() bool
	stop    func()
}

func (s *script) Start(ctx *engine.Context) error {
	if s.start == nil {
		return nil
	}
	return s.start(ctx)
}

func (s *script) Receive(ctx *engine.Context, msg any) error {
	if s.receive == nil {
		return nil
	}
	return s.receive(ctx, msg)
}

func (s *script) Idle() bool { return s.idle == nil || s.idle() }

func (s *script) Stop() {
	if s.stop != nil {
		s.stop()
	}
}

// spawn starts the actor "a" and fails the test where that fails.
func spawn(t *testing.T, e *engine.Engine, s script) engine.Ref {
	t.Helper()
	ref, err := e.Spawn("a", func() engine.Behavior { return &s }, engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func tell(t *testing.T, e *engine.Engine, to engine.Ref, msgs ...any) {
	t.Helper()
	for _, m := range msgs {
		if err := e.Tell(to, m); err != nil {
			t.Fatalf("tell %v: %v", m, err)
		}
	}
}

func ask(t *testing.T, e *engine.Engine, to engine.Ref, msg any) any {
	t.Helper()
	v, err := e.Ask(t.Context(), to, msg)
	if err != nil {
		t.Fatalf("ask %v: %v", msg, err)
	}
	return v
}

func want[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}
