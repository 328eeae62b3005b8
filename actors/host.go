package actors

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/persistence"
)

// A hostActor keeps the host itself going: it runs the reader of the bus, and
// starts it again should it fail; it wakes the installations whose keys the host
// can get, a few at a time, so that a restart is no stampede; and it gives them
// their turns to replace their key packages.
type hostActor struct {
	sys  *System
	stop context.CancelFunc
	done chan struct{}

	turns  keyTurns
	checks int // rounds of checkFeed
}

const hostName = "host"

type (
	feedEnded struct{ err error }
	wakeAll   struct{}
	// checkFeed asks what a feed with holes may have passed over, and feedChecked
	// ends the round of that number.
	checkFeed   struct{ of *hostActor }
	feedChecked struct{ of *hostActor }
)

func (s *System) spawnHost() error {
	_, err := s.engine.Spawn(hostName, func() engine.Behavior { return &hostActor{sys: s} }, engine.Options{})
	return err
}

// Start runs the dispatcher beside the mailbox.
func (a *hostActor) Start(ctx *engine.Context) error {
	c, stop := context.WithCancel(a.sys.ctx)
	a.stop, a.done = stop, make(chan struct{})
	self, done := ctx.Self(), a.done
	a.sys.beside(func(context.Context) {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				_ = a.sys.engine.Tell(self, feedEnded{errors.New("reader of the bus panicked")})
			}
		}()
		a.sys.feed.run(c)
	})
	a.keysScan(ctx)
	a.tendLater(ctx)
	a.checkLater(ctx)
	return nil
}

func (a *hostActor) Stop() {
	if a.stop != nil {
		a.stop()
		<-a.done
	}
}

func (a *hostActor) Receive(ctx *engine.Context, msg any) error {
	if err := a.sys.fault(PointHost); err != nil {
		return err
	}
	switch m := msg.(type) {
	case feedEnded:
		return crash(m.err)
	case wakeAll:
		return a.wakeAll(ctx)
	case tendCommitLogs:
		if m.of == a { // not of a life before a crash
			a.tendCommitLogs(ctx)
		}
		return nil
	case commitLogsTended:
		if m.of == a {
			a.tendLater(ctx)
		}
		return nil
	case checkFeed:
		if m.of == a {
			a.checkFeed(ctx)
		}
		return nil
	case feedChecked:
		if m.of == a {
			a.checkLater(ctx)
		}
		return nil
	case keysDue:
		a.keysDue(ctx, m.in, m.delay)
		return nil
	case keysTurn:
		a.keysTurn(ctx)
		return nil
	case keysDone:
		a.keysDone(ctx, m)
		return nil
	case keysScan:
		a.keysScan(ctx)
		return nil
	}
	return fmt.Errorf("actors: host actor was told %T", msg)
}

// checkLater sets the time of the next check, a tenth more or less, of a feed that
// may have holes.
func (a *hostActor) checkLater(ctx *engine.Context) {
	if !a.sys.feed.gapless {
		ctx.After(checkGroups-checkGroups/10+rand.N(checkGroups/5), checkFeed{a})
	}
}

func (a *hostActor) checkFeed(ctx *engine.Context) {
	a.checks++
	self, welcomes := ctx.Self(), a.checks%checkWelcomes == 0
	a.sys.beside(func(c context.Context) {
		a.sys.feed.check(c, welcomes)
		_ = a.sys.engine.Tell(self, feedChecked{a}) // a host that closes needs none
	})
}

// wakeAll opens every installation whose database key is at hand. One that does
// not open is reported and left: the others go on.
func (a *hostActor) wakeAll(ctx *engine.Context) error {
	ids, err := persistence.Vaults(ctx.Context(), a.sys.cfg.Store)
	if err != nil {
		return crash(err)
	}
	reply := ctx.Later()
	a.sys.beside(func(c context.Context) {
		n := 0
		for _, id := range ids {
			key, err := a.sys.cfg.Keys.DatabaseKey(c, id)
			if errors.Is(err, persistence.ErrNotFound) {
				continue // opened by hand, or not at all
			}
			if err == nil {
				_, err = a.sys.Wake(c, id, key)
			}
			if err != nil {
				a.sys.log.Error("installation does not open", installationAttr(id), keyErr, err)
				continue
			}
			n++
		}
		reply.Answer(n, nil)
	})
	return nil
}

// WakeAll opens every installation whose key Config.Keys has, and returns how
// many are open.
func (s *System) WakeAll(ctx context.Context) (int, error) {
	if s.cfg.Keys == nil {
		return 0, nil
	}
	for {
		ref, ok := s.engine.Lookup(hostName)
		if !ok {
			return 0, ErrClosed
		}
		n, err := s.engine.Ask(ctx, ref, wakeAll{})
		if errors.Is(err, engine.ErrRestarted) {
			continue
		}
		if err != nil {
			return 0, s.explain(hostName, err)
		}
		return n.(int), nil
	}
}

// hooks turn what the engine sees into log lines and counts. A recovery has
// the level of what it is the end of.
func (s *System) hooks() engine.Hooks {
	t := s.cfg.Telemetry
	return engine.Hooks{
		Quarantine: func(k engine.Crash, msg any) {
			t.Quarantined.Of(kindOf(k.Name)).Inc()
			s.log.Error("message quarantined", whose(k.Name), "message", fmt.Sprintf("%T", msg), "in_a_row", k.InARow)
			if k.Name != hostName {
				// What the message said is in the log or in the store: the actor
				// reads it again when it has started.
				s.engineTellLater(k.Name)
			}
		},
		OnCrash: func(k engine.Crash) {
			s.ailing.crashed(k.Name, k.Err)
			s.log.Error("actor crashed", whose(k.Name), "phase", k.Phase.String(), keyErr, k.Err, "in_a_row", k.InARow, "stack", k.Stack)
		},
		OnRestart: func(name string) {
			s.ailing.started(name)
			t.Restarts.Of(kindOf(name)).Inc()
			s.restarts.Add(1)
			s.log.Error("actor restarted", whose(name))
		},
		OnStalled: func(name string) {
			t.Stalled.Of(kindOf(name)).Add(1)
			s.log.Error("actor stalled", whose(name))
		},
		OnRecovered: func(name string) {
			t.Stalled.Of(kindOf(name)).Add(-1)
			s.log.Error("actor recovered", whose(name))
		},
		OnDead: func(name string, msg any) {
			t.Dead.Of(kindOf(name)).Inc()
			s.log.Error("message undelivered", whose(name), "message", fmt.Sprintf("%T", msg))
		},
		OnError: func(name string, err error) {
			s.log.Warn("actor reported", whose(name), keyErr, err)
		},
		OnPassivated: func(name string) { t.Passivations.Of(kindOf(name)).Inc() },
	}
}

// engineTellLater lets an actor read the log again after it lost a message to a
// crash. It comes through the engine's own timer, since hooks must not wait.
func (s *System) engineTellLater(name string) {
	if ref, ok := s.names.Live(name); ok {
		s.engine.After(time.Millisecond, ref, fallenBehind{s.reader.now()})
	}
}

// Restarts is the number of times an actor of this host started again after a
// crash.
func (s *System) Restarts() uint64 { return s.restarts.Load() }
