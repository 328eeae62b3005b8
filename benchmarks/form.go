package benchmarks

import (
	"context"
	"errors"
	"runtime"
	"time"
)

// Form measures how long a group of n takes: its commit, and the join of
// everybody, all on disk. And what each further co-hosted member holds in
// memory.
func Form(ctx context.Context, o Options, n int) (_ *Report, err error) {
	floor, err := measureFloor(ctx, o, n)
	if err != nil {
		return nil, err
	}
	r, err := newRig(ctx, o, n, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close(ctx)) }()
	groups := []Group{r.crowd.Everybody()}
	before := liveHeap()
	began := time.Now()
	if err := r.crowd.Form(ctx, "form", &groups[0]); err != nil {
		return nil, err
	}
	committed := time.Since(began)
	if err := r.crowd.Join(ctx, groups, nil); err != nil {
		return nil, err
	}
	joined := time.Since(began)
	// A commit by its maker and a sync of everybody wakes every member's actor.
	if err := r.crowd.sync(ctx, groups[0]); err != nil {
		return nil, err
	}
	after := liveHeap()

	out := newReport("form", o.Seed)
	out.duration("form_and_join", joined, floor.form(n))
	out.duration("commit_and_welcomes", committed, floor.form(n)/2)
	// A member cannot hold less than its leaf's private key and one ratchet.
	out.cost("heap_per_member", "bytes", float64(max(after-before, 0))/float64(n), 64)
	out.add(floor.figures())
	return out, nil
}

// sync lets every member of a group read its log.
func (c *Crowd) sync(ctx context.Context, g Group) error {
	return c.each(ctx, nil, func(ctx context.Context, i int, m *member) error {
		group, err := m.client.Conversations().Get(ctx, g.ID)
		if err != nil {
			return err
		}
		return group.Sync(ctx)
	})
}

// liveHeap is what the heap holds that is still used.
func liveHeap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
