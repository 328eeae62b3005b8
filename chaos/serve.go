package main

import (
	"cmp"
	"context"
	"path/filepath"
)

// A serve is `conclave serve` with a log of its own, at an address that stays.
type serve struct {
	w       *world
	address string   // where hosts reach NATS
	at      string   // its directory; of the world where empty
	args    []string // further ones
	instead []string // of those that give it a log of its own
	p       *process // nil: not running
}

func serveLog(w *world) (logSide, error) { return newServe(w) }

func newServe(w *world) (*serve, error) {
	address, err := freePort()
	return &serve{w: w, address: address}, err
}

func (s *serve) dir() string { return cmp.Or(s.at, filepath.Join(s.w.dir, "log")) }

// launch starts it, without waiting until it serves.
func (s *serve) launch() (err error) {
	args := []string{"serve", "--dir", s.dir(), "--listen", s.address}
	if s.instead != nil {
		args = append([]string{"serve"}, s.instead...)
	}
	s.p, err = start(s.w.dir, "serve", s.w.tools.conclave, append(args, s.args...)...)
	return err
}

func (s *serve) start(ctx context.Context) error {
	if s.p != nil {
		return nil
	}
	if err := s.launch(); err != nil {
		return err
	}
	return s.ready(ctx)
}

func (s *serve) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	return s.p.until(ctx, "serving at")
}

func (s *serve) stop() error {
	if s.p == nil {
		return nil
	}
	err := s.p.stop()
	s.p = nil
	return err
}

func (s *serve) kill() {
	if s.p != nil {
		s.p.kill()
		s.p = nil
		s.w.killed()
	}
}

func (s *serve) point(_ int, h *hostSpec) { h.NATS = "nats://" + s.address }
