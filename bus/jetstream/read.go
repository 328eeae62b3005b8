package jetstream

import (
	"container/heap"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave/bus"
)

// A stored envelope, with the headers that the log keeps beside it.
type stored struct {
	bus.Envelope
	header nats.Header
}

// getRequest is the body of JetStream's direct get (ADR-31) and of its plain
// message get.
type getRequest struct {
	Seq       uint64   `json:"seq,omitempty"`
	NextFor   string   `json:"next_by_subj,omitempty"`
	LastFor   string   `json:"last_by_subj,omitempty"`
	MultiLast []string `json:"multi_last,omitempty"`
	UpTo      uint64   `json:"up_to_seq,omitempty"`
	Batch     int      `json:"batch,omitempty"`
	MaxBytes  int      `json:"max_bytes,omitempty"`
}

// maxPage and maxBatchBytes bound one answer. A smaller limit in bytes is raised to
// minBatchBytes.
const (
	maxPage       = 1000
	minBatchBytes = 64 << 10
	maxBatchBytes = 8 << 20
)

// parallel is how many requests one call has under way.
const parallel = 16

// getBatch asks for several envelopes at once and returns them with the number
// that the server had beyond them. Unlike the client library's extension it
// tells an answer that broke off from one that ended.
func (b *Bus) getBatch(ctx context.Context, shard int, req getRequest) (got []stored, pending uint64, err error) {
	req.MaxBytes = min(max(req.MaxBytes, minBatchBytes), maxBatchBytes)
	body, err := json.Marshal(req)
	if err != nil {
		return nil, 0, err
	}
	// The channel holds the whole answer, so that nothing of it is dropped; a
	// subscription with a queue of its own would take half a megabyte for it.
	answers := make(chan *nats.Msg, max(req.Batch, len(req.MultiLast))+1)
	inbox := b.nc.NewRespInbox()
	sub, err := b.nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return nil, 0, err
	}
	defer sub.Unsubscribe()
	if err := b.nc.PublishRequest(b.directGet+b.stream(shard), inbox, body); err != nil {
		return nil, 0, err
	}
	var before uint64
	for {
		var m *nats.Msg
		select {
		case m = <-answers:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
		switch status := m.Header.Get("Status"); {
		case status == "404" && len(got) == 0:
			return nil, 0, nil
		case status == "204":
			pending, err := strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64)
			if err != nil {
				return nil, 0, fmt.Errorf("end of batch: %w", err)
			}
			if last := m.Header.Get("Nats-Last-Sequence"); last != strconv.FormatUint(before, 10) {
				return nil, 0, fmt.Errorf("batch breaks off: ends at %s, have %d", last, before)
			}
			return got, pending, nil
		case status != "":
			return nil, 0, fmt.Errorf("batch get: %s %s", status, m.Header.Get("Description"))
		}
		e, err := b.parseDirect(shard, m)
		if err != nil {
			return nil, 0, err
		}
		if last := m.Header.Get("Nats-Last-Sequence"); last != strconv.FormatUint(before, 10) {
			return nil, 0, fmt.Errorf("batch breaks off: %s before %d, have %d", last, e.ID.Sequence(), before)
		}
		before = e.ID.Sequence()
		got = append(got, e)
	}
}

func (b *Bus) parseDirect(shard int, m *nats.Msg) (stored, error) {
	sequence, err := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return stored{}, fmt.Errorf("sequence of a stored message: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, m.Header.Get(jetstream.TimeStampHeaer))
	if err != nil {
		return stored{}, fmt.Errorf("time of a stored message: %w", err)
	}
	if err := b.checkSum(shard, sequence, m.Header, m.Data); err != nil {
		return stored{}, err
	}
	topic, _ := b.topic(shard, m.Header.Get(jetstream.SubjectHeader))
	return stored{
		Envelope: bus.Envelope{ID: bus.MakeID(sequence, shard), Topic: topic, Time: at.UTC(), Payload: m.Data},
		header:   m.Header,
	}, nil
}

// topic is the inverse of subject. What others put under a subject that no
// topic has is in the log, but in no topic.
func (b *Bus) topic(shard int, subject string) (bus.Topic, bool) {
	rest, ok := strings.CutPrefix(subject, b.prefix(shard))
	if !ok {
		return bus.Topic{}, false
	}
	t, err := bus.ParseTopic(rest)
	return t, err == nil
}

// leaderGet asks the stream's leader, which alone knows everything that was
// acknowledged, for one message; nil where there is none.
func (b *Bus) leaderGet(ctx context.Context, shard int, req getRequest) (*stored, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	m, err := b.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+b.stream(shard), body)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return nil, fmt.Errorf("message get: %w", err)
	}
	switch {
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	case answer.Error != nil:
		return nil, answer.Error
	}
	header, err := nats.DecodeHeadersMsg(answer.Message.Header)
	if err != nil && len(answer.Message.Header) > 0 {
		return nil, fmt.Errorf("headers of a stored message: %w", err)
	}
	if err := b.checkSum(shard, answer.Message.Sequence, header, answer.Message.Data); err != nil {
		return nil, err
	}
	topic, _ := b.topic(shard, answer.Message.Subject)
	return &stored{
		Envelope: bus.Envelope{
			ID: bus.MakeID(answer.Message.Sequence, shard), Topic: topic,
			Time: answer.Message.Time.UTC(), Payload: answer.Message.Data,
		},
		header: header,
	}, nil
}

