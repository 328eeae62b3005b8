package benchmarks

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave"
)

// A Line is one message to be sent.
type Line struct {
	Group int // in the list of groups
	From  int // in the crowd
	Text  string
	Key   string // its idempotency key
}

// Turns are the lines of one group, from its members in turn.
func Turns(group int, g Group, texts []string) []Line {
	lines := make([]Line, len(texts))
	for i, text := range texts {
		lines[i] = Line{group, g.Members[i%len(g.Members)], text, fmt.Sprintf("demo/%d", i+1)}
	}
	return lines
}

// A Replay sends lines through groups and follows each to the store of every
// member.
type Replay struct {
	crowd    *Crowd
	stop     context.CancelFunc
	handlers sync.WaitGroup

	// What an earlier run sent, by group, in the log's order: its first lines.
	earlier map[conclave.GroupID][]conclave.MessageID

	mu       sync.Mutex
	arrivals map[conclave.MessageID]*arrival
	repeated int
	failed   error
	sums     []hash.Hash // by member: over what its handler got
	count    int
}

// An arrival is one message on its way to everybody.
type arrival struct {
	by          []uint64 // a bit for each member that has it
	n, want     int      // how many have it, and are to; want is 0 until it is known
	first, last time.Time
	all         chan struct{} // closed when everybody has it
}

// NewReplay prepares a replay among members that are registered.
func NewReplay(c *Crowd) *Replay {
	r := &Replay{
		crowd:    c,
		earlier:  map[conclave.GroupID][]conclave.MessageID{},
		arrivals: map[conclave.MessageID]*arrival{},
		sums:     make([]hash.Hash, c.Len()),
	}
	for i := range r.sums {
		r.sums[i] = sha256.New()
	}
	return r
}

// Recall counts what the members have in their stores from an earlier run: a
// stream does not tell it again. It comes before Follow.
func (r *Replay) Recall(ctx context.Context) error {
	return r.crowd.each(ctx, nil, func(ctx context.Context, i int, m *member) error {
		groups, err := m.client.Conversations().List(ctx)
		if err != nil {
			return err
		}
		for _, g := range groups {
			messages, err := g.Messages(ctx, conclave.MessageQuery{Status: conclave.Published})
			if err != nil {
				return err
			}
			r.recall(i, g.ID(), messages)
		}
		return nil
	})
}

func (r *Replay) recall(member int, in conclave.GroupID, messages []*conclave.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []conclave.MessageID
	for _, m := range messages {
		if _, ok := m.Content.(conclave.Text); ok {
			ids = append(ids, m.ID)
			r.arrival(m.ID).mark(member)
		}
	}
	if len(ids) > len(r.earlier[in]) {
		r.earlier[in] = ids
	}
}

// Follow opens a stream on every member's installation, before there is a
// group, so that nothing passes by unseen. Stop ends the streams.
func (r *Replay) Follow(ctx context.Context) {
	ctx, r.stop = context.WithCancel(ctx)
	for i, m := range r.crowd.members {
		stream := m.client.Conversations().StreamAllMessages(ctx)
		r.handlers.Go(func() {
			for message, err := range stream {
				if err != nil {
					r.fail(fmt.Errorf("stream of member %d: %w", i+1, err))
					return
				}
				r.got(i, message)
				// Each handler has its own value: what it does to it shows nowhere else.
				*message = conclave.Message{}
			}
		})
	}
}

// Stop ends the streams and waits for their handlers.
func (r *Replay) Stop() {
	r.stop()
	r.handlers.Wait()
}

func (r *Replay) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = errors.Join(r.failed, err)
}

