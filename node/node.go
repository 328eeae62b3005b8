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
//
// # Messages
//
// Hosts publish group messages and welcomes to the bus themselves; for those who
// have no bus the node does it. It cannot decrypt what it appends: it checks the
// framing, the size and the budgets, and the members check everything else. It serves
// only envelopes that it would have accepted itself, whoever appended them, so junk in
// a topic reaches no client.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/internal/telemetry"
)

// MaxBatch is how many inboxes, identifiers or installations a Client asks for at
// once, and how many identity logs a node answers with. MaxAsked is how many
// identifiers or key packages: XMTP's SDKs ask for all that they need in one
// request, and 250 members may have ten installations each.
const (
	MaxBatch = 250
	MaxAsked = 2500
)

// Config says how a node verifies and what it may use.
type Config struct {
	Verifier identity.Verifier // required
	Now      func() time.Time  // judges lifetimes; time.Now when nil
	Limits   Limits
	// Retention is how long the log keeps what this node appends.
	Retention Retention
	Logger    *slog.Logger // silent when nil
	// Telemetry counts requests; nil costs nothing.
	Telemetry *telemetry.Telemetry
}

// Limits are an operator's choices; zero fields get the default.
type Limits struct {
	Updates           int // of one inbox; default 256, as on XMTP's network
	Reserved          int // of those, the last ones, that only revoke or change recovery; default 16
	Concurrent        int // requests of one class at work at a time, such as look-ups or messages; default 16 for each core
	Waiting           int // requests of one class that wait for that, half of it for each caller; default 4,096. More are refused
	Streams           int // subscriptions open at a time; default 10,000
	Filters           int // groups or installations of one subscription; default 10,000
	Followed          int // of all subscriptions, half of it for each caller; default 2,000,000, about 500 bytes each
	CachedInboxes     int // default 10,000, about 2 KB each, and up to 24 KB for each update that is padded
	CachedIdentifiers int // default 50,000, about 200 bytes each
	CachedKeyPackages int // default 20,000, about 2 KB each

	// CallerWallets is how many signatures of wallets on chains one caller may have
	// verified a day, in updates and by itself, each counted; default 10,000,
	// negative: no limit.
	CallerWallets int

	// What may be published, counted before anything is stored: each entry with
	// what it takes up in the log. Bytes are DefaultGroupBytes and
	// DefaultCallerBytes by default; messages have no limit. Behind a proxy all
	// callers may look alike.
	GroupMessages, GroupBytes   Budget // of each group
	CallerMessages, CallerBytes Budget // of each caller, see WithCaller; what is of no group counts here only
}

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		field *int
		value int
	}{
		{&l.Updates, 256}, {&l.Reserved, 16}, {&l.Concurrent, 16 * runtime.GOMAXPROCS(0)}, {&l.Waiting, 4096},
		{&l.Streams, 10_000}, {&l.Filters, 10_000}, {&l.Followed, 2_000_000},
		{&l.CachedInboxes, 10_000}, {&l.CachedIdentifiers, 50_000}, {&l.CachedKeyPackages, 20_000},
	} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
	if l.CallerWallets == 0 {
		l.CallerWallets = 10_000
	}
	if l.CallerBytes.PerMinute == 0 {
		l.CallerBytes = DefaultCallerBytes
	}
	if l.GroupBytes.PerMinute == 0 {
		l.GroupBytes = DefaultGroupBytes
	}
	return l
}

// Retention bounds the life of what nobody needs for ever. Zero fields get the
// default, which is XMTP's; negative ones mean for ever. Commits, proposals,
// identity updates and commit logs are always kept, a key package for as long as
// it is valid. What a host publishes to the bus itself has the life that the
// host gives it.
type Retention struct {
	Messages time.Duration // of a group; default 30 days
	Welcomes time.Duration // default 90 days
	// Unread is for how long it is noted in the log that somebody has read a group.
	// What belongs to a group without a note may be purged, see Census. Unlike the
	// others it is 0 by default: nothing is noted.
	Unread time.Duration
}

func (r Retention) withDefaults() Retention {
	const day = 24 * time.Hour
	if r.Messages == 0 {
		r.Messages = 30 * day
	}
	if r.Welcomes == 0 {
		r.Welcomes = 90 * day
	}
	return r
}

