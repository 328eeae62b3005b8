package xmtp

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

const (
	pageSize  = 100  // entries; a network gives no more at a time
	maxNewest = 1000 // groups of one GetNewestGroupMessage, as XMTP's clients ask
	parallel  = 8    // questions of one call that are on their way at a time
)

// A logID names what the network has one order of: a group, or the welcomes of
// an installation.
type logID struct {
	welcomes bool
	id       string
}

func logOf(t bus.Topic) logID { return logID{t.Kind() == bus.Welcomes, string(t.ID())} }

// oneLog returns the log that the topics lie in, all of them.
func oneLog(topics []bus.Topic) (logID, error) {
	if err := carried(topics...); err != nil {
		return logID{}, err
	}
	l := logOf(topics[0])
	for _, t := range topics {
		if logOf(t) != l {
			return logID{}, fmt.Errorf("%w: topics of more than one group or installation", bus.ErrBadTopic)
		}
	}
	return l, nil
}

// byLog gathers topics by their logs.
func byLog(topics []bus.Topic) map[logID][]bus.Topic {
	logs := make(map[logID][]bus.Topic, len(topics))
	for _, t := range topics {
		if l := logOf(t); !slices.Contains(logs[l], t) {
			logs[l] = append(logs[l], t)
		}
	}
	return logs
}

// A page is a stretch of one log.
type page struct {
	envelopes []bus.Envelope
	more      bool // the log may go on
}

// A question is for a page of a log: above the cursor, or from the end down to it.
type question struct {
	log       logID
	cursor    bus.ID
	direction mlsapi.SortDirection
}

// query reads a page. Where that has more bytes than an answer may have it is read
// with more room, and is smaller where that does not do, down to a single entry,
// which always fits: anybody can put a large one there, and what lies behind it is
// to be read. There is one such answer at a time.
func (b *Bus) query(ctx context.Context, q question, limit int) (page, error) {
	p, err := b.queryOnce(ctx, b.calls.pages, q, limit)
	if !tooLarge(err) {
		return p, busError(err)
	}
	select {
	case b.room <- struct{}{}:
		defer func() { <-b.room }()
	case <-ctx.Done():
		return page{}, ctx.Err()
	}
	for {
		p, err := b.queryOnce(ctx, b.calls.large, q, limit)
		if !tooLarge(err) || limit == 1 {
			return p, busError(err)
		}
		limit = max(1, limit/10)
	}
}

func (b *Bus) queryOnce(ctx context.Context, c queries, q question, limit int) (page, error) {
	paging := &mlsapi.PagingInfo{Direction: q.direction, Limit: uint32(limit), IdCursor: uint64(q.cursor)}
	if q.log.welcomes {
		answer, err := call(ctx, b, c.welcomes, &mlsapi.QueryWelcomeMessagesRequest{InstallationKey: []byte(q.log.id), PagingInfo: paging})
		if err != nil {
			return page{}, err
		}
		return readPage(q.log, paging, answer.GetMessages(), answer.GetPagingInfo(), welcomeEnvelope)
	}
	answer, err := call(ctx, b, c.group, &mlsapi.QueryGroupMessagesRequest{GroupId: []byte(q.log.id), PagingInfo: paging})
	if err != nil {
		return page{}, err
	}
	return readPage(q.log, paging, answer.GetMessages(), answer.GetPagingInfo(), groupEnvelope)
}

// readPage checks that an answer is to the question, so that a reader moves on
// whatever a network says.
func readPage[M any](l logID, asked *mlsapi.PagingInfo, entries []M, told *mlsapi.PagingInfo, envelope func(M) (bus.Envelope, error)) (page, error) {
	p := page{more: len(entries) > 0 && (len(entries) >= int(asked.Limit) || told.GetIdCursor() != 0)}
	ascending := asked.Direction == mlsapi.SortDirection_SORT_DIRECTION_ASCENDING
	last := bus.ID(asked.IdCursor)
	for _, m := range entries {
		e, err := envelope(m)
		if err != nil {
			return page{}, err
		}
		if logOf(e.Topic) != l || ascending && e.ID <= last || !ascending && last != 0 && e.ID >= last {
			return page{}, fmt.Errorf("xmtp: the network answers with entry %d of %v after %d of %x", e.ID, e.Topic, last, l.id)
		}
		last = e.ID
		p.envelopes = append(p.envelopes, e)
	}
	return p, nil
}

