package enginetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-chat/conclave/actors/engine"
)

// faults.md, section 0 (8): a panic loses neither the queue nor its message.
func crashKeepsQueue(t *testing.T, newEngine New) {
	var quarantined []any
	var crashes []engine.Crash
	restarts, starts, stops := 0, 0, 0
	e := open(t, newEngine, engine.Config{
		Backoff: engine.Backoff{Initial: time.Millisecond},
		Hooks: engine.Hooks{
			Quarantine: func(_ engine.Crash, m any) { quarantined = append(quarantined, m) },
			OnCrash:    func(k engine.Crash) { crashes = append(crashes, k) },
			OnRestart:  func(string) { restarts++ },
		},
	})
	var handled []any
	hold := newGate()
	ref := spawn(t, e, script{
		start: func(*engine.Context) error { starts++; return nil },
		stop:  func() { stops++ },
		receive: func(_ *engine.Context, msg any) error {
			switch msg {
			case "hold":
				hold.wait()
			case "panics":
				var nobody *script
				nobody.start = nil
			case "crashes":
				return fmt.Errorf("save: %w", engine.ErrCrash)
			default:
				handled = append(handled, msg)
			}
			return nil
		},
	})
	tell(t, e, ref, "hold", 1, "panics", 2, "crashes", 3)
	want(t, "depth", e.Depth(ref), 6)
	hold.open()
	ask(t, e, ref, 4)
	if want := []any{1, 2, 3, 4}; !slices.Equal(handled, want) {
		t.Fatalf("handled %v, want %v", handled, want)
	}
	if want := []any{"panics", "crashes"}; !slices.Equal(quarantined, want) {
		t.Fatalf("quarantined %v, want %v", quarantined, want)
	}
	want(t, "starts", starts, 3)
	want(t, "stops", stops, 2)
	want(t, "restarts", restarts, 2)
	want(t, "crashes", len(crashes), 2)
	k := crashes[0]
	want(t, "phase and row", k.Phase == engine.PhaseReceive && k.InARow == 1 && k.Name == "a", true)
	if k.Panic == nil || !strings.Contains(k.Stack, "crashKeepsQueue") || !strings.Contains(k.Err.Error(), "nil pointer") {
		t.Fatalf("the panic is not described: %v\n%s", k.Err, k.Stack)
	}
	want(t, "panic of a returned error", crashes[1].Panic, nil)
	wantErr(t, "crash", crashes[1].Err, engine.ErrCrash)
}

func backoff(t *testing.T, newEngine New) {
	var last time.Time
	config := engine.Config{
		Backoff: engine.Backoff{Initial: 100 * time.Millisecond, Max: 2 * time.Second, Quiet: time.Minute, StallAfter: 100},
		Hooks:   engine.Hooks{OnCrash: func(engine.Crash) { last = time.Now() }},
	}
	var waits []time.Duration
	config.Hooks.OnRestart = func(string) { waits = append(waits, time.Since(last)) }
	distinct := map[time.Duration]bool{}
	inBubble(t, newEngine, config, func(t *testing.T, e *engine.Engine) {
		ref := spawn(t, e, script{receive: func(*engine.Context, any) error { panic("boom") }})
		for range 40 {
			tell(t, e, ref, "boom")
			pass(3 * time.Second)
		}
		for i, w := range waits {
			step := min(100*time.Millisecond<<min(i, 10), 2*time.Second)
			if w < step/2 || w > step {
				t.Errorf("back-off %d took %v, want %v to %v", i+1, w, step/2, step)
			}
			distinct[w] = true
		}
		want(t, "restarts", len(waits), 40)
		if len(distinct) < 30 {
			t.Errorf("only %d of 40 waits differ: no jitter", len(distinct))
		}
		pass(2 * time.Minute)
		tell(t, e, ref, "boom")
		pass(3 * time.Second)
		if w := waits[40]; w > 100*time.Millisecond {
			t.Errorf("back-off after a quiet period took %v, want at most 100ms", w)
		}
	})
}

// faults.md D16: an actor that cannot run is an alarm, and is still tried.
func startFails(t *testing.T, newEngine New) {
	var story []string
	var broken atomic.Bool
	broken.Store(true)
	var starts atomic.Int64
	inBubble(t, newEngine, engine.Config{
		Backoff: engine.Backoff{Initial: time.Second, Max: 4 * time.Second, Quiet: time.Minute, StallAfter: 5},
		Hooks: engine.Hooks{
			OnStalled:   func(string) { story = append(story, fmt.Sprint("stalled after ", starts.Load())) },
			OnRestart:   func(string) { story = append(story, "restarted") },
			OnRecovered: func(string) { story = append(story, "recovered") },
		},
	}, func(t *testing.T, e *engine.Engine) {
		got := []any{}
		ref := spawn(t, e, script{
			start: func(*engine.Context) error {
				starts.Add(1)
				if broken.Load() {
					return errors.New("disk is full")
				}
				return nil
			},
			receive: func(_ *engine.Context, m any) error { got = append(got, m); return nil },
			stop:    func() { story = append(story, "stopped") },
		})
		tell(t, e, ref, 1, 2)
		pass(time.Minute)
		want(t, "stats", e.Stats(), engine.Stats{Live: 1, Stalled: 1, Queued: 2, Deepest: 2})
		if n := starts.Load(); n < 15 || n > 35 {
			t.Errorf("%d starts in a minute, want one every 2 to 4 s", n)
		}
		broken.Store(false)
		pass(4 * time.Second)
		if !slices.Equal(got, []any{1, 2}) {
			t.Errorf("handled %v after the recovery", got)
		}
		want(t, "stalled before it was quiet", e.Stats().Stalled, 1)
		pass(time.Minute)
		want(t, "stalled", e.Stats().Stalled, 0)
		if w := "stalled after 5, restarted, recovered"; strings.Join(story, ", ") != w {
			t.Errorf("story: %q, want %q", story, w)
		}
	})
}

