package jetstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/conclave-chat/conclave/bus"
)

// A tail reads the live end of one shard, once for all feeds of the connection,
// and hands each envelope to those that follow its topic. It starts with the
// first Follow, at the end of the log as it is then.
//
// It is an ordered consumer of its own making: an ephemeral consumer without
// acknowledgements whose numbers are checked for gaps, and which is made anew,
// after the last envelope handed out, whenever anything is wrong. Before each
// beginning it checks that the log still is what it was.
type tail struct {
	bus   *Bus
	shard int

	// position is the last sequence that has been handed out: every envelope
	// up to it has been offered to those who followed its topic.
	position atomic.Uint64

	starting chan struct{} // holds one token while nobody starts the tail
	started  bool          // guarded by starting

	mu        sync.Mutex // taken before a feed's
	followers map[bus.Topic]map[*follower]struct{}
	rewinds   int // how often the log went backwards: what was known of its end before is void

	// used by run alone
	incarnation string
	losses      string
	newest      time.Time // the log's time of the envelope at position; zero where not known
}

// What one pull may have under way, in this process's memory.
const (
	pullMessages = 4096
	pullBytes    = 32 << 20
	heartbeat    = 2 * time.Second
)

func newTail(b *Bus, shard int) *tail {
	t := &tail{
		bus: b, shard: shard,
		starting:  make(chan struct{}, 1),
		followers: make(map[bus.Topic]map[*follower]struct{}),
	}
	t.starting <- struct{}{}
	return t
}

// start makes sure that the tail runs.
func (t *tail) start(ctx context.Context) error {
	select {
	case <-t.starting:
		defer func() { t.starting <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if t.started {
		return nil
	}
	t.incarnation = t.bus.Info().Incarnation
	if losses := t.bus.Info().Losses; losses > 0 {
		t.losses = strconv.Itoa(losses)
	}
	state, err := t.bus.state(ctx, t.shard)
	if err != nil {
		return err
	}
	t.position.Store(state.LastSeq)
	t.newest = state.LastTime
	t.bus.mu.Lock()
	defer t.bus.mu.Unlock()
	if t.bus.closed {
		return bus.ErrClosed
	}
	t.started = true
	t.bus.running.Go(t.run)
	return nil
}

func (t *tail) run() {
	const shortest, longest = 20 * time.Millisecond, time.Second
	for wait := shortest; ; wait = min(2*wait, longest) {
		before := t.position.Load()
		err := t.session()
		if t.bus.ctx.Err() != nil {
			return
		}
		t.bus.log.Debug("bus consumer ended", "shard", t.shard, "error", err)
		if t.position.Load() != before {
			wait = shortest
		}
		select {
		case <-time.After(wait):
		case <-t.bus.ctx.Done():
			return
		}
	}
}

// session consumes until something is wrong.
func (t *tail) session() error {
	t.bus.mu.Lock()
	ctx, cancel := context.WithCancel(t.bus.link)
	t.bus.mu.Unlock()
	defer cancel()

	consumer, err := t.consumer(ctx)
	if err != nil {
		return err
	}
	defer t.remove(consumer)
	messages, err := consumer.Messages(
		jetstream.PullMaxMessagesWithBytesLimit(pullMessages, pullBytes),
		jetstream.PullHeartbeat(heartbeat),
		jetstream.PullExpiry(15*heartbeat),
	)
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	defer messages.Stop()
	for number := uint64(1); ; number++ {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("pull: %w", err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("pull: %w", err)
		}
		if meta.Sequence.Consumer != number {
			return fmt.Errorf("gap: message %d of the consumer after %d", meta.Sequence.Consumer, number-1)
		}
		if err := t.bus.checkSum(t.shard, meta.Sequence.Stream, nats.Header(m.Headers()), m.Data()); err != nil {
			t.damaged(err)
			return err
		}
		e := bus.Envelope{
			ID:      bus.MakeID(meta.Sequence.Stream, t.shard),
			Time:    meta.Timestamp.UTC(),
			Payload: m.Data(),
		}
		e.Topic, _ = t.bus.topic(t.shard, m.Subject())
		if t.bus.damage.Load() != nil {
			t.bus.damage.Store(nil) // it was the way here that spoilt it
		}
		t.dispatch(e)
		t.newest = e.Time
	}
}

// consumer checks the log and makes a consumer of what comes after position.
func (t *tail) consumer(ctx context.Context) (jetstream.Consumer, error) {
	attempt, cancel := t.bus.attempt(ctx)
	defer cancel()
	stream, err := t.bus.js.Stream(attempt, t.bus.stream(t.shard))
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		if t.position.Load() > 0 {
			t.rolledBack(jetstream.StreamState{}, "the stream is gone")
		}
		return nil, err
	case err != nil:
		return nil, err
	}
	if err := t.check(attempt, stream.CachedInfo()); err != nil {
		return nil, err
	}
	consumer, err := stream.CreateConsumer(attempt, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       t.position.Load() + 1,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: 10 * heartbeat,
	})
	if err != nil {
		return nil, fmt.Errorf("make consumer: %w", err)
	}
	return consumer, nil
}

