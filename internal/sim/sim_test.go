package sim

import (
	"flag"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seeds   = flag.Int("seeds", 40, "how many seeds to run")
	first   = flag.Uint64("first", 1, "the first seed")
	with    = flag.String("with", "", "faults that every seed has, with commas between")
	verbose = flag.Bool("tell", false, "print what happens (with few seeds)")
)

// everyFault is how many seeds are enough for every fault to be hit.
const everyFault = 300

// TestSeeds runs seeds on all processors, prints how often each fault was hit,
// and fails on the first broken invariant with the command that replays it.
func TestSeeds(t *testing.T) {
	var (
		next     atomic.Uint64
		mu       sync.Mutex
		counters = map[string]int{}
		steps    int
		failures int
		wait     sync.WaitGroup
	)
	began := time.Now()
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			for {
				n := next.Add(1) - 1
				if n >= uint64(*seeds) {
					return
				}
				var o Options
				if *with != "" {
					o.With = strings.Split(*with, ",")
				}
				if *verbose {
					o.Log = os.Stdout
				}
				r, err := Run(*first+n, o)
				mu.Lock()
				steps += r.Steps
				for name, n := range r.Counters {
					counters[name] += n
				}
				if err != nil {
					failures++
					if failures <= 10 {
						t.Errorf("seed %d: %v", *first+n, err)
					}
				}
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	took := time.Since(began)
	t.Logf("%d seeds, %d steps, %d failures, %.1f seeds/s", *seeds, steps, failures, float64(*seeds)/took.Seconds())
	for _, name := range slices.Sorted(maps.Keys(counters)) {
		t.Logf("%8d %s", counters[name], name)
	}
	for _, f := range allFaults {
		if counters[string(f)] == 0 && *seeds >= everyFault && !slices.Contains(pending, f) {
			t.Errorf("%s: never hit in %d seeds", f, *seeds)
		}
	}
}

// TestSameSeedSameTrace: a seed is a whole history.
func TestSameSeedSameTrace(t *testing.T) {
	for seed := uint64(1); seed <= 8; seed++ {
		a, err := Run(seed, Options{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := Run(seed, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if a.TraceHash != b.TraceHash {
			t.Errorf("seed %d: %s, then %s", seed, a.TraceHash, b.TraceHash)
		}
	}
}
