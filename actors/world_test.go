package actors

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/conclave-chat/conclave/bus"
	membus "github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/internal/telemetry"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/persistence"
	memstore "github.com/conclave-chat/conclave/persistence/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A world is one host over a log and a store in memory, with the network's
// services on the same log. Its time is the test's own.
type world struct {
	t     *testing.T
	ctx   context.Context
	log   *membus.Bus
	line  *line // between the host and the log
	store *memstore.Store
	tel   *telemetry.Telemetry
	cfg   Config
	keys  persistence.StaticKeys
	node  *node.Node
	sys   *System

	wallets map[InstallationID]*ethereum.Key

	mu    sync.Mutex
	fault func(Point) error
}

// inWorld runs a test in a world. change is applied to the host's
// configuration, each time that it is opened.
func inWorld(t *testing.T, run func(w *world), change ...func(*Config)) {
	t.Helper()
	inWorldOf(t, membus.Config{}, run, change...)
}

// inWorldOf is inWorld over a log of another kind.
func inWorldOf(t *testing.T, log membus.Config, run func(w *world), change ...func(*Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, ctx: t.Context(), log: membus.New(log), store: memstore.New(), keys: persistence.StaticKeys{}, tel: telemetry.Nop(), wallets: map[InstallationID]*ethereum.Key{}}
		w.line = &line{Bus: w.log.Connect(), attempts: map[[32]byte]int{}, asked: map[string]int{}}
		n, err := node.Serve(w.ctx, w.log, node.Config{Verifier: ethereum.Verifier{}})
		if err != nil {
			t.Fatal(err)
		}
		w.node = n
		w.cfg = Config{
			Bus: w.line, Store: w.store, Network: node.NewClient(w.line), Verifier: ethereum.Verifier{}, Keys: w.keys,
			Telemetry: w.tel, IdleAfter: 24 * time.Hour,
			Fault: func(p Point) error {
				w.mu.Lock()
				f := w.fault
				w.mu.Unlock()
				if f == nil {
					return nil
				}
				return f(p)
			},
		}
		for _, f := range change {
			f(&w.cfg)
		}
		defer func() {
			n.Close()
			_ = w.line.Bus.Close()
			_ = w.log.Close()
		}()
		w.open()
		defer func() { w.close() }() // of the host that is open by then
		run(w)
	})
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) open() {
	w.t.Helper()
	sys, err := Open(w.ctx, w.cfg)
	w.ok(err)
	w.sys = sys
	_, err = sys.WakeAll(w.ctx)
	w.ok(err)
}

func (w *world) close() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w.ok(w.sys.Close(ctx))
}

// restart closes the host and opens it again over the same store.
func (w *world) restart() {
	w.t.Helper()
	w.close()
	w.open()
}

