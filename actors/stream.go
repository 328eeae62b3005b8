package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/group"
)

const prefixStream = "s/"

// A Stream hands an installation's news to one consumer, at the consumer's
// pace. What does not fit its queue is not kept in memory but read again from
// the store, so a slow consumer costs bounded memory and loses nothing, and so
// does a crash.
type Stream struct {
	sys  *System
	in   *installation
	only *GroupID // nil: all groups
	kind StreamKind
	name string
	ref  engine.Ref
	once sync.Once

	mu   sync.Mutex
	seen map[GroupID]group.Position // the last message handed to the consumer
}

// A StreamKind says what a stream is about.
type StreamKind uint8

const (
	StreamMessages      StreamKind = iota + 1 // published messages, each once, in each group's order
	StreamConversations                       // groups that this installation joins
)

// An Item is one piece of news.
type Item struct {
	Group   GroupID
	Message group.Message // of StreamMessages
}

// streams is the registry of a host's streams. It is read for every event and
// written rarely.
type streams struct {
	mu   sync.RWMutex
	of   map[InstallationID][]*Stream
	last atomic.Uint64 // number of the newest stream
}

// emit tells the streams that want an event. Only what is published is handed
// on, so nobody hears of a message twice.
func (r *streams) emit(in InstallationID, id GroupID, e group.Event) {
	changed, ok := e.(group.MessageChanged)
	if !ok || changed.Message.Status != group.StatusPublished {
		return
	}
	r.tell(in, id, StreamMessages, Item{id, changed.Message})
}

// joined tells the streams of conversations.
func (r *streams) joined(in InstallationID, id GroupID) {
	r.tell(in, id, StreamConversations, Item{Group: id})
}

func (r *streams) tell(in InstallationID, id GroupID, kind StreamKind, item Item) {
	r.mu.RLock()
	of := r.of[in]
	r.mu.RUnlock()
	for _, s := range of {
		if s.kind == kind && (s.only == nil || *s.only == id) {
			_ = s.sys.engine.Tell(s.ref, item) // a stream that ends needs none
		}
	}
}

// Stream starts a stream: from now on the installation hears of news at once.
// What its groups have not read yet comes first. id nil means all groups, those
// joined later included.
func (s *System) Stream(ctx context.Context, in InstallationID, id *GroupID, kind StreamKind) (*Stream, error) {
	installation, err := s.installation(in)
	if err != nil {
		return nil, err
	}
	st := &Stream{sys: s, in: installation, only: id, kind: kind, seen: map[GroupID]group.Position{}}
	st.name = prefixStream + strconv.FormatUint(s.streams.last.Add(1), 10)
	if kind == StreamMessages {
		if err := st.mark(ctx); err != nil {
			return nil, err
		}
	}
	st.ref, err = s.engine.Spawn(st.name, func() engine.Behavior { return &streamActor{stream: st} }, engine.Options{})
	if err != nil {
		return nil, fmt.Errorf("actors: start stream: %w", err)
	}
	s.streams.mu.Lock()
	if s.streams.of == nil {
		s.streams.of = map[InstallationID][]*Stream{}
	}
	s.streams.of[in] = append(slices.Clone(s.streams.of[in]), st)
	s.streams.mu.Unlock()
	if err := s.addLive(ctx, installation, 1); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return st, nil
}

// mark notes where the store's history ends now: the stream is about what comes
// after it.
func (st *Stream) mark(ctx context.Context) error {
	ids := []GroupID{}
	if st.only != nil {
		ids = append(ids, *st.only)
	} else {
		var err error
		if ids, err = groupsOf(ctx, st.in.vault); err != nil {
			return err
		}
	}
	for _, id := range ids {
		last, err := group.History(st.sys.rows(ctx, st.in, id), group.HistoryQuery{Newest: true, Limit: 1})
		if err != nil {
			return err
		}
		if len(last) > 0 {
			st.seen[id] = last[0].Position
		}
	}
	return nil
}

// Close ends the stream: its consumer gets nothing more. Idempotent.
func (st *Stream) Close() error {
	st.once.Do(func() {
		s := st.sys
		s.streams.mu.Lock()
		rest := slices.DeleteFunc(slices.Clone(s.streams.of[st.in.id]), func(o *Stream) bool { return o == st })
		if len(rest) == 0 {
			delete(s.streams.of, st.in.id)
		} else {
			s.streams.of[st.in.id] = rest
		}
		s.streams.mu.Unlock()
		s.engine.Stop(st.ref)
		if err := s.addLive(s.ctx, st.in, -1); err != nil && !errors.Is(err, ErrClosed) {
			s.log.Warn("stream ended", keyErr, err)
		}
	})
	return nil
}