func (r *Replay) got(member int, m *conclave.Message) {
	text, ok := m.Content.(conclave.Text)
	if !ok {
		return // who joined, and the like
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sums[member].Write(m.ID[:])
	r.sums[member].Write([]byte(text))
	r.count++
	a := r.arrival(m.ID)
	if !a.mark(member) {
		r.repeated++
		return
	}
	if a.n == 1 {
		a.first = now
	}
	if a.last = now; a.n == a.want {
		close(a.all)
	}
}

// arrival returns the entry of a message. The caller holds the lock.
func (r *Replay) arrival(id conclave.MessageID) *arrival {
	a := r.arrivals[id]
	if a == nil {
		a = &arrival{by: make([]uint64, (len(r.sums)+63)/64), all: make(chan struct{})}
		r.arrivals[id] = a
	}
	return a
}

func (a *arrival) mark(member int) bool {
	word, bit := &a.by[member/64], uint64(1)<<(member%64)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	a.n++
	return true
}

// Sent is what a replay did.
type Sent struct {
	IDs      []conclave.MessageID // by line
	Latency  []time.Duration      // send→all-stored of each message that this run sent, sorted
	Took     time.Duration        // from the first send to the last delivery
	Fresh    int                  // messages that this run sent
	Repeated int                  // deliveries that a handler saw twice
	Streamed int                  // deliveries that handlers saw
	Checksum string               // over what a handler saw, where all saw the same
	Agreeing int                  // handlers with that checksum
}

// stuckAfter is how long a message may take to reach everybody before a replay
// gives up and says how far it got.
const stuckAfter = 2 * time.Minute

// Send sends every line that an earlier run did not send, under an idempotency
// key of its own: one that was on its way is sent once. A line goes out when the one before it is in its
// group's log, so that the log has the lines' order; at most window of them are
// under way to the others' stores at a time.
func (r *Replay) Send(ctx context.Context, groups []Group, lines []Line, window int, stored func()) (Sent, error) {
	out := Sent{IDs: make([]conclave.MessageID, len(lines))}
	var mu sync.Mutex // of out and last
	var last time.Time
	work, ctx := errgroup.WithContext(ctx)
	underway := make(chan struct{}, window)
	began := time.Now()
	work.Go(func() (err error) {
		earlier := maps.Clone(r.earlier)
		for i, line := range lines {
			select {
			case underway <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			start := time.Now()
			in := groups[line.Group].ID
			var id conclave.MessageID
			if sent := earlier[in]; len(sent) > 0 {
				id, earlier[in] = sent[0], sent[1:]
			} else if id, err = r.sendOne(ctx, in, line); err != nil {
				return fmt.Errorf("line %d: %w", i+1, err)
			}
			out.IDs[i] = id
			work.Go(func() error {
				first, end, err := r.await(ctx, i, id, len(groups[line.Group].Members))
				if err != nil {
					return err
				}
				mu.Lock()
				if !first.Before(start) { // else an earlier run sent it
					out.Fresh++
					out.Latency = append(out.Latency, end.Sub(start))
				}
				if end.After(last) {
					last = end
				}
				mu.Unlock()
				<-underway
				if stored != nil {
					stored()
				}
				return nil
			})
		}
		return nil
	})
	if err := work.Wait(); err != nil {
		return out, err
	}
	slices.Sort(out.Latency)
	out.Took = max(last.Sub(began), 0)
	r.mu.Lock()
	defer r.mu.Unlock()
	out.Repeated, out.Streamed = r.repeated, r.count
	out.Checksum, out.Agreeing = r.checksum()
	return out, r.failed
}

// sendOne returns when the line is in the group's log.
func (r *Replay) sendOne(ctx context.Context, in conclave.GroupID, line Line) (conclave.MessageID, error) {
	client := r.crowd.members[line.From].client
	g, err := client.Conversations().Get(ctx, in)
	if err != nil {
		return conclave.MessageID{}, err
	}
	key := conclave.IdempotencyKey(line.Key)
	id, err := again(ctx, func() (conclave.MessageID, error) { return g.Send(ctx, conclave.Text(line.Text), key) })
	if err != nil {
		return id, err
	}
	for range maxAgain {
		status, err := again(ctx, func() (conclave.DeliveryStatus, error) { return g.Wait(ctx, id) })
		if err != nil || status == conclave.Published {
			return id, err
		}
		if _, err := again(ctx, func() (struct{}, error) { return struct{}{}, g.Retry(ctx, id) }); err != nil {
			return id, err
		}
	}
	return id, errors.New("the message failed again and again")
}

// await waits until everybody has a message, and tells when the first and the
// last of them got it.
func (r *Replay) await(ctx context.Context, i int, id conclave.MessageID, want int) (first, last time.Time, err error) {
	r.mu.Lock()
	a := r.arrival(id)
	if a.want = want; a.n == want {
		close(a.all)
	}
	r.mu.Unlock()
	stuck := time.NewTimer(stuckAfter)
	defer stuck.Stop()
	select {
	case <-a.all:
	case <-ctx.Done():
		err = ctx.Err()
	case <-stuck.C:
		r.mu.Lock()
		err = errors.Join(fmt.Errorf("line %d reached %d of %d members within %v", i+1, a.n, want, stuckAfter), r.failed)
		r.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return a.first, a.last, err
}

// checksum is the one that most handlers have. The caller holds the lock.
func (r *Replay) checksum() (sum string, agreeing int) {
	votes := map[string]int{}
	for _, h := range r.sums {
		s := hex.EncodeToString(h.Sum(nil))
		if votes[s]++; votes[s] > agreeing {
			sum, agreeing = s, votes[s]
		}
	}
	return sum, agreeing
}

// Percentile is the p-th percentile of sorted durations, 0 of none.
func Percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(p/100*float64(len(sorted))), len(sorted)-1)]
}
