package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"time"
)

// A Phase is the call in which an actor crashed.
type Phase uint8

const (
	PhaseStart Phase = iota
	PhaseReceive
	PhaseStop
	phaseIdle
)

func (p Phase) String() string {
	return [...]string{"start", "receive", "stop", "idle"}[p]
}

// A Crash is one crash of an actor. It prints neither the value of the panic,
// which may quote the message, nor the name, which may be an id.
type Crash struct {
	Name   string
	Phase  Phase
	Err    error  // wraps ErrCrash
	Panic  any    `json:"-"` // nil where an error was returned; may hold secrets
	Stack  string // of the panic: functions and lines, without arguments
	InARow int    // crashes since the last quiet period, this one included
}

// LogValue implements slog.LogValuer.
func (k Crash) LogValue() slog.Value {
	return slog.GroupValue(slog.String("phase", k.Phase.String()),
		slog.String("error", k.Err.Error()), slog.Int("in_a_row", k.InARow), slog.String("stack", k.Stack))
}

// String implements fmt.Stringer.
func (k Crash) String() string {
	return fmt.Sprintf("crashed in %s: %v", k.Phase, k.Err)
}

// Format implements fmt.Formatter, so that no verb prints the fields.
func (k Crash) Format(f fmt.State, _ rune) { fmt.Fprint(f, k.String()) }

// restarted is the answer to who asked for what crashed.
func (k *Crash) restarted() error { return fmt.Errorf("%w: %w", ErrRestarted, k.Err) }

// Hooks tell the owner what happened. They run on the actor's turn: short, no
// waiting, and a panic in a hook ends the process.
type Hooks struct {
	// Quarantine is handed the message whose handling crashed the actor. It is
	// not handled again.
	Quarantine func(k Crash, msg any)
	// OnCrash sees every crash, before the back-off.
	OnCrash func(Crash)
	// OnRestart sees every start that succeeded after crashes.
	OnRestart func(name string)
	// OnStalled: Backoff.StallAfter crashes in a row.
	OnStalled func(name string)
	// OnRecovered: a stalled actor was quiet again for Backoff.Quiet.
	OnRecovered func(name string)
	// OnDead is handed a message that was accepted and cannot be handled.
	OnDead func(name string, msg any)
	// OnError is told an error of Receive that had nobody to go to.
	OnError func(name string, err error)
	// OnPassivated: the actor stopped because it was idle.
	OnPassivated func(name string)
}

// Backoff is how long a crashed actor waits.
type Backoff struct {
	Initial    time.Duration // default 50 ms
	Max        time.Duration // default 30 s
	Quiet      time.Duration // default 1 min
	StallAfter int           // default 10
}

func (b Backoff) validate() (Backoff, error) {
	if b.Initial == 0 {
		b.Initial = 50 * time.Millisecond
	}
	if b.Max == 0 {
		b.Max = max(30*time.Second, b.Initial)
	}
	if b.Quiet == 0 {
		b.Quiet = time.Minute
	}
	if b.StallAfter == 0 {
		b.StallAfter = 10
	}
	if b.Initial < 0 || b.Max < b.Initial || b.Quiet < 0 || b.StallAfter < 0 {
		return b, fmt.Errorf("engine: Backoff %+v: want 0 < Initial <= Max, Quiet > 0, StallAfter > 0", b)
	}
	return b, nil
}

// delay is the wait before the next start: doubling, and drawn from the upper
// half of the step, so that actors that crashed together do not start together.
func (b Backoff) delay(crashes int) time.Duration {
	d := b.Max
	if shift := crashes - 1; shift < 32 && b.Initial <= b.Max>>shift {
		d = b.Initial << shift
	}
	return d - rand.N(d/2+1)
}

// call runs one method of the Behavior and turns what goes wrong into a Crash.
// An error that is no crash is returned as it is.
func (c *cell) call(phase Phase, msg any) (crash *Crash, err error) {
	defer func() {
		if v := recover(); v != nil {
			crash = &Crash{Name: c.name, Phase: phase, Err: panicError(v), Panic: v, Stack: stack()}
		}
	}()
	switch phase {
	case PhaseStart:
		c.behavior = c.make()
		err = c.behavior.Start(&c.context)
	case PhaseReceive:
		err = c.behavior.Receive(&c.context, msg)
	case PhaseStop:
		c.behavior.Stop()
	case phaseIdle:
		if idler, ok := c.behavior.(Idler); ok && !idler.Idle() {
			err = errBusy
		}
	}
	switch {
	case err != nil && errors.Is(err, ErrCrash):
		crash = &Crash{Name: c.name, Phase: phase, Err: err}
	case err != nil && phase == PhaseStart:
		crash = &Crash{Name: c.name, Phase: phase, Err: fmt.Errorf("%w: start: %w", ErrCrash, err)}
	}
	return crash, err
}