// Next waits for news and returns what there is, in order.
func (st *Stream) Next(ctx context.Context) ([]Item, error) {
	for {
		answer, err := st.sys.engine.Ask(ctx, st.ref, nextItems{})
		switch {
		case errors.Is(err, engine.ErrRestarted):
			continue // what was queued is read from the store
		case errors.Is(err, engine.ErrStopped):
			return nil, ErrClosed
		case err != nil:
			return nil, err
		}
		items := answer.([]Item)
		st.mu.Lock()
		for _, it := range items {
			st.seen[it.Group] = it.Message.Position
		}
		st.mu.Unlock()
		return items, nil
	}
}

// addLive counts who wants to hear of news at once. The first and the last one
// tell the installation's actors.
func (s *System) addLive(ctx context.Context, in *installation, n int) error {
	in.mu.Lock()
	was := in.live > 0
	in.live += n
	is := in.live > 0
	in.mu.Unlock()
	if was == is {
		return nil
	}
	if err := s.names.Tell(installationName(in.id), setLive{is}); err != nil {
		return err
	}
	ids, err := groupsOf(ctx, in.vault)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := s.names.Tell(groupName(in.id, id), setLive{is}); err != nil {
			return err
		}
	}
	return nil
}

// A streamActor queues what its consumer has not taken yet.
type streamActor struct {
	stream *Stream
	queue  []Item
	behind map[GroupID]bool // has messages in the store that are not in the queue
	asker  *engine.Reply
}

// nextItems asks for what there is, and waits until there is something.
type nextItems struct{}

const (
	streamQueue = 256 // items kept in memory
	streamBatch = 64  // items handed out at once
)

// Start begins with everything in the store after what the consumer has seen:
// after a crash that is what the queue held.
func (a *streamActor) Start(ctx *engine.Context) error {
	a.behind = map[GroupID]bool{}
	st := a.stream
	if st.kind != StreamMessages {
		return nil
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for id := range st.seen {
		a.behind[id] = true
	}
	return nil
}

func (a *streamActor) Stop() {}

func (a *streamActor) Receive(ctx *engine.Context, msg any) error {
	if err := a.stream.sys.fault(PointStream); err != nil {
		return err
	}
	switch m := msg.(type) {
	case Item:
		a.take(m)
	case nextItems:
		a.asker = ctx.Later()
	default:
		return fmt.Errorf("actors: stream actor was told %T", msg)
	}
	return a.serve(ctx)
}

// take queues an item, or remembers only that its group has more.
func (a *streamActor) take(it Item) {
	switch {
	case a.behind[it.Group]:
	case len(a.queue) >= streamQueue && a.stream.kind == StreamMessages:
		a.behind[it.Group] = true
		a.stream.sys.cfg.Telemetry.StreamsBehind.Inc()
	default:
		a.queue = append(a.queue, it)
	}
}

// serve answers the consumer: from the queue first, which is older than what a
// group has beyond it.
func (a *streamActor) serve(ctx *engine.Context) error {
	if a.asker == nil {
		return nil
	}
	if len(a.queue) == 0 {
		if err := a.refill(ctx); err != nil {
			return crash(err)
		}
	}
	if n := min(len(a.queue), streamBatch); n > 0 {
		a.asker.Answer(a.queue[:n:n], nil)
		a.asker, a.queue = nil, a.queue[n:]
	}
	return nil
}

// refill reads what the store has after the last message handed out. The queue
// is empty, so that is the last one seen.
func (a *streamActor) refill(ctx *engine.Context) error {
	st := a.stream
	for id := range a.behind {
		st.mu.Lock()
		seen := st.seen[id]
		st.mu.Unlock()
		messages, err := group.History(st.sys.rows(ctx.Context(), st.in, id), group.HistoryQuery{After: seen, Limit: streamBatch})
		if err != nil {
			return err
		}
		for _, m := range messages {
			a.queue = append(a.queue, Item{id, m})
		}
		if len(messages) < streamBatch {
			delete(a.behind, id)
		}
		if len(a.queue) > 0 {
			return nil
		}
	}
	return nil
}