func stopDuringBackoff(t *testing.T, newEngine New) {
	inBubble(t, newEngine, engine.Config{Backoff: engine.Backoff{Initial: time.Hour, Max: time.Hour}}, func(t *testing.T, e *engine.Engine) {
		began := time.Now()
		handled := 0
		ref := spawn(t, e, script{receive: func(_ *engine.Context, m any) error {
			if m == "boom" {
				panic(m)
			}
			handled++
			return nil
		}})
		tell(t, e, ref, "boom", 1, 2, "boom", 3)
		synctest.Wait()
		want(t, "queued during the back-off", e.Depth(ref), 4)
		e.Stop(ref)
		if err := e.Wait(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		want(t, "handled", handled, 3)
		want(t, "waited", time.Since(began), 0)
	})
}

func abandoned(t *testing.T, newEngine New) {
	var dead []any
	config := engine.Config{
		Backoff: engine.Backoff{Initial: time.Hour, Max: time.Hour},
		Hooks:   engine.Hooks{OnDead: func(_ string, m any) { dead = append(dead, m) }},
	}
	inBubble(t, newEngine, config, func(t *testing.T, e *engine.Engine) {
		ref := spawn(t, e, script{
			start: func(*engine.Context) error { return errors.New("disk is gone") },
			stop:  func() { t.Error("Stop without a Start that succeeded") },
		})
		tell(t, e, ref, 1, 2)
		asked := newGate()
		go func() {
			_, err := e.Ask(t.Context(), ref, 3)
			wantErr(t, "asker", err, engine.ErrStopped)
			asked.open()
		}()
		synctest.Wait()
		e.Stop(ref)
		asked.wait()
		if err := e.Wait(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(dead, []any{1, 2, 3}) {
			t.Errorf("dead: %v", dead)
		}
	})
}

// Every message of many tellers ends once: handled or quarantined.
func crashStorm(t *testing.T, newEngine New) {
	const tellers, each = 8, 200
	var quarantined, handled int
	e := open(t, newEngine, engine.Config{
		Backoff: engine.Backoff{Initial: time.Microsecond, Max: 10 * time.Microsecond},
		Hooks:   engine.Hooks{Quarantine: func(engine.Crash, any) { quarantined++ }},
	})
	ref := spawn(t, e, script{receive: func(_ *engine.Context, m any) error {
		if m.(int)%10 == 0 {
			panic("every tenth")
		}
		handled++
		return nil
	}})
	var all sync.WaitGroup
	for range tellers {
		all.Go(func() {
			for i := range each {
				if err := e.Tell(ref, i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	e.Stop(ref)
	if err := e.Wait(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	want(t, "quarantined", quarantined, tellers*each/10)
	want(t, "handled", handled, tellers*each*9/10)
}

// faults.md D13: what a panic quotes does not get out through its report.
func crashPrintsNoMessage(t *testing.T, newEngine New) {
	const secret = "s3cret"
	var crash engine.Crash
	e := open(t, newEngine, engine.Config{
		Backoff: engine.Backoff{Initial: time.Millisecond},
		Hooks:   engine.Hooks{OnCrash: func(k engine.Crash) { crash = k }},
	})
	ref := spawn(t, e, script{receive: func(_ *engine.Context, m any) error { panic("bad message: " + m.(string)) }})
	_, err := e.Ask(t.Context(), ref, secret)
	wantErr(t, "ask", err, engine.ErrRestarted)
	e.Stop(ref)
	if err := e.Wait(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	want(t, "panic value, for the owner", crash.Panic, any("bad message: "+secret))
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Error("crash", "crash", crash)
	asJSON, _ := json.Marshal(crash)
	for _, out := range []string{err.Error(), log.String(), string(asJSON), crash.Stack,
		fmt.Sprintf("%v %+v %#v %s %q", crash, &crash, crash, crash, crash)} {
		if strings.Contains(out, secret) {
			t.Errorf("the message got out: %s", out)
		}
	}
}

// whoTries: an actor cannot start. Who only tries to ask it hears so, and why, also
// when he had asked before that was known; who asks waits, and is answered when it
// can.
func whoTries(t *testing.T, newEngine New) {
	full := errors.New("disk is full")
	var broken atomic.Bool
	broken.Store(true)
	inBubble(t, newEngine, engine.Config{Backoff: engine.Backoff{Initial: time.Second, Max: 4 * time.Second}}, func(t *testing.T, e *engine.Engine) {
		actor := script{
			start: func(*engine.Context) error {
				if broken.Load() {
					return full
				}
				return nil
			},
			receive: func(ctx *engine.Context, m any) error { ctx.Reply(m); return nil },
		}
		dir := engine.NewRegistry(e, func(string) (func() engine.Behavior, engine.Options, error) {
			return func() engine.Behavior { return &actor }, engine.Options{}, nil
		})
		asked := make(chan error, 1)
		go func() { _, err := dir.Ask(t.Context(), "a", 1); asked <- err }()
		for range 2 {
			if _, err := dir.Try(t.Context(), "a", 2); !errors.Is(err, engine.ErrBroken) || !errors.Is(err, full) {
				t.Errorf("who tries hears %v", err)
			}
		}
		broken.Store(false)
		if err := <-asked; err != nil {
			t.Errorf("who waited hears %v", err)
		}
		if v, err := dir.Try(t.Context(), "a", 3); v != 3 || err != nil {
			t.Errorf("who tries when it has started hears %v, %v", v, err)
		}
	})
}
