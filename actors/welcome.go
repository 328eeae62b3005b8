package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/persistence"
)

// An installationActor reads one installation's welcomes and joins: see guest.
type installationActor struct {
	sys *System
	in  *installation

	cursor bus.ID          // of the welcomes topic: everything up to here is done
	saved  bus.ID          // the cursor in the store
	taken  map[bus.ID]bool // beyond the cursor, and done before the actor started
	lobby  lobby
	opens  bool // some are being opened
	more   bool // the topic goes on behind the queue, which is full
	page   int  // how many are read next
	syncs  []*engine.Reply
	failed failures // what the syncs are to hear of what was set aside

	rejected int   // since the queue was empty last
	reason   error // of the last of them

	log      catchUp   // when the topic is read
	follows  *readMark // the newest Follow; nil where nobody listens
	checking bool      // a timer of checkLive is set
	alarm    alarm     // wakes what waits for the network to come back

	wake       time.Time // when what was set aside is tried next; zero: no timer is set
	cancelWake func()
	goingOn    bool // a goOn is on its way
}

// What an installation actor is asked, beside welcomeNews and setLive.
type (
	// syncWelcomes reads the topic to its end and answers when all is joined.
	syncWelcomes struct{}
	// welcomesRead is what a read of the topic found.
	welcomesRead struct {
		of        *installationActor // who began it
		envelopes []bus.Envelope
		limit     int
		err       error
	}
	// tryAside tries again what was set aside.
	tryAside struct{}
	// goOn gives everybody else a turn between two welcomes.
	goOn struct{}
)

// Of welcomes, whose size their senders choose, a page is small, and grows for as
// long as they are light.
const (
	firstWelcomes = 16
	mostWelcomes  = 64
	fewWelcomes   = 4
	heavyWelcomes = 1 << 20 // bytes of a page
)

func newInstallationActor(s *System, in *installation) *installationActor {
	return &installationActor{sys: s, in: in, taken: map[bus.ID]bool{}, page: firstWelcomes}
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
	a.saved = a.cursor
	err = a.in.vault.Scan(ctx.Context(), typeTaken, nil, nil, func(suffix, _ []byte) bool {
		a.taken[bus.ID(decodeCursor(suffix))] = true
		return true
	})
	if err != nil {
		return crash(fmt.Errorf("load welcomes that were joined: %w", err))
	}
	all, err := loadAside(ctx.Context(), a.in.vault)
	if err != nil {
		return crash(fmt.Errorf("load welcomes set aside: %w", err))
	}
	for _, g := range all {
		a.lobby.aside, a.lobby.kept = append(a.lobby.aside, g), a.lobby.kept+g.kept
	}
	a.setLive(ctx, a.in.listens())
	return a.pump(ctx)
}

func (a *installationActor) Stop() {}

func (a *installationActor) Idle() bool {
	return len(a.lobby.aside) == 0 && len(a.lobby.queue) == 0 && (a.log.state == still || a.log.state == resting) && len(a.syncs) == 0
}

// Receive takes one message, and goes on with whatever can go on then.
func (a *installationActor) Receive(ctx *engine.Context, msg any) error {
	if err := a.sys.fault(PointInstallation); err != nil {
		return err
	}
	if err := a.take(ctx, msg); err != nil {
		return err
	}
	return a.pump(ctx)
}

func (a *installationActor) take(ctx *engine.Context, msg any) error {
	switch m := msg.(type) {
	case welcomeNews:
		if m.after > a.last() {
			a.read(ctx) // something lies between that was not heard of
			return nil
		}
		a.enqueue(m.envelopes)
	case syncWelcomes:
		a.alarm.ring()
		a.syncs = append(a.syncs, ctx.Later())
		a.asked()
		a.read(ctx)
	case tryAside:
		a.wake = time.Time{}
	case goOn:
		a.goingOn = false
	case welcomesRead:
		return a.welcomesRead(ctx, m)
	case opened:
		return a.opened(ctx, m)
	case lookedUp:
		return a.lookedUp(ctx, m)
	case rejoined:
		return a.rejoined(ctx, m)
	case setLive:
		a.setLive(ctx, a.in.listens())
	case readAgain:
		if a.log.timer() {
			a.begin(ctx)
		}
	case checkLive:
		a.checking = false
		a.setLive(ctx, a.in.listens())
	case isFollowed:
		if m.mark == a.follows && m.behind {
			a.read(ctx)
		}
	case notFollowed:
		a.notFollowed(ctx, m)
	case fallenBehind:
		a.read(ctx)
	case logRewound:
		return a.rewound(ctx)
	default:
		return fmt.Errorf("actors: installation actor was told %T", msg)
	}
	return nil
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
	after, limit, self := a.last(), a.page, ctx.Self()
	a.sys.beside(func(c context.Context) {
		envelopes, err := a.sys.cfg.Bus.Read(c, after, limit, welcomeTopic(a.in.id))
		_ = a.sys.engine.Tell(self, welcomesRead{a, envelopes, limit, err})
	})
}

