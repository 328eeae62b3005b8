package actors

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/persistence"
)

// join joins a prepared welcome. What cannot be prepared, or joined, ends in one
// of three ways. By the protocol's verdict, which will not change, it is read
// past. Where something else than this installation's store has to become good,
// its pointee, a chain, or the group that it is about, it is set aside, so that it holds up
// no other. Everything else crashes the actor, which tries again, each time later.
func (a *installationActor) join(ctx *engine.Context, m prepared) error {
	if m.of != a {
		return nil // of a life before a crash
	}
	if m.err == nil {
		return a.enter(ctx, m)
	}
	return a.done(ctx, m.id, m.err)
}

// done goes on after a welcome that was joined, rejected, or has to wait.
func (a *installationActor) done(ctx *engine.Context, id bus.ID, err error) error {
	if err != nil && !group.Verdict(err) && !waitsAside(err) {
		return crash(fmt.Errorf("take welcome: %w", err))
	}
	if errors.Is(err, errGroupBroken) {
		a.failed = errors.Join(a.failed, err)
	}
	if err := a.past(ctx, id, err); err != nil {
		return crash(fmt.Errorf("store cursor of welcomes: %w", err))
	}
	a.busy = false
	a.next(ctx)
	a.settle()
	return nil
}

// waitsAside reports whether a welcome waits for something that others need not
// wait for.
func waitsAside(err error) bool {
	for _, reason := range []error{errNoPointee, errGroupBroken, identity.ErrNeedChain, group.ErrPaused, group.ErrUnknownAdder} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}

// past saves that a welcome is done with, or set aside. What was joined is saved
// with the group.
func (a *installationActor) past(ctx *engine.Context, id bus.ID, err error) error {
	var b persistence.Batch
	fresh := a.fresh(id)
	switch {
	case err == nil:
	case waitsAside(err) && fresh:
		a.setAside(ctx, &b, a.queue[0], err)
	case waitsAside(err) && (!errors.Is(err, errNoPointee) || a.sys.cfg.Now().Sub(a.aside[0].Time) < asideLife):
		a.aside = append(a.aside[1:], a.aside[0])
		a.due--
		return nil
	default:
		a.sys.log.Warn("welcome rejected", installationAttr(a.in.id), keyErr, err)
		a.sys.cfg.Telemetry.WelcomesRejected.Inc()
	}
	if err != nil {
		a.passed(&b, id, fresh)
		if err := a.in.vault.Apply(ctx.Context(), &b, persistence.Lazy); err != nil {
			return err
		}
	}
	if fresh {
		a.queue, a.cursor = a.queue[1:], id
	} else {
		a.aside, a.due = a.aside[1:], a.due-1
	}
	return nil
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
func (a *installationActor) setAside(ctx *engine.Context, b *persistence.Batch, e bus.Envelope, why error) {
	a.sys.log.Warn("welcome set aside", installationAttr(a.in.id), keyErr, why)
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
// again. Where a chain that has to be asked does not answer, that one waits alone.
func (a *installationActor) resolve(self engine.Ref, m prepared, need *group.UnresolvedError) {
	a.sys.beside(func(ctx context.Context) {
		began := time.Now()
		if a.sys.persist(ctx, &a.alarm, "identity log not read", func() error {
			err := a.sys.inboxes.resolve(ctx, need.Need)
			if errors.Is(err, identity.ErrNeedChain) && time.Since(began) >= pointeeWait {
				m.err, err = err, nil
			}
			return err
		}) {
			m.resolved, m.join.Resolved = true, true
			_ = a.sys.engine.Tell(self, m)
		}
	})
}

// enter makes the replica, or lets the one there is join again. The replica's
// rows and the cursor are one transaction, so a welcome is taken once.
func (a *installationActor) enter(ctx *engine.Context, m prepared) error {
	replica, fx, err := group.Join(a.in.env, *m.join)
	if need := new(group.UnresolvedError); errors.As(err, &need) && !m.resolved {
		a.resolve(ctx.Self(), m, need)
		return nil
	}
	if err != nil {
		return a.done(ctx, m.id, err)
	}
	id := GroupID(replica.ID())
	if !a.sys.isPosition(id, m.join.Welcome.Cursor) {
		return a.done(ctx, m.id, fmt.Errorf("%w: its cursor is of another shard", group.ErrWelcome))
	}
	known, err := a.sys.rows(ctx.Context(), a.in, id).Get(group.TableMeta, nil, nil)
	if err != nil {
		return crash(fmt.Errorf("look for group: %w", err))
	}
	if known != nil {
		a.reenter(ctx.Self(), id, m)
		return nil
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
	a.entered(ctx, id, replica, fx)
	return a.done(ctx, m.id, nil)
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
func (a *installationActor) reenter(self engine.Ref, id GroupID, m prepared) {
	a.sys.beside(func(ctx context.Context) {
		err := a.sys.rejoin(ctx, &a.alarm, groupName(a.in.id, id), *m.join)
		if errors.Is(err, errGroupBroken) {
			err = fmt.Errorf("%w: group %s", err, id)
		}
		if ctx.Err() == nil {
			_ = a.sys.engine.Tell(self, rejoined{m, err})
		}
	})
}

// rejoin asks a group to take a welcome, as often as any question is asked.
func (s *System) rejoin(ctx context.Context, a *alarm, name string, join group.JoinConfig) (err error) {
	for range askTries {
		if err = s.rejoinOnce(ctx, a, name, join); !errors.Is(err, engine.ErrRestarted) && !errors.Is(err, engine.ErrBroken) && !errors.Is(err, errSilent) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", errGroupBroken, s.explain(name, err))
}

// errSilent: an actor is held up for longer than a bus takes to choose a new
// leader.
var errSilent = errors.New("actors: no answer in time")

func (s *System) rejoinOnce(ctx context.Context, a *alarm, name string, join group.JoinConfig) error {
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
	err = nil
	if !s.persist(ctx, a, "group log not read", func() error {
		failed := ask(readNow{})
		for _, end := range []error{engine.ErrRestarted, engine.ErrBroken, engine.ErrStopped, engine.ErrShutdown, ErrAsleep, ErrClosed, errSilent} {
			if errors.Is(failed, end) {
				err = failed
				return nil
			}
		}
		return failed // the bus's
	}) {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	join.Complete = true
	return ask(rejoin{join})
}

// rejoined goes on after a group has taken a welcome, or has not.
func (a *installationActor) rejoined(ctx *engine.Context, m rejoined) error {
	if m.of != a {
		return nil // of a life before a crash
	}
	if m.err == nil {
		var b persistence.Batch
		a.passed(&b, m.id, a.fresh(m.id))
		a.in.welcomed(&b)
		if err := a.in.vault.Apply(ctx.Context(), &b, persistence.Lazy); err != nil {
			return crash(fmt.Errorf("store cursor of welcomes: %w", err))
		}
		a.sys.renewSoon(a.in)
	}
	return a.done(ctx, m.id, m.err)
}
