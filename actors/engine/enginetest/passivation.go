package enginetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-chat/conclave/actors/engine"
)

// disk is what outlives the counters: the number each has counted to.
type disk struct {
	mu     sync.Mutex
	counts map[string]int
	open   map[string]bool
	starts int
}

// counter counts its messages, and checks that it is the only one of its name.
func (d *disk) counter(t *testing.T, name string, opts engine.Options) (func() engine.Behavior, engine.Options, error) {
	return func() engine.Behavior {
		n := 0
		return &script{
			start: func(*engine.Context) error {
				d.mu.Lock()
				defer d.mu.Unlock()
				if d.open[name] {
					t.Errorf("%s is open twice", name)
				}
				d.open[name], n = true, d.counts[name]
				d.starts++
				return nil
			},
			receive: func(ctx *engine.Context, msg any) error {
				if msg == "how many" {
					ctx.Reply(n)
					return nil
				}
				n++
				return nil
			},
			stop: func() {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.open[name], d.counts[name] = false, n
			},
		}
	}, opts, nil
}

func newDisk() *disk { return &disk{counts: map[string]int{}, open: map[string]bool{}} }

func passivation(t *testing.T, newEngine New) {
	var passivated atomic.Int64
	config := engine.Config{Hooks: engine.Hooks{OnPassivated: func(string) { passivated.Add(1) }}}
	inBubble(t, newEngine, config, func(t *testing.T, e *engine.Engine) {
		d := newDisk()
		refused := errors.New("not here")
		dir := engine.NewRegistry(e, func(name string) (func() engine.Behavior, engine.Options, error) {
			if name == "stranger" {
				return nil, engine.Options{}, refused
			}
			return d.counter(t, name, engine.Options{IdleAfter: time.Minute})
		})
		wantErr(t, "refused wake", dir.Tell("stranger", 1), refused)
		for i := range 10 {
			if err := dir.Tell(fmt.Sprint(i), 1); err != nil {
				t.Fatal(err)
			}
		}
		old, _ := dir.Live("3")
		for range 9 { // used every half minute: stays
			pass(30 * time.Second)
			if err := dir.Tell("5", 1); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		want(t, "live", e.Stats().Live, 1)
		want(t, "passivated", passivated.Load(), 9)
		_, live := dir.Live("3")
		want(t, "asleep", live, false)
		wantErr(t, "tell to the passivated", e.Tell(old, 1), engine.ErrStopped)

		n, err := dir.Ask(t.Context(), "3", "how many")
		if err != nil {
			t.Fatal(err)
		}
		want(t, "count of the woken", n, any(1))
		n, err = dir.Ask(t.Context(), "5", "how many")
		if err != nil {
			t.Fatal(err)
		}
		want(t, "count of the one who stayed", n, any(10))
		want(t, "starts", d.starts, 11)
		pass(time.Hour)
		want(t, "live at the end", e.Stats().Live, 0)
	})
}

func busyIsNotPassivated(t *testing.T, newEngine New) {
	inBubble(t, newEngine, engine.Config{}, func(t *testing.T, e *engine.Engine) {
		var owed *engine.Reply
		var asked atomic.Int64
		var busy atomic.Bool
		busy.Store(true)
		ref, err := e.Spawn("a", func() engine.Behavior {
			return &script{
				receive: func(ctx *engine.Context, _ any) error { owed = ctx.Later(); return nil },
				idle:    func() bool { asked.Add(1); return !busy.Load() },
			}
		}, engine.Options{IdleAfter: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		pass(10*time.Minute + 10*time.Second)
		if n := asked.Load(); n < 9 || n > 10 {
			t.Errorf("asked %d times in 10 minutes, want once a minute", n)
		}
		go func() { _, _ = e.Ask(context.Background(), ref, "owe me") }()
		synctest.Wait()
		busy.Store(false)
		pass(time.Hour)
		want(t, "live while it owes a reply", e.Stats().Live, 1)
		owed.Answer(nil, nil)
		pass(3 * time.Minute)
		want(t, "live", e.Stats().Live, 0)
	})
}

// The shortest tick there is, and tellers that pause about as long: many
// messages meet a closing actor. All are counted, by one actor at a time. A busy
// machine may keep the actors from closing: then there is another round.
func passivationRace(t *testing.T, newEngine New) {
	const tellers, each, names = 8, 100, 3
	e := open(t, newEngine, engine.Config{IdleTick: time.Millisecond})
	d := newDisk()
	dir := engine.NewRegistry(e, func(name string) (func() engine.Behavior, engine.Options, error) {
		return d.counter(t, name, engine.Options{IdleAfter: time.Millisecond})
	})
	for told := 0; d.starts <= names; {
		var all sync.WaitGroup
		for teller := range tellers {
			all.Go(func() {
				for i := range each {
					if err := dir.Tell(fmt.Sprint(i%names), i); err != nil {
						t.Error(err)
					}
					if (i+teller)%8 == 0 {
						<-time.After(2 * time.Millisecond)
					}
				}
			})
		}
		all.Wait()
		told += tellers * each
		total := 0
		for i := range names {
			n, err := dir.Ask(t.Context(), fmt.Sprint(i), "how many")
			if err != nil {
				t.Fatal(err)
			}
			total += n.(int)
		}
		want(t, "counted", total, told)
	}
}

func stopRace(t *testing.T, newEngine New) {
	const tellers, each = 6, 300
	e := open(t, newEngine, engine.Config{})
	d := newDisk()
	dir := engine.NewRegistry(e, func(name string) (func() engine.Behavior, engine.Options, error) {
		return d.counter(t, name, engine.Options{})
	})
	var all sync.WaitGroup
	for range tellers {
		all.Go(func() {
			for i := range each {
				if err := dir.Tell("a", i); err != nil {
					t.Error(err)
				}
				if i%20 == 0 {
					if ref, live := dir.Live("a"); live {
						e.Stop(ref)
					}
				}
			}
		})
	}
	all.Wait()
	n, err := dir.Ask(t.Context(), "a", "how many")
	if err != nil {
		t.Fatal(err)
	}
	want(t, "counted", n, any(tellers*each))
}
