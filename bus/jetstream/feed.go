package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave/bus"
)

// Bounds of what one feed holds for its reader. What is beyond lies in the log,
// and is read from there when the reader comes to it.
const (
	maxQueued      = 4096
	maxQueuedBytes = 32 << 20
	maxBatch       = 512
	maxBatchSize   = 1 << 20
)

// A feed has two sources: a queue, which the tails fill, and the log, from
// which it reads what was published before a Follow, or while the queue was
// full. Which of the two is decided for each follower.
type feed struct {
	bus    *Bus
	signal chan struct{} // holds one token while there may be something to take

	mu     sync.Mutex // taken after a tail's
	closed bool
	failed []error
	topics map[bus.Topic]*follower
	all    []*follower // where everything is followed: one for each shard
	queue  []queued
	size   int // bytes of payload in the queue
	behind []*follower
	turn   bool // whose turn it is: the queue's or the log's
}

type queued struct {
	follower *follower
	bus.Envelope
}

// everything stands for all topics of a shard, wherever topics are keys. It is
// the zero Topic, which is nobody's.
var everything bus.Topic

// A follower is what was followed by one call: topics of one shard that are
// merged in the order of IDs, or everything of a shard. It is live, and gets its
// envelopes by the queue, or behind, and reads them from the log until it has
// caught up with the tail. All fields are guarded by feed.mu.
type follower struct {
	feed  *feed
	shard int
	// cursors holds for each topic the ID up to which everything was put into
	// the queue or delivered.
	cursors map[bus.Topic]bus.ID
	// unread holds the topics that may have envelopes above their cursors, each
	// with the ID up to which there may be some. The follower is behind while
	// there is one.
	unread map[bus.Topic]bus.ID
	waits  int // its envelopes in the queue, which go before what is unread
}

// Open implements bus.Bus.
func (b *Bus) Open(ctx context.Context) (bus.Feed, error) {
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	f := &feed{bus: b, signal: make(chan struct{}, 1), topics: make(map[bus.Topic]*follower)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, bus.ErrClosed
	}
	b.feeds[f] = struct{}{}
	return f, nil
}

func (f *feed) Follow(ctx context.Context, after bus.ID, topics ...bus.Topic) error {
	shard, err := bus.OneShard(len(f.bus.tails), after, topics...)
	if err != nil {
		return err
	}
	if err := f.bus.ready(ctx); err != nil {
		return err
	}
	t := f.bus.tails[shard]
	if err := t.start(ctx); err != nil {
		return err
	}
	for {
		rewinds := t.rewound()
		if after.Sequence() > t.position.Load() {
			if _, err := f.bus.endFrom(ctx, shard, after); err != nil {
				return err
			}
		}
		if err := f.followTopics(t, rewinds, after, topics); !errors.Is(err, errRewound) {
			return err
		}
	}
}

// errRewound: the log went backwards after its end was asked for. Ask again: a
// position beyond the end as it is now would pass over what comes there.
var errRewound = errors.New("jetstream: the log's end is another now")

// followTopics makes a follower of topics, if the log has not gone backwards since
// it had done so for the given number of times.
func (f *feed) followTopics(t *tail, rewinds int, after bus.ID, topics []bus.Topic) error {
	s := f.newFollower(t.shard, len(topics))
	t.mu.Lock()
	defer t.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return bus.ErrClosed
	case f.all != nil:
		return fmt.Errorf("%w: the feed follows everything", bus.ErrBadTopic)
	case t.rewinds != rewinds:
		return errRewound
	}
	position := bus.MakeID(t.position.Load(), t.shard)
	for _, topic := range topics {
		s.cursors[topic] = after
		if after < position {
			s.unread[topic] = position
		}
		old := f.topics[topic]
		if old != nil && old != s {
			old.forget(topic)
		}
		t.add(s, topic, old)
		f.topics[topic] = s
	}
	f.enlist(s)
	return nil
}

func (f *feed) newFollower(shard, topics int) *follower {
	return &follower{
		feed: f, shard: shard,
		cursors: make(map[bus.Topic]bus.ID, topics),
		unread:  make(map[bus.Topic]bus.ID),
	}
}

// FollowAll implements bus.Feed: a follower of each shard that has none yet.
func (f *feed) FollowAll(ctx context.Context) error {
	if err := f.bus.ready(ctx); err != nil {
		return err
	}
	// A tail may not have come to the log's end yet, and what it has before it
	// is not published from now on.
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, t := range f.bus.tails {
		g.Go(func() error { return f.followShard(gctx, t) })
	}
	return g.Wait()
}

