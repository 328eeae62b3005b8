package actors

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
)

const prefixStream = "s/"

// A Stream hands an installation's news to one consumer, at the consumer's
// pace. What does not fit its queue is not kept in memory but read again from
// the store, so a slow consumer costs bounded memory and loses nothing. The
// queue is no part of the actor, and its mailbox carries hints only, so neither
// does a crash.
type Stream struct {
	sys   *System
	in    *installation
	scope Scope
	kind  StreamKind
	ref   engine.Ref
	once  sync.Once

	mu     sync.Mutex
	queue  []Item
	queued map[GroupID]group.Position // of the newest message queued
	behind map[GroupID]bool           // has messages in the store beyond those that are queued; true: more came since it was read
	hungry bool                       // the actor waits to be told that there is something
}

// A StreamKind says what a stream is about.
type StreamKind uint8

const (
	StreamMessages      StreamKind = iota + 1 // published messages, each once, in each group's order
	StreamConversations                       // groups that this installation joins
	StreamActive                              // groups that this installation becomes a member of, or stops being one
	StreamStandings                           // how it stands to its groups' logs
)

// An Item is one piece of news.
type Item struct {
	Group        GroupID
	Message      group.Message  // of StreamMessages
	Active       bool           // of StreamActive
	AddedBy      string         // of StreamActive: the inbox whose welcome it is
	Standing     group.Standing // of StreamStandings, with its reason
	Reason       string
	Conversation Conversation // of StreamConversations
}

const (
	streamQueue = 256 // messages kept in memory
	streamBatch = 64  // items handed out at once
)

// streams is the registry of a host's streams. It is read for every event and
// written rarely.
type streams struct {
	mu   sync.RWMutex
	of   map[InstallationID][]*Stream
	last atomic.Uint64 // number of the newest stream
}

// emit tells the streams that want an event. Of messages only what is published
// is handed on, so nobody hears of one twice.
func (r *streams) emit(in InstallationID, c Conversation, e group.Event) {
	switch e := e.(type) {
	case group.MessageChanged:
		if e.Message.Status == group.StatusPublished {
			r.tell(in, c, StreamMessages, Item{Group: c.ID, Message: e.Message})
		}
	case group.Activated:
		r.tell(in, c, StreamActive, Item{Group: c.ID, Active: true, AddedBy: e.AddedBy})
	case group.Deactivated:
		r.tell(in, c, StreamActive, Item{Group: c.ID})
	case group.StandingChanged:
		r.tell(in, c, StreamStandings, Item{Group: c.ID, Standing: e.Standing, Reason: e.Reason})
	}
}

// joined tells the streams of conversations.
func (r *streams) joined(in InstallationID, c Conversation) {
	r.tell(in, c, StreamConversations, Item{Group: c.ID, Conversation: c})
}

func (r *streams) tell(in InstallationID, c Conversation, kind StreamKind, item Item) {
	for _, st := range r.ofInstallation(in) {
		if st.kind == kind && st.scope.has(c) {
			st.push(item)
		}
	}
}

func (r *streams) ofInstallation(in InstallationID) []*Stream {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.of[in] // never changed in place
}

// rewound lets messages through whose positions were given before.
func (r *streams) rewound(in InstallationID, id GroupID, end bus.ID) {
	for _, st := range r.ofInstallation(in) {
		st.mu.Lock()
		if st.queued[id].ID > uint64(end) {
			st.queued[id] = group.Position{ID: uint64(end), Message: lastOf}
		}
		st.mu.Unlock()
	}
}

// lastOf is the end of a Position beyond every message at its place.
var lastOf = [8]byte{255, 255, 255, 255, 255, 255, 255, 255}

func (r *streams) add(st *Stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = map[InstallationID][]*Stream{}
	}
	r.of[st.in.id] = append(slices.Clone(r.of[st.in.id]), st)
}

func (r *streams) remove(st *Stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rest := slices.DeleteFunc(slices.Clone(r.of[st.in.id]), func(o *Stream) bool { return o == st })
	if len(rest) == 0 {
		delete(r.of, st.in.id)
	} else {
		r.of[st.in.id] = rest
	}
}

// Stream starts a stream: from now on the installation hears of news at once.
// What its groups have not read yet comes first. Groups joined later are
// included where the scope has them.
func (s *System) Stream(ctx context.Context, in InstallationID, scope Scope, kind StreamKind) (*Stream, error) {
	installation, err := s.installation(in)
	if err != nil {
		return nil, err
	}
	if scope.Group != nil {
		if err := s.knows(ctx, in, *scope.Group); err != nil {
			return nil, err
		}
	}
	st := &Stream{sys: s, in: installation, scope: scope, kind: kind, queued: map[GroupID]group.Position{}, behind: map[GroupID]bool{}}
	name := prefixStream + strconv.FormatUint(s.streams.last.Add(1), 10)
	st.ref, err = s.engine.Spawn(name, func() engine.Behavior { return &streamActor{stream: st} }, engine.Options{})
	if err != nil {
		return nil, fmt.Errorf("actors: start stream: %w", s.explain(name, err))
	}
	s.streams.add(st)
	if kind == StreamMessages {
		err = st.mark(ctx)
	}
	if err = errors.Join(err, s.addLive(ctx, installation, 1)); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return st, nil
}