// Read implements bus.Bus. Each topic is asked about by itself, so what lands
// between the requests would be passed for ever where it lies below what the last
// of them brings: several topics are read up to the shard's end, asked first. One
// topic needs no bound, since its own order leaves nothing behind.
func (b *Bus) Read(ctx context.Context, after bus.ID, limit int, topics ...bus.Topic) ([]bus.Envelope, error) {
	shard, err := bus.OneShard(b.Info().Shards, after, topics...)
	if err != nil {
		return nil, err
	}
	if limit <= 0 {
		return nil, b.ready(ctx)
	}
	cursors := make(map[bus.Topic]bus.ID, len(topics))
	for _, t := range topics {
		cursors[t] = after
	}
	for {
		link := b.linked()
		got, err := b.readUpTo(ctx, span{shard: shard, limit: limit, bytes: math.MaxInt}, after, cursors)
		if err != nil || b.linked() == link {
			return got, err
		}
		// Another connection, perhaps to another log: what its answers say goes
		// together with none of the one before.
	}
}

// linked is the context of the connection as it is now: it ends when that is lost,
// and each connection has its own.
func (b *Bus) linked() context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.link
}

// readUpTo reads topics from one position to the end as it is when it begins.
func (b *Bus) readUpTo(ctx context.Context, s span, after bus.ID, cursors map[bus.Topic]bus.ID) ([]bus.Envelope, error) {
	s.upTo = math.MaxUint64
	if len(cursors) > 1 {
		var err error
		if s.upTo, err = b.endFrom(ctx, s.shard, after); err != nil || s.upTo == after.Sequence() {
			return nil, err
		}
	}
	got, _, err := b.merge(ctx, s, cursors)
	if err == nil && len(got) == 0 && len(cursors) == 1 && after != 0 {
		_, err = b.endFrom(ctx, s.shard, after)
	}
	return got, err
}

// endFrom is the last sequence of a shard from which a position is known. It is
// bus.ErrLogRolledBack where the shard ends before that.
func (b *Bus) endFrom(ctx context.Context, shard int, position bus.ID) (uint64, error) {
	end, err := b.end(ctx, shard)
	if err == nil && position.Sequence() > end {
		err = fmt.Errorf("%w: shard %d ends at %d, asked after %d", bus.ErrLogRolledBack, shard, end, position.Sequence())
	}
	return end, err
}

// A span is the part of a shard that a merge reads.
type span struct {
	shard int
	upTo  uint64 // the last sequence of it
	limit int    // envelopes
	bytes int    // of payload, after which to stop
}