// powerCut ends the host, and leaves of its store only what was durable by then.
func (w *world) powerCut() {
	w.t.Helper()
	w.store.FailNext(persistence.ErrBroken) // what would be saved from now on is not
	var b persistence.Batch
	persistence.HostPut(&b, "power", []byte("cut"))
	if err := w.store.Apply(w.ctx, &b, persistence.Lazy); err == nil {
		w.t.Fatal("the store is not broken")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_ = w.sys.Close(ctx) // cannot sync its store
	w.store.Crash(nil)
}

// failing sets what happens at the points where a host may fail; nil: nothing.
func (w *world) failing(f func(Point) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = f
}

// once makes a point panic the next time that it is passed.
func (w *world) once(at Point) {
	var first sync.Once
	w.failing(func(p Point) error {
		if p == at {
			first.Do(func() { panic("injected") })
		}
		return nil
	})
}

// elapse lets time pass and everything come to rest.
func elapse(d time.Duration) {
	time.Sleep(d) // of the bubble
	synctest.Wait()
}

// person registers an installation with a wallet of its own.
func (w *world) person() InstallationID {
	w.t.Helper()
	wallet, err := ethereum.GenerateKey()
	w.ok(err)
	return w.register(wallet, "")
}

func (w *world) register(wallet *ethereum.Key, database string) InstallationID {
	w.t.Helper()
	in, err := w.sys.Register(w.ctx, Registration{Signer: wallet, Database: database, Key: func(id InstallationID) (persistence.Key, error) {
		key := persistence.Key(sha256.Sum256(id[:]))
		w.keys[id] = key
		return key, nil
	}})
	w.ok(err)
	w.wallets[in.ID] = wallet
	return in.ID
}

// another registers one more installation of somebody's inbox.
func (w *world) another(of InstallationID) InstallationID {
	w.t.Helper()
	return w.register(w.wallets[of], "another")
}

// revoke takes an installation of somebody's inbox back.
func (w *world) revoke(of, in InstallationID) {
	w.t.Helper()
	id, err := identity.InstallationFrom(in[:])
	w.ok(err)
	w.ok(w.sys.Revoke(w.ctx, w.wallets[of], w.inbox(of), id))
}

func (w *world) people(n int) []InstallationID {
	w.t.Helper()
	all := make([]InstallationID, n)
	for i := range all {
		all[i] = w.person()
	}
	return all
}

func (w *world) inbox(in InstallationID) string {
	w.t.Helper()
	d, err := w.sys.Describe(in)
	w.ok(err)
	return d.Inbox
}

func (w *world) do(in InstallationID, id GroupID, command group.Input) {
	w.t.Helper()
	_, err := w.sys.Do(w.ctx, in, id, command)
	w.ok(err)
}

// group makes a group of which all are members, and have joined.
func (w *world) group(creator InstallationID, members ...InstallationID) GroupID {
	w.t.Helper()
	id, err := w.sys.CreateGroup(w.ctx, creator, group.CreateConfig{Now: time.Now()})
	w.ok(err)
	if len(members) > 0 {
		w.add(creator, id, members...)
	}
	for _, m := range members {
		w.ok(w.sys.SyncWelcomes(w.ctx, m))
	}
	return id
}

func (w *world) add(by InstallationID, id GroupID, members ...InstallationID) {
	w.t.Helper()
	var inboxes []string
	for _, m := range members {
		inboxes = append(inboxes, w.inbox(m))
	}
	w.do(by, id, group.AddMembers{Inboxes: inboxes})
}

// commit moves the group to its next epoch.
func (w *world) commit(by InstallationID, id GroupID, name string) {
	w.t.Helper()
	w.do(by, id, group.UpdateMetadata{Field: "group_name", Value: name})
}

// send accepts a message, and leaves its publishing to the host.
func (w *world) send(in InstallationID, id GroupID, text string) group.MessageID {
	w.t.Helper()
	a, err := w.sys.Submit(w.ctx, in, id, group.Send{Key: text, Content: []byte(text), Now: time.Now()})
	w.ok(err)
	return a.Message
}

// say sends a message and waits until it is Published.
func (w *world) say(in InstallationID, id GroupID, text string) {
	w.t.Helper()
	status, err := w.sys.AwaitMessage(w.ctx, in, id, w.send(in, id, text))
	w.ok(err)
	if status != group.StatusPublished {
		w.t.Fatalf("%q is %v", text, status)
	}
}

func (w *world) sync(in InstallationID, id GroupID) {
	w.t.Helper()
	w.ok(w.sys.Sync(w.ctx, in, id))
}

// texts are the application messages that an installation has stored.
func (w *world) texts(in InstallationID, id GroupID) []string {
	w.t.Helper()
	rows, err := w.sys.Rows(w.ctx, in, id)
	w.ok(err)
	history, err := group.History(rows, group.HistoryQuery{})
	w.ok(err)
	out := []string{}
	for _, m := range history {
		if m.Kind == group.ApplicationMessage {
			out = append(out, string(m.Content))
		}
	}
	return out
}

func (w *world) reads(in InstallationID, id GroupID, want ...string) {
	w.t.Helper()
	if got := w.texts(in, id); !slices.Equal(got, want) {
		w.t.Errorf("stored are %q, want %q", got, want)
	}
}

func (w *world) epoch(in InstallationID, id GroupID) uint64 {
	w.t.Helper()
	n, err := Look(w.ctx, w.sys, in, id, func(r *group.Replica) uint64 { return r.Epoch() })
	w.ok(err)
	return n
}

// agree checks that all have come to the same state of the group.
func (w *world) agree(id GroupID, members ...InstallationID) {
	w.t.Helper()
	var first string
	for i, m := range members {
		now, err := Look(w.ctx, w.sys, m, id, func(r *group.Replica) string { return string(r.EpochAuthenticator()) })
		w.ok(err)
		if i == 0 {
			first = now
		} else if now != first {
			w.t.Errorf("member %d is at another epoch or on another branch", i)
		}
	}
}

// stream opens a stream of an installation's messages.
func (w *world) stream(in InstallationID) *Stream {
	w.t.Helper()
	st, err := w.sys.Stream(w.ctx, in, Scope{}, StreamMessages)
	w.ok(err)
	synctest.Wait()
	return st
}

// hears takes application messages from a stream until it has as many as are
// wanted.
func (w *world) hears(st *Stream, want ...string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Minute)
	defer cancel()
	got := []string{}
	for len(got) < len(want) {
		items, err := st.Next(ctx)
		if err != nil {
			w.t.Fatalf("after %q: %v", got, err)
		}
		for _, it := range items {
			if it.Message.Kind == group.ApplicationMessage {
				got = append(got, string(it.Message.Content))
			}
		}
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("the stream said %q, want %q", got, want)
	}
}

// published are the payloads on a group's topic of messages, in order.
func (w *world) published(id GroupID) [][]byte {
	w.t.Helper()
	_, messages := topicsOf(id)
	envelopes, err := w.log.Read(w.ctx, 0, 10_000, messages)
	w.ok(err)
	var out [][]byte
	for _, e := range envelopes {
		out = append(out, e.Payload)
	}
	return out
}

