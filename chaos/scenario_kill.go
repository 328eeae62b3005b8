package main

import (
	"context"
	"time"
)

// killHost: one host with its log inside is killed while it sends, and while it
// opens.
var killHost = scenario{
	name:  "kill-host",
	does:  "kill -9 of a host that embeds its log, under load and while it opens",
	world: worldSpec{hosts: 1, people: 9, groups: 3, guests: 1},
	round: func(ctx context.Context, w *world, full bool) error {
		return w.times(8, 20, full, func(i int) error {
			if err := w.open(ctx); err != nil {
				return err
			}
			if err := w.begin(ctx, lightLoad); err != nil {
				return err
			}
			w.sleep(ctx, 50*time.Millisecond, 500*time.Millisecond)
			w.killHost(0)
			if i%3 == 2 {
				return w.killOpening(ctx, 0)
			}
			return nil
		})
	},
}

// killServe: the log and its hosts are processes of their own, and each dies by
// itself.
var killServe = scenario{
	name:  "kill-serve",
	does:  "kill -9 of serve and of two hosts on it, each by itself, under load and while they open",
	world: worldSpec{hosts: 2, people: 8, groups: 3, guests: 1},
	log:   serveLog,
	round: func(ctx context.Context, w *world, full bool) error {
		s := w.log.(*serve)
		return w.times(8, 20, full, func(i int) error {
			if err := w.open(ctx); err != nil {
				return err
			}
			if err := w.begin(ctx, lightLoad); err != nil {
				return err
			}
			w.sleep(ctx, 50*time.Millisecond, 500*time.Millisecond)
			if victim := w.random.IntN(3); victim < 2 {
				w.killHost(victim)
				if i%3 == 2 {
					return w.killOpening(ctx, victim)
				}
				return nil
			}
			s.kill()
			if i%3 == 2 {
				if err := s.launch(); err != nil {
					return err
				}
				w.sleep(ctx, 0, 200*time.Millisecond)
				s.kill()
			}
			w.sleep(ctx, 0, 300*time.Millisecond) // the hosts send into nothing
			return nil
		})
	},
}

// killOpening kills a host somewhere on its way to being open.
func (w *world) killOpening(ctx context.Context, n int) error {
	if _, err := w.launch(n); err != nil {
		return err
	}
	w.sleep(ctx, 0, 300*time.Millisecond)
	w.killHost(n)
	return nil
}

// times does something so often, or more often in a full run.
func (w *world) times(short, long int, full bool, f func(i int) error) error {
	if full {
		short = long
	}
	for i := range short {
		if err := f(i); err != nil {
			return err
		}
	}
	return nil
}

// sleep lets the world go on for a while.
func (w *world) sleep(ctx context.Context, least, most time.Duration) {
	pause(ctx, least+time.Duration(w.random.Int64N(int64(most-least)+1)))
}