// merge reads each topic from its cursor and returns the envelopes in the order
// of IDs, and whether that is all that the span holds.
func (b *Bus) merge(ctx context.Context, s span, cursors map[bus.Topic]bus.ID) (got []bus.Envelope, complete bool, err error) {
	page := min(s.limit, maxPage, max(16, 2*s.limit/len(cursors)))
	var all sources
	for t, after := range cursors {
		all = append(all, &source{topic: t, next: after.Sequence() + 1, page: page, more: true})
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, src := range all {
		g.Go(func() error { return b.fill(gctx, s, src) })
	}
	if err := g.Wait(); err != nil {
		return nil, false, err
	}
	all = slices.DeleteFunc(all, func(src *source) bool { return len(src.ahead) == 0 })
	heap.Init(&all)
	size := 0
	for len(all) > 0 {
		if len(got) >= s.limit || size >= s.bytes {
			return got, false, nil
		}
		src := all[0]
		e := src.ahead[0].Envelope
		got, size = append(got, e), size+len(e.Payload)
		if src.ahead = src.ahead[1:]; len(src.ahead) == 0 {
			if err := b.fill(ctx, s, src); err != nil {
				return nil, false, err
			}
		}
		if len(src.ahead) == 0 {
			heap.Pop(&all)
		} else {
			heap.Fix(&all, 0)
		}
	}
	return got, true, nil
}

// sweepFrom is the number of topics from which on one pass over the shard is
// cheaper than a request for each. So it is where there are at most sweepShort
// envelopes for each topic on the way.
const (
	sweepFrom  = 256
	sweepShort = 4
)

// sweeps says which of merge and sweep reads a span's topics.
func (s span) sweeps(cursors map[bus.Topic]bus.ID) bool {
	if _, all := cursors[everything]; all || len(cursors) > sweepFrom {
		return true
	}
	return s.length(cursors) <= uint64(sweepShort*len(cursors))
}

// length is how many envelopes lie above the lowest of the cursors, at most.
func (s span) length(cursors map[bus.Topic]bus.ID) uint64 {
	lowest := s.upTo
	for _, after := range cursors {
		lowest = min(lowest, after.Sequence())
	}
	return s.upTo - lowest
}

// sweep reads on in the whole shard from the lowest of the cursors, once, and
// returns what belongs to the topics, and the sequence up to which it read. The
// cursor of everything stands for all topics.
func (b *Bus) sweep(ctx context.Context, s span, cursors map[bus.Topic]bus.ID) (got []bus.Envelope, upTo uint64, err error) {
	length := s.length(cursors)
	if length == 0 {
		return nil, s.upTo, nil
	}
	from, batch := s.upTo-length+1, int(min(uint64(s.limit), length))
	_, all := cursors[everything]
	var page []stored
	var pending uint64
	err = b.ask(ctx, "sweep", func(ctx context.Context) error {
		page, pending, err = b.getBatch(ctx, s.shard, getRequest{Seq: from, Batch: batch, MaxBytes: s.bytes})
		if err != nil || pending > 0 || !b.replicated.Load() {
			return err
		}
		after := from
		if len(page) > 0 {
			after = page[len(page)-1].ID.Sequence() + 1
		}
		next, err := b.leaderGet(ctx, s.shard, getRequest{Seq: after, NextFor: b.prefix(s.shard) + ">"})
		switch {
		case err != nil:
			return err
		case next == nil:
			return b.leaderHas(ctx, s)
		case next.ID.Sequence() <= s.upTo:
			return errors.New("a follower lags") // another one answers next time, or this one later
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	for _, e := range page {
		if e.ID.Sequence() > s.upTo {
			return got, s.upTo, nil
		}
		after, wanted := cursors[e.Topic]
		if e.Topic != everything && (all || wanted && e.ID > after) {
			got = append(got, e.Envelope)
		}
	}
	if pending == 0 {
		return got, s.upTo, nil
	}
	return got, page[len(page)-1].ID.Sequence(), nil
}

// leaderHas returns an error where the leader of a replicated shard has not come
// to the end of a span. A tail's consumer may run on a follower that applied what
// the leader has yet to: then the leader's "nothing there" says nothing.
func (b *Bus) leaderHas(ctx context.Context, s span) error {
	if s.upTo == math.MaxUint64 || b.tails[s.shard].position.Load() < s.upTo {
		return nil // the leader itself named the end; or the log went backwards, which the tail says
	}
	info, err := b.streamInfo(ctx, s.shard)
	if err == nil && info.State.LastSeq < s.upTo {
		err = errors.New("the leader lags")
	}
	return err
}

// A source is one topic of a merge.
type source struct {
	topic bus.Topic
	ahead []stored
	next  uint64 // the sequence to ask from
	page  int
	more  bool // there may be some from next on
}

// fill gets a source's next page. Exact subjects only: a wildcard makes the
// server scan the log, a hundred times as long.
func (b *Bus) fill(ctx context.Context, s span, src *source) error {
	if !src.more || src.next > s.upTo {
		return nil
	}
	req := getRequest{Seq: src.next, NextFor: b.subject(s.shard, src.topic), Batch: src.page, MaxBytes: s.bytes}
	return b.ask(ctx, "read", func(ctx context.Context) error {
		got, pending, err := b.getBatch(ctx, s.shard, req)
		if err != nil {
			return err
		}
		if pending == 0 && b.replicated.Load() {
			// A follower may lag: only the leader can say that this is the end.
			after := req.Seq
			if len(got) > 0 {
				after = got[len(got)-1].ID.Sequence() + 1
			}
			next, err := b.leaderGet(ctx, s.shard, getRequest{Seq: after, NextFor: req.NextFor})
			if err != nil {
				return err
			}
			if next != nil {
				got, pending = append(got, *next), 1 // there may be more; another page tells
			} else if err := b.leaderHas(ctx, s); err != nil {
				return err
			}
		}
		src.more = pending > 0 && len(got) > 0
		if len(got) > 0 {
			src.next = got[len(got)-1].ID.Sequence() + 1
		}
		end := slices.IndexFunc(got, func(e stored) bool { return e.ID.Sequence() > s.upTo })
		if end >= 0 {
			got, src.more = got[:end], false
		}
		src.ahead = got
		return nil
	})
}

// sources is a heap of non-empty sources by their next IDs.
type sources []*source

func (s sources) Len() int           { return len(s) }
func (s sources) Less(i, j int) bool { return s[i].ahead[0].ID < s[j].ahead[0].ID }
func (s sources) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }
func (s *sources) Push(x any)        { *s = append(*s, x.(*source)) }
func (s *sources) Pop() any {
	last := len(*s) - 1
	x := (*s)[last]
	*s = (*s)[:last]
	return x
}

// maxLastTopics is how many topics one request may name.
const maxLastTopics = 512

// Last implements bus.Bus.
func (b *Bus) Last(ctx context.Context, topics ...bus.Topic) ([]bus.ID, error) {
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	shards := b.Info().Shards
	byShard := make([][]bus.Topic, shards)
	for _, t := range topics {
		n, err := bus.OneShard(shards, 0, t)
		if err != nil {
			return nil, err
		}
		byShard[n] = append(byShard[n], t)
	}
	newest := make(map[bus.Topic]bus.ID, len(topics))
	for n, wanted := range byShard {
		for chunk := range slices.Chunk(wanted, maxLastTopics) {
			if err := b.lastOf(ctx, n, chunk, newest); err != nil {
				return nil, err
			}
		}
	}
	ids := make([]bus.ID, len(topics))
	for i, t := range topics {
		ids[i] = newest[t]
	}
	return ids, nil
}

func (b *Bus) lastOf(ctx context.Context, shard int, topics []bus.Topic, newest map[bus.Topic]bus.ID) error {
	if b.replicated.Load() {
		return b.lastByLeader(ctx, shard, topics, newest)
	}
	var subjects []string
	for _, t := range topics {
		subjects = append(subjects, b.subject(shard, t))
	}
	for req := (getRequest{MultiLast: subjects, MaxBytes: maxBatchBytes}); ; {
		var got []stored
		var pending uint64
		err := b.ask(ctx, "read last", func(ctx context.Context) (err error) {
			got, pending, err = b.getBatch(ctx, shard, req)
			return err
		})
		if err != nil {
			return err
		}
		for _, e := range got {
			newest[e.Topic] = e.ID
		}
		if pending == 0 || len(got) == 0 {
			return nil
		}
		req.Seq = got[len(got)-1].ID.Sequence() + 1 // the answer was cut at its size
	}
}

func (b *Bus) lastByLeader(ctx context.Context, shard int, topics []bus.Topic, newest map[bus.Topic]bus.ID) error {
	ids := make([]bus.ID, len(topics))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, t := range topics {
		g.Go(func() error {
			return b.ask(ctx, "read last", func(ctx context.Context) error {
				last, err := b.leaderGet(ctx, shard, getRequest{LastFor: b.subject(shard, t)})
				if last != nil {
					ids[i] = last.ID
				}
				return err
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, t := range topics {
		newest[t] = ids[i]
	}
	return nil
}

// End implements bus.Bus.
func (b *Bus) End(ctx context.Context, topic bus.Topic) (bus.ID, error) {
	shard, err := bus.OneShard(b.Info().Shards, 0, topic)
	if err != nil {
		return 0, err
	}
	end, err := b.end(ctx, shard)
	if err != nil || end == 0 {
		return 0, err
	}
	return bus.MakeID(end, shard), nil
}

// end is the last sequence of a shard, as its leader knows it.
func (b *Bus) end(ctx context.Context, shard int) (uint64, error) {
	state, err := b.state(ctx, shard)
	return state.LastSeq, err
}

// state is a shard's, as its leader knows it. Who asks at once is answered at once.
func (b *Bus) state(ctx context.Context, shard int) (jetstream.StreamState, error) {
	return b.states[shard].ask(ctx, b.run, func() (state jetstream.StreamState, err error) {
		err = b.retry(b.ctx, "read end", func(ctx context.Context) error {
			info, err := b.streamInfo(ctx, shard)
			if errors.Is(err, jetstream.ErrStreamNotFound) {
				return fmt.Errorf("%w: stream %s is gone", bus.ErrLogRolledBack, b.stream(shard))
			}
			if err != nil {
				return err
			}
			state = info.State
			return nil
		})
		return state, err
	})
}
