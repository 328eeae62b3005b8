package node

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/conclave-chat/conclave/bus"
)

// A group is read where somebody asks a node for its messages or its commit log.
// Everybody who follows a group does so: real clients query and subscribe, and a
// host reads the commit logs of all its groups every few minutes. The node notes
// it in the group's topic of reads, and the log forgets a note after
// Retention.Unread. So the log itself says which groups nobody has read for so
// long: those without a note, see Unread.
//
// Time in which no node wrote notes says nothing. A watch, in the same topic of
// the group whose id is zeros, says since when notes are written, and is renewed
// every day.
type reads struct {
	keep time.Duration // 0 or less: nothing is noted

	mu    sync.Mutex
	asked map[groupID]struct{}   // to be looked at
	noted seen                   // that have a note, and since when
	open  map[*[][]byte]struct{} // of the subscriptions that are open
	wake  chan struct{}          // holds one token while asked is not empty
}

type groupID [16]byte

const (
	maxAskedReads = 1 << 16 // groups that wait to be looked at: what is more is asked for again
	readsAtOnce   = 250     // groups of one look, each of four topics
	watchEvery    = 24 * time.Hour
	// watchGap is the longest time without a node that counts as being watched: a
	// restart, an outage.
	watchGap = 7 * 24 * time.Hour
	// renewals is how many times a note is renewed while it lasts: most readings
	// are heard of where a node is busy, and one of so many is enough.
	renewals = 6
)

func newReads(keep time.Duration) *reads {
	return &reads{keep: keep, asked: map[groupID]struct{}{}, open: map[*[][]byte]struct{}{}, noted: seen{young: map[groupID]time.Time{}}, wake: make(chan struct{}, 1)}
}

// note hears that groups are read. It never waits.
func (r *reads) note(now time.Time, groups ...[]byte) {
	if r.keep <= 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range groups {
		group := groupID(id)
		if at, known := r.noted.at(group); known && now.Sub(at) < r.keep/renewals || len(r.asked) >= maxAskedReads {
			continue
		}
		r.asked[group] = struct{}{}
	}
	if len(r.asked) > 0 {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// begin hears that groups are read until end is called.
func (r *reads) begin(now time.Time, groups [][]byte) (end func()) {
	r.note(now, groups...)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[&groups] = struct{}{}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.open, &groups)
	}
}

