package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/conclave-chat/conclave/chaos/audit"
	"github.com/conclave-chat/conclave/chaos/ledger"
)

// What is put back, each by itself and both.
var (
	putBackLog = scenario{
		name:  "back-log",
		does:  "the log is stopped and an older copy of it put in its place",
		holds: "what the log lost is offered again by who had sent it",
		world: backWorld,
		log:   serveLog,
		round: func(ctx context.Context, w *world, full bool) error {
			return w.putBack(ctx, w.log.(*serve).dir())
		},
	}
	putBackStore = scenario{
		name:  "back-store",
		does:  "a host is stopped and an older copy of its store put in its place",
		holds: "it opens only where that is allowed, and then catches up, but for what it had sent itself",
		world: backWorld,
		log:   serveLog,
		round: func(ctx context.Context, w *world, full bool) error {
			return w.putBack(ctx, w.storeOf(0))
		},
	}
	putBackHost = scenario{
		name:  "back-host",
		does:  "a host is stopped and an older copy of its whole directory put in its place",
		holds: "it catches up, but for what it had sent itself, and uses no key twice",
		world: backWorld,
		log:   serveLog,
		round: func(ctx context.Context, w *world, full bool) error {
			return w.putBack(ctx, w.hostDir(0))
		},
	}
	putBackAll = scenario{
		name:  "back-all",
		does:  "log, stores and ledgers are put back together, as a machine is from its backup",
		world: backWorld,
		log:   serveLog,
		round: func(ctx context.Context, w *world, full bool) error {
			return w.putBack(ctx, w.log.(*serve).dir(), w.hostDir(0), w.hostDir(1), w.ledgerOf(0), w.ledgerOf(1))
		},
	}
)

var backWorld = worldSpec{hosts: 2, people: 6, groups: 2}

// putBack copies, goes on, and puts the copies back.
func (w *world) putBack(ctx context.Context, places ...string) error {
	// Everybody sends: a member's first message renews its keys.
	if err := w.ask(ctx, request{Do: doBurst, Load: loadSpec{Seed: w.random.Uint64(), Sends: 80, Changes: 4}}); err != nil {
		return err
	}
	if err := w.down(ctx); err != nil {
		return err
	}
	kept := filepath.Join(w.dir, "kept")
	for _, p := range places {
		if err := copyAny(p, filepath.Join(kept, filepath.Base(p))); err != nil {
			return err
		}
	}
	if err := w.open(ctx); err != nil {
		return err
	}
	// A store that is put back has no secrets of a commit that its owner made
	// since: nobody has them, and only adding it again would help. So there is none.
	load := loadSpec{Seed: w.random.Uint64(), Sends: 80}
	forgetful := len(places) == 1 && strings.HasPrefix(places[0], w.hostDir(0))
	if !forgetful {
		load.Changes = 4
	}
	if err := w.ask(ctx, request{Do: doBurst, Load: load}); err != nil {
		return err
	}
	if err := w.down(ctx); err != nil {
		return err
	}
	for _, p := range places {
		if err := copyAny(filepath.Join(kept, filepath.Base(p)), p); err != nil {
			return err
		}
		if p == w.storeOf(0) {
			if err := w.refused(ctx, 0); err != nil {
				return err
			}
		}
		w.struck()
	}
	if forgetful {
		if err := w.forget(0, w.lives[0]); err != nil {
			return err
		}
	}
	// Positions of before the rewinding mean something else after it.
	w.since = 0
	for _, life := range w.lives {
		w.since = max(w.since, life+1)
	}
	for n := range w.lives {
		w.lives[n] = w.since - 1
	}
	if err := w.open(ctx); err != nil {
		return err
	}
	return w.some(ctx)
}

// forget notes what a host sent in a life that its store knows nothing of.
func (w *world) forget(n, life int) error {
	entries, err := ledger.Read(w.ledgerOf(n))
	for _, e := range entries {
		if e.Event == ledger.Tried && e.Life == life {
			w.forgot[e.Token] = e.Person
		}
	}
	return err
}

// refused sees that a store which was put back does not open unasked.
func (w *world) refused(ctx context.Context, n int) error {
	if err := w.log.start(ctx); err != nil {
		return err
	}
	s, err := w.look(ctx, n)
	if err != nil {
		return err
	}
	if s.Named != "ErrRolledBack" {
		w.see(audit.Silent, "host %d opened an older store without being allowed to: %q", n, s.Error)
	}
	w.rolled[n] = true
	return nil
}

// copyAny copies a folder or a file in the place of another.
func copyAny(from, to string) error {
	if info, err := os.Stat(from); err != nil || info.IsDir() {
		return errors.Join(err, copyDir(from, to))
	}
	return errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), os.RemoveAll(to), copyFile(from, to))
}

// storeOf is where a host keeps its store, without the mark that lies beside it.
func (w *world) storeOf(n int) string { return filepath.Join(w.hostDir(n), "store") }

// some is a load for a moment, which is brought to its end.
func (w *world) some(ctx context.Context) error {
	if err := w.begin(ctx, lightLoad); err != nil {
		return err
	}
	w.sleep(ctx, 700*time.Millisecond, 1200*time.Millisecond)
	return nil
}

// down brings all to its end, and stops everything.
func (w *world) down(ctx context.Context) error {
	stuck, err := w.calm(ctx)
	w.mu.Lock()
	w.found = append(w.found, stuck...)
	w.mu.Unlock()
	return errors.Join(err, w.log.stop())
}
