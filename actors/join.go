package actors

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/persistence"
)

// What comes back from beside the mailbox about a guest.
type (
	// opened are welcomes that were unwrapped.
	opened struct {
		of  *installationActor // who began it
		all []openedGuest
	}
	// openedGuest is one of them, or the reason why there is nothing to join.
	openedGuest struct {
		guest  *guest
		join   *group.JoinConfig
		from   group.Invitation
		friend bool
		err    error
	}
	// lookedUp says that the identities are at hand that a welcome needs.
	lookedUp struct {
		of    *installationActor
		guest *guest
		err   error
	}
	// rejoined is the answer of a group that is known here to a welcome.
	rejoined struct {
		of    *installationActor
		guest *guest
		group GroupID
		err   error
	}
)

// open unwraps welcomes beside the mailbox, some at once. Where there are several it
// also reads who invites.
func (a *installationActor) open(self engine.Ref, guests []*guest) {
	if len(guests) == 0 {
		return
	}
	a.opens = true
	alone := len(guests) == 1 && len(a.lobby.queue) == 1 && !a.more && !a.log.running()
	m := opened{of: a, all: make([]openedGuest, len(guests))}
	envelopes := make([]bus.Envelope, len(guests))
	for i, g := range guests {
		g.state = opening
		envelopes[i] = bus.Envelope{ID: g.id, Time: g.time, Payload: g.payload}
	}
	a.sys.beside(func(ctx context.Context) {
		var work errgroup.Group
		work.SetLimit(opensAtOnce)
		for i, g := range guests {
			work.Go(func() error {
				m.all[i] = a.sys.openOne(ctx, a.in, envelopes[i], alone)
				m.all[i].guest = g
				return nil
			})
		}
		if _ = work.Wait(); ctx.Err() == nil {
			_ = a.sys.engine.Tell(self, m)
		}
	})
}

func (s *System) openOne(ctx context.Context, in *installation, e bus.Envelope, alone bool) (o openedGuest) {
	if e.Payload == nil {
		if e, o.err = s.fetchAside(ctx, in, e); o.err != nil {
			return o
		}
	}
	if o.join, o.err = s.prepare(ctx, in, e); o.err != nil || alone {
		return o
	}
	if o.from, o.err = group.OpenInvitation(in.env, *o.join); o.err != nil {
		return o
	}
	o.friend, o.err = s.isFriend(ctx, in, o.from)
	return o
}

// isFriend reports whether somebody who invites is known: it is this inbox, or the
// other one of a direct message, or has added this installation to a group that it
// is in. Nobody is asked: whose identity is not known here is not known.
func (s *System) isFriend(ctx context.Context, in *installation, from group.Invitation) (bool, error) {
	if known, err := s.hasMet(ctx, in, from.Inbox); err != nil || !known {
		return false, err
	}
	state, _ := s.inboxes.latest(from.Inbox)
	id, err := identity.InstallationFrom(from.Installation)
	return err == nil && state.Has(id), nil
}

func (a *installationActor) opened(ctx *engine.Context, m opened) error {
	if m.of != a {
		return nil // of a life before a crash
	}
	a.opens = false
	for _, o := range m.all {
		if o.err != nil {
			if err := a.done(ctx, o.guest, o.err); err != nil {
				return err
			}
			continue
		}
		g := o.guest
		g.state, g.from, g.friend = deferred, o.from, o.friend
		a.lobby.hold(g, g.payload, o.join)
	}
	return nil
}

// done ends what was tried with a welcome, which ends in one of three ways. By the
// protocol's verdict, which will not change, it is read past. Where something else
// than this installation's store has to become good, its pointee, a chain, the
// network, or the group that it is about, it is set aside, so that it holds up no
// other. Everything else crashes the actor, which tries again, each time later.
func (a *installationActor) done(ctx *engine.Context, g *guest, err error) error {
	switch {
	case group.Verdict(err):
	case errors.Is(err, errNoPointee) && a.sys.cfg.Now().Sub(g.time) >= asideLife && g.stored:
	case waitsAside(err):
		if errors.Is(err, errGroupBroken) || errors.Is(err, errNoAnswer) {
			a.failed.add(err)
		}
		return a.setAside(ctx, g, err)
	default:
		return crash(fmt.Errorf("take welcome: %w", err))
	}
	a.rejected++
	a.reason = err
	a.sys.cfg.Telemetry.WelcomesRejected.Inc()
	if g.stored {
		var b persistence.Batch
		a.passed(&b, g)
		if err := a.in.vault.Apply(ctx.Context(), &b, persistence.Lazy); err != nil {
			return crash(fmt.Errorf("store that a welcome is done with: %w", err))
		}
	}
	a.advance(a.lobby.leave(g))
	return nil
}

