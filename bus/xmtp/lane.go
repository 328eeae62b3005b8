package xmtp

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// A lane keeps one stream open for all the logs that it is given. A stream's filters
// cannot be changed: when topics are added it is opened again, from the cursors.
// Envelopes that come twice are known by their ID.
//
// A follower takes envelopes only from a stream that brings everything above its
// cursor. That is a stream that was opened with the follower, or one that had not
// passed the cursor in its log when the follower came. Any other would leave a gap.
type lane struct {
	feed   *feed
	follow func(ctx context.Context, cursors map[logID]bus.ID, take func(bus.Envelope) error) error

	// guarded by feed.mu
	logs    map[logID]map[bus.Topic]*follower
	number  int                // of the stream that is open, or was last
	reached map[logID]bus.ID   // how far that stream has got, in each log that it is asked for
	end     context.CancelFunc // ends the stream; nil while there is none
	opened  time.Time
	timer   *time.Timer // will end the stream, to open one with the new topics
	// unwanted counts what the stream brought of logs that are not followed.
	unwanted int
}

func newLane(f *feed, follow func(context.Context, map[logID]bus.ID, func(bus.Envelope) error) error) *lane {
	return &lane{feed: f, follow: follow, logs: make(map[logID]map[bus.Topic]*follower)}
}

// How often a stream is opened again for new topics: a network has work with
// each filter, and topics come in bursts.
const (
	reopenEvery = 20 * time.Millisecond
	filterCost  = 50 * time.Microsecond
)

// The methods from here to reopenSoon are called with feed.mu held.

// covers says whether the stream that is open brings everything of a log above
// a position.
func (l *lane) covers(log logID, after bus.ID) bool {
	reached, asked := l.reached[log]
	return l.end != nil && asked && reached <= after
}

func (l *lane) add(log logID, after bus.ID, topics []bus.Topic) {
	stream := l.number
	if !l.covers(log, after) {
		stream = 0
		l.reopenSoon()
	}
	if l.logs[log] == nil {
		l.logs[log] = make(map[bus.Topic]*follower, len(topics))
	}
	for _, t := range topics {
		l.logs[log][t] = &follower{after, stream}
	}
}

// remove unfollows a topic. The stream's filter stays until the next opening.
func (l *lane) remove(t bus.Topic) {
	log := logOf(t)
	delete(l.logs[log], t)
	if len(l.logs[log]) == 0 {
		delete(l.logs, log)
	}
	l.endIfIdle()
}

// move gives what is followed of a log to another lane.
func (l *lane) move(log logID, to *lane) {
	followers := l.logs[log]
	for _, s := range followers {
		l.catchUp(log, s)
		s.stream = 0
	}
	delete(l.logs, log)
	delete(l.reached, log) // its topics are all to be followed there
	if followers == nil {
		return
	}
	l.endIfIdle()
	to.logs[log] = followers
	to.reopenSoon()
}

// catchUp moves a follower's cursor to where its stream has got: what the stream
// brought of the log's other topic lies behind it too.
func (l *lane) catchUp(log logID, s *follower) {
	if s.stream == l.number {
		s.cursor = max(s.cursor, l.reached[log])
	}
}

func (l *lane) endIfIdle() {
	if len(l.logs) == 0 && l.end != nil {
		l.end()
	}
}

// reopenSoon has the stream opened again, at once where it has been open for
// long enough.
func (l *lane) reopenSoon() {
	if l.end == nil || l.timer != nil {
		return
	}
	wait := reopenEvery + time.Duration(len(l.logs))*filterCost - time.Since(l.opened)
	if wait <= 0 {
		l.end()
		return
	}
	l.timer = time.AfterFunc(wait, l.end)
}

// run opens one stream after another until the feed is closed.
func (l *lane) run() {
	var calm backoff
	cut := false // and not yet said that it goes on
	for {
		ctx, cursors := l.begin()
		if ctx == nil {
			return
		}
		var progress atomic.Bool
		err := l.receive(ctx, cursors, func(e bus.Envelope) error {
			if !progress.Swap(true) && cut {
				l.feed.bus.cfg.Logger.Warn("stream of an XMTP network goes on")
			}
			return l.take(ctx, e)
		})
		cut = cut && !progress.Load()
		wanted := ctx.Err() != nil
		l.finish()
		if progress.Load() || wanted {
			calm.reset()
		}
		if wanted {
			continue // new topics, or the end
		}
		if !errors.Is(err, errEnded) && connect.CodeOf(err) != connect.CodeAborted { // else its reader was slow
			l.broken(err)
			cut = true
		}
		if !calm.wait(l.feed.ctx) {
			return
		}
	}
}

// maxFilters is how many logs one stream is asked for. Whoever follows more has
// several, which are opened and ended together.
const maxFilters = 5000