// check compares the log with what has been read from it.
func (t *tail) check(ctx context.Context, info *jetstream.StreamInfo) error {
	position, end := t.position.Load(), info.State.LastSeq
	incarnation := info.Config.Metadata[metaIncarnation]
	switch {
	case incarnation != t.incarnation:
		// Whoever hears of it finds the new incarnation in Info.
		if err := t.bus.adopt(ctx); err != nil {
			return err
		}
		t.incarnation = incarnation
		t.rolledBack(info.State, "another incarnation")
	case info.Config.Metadata[metaLosses] != t.losses:
		if err := t.bus.adopt(ctx); err != nil {
			return err
		}
		t.losses = info.Config.Metadata[metaLosses]
		t.rolledBack(info.State, "entries were lost")
	case end < position:
		t.rolledBack(info.State, "it ends earlier")
	case !t.newest.IsZero():
		// A log that went backwards and has grown since: another envelope
		// stands where the last one was.
		found, err := t.bus.leaderGet(ctx, t.shard, getRequest{Seq: position})
		if err != nil {
			return err
		}
		if found != nil && !found.Time.Equal(t.newest) {
			t.rolledBack(info.State, "it was rewritten")
		}
	}
	return nil
}

func (t *tail) remove(c jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := t.bus.js.DeleteConsumer(ctx, t.bus.stream(t.shard), c.CachedInfo().Name); err != nil {
		t.bus.log.Debug("bus consumer left to expire", "shard", t.shard, "error", err)
	}
}

// dispatch hands an envelope out and moves on, in one step: who follows before it
// is offered the envelope, who follows after it finds the position beyond, and
// reads the envelope from the log. What is in no topic is nobody's.
func (t *tail) dispatch(e bus.Envelope) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.Topic != everything {
		for s := range t.followers[e.Topic] {
			s.feed.offer(s, e)
		}
		for s := range t.followers[everything] {
			s.feed.offer(s, e)
		}
	}
	t.position.Store(e.ID.Sequence())
}

// rolledBack tells every feed that follows something here.
func (t *tail) rolledBack(state jetstream.StreamState, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bus.log.Error("bus log went backwards", "shard", t.shard, "why", why,
		"position", t.position.Load(), "end", state.LastSeq)
	feeds := make(map[*feed]struct{})
	for _, followers := range t.followers {
		for s := range followers {
			feeds[s.feed] = struct{}{}
		}
	}
	t.followers = make(map[bus.Topic]map[*follower]struct{})
	t.rewinds++
	t.position.Store(state.LastSeq)
	t.newest = state.LastTime
	for f := range feeds {
		f.rolledBack(t.shard, why)
	}
}

// rewound is how often the log went backwards so far.
func (t *tail) rewound() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rewinds
}

// damaged tells every feed that follows something here of an entry that it stops
// before. It is read again, and again, until it is right or an operator decides.
func (t *tail) damaged(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bus.damage.Swap(&err) == nil {
		t.bus.log.Error("bus log is damaged", "shard", t.shard, "error", err)
	}
	told := make(map[*feed]struct{})
	for _, followers := range t.followers {
		for s := range followers {
			if _, ok := told[s.feed]; !ok {
				told[s.feed] = struct{}{}
				s.feed.fail(err)
			}
		}
	}
}

// add makes s the follower of its topics, in place of other followers of its feed.
// Called with t.mu held.
func (t *tail) add(s *follower, topic bus.Topic, instead *follower) {
	if t.followers[topic] == nil {
		t.followers[topic] = make(map[*follower]struct{})
	}
	delete(t.followers[topic], instead)
	t.followers[topic][s] = struct{}{}
}

// drop removes a follower. Called with t.mu held.
func (t *tail) drop(s *follower, topic bus.Topic) {
	delete(t.followers[topic], s)
	if len(t.followers[topic]) == 0 {
		delete(t.followers, topic)
	}
}

// byShard sorts topics into their tails, in the order of shards.
func (b *Bus) byShard(topics []bus.Topic) [][]bus.Topic {
	sorted := make([][]bus.Topic, len(b.tails))
	for _, t := range topics {
		n := bus.ShardOf(t, len(b.tails))
		sorted[n] = append(sorted[n], t)
	}
	return sorted
}

// topicsOf lists the topics that a feed follows.
func topicsOf(m map[bus.Topic]*follower) []bus.Topic { return slices.Collect(maps.Keys(m)) }
