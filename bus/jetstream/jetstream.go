// Package jetstream is the bus on NATS JetStream: on a server embedded in this
// process, or on a NATS server or cluster. It is the only package that imports
// NATS.
//
// # Layout
//
// Shard n of a deployment is the stream <Deployment>_<n>, which binds the
// subjects <Deployment>.<n>.>; a topic's subject is <Deployment>.<n>.<topic>,
// such as CONCLAVE.0.g.00112233445566778899aabbccddeeff.c. Only bus.Topic makes
// the last part, so that no id can be a wildcard. A service's subject is
// <Deployment>.svc.<name>.
//
// A deployment's constants, its incarnation and its number of shards, stand in
// the metadata of every stream. They are made once, with the first stream.
//
// # Permissions
//
// HostRights are the subjects that a host uses, NodeRights those of a node, and
// OperatorRights those of an operator, who alone deletes. A server that this process embeds and opens to others grants these, and those who
// keep a server of their own are to.
package jetstream

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/conclave-chat/conclave/bus"
)

// Bus is one connection of a host to a deployment.
type Bus struct {
	cfg    Config
	log    *slog.Logger
	server *embedded // nil for an external server
	nc     *nats.Conn
	js     jetstream.JetStream

	info atomic.Pointer[bus.Info]
	// replicated says that followers answer reads too, and may lag.
	replicated atomic.Bool
	directGet  string // what any replica answers reads under, before the stream's name
	tails      []*tail
	slots      chan struct{} // one for each publish under way
	asks       chan struct{} // one for each question under way
	states     [bus.MaxShards]round[jetstream.StreamState]
	refusals   refusals
	probe      probe
	cut        atomic.Pointer[error] // why the connection is lost; nil while it stands
	full       fullness
	damage     atomic.Pointer[error]        // what a tail stopped before; nil where nothing was
	lostFrom   [bus.MaxShards]atomic.Uint64 // the first sequence whose loss was accepted; 0: none was

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup // tails and handlers

	mu       sync.Mutex
	closed   bool
	link     context.Context // ends when the connection is lost
	unlink   context.CancelFunc
	feeds    map[*feed]struct{}
	services map[*service]struct{}
}

var _ bus.Bus = (*Bus)(nil)

// What may be under way on one connection: publishes, and questions to the log.
// More wait here. The server would drop them all when its own queue is full.
const (
	maxPublishing = 512
	maxAsking     = 512
)

