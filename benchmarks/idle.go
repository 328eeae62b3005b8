package benchmarks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave"
)

// An idle installation is in this many groups, of this many members.
const (
	idleGroups    = 3
	idleGroupSize = 50
)

// idleAfter puts actors to sleep soon, so that the measuring need not wait a
// minute.
const idleAfter = 2 * time.Second

// wakes is how many installations are woken, to see what it takes.
const wakes = 50

// Idle measures what n installations cost a host, each in three groups, when
// nobody asks anything of them.
func Idle(ctx context.Context, o Options, n int) (_ *Report, err error) {
	if n < idleGroups {
		return nil, fmt.Errorf("idle needs at least %d installations", idleGroups)
	}
	floor, err := measureFloor(ctx, o, 1)
	if err != nil {
		return nil, err
	}
	registry := bareRegistry(n)
	start := residentMemory()
	goroutines := runtime.NumGoroutine()
	r, err := newRig(ctx, o, n, func(c *conclave.Config) { c.IdleAfter = idleAfter })
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close(ctx)) }()
	groups := partition(n, idleGroups, idleGroupSize, rand.New(rand.NewPCG(o.Seed, 2)))
	if err := r.crowd.formAll(ctx, groups); err != nil {
		return nil, err
	}
	busy := runtime.NumGoroutine()
	if err := quiet(ctx, busy); err != nil {
		return nil, err
	}
	out := newReport("idle", o.Seed)
	out.IdleFacts = &IdleFacts{
		BytesPerInstallation: max(residentMemory()-start, 0) / int64(n),
		Descriptors:          Descriptors(),
		Goroutines:           runtime.NumGoroutine() - goroutines,
	}
	var woken []time.Duration
	for i := range min(wakes, n) {
		m := r.crowd.members[i*(n/min(wakes, n))]
		began := time.Now()
		if err := m.client.Conversations().SyncAll(ctx); err != nil {
			return nil, fmt.Errorf("wake: %w", err)
		}
		woken = append(woken, time.Since(began))
	}
	slices.Sort(woken)
	out.cost("bytes_per_installation", "bytes", float64(out.BytesPerInstallation), float64(registry))
	out.cost("descriptors", "files", float64(out.Descriptors), 0)
	out.cost("goroutines", "goroutines", float64(out.Goroutines), 0)
	out.duration("wake_and_sync_p50", Percentile(woken, 50), floor.rows)
	out.add(floor.figures())
	return out, nil
}

// bareRegistry is what a plain map of keys by id costs each of n.
func bareRegistry(n int) int64 {
	before := liveHeap()
	keys := make(map[[32]byte]*[32]byte, n)
	for i := range n {
		keys[[32]byte{byte(i), byte(i >> 8), byte(i >> 16)}] = new([32]byte)
	}
	after := liveHeap()
	runtime.KeepAlive(keys)
	return max(after-before, 0) / int64(n)
}

// residentMemory is what is resident once the heap gave back what it can.
func residentMemory() int64 {
	debug.FreeOSMemory()
	return Resident()
}

// quietTime is how long nothing must change before a host counts as idle: longer
// than the embedded server keeps what it has read from its files.
const quietTime = 7 * idleAfter

// quiet waits until the number of goroutines and the heap stand still.
func quiet(ctx context.Context, busy int) error {
	tick := time.NewTicker(idleAfter / 4)
	defer tick.Stop()
	since, last := time.Now(), busy
	began := time.Now()
	for time.Since(since) < quietTime || time.Since(began) < quietTime {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if n := runtime.NumGoroutine(); n > last+2 || n < last-2 {
			since, last = time.Now(), n
		}
	}
	return nil
}

// partition puts each of n people into times groups of about size, anew each
// time.
func partition(n, times, size int, r *rand.Rand) []Group {
	var groups []Group
	for range times {
		order := r.Perm(n)
		for len(order) > 0 {
			k := min(size, len(order))
			if rest := len(order) - k; rest == 1 {
				k = len(order) // nobody stays alone
			}
			groups = append(groups, Group{Members: order[:k]})
			order = order[k:]
		}
	}
	return groups
}

// formAll makes many new groups at a time, and lets their members join.
func (c *Crowd) formAll(ctx context.Context, groups []Group) error {
	work, inner := errgroup.WithContext(ctx)
	work.SetLimit(4 * runtime.GOMAXPROCS(0))
	for i := range groups {
		work.Go(func() error {
			if err := c.formNew(inner, fmt.Sprintf("group %d", i+1), &groups[i]); err != nil {
				return fmt.Errorf("group %d: %w", i+1, err)
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return err
	}
	return c.Join(ctx, groups, nil)
}