func (l *lane) receive(ctx context.Context, cursors map[logID]bus.ID, take func(bus.Envelope) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for logs := range slices.Chunk(slices.Collect(maps.Keys(cursors)), maxFilters) {
		part := make(map[logID]bus.ID, len(logs))
		for _, log := range logs {
			part[log] = cursors[log]
		}
		g.Go(func() error { return l.follow(ctx, part, take) })
	}
	return g.Wait()
}

// begin waits until there is something to follow, and room for what comes. It
// returns the next stream's context, nil where the feed is closed.
func (l *lane) begin() (context.Context, map[logID]bus.ID) {
	f := l.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.ctx.Err() == nil && (len(l.logs) == 0 || f.full()) {
		f.moved.Wait()
	}
	if f.ctx.Err() != nil {
		return nil, nil
	}
	ctx, cancel := context.WithCancel(f.ctx)
	context.AfterFunc(ctx, f.stir) // a take that waits for room
	cursors := make(map[logID]bus.ID, len(l.logs))
	for log, followers := range l.logs {
		for _, s := range followers {
			l.catchUp(log, s)
			s.stream = l.number + 1
			if lowest, ok := cursors[log]; !ok || s.cursor < lowest {
				cursors[log] = s.cursor
			}
		}
	}
	l.number++
	l.reached = maps.Clone(cursors)
	l.end, l.opened, l.unwanted = cancel, time.Now(), 0
	return ctx, cursors
}

// finish puts a stream away that has ended, or makes it end.
func (l *lane) finish() {
	l.feed.mu.Lock()
	defer l.feed.mu.Unlock()
	l.end()
	l.end = nil
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

// take puts an envelope of the stream into the queue, when there is room.
func (l *lane) take(ctx context.Context, e bus.Envelope) error {
	f := l.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	for ctx.Err() == nil && f.full() {
		f.moved.Wait()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	log := logOf(e.Topic)
	if reached, asked := l.reached[log]; asked {
		l.reached[log] = max(reached, e.ID)
	}
	if s := l.logs[log][e.Topic]; s != nil && s.stream == l.number && e.ID > s.cursor {
		s.cursor = e.ID
		f.push(s, e)
	}
	if l.logs[log] == nil {
		if l.unwanted++; l.unwanted > len(l.logs)+mostUnwanted {
			l.reopenSoon()
		}
	}
	return nil
}

// mostUnwanted is how much a stream may bring in vain, beside one envelope for
// each log that is followed, before it is opened anew.
const mostUnwanted = 100

// broken tells the reader why a stream ended.
func (l *lane) broken(err error) {
	f := l.feed
	err = busError(err)
	f.bus.cfg.Logger.Warn("stream of an XMTP network broke", "error", err)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case errors.Is(err, bus.ErrLogRolledBack):
		f.groups.forget() // whose cursor it was is not said
		f.welcomes.forget()
		f.fail(err)
	case len(f.failed) == 0:
		f.fail(err)
	}
}

// followGroups opens a stream of group messages.
func (f *feed) followGroups(ctx context.Context, cursors map[logID]bus.ID, take func(bus.Envelope) error) error {
	r := new(mlsapi.SubscribeGroupMessagesRequest)
	for l, cursor := range cursors {
		r.Filters = append(r.Filters, &mlsapi.SubscribeGroupMessagesRequest_Filter{GroupId: []byte(l.id), IdCursor: uint64(cursor)})
	}
	return subscribe(ctx, f.bus, f.bus.calls.followGroups, r, func(m *mlsapi.GroupMessage) error {
		e, err := groupEnvelope(m)
		if err != nil {
			return err
		}
		return take(e)
	})
}

// followWelcomes opens a stream of welcomes.
func (f *feed) followWelcomes(ctx context.Context, cursors map[logID]bus.ID, take func(bus.Envelope) error) error {
	r := new(mlsapi.SubscribeWelcomeMessagesRequest)
	for l, cursor := range cursors {
		r.Filters = append(r.Filters, &mlsapi.SubscribeWelcomeMessagesRequest_Filter{InstallationKey: []byte(l.id), IdCursor: uint64(cursor)})
	}
	return subscribe(ctx, f.bus, f.bus.calls.followWelcomes, r, func(m *mlsapi.WelcomeMessage) error {
		e, err := welcomeEnvelope(m)
		if err != nil {
			return err
		}
		return take(e)
	})
}

// Bounds of the pause before a stream that broke is opened again.
const (
	firstPause = 50 * time.Millisecond
	maxPause   = 10 * time.Second
)

// A backoff doubles from one failure to the next. Hosts that lost the same
// network come back at different times.
type backoff struct{ last time.Duration }

func (b *backoff) reset() { b.last = 0 }

// wait reports false where ctx ended.
func (b *backoff) wait(ctx context.Context) bool {
	b.last = min(max(2*b.last, firstPause), maxPause)
	timer := time.NewTimer(b.last + rand.N(b.last))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
