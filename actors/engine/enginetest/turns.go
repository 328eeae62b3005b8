package enginetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/actors/engine"
)

func orderPerSender(t *testing.T, newEngine New) {
	const senders, each = 8, 500
	e := open(t, newEngine, engine.Config{})
	var last [senders]int
	turns := 0
	ref := spawn(t, e, script{receive: func(ctx *engine.Context, msg any) error {
		if m, ok := msg.([2]int); ok {
			if m[1] != last[m[0]]+1 {
				return fmt.Errorf("sender %d: %d after %d", m[0], m[1], last[m[0]])
			}
			last[m[0]] = m[1]
			turns++
		}
		ctx.Reply(turns)
		return nil
	}})
	var all sync.WaitGroup
	for s := range senders {
		all.Go(func() {
			for i := range each {
				if err := e.Tell(ref, [2]int{s, i + 1}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	want(t, "handled", ask(t, e, ref, "how many"), any(senders*each))
}

func nameIsUnique(t *testing.T, newEngine New) {
	e := open(t, newEngine, engine.Config{})
	ref := spawn(t, e, script{})
	_, err := e.Spawn("a", func() engine.Behavior { return &script{} }, engine.Options{})
	wantErr(t, "second spawn", err, engine.ErrNameTaken)
	found, ok := e.Lookup("a")
	want(t, "found", ok && found == ref && found.Name() == "a", true)

	e.Stop(ref)
	if err := e.Wait(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	_, ok = e.Lookup("a")
	want(t, "found after its stop", ok, false)
	again := spawn(t, e, script{})
	want(t, "the same ref", again == ref, false)
	wantErr(t, "tell to the old ref", e.Tell(ref, 1), engine.ErrStopped)
	wantErr(t, "tell to nobody", e.Tell(engine.Ref{}, 1), engine.ErrStopped)
}

func successorWaits(t *testing.T, newEngine New) {
	e := open(t, newEngine, engine.Config{})
	var mu sync.Mutex
	var story []string
	note := func(s string) { mu.Lock(); story = append(story, s); mu.Unlock() }
	release := newGate()
	first := spawn(t, e, script{stop: func() { release.wait(); note("first stopped") }})
	e.Stop(first)
	second := spawn(t, e, script{
		start:   func(*engine.Context) error { note("second started"); return nil },
		receive: func(_ *engine.Context, m any) error { note(m.(string)); return nil },
	})
	tell(t, e, second, "told while waiting")
	release.open()
	ask(t, e, second, "asked")
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"first stopped", "second started", "told while waiting", "asked"}; !slices.Equal(story, want) {
		t.Fatalf("got %q, want %q", story, want)
	}
}

// Every asker is answered: contract 4.
func askIsAnswered(t *testing.T, newEngine New) {
	own := errors.New("own error")
	var unasked error
	e := open(t, newEngine, engine.Config{
		Backoff: engine.Backoff{Initial: time.Millisecond},
		Hooks:   engine.Hooks{OnError: func(_ string, err error) { unasked = err }},
	})
	held := newGate()
	ref := spawn(t, e, script{receive: func(ctx *engine.Context, msg any) error {
		switch msg {
		case "reply":
			ctx.Reply(7)
			ctx.Reply("a second answer")
		case "error":
			return own
		case "panic":
			panic("boom")
		case "crash":
			return fmt.Errorf("save: %w", engine.ErrCrash)
		case "hold":
			held.wait()
		}
		return nil
	}})
	want(t, "reply", ask(t, e, ref, "reply"), any(7))
	want(t, "silence", ask(t, e, ref, "nothing"), nil)
	for msg, wanted := range map[string]error{"error": own, "panic": engine.ErrRestarted, "crash": engine.ErrRestarted} {
		_, err := e.Ask(t.Context(), ref, msg)
		wantErr(t, msg, err, wanted)
	}
	tell(t, e, ref, "reply") // nobody to reply to
	tell(t, e, ref, "error")
	ask(t, e, ref, "nothing")
	wantErr(t, "OnError", unasked, own)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := e.Ask(ctx, ref, "hold")
	wantErr(t, "ended wait", err, context.Canceled)
	held.open()

	e.Stop(ref)
	_, err = e.Ask(t.Context(), ref, "reply")
	wantErr(t, "after stop", err, engine.ErrStopped)
	_, err = e.Ask(t.Context(), engine.Ref{}, "reply")
	wantErr(t, "nobody", err, engine.ErrStopped)
}

func laterReply(t *testing.T, newEngine New) {
	e := open(t, newEngine, engine.Config{Backoff: engine.Backoff{Initial: time.Millisecond}})
	var kept []*engine.Reply // of the turns
	ref := spawn(t, e, script{receive: func(ctx *engine.Context, msg any) error {
		switch msg {
		case "keep":
			kept = append(kept, ctx.Later())
		case "answer":
			for _, r := range kept {
				r.Answer("at last", nil)
			}
			kept = nil
		case "how many":
			ctx.Reply(len(kept))
		case "panic":
			kept = nil
			panic("boom")
		}
		return nil
	}})
	type answer struct {
		v   any
		err error
	}
	askLater := func() chan answer {
		out := make(chan answer, 1)
		go func() {
			v, err := e.Ask(context.Background(), ref, "keep")
			out <- answer{v, err}
		}()
		for ask(t, e, ref, "how many") != 1 {
		}
		return out
	}
	out := askLater()
	tell(t, e, ref, "answer")
	want(t, "later", (<-out).v, any("at last"))
	out = askLater()
	tell(t, e, ref, "panic")
	wantErr(t, "owed at a crash", (<-out).err, engine.ErrRestarted)
	tell(t, e, ref, "keep") // nobody asked: a Reply that goes nowhere
	tell(t, e, ref, "answer")
	out = askLater()
	e.Stop(ref)
	wantErr(t, "owed at the stop", (<-out).err, engine.ErrStopped)
}

func delayed(t *testing.T, newEngine New) {
	inBubble(t, newEngine, engine.Config{Backoff: engine.Backoff{Initial: time.Second, Max: time.Second}}, func(t *testing.T, e *engine.Engine) {
		began := time.Now()
		var got []string
		ref := spawn(t, e, script{receive: func(ctx *engine.Context, msg any) error {
			switch msg {
			case "arm":
				ctx.After(3*time.Second, "own")
				ctx.After(time.Second, "cancelled")()
			case "panic":
				panic("boom")
			default:
				got = append(got, fmt.Sprintf("%s@%v", msg, time.Since(began)))
			}
			return nil
		}})
		tell(t, e, ref, "arm")
		e.After(2*time.Second, ref, "foreign")
		e.After(time.Second, ref, "cancelled")()
		pass(4 * time.Second)
		tell(t, e, ref, "arm")
		e.After(3*time.Second, ref, "foreign") // outlives the crash, "own" does not
		e.After(time.Hour, ref, "never")
		tell(t, e, ref, "panic")
		pass(10 * time.Second)
		if w := "foreign@2s own@3s foreign@7s"; strings.Join(got, " ") != w {
			t.Fatalf("got %q, want %q", got, w)
		}
		e.Stop(ref)
		if err := e.Wait(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		e.After(time.Second, ref, "after the stop")()
		pass(2 * time.Hour)
	})
}

func shutdownDrains(t *testing.T, newEngine New) {
	const actors, each = 20, 100
	e := open(t, newEngine, engine.Config{})
	var mu sync.Mutex
	handled, stopped := 0, 0
	for i := range actors {
		ref, err := e.Spawn(fmt.Sprint(i), func() engine.Behavior {
			return &script{
				receive: func(*engine.Context, any) error { mu.Lock(); handled++; mu.Unlock(); return nil },
				stop:    func() { mu.Lock(); stopped++; mu.Unlock() },
			}
		}, engine.Options{IdleAfter: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		for j := range each {
			tell(t, e, ref, j)
		}
	}
	if err := e.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, "handled", handled, actors*each)
	want(t, "stopped", stopped, actors)
	want(t, "stats", e.Stats(), engine.Stats{})
	_, err := e.Spawn("late", func() engine.Behavior { return &script{} }, engine.Options{})
	wantErr(t, "spawn after", err, engine.ErrShutdown)
}

func shutdownGivesUp(t *testing.T, newEngine New) {
	var mu sync.Mutex
	var dead []any
	e := open(t, newEngine, engine.Config{Hooks: engine.Hooks{OnDead: func(_ string, m any) { mu.Lock(); dead = append(dead, m); mu.Unlock() }}})
	began := newGate()
	ref := spawn(t, e, script{receive: func(ctx *engine.Context, _ any) error {
		began.open()
		<-ctx.Context().Done() // a turn that hangs on the network
		return nil
	}})
	tell(t, e, ref, "hangs", "queued 1", "queued 2")
	began.wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantErr(t, "shutdown", e.Shutdown(ctx), context.Canceled)
	if err := e.Wait(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(dead, []any{"queued 1", "queued 2"}) {
		t.Fatalf("dead: %v", dead)
	}
}

// gate holds turns until it is opened.
type gate chan struct{}

func newGate() gate  { return make(gate) }
func (g gate) wait() { <-g }
func (g gate) open() { close(g) }