// Read implements bus.Bus.
func (b *Bus) Read(ctx context.Context, after bus.ID, limit int, topics ...bus.Topic) ([]bus.Envelope, error) {
	l, err := oneLog(topics)
	if err != nil {
		return nil, err
	}
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	q := question{l, after, mlsapi.SortDirection_SORT_DIRECTION_ASCENDING}
	var got []bus.Envelope
	for step := pageSize; len(got) < limit; {
		p, err := b.query(ctx, q, min(step, limit-len(got)))
		if err != nil {
			return nil, err
		}
		// What makes a page short lies ahead, until it was read past.
		step = min(step, len(p.envelopes))
		for _, e := range p.envelopes {
			if q.cursor = e.ID; len(e.Payload) == 0 {
				step = pageSize
			}
			if slices.Contains(topics, e.Topic) {
				got = append(got, e)
			}
		}
		if !p.more {
			break
		}
	}
	return got, nil
}

// Last implements bus.Bus. The network tells a group's newest entry, of as many
// groups as are asked. What is older than that is looked for where it was asked
// for alone.
func (b *Bus) Last(ctx context.Context, topics ...bus.Topic) ([]bus.ID, error) {
	if len(topics) == 0 {
		return nil, b.ready(ctx)
	}
	if err := carried(topics...); err != nil {
		return nil, err
	}
	logs := byLog(topics)
	newest, err := b.newest(ctx, logs)
	if err != nil {
		return nil, err
	}
	ids := make([]bus.ID, len(topics))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, t := range topics {
		n := newest[logOf(t)]
		switch {
		case n.topic == t:
			ids[i] = n.id
		case n.id != 0 && len(logs[logOf(t)]) == 1:
			g.Go(func() (err error) {
				ids[i], err = b.lastOf(ctx, t, n.id)
				return err
			})
		}
	}
	return ids, g.Wait()
}

// An end is a log's newest entry; zero where it has none.
type end struct {
	id    bus.ID
	topic bus.Topic
}

// newest returns the ends of logs.
func (b *Bus) newest(ctx context.Context, logs map[logID][]bus.Topic) (map[logID]end, error) {
	var groups [][]byte
	var installations []logID
	for l := range logs {
		if l.welcomes {
			installations = append(installations, l)
		} else {
			groups = append(groups, []byte(l.id))
		}
	}
	ends := make(map[logID]end, len(logs))
	for part := range slices.Chunk(groups, maxNewest) {
		answer, err := call(ctx, b, b.calls.newest, &mlsapi.GetNewestGroupMessageRequest{GroupIds: part})
		if err != nil {
			return nil, busError(err)
		}
		if len(answer.GetResponses()) != len(part) {
			return nil, fmt.Errorf("xmtp: the network answers for %d groups, asked about %d", len(answer.GetResponses()), len(part))
		}
		for i, r := range answer.GetResponses() {
			v1 := r.GetGroupMessage().GetV1()
			if v1.GetId() == 0 {
				continue
			}
			if !bytes.Equal(v1.GetGroupId(), part[i]) {
				return nil, fmt.Errorf("xmtp: the network answers for group %x, asked about %x", v1.GetGroupId(), part[i])
			}
			// Without the message itself there is but the node's word for what
			// it is. It only says which of the two topics gets the ID.
			topic, err := bus.MessagesOf(part[i])
			if v1.GetIsCommit() {
				topic, err = bus.CommitsOf(part[i])
			}
			if err != nil {
				return nil, err
			}
			ends[logID{id: string(part[i])}] = end{bus.ID(v1.GetId()), topic}
		}
	}
	found := make([]end, len(installations))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, l := range installations {
		g.Go(func() error {
			p, err := b.query(ctx, question{l, 0, mlsapi.SortDirection_SORT_DIRECTION_DESCENDING}, 1)
			if err == nil && len(p.envelopes) > 0 {
				found[i] = end{p.envelopes[0].ID, p.envelopes[0].Topic}
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, l := range installations {
		ends[l] = found[i]
	}
	return ends, nil
}

// lastOf finds the newest entry of one of a group's topics below one of the
// other's.
func (b *Bus) lastOf(ctx context.Context, t bus.Topic, below bus.ID) (bus.ID, error) {
	for limit := 1; ; limit = pageSize {
		p, err := b.query(ctx, question{logOf(t), below, mlsapi.SortDirection_SORT_DIRECTION_DESCENDING}, limit)
		if err != nil {
			return 0, err
		}
		for _, e := range p.envelopes {
			if below = e.ID; e.Topic == t {
				return e.ID, nil
			}
		}
		if !p.more {
			return 0, nil
		}
	}
}

// End implements bus.Bus: of the group or installation that the topic is of.
func (b *Bus) End(ctx context.Context, topic bus.Topic) (bus.ID, error) {
	if err := carried(topic); err != nil {
		return 0, err
	}
	ends, err := b.newest(ctx, map[logID][]bus.Topic{logOf(topic): {topic}})
	return ends[logOf(topic)].id, err
}

// Lost implements bus.Bus: such a network tells of no loss.
func (b *Bus) Lost(bus.Topic) (bus.ID, bool) { return 0, false }
