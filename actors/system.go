package actors

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/internal/telemetry"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/persistence"
)

// An InstallationID is an installation's Ed25519 public key.
type InstallationID [32]byte

func (id InstallationID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id InstallationID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *InstallationID) UnmarshalText(text []byte) error { return group.ParseID(id[:], string(text)) }

// A GroupID is a group's 16 random bytes.
type GroupID [16]byte

func (id GroupID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id GroupID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *GroupID) UnmarshalText(text []byte) error { return group.ParseID(id[:], string(text)) }

// What a caller asks of a System's errors.
var (
	// ErrClosed: the host is closed, or closing.
	ErrClosed = errors.New("actors: host is closed")
	// ErrNoGroup: this installation has no such group.
	ErrNoGroup = errors.New("actors: no such group")
	// ErrAsleep: the installation is not open on this host. Open it with its
	// database key, or give the host a KeyProvider.
	ErrAsleep = errors.New("actors: installation is not open")
	// ErrLogRolledBack: the bus's log is older than what this host has read.
	ErrLogRolledBack = bus.ErrLogRolledBack
)

// Config is what a System stands on.
type Config struct {
	Bus      bus.Bus
	Store    persistence.Store
	Network  Network
	Verifier identity.Verifier

	// Keys opens installations that nobody opened by hand, so that a host's
	// restart wakes them. Nil: only those opened with their key are there.
	Keys persistence.KeyProvider

	Logger    *slog.Logger
	Telemetry *telemetry.Telemetry
	Limits    group.Limits
	Sharing   mls.Level
	PutBack   time.Time     // when the store was last put back: see group.Env
	IdleAfter time.Duration // an actor without messages for so long is put to sleep; default 1 minute
	Rand      io.Reader
	// Admit, where not nil, is asked about a welcome by somebody whom the
	// installation does not know, to a group whose log it cannot follow. Where it
	// says no, the welcome waits for the owner: see Requests.
	Admit func(Request) bool
	// CommitLogEvery is how often the commit logs of the host's groups are read
	// and written; 5 minutes where zero, never where negative.
	CommitLogEvery time.Duration
	Now            func() time.Time

	// Fault, where not nil, is asked at every point where a host may fail: it
	// may panic, and at PointSave it may return an error. It is how a host is
	// shown to survive.
	Fault func(Point) error
}

// A Point is where a fault may be injected.
type Point string

const (
	PointHost         Point = "host"
	PointInstallation Point = "installation"
	PointGroup        Point = "group"
	PointStream       Point = "stream"
	PointSave         Point = "save"
)

