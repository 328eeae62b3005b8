package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/conclave-chat/conclave/bus"
)

// Purging.
var (
	// ErrNotWatched: the log does not say yet which groups nobody reads.
	ErrNotWatched = errors.New("node: the log does not say which groups nobody reads")
	// ErrInUse: somebody has read the group, or written to it, since it was counted.
	ErrInUse = errors.New("node: the group is in use again, and stays")
)

// A Census counts what a log holds of each group.
type Census struct{ groups map[groupID]*Holding }

// A Holding is what a log holds of one group.
type Holding struct {
	Group          [16]byte
	Entries        int
	Bytes          int64 // about what they take up in the log
	Oldest, Newest time.Time
	last           bus.ID
	read           bus.ID // the newest note of a read, and its time
	readAt         time.Time
}

// Add counts one entry of the log, with the size of its payload.
func (c *Census) Add(id bus.ID, topic bus.Topic, at time.Time, size int64) {
	switch topic.Kind() {
	case bus.GroupCommits, bus.GroupMessages, bus.CommitLog, bus.GroupReads:
	default:
		return
	}
	if c.groups == nil {
		c.groups = map[groupID]*Holding{}
	}
	group := groupID(topic.ID())
	h := c.groups[group]
	if h == nil {
		h = &Holding{Group: group, Oldest: at}
		c.groups[group] = h
	}
	if topic.Kind() == bus.GroupReads {
		h.read, h.readAt = max(h.read, id), later(h.readAt, at)
		return
	}
	h.Entries++
	h.Bytes += size + entryOverhead
	if at.Before(h.Oldest) {
		h.Oldest = at
	}
	h.Newest = later(h.Newest, at)
	h.last = max(h.last, id)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Unread returns the groups that nobody has read, and to which nobody has written,
// for as long as notes of reads are kept, which it returns too; the largest first.
// It returns ErrNotWatched where notes have not been written for so long, without
// an interruption. A census is to be younger than now.
func (c *Census) Unread(ctx context.Context, b bus.Bus, now time.Time) ([]Holding, time.Duration, error) {
	w, stands, err := lastWatch(ctx, b, now)
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("node: read since when reads are noted: %w", err)
	case !stands:
		return nil, 0, fmt.Errorf("%w: no node has noted for a week who reads what: serve the log, with --keep-unread", ErrNotWatched)
	case now.Sub(w.since) < w.keep:
		return nil, w.keep, fmt.Errorf("%w: reads are noted since %s, and it takes %v: ask again on %s",
			ErrNotWatched, w.since.UTC().Format(time.DateTime), w.keep, w.since.Add(w.keep).UTC().Format(time.DateTime))
	}
	var unread []Holding
	for _, h := range c.groups {
		// A log that is opened for this alone may still hold notes that have ended.
		if h.Entries > 0 && now.Sub(h.Newest) > w.keep && now.Sub(h.readAt) > w.keep {
			unread = append(unread, *h)
		}
	}
	slices.SortFunc(unread, func(a, b Holding) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), slices.Compare(a.Group[:], b.Group[:]))
	})
	return unread, w.keep, nil
}

// Topics returns the topics of the group that hold something, and the last entry
// that was counted; ErrInUse where it has more by now.
func (h Holding) Topics(ctx context.Context, b bus.Bus) ([]bus.Topic, bus.ID, error) {
	topics := topicsOf(h.Group)
	ends, err := b.Last(ctx, topics...)
	if err != nil {
		return nil, 0, fmt.Errorf("node: find the ends of group %x: %w", h.Group, err)
	}
	if ends[3] > h.read || slices.Max(ends[:3]) > h.last {
		return nil, 0, fmt.Errorf("%w: %x", ErrInUse, h.Group)
	}
	return topics[:3], h.last, nil
}
