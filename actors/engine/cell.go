package engine

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// closedBit of cell.word says that nothing more is accepted; the bits below
// count what was accepted and not yet handled. One word holds both, so that
// "closed and empty" is reached exactly once, by the turn that handles the
// last message.
const closedBit = 1 << 62

// A cell is one actor: its Behavior's life from spawn to stop.
type cell struct {
	engine    *Engine
	name      string
	make      func() Behavior
	mailbox   Mailbox
	idleTicks int64

	word   atomic.Int64 // closedBit | depth
	used   atomic.Int64 // the idle wheel's time of the last message
	probed atomic.Bool  // an idle probe is queued

	// Of the turn.
	context    Context
	behavior   Behavior // nil while crashed
	abandoned  bool     // cannot be brought back: the queue goes to OnDead
	passivated bool

	mu          sync.Mutex
	predecessor *cell // its Stop must return before our Start
	ended       bool
	rare        *rare
}

// rare is what few actors have at a time. Guarded by cell.mu.
type rare struct {
	crashes  int // in a row
	stalled  bool
	broken   error       // of the last Start, until one succeeds
	retry    *time.Timer // ends the back-off
	quiet    *time.Timer // forgets the crashes
	timers   map[*delayed]struct{}
	replies  map[*Reply]struct{} // owed since an earlier turn
	whenDone []func()
}

// more returns c.rare, made where it is missing. The caller holds c.mu.
func (c *cell) more() *rare {
	if c.rare == nil {
		c.rare = &rare{}
	}
	return c.rare
}

// An envelope is one entry of a mailbox.
type envelope struct {
	msg   any
	reply *Reply // nil where nobody asked
	kind  kind
}

type kind uint8

const (
	user      kind = iota
	stopMark       // makes a turn happen after the actor was closed
	idleProbe      // asks whether the actor is idle
)

func (c *cell) isClosed() bool { return c.word.Load()&closedBit != 0 }
func (c *cell) depth() int     { return int(c.word.Load() &^ closedBit) }

// post counts and queues m, unless the actor is closed. It counts first: an
// actor closed in between waits for it.
func (c *cell) post(m *envelope) bool {
	for {
		w := c.word.Load()
		if w&closedBit != 0 {
			return false
		}
		if c.word.CompareAndSwap(w, w+1) {
			break
		}
	}
	if c.idleTicks > 0 && m.kind == user {
		c.used.Store(c.engine.idle.now.Load())
	}
	c.mailbox.Post(m)
	return true
}

// close accepts nothing more and queues the stop mark.
func (c *cell) close() {
	for {
		w := c.word.Load()
		if w&closedBit != 0 {
			return
		}
		if c.word.CompareAndSwap(w, (w+1)|closedBit) {
			break
		}
	}
	c.mailbox.Post(&envelope{kind: stopMark})
	c.hurry()
}

// Turn implements Turner.
func (c *cell) Turn(msg any) bool {
	if msg == nil {
		return c.begin()
	}
	m := msg.(*envelope)
	var crash *Crash
	switch {
	case m.kind == stopMark:
	case c.abandoned || c.engine.ctx.Err() != nil:
		c.undelivered(m)
	case m.kind == idleProbe:
		crash = c.probe()
	default:
		crash = c.receive(m)
	}
	if c.word.Add(-1) == closedBit {
		if crash != nil {
			c.report(crash)
			c.discard(crash)
		}
		c.end()
		return true
	}
	return crash == nil || c.crashed(crash)
}

// begin makes and starts a Behavior: the same code at the first start, after
// a crash, and on a wake-up.
func (c *cell) begin() bool {
	c.mu.Lock()
	before := c.predecessor
	c.predecessor = nil
	c.mu.Unlock()
	if before != nil && before.whenDone(c.mailbox.Resume) {
		return false
	}
	if c.engine.ctx.Err() != nil {
		c.abandoned = true
		return true
	}
	if crash, _ := c.call(PhaseStart, nil); crash != nil {
		c.behavior = nil
		return c.crashed(crash)
	}
	c.restarted()
	return true
}

