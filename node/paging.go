package node

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// maxPage is the most entries of a page, and how many one has where nothing
// else is asked for. Clients take a shorter page for the last one.
const maxPage = 100

// maxPageBytes is where a page, or any other answer of this kind, ends early:
// clients refuse an answer of more than 25 MiB, and would never get past it. A
// client that takes the short page for the last one reads on next time, since
// its cursor is the last message that it has; one that follows the page's own
// cursor reads on at once.
const maxPageBytes = 16 << 20

// A pageRequest is a PagingInfo as XMTP's node understands it.
type pageRequest struct {
	ascending bool
	limit     int    // 1 to maxPage
	cursor    uint64 // exclusive; 0: none
}

func readPageRequest(p *mlsapi.PagingInfo) pageRequest {
	limit := p.GetLimit()
	if limit == 0 || limit > maxPage {
		limit = maxPage
	}
	return pageRequest{
		ascending: p.GetDirection() == mlsapi.SortDirection_SORT_DIRECTION_ASCENDING,
		limit:     int(limit),
		cursor:    p.GetIdCursor(),
	}
}

// pagingInfo says what was done and, where there may be more, from where on.
func (r pageRequest) pagingInfo(next bus.ID) *mlsapi.PagingInfo {
	direction := mlsapi.SortDirection_SORT_DIRECTION_DESCENDING
	if r.ascending {
		direction = mlsapi.SortDirection_SORT_DIRECTION_ASCENDING
	}
	return &mlsapi.PagingInfo{Direction: direction, Limit: uint32(r.limit), IdCursor: uint64(next)}
}

// positionIn is the newest position of a shard that is not above a cursor.
// Cursors are compared as numbers, whatever shard they were read in.
func positionIn(cursor uint64, shard int) bus.ID {
	at := bus.ID(cursor)
	sequence := at.Sequence()
	if at.Shard() < shard {
		if sequence == 0 {
			return 0
		}
		sequence--
	}
	return position(sequence, shard)
}

// position is MakeID for any sequence: the one before a shard's first is 0.
func position(sequence uint64, shard int) bus.ID {
	if sequence == 0 {
		return 0
	}
	return bus.MakeID(sequence, shard)
}

// A found entry is one that decodes, as it is served.
type found[M proto.Message] struct {
	id   bus.ID
	size int // bytes, about
	m    M
}

// A shelf is the topics of one shard that a page is read from.
type shelf[M proto.Message] struct {
	bus    bus.Bus
	topics []bus.Topic
	decode func(bus.Envelope) (M, bool) // false: junk, which counts for nothing
}

// page reads what was asked for, full as long as there is enough.
func (s shelf[M]) page(ctx context.Context, r pageRequest) ([]M, *mlsapi.PagingInfo, error) {
	read := s.descending
	if r.ascending {
		read = s.ascending
	}
	entries, more, err := read(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	messages := make([]M, len(entries))
	for i, e := range entries {
		messages[i] = e.m
	}
	var next bus.ID
	if more {
		next = entries[len(entries)-1].id
	}
	return messages, r.pagingInfo(next), nil
}

func (s shelf[M]) shard() int { return bus.ShardOf(s.topics[0], s.bus.Info().Shards) }

// ascending reports more where the page ended before the log may have.
func (s shelf[M]) ascending(ctx context.Context, r pageRequest) (entries []found[M], more bool, err error) {
	bytes := 0
	err = s.scan(ctx, positionIn(r.cursor, s.shard()), r.limit, func(e bus.Envelope) bool {
		m, ok := s.decode(e)
		if !ok {
			return true
		}
		if bytes += len(e.Payload); bytes > maxPageBytes && len(entries) > 0 {
			more = true
			return false
		}
		entries = append(entries, found[M]{e.ID, len(e.Payload), m})
		more = len(entries) == r.limit
		return !more
	})
	return entries, more, err
}

// descending finds the newest entries below the cursor.
func (s shelf[M]) descending(ctx context.Context, r pageRequest) (entries []found[M], more bool, err error) {
	ends, err := s.bus.Last(ctx, s.topics...)
	if err != nil {
		return nil, false, fmt.Errorf("find the end of the log: %w", err)
	}
	top := slices.Max(ends)
	if r.cursor != 0 {
		top = min(top, positionIn(r.cursor-1, s.shard()))
	}
	return s.downFrom(ctx, top, r)
}

// downFrom finds the newest entries up to top. The log is read upwards only, so
// it looks at a window that ends there, then at one twice as long before that,
// until it has enough or is at the log's beginning. What it keeps is never more
// than a page. Where top is the newest envelope and one is wanted, which is what
// clients really ask for, it is one look at one envelope.
func (s shelf[M]) downFrom(ctx context.Context, top bus.ID, r pageRequest) (entries []found[M], more bool, err error) {
	left := maxPageBytes
	for width := uint64(r.limit); top != 0; width *= 2 {
		low := position(top.Sequence()-min(width, top.Sequence()), top.Shard())
		part, cut, err := s.newest(ctx, low, top, r.limit-len(entries), left)
		if err != nil {
			return nil, false, err
		}
		for _, e := range slices.Backward(part) {
			entries, left = append(entries, e), left-e.size
		}
		if cut || left <= 0 || len(entries) == r.limit {
			return entries, true, nil
		}
		top = low
	}
	return entries, false, nil
}

// newest returns up to limit entries, the last ones, with IDs above low and up to
// top, and whether there were more than the bytes allowed. One is always allowed.
func (s shelf[M]) newest(ctx context.Context, low, top bus.ID, limit, bytes int) (entries []found[M], cut bool, err error) {
	held := 0
	err = s.scan(ctx, low, limit, func(e bus.Envelope) bool {
		if e.ID > top {
			return false
		}
		m, ok := s.decode(e)
		if !ok {
			return true
		}
		entries, held = append(entries, found[M]{e.ID, len(e.Payload), m}), held+len(e.Payload)
		if len(entries) > limit {
			entries, held = entries[1:], held-entries[0].size
		}
		for held > bytes && len(entries) > 1 {
			entries, held, cut = entries[1:], held-entries[0].size, true
		}
		return e.ID < top
	})
	return entries, cut, err
}

// Steps of a scan: it begins with few, since a message may be as large as the
// bus allows, and takes more at a time while they prove to be small.
const (
	firstStep  = 16
	largeStep  = 256
	smallBytes = 1 << 20
)

// scan calls visit for each envelope after a position, in order, until it says
// stop or the log ends. It reads about as many as wanted, and more only where
// visit still wants more.
func (s shelf[M]) scan(ctx context.Context, after bus.ID, wanted int, visit func(bus.Envelope) bool) error {
	for step := min(wanted, firstStep); ; {
		envelopes, err := s.bus.Read(ctx, after, step, s.topics...)
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		bytes := 0
		for _, e := range envelopes {
			if !visit(e) {
				return nil
			}
			after, bytes = e.ID, bytes+len(e.Payload)
		}
		if len(envelopes) < step {
			return nil
		}
		if bytes <= smallBytes {
			step = min(largeStep, 2*max(step, firstStep))
		}
	}
}
