package jetstream

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/conclave-chat/conclave/bus"
)

// messageID is the id by which a stream recognises a repeat. The stream looks
// at nothing but the id and at no subject, so it is a hash of both: whoever
// could choose it could silence others.
func messageID(t bus.Topic, payload []byte, o bus.PublishOptions) string {
	key := o.RepeatKey(t, payload)
	return hex.EncodeToString(key[:])
}

// Publish implements bus.Bus. It repeats the same bytes under the same id, for
// RetryFor, while the bus cannot be reached or elects a leader.
func (b *Bus) Publish(ctx context.Context, topic bus.Topic, payload []byte, opts ...bus.PublishOption) (bus.Ack, error) {
	info := b.Info()
	shard, err := bus.OneShard(info.Shards, 0, topic)
	if err != nil {
		return bus.Ack{}, err
	}
	if len(payload) > info.MaxPayload {
		return bus.Ack{}, fmt.Errorf("%w: %d bytes, at most %d", bus.ErrTooLarge, len(payload), info.MaxPayload)
	}
	if err := b.ready(ctx); err != nil {
		return bus.Ack{}, err
	}
	if b.server != nil {
		if err := b.server.ready(); errors.Is(err, bus.ErrFull) {
			return bus.Ack{}, err
		}
	}
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	case <-ctx.Done():
		return bus.Ack{}, ctx.Err()
	case <-b.ctx.Done():
		return bus.Ack{}, bus.ErrClosed
	}
	options := bus.Gather(opts)
	p := publication{topic: topic, shard: shard, payload: payload, id: messageID(topic, payload, options), options: options}
	var ack bus.Ack
	var unanswered error // of an earlier try: it may be stored, or may yet be
	err = b.retry(ctx, "publish", func(ctx context.Context) error {
		ack, err = b.publishOnce(ctx, p)
		if err != nil && !bus.NotStored(err) {
			unanswered = err
		}
		return err
	})
	b.full.note(err)
	if unanswered != nil && bus.NotStored(err) {
		return bus.Ack{}, b.unavailable("publish", fmt.Errorf("%w; a repeat was answered: %v", unanswered, err))
	}
	return ack, err
}

// A fullness remembers that the log refused an entry for want of room.
type fullness struct{ since atomic.Int64 }

// fullFor is how long a refusal counts, where nothing is published after it.
const fullFor = 10 * time.Second

func (f *fullness) note(err error) {
	switch {
	case errors.Is(err, bus.ErrFull):
		f.since.Store(time.Now().UnixNano())
	case err == nil && f.since.Load() != 0:
		f.since.Store(0)
	}
}

func (f *fullness) now() bool { return time.Since(time.Unix(0, f.since.Load())) < fullFor }

type publication struct {
	topic   bus.Topic
	shard   int
	payload []byte
	id      string
	options bus.PublishOptions
}

func (p publication) message(subject string) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Data = p.payload
	m.Header.Set(jetstream.MsgIDHeader, p.id)
	m.Header.Set(headerSum, sumOf(p.payload))
	if p.options.ExpectLast {
		m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(p.options.Last.Sequence(), 10))
	}
	if ttl := p.options.TTL; ttl > 0 {
		seconds := (ttl + time.Second - 1) / time.Second // the server counts whole ones
		m.Header.Set(jetstream.MsgTTLHeader, strconv.FormatInt(int64(seconds), 10))
	}
	return m
}

func (b *Bus) publishOnce(ctx context.Context, p publication) (bus.Ack, error) {
	subject := b.subject(p.shard, p.topic)
	watched, done := b.refusals.watch(ctx, subject)
	defer done()
	ack, err := b.js.PublishMsg(watched, p.message(subject), jetstream.WithRetryAttempts(0))
	if err == nil {
		return bus.Ack{ID: bus.MakeID(ack.Sequence, p.shard), Duplicate: ack.Duplicate}, nil
	}
	if cause := context.Cause(watched); errors.Is(cause, bus.ErrRefused) {
		return bus.Ack{}, cause
	}
	var api *jetstream.APIError
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return bus.Ack{}, fmt.Errorf("%w: %w", bus.ErrTooLarge, err)
	case errors.As(err, &api):
		return b.refused(ctx, p, api)
	}
	return bus.Ack{}, err
}

// Codes of refusals, from the server's errors.json.
const (
	codeAccountLimits   = 10002 // limits of the account
	codeNoResources     = 10023 // limits of the server
	codeStorageFull     = 10047
	codeMessageTooLarge = 10054
	codeHeaderTooLarge  = 10097
	codeStoreFailed     = 10077 // the description says why
	codeWrongLast       = 10071
	codeWrongLastNow    = 10164 // while another publish of the subject is on its way
)

func (b *Bus) refused(ctx context.Context, p publication, api *jetstream.APIError) (bus.Ack, error) {
	switch api.ErrorCode {
	case codeWrongLast, codeWrongLastNow:
		return b.lost(ctx, p, api)
	case codeAccountLimits, codeNoResources, codeStorageFull:
		return bus.Ack{}, fmt.Errorf("%w: %w", bus.ErrFull, api)
	case codeStoreFailed:
		if strings.Contains(api.Description, "maximum") {
			return bus.Ack{}, fmt.Errorf("%w: %w", bus.ErrFull, api)
		}
	case codeMessageTooLarge, codeHeaderTooLarge:
		return bus.Ack{}, fmt.Errorf("%w: %w", bus.ErrTooLarge, api)
	}
	return bus.Ack{}, api
}

// maxSince bounds how far lost looks for our own envelope.
const maxSince = 16

// lost settles a condition that did not hold. The server checks it before it
// looks for a repeat, so the winner that repeats itself, because its first
// answer was lost, is refused too: then its own envelope follows the expected
// last one, if others do or not.
func (b *Bus) lost(ctx context.Context, p publication, api *jetstream.APIError) (bus.Ack, error) {
	since := p.options.Last.Sequence() + 1
	for n := range maxSince {
		next, err := b.leaderGet(ctx, p.shard, getRequest{Seq: since, NextFor: b.subject(p.shard, p.topic)})
		switch {
		case err != nil:
			return bus.Ack{}, err
		case next == nil && n == 0 && api.ErrorCode == codeWrongLastNow:
			return bus.Ack{}, api // the other one is not decided yet: try again
		case next == nil:
			return bus.Ack{}, bus.ErrConflict
		case next.header.Get(jetstream.MsgIDHeader) == p.id:
			return bus.Ack{ID: next.ID, Time: next.Time, Duplicate: true}, nil
		}
		since = next.ID.Sequence() + 1
	}
	return bus.Ack{}, bus.ErrConflict
}