func (c Config) withDefaults() (Config, error) {
	if c.Bus == nil || c.Store == nil || c.Network == nil || c.Verifier == nil {
		return c, errors.New("actors: Config needs Bus, Store, Network and Verifier")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Telemetry == nil {
		c.Telemetry = telemetry.Nop()
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Limits = c.Limits.WithDefaults()
	if most := c.Bus.Info().MaxPayload; most < c.Limits.PayloadBytes {
		c.Limits.PayloadBytes = most
		c.Limits.CommitBytes = min(c.Limits.CommitBytes, most*9/10)
	}
	c.IdleAfter = cmp.Or(c.IdleAfter, time.Minute)
	c.CommitLogEvery = cmp.Or(c.CommitLogEvery, commitLogEvery)
	return c, nil
}

// A System is a host: the installations on it, and the actors that run them.
// It is safe for concurrent use.
type System struct {
	cfg    Config
	log    *slog.Logger
	engine *engine.Engine
	names  *engine.Registry
	realm  *mls.Realm
	shared group.Shared      // nil: nothing
	space  persistence.Realm // the trust domain whose rows are shared

	inboxes    *identities
	feed       *dispatcher
	reader     *reader
	streams    streams
	checks     checks
	pointees   pointees
	sightings  *sightings
	sweeper    sweeper
	commitLogs commitLogs
	compared   sync.Map // by actor name: groups that have compared what they read with the log since the host was opened
	asked      sync.Map // by actor name: stranded installations that have asked to be added again
	restarts   atomic.Uint64

	registering gates      // by the name of a local database
	secretMu    sync.Mutex // whoever makes the host's secret
	ailing      ailing
	unscrape    func()

	ctx  context.Context // ends when the host closes
	stop context.CancelFunc
	work sync.WaitGroup // everything beside the mailboxes

	mu            sync.RWMutex
	installations map[InstallationID]*installation
	closed        bool
}

// Open starts a host over its bus and store. Installations wake when they are
// opened, or all of them where Config.Keys can.
func Open(ctx context.Context, cfg Config) (*System, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	cfg.Store = namedStore{cfg.Store}
	s := &System{
		cfg:           cfg,
		log:           cfg.Logger,
		realm:         mls.NewRealm(cfg.Sharing),
		installations: map[InstallationID]*installation{},
		sightings:     newSightings(),
	}
	if cfg.Sharing != mls.None {
		s.shared = newMemo()
	}
	if err := s.checkIncarnation(ctx); err != nil {
		return nil, err
	}
	if err := s.indexOldBodies(ctx); err != nil {
		return nil, err
	}
	s.ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.inboxes = newIdentities(s.ctx, cfg)
	s.engine, err = engine.New(engine.Config{Hooks: s.hooks(), IdleTick: min(max(cfg.IdleAfter/8, time.Millisecond), time.Second)})
	if err != nil {
		return nil, err
	}
	s.names = engine.NewRegistry(s.engine, s.behaviour)
	s.checks = checks{at: map[GroupID]time.Time{}}
	s.pointees = pointees{bus: cfg.Bus, kept: map[[32]byte]*pointee{}}
	feed, err := cfg.Bus.Open(s.ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("actors: open feed: %w", err), s.engine.Shutdown(ctx))
	}
	s.reader = &reader{ctx: s.ctx, bus: cfg.Bus, realm: s.realm, clock: &s.inboxes.clock, pages: map[pageKey]*page{}}
	s.feed = &dispatcher{
		bus: cfg.Bus, feed: feed, gapless: cfg.Bus.Info().Gapless, realm: s.realm, reader: s.reader, log: s.log,
		post: s.names.Tell, depth: s.depth, beside: s.beside, alarm: s.logRewound, logs: map[bus.Topic]*following{},
	}
	s.unscrape = cfg.Telemetry.BeforeScrape(func() {
		st := s.engine.Stats()
		cfg.Telemetry.Live.Of(telemetry.ActorGroup).Set(st.Live)
		cfg.Telemetry.Queued.Set(st.Queued)
	})
	if err := s.spawnHost(); err != nil {
		return nil, errors.Join(err, s.Close(ctx))
	}
	return s, nil
}

// hostRowIncarnation holds which log this store's cursors belong to.
const hostRowIncarnation = "bus incarnation"

// checkIncarnation refuses a store whose cursors belong to another log: they
// would point at other envelopes than those that were read.
func (s *System) checkIncarnation(ctx context.Context) error {
	now := s.cfg.Bus.Info().Incarnation
	was, err := persistence.HostGet(ctx, s.cfg.Store, hostRowIncarnation)
	if errors.Is(err, persistence.ErrNotFound) {
		var b persistence.Batch
		persistence.HostPut(&b, hostRowIncarnation, []byte(now))
		return s.cfg.Store.Apply(ctx, &b, persistence.Durable)
	}
	if err != nil {
		return err
	}
	if string(was) != now {
		return fmt.Errorf("%w: the store was made with log %.16s, the bus has log %.16s: connect to the bus this store belongs to", ErrLogRolledBack, was, now)
	}
	return nil
}

// Close drains: what was accepted is handled and saved, nothing new is taken.
// ctx bounds the wait.
func (s *System) Close(ctx context.Context) error {
	s.mu.Lock()
	already := s.closed
	s.closed = true
	s.mu.Unlock()
	if already {
		return nil
	}
	s.unscrape()
	err := s.feed.feed.Close()
	err = errors.Join(err, s.engine.Shutdown(ctx))
	s.mu.Lock() // from here on nothing begins beside the mailboxes
	s.stop()
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.work.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		err = errors.Join(err, ctx.Err())
	}
	return errors.Join(err, s.cfg.Store.Sync(ctx))
}

// open is ErrClosed once the host is closed, or about to be.
func (s *System) open() error {
	if s.closing() {
		return ErrClosed
	}
	return nil
}

// closing reports whether the host is closed, or about to be.
func (s *System) closing() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.closed
}

// beside runs work that an actor must not wait for. Its result comes back as a
// message.
func (s *System) beside(work func(ctx context.Context)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed && s.ctx.Err() != nil {
		return
	}
	s.work.Add(1)
	go func() {
		defer s.work.Done()
		work(s.ctx)
	}()
}

