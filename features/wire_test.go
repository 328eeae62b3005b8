package features

import (
	"context"
	"maps"
	"sync"
	"testing"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus"
	membus "github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/node"
)

// A wire is a bus that counts what goes over it and can be made to misbehave.
type wire struct {
	*membus.Bus

	mu        sync.Mutex
	published map[bus.Kind]int
	received  map[bus.Kind]int // envelopes, read or fed
	bytes     int              // of their payloads
	reads     int              // calls of Read, Last and End
	requests  map[string]int   // by service
	sent      []bus.Envelope   // what was published, without ids
	before    func(bus.Topic) error
	after     func(bus.Topic) error
	redirect  func(bus.Topic) bus.Topic
	asks      func(ctx context.Context, service string)
	cut       bool
}

// newWire also serves the node, on the bus behind the wire: what it reads and
// writes for itself is not what hosts ask of the network.
func newWire(t *testing.T, c membus.Config) *wire {
	t.Helper()
	b := membus.New(c)
	t.Cleanup(func() { b.Close() })
	n := must[*node.Node](t)(node.Serve(context.Background(), b, node.Config{Verifier: ethereum.Verifier{}}))
	t.Cleanup(n.Close)
	return wireTo(b)
}

// wireTo is another wire to a log.
func wireTo(b *membus.Bus) *wire {
	return &wire{Bus: b, published: map[bus.Kind]int{}, received: map[bus.Kind]int{}, requests: map[string]int{}}
}

// config makes a host use the wire.
func (w *wire) config(c *conclave.Config) { c.Bus, c.ServeNode = w, false }

// A tally is what went over a wire.
type tally struct {
	published, received map[bus.Kind]int
	requests            map[string]int
	bytes, reads        int
}

func (w *wire) tally() tally {
	w.mu.Lock()
	defer w.mu.Unlock()
	return tally{maps.Clone(w.published), maps.Clone(w.received), maps.Clone(w.requests), w.bytes, w.reads}
}

// reset forgets the counts.
func (w *wire) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.published)
	clear(w.received)
	clear(w.requests)
	w.bytes, w.reads, w.sent = 0, 0, nil
}

// calls is how often the network was asked anything.
func (t tally) calls() int {
	n := t.reads
	for _, m := range t.requests {
		n += m
	}
	for _, m := range t.published {
		n += m
	}
	return n
}

// setCut cuts the wire, or mends it: everything is bus.ErrUnavailable meanwhile.
func (w *wire) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
}

// onPublish runs before each publish, and may fail it.
func (w *wire) onPublish(f func(bus.Topic) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.before = f
}

// onPublished runs after each publish that succeeded, and may lose its answer.
func (w *wire) onPublished(f func(bus.Topic) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.after = f
}

// onRequest runs before each request, and may hold it up.
func (w *wire) onRequest(f func(ctx context.Context, service string)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asks = f
}

// first fails the first n publishes of one kind, as err, and then does nothing.
func first(n int, k bus.Kind, err error) func(bus.Topic) error {
	var mu sync.Mutex
	return func(t bus.Topic) error {
		mu.Lock()
		defer mu.Unlock()
		if t.Kind() != k || n == 0 {
			return nil
		}
		n--
		return err
	}
}

func (w *wire) down() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return bus.ErrUnavailable
	}
	return nil
}

func (w *wire) Publish(ctx context.Context, topic bus.Topic, payload []byte, opts ...bus.PublishOption) (bus.Ack, error) {
	if err := w.down(); err != nil {
		return bus.Ack{}, err
	}
	w.mu.Lock()
	w.published[topic.Kind()]++
	before, after := w.before, w.after
	if w.redirect != nil {
		topic = w.redirect(topic)
	}
	w.sent = append(w.sent, bus.Envelope{Topic: topic, Payload: payload})
	w.mu.Unlock()
	if before != nil {
		if err := before(topic); err != nil {
			return bus.Ack{}, err
		}
	}
	ack, err := w.Bus.Publish(ctx, topic, payload, opts...)
	if err == nil && after != nil {
		if err := after(topic); err != nil {
			return bus.Ack{}, err
		}
	}
	return ack, err
}

// asked counts a question about the log.
func (w *wire) asked() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return bus.ErrUnavailable
	}
	w.reads++
	return nil
}

func (w *wire) count(envelopes []bus.Envelope) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range envelopes {
		w.received[e.Topic.Kind()]++
		w.bytes += len(e.Payload)
	}
}

func (w *wire) Read(ctx context.Context, after bus.ID, limit int, topics ...bus.Topic) ([]bus.Envelope, error) {
	if err := w.asked(); err != nil {
		return nil, err
	}
	envelopes, err := w.Bus.Read(ctx, after, limit, topics...)
	w.count(envelopes)
	return envelopes, err
}

func (w *wire) Last(ctx context.Context, topics ...bus.Topic) ([]bus.ID, error) {
	if err := w.asked(); err != nil {
		return nil, err
	}
	return w.Bus.Last(ctx, topics...)
}

func (w *wire) End(ctx context.Context, topic bus.Topic) (bus.ID, error) {
	if err := w.asked(); err != nil {
		return 0, err
	}
	return w.Bus.End(ctx, topic)
}

func (w *wire) Request(ctx context.Context, service string, payload []byte) ([]byte, error) {
	w.mu.Lock()
	w.requests[service]++
	cut, asks := w.cut, w.asks
	w.mu.Unlock()
	if asks != nil {
		asks(ctx, service)
	}
	if cut {
		return nil, bus.ErrUnavailable
	}
	return w.Bus.Request(ctx, service, payload)
}

func (w *wire) Open(ctx context.Context) (bus.Feed, error) {
	f, err := w.Bus.Open(ctx)
	return &wireFeed{Feed: f, wire: w}, err
}

// A wireFeed is cut with its wire. What arrives meanwhile is kept for later.
type wireFeed struct {
	bus.Feed
	wire *wire
	held []bus.Envelope
}

func (f *wireFeed) Follow(ctx context.Context, after bus.ID, topics ...bus.Topic) error {
	if err := f.wire.down(); err != nil {
		return err
	}
	return f.Feed.Follow(ctx, after, topics...)
}

func (f *wireFeed) Next(ctx context.Context) ([]bus.Envelope, error) {
	if err := f.wire.down(); err != nil {
		return nil, err
	}
	if batch := f.held; batch != nil {
		f.held = nil
		f.wire.count(batch)
		return batch, nil
	}
	batch, err := f.Feed.Next(ctx)
	if f.wire.down() != nil && err == nil {
		f.held = batch
		return nil, bus.ErrUnavailable
	}
	f.wire.count(batch)
	return batch, err
}