// passed notes in a batch that a welcome is done with. One that others stand before
// is named, since the cursor does not say it.
func (a *installationActor) passed(b *persistence.Batch, g *guest) {
	switch {
	case g.stored:
		a.in.vault.Delete(b, typeAside, encodeCursor(uint64(g.id)))
	case a.lobby.queue[0] != g:
		a.in.vault.Put(b, typeTaken, encodeCursor(uint64(g.id)), nil)
	default:
		to := g.id
		for _, o := range a.lobby.queue[1:] {
			if o.state != done {
				break
			}
			to = o.id
		}
		a.putCursor(b, to)
	}
}

// tookIn goes on behind a welcome that was joined, when that is saved.
func (a *installationActor) tookIn(g *guest) {
	a.sys.renewSoon(a.in)
	a.wentPast(g)
}

// wentPast goes on behind a welcome, when it is saved that this is done with.
func (a *installationActor) wentPast(g *guest) {
	front := !g.stored && a.lobby.queue[0] == g
	if !front && !g.stored {
		a.taken[g.id] = true
	}
	a.advance(a.lobby.leave(g))
	if front {
		a.cursorSaved()
	}
}

// resolve gets the identities that a welcome is checked against.
func (a *installationActor) resolve(self engine.Ref, g *guest, need *group.UnresolvedError) {
	g.state, g.from.Group = entering, need.Group
	a.sys.beside(func(ctx context.Context) {
		err := a.sys.within(ctx, &a.alarm, "identity log not read", func(c context.Context) (end, again error) {
			err := a.sys.inboxes.resolve(c, need.Need)
			if errors.Is(err, identity.ErrNeedChain) {
				return err, nil
			}
			return nil, err
		})
		if ctx.Err() == nil {
			_ = a.sys.engine.Tell(self, lookedUp{a, g, err})
		}
	})
}

// within tries something that the network answers until it ends, well or not, and
// for as long as an attempt takes at most: then it is errNoAnswer.
func (s *System) within(ctx context.Context, a *alarm, what string, try func(context.Context) (end, again error)) (end error) {
	c, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	var last error
	if !s.persist(c, a, what, func() error { end, last = try(c); return last }) {
		return fmt.Errorf("%w: %w", errNoAnswer, last)
	}
	return end
}

func (a *installationActor) lookedUp(ctx *engine.Context, m lookedUp) error {
	if m.of != a {
		return nil // of a life before a crash
	}
	if m.err != nil {
		return a.done(ctx, m.guest, m.err)
	}
	m.guest.resolved, m.guest.join.Resolved = true, true
	return a.enter(ctx, m.guest)
}

// enter makes the replica, or lets the one there is join again. The replica's
// rows and the cursor are one transaction, so a welcome is taken once.
func (a *installationActor) enter(ctx *engine.Context, g *guest) error {
	replica, fx, err := group.Join(a.in.env, *g.join)
	if need := new(group.UnresolvedError); errors.As(err, &need) && !g.resolved {
		a.resolve(ctx.Self(), g, need)
		return nil
	}
	if request := new(group.ReaddError); errors.As(err, &request) {
		if err := a.answerTo(ctx.Context(), request); err != nil {
			return err
		}
	}
	if err != nil {
		return a.done(ctx, g, err)
	}
	id := GroupID(replica.ID())
	if !a.sys.isPosition(id, g.join.Welcome.Cursor) {
		return a.done(ctx, g, fmt.Errorf("%w: its cursor is of another shard", group.ErrWelcome))
	}
	known, err := a.sys.rows(ctx.Context(), a.in, id).Get(group.TableMeta, nil, nil)
	if err != nil {
		return crash(fmt.Errorf("look for group: %w", err))
	}
	if known != nil {
		a.reenter(ctx.Self(), id, g)
		return nil
	}
	if err := a.sys.fault(PointSave); err != nil {
		return crash(err)
	}
	var b persistence.Batch
	a.passed(&b, g)
	a.in.welcomed(&b)
	if err := a.sys.commit(ctx.Context(), &b, a.in.vault, id, replica.Epoch(), fx.Save, persistence.Lazy); err != nil {
		return crash(fmt.Errorf("save group: %w", err))
	}
	a.entered(ctx, id, replica, fx)
	a.tookIn(g)
	return nil
}

// isPosition reports whether a cursor can be a position in a group's log. On a
// foreign log any number can.
func (s *System) isPosition(id GroupID, cursor uint64) bool {
	commits, _ := topicsOf(id)
	info := s.cfg.Bus.Info()
	_, err := bus.OneShard(info.Shards, bus.ID(cursor), commits)
	return err == nil || info.Foreign
}

