package actors

import (
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

// A welcome that waits for something is set aside. It is stored, and the topic's cursor
// passes it, so that later welcomes are not held up. It is tried again, each time after
// twice as long a wait.

const (
	// asideFirst is the first wait, and asideRetry the longest. A welcome whose pointee
	// is missing is given up after asideLife, as XMTP's clients do.
	asideFirst = time.Second
	asideRetry = time.Hour
	asideLife  = 3 * 24 * time.Hour
	// asideAtOnce is how many are tried because somebody asks, before their time.
	asideAtOnce = 64
	// maxAsideBytes bounds what is stored of them; what is above that is read from
	// the log again.
	maxAsideBytes = 8 << 20
	// laggingTries is how often a foreign log, whose replicas may lag, is asked
	// before what it does not show is not there.
	laggingTries = 3
)

var (
	// errTurn: others are before it, and the memory is full.
	errTurn = errors.New("actors: others are before it")
	// errNoAnswer: the network does not answer what a welcome needs.
	errNoAnswer = errors.New("actors: the network does not answer")
	// errForgotten: the log does not have it any more.
	errForgotten = fmt.Errorf("%w: the log does not have it any more", group.ErrWelcome)
)

// waitsAside reports whether a welcome waits for something that others need not
// wait for.
func waitsAside(err error) bool {
	for _, why := range []error{errNoPointee, errGroupBroken, errNoAnswer, errTurn, identity.ErrNeedChain, group.ErrBehind, group.ErrPaused} {
		if errors.Is(err, why) {
			return true
		}
	}
	return false
}

// setAside stores a guest for later, or has one that is stored wait longer.
func (a *installationActor) setAside(ctx *engine.Context, g *guest, why error) error {
	fresh := !g.stored
	if g.why = why; !errors.Is(why, errTurn) {
		g.due = time.Now().Add(min(asideFirst<<min(g.tries, 20), asideRetry))
		g.tries++
	}
	payload := g.payload
	if fresh {
		if !errors.Is(why, errTurn) {
			a.sys.log.Warn("welcome set aside", installationAttr(a.in.id), keyErr, why)
		}
		var b persistence.Batch
		if len(a.lobby.aside) >= maxAside {
			a.evict(&b)
		}
		if a.lobby.kept+len(payload) > maxAsideBytes || errors.Is(why, errTurn) {
			payload = nil
		}
		a.in.vault.Put(&b, typeAside, encodeCursor(uint64(g.id)), append(encodeCursor(uint64(g.time.UnixNano())), payload...))
		if err := a.in.vault.Apply(ctx.Context(), &b, persistence.Lazy); err != nil {
			return crash(fmt.Errorf("store welcome set aside: %w", err))
		}
		a.advance(a.lobby.store(g, len(payload)))
	}
	a.lobby.hold(g, nil, nil)
	g.state, g.resolved = aside, false
	return nil
}

// evict forgets one that was set aside.
func (a *installationActor) evict(b *persistence.Batch) {
	g := a.lobby.evicted(func(why error) bool { return errors.Is(why, errGroupBroken) || errors.Is(why, group.ErrPaused) })
	if g == nil {
		return
	}
	a.sys.log.Warn("welcome given up", installationAttr(a.in.id), keyErr, g.why)
	a.sys.cfg.Telemetry.WelcomesRejected.Inc()
	a.in.vault.Delete(b, typeAside, encodeCursor(uint64(g.id)))
	a.lobby.leave(g)
}

// overflow makes room for what the log has behind the queue: where all that are in
// memory wait for their turn, they wait in the store. It reports whether it did.
func (a *installationActor) overflow(ctx *engine.Context) (bool, error) {
	if len(a.lobby.aside)+maxGuests > maxAside/2 {
		return false, nil
	}
	var all []*guest
	for _, g := range a.lobby.queue {
		if g.state == deferred && !a.lobby.isKnown(g) {
			all = append(all, g)
		}
	}
	for _, g := range all {
		if err := a.setAside(ctx, g, errTurn); err != nil {
			return false, err
		}
	}
	return len(all) > 0, nil
}

// asked has some of those that were set aside tried before their time.
func (a *installationActor) asked() {
	now, n := time.Now(), 0
	for tries := 0; n < asideAtOnce && tries < 64; tries++ {
		for _, g := range a.lobby.aside {
			if g.state == aside && g.tries == tries && n < asideAtOnce {
				g.due = now
				n++
			}
		}
	}
}

// lags reports whether a foreign log may yet show what a guest waits for: who syncs
// waits for that.
func (a *installationActor) lags(g *guest) bool {
	return a.sys.cfg.Bus.Info().Foreign && g.tries < laggingTries && (errors.Is(g.why, errNoPointee) || errors.Is(g.why, group.ErrBehind))
}

// retryLater sees to it that what is aside is tried again in its time.
func (a *installationActor) retryLater(ctx *engine.Context) {
	at := a.lobby.nextDue()
	if at.IsZero() || !a.wake.IsZero() && !at.Before(a.wake) {
		return
	}
	if a.cancelWake != nil {
		a.cancelWake()
	}
	a.wake, a.cancelWake = at, ctx.After(max(time.Until(at), asideFirst/10), tryAside{})
}

// loadAside reads what is known of the welcomes that were set aside, oldest first.
func loadAside(ctx context.Context, v *persistence.Vault) (all []*guest, err error) {
	err = v.Scan(ctx, typeAside, nil, nil, func(suffix, row []byte) bool {
		if len(suffix) == 8 && len(row) >= 8 {
			all = append(all, &guest{
				id: bus.ID(decodeCursor(suffix)), time: time.Unix(0, int64(decodeCursor(row[:8]))), state: aside, stored: true, kept: len(row) - 8,
			})
		}
		return true
	})
	return all, err
}

// fetchAside reads a welcome that was set aside: from the store, or where that has
// only its place from the log.
func (s *System) fetchAside(ctx context.Context, in *installation, e bus.Envelope) (bus.Envelope, error) {
	row, err := in.vault.Get(ctx, typeAside, encodeCursor(uint64(e.ID)))
	switch {
	case errors.Is(err, persistence.ErrNotFound): // read twice, and done with once
		return e, errForgotten
	case err != nil:
		return e, fmt.Errorf("read welcome set aside: %w", err)
	case len(row) > 8:
		e.Payload = row[8:]
		return e, nil
	}
	before := e.ID - 1
	if !s.cfg.Bus.Info().Foreign {
		before = 0
		if n := e.ID.Sequence(); n > 1 {
			before = bus.MakeID(n-1, e.ID.Shard())
		}
	}
	c, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	envelopes, err := s.cfg.Bus.Read(c, before, 1, welcomeTopic(in.id))
	switch {
	case errors.Is(err, bus.ErrLogRolledBack), err == nil && (len(envelopes) == 0 || envelopes[0].ID != e.ID):
		return e, errForgotten
	case err != nil:
		return e, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	return envelopes[0], nil
}
