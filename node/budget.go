package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/conclave-chat/conclave/bus"
)

// A Budget is a token bucket: so many a minute in the long run, and so many at
// once. XMTP's public network gives each address 600 messages a minute and 3,000
// at once.
type Budget struct {
	PerMinute int // 0: the default, see Limits; less: no limit
	Burst     int // 0 or less: PerMinute
}

// The bytes that a node takes by default. A caller at XMTP's own rates, with
// messages of a few kilobytes, stays below. A group's are several callers', so that
// no caller uses up what belongs to a group.
var (
	DefaultCallerBytes = Budget{PerMinute: 8 << 20, Burst: 256 << 20}
	DefaultGroupBytes  = Budget{PerMinute: 32 << 20, Burst: 1 << 30}
)

// entryOverhead is what an entry takes up in the log beside its payload: its
// subject, its headers and its record.
const entryOverhead = 256

// errOverBudget: nothing was stored, and the same request may succeed later.
var errOverBudget = errors.New("over budget")

// callerKey is the context key of a caller's name.
type callerKey struct{}

// WithCaller names who asks, such as an address or a tenant, so that what it
// publishes is counted against its budget. The name comes from whoever let the
// caller in, never from the caller. A request without one, as those that come
// over the bus, counts against no caller's budget.
func WithCaller(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, callerKey{}, name)
}

func callerOf(ctx context.Context) string {
	name, _ := ctx.Value(callerKey{}).(string)
	return name
}

// budgets are all the buckets of a node. They are the node's own: of several
// nodes on one log each gives out its own budget.
type budgets struct {
	mu                          sync.Mutex // so that a request takes all or nothing, at one instant
	groupMessages, groupBytes   *buckets
	callerMessages, callerBytes *buckets
	callerQuestions             *buckets // a day
}

func newBudgets(l Limits) *budgets {
	return &budgets{
		groupMessages: newBuckets(l.GroupMessages), groupBytes: newBuckets(l.GroupBytes),
		callerMessages: newBuckets(l.CallerMessages), callerBytes: newBuckets(l.CallerBytes),
		callerQuestions: newDailyBuckets(l.CallerWallets),
	}
}

// ask takes so many questions to wallets on chains out of a caller's day, or none,
// and then it returns errOverBudget. A chain's provider has them paid.
func (b *budgets) ask(now time.Time, caller string, questions int) error {
	if caller == "" || questions == 0 || b.callerQuestions == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.callerQuestions.reserve(now, caller, questions)
	if r.DelayFrom(now) == 0 {
		return nil
	}
	r.CancelAt(now)
	return fmt.Errorf("%w: the caller's for wallets on chains, which fills up within a day", errOverBudget)
}

// spend takes all that a request wants to publish out of every budget that it
// counts against, or nothing at all, and then it returns errOverBudget.
func (b *budgets) spend(now time.Time, caller string, wanted []publication) error {
	type sum struct{ messages, bytes int }
	var total sum
	groups := map[string]sum{}
	for _, p := range wanted {
		size := len(p.payload) + entryOverhead
		total = sum{total.messages + 1, total.bytes + size}
		switch p.topic.Kind() {
		case bus.GroupMessages, bus.GroupCommits, bus.CommitLog:
			id := string(p.topic.ID())
			groups[id] = sum{groups[id].messages + 1, groups[id].bytes + size}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var taken []*rate.Reservation
	take := func(from *buckets, name string, n int, whose string) error {
		if from == nil {
			return nil
		}
		r := from.reserve(now, name, n)
		taken = append(taken, r)
		wait := r.DelayFrom(now)
		if wait == 0 {
			return nil
		}
		return fmt.Errorf("%w: %s: ask again in %v", errOverBudget, whose, wait.Round(time.Second)+time.Second)
	}
	err := func() error {
		if caller != "" {
			if err := take(b.callerMessages, caller, total.messages, "the caller's messages"); err != nil {
				return err
			}
			if err := take(b.callerBytes, caller, total.bytes, "the caller's bytes"); err != nil {
				return err
			}
		}
		for group, s := range groups {
			if err := take(b.groupMessages, group, s.messages, "the group's messages"); err != nil {
				return err
			}
			if err := take(b.groupBytes, group, s.bytes, "the group's bytes"); err != nil {
				return err
			}
		}
		return nil
	}()
	if err != nil {
		for _, r := range taken {
			r.CancelAt(now)
		}
	}
	return err
}

// maxBuckets bounds how many buckets of a kind are remembered. A bucket has
// about 200 bytes.
const maxBuckets = 1 << 16

// buckets are the buckets of one kind by name. Those that were not used for
// longest are forgotten first, half of them at a time; a forgotten bucket starts
// full again, which after so many others it mostly is.
type buckets struct {
	limit      rate.Limit
	burst      int
	young, old map[string]*rate.Limiter
}

// newBuckets returns nil where there is no limit.
func newBuckets(b Budget) *buckets {
	if b.PerMinute <= 0 {
		return nil
	}
	burst := b.Burst
	if burst <= 0 {
		burst = b.PerMinute
	}
	return &buckets{limit: rate.Limit(float64(b.PerMinute) / 60), burst: burst, young: map[string]*rate.Limiter{}}
}

// newDailyBuckets returns nil where there is no limit.
func newDailyBuckets(perDay int) *buckets {
	if perDay < 0 {
		return nil
	}
	const day = 24 * 60 * 60 // seconds
	return &buckets{limit: rate.Limit(float64(perDay) / day), burst: perDay, young: map[string]*rate.Limiter{}}
}

// reserve takes n out of a bucket. Who wants more than a bucket ever holds needs
// a full one.
func (b *buckets) reserve(now time.Time, name string, n int) *rate.Reservation {
	return b.bucket(name).ReserveN(now, min(n, b.burst))
}

func (b *buckets) bucket(name string) *rate.Limiter {
	l := b.young[name]
	if l != nil {
		return l
	}
	if len(b.young) >= maxBuckets/2 {
		b.young, b.old = map[string]*rate.Limiter{}, b.young
	}
	if l = b.old[name]; l == nil {
		l = rate.NewLimiter(b.limit, b.burst)
	}
	b.young[name] = l
	return l
}
