package actors

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
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

	cursor             bus.ID         // of the welcomes topic: everything up to here is done
	queue              []bus.Envelope // read and not begun
	busy               bool           // one is being prepared beside the mailbox
	syncs              []*engine.Reply
	live               bool
	checking, retrying bool  // a timer of checkLive, of readAgain is set
	alarm              alarm // wakes what waits for the network to come back

	reading bool
	again   bool // another read is wanted once this one ends

	// Welcomes whose pointee was not there, in the order in which they are
	// tried again; due of them now, when nothing newer waits.
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
		return fmt.Errorf("load cursor of welcomes: %w", err)
	}
	a.cursor = bus.ID(decodeCursor(row))
	if a.aside, err = loadAside(ctx.Context(), a.in.vault); err != nil {
		return fmt.Errorf("load welcomes set aside: %w", err)
	}
	a.retryLater(ctx)
	return a.setLive(ctx, a.in.listens())
}

func (a *installationActor) Stop() {}

func (a *installationActor) Idle() bool {
	return len(a.aside) == 0 && !a.busy && !a.reading && len(a.queue) == 0 && len(a.syncs) == 0
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
	case setLive:
		return a.setLive(ctx, a.in.listens())
	case readAgain:
		a.retrying = false
		a.read(ctx)
		return nil
	case checkLive:
		a.checking = false
		return a.setLive(ctx, a.in.listens())
	case fallenBehind:
		a.read(ctx)
		return nil
	case logRewound:
		return a.rewound(ctx)
	}
	return fmt.Errorf("actors: installation actor was told %T", msg)
}

func (a *installationActor) setLive(ctx *engine.Context, live bool) error {
	topic := welcomeTopic(a.in.id)
	if !live {
		a.live = false
		a.sys.feed.unfollow(ctx.Self().Name(), topic) // also what a life before a sleep followed
		return nil
	}
	if a.live {
		return nil
	}
	from, err := a.sys.feed.follow(ctx.Context(), ctx.Self().Name(), a.cursor, topic)
	if err != nil {
		if !errors.Is(err, bus.ErrClosed) { // else the host closes
			a.sys.log.Warn("welcomes not followed", installationAttr(a.in.id), keyErr, err)
		}
		if !a.checking {
			a.checking = true
			ctx.After(retryRead, checkLive{})
		}
		return nil
	}
	a.live = true
	if from > a.cursor {
		a.read(ctx)
	}
	return nil
}

// read reads the topic beside the mailbox, from what was read before.
func (a *installationActor) read(ctx *engine.Context) {
	if a.reading {
		a.again = true
		return
	}
	a.reading, a.again = true, false
	after, self := a.last(), ctx.Self()
	a.sys.beside(func(c context.Context) {
		envelopes, err := a.sys.cfg.Bus.Read(c, after, pageSize, welcomeTopic(a.in.id))
		_ = a.sys.engine.Tell(self, welcomesRead{a, envelopes, err})
	})
}

// rewound reads the log from its beginning: how far back it went nobody knows
// once it has grown again. A welcome that comes again is of an epoch that is
// over, and is refused.
func (a *installationActor) rewound(ctx *engine.Context) error {
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
	a.reading = false
	if errors.Is(m.err, bus.ErrLogRolledBack) {
		return a.rewound(ctx)
	}
	if m.err != nil {
		a.sys.log.Warn("welcomes not read", installationAttr(a.in.id), keyErr, m.err)
		for _, reply := range a.syncs {
			reply.Answer(nil, m.err)
		}
		a.syncs = nil
		if !a.retrying {
			a.retrying = true
			ctx.After(retryRead, readAgain{})
		}
		return nil
	}
	a.enqueue(ctx, m.envelopes)
	if len(m.envelopes) == pageSize || a.sys.feed.caughtUp(ctx.Self().Name(), welcomeTopic(a.in.id), a.last()) || a.again {
		a.read(ctx)
	}
	a.settle()
	return nil
}