// receive hands m to the Behavior and sees to it that the asker is answered.
func (c *cell) receive(m *envelope) *Crash {
	c.context.current = m
	crash, err := c.call(PhaseReceive, m.msg)
	c.context.current = nil
	switch {
	case crash != nil:
		if hook := c.engine.config.Hooks.Quarantine; hook != nil {
			hook(*crash, m.msg)
		}
		m.reply.Answer(nil, crash.restarted())
	case err != nil:
		if !m.reply.Answer(nil, err) {
			if hook := c.engine.config.Hooks.OnError; hook != nil {
				hook(c.name, err)
			}
		}
	case m.reply != nil && !c.owes(m.reply):
		m.reply.Answer(nil, nil)
	}
	return crash
}

// undelivered reports a message that was accepted and cannot be handled.
func (c *cell) undelivered(m *envelope) {
	if m.kind != user {
		return
	}
	m.reply.Answer(nil, ErrStopped)
	if hook := c.engine.config.Hooks.OnDead; hook != nil {
		hook(c.name, m.msg)
	}
}

// end is the last turn.
func (c *cell) end() {
	c.discardWith(ErrStopped)
	c.mu.Lock()
	c.ended = true
	x := c.more()
	c.rare = nil
	c.mu.Unlock()
	for _, t := range []*time.Timer{x.retry, x.quiet} {
		if t != nil {
			t.Stop()
		}
	}
	for t := range x.timers {
		t.timer.Stop()
	}
	c.engine.names.release(c)
	if hook := c.engine.config.Hooks.OnPassivated; hook != nil && c.passivated {
		hook(c.name)
	}
	for _, f := range x.whenDone {
		f()
	}
	c.mailbox.Close()
}

// discard releases the Behavior after a crash: that is what those hear who wait
// for an answer.
func (c *cell) discard(crash *Crash) { c.discardWith(crash.restarted()) }

// discardWith calls Stop where Start had succeeded, answers every reply still
// owed with err, and cancels the Behavior's own timers.
func (c *cell) discardWith(err error) {
	if c.behavior != nil {
		if crash, _ := c.call(PhaseStop, nil); crash != nil {
			c.report(crash)
		}
		c.behavior = nil
	}
	c.mu.Lock()
	var owed map[*Reply]struct{}
	if x := c.rare; x != nil {
		owed, x.replies = x.replies, nil
		for t := range x.timers {
			if t.own {
				t.timer.Stop()
				delete(x.timers, t)
			}
		}
	}
	c.mu.Unlock()
	for r := range owed {
		r.finish(nil, err)
	}
}

// whenDone calls f once the actor has stopped, or returns false where it has.
func (c *cell) whenDone(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	x := c.more()
	x.whenDone = append(x.whenDone, f)
	return true
}

// probe closes an idle actor. The compare-and-set admits no message between
// the decision and the closing: depth 1 is the probe itself.
func (c *cell) probe() *Crash {
	c.probed.Store(false)
	now := c.engine.idle.now.Load()
	if now < c.used.Load()+c.idleTicks {
		return nil
	}
	crash, busy := c.call(phaseIdle, nil)
	switch {
	case crash != nil:
	case busy != nil || c.owesAny():
		c.used.Store(now) // asked again after another idle period
	case c.word.CompareAndSwap(1, closedBit|1):
		c.passivated = true
	}
	return crash
}

var errBusy = errors.New("busy")

// delayed is a message under way.
type delayed struct {
	timer *time.Timer
	own   bool // set by the Behavior itself, and cancelled with it
}

func (c *cell) after(d time.Duration, msg any, own bool) (cancel func()) {
	t := &delayed{own: own}
	drop := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.rare == nil {
			return false
		}
		_, waiting := c.rare.timers[t]
		delete(c.rare.timers, t)
		return waiting
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return func() {}
	}
	x := c.more()
	if x.timers == nil {
		x.timers = make(map[*delayed]struct{})
	}
	x.timers[t] = struct{}{}
	t.timer = time.AfterFunc(d, func() {
		if drop() {
			c.post(&envelope{msg: msg})
		}
	})
	return func() {
		if drop() {
			t.timer.Stop()
		}
	}
}