// subscribed returns the groups of each open subscription.
func (r *reads) subscribed() (all [][][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for groups := range r.open {
		all = append(all, *groups)
	}
	return all
}

// take returns some of the groups that wait.
func (r *reads) take() (groups []groupID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for group := range r.asked {
		if len(groups) == readsAtOnce {
			break
		}
		delete(r.asked, group)
		groups = append(groups, group)
	}
	return groups
}

func (r *reads) remember(group groupID, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noted.put(group, at)
}

// seen remembers a bounded number of groups, those of late.
type seen struct{ young, old map[groupID]time.Time }

func (s *seen) at(group groupID) (at time.Time, known bool) {
	if at, known = s.young[group]; !known {
		at, known = s.old[group]
	}
	return at, known
}

func (s *seen) put(group groupID, at time.Time) {
	if len(s.young) >= maxBuckets/2 {
		s.young, s.old = map[groupID]time.Time{}, s.young
	}
	s.young[group] = at
}

// noteReads writes notes until ctx ends.
func (n *Node) noteReads(ctx context.Context) {
	if n.reads.keep <= 0 {
		return
	}
	renew, look := time.NewTicker(watchEvery), time.NewTicker(max(n.reads.keep/renewals, time.Millisecond))
	defer renew.Stop()
	defer look.Stop()
	if err := n.watchReads(ctx); err != nil && ctx.Err() == nil {
		n.config.Logger.Warn("watch over reads not renewed", "error", err)
	}
	for {
		select {
		case <-n.reads.wake:
			n.noteAsked(ctx)
		case <-look.C:
			for _, groups := range n.reads.subscribed() {
				n.reads.note(n.config.Now(), groups...)
				n.noteAsked(ctx)
			}
		case <-renew.C:
			if err := n.watchReads(ctx); err != nil && ctx.Err() == nil {
				n.config.Logger.Warn("watch over reads not renewed", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// noteAsked works off what is asked.
func (n *Node) noteAsked(ctx context.Context) {
	for groups := n.reads.take(); len(groups) > 0 && ctx.Err() == nil; groups = n.reads.take() {
		if err := n.noteGroups(ctx, groups); err != nil && ctx.Err() == nil {
			n.config.Logger.Debug("reads not noted", "error", err) // they are asked for again
		}
	}
}

// noteGroups writes a note for each group that holds something and has no recent
// one. Of a group that holds nothing there is nothing to keep.
func (n *Node) noteGroups(ctx context.Context, groups []groupID) error {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	var topics []bus.Topic
	for _, group := range groups {
		topics = append(topics, topicsOf(group)...)
	}
	newest, err := n.newest(ctx, topics)
	if err != nil {
		return err
	}
	for _, group := range groups {
		ends, mine := newest[:4], topics[:4]
		newest, topics = newest[4:], topics[4:]
		if slices.Max(ends[:3]) == 0 {
			continue
		}
		at, err := n.timeOf(ctx, mine[3], ends[3])
		if err != nil {
			return err
		}
		if now := n.config.Now(); now.Sub(at) >= n.reads.keep/renewals {
			if _, err := n.bus.Publish(ctx, mine[3], []byte{readFormat}, bus.TTL(n.reads.keep)); err != nil {
				return fmt.Errorf("note a read: %w", err)
			}
			at = now
		}
		n.reads.remember(group, at)
	}
	return nil
}

// topicsOf are all topics of a group, that of its reads last.
func topicsOf(group groupID) []bus.Topic {
	topics := make([]bus.Topic, 0, 4)
	for _, of := range []func([]byte) (bus.Topic, error){bus.CommitsOf, bus.MessagesOf, bus.CommitLogOf, bus.ReadsOf} {
		topic, err := of(group[:])
		if err != nil {
			panic(err) // the id has the right length
		}
		topics = append(topics, topic)
	}
	return topics
}

// timeOf is when an entry of a topic was stored; zero where there is none.
func (n *Node) timeOf(ctx context.Context, topic bus.Topic, id bus.ID) (time.Time, error) {
	if id == 0 {
		return time.Time{}, nil
	}
	got, err := n.bus.Read(ctx, position(id.Sequence()-1, id.Shard()), 1, topic)
	if err != nil || len(got) == 0 {
		return time.Time{}, err
	}
	return got[0].Time, nil
}

// readFormat is the number of the notes' format.
const readFormat = 1

// A watch is since when notes are written, and for how long each is kept.
type watch struct {
	since time.Time
	keep  time.Duration
}

func (w watch) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{readFormat}, uint64(w.since.UnixNano()))
	return binary.BigEndian.AppendUint64(b, uint64(w.keep))
}

func decodeWatch(b []byte) (watch, bool) {
	if len(b) != 17 || b[0] != readFormat {
		return watch{}, false
	}
	return watch{time.Unix(0, int64(binary.BigEndian.Uint64(b[1:]))), time.Duration(binary.BigEndian.Uint64(b[9:]))}, true
}

// lastWatch returns the watch that stands in the log and is not given up; false
// where none is.
func lastWatch(ctx context.Context, b bus.Bus, now time.Time) (watch, bool, error) {
	topic := topicsOf(groupID{})[3]
	ends, err := b.Last(ctx, topic)
	if err != nil || ends[0] == 0 {
		return watch{}, false, err
	}
	got, err := b.Read(ctx, position(ends[0].Sequence()-1, ends[0].Shard()), 1, topic)
	if err != nil || len(got) == 0 {
		return watch{}, false, err
	}
	w, ok := decodeWatch(got[0].Payload)
	return w, ok && now.Sub(got[0].Time) < watchGap, nil
}

// watchReads renews the watch. It begins anew where there was none for a time, or
// where notes were kept for another time.
func (n *Node) watchReads(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	now := n.config.Now()
	w, stands, err := lastWatch(ctx, n.bus, now)
	if err != nil {
		return fmt.Errorf("read the watch: %w", err)
	}
	if !stands || w.keep != n.reads.keep {
		w = watch{since: now, keep: n.reads.keep}
	}
	_, err = n.bus.Publish(ctx, topicsOf(groupID{})[3], w.encode(), bus.TTL(2*watchGap))
	return err
}