// enqueue takes welcomes that were not seen before.
func (a *installationActor) enqueue(ctx *engine.Context, envelopes []bus.Envelope) {
	for _, e := range envelopes {
		if e.ID > a.last() {
			a.queue = append(a.queue, e)
		}
	}
	a.next(ctx)
}

// next prepares the first welcome of the queue, one at a time: they are joined
// in the order of the log. What was set aside comes when the queue is empty.
func (a *installationActor) next(ctx *engine.Context) {
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
	if a.busy || a.reading || len(a.queue) > 0 || a.due > 0 {
		return
	}
	for _, reply := range a.syncs {
		reply.Answer(nil, nil)
	}
	a.syncs = nil
}

// prepare unwraps a welcome. It waits for what is missing: the pointee of a
// pointer, which was published before it, and identities.
func (s *System) prepare(ctx context.Context, a *alarm, in *installation, e bus.Envelope, wait time.Duration) (*group.JoinConfig, error) {
	envelope, err := group.ParseWelcome(e.Payload)
	if err != nil {
		return nil, err
	}
	row, err := in.vault.Get(ctx, typeKeyPackage, keyPackageSuffix(envelope.PublicKey))
	if err != nil {
		return nil, fmt.Errorf("key package of welcome: %w", err)
	}
	secrets, err := group.UnmarshalKeyPackageSecrets(row)
	if err != nil {
		return nil, err
	}
	welcome, err := s.unwrap(ctx, a, envelope, secrets, wait)
	if err != nil {
		return nil, err
	}
	return &group.JoinConfig{
		Welcome: welcome, Secrets: secrets, WelcomeID: uint64(e.ID), Created: e.Time,
		InOrder: true,
	}, nil
}

func (s *System) unwrap(ctx context.Context, a *alarm, e *group.WelcomeEnvelope, secrets *group.KeyPackageSecrets, wait time.Duration) (group.Welcome, error) {
	if !e.Pointer {
		return group.OpenWelcome(e, secrets)
	}
	pointer, err := group.OpenPointer(e, secrets)
	if err != nil {
		return group.Welcome{}, err
	}
	var pointee *group.WelcomeEnvelope
	var bad error
	began := time.Now()
	ok := s.persist(ctx, a, "pointee of welcome not read", func() error {
		pointee, bad, err = s.pointees.get(ctx, pointer.Destination)
		if errors.Is(err, errNoPointee) && time.Since(began) >= wait {
			bad, err = err, nil
		}
		return err
	})
	if !ok {
		return group.Welcome{}, ctx.Err()
	}
	if bad != nil {
		return group.Welcome{}, bad
	}
	return pointer.OpenShared(s.realm, s.shared, pointee)
}

// join joins a prepared welcome. A welcome that cannot be joined is read past:
// its key is gone, or it breaks a rule, and neither will change. One whose
// pointee is not there is set aside, so that it holds up no other.
func (a *installationActor) join(ctx *engine.Context, m prepared) error {
	if m.of != a {
		return nil // of a life before a crash
	}
	err := m.err
	if errors.Is(err, persistence.ErrClosed) || errors.Is(err, context.Canceled) {
		return nil // the host closes
	}
	if err == nil {
		err = a.enter(ctx, m)
		if need := new(group.UnresolvedError); errors.As(err, &need) && !m.resolved {
			a.resolve(ctx.Self(), m, need)
			return nil
		}
		if errors.Is(err, errReadFirst) {
			return nil // the welcome comes again
		}
		if errors.Is(err, engine.ErrCrash) {
			return err
		}
	}
	if err := a.past(ctx, m.id, err); err != nil {
		return crash(err)
	}
	a.busy = false
	a.next(ctx)
	a.settle()
	return nil
}