// Names of actors. A name says everything that is needed to wake its actor.
const (
	prefixInstallation = "i/"
	prefixGroup        = "g/"
)

func installationName(id InstallationID) string { return prefixInstallation + string(id[:]) }

func groupName(in InstallationID, id GroupID) string {
	return prefixGroup + string(in[:]) + string(id[:])
}

// behaviour says how to make the actor of a name.
func (s *System) behaviour(name string) (func() engine.Behavior, engine.Options, error) {
	opts := engine.Options{IdleAfter: s.cfg.IdleAfter}
	if rest, ok := strings.CutPrefix(name, prefixGroup); ok && len(rest) == 48 {
		in, err := s.installation(InstallationID([]byte(rest[:32])))
		id := GroupID([]byte(rest[32:]))
		return func() engine.Behavior { return newGroupActor(s, in, id) }, opts, err
	}
	if rest, ok := strings.CutPrefix(name, prefixInstallation); ok && len(rest) == 32 {
		in, err := s.installation(InstallationID([]byte(rest)))
		return func() engine.Behavior { return newInstallationActor(s, in) }, opts, err
	}
	return nil, opts, fmt.Errorf("actors: no actor has the name %q", name)
}

// installation returns an open installation.
func (s *System) installation(id InstallationID) (*installation, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, ErrClosed
	}
	in := s.installations[id]
	if in == nil {
		return nil, ErrAsleep
	}
	return in, nil
}

func (s *System) depth(name string) int {
	ref, ok := s.names.Live(name)
	if !ok {
		return 0
	}
	return s.engine.Depth(ref)
}

// fault gives an injected fault its chance.
func (s *System) fault(p Point) error {
	if s.cfg.Fault == nil {
		return nil
	}
	return s.cfg.Fault(p)
}

// count adds an event to the host's counters.
func (s *System) count(e group.Event) {
	t := s.cfg.Telemetry
	switch e := e.(type) {
	case group.MessageChanged:
		switch e.Message.Status {
		case group.StatusPublished:
			t.Deliveries.Of(telemetry.KindApplication).Inc()
		case group.StatusFailed:
			t.Failed.Of(telemetry.KindApplication).Inc()
		}
	case group.EpochChanged:
		t.Epochs.Inc()
	case group.Rejected:
		t.Rejected.Of(reasonOf(e.Reason)).Inc()
	case group.StandingChanged:
		t.Standings.Of(standingWord(e.Standing)).Inc()
	case group.ForkChanged:
		if e.Forked {
			t.Forks.Inc()
		}
	}
}

// reasonOf sorts a rejection into one of a few words.
func reasonOf(err error) telemetry.Reason {
	for _, r := range []struct {
		is   error
		word telemetry.Reason
	}{
		{group.ErrForbidden, telemetry.ReasonForbidden},
		{group.ErrTooLarge, telemetry.ReasonTooLarge},
		{mls.ErrWrongEpoch, telemetry.ReasonWrongEpoch},
		{mls.ErrReplayed, telemetry.ReasonUndecryptable},
		{mls.ErrInvalid, telemetry.ReasonUnverified},
	} {
		if errors.Is(err, r.is) {
			return r.word
		}
	}
	return telemetry.ReasonOther
}

// standingWord counts a standing under its own word.
func standingWord(st group.Standing) telemetry.Standing {
	return map[group.Standing]telemetry.Standing{
		group.Following: telemetry.StandingFollowing,
		group.Waiting:   telemetry.StandingWaiting,
		group.Apart:     telemetry.StandingApart,
		group.Lost:      telemetry.StandingLost,
		group.Paused:    telemetry.StandingPaused,
		group.Revoked:   telemetry.StandingRevoked,
		group.Stranded:  telemetry.StandingStranded,
		group.Inactive:  telemetry.StandingInactive,
	}[st]
}

// kindOf names an actor's kind for logs and metrics: never an id.
func kindOf(name string) telemetry.Actor {
	switch {
	case strings.HasPrefix(name, prefixGroup):
		return telemetry.ActorGroup
	case strings.HasPrefix(name, prefixInstallation):
		return telemetry.ActorInstallation
	case strings.HasPrefix(name, prefixStream):
		return telemetry.ActorStream
	}
	return telemetry.ActorHost
}