// mark notes where the store's history ends now: the stream is about what comes
// after it. It is called when news are queued already, so that there is no gap.
func (st *Stream) mark(ctx context.Context) error {
	conversations, err := st.sys.list(ctx, st.in, st.scope)
	if err != nil {
		return err
	}
	for _, c := range conversations {
		id := c.ID
		last, err := group.History(st.sys.rows(ctx, st.in, id), group.HistoryQuery{Newest: true, Limit: 1})
		if isDamage(err) {
			st.sys.log.Error("history of a group not read", groupAttr(id), installationAttr(st.in.id), keyErr, err)
			continue // of the others the stream tells
		}
		if err != nil {
			return err
		}
		st.mu.Lock()
		if _, began := st.queued[id]; !began && len(last) > 0 {
			st.queued[id] = last[0].Position
		}
		st.mu.Unlock()
	}
	return nil
}

// push queues an item, or remembers only that its group has more. Its row was
// saved before.
func (st *Stream) push(it Item) {
	st.mu.Lock()
	defer st.mu.Unlock()
	_, behind := st.behind[it.Group]
	switch {
	case st.kind != StreamMessages:
		st.queue = append(st.queue, it)
	case !newer(it.Message.Position, st.queued[it.Group]):
		return // read from the store before
	case behind:
		st.behind[it.Group] = true
	case len(st.queue) >= streamQueue:
		st.behind[it.Group] = true
		st.sys.cfg.Telemetry.StreamsBehind.Inc()
	default:
		st.enqueue(it)
	}
	if st.hungry {
		st.hungry = false
		_ = st.sys.engine.Tell(st.ref, newsQueued{}) // a stream that ends needs none
	}
}

func newer(p, than group.Position) bool {
	return cmp.Or(cmp.Compare(p.ID, than.ID), bytes.Compare(p.Message[:], than.Message[:])) > 0
}

func (st *Stream) enqueue(it Item) {
	st.queue = append(st.queue, it)
	st.queued[it.Group] = it.Message.Position
}

// pop takes what there is: from the queue first, which is older than what its
// groups have beyond it.
func (st *Stream) pop(ctx context.Context) ([]Item, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for len(st.queue) == 0 && len(st.behind) > 0 { // again where more came to a group while it was read
		var failed error
		for id := range st.behind {
			failed = errors.Join(failed, st.refill(ctx, id))
			if len(st.queue) > 0 {
				break
			}
		}
		if failed != nil && len(st.queue) == 0 {
			return nil, failed // all that the others have was handed out
		}
	}
	n := min(len(st.queue), streamBatch)
	items := st.queue[:n:n]
	if st.queue = st.queue[n:]; len(st.queue) == 0 {
		st.queue = nil
	}
	st.hungry = n == 0
	return items, nil
}

// refill reads a group's next messages from the store. The lock is not held
// meanwhile: nobody who saves waits for a reader.
func (st *Stream) refill(ctx context.Context, id GroupID) error {
	after := st.queued[id]
	st.behind[id] = false
	st.mu.Unlock()
	messages, err := group.History(st.sys.rows(ctx, st.in, id), group.HistoryQuery{After: after, Limit: streamBatch})
	st.mu.Lock()
	if err != nil {
		st.behind[id] = true
		return err
	}
	for _, m := range messages {
		st.enqueue(Item{Group: id, Message: m})
	}
	if len(messages) < streamBatch && !st.behind[id] {
		delete(st.behind, id)
	}
	return nil
}

// Close ends the stream: its consumer gets nothing more. Idempotent.
func (st *Stream) Close() error {
	st.once.Do(func() {
		s := st.sys
		s.streams.remove(st)
		s.engine.Stop(st.ref)
		if err := s.addLive(s.ctx, st.in, -1); err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrAsleep) {
			s.log.Warn("stream ended", keyErr, err)
		}
	})
	return nil
}

// Next waits for news and returns what there is, in order. ErrAsleep and
// ErrClosed say that the installation or the host was closed.
func (st *Stream) Next(ctx context.Context) ([]Item, error) {
	for {
		answer, err := st.sys.engine.Ask(ctx, st.ref, nextItems{})
		switch {
		case errors.Is(err, engine.ErrRestarted):
			continue // what was queued is there
		case errors.Is(err, engine.ErrStopped):
			if _, err := st.sys.installation(st.in.id); err != nil {
				return nil, err
			}
			return nil, ErrClosed
		case err != nil:
			return nil, st.sys.explain(st.ref.Name(), err)
		}
		return answer.([]Item), nil
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
	if err := s.names.Tell(installationName(in.id), setLive{}); err != nil {
		return err
	}
	ids, err := groupsOf(ctx, in.vault)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := s.names.Tell(groupName(in.id, id), setLive{}); err != nil {
			return err
		}
	}
	return nil
}

// A streamActor answers a stream's consumer when there is something.
type streamActor struct {
	stream *Stream
	asker  *engine.Reply
}

type (
	// nextItems asks for what there is, and waits until there is something.
	nextItems struct{}
	// newsQueued says that there is something.
	newsQueued struct{}
)

func (a *streamActor) Start(*engine.Context) error { return nil }

func (a *streamActor) Stop() {}

func (a *streamActor) Receive(ctx *engine.Context, msg any) error {
	if err := a.stream.sys.fault(PointStream); err != nil {
		return err
	}
	switch msg.(type) {
	case nextItems:
		a.asker = ctx.Later()
	case newsQueued, fallenBehind:
	default:
		return fmt.Errorf("actors: stream actor was told %T", msg)
	}
	if a.asker == nil {
		return nil
	}
	items, err := a.stream.pop(ctx.Context())
	if err != nil {
		return crash(err)
	}
	if len(items) > 0 {
		a.asker.Answer(items, nil)
		a.asker = nil
	}
	return nil
}
