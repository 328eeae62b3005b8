package actors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
)

// A dispatcher reads the bus once for the whole host. It decodes an envelope
// once and hands it to every local actor that follows its topic.
type dispatcher struct {
	bus   bus.Bus
	feed  bus.Feed
	realm *mls.Realm
	post  func(name string, msg any) error
	depth func(name string) int
	alarm func() // the log went backwards: also for those who do not follow it
	log   *slog.Logger

	mu   sync.Mutex
	logs map[bus.Topic]*following // a group's two topics share one entry
}

// following is one log that somebody here follows.
type following struct {
	at      bus.ID               // everything up to here was handed out
	readers map[string]*readMark // by actor name
}

type readMark struct{ behind bool }

// News for a group actor: envelopes in order. All local members get the same
// slice.
type groupNews struct{ items []group.Delivered }

// News for an installation.
type welcomeNews struct {
	after     bus.ID // what was handed out before
	envelopes []bus.Envelope
}

// fallenBehind tells an actor that it was passed over: it reads the log from
// its own cursor.
type fallenBehind struct{}

// logRewound tells an actor that the log went backwards.
type logRewound struct{ end bus.ID }

// maxQueued is the inflow credit: an actor with more messages waiting gets no
// more, and catches up from the log when it has worked them off.
const maxQueued = 128

// follow registers an actor for topics of one log. The actor has everything up
// to cursor; the result is where live delivery begins for it: it reads what
// lies between by itself.
func (d *dispatcher) follow(ctx context.Context, name string, cursor bus.ID, topics ...bus.Topic) (bus.ID, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.logs[topics[0]]
	if f == nil {
		if err := d.feed.Follow(ctx, cursor, topics...); err != nil {
			return 0, err
		}
		f = &following{at: cursor, readers: map[string]*readMark{}}
		for _, t := range topics {
			d.logs[t] = f
		}
	}
	f.readers[name] = &readMark{}
	return f.at, nil
}

func (d *dispatcher) unfollow(name string, topics ...bus.Topic) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.logs[topics[0]]
	if f == nil {
		return
	}
	delete(f.readers, name)
	if len(f.readers) == 0 {
		d.feed.Unfollow(topics...)
		for _, t := range topics {
			delete(d.logs, t)
		}
	}
}

// caughtUp gives an actor that has read to its cursor's end its credit back, and
// reports whether it was passed over with something beyond that meanwhile: then
// it reads once more.
func (d *dispatcher) caughtUp(name string, topic bus.Topic, end bus.ID) (more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.logs[topic]
	if f == nil || f.readers[name] == nil {
		return false
	}
	more = f.readers[name].behind && f.at > end
	f.readers[name].behind = false
	return more
}

// run hands out what arrives until the feed is closed.
func (d *dispatcher) run(ctx context.Context) {
	for {
		batch, err := d.feed.Next(ctx)
		switch {
		case err == nil:
			d.handOut(batch)
		case errors.Is(err, bus.ErrClosed) || ctx.Err() != nil:
			return
		case errors.Is(err, bus.ErrLogRolledBack):
			d.log.Error("log went backwards", keyErr, err)
			d.alarm()
			for !d.rewound(ctx) {
				select {
				case <-time.After(feedRetry):
				case <-ctx.Done():
					return
				}
			}
		default:
			d.log.Warn("bus feed interrupted", keyErr, err)
			select {
			case <-time.After(feedRetry):
			case <-ctx.Done():
				return
			}
		}
	}
}

const feedRetry = 100 * time.Millisecond

// handOut groups a batch by log, in order, and posts each group's part once to
// every follower.
func (d *dispatcher) handOut(batch []bus.Envelope) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var order []*following
	news := map[*following][]bus.Envelope{}
	for _, e := range batch {
		f := d.logs[e.Topic]
		if f == nil || e.ID <= f.at {
			continue
		}
		if news[f] == nil {
			order = append(order, f)
		}
		news[f] = append(news[f], e)
	}
	for _, f := range order {
		envelopes := news[f]
		msg := any(welcomeNews{f.at, envelopes})
		if k := envelopes[0].Topic.Kind(); k == bus.GroupCommits || k == bus.GroupMessages {
			msg = groupNews{decode(d.realm, f.at, envelopes)}
		}
		f.at = envelopes[len(envelopes)-1].ID
		for name, mark := range f.readers {
			if mark.behind {
				continue
			}
			if d.depth(name) > maxQueued {
				mark.behind = true
				d.tell(name, fallenBehind{})
				continue
			}
			d.tell(name, msg)
		}
	}
}

