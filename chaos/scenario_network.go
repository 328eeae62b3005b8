package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/conclave-chat/conclave/chaos/wire"
)

// steadyLoad goes on for long without piling up more than can be caught up with.
var steadyLoad = loadSpec{Senders: 2, Pause: 60 * time.Millisecond, Change: 400 * time.Millisecond}

// freezes are how long the log stands still, by round: also for longer than the
// 30 s in which it recognises a repeat.
var freezes = []time.Duration{5, 33, 10, 60, 15, 45, 8, 36, 20, 31}

// freezeServe: the log answers nothing for a while, and then everything at once.
var freezeServe = scenario{
	name:  "freeze-log",
	does:  "SIGSTOP of serve for 5 to 60 s under load, then SIGCONT",
	holds: "what was sealed again while its first copy was still on its way is one message",
	world: worldSpec{hosts: 2, people: 6, groups: 2, guests: 1},
	log:   serveLog,
	round: func(ctx context.Context, w *world, full bool) error {
		s := w.log.(*serve)
		if err := w.begin(ctx, steadyLoad); err != nil {
			return err
		}
		w.sleep(ctx, 300*time.Millisecond, 600*time.Millisecond)
		long := freezes[w.round%len(freezes)] * time.Second
		if err := s.p.freeze(); err != nil {
			return err
		}
		w.struck()
		pause(ctx, long)
		if err := s.p.thaw(); err != nil {
			return err
		}
		w.sleep(ctx, 500*time.Millisecond, time.Second)
		return nil
	},
}

// A proxied is a serve that each host reaches through a proxy of its own.
type proxied struct {
	*serve
	proxies []*wire.Proxy
}

func proxiedLog(w *world) (logSide, error) {
	s, err := newServe(w)
	if err != nil {
		return nil, err
	}
	// A host finds the password of a port, and the proxies have others.
	secret := filepath.Join(w.dir, "host-password")
	if err := os.WriteFile(secret, []byte("chaos\n"), 0o600); err != nil {
		return nil, err
	}
	s.args = append(s.args, "--user", "host", "--password-file", secret)
	l := &proxied{serve: s}
	for range w.hosts {
		p, err := wire.NewProxy(s.address)
		if err != nil {
			return nil, err
		}
		l.proxies = append(l.proxies, p)
		w.ends = append(w.ends, p.Close)
	}
	return l, nil
}

func (l *proxied) point(n int, h *hostSpec) { h.NATS = "nats://host:chaos@" + l.proxies[n].Address() }

// cutOff: one host at a time loses its network, in both of the ways that
// networks are lost.
var cutOff = scenario{
	name:  "cut-off",
	does:  "one of two hosts loses the log: connections broken, or held with nothing coming through",
	world: worldSpec{hosts: 2, people: 6, groups: 2, guests: 1},
	log:   proxiedLog,
	round: func(ctx context.Context, w *world, full bool) error {
		l := w.log.(*proxied)
		if err := w.begin(ctx, steadyLoad); err != nil {
			return err
		}
		return w.times(4, 8, full, func(i int) error {
			p := l.proxies[w.random.IntN(len(l.proxies))]
			w.sleep(ctx, 100*time.Millisecond, 500*time.Millisecond)
			w.struck()
			if i%2 == 0 {
				p.Cut()
			} else {
				p.Hold()
			}
			w.sleep(ctx, 200*time.Millisecond, 1500*time.Millisecond)
			p.Heal()
			return nil
		})
	},
}

// A sieved is an XMTP network whose streams have holes.
type sieved struct {
	*serve
	sieve *wire.Sieve
}

func sievedLog(w *world) (logSide, error) {
	s, err := newServe(w)
	if err != nil {
		return nil, err
	}
	address, err := freePort()
	if err != nil {
		return nil, err
	}
	s.args = []string{"--xmtp", address}
	sieve, err := wire.NewSieve(address, w.random.Uint64(), 0.2)
	if err != nil {
		return nil, err
	}
	w.ends = append(w.ends, sieve.Close)
	return &sieved{s, sieve}, nil
}

func (l *sieved) point(_ int, h *hostSpec) { h.XMTP = "http://" + l.sieve.Address() }

// holes: a foreign network's live streams pass over messages, its queries do not.
var holes = scenario{
	name:  "holes",
	does:  "hosts on an XMTP network through a proxy that drops a fifth of what its streams yield",
	holds: "everybody reads from a cursor of his own, and what a stream says is a hint",
	world: worldSpec{hosts: 2, people: 6, groups: 2, guests: 1},
	log:   sievedLog,
	round: func(ctx context.Context, w *world, full bool) error {
		if err := w.begin(ctx, steadyLoad); err != nil {
			return err
		}
		w.sleep(ctx, 3*time.Second, 4*time.Second)
		if w.faults = w.log.(*sieved).sieve.Dropped(); w.faults == 0 {
			return errors.New("the proxy dropped nothing")
		}
		return nil
	},
}
