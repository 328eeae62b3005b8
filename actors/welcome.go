package actors

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/persistence"
)

// An installationActor reads one installation's welcomes, in order, and joins.
type installationActor struct {
	sys *System
	in  *installation

	cursor bus.ID         // of the welcomes topic: everything up to here is done
	queue  []bus.Envelope // read and not begun
	more   bool           // the topic goes on behind the queue, which is long enough
	busy   bool           // one is being prepared beside the mailbox
	syncs  []*engine.Reply
	failed error // what the syncs are to hear of what was set aside

	log      catchUp   // when the topic is read
	follows  *readMark // the newest Follow; nil where nobody listens
	checking bool      // a timer of checkLive is set
	alarm    alarm     // wakes what waits for the network to come back

	// Welcomes that wait for something, in the order in which they are tried
	// again; due of them now, when nothing newer waits.
	aside []bus.Envelope
	due   int
	timed bool // a timer is set
}

// What an installation actor is asked, beside welcomeNews and setLive.
type (
	// syncWelcomes reads the topic to its end and answers when all is joined.
	syncWelcomes struct{}
	// welcomesRead is what a read of the topic found.
	welcomesRead struct {
		of        *installationActor // who began it
		envelopes []bus.Envelope
		err       error
	}
	// prepared is a welcome that was unwrapped, with the identities that it
	// needs at hand; or the reason why there is nothing to join.
	prepared struct {
		of       *installationActor // who began it
		id       bus.ID
		join     *group.JoinConfig
		resolved bool // the identities it needs were looked up: what is missing does not exist
		err      error
	}
	// rejoined is the answer of a group that is known here to a welcome.
	rejoined struct {
		prepared
		err error
	}
	// tryAside tries again what was set aside.
	tryAside struct{}
)

const (
	// pointeeWait is how long the pointee of a new welcome is waited for. It was
	// published first: what is not there soon was never sent, or is lost.
	pointeeWait = 5 * time.Second
	// asideRetry is how often a welcome that was set aside is tried again, and
	// asideLife for how long; XMTP's clients do as much.
	asideRetry = 5 * time.Minute
	asideLife  = 3 * 24 * time.Hour
	// maxAside bounds them: anybody can point at nothing.
	maxAside = 64
	// welcomePage is how many are read at once, and maxWelcomes how many wait in
	// memory: the others wait in the log.
	welcomePage = 32
	maxWelcomes = 64
)

func newInstallationActor(s *System, in *installation) *installationActor {
	return &installationActor{sys: s, in: in}
}

func welcomeTopic(id InstallationID) bus.Topic {
	t, _ := bus.WelcomesFor(id[:]) // 32 bytes: never an error
	return t
}

// Start reads how far the welcomes were taken.
func (a *installationActor) Start(ctx *engine.Context) error {
	row, err := a.in.vault.Get(ctx.Context(), typeWelcomes, nil)
	if err != nil && !errors.Is(err, persistence.ErrNotFound) {
		return crash(fmt.Errorf("load cursor of welcomes: %w", err))
	}
	a.cursor = bus.ID(decodeCursor(row))
	if a.aside, err = loadAside(ctx.Context(), a.in.vault); err != nil {
		return crash(fmt.Errorf("load welcomes set aside: %w", err))
	}
	a.retryLater(ctx)
	a.setLive(ctx, a.in.listens())
	return nil
}

func (a *installationActor) Stop() {}

func (a *installationActor) Idle() bool {
	return len(a.aside) == 0 && !a.busy && (a.log.state == still || a.log.state == resting) && len(a.queue) == 0 && len(a.syncs) == 0
}

// Receive takes one message.
func (a *installationActor) Receive(ctx *engine.Context, msg any) error {
	if err := a.sys.fault(PointInstallation); err != nil {
		return err
	}
	switch m := msg.(type) {
	case welcomeNews:
		if m.after > a.last() {
			a.read(ctx) // something lies between that was not heard of
			return nil
		}
		a.enqueue(ctx, m.envelopes)
		return nil
	case syncWelcomes:
		a.alarm.ring()
		a.syncs = append(a.syncs, ctx.Later())
		a.due = len(a.aside)
		a.read(ctx)
		return nil
	case tryAside:
		a.timed = false
		a.due = len(a.aside)
		a.retryLater(ctx)
		a.next(ctx)
		return nil
	case welcomesRead:
		return a.welcomesRead(ctx, m)
	case prepared:
		return a.join(ctx, m)
	case rejoined:
		return a.rejoined(ctx, m)
	case setLive:
		a.setLive(ctx, a.in.listens())
		return nil
	case readAgain:
		if a.log.timer() {
			a.begin(ctx)
		}
		return nil
	case checkLive:
		a.checking = false
		a.setLive(ctx, a.in.listens())
		return nil
	case isFollowed:
		if m.mark == a.follows && m.behind {
			a.read(ctx)
		}
		return nil
	case notFollowed:
		a.notFollowed(ctx, m)
		return nil
	case fallenBehind:
		a.read(ctx)
		return nil
	case logRewound:
		return a.rewound(ctx)
	}
	return fmt.Errorf("actors: installation actor was told %T", msg)
}

