// Package sim is the seeded simulation: a world of installations with real MLS,
// real identities and real stores over the memory adapters, in one goroutine,
// with faults in everything between them. A seed is a whole history: the same
// seed always takes the same steps, so that a failure can be replayed.
//
// What may never be broken is in truth.go and verdict.go, as named invariants
// I1 to I13. After the faults a tail without any must bring everybody to rest.
package sim

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
)

// Options are a run's settings; the zero value is the usual run.
type Options struct {
	Steps int       // of the part with faults; 0: as the seed says
	Log   io.Writer // gets a line for whatever happens; nil: nobody
	With  []string  // faults that every seed has

	// Attack, where it is not nil, happens now and then: somebody in the world breaks
	// every rule. The faults are those of the network and of hosts then, which excuse
	// nothing.
	Attack func(*Stage)

	plant plant // a bug to find; tests only
}

// A Result is what became of a run that found nothing wrong.
type Result struct {
	TraceHash string         // of everything that happened, in its order
	Steps     int            // taken, the tail included
	Counters  map[string]int // how often each fault was hit, and some of what followed
}

// A Failure says that an invariant was broken, and how to see it again.
type Failure struct {
	Seed      uint64
	Step      int
	Invariant string
	Detail    string
}

func (f *Failure) Error() string {
	return fmt.Sprintf("%s broken at step %d: %s\nreplay: make sim SEEDS=1 FIRST=%d", f.Invariant, f.Step, f.Detail, f.Seed)
}

// Run simulates one seed. Its error is a *Failure.
func Run(seed uint64, o Options) (r Result, err error) {
	w := newWorld(seed, o)
	err = w.guarded(func() {
		w.begin()
		for w.steps < w.planned {
			w.steps++
			w.act()
		}
		w.tail()
		w.verdict()
	})
	return w.result(), err
}

// guarded makes an error of what ends a run.
func (w *world) guarded(run func()) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case *Failure:
			err = p
		default:
			err = &Failure{w.seed, w.steps, "no panic", fmt.Sprintf("%v\n%s", p, debug.Stack())}
		}
	}()
	run()
	return nil
}

func (w *world) result() Result {
	return Result{TraceHash: hex.EncodeToString(w.trace.Sum(nil)), Steps: w.steps, Counters: w.counters}
}

// fail ends the run: an invariant is broken.
func (w *world) fail(invariant, format string, args ...any) {
	panic(&Failure{w.seed, w.steps, invariant, fmt.Sprintf(format, args...)})
}

// must ends the run where the world itself cannot go on.
func (w *world) must(err error) {
	if err != nil {
		w.fail("the world", "%v", err)
	}
}

// tell writes down what happens: for the trace hash, and for who reads along.
func (w *world) tell(format string, args ...any) {
	line := fmt.Sprintf("%d "+format+"\n", append([]any{w.steps}, args...)...)
	w.trace.Write([]byte(line))
	if w.log != nil {
		_, _ = io.WriteString(w.log, line) // a reader who left changes nothing
	}
}

// errInjected is what a store says when the world wants it to fail.
var errInjected = errors.New("sim: injected failure of the store")
