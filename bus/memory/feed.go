package memory

import (
	"container/heap"
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/conclave-chat/conclave/bus"
)

const maxBatch = 512

// A feed keeps positions, never envelopes: however slow its reader is, what it
// has not read lies in the log and nowhere else.
type feed struct {
	bus    *Bus
	signal chan struct{} // holds one token while there may be something to take

	// guarded by bus.log.mu
	closed  bool
	failed  error
	cursors map[bus.Topic]bus.ID
	pending map[bus.Topic]struct{} // followed topics that may have more
}

// Open implements bus.Bus.
func (b *Bus) Open(ctx context.Context) (bus.Feed, error) {
	b.log.mu.Lock()
	defer b.log.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	f := &feed{
		bus:     b,
		signal:  make(chan struct{}, 1),
		cursors: make(map[bus.Topic]bus.ID),
		pending: make(map[bus.Topic]struct{}),
	}
	b.feeds[f] = struct{}{}
	return f, nil
}

func (f *feed) Follow(ctx context.Context, after bus.ID, topics ...bus.Topic) error {
	l := f.bus.log
	index, err := bus.OneShard(l.cfg.Shards, after, topics...)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.closed {
		return bus.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s := &l.shards[index]
	if after.Sequence() > s.end {
		return fmt.Errorf("%w: shard %d ends at %d, follow after %d", bus.ErrLogRolledBack, index, s.end, after.Sequence())
	}
	for _, t := range topics {
		f.cursors[t] = after
		if s.followers[t] == nil {
			s.followers[t] = make(map[*feed]struct{})
		}
		s.followers[t][f] = struct{}{}
		f.stir(t)
	}
	return nil
}

func (f *feed) Unfollow(topics ...bus.Topic) {
	f.bus.log.mu.Lock()
	defer f.bus.log.mu.Unlock()
	for _, t := range topics {
		f.unfollow(t)
	}
}

// The methods from here to Next are called with the log's mutex held.

func (f *feed) unfollow(t bus.Topic) {
	delete(f.cursors, t)
	delete(f.pending, t)
	s := &f.bus.log.shards[bus.ShardOf(t, f.bus.log.cfg.Shards)]
	delete(s.followers[t], f)
	if len(s.followers[t]) == 0 {
		delete(s.followers, t)
	}
}

// stir notes that t may have more, and wakes the reader.
func (f *feed) stir(t bus.Topic) {
	f.pending[t] = struct{}{}
	f.wake()
}

func (f *feed) wake() {
	select {
	case f.signal <- struct{}{}:
	default:
	}
}

// rolledBack drops the topics of a shard that went backwards.
func (f *feed) rolledBack(shard int) {
	for t := range maps.Clone(f.cursors) {
		if bus.ShardOf(t, f.bus.log.cfg.Shards) == shard {
			f.unfollow(t)
		}
	}
	f.failed = fmt.Errorf("%w: shard %d", bus.ErrLogRolledBack, shard)
	f.wake()
}

func (f *feed) end() {
	f.closed = true
	for t := range maps.Clone(f.cursors) {
		f.unfollow(t)
	}
	delete(f.bus.feeds, f)
	f.wake()
}

func (f *feed) take() ([]bus.Envelope, error) {
	if f.closed {
		return nil, bus.ErrClosed
	}
	if err := f.failed; err != nil {
		f.failed = nil
		return nil, err
	}
	l := f.bus.log
	var lists merging
	for t := range f.pending {
		more := l.shards[bus.ShardOf(t, l.cfg.Shards)].above(t, f.cursors[t])
		if len(more) == 0 {
			delete(f.pending, t)
		} else {
			lists = append(lists, more)
		}
	}
	batch := lists.take(maxBatch, l.cfg.Now())
	for _, e := range batch {
		f.cursors[e.Topic] = e.ID
	}
	return batch, nil
}

func (f *feed) Next(ctx context.Context) ([]bus.Envelope, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f.bus.log.mu.Lock()
		batch, err := f.take()
		f.bus.log.mu.Unlock()
		if err != nil || len(batch) > 0 {
			return batch, err
		}
		select {
		case <-f.signal:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (f *feed) Close() error {
	f.bus.log.mu.Lock()
	defer f.bus.log.mu.Unlock()
	f.end()
	return nil
}

// merging is a heap of non-empty lists by their first IDs.
type merging [][]entry

func (m merging) Len() int           { return len(m) }
func (m merging) Less(i, j int) bool { return m[i][0].ID < m[j][0].ID }
func (m merging) Swap(i, j int)      { m[i], m[j] = m[j], m[i] }
func (m *merging) Push(x any)        { *m = append(*m, x.([]entry)) }
func (m *merging) Pop() any {
	last := len(*m) - 1
	x := (*m)[last]
	*m = (*m)[:last]
	return x
}

// take returns the first visible envelopes in the order of IDs.
func (m merging) take(limit int, now time.Time) []bus.Envelope {
	m = nonEmpty(m)
	heap.Init(&m)
	var out []bus.Envelope
	for len(m) > 0 && len(out) < limit {
		if e := &m[0][0]; e.visible(now) {
			out = append(out, e.Envelope)
		}
		if m[0] = m[0][1:]; len(m[0]) == 0 {
			heap.Pop(&m)
		} else {
			heap.Fix(&m, 0)
		}
	}
	return out
}

func nonEmpty(lists merging) merging {
	kept := lists[:0]
	for _, l := range lists {
		if len(l) > 0 {
			kept = append(kept, l)
		}
	}
	return kept
}