// past goes on after a welcome that was joined, rejected, or has to wait.
func (a *installationActor) past(ctx *engine.Context, id bus.ID, err error) error {
	var b persistence.Batch
	fresh := a.fresh(id)
	switch {
	case errors.Is(err, errNoPointee) && fresh:
		a.setAside(ctx, &b, a.queue[0])
	case errors.Is(err, errNoPointee) && a.sys.cfg.Now().Sub(a.aside[0].Time) < asideLife:
		a.aside = append(a.aside[1:], a.aside[0])
		a.due--
		return nil
	case err != nil:
		a.sys.log.Warn("welcome rejected", installationAttr(a.in.id), keyErr, err)
		a.sys.cfg.Telemetry.WelcomesRejected.Inc()
	}
	if fresh {
		a.queue, a.cursor = a.queue[1:], id
	} else {
		a.aside, a.due = a.aside[1:], a.due-1
	}
	if err == nil {
		return nil // what was joined is saved with the group
	}
	a.passed(&b, id, fresh)
	return a.in.vault.Apply(ctx.Context(), &b, persistence.Lazy)
}

// fresh reports whether a welcome is the queue's first, not one that was set
// aside.
func (a *installationActor) fresh(id bus.ID) bool { return len(a.queue) > 0 && a.queue[0].ID == id }

// passed notes in a batch that a welcome is done with.
func (a *installationActor) passed(b *persistence.Batch, id bus.ID, fresh bool) {
	if fresh {
		a.in.vault.Put(b, typeWelcomes, nil, encodeCursor(uint64(id)))
		return
	}
	a.in.vault.Delete(b, typeAside, encodeCursor(uint64(id)))
}

// setAside keeps a welcome for later, in place of the oldest where there are
// too many.
func (a *installationActor) setAside(ctx *engine.Context, b *persistence.Batch, e bus.Envelope) {
	a.sys.log.Warn("welcome set aside", installationAttr(a.in.id), keyErr, errNoPointee)
	if len(a.aside) >= maxAside {
		a.in.vault.Delete(b, typeAside, encodeCursor(uint64(a.aside[0].ID)))
		a.aside, a.due = a.aside[1:], max(a.due-1, 0)
	}
	a.in.vault.Put(b, typeAside, encodeCursor(uint64(e.ID)), append(encodeCursor(uint64(e.Time.UnixNano())), e.Payload...))
	a.aside = append(a.aside, e)
	a.retryLater(ctx)
}

// retryLater sees to it that what is aside is tried again.
func (a *installationActor) retryLater(ctx *engine.Context) {
	if len(a.aside) > 0 && !a.timed {
		a.timed = true
		ctx.After(asideRetry, tryAside{})
	}
}

// loadAside reads the welcomes that were set aside, oldest first.
func loadAside(ctx context.Context, v *persistence.Vault) (aside []bus.Envelope, err error) {
	err = v.Scan(ctx, typeAside, nil, nil, func(suffix, row []byte) bool {
		if len(suffix) == 8 && len(row) > 8 {
			aside = append(aside, bus.Envelope{
				ID: bus.ID(decodeCursor(suffix)), Time: time.Unix(0, int64(decodeCursor(row[:8]))), Payload: bytes.Clone(row[8:]),
			})
		}
		return true
	})
	return aside, err
}

// resolve gets the identities that a welcome is checked against, and tries it
// again.
func (a *installationActor) resolve(self engine.Ref, m prepared, need *group.UnresolvedError) {
	inboxes := inboxesOf(need.Need)
	a.sys.beside(func(ctx context.Context) {
		if a.sys.persist(ctx, &a.alarm, "identity log not read", func() error { return a.sys.inboxes.refresh(ctx, inboxes) }) {
			m.resolved, m.join.Resolved = true, true
			_ = a.sys.engine.Tell(self, m)
		}
	})
}