// followShard follows everything of a shard from its end.
func (f *feed) followShard(ctx context.Context, t *tail) error {
	if err := t.start(ctx); err != nil {
		return err
	}
	for {
		rewinds := t.rewound()
		end, err := f.bus.end(ctx, t.shard)
		if err != nil {
			return err
		}
		if err := f.followFrom(t, rewinds, bus.MakeID(end, t.shard)); !errors.Is(err, errRewound) {
			return err
		}
	}
}

// followFrom makes a follower of everything, as followTopics does of topics.
func (f *feed) followFrom(t *tail, rewinds int, after bus.ID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return bus.ErrClosed
	case len(f.topics) > 0:
		return fmt.Errorf("%w: the feed follows topics", bus.ErrBadTopic)
	case t.rewinds != rewinds:
		return errRewound
	case f.all == nil:
		f.all = make([]*follower, len(f.bus.tails))
	case f.all[t.shard] != nil:
		return nil
	}
	s := f.newFollower(t.shard, 1)
	s.cursors[everything] = after
	if position := bus.MakeID(t.position.Load(), t.shard); after < position {
		s.unread[everything] = position
	}
	t.add(s, everything, nil)
	f.all[t.shard] = s
	f.enlist(s)
	return nil
}

// key is what stands for a topic in the follower's maps.
func (s *follower) key(topic bus.Topic) bus.Topic {
	if s.feed.all != nil {
		return everything
	}
	return topic
}

// follows reports whether a topic is the follower's still.
func (s *follower) follows(topic bus.Topic) bool {
	if s.feed.all != nil {
		return s.feed.all[s.shard] == s
	}
	return s.feed.topics[topic] == s
}

func (s *follower) forget(topic bus.Topic) {
	delete(s.cursors, topic)
	delete(s.unread, topic)
}

func (f *feed) Unfollow(topics ...bus.Topic) {
	for shard, topics := range f.bus.byShard(topics) {
		if len(topics) == 0 {
			continue
		}
		t := f.bus.tails[shard]
		t.mu.Lock()
		f.mu.Lock()
		for _, topic := range topics {
			if s := f.topics[topic]; s != nil {
				s.forget(topic)
				delete(f.topics, topic)
				t.drop(s, topic)
			}
		}
		f.mu.Unlock()
		t.mu.Unlock()
	}
}

func (f *feed) unfollowAll() {
	for _, t := range f.bus.tails {
		t.mu.Lock()
		f.mu.Lock()
		if f.all[t.shard] != nil {
			t.drop(f.all[t.shard], everything)
			f.all[t.shard] = nil
		}
		f.mu.Unlock()
		t.mu.Unlock()
	}
}

// offer takes an envelope from the tail. It never blocks: what does not fit
// stays in the log.
func (f *feed) offer(s *follower, e bus.Envelope) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := s.key(e.Topic)
	if e.ID <= s.cursors[key] || !s.follows(e.Topic) {
		return
	}
	if len(s.unread) > 0 || len(f.queue) >= maxQueued || f.size+len(e.Payload) > maxQueuedBytes && f.size > 0 {
		first := len(s.unread) == 0
		s.unread[key] = e.ID
		if first {
			f.enlist(s)
		}
		return
	}
	s.cursors[key] = e.ID
	s.waits++
	f.queue = append(f.queue, queued{s, e})
	f.size += len(e.Payload)
	f.wake()
}

// enlist notes that a follower is behind, if it is. Called with f.mu held.
func (f *feed) enlist(s *follower) {
	if len(s.unread) > 0 {
		f.behind = append(f.behind, s)
		f.wake()
	}
}

func (f *feed) wake() {
	select {
	case f.signal <- struct{}{}:
	default:
	}
}

// rolledBack drops the topics of a shard that went backwards. Called with the
// tail's mutex held.
func (f *feed) rolledBack(shard int, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for topic, s := range f.topics {
		if s.shard == shard {
			s.forget(topic)
			delete(f.topics, topic)
		}
	}
	if f.all != nil && f.all[shard] != nil {
		f.all[shard].forget(everything)
		f.all[shard] = nil
	}
	f.failed = append(f.failed, fmt.Errorf("%w: shard %d: %s", bus.ErrLogRolledBack, shard, why))
	f.wake()
}

// fail gives the reader an error, unless it has yet to take one.
func (f *feed) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.failed) == 0 {
		f.failed = append(f.failed, err)
		f.wake()
	}
}

