package benchmarks

import (
	"context"
	"errors"
	"runtime"
	"slices"
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
	// A group of half of them comes first: what the second one holds beyond it
	// is what further members cost, without what is there once.
	half := r.crowd.Everybody()
	half.Members = half.Members[:max(n/2, 2)]
	small, _, _, err := r.form(ctx, "half", half)
	if err != nil {
		return nil, err
	}
	whole, committed, joined, err := r.form(ctx, "form", r.crowd.Everybody())
	if err != nil {
		return nil, err
	}

	out := newReport("form", o.Seed)
	out.duration("form_and_join", joined, floor.form(n))
	out.duration("commit_and_welcomes", committed, floor.form(n)/2)
	// A member cannot hold less than its leaf's private key and one ratchet.
	if further := n - len(half.Members); further > 0 {
		out.cost("heap_per_further_member", "bytes", float64(max(whole-small, 0))/float64(further), 64)
	}
	out.add(floor.figures())
	return out, nil
}

// form makes a group and lets everybody join and wake. It returns what the heap
// has gained, and how long the commit took and how long all of it.
func (r *rig) form(ctx context.Context, name string, g Group) (gained int64, committed, joined time.Duration, err error) {
	groups := []Group{g}
	before, began := liveHeap(), time.Now()
	if err := r.crowd.formNew(ctx, name, &groups[0]); err != nil {
		return 0, 0, 0, err
	}
	committed = time.Since(began)
	if err := r.crowd.Join(ctx, groups, nil); err != nil {
		return 0, 0, 0, err
	}
	joined = time.Since(began)
	if err := r.crowd.sync(ctx, groups[0]); err != nil {
		return 0, 0, 0, err
	}
	return liveHeap() - before, committed, joined, nil
}

// sync lets every member of a group read its log.
func (c *Crowd) sync(ctx context.Context, g Group) error {
	return c.each(ctx, nil, func(ctx context.Context, i int, m *member) error {
		if !slices.Contains(g.Members, i) {
			return nil
		}
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
	runtime.GC() // what pools kept through the first
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