// enter makes the replica, or lets the one there is join again. The replica's
// rows and the cursor are one transaction, so a welcome is taken once.
func (a *installationActor) enter(ctx *engine.Context, m prepared) error {
	replica, fx, err := group.Join(a.in.env, *m.join)
	if err != nil {
		return err
	}
	id := GroupID(replica.ID())
	name := groupName(a.in.id, id)
	known, err := a.sys.rows(ctx.Context(), a.in, id).Get(group.TableMeta, nil, nil)
	if err != nil {
		return crash(err)
	}
	if known != nil {
		return a.reenter(ctx, name, m)
	}
	if err := a.sys.fault(PointSave); err != nil {
		return crash(err)
	}
	var b persistence.Batch
	a.passed(&b, m.id, a.fresh(m.id))
	a.in.welcomed(&b)
	if err := a.sys.commit(ctx.Context(), &b, a.in.vault, id, replica.Epoch(), fx.Save, persistence.Lazy); err != nil {
		return crash(fmt.Errorf("save group: %w", err))
	}
	a.sys.renewSoon(a.in)
	conversation := conversationOf(id, replica.Summary())
	a.in.catalogue.add(conversation)
	for _, e := range fx.Emit {
		a.sys.count(e)
		a.sys.streams.emit(a.in.id, conversation, e)
	}
	if !a.sys.hasTwin(ctx.Context(), a.in, conversation) {
		a.sys.streams.joined(a.in.id, conversation)
	}
	if a.in.listens() { // also where the welcomes cannot be followed yet
		// The group's actor wakes, loads what was just saved, and follows.
		return a.sys.names.Tell(name, setLive{})
	}
	return nil
}

// reenter hands the welcome to the group's own actor and waits for it, not for
// ever: only that actor may change the replica.
func (a *installationActor) reenter(ctx *engine.Context, name string, m prepared) error {
	wait, cancel := context.WithTimeout(ctx.Context(), attemptTime)
	defer cancel()
	if _, err := a.sys.names.Ask(wait, name, rejoin{*m.join}); err != nil {
		if errors.Is(err, group.ErrBehind) {
			a.readFirst(ctx.Self(), name, m)
			return errReadFirst
		}
		if errors.Is(err, engine.ErrRestarted) || errors.Is(err, engine.ErrStopped) || wait.Err() != nil {
			return crash(err)
		}
		return err
	}
	var b persistence.Batch
	a.passed(&b, m.id, a.fresh(m.id))
	a.in.welcomed(&b)
	if err := a.in.vault.Apply(ctx.Context(), &b, persistence.Lazy); err != nil {
		return crash(err)
	}
	a.sys.renewSoon(a.in)
	return nil
}

// errReadFirst: the group's log is read before the welcome is taken.
var errReadFirst = errors.New("actors: log of the group comes first")

// readFirst lets a group read its log, in which this installation was removed,
// and then takes the welcome that brings it back.
func (a *installationActor) readFirst(self engine.Ref, name string, m prepared) {
	a.sys.beside(func(ctx context.Context) {
		if a.sys.persist(ctx, &a.alarm, "group log not read", func() error {
			_, err := a.sys.names.Ask(ctx, name, readNow{})
			return err
		}) {
			_ = a.sys.engine.Tell(self, m)
		}
	})
}

// pointees remembers the last pointees read: all members that one commit added
// are sent to the same one, at the same time.
type pointees struct {
	bus bus.Bus

	mu    sync.Mutex
	kept  map[[32]byte]*pointee
	order [][32]byte
}

type pointee struct {
	mu       sync.Mutex
	envelope *group.WelcomeEnvelope
	bad      error
}

const maxPointees = 8

var errNoPointee = errors.New("actors: pointee is not there yet")

// get returns the first envelope at a destination; err says to try again, bad
// that there is no use in it.
func (p *pointees) get(ctx context.Context, destination []byte) (e *group.WelcomeEnvelope, bad, err error) {
	topic, err := bus.WelcomesFor(destination)
	if err != nil {
		return nil, err, nil
	}
	key := [32]byte(destination)
	p.mu.Lock()
	k := p.kept[key]
	if k == nil {
		k = new(pointee)
		p.kept[key] = k
		p.order = append(p.order, key)
		if len(p.order) > maxPointees {
			delete(p.kept, p.order[0])
			p.order = p.order[1:]
		}
	}
	p.mu.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.envelope != nil || k.bad != nil {
		return k.envelope, k.bad, nil
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	envelopes, err := p.bus.Read(ctx, 0, 1, topic)
	if err != nil {
		return nil, nil, err
	}
	if len(envelopes) == 0 {
		return nil, nil, errNoPointee
	}
	k.envelope, k.bad = group.ParseWelcome(envelopes[0].Payload)
	return k.envelope, k.bad, nil
}
