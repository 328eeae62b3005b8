package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/conclave-chat/conclave/bus"
)

// An Entry is one of the log's without its payload.
type Entry struct {
	ID    bus.ID
	Topic bus.Topic
	Time  time.Time
	Size  int64 // of the payload
}

// headerSize is the header of an entry without its payload, with the payload's size.
const headerSize = "Nats-Msg-Size"

// Walk calls each for every entry that the log holds, up to its end as it was when
// the call began. Payloads are not read.
func (b *Bus) Walk(ctx context.Context, each func(Entry)) error {
	for n := range b.Info().Shards {
		if err := b.walkShard(ctx, n, each); err != nil {
			return fmt.Errorf("jetstream: walk through stream %s: %w", b.stream(n), err)
		}
	}
	return nil
}

func (b *Bus) walkShard(ctx context.Context, shard int, each func(Entry)) error {
	stream, err := b.js.Stream(ctx, b.stream(shard))
	if err != nil {
		return err
	}
	state := stream.CachedInfo().State
	if state.Msgs == 0 {
		return nil
	}
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverAllPolicy,
		AckPolicy:         jetstream.AckNonePolicy,
		HeadersOnly:       true,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: 10 * heartbeat,
	})
	if err != nil {
		return fmt.Errorf("make consumer: %w", err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(pullMessages), jetstream.PullHeartbeat(heartbeat), jetstream.PullExpiry(15*heartbeat))
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
		size, err := strconv.ParseInt(m.Headers().Get(headerSize), 10, 64)
		if err != nil {
			return fmt.Errorf("size of entry %d: %w", meta.Sequence.Stream, err)
		}
		if topic, ok := b.topic(shard, m.Subject()); ok && meta.Sequence.Stream <= state.LastSeq {
			each(Entry{ID: bus.MakeID(meta.Sequence.Stream, shard), Topic: topic, Time: meta.Timestamp.UTC(), Size: size})
		}
		if meta.Sequence.Stream >= state.LastSeq || meta.NumPending == 0 {
			return nil
		}
	}
}

// ErrKept: the log was made by a version that lets nobody delete anything.
var ErrKept = errors.New("jetstream: this log was made so that nothing of it can be deleted")

// codePurgeFailed is the code of a purge that a stream does not permit.
const codePurgeFailed = 10110

// Purge deletes what topics hold up to an entry. No position is given to another
// entry afterwards. Only an operator may, see OperatorRights: for others it returns
// bus.ErrRefused.
func (b *Bus) Purge(ctx context.Context, upTo bus.ID, topics ...bus.Topic) error {
	shard, err := bus.OneShard(b.Info().Shards, upTo, topics...)
	if err != nil {
		return err
	}
	for _, t := range topics {
		if err := b.retry(ctx, "purge", func(ctx context.Context) error { return b.purgeOnce(ctx, shard, upTo, t) }); err != nil {
			return fmt.Errorf("jetstream: purge %s: %w", t, err)
		}
	}
	return nil
}

func (b *Bus) purgeOnce(ctx context.Context, shard int, upTo bus.ID, t bus.Topic) error {
	stream, err := b.js.Stream(ctx, b.stream(shard))
	if err != nil {
		return err
	}
	watched, done := b.refusals.watch(ctx, "$JS.API.STREAM.PURGE."+b.stream(shard))
	defer done()
	err = stream.Purge(watched, jetstream.WithPurgeSubject(b.subject(shard, t)), jetstream.WithPurgeSequence(upTo.Sequence()+1))
	var api *jetstream.APIError
	switch {
	case errors.Is(context.Cause(watched), bus.ErrRefused):
		return context.Cause(watched)
	case errors.As(err, &api) && api.ErrorCode == codePurgeFailed:
		return fmt.Errorf("%w: %w", bus.ErrRefused, ErrKept)
	}
	return err
}
