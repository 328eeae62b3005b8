package actors

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-chat/conclave/bus"
)

// held is what the reader of pages has in memory.
func (r *reader) held() (pages, bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pages {
		for _, it := range p.items {
			bytes += len(it.Data)
		}
	}
	return len(r.pages), bytes
}

// junk publishes envelopes of a size to a group's log; each is another one.
func (w *world) junk(id GroupID, n, size int) {
	w.t.Helper()
	_, messages := topicsOf(id)
	for i := range n {
		b := make([]byte, size)
		b[0], b[1] = byte(i), byte(i>>8)
		_, err := w.log.Publish(w.ctx, messages, b)
		w.ok(err)
	}
}

// Pages are bounded in bytes: those of large envelopes are small, what is kept has
// a budget, and what is old is given back.
func TestPagesAreBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		id := w.group(w.person())
		const size, n = 1 << 20, 100
		w.junk(id, n, size)
		largest, seen := 0, 0
		limit := firstPage
		for after := bus.ID(0); ; {
			p, err := w.sys.reader.page(w.ctx, pageKey{id, after}, limit, w.sys.reader.now())
			w.ok(err)
			if seen += len(p.items); seen > firstPage {
				largest = max(largest, p.size)
			}
			w.sys.reader.mu.Lock()
			kept := w.sys.reader.bytes
			w.sys.reader.mu.Unlock()
			if kept > keptBytes {
				t.Fatalf("%d bytes are kept", kept)
			}
			if !p.full {
				break
			}
			after, limit = bus.ID(p.items[len(p.items)-1].ID), p.next()
		}
		if seen != n || largest > pageBytes {
			t.Errorf("%d of %d envelopes, a page of %d bytes", seen, n, largest)
		}
		elapse(2 * pageLife)
		if pages, _ := w.sys.reader.held(); pages != 0 || w.sys.reader.bytes != 0 {
			t.Errorf("%d pages, %d bytes are kept when nobody reads", pages, w.sys.reader.bytes)
		}
	}, func(c *Config) { c.CommitLogEvery = -1 })
}

// How large the next page is to be.
func TestPagesGrowWhileTheyAreLight(t *testing.T) {
	for _, c := range []struct{ items, size, next int }{
		{0, 0, firstPage},
		{firstPage, firstPage * 500, 4 * firstPage},
		{4 * firstPage, 4 * firstPage * 500, pageSize},
		{pageSize, pageSize * 500, pageSize},
		{firstPage, firstPage << 20, 4},
		{4, 4 * 100, 16},
		{1, 25 << 20, 1},
	} {
		p := &page{size: c.size}
		for range c.items {
			p.items = append(p.items, decode(nil, 0, []bus.Envelope{{Payload: nil}})...)
		}
		if n := p.next(); n != c.next {
			t.Errorf("behind %d envelopes of %d bytes: %d, want %d", c.items, c.size, n, c.next)
		}
	}
}

// A page that was begun before somebody asked is not what he is answered with,
// unless nothing can be added to it; and who asks while one is read begins at most
// one more with all others.
func TestPagesAreOfTheMomentThatIsAskedFor(t *testing.T) {
	inWorld(t, func(w *world) {
		id := w.group(w.person())
		r, c := w.sys.reader, &countingLine{Bus: w.line}
		r.bus = c
		read := func(since moment, limit int) int {
			p, err := r.page(w.ctx, pageKey{id, 0}, limit, since)
			w.ok(err)
			return len(p.items)
		}
		asks := func(what string, want int64, f func()) {
			t.Helper()
			before := c.asked.Load()
			f()
			if n := (c.asked.Load() - before) / 2; n != want { // an End and a Read
				t.Errorf("%s: %d pages were read, want %d", what, n, want)
			}
		}
		w.junk(id, 3, 10)
		moment := r.now()
		asks("the first of many", 1, func() { read(moment, 10) })
		asks("the others of the same moment", 0, func() { read(moment, 10); read(moment, 10) })
		w.junk(id, 4, 11)
		asks("after more was published", 1, func() {
			if n := read(r.now(), 10); n != 7 {
				t.Errorf("%d envelopes of 7", n)
			}
		})
		asks("a page that is full", 1, func() { read(r.now(), 7); read(moment, 7) })
		asks("a page that is full, later", 0, func() { read(r.now(), 7) })
		r.rewound()
		asks("after the log went backwards", 1, func() { read(moment, 10) })
		asks("many together", 2, func() {
			next := w.line.queueing(bus.GroupCommits)
			for range 20 {
				since := r.now()
				go func() { _, _ = r.page(w.ctx, pageKey{id, 0}, 10, since) }()
				synctest.Wait()
			}
			w.line.flowing()
			next()
			elapse(time.Second)
		})
	}, func(c *Config) { c.CommitLogEvery = -1 })
}
