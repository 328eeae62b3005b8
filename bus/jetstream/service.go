package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/conclave-chat/conclave/bus"
)

// Headers of requests and answers.
const (
	headerTimeout = "Conclave-Timeout" // of a request: what its asker has left
	headerError   = "Conclave-Error"   // of an answer: the code of an error, whose message is the body
)

// maxHandlers is how many handlers of one service run at once; more requests
// wait, each for as long as its asker does, up to the limits below, beyond which
// they are refused.
const (
	maxHandlers     = 256
	maxWaiting      = 4096
	maxWaitingBytes = 64 << 20
)

var (
	errCrowded = &bus.ServiceError{Code: bus.CodeExhausted, Message: "too many requests wait for this service: ask again later"}
	errLate    = &bus.ServiceError{Code: bus.CodeUnavailable, Message: "this service is busy: ask again"}
)

type service struct {
	bus     *Bus
	handle  bus.Handler
	sub     *nats.Subscription
	slots   chan struct{}
	running sync.WaitGroup
	queue   queue
	ended   chan struct{} // the subscription has delivered its last
	once    sync.Once
}

func (b *Bus) serviceSubject(name string) string { return b.cfg.Deployment + ".svc." + name }

// Serve implements bus.Bus. Servers of one name share the requests.
func (b *Bus) Serve(name string, handle bus.Handler) (stop func(), err error) {
	if err := bus.CheckService(name); err != nil {
		return nil, err
	}
	s := &service{bus: b, handle: handle, slots: make(chan struct{}, maxHandlers), ended: make(chan struct{})}
	if err := s.subscribe(b.serviceSubject(name)); err != nil {
		return nil, err
	}
	// The server must know of it before anybody is told; while the connection
	// is lost it cannot, and will be told with the reconnect.
	if b.nc.IsConnected() {
		if err := b.nc.FlushTimeout(attemptTimeout); err != nil {
			b.log.Warn("service not announced yet", "service", name, "error", err)
		}
		// What the server forbids it has said before it answered the flush.
		last := b.nc.LastError()
		if subject := b.serviceSubject(name); errors.Is(last, nats.ErrPermissionViolation) && strings.Contains(last.Error(), `Subscription to "`+subject+`"`) {
			b.forget(s)
			return nil, fmt.Errorf("%w: the server lets only a node serve %s: present a node's user", bus.ErrRefused, subject)
		}
	}
	return func() { b.forget(s) }, nil
}

// forget stops a service that Close then has no more to do with.
func (b *Bus) forget(s *service) {
	b.mu.Lock()
	delete(b.services, s)
	b.mu.Unlock()
	s.stop()
}

func (s *service) subscribe(subject string) (err error) {
	b := s.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return bus.ErrClosed
	}
	s.sub, err = b.nc.QueueSubscribe(subject, "servers", s.receive)
	if err != nil {
		return fmt.Errorf("%w: serve %s: %w", bus.ErrUnavailable, subject, err)
	}
	s.sub.SetClosedHandler(func(string) { close(s.ended) })
	b.services[s] = struct{}{}
	return nil
}

// drainTimeout is how long a server may take to say that no request is on its way
// any more.
const drainTimeout = 2 * time.Second

// stop takes no more requests and waits for the handlers that run. From a server
// that is gone nothing comes any more, and nothing is waited for.
func (s *service) stop() {
	s.once.Do(func() {
		log := s.bus.log
		if s.bus.cut.Load() == nil {
			if err := s.sub.Drain(); err != nil {
				log.Debug("service not drained", "error", err)
				return
			}
			select {
			case <-s.ended:
				return
			case <-time.After(drainTimeout):
			}
		}
		if err := s.sub.Unsubscribe(); err != nil {
			log.Debug("service not unsubscribed", "error", err)
		}
	})
	s.running.Wait()
}

// answerable says whether a request names a place that an answer may go to. With
// this connection's rights an answer could be published where its asker may not:
// to a topic, a service or the server itself.
func (b *Bus) answerable(reply string) bool {
	rest, ours := strings.CutPrefix(reply, b.cfg.Deployment+".")
	token, _, _ := strings.Cut(rest, ".")
	_, err := strconv.Atoi(token)
	return reply != "" && reply[0] != '$' && (!ours || err != nil && token != "svc")
}

func (s *service) receive(m *nats.Msg) {
	if !s.bus.answerable(m.Reply) {
		s.bus.log.Warn("request not answered: its answer would go to no inbox", "subject", m.Subject)
		return
	}
	if !s.queue.enter(len(m.Data)) {
		s.answer(m, nil, errCrowded)
		return
	}
	ctx, cancel := s.bus.ctx, context.CancelFunc(func() {})
	if left, err := time.ParseDuration(m.Header.Get(headerTimeout)); err == nil {
		ctx, cancel = context.WithTimeout(ctx, left)
	}
	s.running.Go(func() {
		defer cancel()
		select {
		case s.slots <- struct{}{}:
			s.queue.leave(len(m.Data))
			defer func() { <-s.slots }()
		case <-ctx.Done():
			s.queue.leave(len(m.Data))
			s.answer(m, nil, errLate)
			return
		}
		data, failed := bus.Answer(ctx, s.bus.log, s.handle, m.Data)
		s.answer(m, data, failed)
	})
}

func (s *service) answer(m *nats.Msg, data []byte, failed *bus.ServiceError) {
	answer := &nats.Msg{Subject: m.Reply, Data: data}
	if failed != nil {
		answer.Header = nats.Header{headerError: {failed.Code}}
		answer.Data = []byte(failed.Message)
	}
	if err := s.bus.nc.PublishMsg(answer); err != nil {
		s.bus.log.Warn("answer not sent", "error", err)
	}
}

// A queue counts the requests of one service that wait, and their bytes.
type queue struct {
	mu              sync.Mutex
	requests, bytes int
}

// enter reports false where no more may wait.
func (q *queue) enter(size int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.requests >= maxWaiting || q.bytes+size > maxWaitingBytes {
		return false
	}
	q.requests++
	q.bytes += size
	return true
}

func (q *queue) leave(size int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.requests--
	q.bytes -= size
}

// Request implements bus.Bus. It is sent once: what the handler does twice when
// asked twice is not known here.
func (b *Bus) Request(ctx context.Context, name string, payload []byte) ([]byte, error) {
	if err := bus.CheckService(name); err != nil {
		return nil, err
	}
	if most := min(bus.MaxRequest, int(b.nc.MaxPayload())-headroom); len(payload) > most {
		return nil, fmt.Errorf("%w: request of %d bytes, at most %d", bus.ErrTooLarge, len(payload), most)
	}
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	b.mu.Lock()
	link := b.link
	b.mu.Unlock()
	subject := b.serviceSubject(name)
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(link, cancel)()
	watched, done := b.refusals.watch(waiting, subject)
	defer done()

	m := nats.NewMsg(subject)
	m.Data = payload
	if at, ok := ctx.Deadline(); ok {
		m.Header.Set(headerTimeout, time.Until(at).String())
	}
	answer, err := b.nc.RequestMsgWithContext(watched, m)
	if err == nil {
		if code := answer.Header.Get(headerError); code != "" {
			return nil, &bus.ServiceError{Code: code, Message: string(answer.Data)}
		}
		return answer.Data, nil
	}
	if cause := context.Cause(watched); errors.Is(cause, bus.ErrRefused) {
		return nil, cause
	}
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, fmt.Errorf("%w: %s", bus.ErrNoService, name)
	}
	return nil, fmt.Errorf("%w: request %s: %w", bus.ErrUnavailable, name, err)
}
