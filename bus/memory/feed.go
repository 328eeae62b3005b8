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
	number int           // in the order of opening
	signal chan struct{} // holds one token while there may be something to take

	// guarded by bus.log.mu
	closed  bool
	failed  error
	cursors map[bus.Topic]bus.ID
	pending map[bus.Topic]struct{} // followed topics that may have more
	all     []bus.ID               // where everything is followed: a cursor for each shard
	held    []bus.Envelope         // taken before the last Follow, Unfollow or Rewind
}

// Open implements bus.Bus.
func (b *Bus) Open(ctx context.Context) (bus.Feed, error) {
	b.log.mu.Lock()
	defer b.log.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	b.log.opened++
	f := &feed{
		bus:     b,
		number:  b.log.opened,
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
	if err := f.ready(ctx); err != nil {
		return err
	}
	if f.all != nil {
		return fmt.Errorf("%w: the feed follows everything", bus.ErrBadTopic)
	}
	s := &l.shards[index]
	if after.Sequence() > s.end {
		return fmt.Errorf("%w: shard %d ends at %d, follow after %d", bus.ErrLogRolledBack, index, s.end, after.Sequence())
	}
	f.hold()
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

func (f *feed) FollowAll(ctx context.Context) error {
	l := f.bus.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := f.ready(ctx); err != nil {
		return err
	}
	if len(f.cursors) > 0 {
		return fmt.Errorf("%w: the feed follows topics", bus.ErrBadTopic)
	}
	if f.all == nil {
		f.all = make([]bus.ID, len(l.shards))
	}
	for index := range l.shards {
		s := &l.shards[index]
		if _, follows := s.everybody[f]; !follows {
			s.everybody[f] = struct{}{}
			f.all[index] = bus.MakeID(s.end, index)
		}
	}
	return nil
}

func (f *feed) Unfollow(topics ...bus.Topic) {
	f.bus.log.mu.Lock()
	defer f.bus.log.mu.Unlock()
	f.hold()
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
	f.leave(shard)
	f.failed = fmt.Errorf("%w: shard %d", bus.ErrLogRolledBack, shard)
	f.wake()
}

// leave stops following everything of a shard.
func (f *feed) leave(shard int) {
	delete(f.bus.log.shards[shard].everybody, f)
	maps.DeleteFunc(f.pending, func(t bus.Topic, _ struct{}) bool {
		return bus.ShardOf(t, f.bus.log.cfg.Shards) == shard
	})
}

func (f *feed) end() {
	f.closed = true
	for t := range maps.Clone(f.cursors) {
		f.unfollow(t)
	}
	for shard := range f.all {
		f.leave(shard)
	}
	delete(f.bus.feeds, f)
	f.wake()
}

// ready says whether a call may go ahead.
func (f *feed) ready(ctx context.Context) error {
	if f.closed {
		return bus.ErrClosed
	}
	return f.bus.ready(ctx)
}

// take returns what the reader gets next, and whether there may be more by now.
func (f *feed) take(ctx context.Context) (batch []bus.Envelope, again bool, err error) {
	if err := f.ready(ctx); err != nil {
		return nil, false, err
	}
	if n := min(len(f.held), maxBatch); n > 0 {
		batch, f.held = f.held[:n:n], f.held[n:]
		return batch, false, nil
	}
	if err := f.failed; err != nil {
		f.failed = nil
		return nil, false, err
	}
	if len(f.pending) > 0 && f.bus.log.meanwhile(Lag) {
		return nil, true, nil
	}
	due := f.due()
	batch = f.pierce(due)
	return batch, len(batch) < len(due), nil
}

// due takes the next envelopes from the log.
func (f *feed) due() []bus.Envelope {
	l := f.bus.log
	var lists merging
	for t := range f.pending {
		shard := bus.ShardOf(t, l.cfg.Shards)
		after := f.cursors[t]
		if f.all != nil {
			after = f.all[shard]
		}
		more := l.shards[shard].above(t, after)
		if len(more) == 0 {
			delete(f.pending, t)
		} else {
			lists = append(lists, more)
		}
	}
	batch := lists.take(maxBatch, l.cfg.Now())
	for _, e := range batch {
		if f.all != nil {
			f.all[e.ID.Shard()] = e.ID
		} else {
			f.cursors[e.Topic] = e.ID
		}
	}
	return batch
}

func (f *feed) Next(ctx context.Context) ([]bus.Envelope, error) {
	for {
		f.bus.log.mu.Lock()
		batch, again, err := f.take(ctx)
		f.bus.log.mu.Unlock()
		if err != nil || len(batch) > 0 {
			return batch, err
		}
		if again {
			continue
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