// rewound reads the log from its beginning: how far back it went nobody knows
// once it has grown again. A welcome that comes again is of an epoch that is
// over, and is refused.
func (a *installationActor) rewound(ctx *engine.Context) error {
	if a.last() == 0 {
		a.read(ctx) // told twice
		ctx.Reply(nil)
		return nil
	}
	a.sys.log.Error("log of welcomes went backwards", installationAttr(a.in.id))
	var b persistence.Batch
	a.in.vault.Delete(&b, typeWelcomes, nil)
	for id := range a.taken {
		a.in.vault.Delete(&b, typeTaken, encodeCursor(uint64(id)))
	}
	if err := a.in.vault.Apply(ctx.Context(), &b, persistence.Lazy); err != nil {
		return crash(err)
	}
	return crash(errors.New("log of welcomes went backwards")) // and read anew
}

// last is the newest welcome that was read.
func (a *installationActor) last() bus.ID {
	if n := len(a.lobby.queue); n > 0 {
		return a.lobby.queue[n-1].id
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
	size := 0
	for _, e := range m.envelopes {
		size += len(e.Payload)
	}
	if a.page = min(2*a.page, mostWelcomes); size > heavyWelcomes {
		a.page = fewWelcomes
	}
	a.enqueue(m.envelopes)
	_, beyond := a.sys.feed.caughtUp(ctx.Self().Name(), welcomeTopic(a.in.id), a.last())
	a.more = a.more || more || beyond || len(m.envelopes) == m.limit
	return nil
}

// enqueue takes welcomes that were not seen before. What does not fit is read from
// the log when there is room: the cursor does not pass it.
func (a *installationActor) enqueue(envelopes []bus.Envelope) {
	for _, e := range envelopes {
		if e.ID <= a.last() {
			continue
		}
		if a.more = a.more || !a.lobby.room(); a.more {
			return
		}
		g := &guest{id: e.ID, time: e.Time}
		a.lobby.queue = append(a.lobby.queue, g)
		if a.taken[e.ID] {
			a.advance(a.lobby.leave(g))
			continue
		}
		a.lobby.hold(g, e.Payload, nil)
	}
}

// pump goes on with whatever can go on: reading, opening, joining.
func (a *installationActor) pump(ctx *engine.Context) error {
	stuck := false
	for a.more && !a.log.running() {
		if a.lobby.room() {
			a.more = false
			a.read(ctx)
			break
		}
		if unopened, _ := a.lobby.is(waiting); unopened > 0 {
			break
		}
		made, err := a.overflow(ctx)
		if err != nil {
			return err
		}
		if stuck = !made; stuck {
			break // what is there has to be worked off first
		}
	}
	readAll := !a.more && !a.log.running() || stuck
	if !a.opens {
		a.open(ctx.Self(), a.lobby.unopened(time.Now(), readAll))
	}
	if g := a.lobby.nextJoin(readAll); g != nil && !a.goingOn {
		a.lobby.took(g)
		if err := a.enter(ctx, g); err != nil {
			return err
		}
		a.goingOn = true
		if err := a.sys.engine.Tell(ctx.Self(), goOn{}); err != nil {
			return err
		}
	}
	if err := a.saveCursor(ctx); err != nil {
		return err
	}
	a.retryLater(ctx)
	a.answerSyncs()
	return nil
}

// advance moves the cursor past guests that are done.
func (a *installationActor) advance(passed []*guest) {
	if n := len(passed); n > 0 {
		a.cursor = passed[n-1].id
	}
}

// saveCursor stores how far the welcomes were taken, where a join did not. What is
// read again after a crash is rejected again.
func (a *installationActor) saveCursor(ctx *engine.Context) error {
	if a.cursor == a.saved {
		return nil
	}
	var b persistence.Batch
	a.putCursor(&b, a.cursor)
	if err := a.in.vault.Apply(ctx.Context(), &b, persistence.Lazy); err != nil {
		return crash(fmt.Errorf("store cursor of welcomes: %w", err))
	}
	a.cursorSaved()
	return nil
}

func (a *installationActor) putCursor(b *persistence.Batch, to bus.ID) {
	a.in.vault.Put(b, typeWelcomes, nil, encodeCursor(uint64(to)))
	for id := range a.taken {
		if id <= to {
			a.in.vault.Delete(b, typeTaken, encodeCursor(uint64(id)))
		}
	}
}

func (a *installationActor) cursorSaved() {
	a.saved = a.cursor
	for id := range a.taken {
		if id <= a.saved {
			delete(a.taken, id)
		}
	}
}

// answerSyncs answers the syncs once everything read is joined, or set aside.
func (a *installationActor) answerSyncs() {
	if a.more || a.log.running() || len(a.lobby.queue) > 0 || a.lobby.isDue(time.Now()) {
		return
	}
	if a.rejected > 0 {
		a.sys.log.Warn("welcomes rejected", installationAttr(a.in.id), keyCount, a.rejected, keyErr, a.reason)
		a.rejected, a.reason = 0, nil
	}
	if slices.ContainsFunc(a.lobby.aside, a.lags) {
		return
	}
	a.lobby.turns = nil
	for _, reply := range a.syncs {
		reply.Answer(nil, a.failed.err())
	}
	a.syncs, a.failed = nil, failures{}
}
