package memory

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/conclave-chat/conclave/bus"
)

type service struct {
	bus     *Bus
	name    string
	handle  bus.Handler
	running sync.WaitGroup
}

// Serve implements bus.Bus. Several servers of one name take turns.
func (b *Bus) Serve(name string, handle bus.Handler) (stop func(), err error) {
	if err := bus.CheckService(name); err != nil {
		return nil, err
	}
	l := b.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if b.closed {
		return nil, bus.ErrClosed
	}
	s := &service{bus: b, name: name, handle: handle}
	b.services[s] = struct{}{}
	l.services[name] = append(l.services[name], s)
	return func() {
		l.mu.Lock()
		s.withdraw()
		l.mu.Unlock()
		s.running.Wait()
	}, nil
}

// withdraw makes the service unknown; what runs goes on. Called with the log's
// mutex held.
func (s *service) withdraw() {
	l := s.bus.log
	delete(s.bus.services, s)
	left := slices.DeleteFunc(l.services[s.name], func(other *service) bool { return other == s })
	if len(left) == 0 {
		delete(l.services, s.name)
	} else {
		l.services[s.name] = left
	}
}

// Request implements bus.Bus. The handler runs in a goroutine of its own and
// sees copies, as it would on the other side of a wire.
func (b *Bus) Request(ctx context.Context, name string, payload []byte) ([]byte, error) {
	if err := bus.CheckService(name); err != nil {
		return nil, err
	}
	if len(payload) > bus.MaxRequest {
		return nil, fmt.Errorf("%w: request of %d bytes, at most %d", bus.ErrTooLarge, len(payload), bus.MaxRequest)
	}
	s, err := b.server(ctx, name)
	if err != nil {
		return nil, err
	}
	type outcome struct {
		answer []byte
		failed *bus.ServiceError
	}
	done := make(chan outcome, 1)
	handlerCtx, cancel := s.bus.ctx, context.CancelFunc(func() {})
	if deadline, ok := ctx.Deadline(); ok {
		handlerCtx, cancel = context.WithDeadline(handlerCtx, deadline)
	}
	payload = bytes.Clone(payload)
	go func() {
		defer s.running.Done()
		defer cancel()
		answer, failed := bus.Answer(handlerCtx, b.log.cfg.Logger, s.handle, payload)
		done <- outcome{bytes.Clone(answer), failed}
	}()
	select {
	case o := <-done:
		if o.failed != nil {
			return nil, o.failed
		}
		return o.answer, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-b.ctx.Done():
		return nil, bus.ErrClosed
	}
}

// server picks who answers and counts the request as running there.
func (b *Bus) server(ctx context.Context, name string) (*service, error) {
	l := b.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	servers := l.services[name]
	if len(servers) == 0 {
		return nil, fmt.Errorf("%w: %s", bus.ErrNoService, name)
	}
	l.turn++
	s := servers[l.turn%len(servers)]
	s.running.Add(1)
	return s, nil
}
