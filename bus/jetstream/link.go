package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave/bus"
)

// errCut is the reason of a lost connection that has none.
var errCut = errors.New("connection lost")

// dial makes the connection. Once made it is made again, for ever, whenever it is
// lost, also where the server refuses the credentials for a while: they may be
// about to change, here or there.
func (b *Bus) dial(ctx context.Context) error {
	opts := []nats.Option{
		nats.Name("conclave " + b.cfg.Deployment),
		nats.CustomInboxPrefix(b.cfg.InboxPrefix),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, time.Second),
		nats.ReconnectBufSize(-1), // our own retry holds the bytes
		nats.PingInterval(5 * time.Second),
		nats.DisconnectErrHandler(b.disconnected),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { b.cutOff(err) }),
		nats.ReconnectHandler(b.reconnected),
		nats.ErrorHandler(b.asyncError),
	}
	if b.server != nil {
		opts = append(opts, b.server.dialOptions()...)
	} else {
		more, err := b.cfg.Credentials.dialOptions(b.cfg.URL)
		if err != nil {
			return fmt.Errorf("jetstream: %w", err)
		}
		opts = append(opts, more...)
	}
	nc, err := connectNATS(ctx, b.cfg.URL, opts)
	switch {
	case refusesUs(err):
		return fmt.Errorf("%w: connect: %w", bus.ErrRefused, err)
	case err != nil:
		return fmt.Errorf("%w: connect: %w", bus.ErrUnavailable, err)
	}
	b.nc = nc
	b.js, err = jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	return nil
}

// refusesUs says whether the credentials are at fault.
func refusesUs(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) ||
		errors.Is(err, nats.ErrAuthRevoked) || errors.Is(err, nats.ErrAccountAuthExpired)
}

// connectNATS is nats.Connect that ends with ctx.
func connectNATS(ctx context.Context, url string, opts []nats.Option) (*nats.Conn, error) {
	type result struct {
		nc  *nats.Conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		nc, err := nats.Connect(url, opts...)
		done <- result{nc, err}
	}()
	select {
	case r := <-done:
		return r.nc, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.nc != nil {
				r.nc.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// disconnected ends what is under way on a connection that was lost.
func (b *Bus) disconnected(_ *nats.Conn, err error) {
	if b.ctx.Err() != nil {
		return
	}
	if b.cut.Load() == nil { // the server may have said why
		b.cutOff(cmp.Or(err, errCut))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unlink()
	b.link, b.unlink = context.WithCancel(b.ctx)
}

// cutOff notes why there is no connection, and logs each reason once.
func (b *Bus) cutOff(err error) {
	before := b.cut.Swap(&err)
	if b.ctx.Err() == nil && (before == nil || (*before).Error() != err.Error()) {
		b.log.Warn("bus cut off", "error", err)
	}
}

func (b *Bus) reconnected(nc *nats.Conn) {
	b.cut.Store(nil)
	b.log.Warn("bus connection restored", "url", nc.ConnectedUrlRedacted())
	b.run(func() {
		if err := b.adopt(b.ctx); err != nil && b.ctx.Err() == nil {
			b.log.Error("bus deployment not found again", "error", err)
		}
	})
}

// asyncError hears what the server says of the connection as a whole.
func (b *Bus) asyncError(nc *nats.Conn, sub *nats.Subscription, err error) {
	switch {
	case errors.Is(err, nats.ErrPermissionViolation) && b.refusals.tell(err):
	case refusesUs(err), !nc.IsConnected():
		b.cutOff(err)
	default:
		subject := ""
		if sub != nil {
			subject = sub.Subject
		}
		b.log.Warn("bus error", "error", err, "subject", subject)
	}
}

// What Ready asks the log: how long it waits, and for how long an answer counts.
const (
	readyTimeout = 2 * time.Second
	readyFor     = time.Second
)

// A probe is the last answer to Ready. Only one question is under way.
type probe struct {
	round[struct{}]
	at  time.Time
	why error
}

// Ready says why the log takes nothing now; nil where it does. A connection that
// stands says little: the leader of every shard has to answer.
func (b *Bus) Ready(ctx context.Context) error {
	if err := b.unready(); err != nil {
		return err
	}
	p := &b.probe
	_, err := p.ask(ctx, b.run, func() (struct{}, error) {
		if time.Since(p.at) > readyFor {
			p.why = b.leadersAnswer()
			p.at = time.Now()
		}
		return struct{}{}, p.why
	})
	return err
}

func (b *Bus) leadersAnswer() error {
	ctx, cancel := context.WithTimeout(b.ctx, readyTimeout)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for n := range b.Info().Shards {
		g.Go(func() error {
			if _, err := b.streamInfo(ctx, n); err != nil {
				return fmt.Errorf("%w: shard %d does not answer: %w", bus.ErrUnavailable, n, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// unready is what is known without asking.
func (b *Bus) unready() error {
	if b.ctx.Err() != nil {
		return bus.ErrClosed
	}
	if b.server != nil {
		if err := b.server.ready(); err != nil {
			return err
		}
	}
	if why := b.cut.Load(); why != nil {
		return fmt.Errorf("%w: cut off: %w", bus.ErrUnavailable, *why)
	}
	if b.full.now() {
		return fmt.Errorf("%w: the last publish was refused", bus.ErrFull)
	}
	if damage := b.damage.Load(); damage != nil {
		return *damage
	}
	return nil
}

// unavailable is what becomes of a call that gave up: the reason of a lost
// connection says more than the end of a wait.
func (b *Bus) unavailable(what string, err error) error {
	if b.server != nil {
		err = cmp.Or(b.server.ready(), err)
	}
	if why := b.cut.Load(); why != nil {
		return fmt.Errorf("%w: %s: cut off: %w", bus.ErrUnavailable, what, *why)
	}
	return fmt.Errorf("%w: %s: %w", bus.ErrUnavailable, what, err)
}

// run starts f, for whose end Close waits; false where the bus is closed.
func (b *Bus) run(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.running.Go(f)
	return true
}