// A Node serves the services until it is closed.
type Node struct {
	bus    bus.Bus
	config Config
	pools  [classes]*pool

	running context.Context // ends with Close
	streams atomic.Int64    // open subscriptions
	follows followed

	inboxes     *cache[inboxLog]
	identifiers *cache[notes]
	packages    *cache[newestPackage]
	budgets     *budgets
	reads       *reads

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
	c.Retention = c.Retention.withDefaults()
	n := &Node{
		bus: b, config: c, pools: newPools(c.Limits), budgets: newBudgets(c.Limits), reads: newReads(c.Retention.Unread),
		follows: followed{limit: c.Limits.Followed, callers: map[string]int{}},
	}
	n.inboxes = newCache(b, c.Limits.CachedInboxes, n.readUpdate)
	n.inboxes.slow, n.inboxes.patience = asksChain, make(chan struct{}, max(1, c.Limits.Concurrent/2))
	n.identifiers = newCache(b, c.Limits.CachedIdentifiers, readNote)
	n.packages = newCache(b, c.Limits.CachedKeyPackages, readPackage)
	n.packages.enough = newestPackage.found

	var stop context.CancelFunc
	n.running, stop = context.WithCancel(context.Background())
	var noting sync.WaitGroup
	noting.Go(func() { n.noteReads(n.running) })
	stops := []func(){stop, noting.Wait}
	stopAll := func() {
		for _, stop := range stops {
			stop()
		}
	}
	for _, s := range []struct {
		name   string
		handle bus.Handler
	}{
		{bus.PublishIdentityUpdate, onBus(n.PublishIdentityUpdate)},
		{bus.GetIdentityUpdates, onBus(n.GetIdentityUpdates)},
		{bus.GetInboxIds, onBus(n.GetInboxIds)},
		{bus.VerifySignatures, onBus(n.VerifySmartContractWalletSignatures)},
		{bus.UploadKeyPackage, onBus(n.UploadKeyPackage)},
		{bus.FetchKeyPackages, onBus(n.FetchKeyPackages)},
		{bus.PublishCommitLog, onBus(n.BatchPublishCommitLog)},
		{bus.QueryCommitLog, onBus(n.BatchQueryCommitLog)},
	} {
		stop, err := b.Serve(s.name, s.handle)
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

// Close stops serving: it ends the subscriptions, each as soon as its send lets
// it, and waits for the requests at work. The bus stays open.
func (n *Node) Close() { n.close() }

// answer carries out one request: it bounds how many of its class are at work and
// for how long, and gives each error its code. Its error is a *bus.ServiceError.
func answer[Q, A proto.Message](ctx context.Context, n *Node, of class, request Q, handle func(context.Context, Q) (A, error)) (A, error) {
	var none A
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	t, began := n.config.Telemetry, time.Now()
	defer func() {
		t.Requests.Inc()
		t.RequestLatency.Observe(time.Since(began))
	}()
	refused := func(err error) (A, error) {
		t.RequestsFailed.Inc()
		if errors.Is(err, errOverBudget) {
			t.OverBudget.Inc()
		}
		return none, n.refusal(request.ProtoReflect().Descriptor().Name(), err)
	}
	leave, err := n.pools[of].enter(ctx, callerOf(ctx))
	if err != nil {
		return refused(err)
	}
	defer leave()
	a, err := handle(ctx, request)
	if err != nil {
		return refused(err)
	}
	return a, nil
}

// refusal gives an error its code. What is the node's own fault goes to the log.
func (n *Node) refusal(request protoreflect.Name, err error) *bus.ServiceError {
	code := codeOf(err)
	if code == bus.CodeInternal {
		n.config.Logger.Error("request failed", "request", string(request), "error", err)
	}
	return &bus.ServiceError{Code: code, Message: err.Error()}
}

// maxBusRequest is the most bytes of a request over the bus: several times what
// any is that asks for no more than it may. In memory, a list of empty things is
// fifty times as long.
const maxBusRequest = 256 << 10

// onBus makes a method answer requests that come over the bus.
func onBus[Q any, P interface {
	*Q
	proto.Message
}, A proto.Message](method func(context.Context, P) (A, error)) bus.Handler {
	return func(ctx context.Context, payload []byte) ([]byte, error) {
		if len(payload) > maxBusRequest {
			return nil, &bus.ServiceError{Code: bus.CodeInvalid, Message: fmt.Sprintf("%v: it has %d bytes, at most %d", errInvalid, len(payload), maxBusRequest)}
		}
		request := P(new(Q))
		if err := proto.Unmarshal(payload, request); err != nil {
			return nil, &bus.ServiceError{Code: bus.CodeInvalid, Message: fmt.Sprintf("%v: %v", errInvalid, err)}
		}
		answer, err := method(ctx, request)
		if err != nil {
			return nil, err
		}
		return proto.Marshal(answer)
	}
}

var (
	errInvalid = errors.New("invalid request")
	errLogFull = errors.New("the inbox's log is full")
	errRaced   = errors.New("others write to this inbox all the time")

	errManyStreams = errors.New("too many subscriptions")
	errStopping    = errors.New("the node is stopping")
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
	case is(identity.ErrNeedChain, errRaced, errBusy, bus.ErrUnavailable, bus.ErrLogRolledBack, bus.ErrConflict,
		bus.ErrClosed, errStopping, context.Canceled, context.DeadlineExceeded):
		return bus.CodeUnavailable
	case is(errLogFull, errCrowded, errManyStreams, errOverBudget, bus.ErrFull):
		return bus.CodeExhausted
	case is(errAnswerTooLarge):
		return bus.CodeTooLarge
	case is(errInvalid, group.ErrKeyPackage, bus.ErrTooLarge, errors.ErrUnsupported):
		return bus.CodeInvalid
	}
	return bus.CodeInternal
}

// checkBatch bounds how much one request asks for.
func checkBatch(n, most int) error {
	if n > most {
		return fmt.Errorf("%w: asks for %d, at most %d", errInvalid, n, most)
	}
	return nil
}
