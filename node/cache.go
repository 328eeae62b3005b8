package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/identity"
)

// A cache holds what was read of some topics. Before each answer it asks the log for
// the topic's newest entry and reads on to it, so no answer is out of date. A topic that
// is dropped from the cache is read again when it is asked for.
type cache[V any] struct {
	bus  bus.Bus
	max  int
	read func(context.Context, *V, bus.Envelope) error
	// enough says that what was read of a topic's newest entry alone makes those
	// before it of no interest; nil where all are of interest.
	enough func(V) bool
	// slow says that to read an entry may take as long as a chain does; nil where
	// nothing does. At most cap(patience) requests wait at a time for such reads,
	// their own or another's of the same topic. More are refused.
	slow     func(V, bus.Envelope) bool
	patience chan struct{}

	mu          sync.Mutex
	incarnation string
	topics      map[bus.Topic]*cachedTopic[V]
}

// A cachedTopic is one topic as far as it was read. Only the request that holds its
// turn reads on.
type cachedTopic[V any] struct {
	topic bus.Topic
	turn  chan struct{} // one
	slow  atomic.Bool   // whoever has the turn waits for a chain

	last  bus.ID // the newest entry that was read
	value V
}

func newCache[V any](b bus.Bus, max int, read func(context.Context, *V, bus.Envelope) error) *cache[V] {
	return &cache[V]{bus: b, max: max, read: read, topics: map[bus.Topic]*cachedTopic[V]{}}
}

// topic returns what is cached of a topic, which need not be up to date.
func (c *cache[V]) topic(t bus.Topic) *cachedTopic[V] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.bus.Info().Incarnation; now != c.incarnation {
		clear(c.topics) // another log: IDs mean nothing any more
		c.incarnation = now
	}
	if known := c.topics[t]; known != nil {
		return known
	}
	for victim := range c.topics { // any: the map's order is random
		if len(c.topics) < c.max {
			break
		}
		delete(c.topics, victim)
	}
	added := &cachedTopic[V]{topic: t, turn: make(chan struct{}, 1)}
	c.topics[t] = added
	return added
}

// readers is how many topics of one request are read at a time.
const readers = 8

// errChainsBusy: no verdict now.
var errChainsBusy = fmt.Errorf("too many requests wait for chains: ask again: %w", identity.ErrNeedChain)

// wait takes a place among those that wait for slow reads.
func (c *cache[V]) wait() (done func(), err error) {
	select {
	case c.patience <- struct{}{}:
		return func() { <-c.patience }, nil
	default:
		return nil, errChainsBusy
	}
}

// take waits for a topic's turn, which give ends.
func (c *cache[V]) take(ctx context.Context, t *cachedTopic[V]) error {
	select {
	case t.turn <- struct{}{}:
		return nil
	default:
	}
	if t.slow.Load() {
		done, err := c.wait()
		if err != nil {
			return err
		}
		defer done()
	}
	return take(ctx, t.turn)
}

func (t *cachedTopic[V]) give() { <-t.turn }

// current returns what the topics hold as the log has them now, in the order asked.
// Two topics may be the same.
func (c *cache[V]) current(ctx context.Context, topics []bus.Topic) ([]V, error) {
	if len(topics) == 0 {
		return nil, nil
	}
	ends, err := c.bus.Last(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("find the ends of %d topics: %w", len(topics), err)
	}
	values := make([]V, len(topics))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for i, t := range topics {
		t := c.topic(t)
		g.Go(func() error {
			if err := c.take(ctx, t); err != nil {
				return err
			}
			defer t.give()
			err := c.catchUp(ctx, t, ends[i])
			values[i] = t.value
			return err
		})
	}
	return values, g.Wait()
}

// batch is how many envelopes are read at a time.
const batch = 256

// catchUp reads a topic up to end, the topic's newest ID. The caller has its turn.
func (c *cache[V]) catchUp(ctx context.Context, t *cachedTopic[V], end bus.ID) error {
	if end < t.last { // old news, or the log forgot or lost something
		now, err := c.bus.Last(ctx, t.topic)
		if err != nil {
			return fmt.Errorf("find the end of a topic: %w", err)
		}
		if end = now[0]; end < t.last {
			t.forget()
		}
	}
	if c.enough == nil || end <= t.last {
		return c.readOn(ctx, t, end)
	}
	last, value := t.last, t.value
	t.forget()
	t.last = position(end.Sequence()-1, end.Shard())
	err := c.readOn(ctx, t, end)
	if err == nil && c.enough(t.value) {
		return nil
	}
	t.last, t.value = last, value
	if err != nil {
		return err
	}
	return c.readOn(ctx, t, end)
}

// readOn reads a topic up to end.
func (c *cache[V]) readOn(ctx context.Context, t *cachedTopic[V], end bus.ID) error {
	for again := false; t.last < end; {
		envelopes, err := c.bus.Read(ctx, t.last, batch, t.topic)
		if errors.Is(err, bus.ErrLogRolledBack) && !again {
			again = true
			t.forget()
			continue
		}
		if err != nil {
			return fmt.Errorf("read topic: %w", err)
		}
		for _, e := range envelopes {
			if err := c.readEntry(ctx, t, e); err != nil {
				return err
			}
			t.last = e.ID
		}
		if len(envelopes) < batch {
			break
		}
	}
	return nil
}

func (c *cache[V]) readEntry(ctx context.Context, t *cachedTopic[V], e bus.Envelope) error {
	if c.slow != nil && c.slow(t.value, e) {
		done, err := c.wait()
		if err != nil {
			return err
		}
		defer done()
		t.slow.Store(true)
		defer t.slow.Store(false)
	}
	return c.read(ctx, &t.value, e)
}

func (t *cachedTopic[V]) forget() {
	var none V
	t.value, t.last = none, 0
}
