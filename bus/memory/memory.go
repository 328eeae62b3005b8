// Package memory is the bus in one process: a log in memory that several
// connections share. It is deterministic: IDs follow the order of arrival, and
// time comes from the configuration. It is for tests, for the simulation and
// for services that may forget. It is well unless Config.Faults says otherwise:
// then it does whatever package bus allows an adapter.
package memory

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/conclave-chat/conclave/bus"
)

// Config describes a log; its zero value is one shard without limits.
type Config struct {
	Shards          int              // 1 to 64; 1 when zero
	MaxPayload      int              // bytes; bus.MaxPayload when zero
	MaxBytes        int64            // of each shard, payloads and 64 bytes for each envelope; no limit when zero
	NoCompareAndSet bool             // be an adapter without the capability
	DedupWindow     time.Duration    // how long a repeat is recognised; 30 s when zero
	Now             func() time.Time // time.Now when nil
	Incarnation     string           // random when empty
	Logger          *slog.Logger     // of panics in handlers; silent when nil
	Holes           bool             // be an adapter whose feeds are not gapless
	Faults          Faults           // what goes wrong; nothing when zero
}

// overhead is what an envelope counts beside its payload.
const overhead = 64

// Bus is one connection to a log in memory.
type Bus struct {
	log    *memlog
	ctx    context.Context // of the handlers
	cancel context.CancelFunc

	// guarded by log.mu
	closed   bool
	feeds    map[*feed]struct{}
	services map[*service]struct{}
}

var _ bus.Bus = (*Bus)(nil)

// memlog is what the connections share. One mutex guards all of it.
type memlog struct {
	cfg    Config
	info   bus.Info
	losses atomic.Int64

	mu       sync.Mutex
	shards   []shard
	services map[string][]*service
	turn     int // which of several servers of one name is next
	opened   int // feeds so far
	late     []publication
	aside    bool // Faults.Meanwhile runs
}

type shard struct {
	end       uint64 // the newest sequence
	lost      uint64 // the first sequence that was lost; 0: none was
	bytes     int64
	topics    map[bus.Topic][]entry
	followers map[bus.Topic]map[*feed]struct{}
	everybody map[*feed]struct{}  // who follow everything
	recent    map[[32]byte]bus.ID // by hash of topic and payload
	arrivals  []arrival           // the keys of recent, oldest first
}

type entry struct {
	bus.Envelope
	hash   [32]byte
	forget time.Time // zero: never
}

type arrival struct {
	hash [32]byte
	at   time.Time
}

