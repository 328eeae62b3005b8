package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrNameTaken: an actor of this name accepts messages.
	ErrNameTaken = errors.New("engine: name taken")
	// ErrStopped: the actor accepts no messages, or stopped before it answered.
	ErrStopped = errors.New("engine: actor stopped")
	// ErrRestarted: the actor crashed before it answered.
	ErrRestarted = errors.New("engine: actor restarted")
	// ErrBroken: the actor cannot start, and is tried again; see Registry.Try.
	ErrBroken = errors.New("engine: actor cannot start")
	// ErrCrash makes an error of Receive a crash: wrap it where the Behavior's
	// memory can no longer be trusted, as after a failed save.
	ErrCrash = errors.New("engine: crash")
	// ErrShutdown: the engine takes no new actors.
	ErrShutdown = errors.New("engine: shut down")
)

// A Behavior is what an actor does. All methods run on the actor's turn.
type Behavior interface {
	// Start loads the state. An error is a crash: the Behavior is thrown away
	// and another one made after a back-off.
	Start(ctx *Context) error
	// Receive handles one message. An error goes to the asker, or to
	// Hooks.OnError where nobody asked; one that wraps ErrCrash is a crash.
	Receive(ctx *Context, msg any) error
	// Stop releases what Start took. It is called once for each Start that
	// returned nil, also after a crash, when the state may be half changed: it
	// must not save.
	Stop()
}

// An Idler is a Behavior that may refuse to be passivated.
type Idler interface{ Idle() bool }

// Options are an actor's own settings.
type Options struct {
	// IdleAfter passivates the actor when it was told nothing for this long,
	// rounded up to Config.IdleTick. Zero: never.
	IdleAfter time.Duration
}

// Config is an engine's settings. The zero value is useful.
type Config struct {
	Backoff  Backoff
	Hooks    Hooks
	IdleTick time.Duration // how exactly idleness is measured; default 1 s
}

func (c Config) validate() (Config, error) {
	if c.IdleTick == 0 {
		c.IdleTick = time.Second
	}
	if c.IdleTick < time.Millisecond {
		return c, fmt.Errorf("engine: IdleTick %v is shorter than 1ms", c.IdleTick)
	}
	var err error
	c.Backoff, err = c.Backoff.validate()
	return c, err
}

// A Ref names one incarnation of an actor: it stays refused once that actor
// has stopped, also when a successor took the name. Comparable; the zero Ref
// is an actor that has stopped.
type Ref struct{ c *cell }

// Name is the name the actor was spawned with.
func (r Ref) Name() string {
	if r.c == nil {
		return ""
	}
	return r.c.name
}

// Stats is a count of an engine's actors, taken by walking over them.
type Stats struct {
	Live    int // actors that have not stopped
	Stalled int // of them, those that keep crashing
	Queued  int // messages accepted and not yet handled, in all mailboxes
	Deepest int // the longest mailbox
}

// An Engine runs actors. Its methods may be called from everywhere, also from
// a turn.
type Engine struct {
	config  Config
	runtime Runtime
	names   names
	idle    idleWheel
	ctx     context.Context // ended when Shutdown gives up
	abort   context.CancelFunc
	closed  atomic.Bool
	stop    sync.Once
	broken  bell // rings when an actor cannot start, again
}

// NewOn returns an engine over the given runtime.
func NewOn(r Runtime, config Config) (*Engine, error) {
	config, err := config.validate()
	if err != nil {
		return nil, err
	}
	e := &Engine{config: config, runtime: r}
	e.ctx, e.abort = context.WithCancel(context.Background())
	e.names.init()
	e.idle.tick = config.IdleTick
	return e, nil
}

// Spawn starts an actor. It returns before Start has run; what is told in the
// meantime waits. make is called now and after each crash, on the actor's turn.
func (e *Engine) Spawn(name string, make func() Behavior, opts Options) (Ref, error) {
	c := &cell{engine: e, name: name, make: make}
	c.context.cell = c
	if opts.IdleAfter > 0 {
		c.idleTicks = e.idle.ticks(opts.IdleAfter)
	}
	// The first turn waits for the lock, and so sees the mailbox.
	c.mu.Lock()
	defer c.mu.Unlock()
	err := e.names.claim(name, c, func() error {
		if e.closed.Load() {
			return ErrShutdown
		}
		c.mailbox = e.runtime.Spawn(c)
		return nil
	})
	if err != nil {
		return Ref{}, fmt.Errorf("spawn: %w", err)
	}
	if c.idleTicks > 0 {
		e.idle.watch(c)
	}
	return Ref{c}, nil
}

// Lookup returns the actor that accepts messages under name.
func (e *Engine) Lookup(name string) (Ref, bool) {
	c := e.names.find(name)
	if c == nil || c.isClosed() {
		return Ref{}, false
	}
	return Ref{c}, true
}

// Tell queues a message and does not wait. ErrStopped means that it was not
// queued.
func (e *Engine) Tell(to Ref, msg any) error {
	if to.c == nil || !to.c.post(&envelope{msg: msg}) {
		return ErrStopped
	}
	return nil
}

// Ask queues a message and waits for its answer; ctx bounds the wait only.
func (e *Engine) Ask(ctx context.Context, to Ref, msg any) (any, error) {
	reply := newReply(to.c)
	if to.c == nil || !to.c.post(&envelope{msg: msg, reply: reply}) {
		return nil, ErrStopped
	}
	return reply.wait(ctx)
}

// Stop asks the actor to stop once it has handled what is queued. It does not
// wait: see Wait. Stopping twice is stopping once.
func (e *Engine) Stop(ref Ref) {
	if ref.c != nil {
		ref.c.close()
	}
}

// Wait returns when the actor has stopped and released everything.
func (e *Engine) Wait(ctx context.Context, ref Ref) error {
	if ref.c == nil {
		return nil
	}
	done := make(chan struct{})
	if !ref.c.whenDone(func() { close(done) }) {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Depth is the number of messages accepted and not yet handled, the one in
// hand included: the credit an owner counts before it pushes more.
func (e *Engine) Depth(ref Ref) int {
	if ref.c == nil {
		return 0
	}
	return ref.c.depth()
}

// After tells msg to the actor once d has passed, unless the actor stops or
// cancel is called before.
func (e *Engine) After(d time.Duration, to Ref, msg any) (cancel func()) {
	if to.c == nil {
		return func() {}
	}
	return to.c.after(d, msg, false)
}

// Stats walks over all actors: for a scrape, not for a hot path.
func (e *Engine) Stats() Stats {
	var s Stats
	e.names.each(func(c *cell) {
		s.Live++
		if c.isStalled() {
			s.Stalled++
		}
		n := c.depth()
		s.Queued += n
		s.Deepest = max(s.Deepest, n)
	})
	return s
}

// Shutdown refuses new actors, stops every actor, and waits until all have
// stopped. When ctx ends first, Context.Context of every actor is cancelled,
// queues go to OnDead as soon as their turns return, and the error is ctx's.
func (e *Engine) Shutdown(ctx context.Context) error {
	e.closed.Store(true)
	e.idle.halt()
	var refs []Ref
	e.names.each(func(c *cell) {
		c.close()
		refs = append(refs, Ref{c})
	})
	defer e.stop.Do(func() {
		e.abort()
		e.names.each((*cell).hurry)
		e.runtime.Close()
	})
	for _, ref := range refs {
		if err := e.Wait(ctx, ref); err != nil {
			return fmt.Errorf("engine: shut down: %w", err)
		}
	}
	return nil
}