// tell posts a message. An actor that cannot be woken misses nothing: it reads
// the log when it can.
func (d *dispatcher) tell(name string, msg any) {
	if err := d.post(name, msg); err != nil {
		d.log.Warn("delivery refused", keyActor, name[:min(len(name), 10)], keyErr, err)
	}
}

// decode makes a group's deliveries of envelopes. What does not decode is
// delivered all the same, as nothing: the replica reads past it and says so.
func decode(realm *mls.Realm, after bus.ID, envelopes []bus.Envelope) []group.Delivered {
	items := make([]group.Delivered, len(envelopes))
	for i, e := range envelopes {
		items[i] = group.Delivered{ID: uint64(e.ID), After: uint64(after), Time: e.Time, Commit: e.Topic.Kind() == bus.GroupCommits}
		if data, err := group.DecodeGroupMessage(e.Payload); err == nil {
			items[i].Data = data
			items[i].Message, _ = realm.Parse(data)
		}
		after = e.ID
	}
	return items
}

// rewound tells every follower, and follows anew from the end of each log. It
// reports whether that went well: it is repeated, since who is told twice does
// nothing, and who is not followed again hears of nothing any more.
func (d *dispatcher) rewound(ctx context.Context) bool {
	all := true
	d.mu.Lock()
	defer d.mu.Unlock()
	topics := map[*following][]bus.Topic{}
	for t, f := range d.logs {
		topics[f] = append(topics[f], t)
	}
	for f, of := range topics {
		end, err := d.bus.End(ctx, of[0])
		if err == nil {
			err = d.feed.Follow(ctx, end, of...)
		}
		if err != nil {
			d.log.Error("follow after rewind", keyErr, err)
			all = false
			continue
		}
		f.at = end
		for name := range f.readers {
			d.tell(name, logRewound{end})
		}
	}
	return all
}

// A reader reads logs for actors that catch up. Many members of one group read
// the same stretch at the same time, after a join or a restart, so pages are
// read once and kept for a moment.
type reader struct {
	ctx   context.Context // the host's: a page is read for everybody
	bus   bus.Bus
	realm *mls.Realm

	mu    sync.Mutex
	pages map[pageKey]*page
	order []pageKey // oldest first
}

type pageKey struct {
	group GroupID
	after bus.ID
}

type page struct {
	done  chan struct{}
	items []group.Delivered
	err   error
}

const (
	pageSize = 256 // envelopes
	maxPages = 64
)

// read returns the next envelopes of a group above after; fewer than pageSize
// means that the log's end was reached. A page that reached the end is not
// kept, since the end moves; and whoever came to wait for one that others had
// begun reads once more, since what is to be seen may have been published in
// between.
func (r *reader) read(ctx context.Context, id GroupID, after bus.ID) ([]group.Delivered, error) {
	items, joined, err := r.page(ctx, pageKey{id, after})
	if joined && err == nil && len(items) < pageSize {
		items, _, err = r.page(ctx, pageKey{id, after}) // begun since, by whomever
	}
	return items, err
}

// page reads a page, or joins those who are reading it.
func (r *reader) page(ctx context.Context, key pageKey) (items []group.Delivered, joined bool, err error) {
	r.mu.Lock()
	p := r.pages[key]
	if p == nil {
		p = &page{done: make(chan struct{})}
		r.pages[key] = p
		r.order = append(r.order, key)
		if len(r.order) > maxPages {
			delete(r.pages, r.order[0])
			r.order = r.order[1:]
		}
		r.mu.Unlock()
		p.items, p.err = r.fetch(r.ctx, key.group, key.after)
		if p.err != nil || len(p.items) < pageSize {
			r.mu.Lock()
			if r.pages[key] == p {
				delete(r.pages, key)
			}
			r.mu.Unlock()
		}
		close(p.done)
		return p.items, false, p.err
	}
	r.mu.Unlock()
	select {
	case <-p.done:
		return p.items, true, p.err
	case <-ctx.Done():
		return nil, true, ctx.Err()
	}
}

func (r *reader) fetch(ctx context.Context, id GroupID, after bus.ID) ([]group.Delivered, error) {
	commits, messages := topicsOf(id)
	envelopes, err := r.bus.Read(ctx, after, pageSize, commits, messages)
	if err != nil {
		return nil, fmt.Errorf("actors: read group log: %w", err)
	}
	return decode(r.realm, after, envelopes), nil
}

// topicsOf returns a group's two topics.
func topicsOf(id GroupID) (commits, messages bus.Topic) {
	commits, _ = bus.CommitsOf(id[:]) // 16 bytes: never an error
	messages, _ = bus.MessagesOf(id[:])
	return commits, messages
}