// New makes an empty log and returns the first connection to it. It panics if
// cfg.Shards is out of range.
func New(cfg Config) *Bus {
	cfg.Shards = max(cfg.Shards, 1)
	if cfg.Shards > bus.MaxShards {
		panic(fmt.Sprintf("memory: %d shards", cfg.Shards))
	}
	if cfg.MaxPayload == 0 {
		cfg.MaxPayload = bus.MaxPayload
	}
	if cfg.DedupWindow == 0 {
		cfg.DedupWindow = 30 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Incarnation == "" {
		cfg.Incarnation = rand.Text()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	l := &memlog{
		cfg: cfg,
		info: bus.Info{
			Incarnation:   cfg.Incarnation,
			Shards:        cfg.Shards,
			MaxPayload:    cfg.MaxPayload,
			CompareAndSet: !cfg.NoCompareAndSet,
			FollowAll:     true,
			Gapless:       !cfg.Holes,
		},
		shards:   make([]shard, cfg.Shards),
		services: make(map[string][]*service),
	}
	for i := range l.shards {
		l.shards[i] = shard{
			topics:    make(map[bus.Topic][]entry),
			followers: make(map[bus.Topic]map[*feed]struct{}),
			everybody: make(map[*feed]struct{}),
			recent:    make(map[[32]byte]bus.ID),
		}
	}
	return l.connect()
}

func (l *memlog) connect() *Bus {
	ctx, cancel := context.WithCancel(context.Background())
	return &Bus{
		log: l, ctx: ctx, cancel: cancel,
		feeds:    make(map[*feed]struct{}),
		services: make(map[*service]struct{}),
	}
}

// Connect returns another connection to the same log, as a second host has. It
// works on a closed connection too: the log lives as long as it is referred to.
func (b *Bus) Connect() *Bus { return b.log.connect() }

// drop removes a topic's entries that match.
func (s *shard) drop(t bus.Topic, match func(entry) bool) {
	kept := slices.DeleteFunc(s.topics[t], func(e entry) bool {
		if match(e) {
			s.bytes -= int64(len(e.Payload)) + overhead
			return true
		}
		return false
	})
	if len(kept) == 0 {
		delete(s.topics, t)
	} else {
		s.topics[t] = kept
	}
}

// Info returns the log's constants.
func (b *Bus) Info() bus.Info {
	info := b.log.info
	info.Losses = int(b.log.losses.Load())
	return info
}

// ready says whether a call may go ahead. Called with the log's mutex held.
func (b *Bus) ready(ctx context.Context) error {
	if b.closed {
		return bus.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	b.log.land()
	if b.log.hit(Unreachable) {
		return fmt.Errorf("%w: not reached", bus.ErrUnavailable)
	}
	return nil
}

// A publication is what Publish was asked to store.
type publication struct {
	shard   int
	topic   bus.Topic
	payload []byte
	hash    [32]byte // see bus.PublishOptions.RepeatKey
	options bus.PublishOptions
}

// Publish implements bus.Bus. The payload is copied.
func (b *Bus) Publish(ctx context.Context, topic bus.Topic, payload []byte, opts ...bus.PublishOption) (bus.Ack, error) {
	l := b.log
	index, err := bus.OneShard(l.cfg.Shards, 0, topic)
	if err != nil {
		return bus.Ack{}, err
	}
	if len(payload) > l.cfg.MaxPayload {
		return bus.Ack{}, fmt.Errorf("%w: %d bytes, at most %d", bus.ErrTooLarge, len(payload), l.cfg.MaxPayload)
	}
	options := bus.Gather(opts)
	p := publication{shard: index, topic: topic, payload: bytes.Clone(payload), hash: options.RepeatKey(topic, payload), options: options}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return bus.Ack{}, err
	}
	return l.lossy(p)
}

// store appends an envelope, or finds the one that it repeats. Called with the
// log's mutex held.
func (l *memlog) store(p publication) (bus.Ack, error) {
	s, now := &l.shards[p.shard], l.cfg.Now().UTC()
	if p.options.ExpectLast && l.info.CompareAndSet {
		if last := s.last(p.topic, now); last.ID != p.options.Last {
			// The winner that repeats itself is refused by its own envelope.
			for _, e := range s.above(p.topic, p.options.Last) {
				if e.hash == p.hash {
					return bus.Ack{ID: e.ID, Time: e.Time, Duplicate: true}, nil
				}
			}
			return bus.Ack{}, fmt.Errorf("%w: last is %d, expected %d", bus.ErrConflict, last.ID, p.options.Last)
		}
	}
	s.forgetArrivals(now.Add(-l.cfg.DedupWindow))
	if id, ok := s.recent[p.hash]; ok && !l.hit(Again) {
		return bus.Ack{ID: id, Duplicate: true}, nil
	}
	size := int64(len(p.payload)) + overhead
	if l.cfg.MaxBytes > 0 && s.bytes+size > l.cfg.MaxBytes {
		expired := func(e entry) bool { return !e.visible(now) }
		for t := range s.topics {
			s.drop(t, expired)
		}
		if s.bytes+size > l.cfg.MaxBytes {
			return bus.Ack{}, bus.ErrFull
		}
	}
	s.end++
	s.bytes += size
	e := entry{
		Envelope: bus.Envelope{ID: bus.MakeID(s.end, p.shard), Topic: p.topic, Time: now, Payload: p.payload},
		hash:     p.hash,
	}
	if p.options.TTL > 0 {
		e.forget = now.Add(p.options.TTL)
	}
	s.topics[p.topic] = append(s.topics[p.topic], e)
	s.recent[p.hash] = e.ID
	s.arrivals = append(s.arrivals, arrival{p.hash, now})
	for f := range s.followers[p.topic] {
		f.stir(p.topic)
	}
	for f := range s.everybody {
		f.stir(p.topic)
	}
	return bus.Ack{ID: e.ID, Time: now}, nil
}

func (e *entry) visible(now time.Time) bool { return e.forget.IsZero() || now.Before(e.forget) }

func (s *shard) forgetArrivals(before time.Time) {
	n := 0
	for n < len(s.arrivals) && s.arrivals[n].at.Before(before) {
		delete(s.recent, s.arrivals[n].hash)
		n++
	}
	s.arrivals = s.arrivals[n:]
}

// last returns the newest entry of a topic, the zero entry where it has none.
func (s *shard) last(t bus.Topic, now time.Time) entry {
	for _, e := range slices.Backward(s.topics[t]) {
		if e.visible(now) {
			return e
		}
	}
	return entry{}
}

// above returns the topic's entries with IDs above after.
func (s *shard) above(t bus.Topic, after bus.ID) []entry {
	entries := s.topics[t]
	i, found := slices.BinarySearchFunc(entries, after, func(e entry, id bus.ID) int {
		switch {
		case e.ID < id:
			return -1
		case e.ID > id:
			return 1
		}
		return 0
	})
	if found {
		i++
	}
	return entries[i:]
}

// Read implements bus.Bus.
func (b *Bus) Read(ctx context.Context, after bus.ID, limit int, topics ...bus.Topic) ([]bus.Envelope, error) {
	l := b.log
	index, err := bus.OneShard(l.cfg.Shards, after, topics...)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	s := &l.shards[index]
	if after.Sequence() > s.end {
		return nil, fmt.Errorf("%w: shard %d ends at %d, asked after %d", bus.ErrLogRolledBack, index, s.end, after.Sequence())
	}
	now := l.cfg.Now()
	end := bus.MakeID(s.end, index) // one cut: what lands meanwhile is for the next Read
	var lists merging
	for i, t := range distinct(topics) {
		if i > 0 {
			l.meanwhile(Between)
		}
		lists = append(lists, s.stretch(t, after, end, limit, now))
	}
	return lists.take(limit, now), nil
}

// stretch copies the topic's visible entries with IDs above after and up to end,
// no more than the limit.
func (s *shard) stretch(t bus.Topic, after, end bus.ID, limit int, now time.Time) (page []entry) {
	for _, e := range s.above(t, after) {
		if e.ID > end || len(page) >= limit {
			break
		}
		if e.visible(now) {
			page = append(page, e)
		}
	}
	return page
}

func distinct(topics []bus.Topic) []bus.Topic {
	seen := make(map[bus.Topic]struct{}, len(topics))
	return slices.DeleteFunc(slices.Clone(topics), func(t bus.Topic) bool {
		_, again := seen[t]
		seen[t] = struct{}{}
		return again
	})
}

// Last implements bus.Bus.
func (b *Bus) Last(ctx context.Context, topics ...bus.Topic) ([]bus.ID, error) {
	l := b.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	ids := make([]bus.ID, len(topics))
	for i, t := range topics {
		index, err := bus.OneShard(l.cfg.Shards, 0, t)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			l.meanwhile(Between)
		}
		ids[i] = l.shards[index].last(t, l.cfg.Now()).ID
	}
	return ids, nil
}

// End implements bus.Bus.
func (b *Bus) End(ctx context.Context, topic bus.Topic) (bus.ID, error) {
	l := b.log
	index, err := bus.OneShard(l.cfg.Shards, 0, topic)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return 0, err
	}
	if l.shards[index].end == 0 {
		return 0, nil
	}
	return bus.MakeID(l.shards[index].end, index), nil
}

// Lost implements bus.Bus.
func (b *Bus) Lost(topic bus.Topic) (bus.ID, bool) {
	l := b.log
	index, err := bus.OneShard(l.cfg.Shards, 0, topic)
	if err != nil {
		return 0, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.shards[index].lost
	if first == 0 {
		return 0, false
	}
	return bus.MakeID(first-1, index), true
}

// Close implements bus.Bus. The log stays, for the other connections.
func (b *Bus) Close() error {
	l := b.log
	l.mu.Lock()
	b.closed = true
	b.cancel()
	for f := range b.feeds {
		f.end()
	}
	services := slices.Collect(maps.Keys(b.services))
	for _, s := range services {
		s.withdraw()
	}
	l.mu.Unlock()
	for _, s := range services {
		s.running.Wait()
	}
	return nil
}
