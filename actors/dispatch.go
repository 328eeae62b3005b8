package actors

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
)

// A dispatcher reads the bus once for the whole host. It decodes an envelope
// once and hands it to every local actor that follows its topic. Where the feed
// may have holes, what it delivers is only a hint that there is news, and each
// actor reads from its own cursor.
type dispatcher struct {
	bus     bus.Bus
	feed    bus.Feed
	gapless bool
	realm   *mls.Realm
	reader  *reader
	post    func(name string, msg any) error
	depth   func(name string) int
	beside  func(work func(context.Context))
	alarm   func() // the log went backwards: also for those who do not follow it
	log     *slog.Logger

	mu      sync.Mutex // never held during a call to the network
	logs    map[bus.Topic]*following
	turn    uint64       // number of the feed's Next that runs, or ran last
	left    uint64       // the last one during which something was unfollowed
	queue   []*following // that a worker is to see to
	workers int
}

// News for a group actor: envelopes in order. All local members get the same
// slice.
type groupNews struct{ items []group.Delivered }

// News for an installation.
type welcomeNews struct {
	after     bus.ID // what was handed out before
	envelopes []bus.Envelope
}

// fallenBehind tells an actor that there is something that it is not handed: it
// reads the log from its own cursor, as it was at a moment or later.
type fallenBehind struct{ since moment }

// maxQueued is the inflow credit: an actor with more messages waiting gets no
// more, and catches up from the log when it has worked them off.
const maxQueued = 128

const (
	feedRetry = 100 * time.Millisecond
	// hintPause gathers the hints of a feed with holes, so that a log is read
	// so often at most, however much comes.
	hintPause = 100 * time.Millisecond
	fullBatch = 512 // of a feed
)

// run hands out what arrives until the feed is closed.
func (d *dispatcher) run(ctx context.Context) {
	interrupted := false
	for {
		turn := d.nextTurn()
		batch, err := d.feed.Next(ctx)
		switch {
		case err == nil:
			if interrupted {
				interrupted = false
				d.log.Warn("bus feed goes on")
			}
			d.handOut(turn, batch)
			if !d.gapless && len(batch) < fullBatch && !pause(ctx, nil, hintPause) {
				return
			}
		case errors.Is(err, bus.ErrClosed) || ctx.Err() != nil:
			return
		case errors.Is(err, bus.ErrLogRolledBack):
			d.log.Error("log went backwards", keyErr, err)
			d.reader.rewound()
			d.wentBack()
			d.alarm()
		default:
			interrupted = true
			d.log.Warn("bus feed interrupted", keyErr, err)
			if !pause(ctx, nil, feedRetry) {
				return
			}
		}
	}
}

func (d *dispatcher) nextTurn() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turn++
	return d.turn
}

// handOut groups a batch by log, in order, and posts each group's part once to
// every follower.
func (d *dispatcher) handOut(turn uint64, batch []bus.Envelope) {
	d.reader.clock.sawAll(batch)
	since := d.reader.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	var order []*following
	news := map[*following][]bus.Envelope{}
	for _, e := range batch {
		f := d.logs[e.Topic]
		if f == nil {
			continue
		}
		if news[f] == nil {
			order = append(order, f)
		}
		news[f] = append(news[f], e)
	}
	for _, f := range order {
		envelopes := news[f]
		last := envelopes[len(envelopes)-1].ID
		switch {
		case turn < f.sure:
			f.unsure = true
			d.hint(f, last, since)
		case !d.gapless || f.unsure:
			f.at, f.unsure = max(f.at, last), false
			d.hint(f, last, since)
		default:
			d.deliver(f, envelopes, since)
		}
	}
}

// The methods from here to tell are called with the dispatcher's mutex held.

// deliver hands a log's next envelopes to its readers.
func (d *dispatcher) deliver(f *following, envelopes []bus.Envelope, since moment) {
	first := slices.IndexFunc(envelopes, func(e bus.Envelope) bool { return e.ID > f.at })
	if first < 0 {
		return
	}
	envelopes = envelopes[first:]
	msg, heavy := any(welcomeNews{f.at, envelopes}), isHeavy(envelopes)
	if k := envelopes[0].Topic.Kind(); k == bus.GroupCommits || k == bus.GroupMessages {
		msg, heavy = groupNews{decode(d.realm, f.at, envelopes)}, false
	}
	f.at = envelopes[len(envelopes)-1].ID
	f.hear(f.at, since)
	for name, mark := range f.readers {
		switch {
		case mark.behind:
		case d.depth(name) > maxQueued, heavy:
			mark.behind = true
			d.tell(f, name, fallenBehind{since})
		default:
			d.tell(f, name, msg)
		}
	}
}

// isHeavy reports whether welcomes are too large for a mailbox: who joins reads
// them from the log, as many as it has room for.
func isHeavy(welcomes []bus.Envelope) bool {
	size := 0
	for _, e := range welcomes {
		size += len(e.Payload)
	}
	return size > heavyWelcomes
}

// hint tells a log's readers that it has something, up to an ID. Who was told and
// has not read to an end since is told no more: he looks once more when he has.
func (d *dispatcher) hint(f *following, last bus.ID, since moment) {
	f.hear(last, since)
	for name, mark := range f.readers {
		if !mark.behind {
			mark.behind = true
			d.tell(f, name, fallenBehind{since})
		}
	}
}

// tell posts a message. A reader that cannot be woken misses nothing: when it
// wakes it follows anew, and reads the log.
func (d *dispatcher) tell(f *following, name string, msg any) {
	if err := d.post(name, msg); err != nil {
		d.log.Warn("delivery refused", keyActor, kindOf(name).String(), keyErr, err)
		d.leave(f, name)
	}
}

// Of a feed with holes the host asks from time to time where the logs end: what
// was passed over may be followed by nothing. The question is one for a thousand
// groups; a network answers for the welcomes of one installation at a time.
const (
	checkGroups   = time.Minute
	checkWelcomes = 5 // that many rounds apart
	checkAtOnce   = 1000
)

// check tells the readers of logs that have more than they have read.
func (d *dispatcher) check(ctx context.Context, welcomes bool) {
	d.mu.Lock()
	var all []*following
	for topic, f := range d.logs {
		if f.followed && topic == f.topics[0] && (welcomes || topic.Kind() != bus.Welcomes) {
			all = append(all, f)
		}
	}
	d.mu.Unlock()
	for chunk := range slices.Chunk(all, checkAtOnce) {
		var topics []bus.Topic
		for _, f := range chunk {
			topics = append(topics, f.topics...)
		}
		since := d.reader.now()
		last, err := d.bus.Last(ctx, topics...)
		if ctx.Err() != nil {
			return
		}
		if err != nil { // the next round asks again
			d.log.Warn("ends of logs not read", keyCount, len(chunk), keyErr, err)
			continue
		}
		d.mu.Lock()
		for _, f := range chunk {
			newest := slices.Max(last[:len(f.topics)])
			last = last[len(f.topics):]
			d.overdue(f, newest, since)
		}
		d.mu.Unlock()
	}
}

// overdue hints at an entry to those who have not read it, also where a hint
// should have reached them. Called with the dispatcher's mutex held.
func (d *dispatcher) overdue(f *following, newest bus.ID, since moment) {
	f.hear(newest, since)
	for name, mark := range f.readers {
		if mark.cursor < newest {
			mark.behind = true
			d.tell(f, name, fallenBehind{since})
		}
	}
}