// Open connects, starting the embedded server where Dir says so, and creates
// the deployment if there is none. Where Config.Wait says so it waits until ctx
// ends for servers that cannot be reached.
func Open(ctx context.Context, cfg Config) (*Bus, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	const shortest, longest = 100 * time.Millisecond, 2 * time.Second
	var said time.Time
	for wait := shortest; ; wait = min(2*wait, longest) {
		b, err := open(ctx, cfg)
		if err == nil && !said.IsZero() {
			cfg.Logger.Warn("bus reached")
		}
		if !cfg.Wait || !errors.Is(err, bus.ErrUnavailable) {
			return b, err
		}
		if time.Since(said) > 10*time.Second {
			said = time.Now()
			cfg.Logger.Warn("bus cannot be reached yet, waiting for it", "error", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", err, ctx.Err())
		}
	}
}

func open(ctx context.Context, cfg Config) (_ *Bus, err error) {
	var server *embedded
	if cfg.Dir != "" {
		if server, err = startServer(ctx, cfg); err != nil {
			return nil, err
		}
	}
	b, err := connect(ctx, cfg, server)
	if err == nil && server != nil {
		if err = server.accept(); err != nil {
			return nil, errors.Join(err, b.Close())
		}
	}
	return b, err
}

// Connect opens another connection to the same deployment, as a second host
// would have. The embedded server runs until the last of them is closed.
func (b *Bus) Connect(ctx context.Context) (*Bus, error) {
	if b.ctx.Err() != nil {
		return nil, bus.ErrClosed
	}
	if b.server != nil {
		b.server.hold()
	}
	return connect(ctx, b.cfg, b.server)
}

// connect takes over one hold of the server.
func connect(ctx context.Context, cfg Config, server *embedded) (*Bus, error) {
	b := &Bus{
		cfg: cfg, log: cfg.Logger, server: server,
		directGet: "$JS.API.DIRECT.GET.",
		slots:     make(chan struct{}, maxPublishing),
		asks:      make(chan struct{}, maxAsking),
		feeds:     make(map[*feed]struct{}),
		services:  make(map[*service]struct{}),
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.link, b.unlink = context.WithCancel(b.ctx)
	b.info.Store(&bus.Info{})
	if err := b.dial(ctx); err != nil {
		b.Close()
		return nil, err
	}
	if err := b.adopt(ctx); err != nil {
		b.Close()
		return nil, err
	}
	for n := range b.Info().Shards {
		b.tails = append(b.tails, newTail(b, n))
	}
	return b, nil
}

// Metadata keys of every stream.
const (
	metaIncarnation = "conclave.incarnation"
	metaShards      = "conclave.shards"
	metaFormat      = "conclave.format"
	metaLosses      = "conclave.losses" // how often a loss was accepted; missing where none was
	metaLost        = "conclave.lost"   // the first sequence of this stream that was; missing where none was
	format          = "1"
)

func (b *Bus) stream(shard int) string { return b.cfg.Deployment + "_" + strconv.Itoa(shard) }
func (b *Bus) prefix(shard int) string { return b.cfg.Deployment + "." + strconv.Itoa(shard) + "." }

func (b *Bus) subject(shard int, t bus.Topic) string { return b.prefix(shard) + t.String() }

// adopt learns the deployment's constants, and creates the streams that are
// missing. It runs on opening and after each reconnect, when nothing is created:
// what was there and is not any more must not look like a log that is empty.
func (b *Bus) adopt(ctx context.Context) error {
	return b.retry(ctx, "open deployment", func(ctx context.Context) error {
		first, err := b.anyStream(ctx)
		if err != nil {
			return err
		}
		if first == nil {
			if b.Info().Incarnation != "" {
				return fmt.Errorf("%w: the streams are gone", bus.ErrLogRolledBack)
			}
			if first, err = b.create(ctx, 0, rand.Text(), max(b.cfg.Shards, 1)); err != nil {
				return err
			}
		}
		info, err := b.readConstants(first)
		if err != nil {
			return err
		}
		var lost map[string]uint64
		if b.server != nil {
			if lost = b.server.accepted(); lost != nil {
				info.Losses++
			}
		}
		b.replicated.Store(first.Config.Replicas > 1)
		for n := range info.Shards {
			if err := b.adoptShard(ctx, n, info, lost); err != nil {
				return err
			}
		}
		if lost != nil {
			b.server.lost.Store(nil) // the streams say so from here on
		}
		b.info.Store(&info)
		return nil
	})
}

// anyStream returns the deployment's first stream, which is not shard 0 where
// that one was lost; nil where there is none.
func (b *Bus) anyStream(ctx context.Context) (*jetstream.StreamInfo, error) {
	for n := range bus.MaxShards {
		info, err := b.streamInfo(ctx, n)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		return info, err
	}
	return nil, nil
}

func (b *Bus) streamInfo(ctx context.Context, shard int) (*jetstream.StreamInfo, error) {
	s, err := b.js.Stream(ctx, b.stream(shard))
	if err != nil {
		return nil, err
	}
	return s.CachedInfo(), nil
}

func (b *Bus) readConstants(s *jetstream.StreamInfo) (bus.Info, error) {
	meta := s.Config.Metadata
	shards, err := strconv.Atoi(meta[metaShards])
	if err != nil || shards < 1 || shards > bus.MaxShards || meta[metaIncarnation] == "" || meta[metaFormat] != format {
		return bus.Info{}, fmt.Errorf("%w: stream %s was not made by this version of the bus", bus.ErrRefused, s.Config.Name)
	}
	if b.cfg.Shards != 0 && b.cfg.Shards != shards {
		return bus.Info{}, fmt.Errorf("%w: Shards is %d, the deployment was created with %d", ErrConfig, b.cfg.Shards, shards)
	}
	if known := b.Info(); known.Shards != 0 && known.Shards != shards {
		return bus.Info{}, fmt.Errorf("%w: the deployment has %d shards now, and had %d", bus.ErrLogRolledBack, shards, known.Shards)
	}
	losses, _ := strconv.Atoi(meta[metaLosses])
	return bus.Info{
		Losses:        losses,
		Incarnation:   meta[metaIncarnation],
		Shards:        shards,
		MaxPayload:    min(b.cfg.MaxPayload, int(b.nc.MaxPayload())-headroom),
		CompareAndSet: true,
		FollowAll:     true,
		Gapless:       true,
	}, nil
}

// adoptShard checks one stream. Where a loss was accepted just now, lost has the
// first sequence of each stream that lacks something, which its metadata says then.
func (b *Bus) adoptShard(ctx context.Context, n int, want bus.Info, lost map[string]uint64) error {
	s, err := b.streamInfo(ctx, n)
	if errors.Is(err, jetstream.ErrStreamNotFound) && b.Info().Incarnation == "" {
		s, err = b.create(ctx, n, want.Incarnation, want.Shards)
	}
	if err != nil {
		return err
	}
	if got := s.Config.Metadata[metaIncarnation]; got != want.Incarnation {
		return fmt.Errorf("%w: stream %s is of incarnation %q, not %q", bus.ErrLogRolledBack, s.Config.Name, got, want.Incarnation)
	}
	if err := b.checkLost(ctx, n, s.State.NumDeleted); err != nil {
		return err
	}
	c := s.Config
	if c.Discard != jetstream.DiscardNew || !c.AllowDirect || c.Retention != jetstream.LimitsPolicy ||
		len(c.Subjects) != 1 || c.Subjects[0] != b.prefix(n)+">" || c.AllowRollup {
		return fmt.Errorf("%w: stream %s is configured so that it could lose or hide envelopes", bus.ErrRefused, c.Name)
	}
	losses := strconv.Itoa(want.Losses)
	news := want.Losses > 0 && b.server != nil && c.Metadata[metaLosses] != losses
	first, _ := strconv.ParseUint(c.Metadata[metaLost], 10, 64)
	if at := lost[c.Name]; news && at > 0 && (first == 0 || at < first) {
		first = at
	}
	if news {
		c.Metadata[metaLosses] = losses
		if first > 0 {
			c.Metadata[metaLost] = strconv.FormatUint(first, 10)
		}
	}
	b.lostFrom[n].Store(first)
	if news || b.cfg.MaxBytes != 0 && c.MaxBytes != b.cfg.MaxBytes {
		c.MaxBytes = cmp.Or(b.cfg.MaxBytes, c.MaxBytes)
		if _, err := b.js.UpdateStream(ctx, c); err != nil {
			return fmt.Errorf("update stream %s: %w", c.Name, err)
		}
	}
	return nil
}

// create makes a stream, or finds the one that another host has made just now.
func (b *Bus) create(ctx context.Context, n int, incarnation string, shards int) (*jetstream.StreamInfo, error) {
	b.log.Info("bus stream created", "stream", b.stream(n), "shards", shards)
	maxBytes := int64(-1)
	if b.cfg.MaxBytes > 0 {
		maxBytes = b.cfg.MaxBytes
	}
	s, err := b.js.CreateStream(ctx, jetstream.StreamConfig{
		Name:        b.stream(n),
		Subjects:    []string{b.prefix(n) + ">"},
		Retention:   jetstream.LimitsPolicy,
		Storage:     jetstream.FileStorage,
		Replicas:    b.cfg.Replicas,
		Discard:     jetstream.DiscardNew, // the default makes room by forgetting
		MaxBytes:    maxBytes,
		MaxMsgs:     -1,
		Duplicates:  dedupWindow,
		DenyDelete:  true, // an operator may purge, see OperatorRights
		AllowDirect: true,
		AllowMsgTTL: true,
		Metadata: map[string]string{
			metaIncarnation: incarnation,
			metaShards:      strconv.Itoa(shards),
			metaFormat:      format,
		},
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return b.streamInfo(ctx, n)
	}
	if err != nil {
		return nil, fmt.Errorf("create stream %s: %w", b.stream(n), err)
	}
	return s.CachedInfo(), nil
}

// Info implements bus.Bus.
func (b *Bus) Info() bus.Info { return *b.info.Load() }

// Lost implements bus.Bus.
func (b *Bus) Lost(t bus.Topic) (bus.ID, bool) {
	n, err := bus.OneShard(b.Info().Shards, 0, t)
	if err != nil {
		return 0, false
	}
	first := b.lostFrom[n].Load()
	if first == 0 {
		return 0, false
	}
	return bus.MakeID(first-1, n), true
}

// ClientURL is where others reach the embedded server; empty where it does not
// listen.
func (b *Bus) ClientURL() string {
	if b.server == nil || b.cfg.Listen == "" {
		return ""
	}
	return b.server.url()
}

// ReadPasswords reads the passwords again that an embedded server asks for: those in
// files, and the one that it has made. Who is connected with one that counts no more
// is cut off. Where one cannot be read all stay as they are.
func (b *Bus) ReadPasswords() error {
	if b.server == nil {
		return nil
	}
	return b.server.reloadUsers()
}

// Close implements bus.Bus.
func (b *Bus) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	feeds, services := b.feeds, b.services
	b.feeds, b.services = nil, nil
	b.mu.Unlock()

	b.cancel()
	for f := range feeds {
		f.Close()
	}
	var stopping sync.WaitGroup
	for s := range services {
		stopping.Go(s.stop)
	}
	stopping.Wait()
	b.running.Wait()
	if b.nc != nil {
		b.nc.Close()
	}
	if b.server != nil {
		b.server.release()
	}
	return nil
}

func (b *Bus) ready(ctx context.Context) error {
	if b.ctx.Err() != nil {
		return bus.ErrClosed
	}
	return ctx.Err()
}

const attemptTimeout = 5 * time.Second

// attempt bounds one try: by ctx, by its own time, by the connection's loss
// and by Close.
func (b *Bus) attempt(ctx context.Context) (context.Context, context.CancelFunc) {
	b.mu.Lock()
	link := b.link
	b.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	stop := context.AfterFunc(link, cancel)
	return ctx, func() { stop(); cancel() }
}

// retry repeats do until it succeeds, refuses for good, or RetryFor is over.
func (b *Bus) retry(ctx context.Context, what string, do func(ctx context.Context) error) error {
	deadline := time.Now().Add(b.cfg.RetryFor)
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		if err := b.ready(ctx); err != nil {
			return err
		}
		attempt, cancel := b.attempt(ctx)
		err := do(attempt)
		cancel()
		if err == nil || final(err) {
			return err
		}
		if err := b.ready(ctx); err != nil {
			return err
		}
		if time.Now().Add(wait).After(deadline) {
			return b.unavailable(what, err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-b.ctx.Done():
		}
		timer.Stop()
	}
}

// ask is retry for a question to the log, of which so many are under way at once.
func (b *Bus) ask(ctx context.Context, what string, do func(ctx context.Context) error) error {
	select {
	case b.asks <- struct{}{}:
		defer func() { <-b.asks }()
	case <-ctx.Done():
		return ctx.Err()
	case <-b.ctx.Done():
		return bus.ErrClosed
	}
	return b.retry(ctx, what, do)
}

// final says whether another try could not change the answer.
func final(err error) bool {
	for _, target := range []error{
		bus.ErrConflict, bus.ErrFull, bus.ErrTooLarge, bus.ErrRefused, bus.ErrLogRolledBack, bus.ErrDamaged, bus.ErrClosed, ErrConfig,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// refusals finds the publish that a permissions violation is about: the server
// answers it on the connection, not on the request.
type refusals struct {
	mu      sync.Mutex
	waiting map[string]map[*context.CancelCauseFunc]struct{} // by subject
}

// watch returns a context that ends with bus.ErrRefused as its cause when the
// server forbids the subject.
func (r *refusals) watch(ctx context.Context, subject string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting == nil {
		r.waiting = make(map[string]map[*context.CancelCauseFunc]struct{})
	}
	if r.waiting[subject] == nil {
		r.waiting[subject] = make(map[*context.CancelCauseFunc]struct{})
	}
	r.waiting[subject][&cancel] = struct{}{}
	return ctx, func() {
		cancel(nil)
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.waiting[subject], &cancel)
		if len(r.waiting[subject]) == 0 {
			delete(r.waiting, subject)
		}
	}
}

func (r *refusals) tell(err error) bool {
	_, quoted, ok := strings.Cut(err.Error(), `Publish to "`)
	if !ok {
		return false
	}
	subject, _, _ := strings.Cut(quoted, `"`)
	r.mu.Lock()
	defer r.mu.Unlock()
	for cancel := range r.waiting[subject] {
		(*cancel)(fmt.Errorf("%w: not permitted", bus.ErrRefused))
	}
	return len(r.waiting[subject]) > 0
}
