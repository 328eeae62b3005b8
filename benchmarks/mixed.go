package benchmarks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// MixedOptions are a service's day: many groups of 2 to 50, overlapping, and
// messages in all of them.
type MixedOptions struct {
	Options
	Installations int
	Groups        int
	Messages      int // in all groups together
	Window        int
}

// Sizes of mixed's groups.
const mixedLeast, mixedMost = 2, 50

// Mixed measures many groups at once.
func Mixed(ctx context.Context, o MixedOptions) (_ *Report, err error) {
	if o.Installations < mixedLeast || o.Groups < 1 {
		return nil, fmt.Errorf("mixed needs at least %d installations and a group", mixedLeast)
	}
	random := rand.New(rand.NewPCG(o.Seed, 3))
	groups := make([]Group, o.Groups)
	members := 0
	for i := range groups {
		size := mixedLeast + random.IntN(min(mixedMost, o.Installations)-mixedLeast+1)
		groups[i].Members = random.Perm(o.Installations)[:size]
		members += size
	}
	average := members / o.Groups
	floor, err := measureFloor(ctx, o.Options, average)
	if err != nil {
		return nil, err
	}
	lines := make([]Line, o.Messages)
	deliveries := 0
	for i, text := range texts(o.Seed, o.Messages) {
		n := random.IntN(o.Groups)
		in := groups[n].Members
		lines[i] = Line{Group: n, From: in[random.IntN(len(in))], Text: text, Key: fmt.Sprintf("mixed/%d", i+1)}
		deliveries += len(in)
	}
	r, err := newRig(ctx, o.Options, o.Installations, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close(ctx)) }()
	replay := NewReplay(r.crowd)
	replay.Follow(ctx)
	defer replay.Stop()
	began := time.Now()
	if err := r.crowd.formAll(ctx, groups); err != nil {
		return nil, err
	}
	formed := time.Since(began)
	sent, err := replay.Send(ctx, groups, lines, o.Window, nil)
	if err != nil {
		return nil, err
	}
	info := r.bus.Info()
	replay.Stop()
	if err := r.close(ctx); err != nil {
		return nil, err
	}
	verdict, err := checkAlone(ctx, o.Options, info, r.crowd, groups, lines, sent)
	if err != nil {
		return nil, err
	}
	out := newReport("mixed", o.Seed)
	out.Lost, out.Repeated = verdict.Lost, verdict.Repeated+sent.Repeated
	message := floor.message(average)
	out.rate("deliveries_per_second", float64(deliveries)/max(sent.Took.Seconds(), 1e-9), float64(average)/message.Seconds())
	out.duration("send_to_all_stored_p50", Percentile(sent.Latency, 50), message)
	out.duration("send_to_all_stored_p99", Percentile(sent.Latency, 99), message)
	out.duration("form_all_groups", formed, time.Duration(o.Groups)*floor.form(average))
	out.add(floor.figures())
	return out, nil
}
