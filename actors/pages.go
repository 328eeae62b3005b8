package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
)

// A reader reads logs for actors that catch up. Many members of one group read the
// same stretch at the same time: after a join, a restart or a hint. So a page is read
// once for all of them and kept for pageLife.
type reader struct {
	ctx   context.Context // the host's: a page is read for everybody
	bus   bus.Bus
	realm *mls.Realm
	clock *logClock // is told of what is read

	mu    sync.Mutex
	last  moment
	pages map[pageKey]*page // those that are being read, and those that are kept
	kept  []*page           // oldest first
	bytes int               // of those that are kept
	timer *time.Timer       // gives back what is old; nil while nothing is kept
}

// A moment is a point in the host's time. A request of one moment is served by a page
// whose reading began then or later, so it sees everything published before.
type moment uint64

type pageKey struct {
	group GroupID
	after bus.ID
}

// A page is a stretch of a group's log. What is below done is set when that is
// closed, and not changed any more.
type page struct {
	key   pageKey
	began moment
	done  chan struct{}

	items []group.Delivered
	end   bus.ID // the log's newest entry, asked for before the page was read
	full  bool   // the log may go on
	err   error
	size  int       // bytes of payload
	read  time.Time // zero while it is being read; guarded by reader.mu
}

// Bounds of a page, and of what a host keeps. A log is read in envelopes, whose
// size nobody knows before: the first page is small, and those that follow it
// grow for as long as they are light.
const (
	firstPage = 32       // envelopes
	pageSize  = 256      // envelopes
	pageBytes = 4 << 20  // what a page is meant to hold at most
	keptBytes = 32 << 20 // all pages that are kept
	keptPages = 256
	pageLife  = 10 * time.Second

	pageOverhead = 256 // bytes that an empty page costs
)

// next is how many envelopes the page behind this one is to have.
func (p *page) next() int {
	n := len(p.items)
	if n == 0 {
		return firstPage
	}
	return max(1, min(4*n, pageSize, pageBytes*n/max(p.size, 1)))
}

// now is the moment that begins now.
func (r *reader) now() moment {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	return r.last
}

// page returns the envelopes of a group above after, about limit of them, as the
// log had them at since or later.
func (r *reader) page(ctx context.Context, key pageKey, limit int, since moment) (*page, error) {
	for {
		p, begin := r.take(key, since)
		if begin {
			r.fetch(p, limit)
			return p, p.err
		}
		select {
		case <-p.done:
		case <-ctx.Done():
			return p, ctx.Err()
		}
		if p.err != nil || p.serves(since) {
			return p, p.err
		}
	}
}

// serves reports whether a page that was read has what there was at since: where
// it is full nothing can be added to it.
func (p *page) serves(since moment) bool { return p.full || p.began >= since }

// take returns a page that is being read or serves, or else a new one that the
// caller begins. At most one of a key is being read: who needs a later one waits
// for it first, so that all who wait begin the next one together.
func (r *reader) take(key pageKey, since moment) (p *page, begin bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p = r.pages[key]; p != nil {
		if p.read.IsZero() || p.serves(since) {
			return p, false
		}
		i := slices.Index(r.kept, p)
		r.forget(i, i+1)
	}
	r.last++
	p = &page{key: key, began: r.last, done: make(chan struct{})}
	r.pages[key] = p
	return p, true
}

// fetch reads a page. The end is asked for first: everything up to it is in the
// page, or behind it where it is full.
func (r *reader) fetch(p *page, limit int) {
	commits, messages := topicsOf(p.key.group)
	var envelopes []bus.Envelope
	if p.end, p.err = r.bus.End(r.ctx, commits); p.err == nil {
		envelopes, p.err = r.bus.Read(r.ctx, p.key.after, limit, commits, messages)
	}
	if p.err != nil {
		p.err = fmt.Errorf("actors: read group log: %w", p.err)
	}
	p.items = decode(r.realm, p.key.after, envelopes)
	p.full = len(envelopes) == limit
	r.clock.sawAll(envelopes)
	for _, e := range envelopes {
		p.size += len(e.Payload)
	}
	r.store(p)
	close(p.done)
}

// store holds on to a page for a moment, in place of the oldest ones.
func (r *reader) store(p *page) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pages[p.key] != p {
		return // the log went backwards meanwhile
	}
	if errors.Is(p.err, bus.ErrLogRolledBack) {
		r.forgetAll()
	}
	if p.err != nil || p.size > keptBytes/2 {
		delete(r.pages, p.key)
		return
	}
	p.read = time.Now()
	r.kept = append(r.kept, p)
	r.bytes += p.size + pageOverhead
	old := 0
	for bytes := r.bytes; bytes > keptBytes || len(r.kept)-old > keptPages; old++ {
		bytes -= r.kept[old].size + pageOverhead
	}
	r.forget(0, old)
	if r.timer == nil {
		r.timer = time.AfterFunc(pageLife, r.giveBack)
	}
}

// giveBack forgets the pages that are old, and comes again while there are any.
func (r *reader) giveBack() {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := 0
	for old < len(r.kept) && time.Since(r.kept[old].read) >= pageLife {
		old++
	}
	r.forget(0, old)
	r.timer = nil
	if len(r.kept) > 0 && r.ctx.Err() == nil {
		r.timer = time.AfterFunc(pageLife-time.Since(r.kept[0].read), r.giveBack)
	}
}

// rewound forgets all pages: the log may not have what is in them.
func (r *reader) rewound() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgetAll()
}

// The methods from here on are called with the reader's mutex held.

func (r *reader) forgetAll() {
	r.kept, r.bytes = nil, 0
	clear(r.pages) // those that are being read are not kept
}

// forget forgets some of the pages that are kept.
func (r *reader) forget(from, to int) {
	for _, p := range r.kept[from:to] {
		r.bytes -= p.size + pageOverhead
		delete(r.pages, p.key)
	}
	r.kept = slices.Delete(r.kept, from, to)
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

// topicsOf returns a group's two topics.
func topicsOf(id GroupID) (commits, messages bus.Topic) {
	commits, _ = bus.CommitsOf(id[:]) // 16 bytes: never an error
	messages, _ = bus.MessagesOf(id[:])
	return commits, messages
}
