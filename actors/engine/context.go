package engine

import (
	"context"
	"sync/atomic"
	"time"
)

// A Context is what a Behavior may do on its turn. It is valid on the turn
// only; Later is what outlives it.
type Context struct {
	cell    *cell
	current *envelope
}

// Self is the actor itself.
func (x *Context) Self() Ref { return Ref{x.cell} }

// Engine is the engine the actor runs on.
func (x *Context) Engine() *Engine { return x.cell.engine }

// Context ends when a Shutdown gave up waiting; it bounds the actor's own
// waits on disk and bus.
func (x *Context) Context() context.Context { return x.cell.engine.ctx }

// Reply answers the asker of the current message. Where nobody asked it does
// nothing.
func (x *Context) Reply(v any) {
	if x.current != nil {
		x.current.reply.Answer(v, nil)
	}
}

// Later takes over the answer to the current message, to be given on a later
// turn or from another goroutine. An actor that owes replies is not
// passivated; when it crashes or stops they are answered for it. Where nobody
// asked the result is a Reply that goes nowhere.
func (x *Context) Later() *Reply {
	if x.current == nil || x.current.reply == nil {
		return nil
	}
	x.cell.owe(x.current.reply)
	return x.current.reply
}

// After tells msg to the actor itself once d has passed, unless this Behavior
// is discarded or cancel is called before.
func (x *Context) After(d time.Duration, msg any) (cancel func()) {
	return x.cell.after(d, msg, true)
}

// A Reply is the answer to one Ask. A nil *Reply goes nowhere.
type Reply struct {
	cell *cell
	done atomic.Bool
	out  chan answer
}

type answer struct {
	value any
	err   error
}

func newReply(c *cell) *Reply { return &Reply{cell: c, out: make(chan answer, 1)} }

// Answer gives the answer; the first one counts. It reports whether this was
// it.
func (r *Reply) Answer(v any, err error) bool {
	if !r.finish(v, err) {
		return false
	}
	r.cell.forgive(r)
	return true
}

func (r *Reply) finish(v any, err error) bool {
	if r == nil || r.done.Swap(true) {
		return false
	}
	r.out <- answer{v, err}
	return true
}

func (r *Reply) wait(ctx context.Context) (any, error) {
	select {
	case a := <-r.out:
		return a.value, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *cell) owe(r *Reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.done.Load() {
		return
	}
	x := c.more()
	if x.replies == nil {
		x.replies = make(map[*Reply]struct{})
	}
	x.replies[r] = struct{}{}
}

func (c *cell) owes(r *Reply) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rare == nil {
		return false
	}
	_, owed := c.rare.replies[r]
	return owed
}

func (c *cell) owesAny() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rare != nil && len(c.rare.replies) > 0
}

func (c *cell) forgive(r *Reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rare != nil {
		delete(c.rare.replies, r)
	}
}