// A line is a host's way to the bus: it can be cut, and what goes over it can be
// refused.
type line struct {
	bus.Bus

	mu       sync.Mutex
	cut      chan struct{}         // closed when the line is whole again; nil: it is
	refuse   func(bus.Topic) error // instead of a publish
	answer   func(bus.Topic) error // after a publish, in place of its answer
	slow     func(bus.Topic)       // before an answer about a topic is on its way
	attempts map[[32]byte]int      // publishes begun, by payload
	asked    map[string]int        // requests begun, by service
	silent   string                // a service that does not answer
}

var errCut = errors.Join(bus.ErrUnavailable, errors.New("the line is cut"))

func (l *line) sever() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = make(chan struct{})
}

func (l *line) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.cut)
	l.cut = nil
}

func (l *line) refusing(f func(bus.Topic) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse = f
}

func (l *line) answering(f func(bus.Topic) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = f
}

// queueing makes every question about logs of a kind wait for its turn: the
// result lets the oldest that waits go on.
func (l *line) queueing(kind bus.Kind) (next func()) {
	var waiting []chan struct{}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slow = func(topic bus.Topic) {
		if topic.Kind() != kind {
			return
		}
		turn := make(chan struct{})
		l.mu.Lock()
		waiting = append(waiting, turn)
		l.mu.Unlock()
		<-turn
	}
	return func() {
		synctest.Wait()
		l.mu.Lock()
		close(waiting[0])
		waiting = waiting[1:]
		l.mu.Unlock()
		synctest.Wait()
	}
}

// flowing ends queueing, for what is asked from now on.
func (l *line) flowing() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slow = nil
}

func (l *line) wait(topic bus.Topic) {
	l.mu.Lock()
	slow := l.slow
	l.mu.Unlock()
	if slow != nil {
		slow(topic)
	}
}

func (l *line) state() (mended <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut != nil {
		return l.cut, errCut
	}
	return nil, nil
}

// requests is how often a service was asked.
func (l *line) requests(service string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked[service]
}

// silence makes a service one that does not answer; empty: none is.
func (l *line) silence(service string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silent = service
}

// tries is how often somebody tried to publish a payload.
func (l *line) tries(payload []byte) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.attempts[sha256.Sum256(payload)]
}

func (l *line) Publish(ctx context.Context, topic bus.Topic, payload []byte, opts ...bus.PublishOption) (bus.Ack, error) {
	l.mu.Lock()
	l.attempts[sha256.Sum256(payload)]++
	refuse, answer := l.refuse, l.answer
	l.mu.Unlock()
	if _, err := l.state(); err != nil {
		return bus.Ack{}, err
	}
	if refuse != nil {
		if err := refuse(topic); err != nil {
			return bus.Ack{}, err
		}
	}
	ack, err := l.Bus.Publish(ctx, topic, payload, opts...)
	if answer != nil && err == nil {
		if err := answer(topic); err != nil {
			return bus.Ack{}, err
		}
	}
	return ack, err
}

func (l *line) Read(ctx context.Context, after bus.ID, limit int, topics ...bus.Topic) ([]bus.Envelope, error) {
	if _, err := l.state(); err != nil {
		return nil, err
	}
	envelopes, err := l.Bus.Read(ctx, after, limit, topics...)
	l.wait(topics[0])
	return envelopes, err
}

func (l *line) Last(ctx context.Context, topics ...bus.Topic) ([]bus.ID, error) {
	if _, err := l.state(); err != nil {
		return nil, err
	}
	last, err := l.Bus.Last(ctx, topics...)
	l.wait(topics[0])
	return last, err
}

func (l *line) End(ctx context.Context, topic bus.Topic) (bus.ID, error) {
	if _, err := l.state(); err != nil {
		return 0, err
	}
	return l.Bus.End(ctx, topic)
}

func (l *line) Request(ctx context.Context, service string, payload []byte) ([]byte, error) {
	if _, err := l.state(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.asked[service]++
	silent := l.silent == service
	l.mu.Unlock()
	if silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return l.Bus.Request(ctx, service, payload)
}

func (l *line) Open(ctx context.Context) (bus.Feed, error) {
	f, err := l.Bus.Open(ctx)
	return &lineFeed{Feed: f, line: l, closed: make(chan struct{})}, err
}

type lineFeed struct {
	bus.Feed
	line   *line
	closed chan struct{}
	once   sync.Once
}

func (f *lineFeed) Follow(ctx context.Context, after bus.ID, topics ...bus.Topic) error {
	if _, err := f.line.state(); err != nil {
		return err
	}
	return f.Feed.Follow(ctx, after, topics...)
}

// Next holds what it has while the line is cut.
func (f *lineFeed) Next(ctx context.Context) ([]bus.Envelope, error) {
	batch, err := f.Feed.Next(ctx)
	if mended, cut := f.line.state(); cut != nil {
		select {
		case <-mended:
		case <-f.closed:
		case <-ctx.Done():
		}
	}
	return batch, err
}

func (f *lineFeed) Close() error {
	f.once.Do(func() { close(f.closed) })
	return f.Feed.Close()
}
