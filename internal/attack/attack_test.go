package attack

import (
	"flag"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/conclave-chat/conclave/internal/sim"
)

var (
	seeds = flag.Int("seeds", 12, "how many worlds with random attackers")
	first = flag.Uint64("first", 1, "the first seed of theirs")
	tell  = flag.Bool("tell", false, "print what happens (with one attack or seed)")
)

// TestAttacks tries every attack of the list.
func TestAttacks(t *testing.T) {
	if *tell {
		Log = os.Stdout
	}
	for i, a := range All() {
		if testing.Short() && i%3 != 0 {
			continue // the race detector slows them down
		}
		t.Run(string(a.Place)+" "+a.Name, func(t *testing.T) {
			t.Parallel()
			switch verdict, err := a.Try(); verdict {
			case Broken:
				t.Errorf("%s: %v", a.Does, err)
			case Open:
				t.Logf("open, %s: %v", a.Open, err)
			}
		})
	}
}

// TestRandom runs worlds with random attackers.
func TestRandom(t *testing.T) {
	if testing.Short() {
		*seeds = min(*seeds, 3)
	}
	counters := map[string]int{}
	for seed := *first; seed < *first+uint64(*seeds); seed++ {
		o := sim.Options{}
		if *tell {
			o.Log = os.Stdout
		}
		r, err := RunRandom(seed, o)
		if err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		for name, n := range r.Counters {
			counters[name] += n
		}
	}
	for _, name := range slices.Sorted(maps.Keys(counters)) {
		t.Logf("%8d %s", counters[name], name)
	}
}
