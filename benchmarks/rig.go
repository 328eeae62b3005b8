package benchmarks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
)

// Options are what all benchmarks take.
type Options struct {
	Dir    string // a new directory, which the caller removes
	Seed   uint64
	Logger *slog.Logger // silent where nil
}

func (o Options) logger() *slog.Logger {
	if o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Logger
}

// A rig is a host under load, on a real bus and a real store in one directory.
type rig struct {
	*conclave.Host
	bus   bus.Bus
	crowd *Crowd
}

// newRig opens a host with n registered installations.
func newRig(ctx context.Context, o Options, n int, configure func(*conclave.Config)) (_ *rig, err error) {
	b, err := jetstream.Open(ctx, jetstream.Config{Dir: filepath.Join(o.Dir, "bus"), Logger: o.logger()})
	if err != nil {
		return nil, err
	}
	r := &rig{bus: b}
	config := conclave.Config{Dir: o.Dir, Bus: b, ServeNode: true, Logger: o.logger()}
	if configure != nil {
		configure(&config)
	}
	if r.Host, err = conclave.Open(ctx, config); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	if r.crowd, err = OpenCrowd(o.Dir, n); err == nil {
		err = r.crowd.Register(ctx, r.Host, nil)
	}
	if err != nil {
		return nil, errors.Join(err, r.close(ctx))
	}
	return r, nil
}

// restTime is how long a host may take to come to rest.
const restTime = time.Minute

// close drains the host. It is idempotent.
func (r *rig) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restTime)
	defer cancel()
	return errors.Join(r.Host.Close(ctx), r.bus.Close())
}

// checkAlone reads the stores of a directory's members with no bus at all.
func checkAlone(ctx context.Context, o Options, info bus.Info, c *Crowd, groups []Group, lines []Line, sent Sent) (Verdict, error) {
	host, err := conclave.Open(ctx, conclave.Config{Dir: o.Dir, Bus: switchedOff{info}, Logger: o.logger()})
	if err != nil {
		return Verdict{}, fmt.Errorf("open the stores alone: %w", err)
	}
	v, err := c.Check(ctx, host, groups, lines, sent.IDs, nil)
	return v, errors.Join(err, host.Close(ctx))
}

// switchedOff is a bus that nobody answers on. It knows which log it was, so
// that the store's cursors still belong to it.
type switchedOff struct{ info bus.Info }

func (b switchedOff) Info() bus.Info { return b.info }

func (switchedOff) Publish(context.Context, bus.Topic, []byte, ...bus.PublishOption) (bus.Ack, error) {
	return bus.Ack{}, bus.ErrUnavailable
}

func (switchedOff) Read(context.Context, bus.ID, int, ...bus.Topic) ([]bus.Envelope, error) {
	return nil, bus.ErrUnavailable
}

func (switchedOff) Last(context.Context, ...bus.Topic) ([]bus.ID, error) {
	return nil, bus.ErrUnavailable
}

func (switchedOff) End(context.Context, bus.Topic) (bus.ID, error) { return 0, bus.ErrUnavailable }

func (switchedOff) Lost(bus.Topic) (bus.ID, bool) { return 0, false }

func (switchedOff) Open(context.Context) (bus.Feed, error) {
	return silence{make(chan struct{})}, nil
}

func (switchedOff) Request(context.Context, string, []byte) ([]byte, error) {
	return nil, bus.ErrUnavailable
}

func (switchedOff) Serve(string, bus.Handler) (func(), error) { return nil, bus.ErrUnavailable }

func (switchedOff) Close() error { return nil }

// silence is a feed on which nothing comes.
type silence struct{ closed chan struct{} }

func (silence) Follow(context.Context, bus.ID, ...bus.Topic) error { return bus.ErrUnavailable }
func (silence) FollowAll(context.Context) error                    { return bus.ErrUnavailable }
func (silence) Unfollow(...bus.Topic)                              {}

func (f silence) Next(ctx context.Context) ([]bus.Envelope, error) {
	select {
	case <-f.closed:
		return nil, bus.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f silence) Close() error {
	select {
	case <-f.closed:
	default:
		close(f.closed)
	}
	return nil
}