// entered tells of a group that was joined and saved.
func (a *installationActor) entered(ctx *engine.Context, id GroupID, replica *group.Replica, fx group.Effects) {
	conversation := conversationOf(id, replica.Summary())
	a.in.catalogue.add(conversation)
	for _, e := range fx.Emit {
		a.sys.count(e)
		a.sys.streams.emit(a.in.id, conversation, e)
	}
	if !a.sys.hasTwin(ctx.Context(), a.in, conversation) {
		a.sys.streams.joined(a.in.id, conversation)
	}
	if !a.in.listens() { // also where the welcomes cannot be followed yet
		return
	}
	// The group's actor wakes, loads what was just saved, and follows.
	if err := a.sys.names.Tell(groupName(a.in.id, id), setLive{}); err != nil {
		a.sys.log.Warn("joined group not followed", groupAttr(id), installationAttr(a.in.id), keyErr, err)
	}
}

// errGroupBroken: the actor of a group that is known here does not answer to a
// welcome, again and again. Its own rows are damaged, or cannot be read or written.
var errGroupBroken = errors.New("actors: group does not answer")

// reenter hands the welcome to the group's own actor, which alone may change the
// replica, and waits beside the mailbox. Where that installation was not seen to
// be removed, the group reads its log first.
func (a *installationActor) reenter(self engine.Ref, id GroupID, g *guest) {
	g.state, g.from.Group = entering, id[:]
	join := *g.join
	lags := a.sys.cfg.Bus.Info().Foreign && g.tries < laggingTries
	a.sys.beside(func(ctx context.Context) {
		err := a.sys.rejoin(ctx, &a.alarm, groupName(a.in.id, id), join, lags)
		if unknown := new(group.UnknownAdderError); errors.As(err, &unknown) && a.sys.admit(id, unknown.Adder, &join) {
			join.Accepted = true
			err = a.sys.rejoin(ctx, &a.alarm, groupName(a.in.id, id), join, lags)
		}
		if errors.Is(err, errGroupBroken) {
			err = fmt.Errorf("%w: group %s", err, id)
		}
		if ctx.Err() == nil {
			_ = a.sys.engine.Tell(self, rejoined{a, g, id, err})
		}
	})
}

// rejoin asks a group to take a welcome, as often as any question is asked.
func (s *System) rejoin(ctx context.Context, a *alarm, name string, join group.JoinConfig, lags bool) (err error) {
	for range askTries {
		if err = s.rejoinOnce(ctx, a, name, join, lags); !errors.Is(err, engine.ErrRestarted) && !errors.Is(err, engine.ErrBroken) && !errors.Is(err, errSilent) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", errGroupBroken, s.explain(name, err))
}

// errSilent: an actor is held up for longer than a bus takes to choose a new
// leader.
var errSilent = errors.New("actors: no answer in time")

// rejoinOnce asks once. Where the group has not read up to the welcome it reads its
// log to the end; what is not in it then is not there, unless the log lags.
func (s *System) rejoinOnce(ctx context.Context, a *alarm, name string, join group.JoinConfig, lags bool) error {
	ask := func(msg any) error {
		c, cancel := context.WithTimeout(ctx, attemptTime)
		defer cancel()
		_, err := s.names.Try(c, name, msg)
		if c.Err() != nil && ctx.Err() == nil {
			return errSilent
		}
		return err
	}
	err := ask(rejoin{join})
	if !errors.Is(err, group.ErrBehind) {
		return err
	}
	err = s.within(ctx, a, "group log not read", func(context.Context) (end, again error) {
		failed := ask(readNow{})
		for _, end := range []error{engine.ErrRestarted, engine.ErrBroken, engine.ErrStopped, engine.ErrShutdown, ErrAsleep, ErrClosed, errSilent} {
			if errors.Is(failed, end) {
				return failed, nil
			}
		}
		return nil, failed // the bus's
	})
	if err != nil {
		return err
	}
	join.Complete = !lags
	return ask(rejoin{join})
}

// rejoined goes on after a group has taken a welcome, or has not.
func (a *installationActor) rejoined(ctx *engine.Context, m rejoined) error {
	if m.of != a {
		return nil // of a life before a crash
	}
	if unknown := new(group.UnknownAdderError); errors.As(m.err, &unknown) {
		return a.request(ctx, m, unknown)
	}
	if m.err != nil {
		return a.done(ctx, m.guest, m.err)
	}
	var b persistence.Batch
	a.passed(&b, m.guest)
	a.in.welcomed(&b)
	if err := a.in.vault.Apply(ctx.Context(), &b, persistence.Lazy); err != nil {
		return crash(fmt.Errorf("store cursor of welcomes: %w", err))
	}
	a.tookIn(m.guest)
	return nil
}
