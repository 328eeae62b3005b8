package benchmarks

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"
)

// commits is how many commits are measured.
const commits = 20

// Commit measures a key update by one member of n until everybody has applied
// it: the first ones over a tree that is still blank, where a path is sealed to
// nearly everybody, and later ones over a tree that has filled.
func Commit(ctx context.Context, o Options, n int) (_ *Report, err error) {
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
	if err := r.crowd.Form(ctx, "commit", &groups[0]); err != nil {
		return nil, err
	}
	if err := r.crowd.Join(ctx, groups, nil); err != nil {
		return nil, err
	}
	var made, applied []time.Duration
	for i := range commits {
		m := r.crowd.members[i%n]
		g, err := m.client.Conversations().Get(ctx, groups[0].ID)
		if err != nil {
			return nil, err
		}
		if err := g.Sync(ctx); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := g.UpdateKeys(ctx); err != nil {
			return nil, fmt.Errorf("commit %d: %w", i+1, err)
		}
		made = append(made, time.Since(began))
		if err := r.crowd.sync(ctx, groups[0]); err != nil {
			return nil, err
		}
		applied = append(applied, time.Since(began))
	}
	slices.Sort(made)
	slices.Sort(applied)
	depth := bits.Len(uint(n - 1))
	out := newReport("commit", o.Seed)
	out.duration("commit_to_merged_p50", Percentile(made, 50), floor.commit(0, depth))
	out.duration("commit_to_all_applied_p50", Percentile(applied, 50), floor.commit(n, depth))
	out.duration("commit_to_all_applied_p99", Percentile(applied, 99), floor.commit(n, depth))
	out.add(floor.figures())
	return out, nil
}