// setLive follows the topic, or stops following it: see isFollowed and notFollowed.
func (a *installationActor) setLive(ctx *engine.Context, live bool) {
	topic, name := welcomeTopic(a.in.id), ctx.Self().Name()
	switch {
	case !live:
		a.follows = nil
		a.sys.feed.unfollow(name, topic) // also what a life before a sleep followed
	case a.follows == nil:
		a.follows = a.sys.feed.follow(name, a.cursor, topic)
	}
}

func (a *installationActor) notFollowed(ctx *engine.Context, m notFollowed) {
	if m.mark != a.follows {
		return
	}
	a.follows = nil
	if !errors.Is(m.err, bus.ErrClosed) { // else the host closes
		a.sys.log.Warn("welcomes not followed", installationAttr(a.in.id), keyErr, m.err)
	}
	if !a.checking {
		a.checking = true
		ctx.After(retryRead, checkLive{})
	}
}

// read reads the topic from what was read before, as of now.
func (a *installationActor) read(ctx *engine.Context) {
	if a.log.ask(0, true) {
		a.begin(ctx)
	}
}

// begin begins a read, beside the mailbox.
func (a *installationActor) begin(ctx *engine.Context) {
	after, self := a.last(), ctx.Self()
	a.sys.beside(func(c context.Context) {
		envelopes, err := a.sys.cfg.Bus.Read(c, after, welcomePage, welcomeTopic(a.in.id))
		_ = a.sys.engine.Tell(self, welcomesRead{a, envelopes, err})
	})
}

// rewound reads the log from its beginning: how far back it went nobody knows
// once it has grown again. A welcome that comes again is of an epoch that is
// over, and is refused.
func (a *installationActor) rewound(ctx *engine.Context) error {
	if a.last() == 0 {
		a.read(ctx) // told twice
		return nil
	}
	a.sys.log.Error("log of welcomes went backwards", installationAttr(a.in.id))
	var b persistence.Batch
	a.in.vault.Delete(&b, typeWelcomes, nil)
	if err := a.in.vault.Apply(ctx.Context(), &b, persistence.Lazy); err != nil {
		return crash(err)
	}
	return crash(errors.New("log of welcomes went backwards")) // and read anew
}

// last is the newest welcome that was read.
func (a *installationActor) last() bus.ID {
	if n := len(a.queue); n > 0 {
		return a.queue[n-1].ID
	}
	return a.cursor
}

func (a *installationActor) welcomesRead(ctx *engine.Context, m welcomesRead) error {
	if m.of != a {
		return nil // of a life before a crash, when more had been read
	}
	if errors.Is(m.err, bus.ErrLogRolledBack) {
		a.log.ended(0)
		return a.rewound(ctx)
	}
	if m.err != nil {
		a.sys.log.Warn("welcomes not read", installationAttr(a.in.id), keyErr, m.err)
		for _, reply := range a.syncs {
			reply.Answer(nil, m.err)
		}
		a.syncs = nil
		if a.log.failed(a.in.listens()) {
			ctx.After(retryRead, readAgain{})
		}
		return nil
	}
	more := a.log.ended(0)
	a.enqueue(ctx, m.envelopes)
	_, beyond := a.sys.feed.caughtUp(ctx.Self().Name(), welcomeTopic(a.in.id), a.last())
	if more || beyond || len(m.envelopes) == welcomePage {
		a.readOn(ctx)
	}
	a.settle()
	return nil
}

// readOn reads what the topic has behind the queue, as soon as there is room.
func (a *installationActor) readOn(ctx *engine.Context) {
	if a.more = len(a.queue) >= maxWelcomes/2; !a.more {
		a.read(ctx)
	}
}

// enqueue takes welcomes that were not seen before.
func (a *installationActor) enqueue(ctx *engine.Context, envelopes []bus.Envelope) {
	for _, e := range envelopes {
		if a.more = a.more || len(a.queue) >= maxWelcomes; a.more {
			break
		}
		if e.ID > a.last() {
			a.queue = append(a.queue, e)
		}
	}
	a.next(ctx)
}

// next prepares the first welcome of the queue, one at a time: they are joined
// in the order of the log. What was set aside comes when the queue is empty.
func (a *installationActor) next(ctx *engine.Context) {
	if a.more {
		a.readOn(ctx)
	}
	var envelope bus.Envelope
	wait := pointeeWait
	switch {
	case a.busy:
		return
	case len(a.queue) > 0:
		envelope = a.queue[0]
	case a.due > 0:
		envelope, wait = a.aside[0], 0
	default:
		return
	}
	a.busy = true
	self := ctx.Self()
	a.sys.beside(func(c context.Context) {
		join, err := a.sys.prepare(c, &a.alarm, a.in, envelope, wait)
		if c.Err() == nil {
			_ = a.sys.engine.Tell(self, prepared{of: a, id: envelope.ID, join: join, err: err})
		}
	})
}

// settle answers the syncs once everything read is joined.
func (a *installationActor) settle() {
	if a.busy || a.more || a.log.running() || len(a.queue) > 0 || a.due > 0 {
		return
	}
	for _, reply := range a.syncs {
		reply.Answer(nil, a.failed)
	}
	a.syncs, a.failed = nil, nil
}
