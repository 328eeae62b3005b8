// Package node is the network's own services: the identity log, the look-up from
// identifier to inbox, and key packages. Hosts reach them by request and reply
// over the bus, in XMTP's own messages; only the node writes their topics.
//
// A node keeps nothing of its own. Everything is in the log, any number of nodes
// may serve one log, and what a node remembers is only ever a copy that it checks
// against the log's end before it answers. So what one node accepted, every node
// answers with from then on.
//
// # The identity log
//
// An inbox's log is what is valid of its topic, in order: an entry that does not
// verify, or that breaks a rule of package identity, is passed over by every node
// alike and served by none. A node validates before it appends, so that such
// entries come only from nodes that raced on a bus without compare-and-set.
//
// # The look-up
//
// Before an update that links an identifier is appended, the inbox is noted in
// the identifier's own topic. A note is only a hint: an answer is given after the
// inbox's own log confirmed it. So a crash between the two, or an old note, can
// mislead nobody, and unlinking needs no note. The newest link wins.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/internal/telemetry"
)

// The services' names on the bus. Requests and answers are XMTP's messages of
// the same name; publishing and uploading are answered with an empty one.
const (
	PublishService = "node.identity.publish"   // PublishIdentityUpdateRequest
	UpdatesService = "node.identity.updates"   // GetIdentityUpdatesRequest
	InboxesService = "node.identity.inboxes"   // GetInboxIdsRequest
	UploadService  = "node.keypackages.upload" // UploadKeyPackageRequest
	FetchService   = "node.keypackages.fetch"  // FetchKeyPackagesRequest
)

// Codes of the *bus.ServiceError that a request may be answered with.
const (
	CodeInvalid     = "invalid"     // it will never be accepted as it is
	CodeExhausted   = "exhausted"   // the inbox's log is full, or the bus is
	CodeUnavailable = "unavailable" // no verdict now: ask again
)

// MaxBatch is how many inboxes, identifiers or installations one request asks for.
const MaxBatch = 250

// Config says how a node verifies and what it may use.
type Config struct {
	Verifier identity.Verifier // required
	Now      func() time.Time  // judges lifetimes; time.Now when nil
	Limits   Limits
	Logger   *slog.Logger // silent when nil
	// Telemetry counts requests; nil costs nothing.
	Telemetry *telemetry.Telemetry
}

// Limits are an operator's choices; zero fields get the default.
type Limits struct {
	Updates           int // of one inbox; default 256, as on XMTP's network
	Reserved          int // of those, the last ones, that only revoke or change recovery; default 16
	Concurrent        int // requests at work at a time; default 16 for each core
	CachedInboxes     int // default 10,000, about 2 KB each
	CachedIdentifiers int // default 50,000, about 200 bytes each
	CachedKeyPackages int // default 20,000, about 2 KB each
}

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		field *int
		value int
	}{
		{&l.Updates, 256}, {&l.Reserved, 16}, {&l.Concurrent, 16 * runtime.GOMAXPROCS(0)},
		{&l.CachedInboxes, 10_000}, {&l.CachedIdentifiers, 50_000}, {&l.CachedKeyPackages, 20_000},
	} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
	return l
}

// A Node serves the services until it is closed.
type Node struct {
	bus    bus.Bus
	config Config
	slots  chan struct{} // one for each request at work

	inboxes     *cache[inboxLog]
	identifiers *cache[notes]
	packages    *cache[newestPackage]

	close func()
}

// longest bounds a request that came without a deadline.
const longest = 30 * time.Second

// Serve starts a node on a bus. It serves until ctx ends or Close is called.
func Serve(ctx context.Context, b bus.Bus, c Config) (*Node, error) {
	if c.Verifier == nil {
		return nil, errors.New("node: Config.Verifier is required")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Telemetry == nil {
		c.Telemetry = telemetry.Nop()
	}
	c.Limits = c.Limits.withDefaults()
	n := &Node{bus: b, config: c, slots: make(chan struct{}, c.Limits.Concurrent)}
	n.inboxes = newCache(b, c.Limits.CachedInboxes, n.readUpdate)
	n.identifiers = newCache(b, c.Limits.CachedIdentifiers, readNote)
	n.packages = newCache(b, c.Limits.CachedKeyPackages, readPackage)
	n.packages.newestOnly = true

	var stops []func()
	stopAll := func() {
		for _, stop := range stops {
			stop()
		}
	}
	for _, s := range []struct {
		name   string
		handle bus.Handler
	}{
		{PublishService, n.publishUpdate},
		{UpdatesService, n.getUpdates},
		{InboxesService, n.getInboxIDs},
		{UploadService, n.uploadPackage},
		{FetchService, n.fetchPackages},
	} {
		stop, err := b.Serve(s.name, n.guarded(s.name, s.handle))
		if err != nil {
			stopAll()
			return nil, fmt.Errorf("node: serve %s: %w", s.name, err)
		}
		stops = append(stops, stop)
	}
	n.close = sync.OnceFunc(stopAll)
	forgetCtx := context.AfterFunc(ctx, n.close)
	stops = append(stops, func() { forgetCtx() })
	return n, nil
}

// Close stops serving and waits for the requests at work. The bus stays open.
func (n *Node) Close() { n.close() }

// guarded bounds how many requests are at work and for how long, and gives each
// error its code.
func (n *Node) guarded(name string, handle bus.Handler) bus.Handler {
	return func(ctx context.Context, payload []byte) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, longest)
		defer cancel()
		t, began := n.config.Telemetry, time.Now()
		defer func() {
			t.Requests.Inc()
			t.RequestLatency.Observe(time.Since(began))
		}()
		select {
		case n.slots <- struct{}{}:
			defer func() { <-n.slots }()
		case <-ctx.Done():
			t.RequestsFailed.Inc()
			return nil, &bus.ServiceError{Code: CodeUnavailable, Message: "the node is busy"}
		}
		answer, err := handle(ctx, payload)
		if err != nil {
			t.RequestsFailed.Inc()
			code := codeOf(err)
			if code == bus.CodeInternal {
				n.config.Logger.Error("request failed", "service", name, "error", err)
			}
			return nil, &bus.ServiceError{Code: code, Message: err.Error()}
		}
		return answer, nil
	}
}

var (
	errInvalid = errors.New("invalid request")
	errLogFull = errors.New("the inbox's log is full")
	errRaced   = errors.New("others write to this inbox all the time")
)

// codeOf sorts an error by what the asker can do about it.
func codeOf(err error) string {
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case is(identity.ErrNeedChain, errRaced, bus.ErrUnavailable, bus.ErrLogRolledBack, bus.ErrConflict,
		bus.ErrClosed, context.Canceled, context.DeadlineExceeded):
		return CodeUnavailable
	case is(errLogFull, bus.ErrFull):
		return CodeExhausted
	case is(errInvalid, group.ErrKeyPackage, bus.ErrTooLarge):
		return CodeInvalid
	}
	return bus.CodeInternal
}

// parse reads a request.
func parse(payload []byte, request proto.Message) error {
	if err := proto.Unmarshal(payload, request); err != nil {
		return fmt.Errorf("%w: %w", errInvalid, err)
	}
	return nil
}

// checkBatch bounds how much one request asks for.
func checkBatch(n int) error {
	if n > MaxBatch {
		return fmt.Errorf("%w: asks for %d, at most %d", errInvalid, n, MaxBatch)
	}
	return nil
}