func (f *feed) Next(ctx context.Context) ([]bus.Envelope, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		batch, late, err := f.take()
		if err != nil || len(batch) > 0 {
			return batch, err
		}
		if len(late) > 0 {
			if batch, err = f.catchUp(ctx, late); err != nil || len(batch) > 0 {
				return batch, err
			}
			continue
		}
		select {
		case <-f.signal:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take returns what the reader gets next: a batch from the queue, or the
// followers to read from the log. The two take turns.
func (f *feed) take() (batch []bus.Envelope, late []*follower, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, nil, bus.ErrClosed
	}
	if len(f.failed) > 0 {
		err, f.failed = f.failed[0], f.failed[1:]
		return nil, nil, err
	}
	if f.turn = !f.turn; f.turn {
		if batch = f.dequeue(); len(batch) == 0 {
			late = f.late()
		}
	} else {
		if late = f.late(); len(late) == 0 {
			batch = f.dequeue()
		}
	}
	if len(f.queue) > 0 || len(f.behind) > 0 {
		f.wake()
	}
	return batch, late, nil
}

// dequeue takes a batch from the queue, passing over what is no longer followed.
func (f *feed) dequeue() (batch []bus.Envelope) {
	taken := 0
	for _, q := range f.queue {
		if len(batch) == maxBatch {
			break
		}
		taken++
		f.size -= len(q.Payload)
		q.follower.waits--
		if q.follower.follows(q.Topic) {
			batch = append(batch, q.Envelope)
		}
	}
	clear(f.queue[:taken])
	if f.queue = f.queue[taken:]; len(f.queue) == 0 {
		f.queue = nil
	}
	return batch
}

// late takes the followers whose turn it is to read from the log: those with
// nothing left in the queue.
func (f *feed) late() (late []*follower) {
	f.behind = slices.DeleteFunc(f.behind, func(s *follower) bool {
		if len(s.unread) == 0 {
			return true // unfollowed
		}
		if s.waits == 0 && len(late) < parallel {
			late = append(late, s)
			return true
		}
		return false
	})
	return late
}

// catchUp reads the next envelopes of followers that are behind. A read that
// fails leaves its follower behind, where it was.
func (f *feed) catchUp(ctx context.Context, late []*follower) ([]bus.Envelope, error) {
	parts := make([][]bus.Envelope, len(late))
	var g errgroup.Group
	for i, s := range late {
		g.Go(func() (err error) {
			parts[i], err = f.readOn(ctx, s, maxBatch/len(late), maxBatchSize/len(late))
			return err
		})
	}
	err := g.Wait()
	batch := slices.Concat(parts...)
	if len(batch) > 0 {
		return batch, nil // an error comes back when it is tried again
	}
	return nil, err
}

// readOn reads a follower's next envelopes up to the tail's position. All below
// that has been offered, so unread names every topic that has some, and none
// can appear later with a lower ID.
func (f *feed) readOn(ctx context.Context, s *follower, limit, bytes int) ([]bus.Envelope, error) {
	t := f.bus.tails[s.shard]
	sp := span{shard: s.shard, upTo: t.position.Load(), limit: limit, bytes: bytes}
	f.mu.Lock()
	cursors := make(map[bus.Topic]bus.ID, len(s.unread))
	for topic := range s.unread {
		cursors[topic] = s.cursors[topic]
	}
	f.mu.Unlock()

	var got []bus.Envelope
	var upTo uint64
	var err error
	switch {
	case len(cursors) == 0:
		return nil, nil
	case sp.sweeps(cursors):
		got, upTo, err = f.bus.sweep(ctx, sp, cursors)
	default:
		var complete bool
		got, complete, err = f.bus.merge(ctx, sp, cursors)
		upTo = sp.upTo
		if !complete && len(got) > 0 {
			upTo = got[len(got)-1].ID.Sequence()
		}
	}

	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.enlist(s)
	if err != nil {
		return nil, err
	}
	got = slices.DeleteFunc(got, func(e bus.Envelope) bool {
		return !s.follows(e.Topic) || e.ID <= s.cursors[s.key(e.Topic)]
	})
	reached := bus.MakeID(upTo, s.shard)
	for topic := range cursors {
		if !s.follows(topic) {
			continue
		}
		s.cursors[topic] = max(s.cursors[topic], reached)
		if s.unread[topic] <= reached {
			delete(s.unread, topic)
		}
	}
	return got, nil
}

func (f *feed) Close() error {
	f.mu.Lock()
	f.closed = true
	f.queue, f.behind, f.size = nil, nil, 0
	topics, all := topicsOf(f.topics), f.all != nil
	f.wake()
	f.mu.Unlock()
	f.Unfollow(topics...)
	if all {
		f.unfollowAll()
	}

	f.bus.mu.Lock()
	defer f.bus.mu.Unlock()
	delete(f.bus.feeds, f)
	return nil
}
