package gateway

import (
	"context"
	"slices"
	"sync"
	"time"
)

// turns decide whose request is worked on next. Only a few are at a time: more
// would answer no sooner, since they share the cores and one log, and each that
// comes would wait for all of them. Callers whose requests wait take turns, and
// none has more than half of them, so that what one caller sends makes nobody but
// itself wait.
//
// A caller with nothing at work never waits. So nobody can hold up the others by
// requests that take long, and a caller that asks for one thing at a time finds
// before it the few that are at work, and none that wait. Nor does a caller wait
// that is alone: more at a time are done sooner, if nobody minds that each takes
// longer.
type turns struct {
	mu     sync.Mutex
	size   int       // of requests at work, where none had no need to wait
	most   int       // of those, one caller's
	all    int       // requests at work
	round  []*caller // those with requests that wait, each once, whose turn is next first
	latest *caller   // whose request came last
	met    time.Time // when that was last another one's than the one before
}

// alone is how long a caller is the only one before it counts as alone.
const alone = 10 * time.Second

// line is a caller's part of the turns, guarded by their lock.
type line struct {
	working int
	waiting []chan struct{} // closed for the one whose turn it is, oldest first
}

// take waits for a turn of the caller, which ends with give.
func (t *turns) take(ctx context.Context, c *caller) error {
	t.mu.Lock()
	now := time.Now()
	if t.latest != c && t.latest != nil {
		t.met = now
	}
	t.latest = c
	isAlone := now.Sub(t.met) > alone && t.all == c.line.working && !slices.ContainsFunc(t.round, func(w *caller) bool { return w != c })
	for isAlone && len(c.line.waiting) > 0 {
		t.next(c)
	}
	if isAlone || t.all < t.size && c.line.working < t.most || c.line.working == 0 {
		t.begin(c)
		t.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	c.line.waiting = append(c.line.waiting, turn)
	if len(c.line.waiting) == 1 {
		t.round = append(t.round, c)
	}
	t.mu.Unlock()

	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(c.line.waiting, turn); i >= 0 {
		c.line.waiting = slices.Delete(c.line.waiting, i, i+1)
		if len(c.line.waiting) == 0 {
			t.leaveRound(c)
		}
	} else {
		t.end(c) // it came at the same moment
	}
	return refusal(ctx, ctx.Err())
}

// give ends a turn.
func (t *turns) give(c *caller) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end(c)
}

func (t *turns) begin(c *caller) {
	t.all++
	c.line.working++
}

func (t *turns) end(c *caller) {
	t.all--
	c.line.working--
	if c.line.working == 0 && len(c.line.waiting) > 0 {
		t.next(c)
	}
	for t.all < t.size {
		i := slices.IndexFunc(t.round, func(c *caller) bool { return c.line.working < t.most })
		if i < 0 {
			break
		}
		t.next(t.round[i])
	}
}

// next begins the oldest request of a caller that waits, whose next turn is
// after everybody else's.
func (t *turns) next(c *caller) {
	t.leaveRound(c)
	close(c.line.waiting[0])
	c.line.waiting = c.line.waiting[1:]
	t.begin(c)
	if len(c.line.waiting) > 0 {
		t.round = append(t.round, c)
	}
}

func (t *turns) leaveRound(c *caller) {
	i := slices.Index(t.round, c)
	t.round = slices.Delete(t.round, i, i+1)
}