// panicError describes a panic without quoting a value that the code's author
// chose: only the Go runtime's own errors are known to hold no secret.
func panicError(v any) error {
	var r runtime.Error
	if err, ok := v.(error); ok && errors.As(err, &r) {
		return fmt.Errorf("%w: panic: %w", ErrCrash, r)
	}
	return fmt.Errorf("%w: panic (%T)", ErrCrash, v)
}

// stack is the calling goroutine's stack from the panic down. debug.Stack
// would print arguments, and with them a key passed by value.
func stack() string {
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(4, pcs[:])])
	var s strings.Builder
	for {
		f, more := frames.Next()
		fmt.Fprintf(&s, "%s\n\t%s:%d\n", f.Function, f.File, f.Line)
		if !more {
			return s.String()
		}
	}
}

// crashed discards the Behavior and arranges for the next. True: there is one
// already, or the actor is abandoned; false: after a back-off.
func (c *cell) crashed(crash *Crash) bool {
	c.discard(crash)
	c.report(crash)

	c.mu.Lock()
	if c.isClosed() {
		c.mu.Unlock()
		if crash.Phase == PhaseStart {
			c.abandoned = true
			return true
		}
		return c.begin()
	}
	x := c.more()
	x.retry = time.AfterFunc(c.engine.config.Backoff.delay(x.crashes), func() {
		c.mu.Lock()
		c.more().retry = nil
		c.mu.Unlock()
		c.mailbox.Resume()
	})
	c.mu.Unlock()
	return false
}

// report counts a crash and tells the hooks.
func (c *cell) report(crash *Crash) {
	b, hooks := c.engine.config.Backoff, &c.engine.config.Hooks
	c.mu.Lock()
	x := c.more()
	x.crashes++
	crash.InARow = x.crashes
	if x.quiet != nil {
		x.quiet.Stop()
		x.quiet = nil
	}
	stalls := x.crashes >= b.StallAfter && !x.stalled
	x.stalled = x.stalled || stalls
	if crash.Phase == PhaseStart {
		x.broken = crash.Err
	}
	c.mu.Unlock()
	if c.cannotStart() != nil {
		c.engine.broken.ring()
	}
	if hooks.OnCrash != nil {
		hooks.OnCrash(*crash)
	}
	if stalls && hooks.OnStalled != nil {
		hooks.OnStalled(c.name)
	}
}

// restarted begins the quiet period of a Behavior that follows a crash.
func (c *cell) restarted() {
	c.mu.Lock()
	x := c.rare
	if x == nil || x.crashes == 0 {
		c.mu.Unlock()
		return
	}
	crashes := x.crashes
	x.broken = nil
	x.quiet = time.AfterFunc(c.engine.config.Backoff.Quiet, func() { c.forget(crashes) })
	c.mu.Unlock()
	if hook := c.engine.config.Hooks.OnRestart; hook != nil {
		hook(c.name)
	}
}

// forget ends a quiet period in which no crash was added to the given ones.
func (c *cell) forget(crashes int) {
	c.mu.Lock()
	x := c.rare
	if x == nil || x.crashes != crashes {
		c.mu.Unlock()
		return
	}
	recovered := x.stalled
	x.crashes, x.stalled, x.quiet = 0, false, nil
	c.mu.Unlock()
	if hook := c.engine.config.Hooks.OnRecovered; hook != nil && recovered {
		hook(c.name)
	}
}

// hurry ends a back-off at once: a stopping actor does not wait for it.
func (c *cell) hurry() {
	c.mu.Lock()
	resume := c.rare != nil && c.rare.retry != nil && c.rare.retry.Stop()
	if resume {
		c.rare.retry = nil
	}
	c.mu.Unlock()
	if resume {
		c.mailbox.Resume()
	}
}

// startTries is how often an actor's Start fails in a row before who only tries to
// ask it is told so.
const startTries = 3

// cannotStart is why the actor is without a Behavior, and has been for some tries.
func (c *cell) cannotStart() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if x := c.rare; x != nil && x.broken != nil && x.crashes >= startTries {
		return fmt.Errorf("%w: %w", ErrBroken, x.broken)
	}
	return nil
}

// A bell wakes everybody who waits for it at the moment.
type bell struct {
	mu   sync.Mutex
	next chan struct{}
}

func (b *bell) rings() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == nil {
		b.next = make(chan struct{})
	}
	return b.next
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next != nil {
		close(b.next)
		b.next = nil
	}
}

func (c *cell) isStalled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rare != nil && c.rare.stalled
}
