package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/conclave-chat/conclave/chaos/audit"
)

// offline: one host sleeps through a long time of the other.
var offline = scenario{
	name:  "offline",
	does:  "a host is away for 20,000 messages and 200 commits (1,000 and 20 in the short run)",
	once:  true,
	world: worldSpec{hosts: 2, people: 4, groups: 1},
	log:   serveLog,
	round: func(ctx context.Context, w *world, full bool) error {
		if err := w.some(ctx); err != nil {
			return err
		}
		if err := w.down(ctx); err != nil {
			return err
		}
		if err := w.log.start(ctx); err != nil {
			return err
		}
		if err := w.openHost(ctx, 0); err != nil {
			return err
		}
		burst := loadSpec{Seed: w.random.Uint64(), Senders: 4, Sends: 1_000, Changes: 20}
		if full {
			burst.Sends, burst.Changes = 20_000, 200
		}
		w.struck()
		return w.ask(ctx, request{Do: doBurst, Load: burst})
	},
}

// slowStream: nobody reads the streams while much comes in.
var slowStream = scenario{
	name:  "slow-stream",
	does:  "streams that nobody reads until they are 50,000 messages behind (2,000 in the short run)",
	holds: "each yields everything, in order; meanwhile memory does not grow with what is unread",
	once:  true,
	world: worldSpec{hosts: 1, people: 2, groups: 1, slow: true},
	round: func(ctx context.Context, w *world, full bool) error {
		sends := 2_000
		if full {
			sends = 50_000
		}
		before, err := w.figures(ctx)
		if err != nil {
			return err
		}
		w.struck()
		if err := w.ask(ctx, request{Do: doBurst, Load: loadSpec{Seed: w.random.Uint64(), Senders: 8, Sends: sends}}); err != nil {
			return err
		}
		after, err := w.figures(ctx)
		if err != nil {
			return err
		}
		if grown := after[0].Heap - before[0].Heap; grown > 64<<20 {
			w.see(audit.Stuck, "the heap grew by %d MiB with %d unread messages", grown>>20, sends)
		}
		return nil
	},
}

// wakeAll: everybody has something to read, and reads it at once.
var wakeAll = scenario{
	name:  "wake-all",
	does:  "2,000 installations that were away wake and sync at once (100 in the short run)",
	once:  true,
	world: worldSpec{hosts: 2, people: 104, groups: 10, few: 4, size: 20},
	full:  worldSpec{hosts: 2, people: 2_004, groups: 200, few: 4, size: 40},
	log:   serveLog,
	round: func(ctx context.Context, w *world, full bool) error {
		if err := w.ask(ctx, request{Do: doQuiesce, Limit: 2 * quiesceTime}); err != nil {
			return err
		}
		if err := w.closeHosts(ctx); err != nil {
			return err
		}
		if err := w.openHost(ctx, 1); err != nil {
			return err
		}
		burst := loadSpec{Seed: w.random.Uint64(), Senders: 4, Sends: 4 * len(w.plans), Changes: len(w.plans) / 2}
		if err := w.ask(ctx, request{Do: doBurst, Load: burst}); err != nil {
			return err
		}
		if err := w.openHost(ctx, 0); err != nil {
			return err
		}
		w.struck()
		ctx, cancel := context.WithTimeout(ctx, 2*quiesceTime)
		defer cancel()
		return w.ask(ctx, request{Do: doWake})
	},
}

// mixed: nothing befalls anybody, for long.
var mixed = scenario{
	name:  "mixed",
	does:  "10 minutes of mixed load (10 s in the short run), with memory, descriptors and disk sampled",
	holds: "what a host holds does not grow with time, and its disk only with what it stores",
	once:  true,
	world: worldSpec{hosts: 2, people: 12, groups: 4, guests: 2},
	log:   serveLog,
	round: func(ctx context.Context, w *world, full bool) error {
		long := 10 * time.Second
		if full {
			long = 10 * time.Minute
		}
		if err := w.begin(ctx, lightLoad); err != nil {
			return err
		}
		const samples = 20
		series := make([][]figures, len(w.hosts)) // by host
		for range samples {
			pause(ctx, long/samples)
			now, err := w.figures(ctx)
			if err != nil {
				return err
			}
			for n, f := range now {
				series[n] = append(series[n], f)
			}
		}
		for n, s := range series {
			if what := grown(s); what != "" {
				w.see(audit.Stuck, "host %d in %v: %s", n, long, what)
			}
		}
		return ctx.Err()
	},
}

// grown holds the last quarter of a series against its second: the first one is
// warming up.
func grown(s []figures) string {
	quarter := len(s) / 4
	for _, figure := range []struct {
		name  string
		of    func(figures) int64
		slack int64 // that is no growth
	}{
		{"resident bytes", func(f figures) int64 { return f.Resident }, 96 << 20},
		{"heap bytes", func(f figures) int64 { return f.Heap }, 48 << 20},
		{"descriptors", func(f figures) int64 { return int64(f.Descriptors) }, 40},
		{"goroutines", func(f figures) int64 { return int64(f.Goroutines) }, 100},
		{"bytes on disk", func(f figures) int64 { return f.Disk }, 512 << 20},
	} {
		early, late := median(s[quarter:2*quarter], figure.of), median(s[3*quarter:], figure.of)
		if late > early+early/4+figure.slack {
			return fmt.Sprintf("%s grew from %d to %d", figure.name, early, late)
		}
	}
	return ""
}

func median(s []figures, of func(figures) int64) int64 {
	values := make([]int64, len(s))
	for i, f := range s {
		values[i] = of(f)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// figures asks every host what it holds.
func (w *world) figures(ctx context.Context) ([]figures, error) {
	all := make([]figures, len(w.hosts))
	var mu sync.Mutex
	err := w.eachHost(func(n int, h *hostProcess) error {
		a, err := h.ask(ctx, request{Do: doFigure})
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			all[n] = *a.Figures
		}
		return err
	})
	return all, err
}
