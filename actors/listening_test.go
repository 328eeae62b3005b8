package actors

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/persistence"
)

// A holdStore is a store whose next reader waits until it is let go.
type holdStore struct {
	persistence.Store
	mu    sync.Mutex
	hold  chan struct{}
	after bool // the reader has read by then
}

// View lets the oldest reader wait where hold is set.
func (h *holdStore) View(ctx context.Context, read func(persistence.Reader) error) error {
	h.mu.Lock()
	hold := h.hold
	h.hold = nil
	h.mu.Unlock()
	if hold != nil && h.after {
		err := h.Store.View(ctx, read)
		<-hold
		return err
	}
	if hold != nil {
		<-hold
	}
	return h.Store.View(ctx, read)
}

// The last stream ends while another begins.
func TestStreamBeginsWhileAnotherEnds(t *testing.T) {
	var store *holdStore
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		old := w.stream(p[1])
		hold := make(chan struct{})
		store.mu.Lock()
		store.hold = hold
		store.mu.Unlock()
		go func() { _ = old.Close() }() // has counted, and reads which groups there are
		synctest.Wait()
		st := w.stream(p[1])
		close(hold)
		synctest.Wait()
		w.say(p[0], id, "hello")
		w.hears(st, "hello")
	}, func(c *Config) { store = &holdStore{Store: c.Store}; c.Store = store })
}

// A group that is joined while the welcomes are not followed yet.
func TestJoinedBeforeFollowed(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0])
		w.say(p[0], id, "before")
		w.line.sever()
		st := w.stream(p[1])
		w.line.mend()
		w.add(p[0], id, p[1])
		w.ok(w.sys.SyncWelcomes(w.ctx, p[1]))
		elapse(time.Minute)
		w.say(p[0], id, "hello")
		w.hears(st, "hello")
	})
}

// The last stream ends while the groups sleep.
func TestSleepersAreNotFollowedAfterTheLastStream(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		st := w.stream(p[1])
		elapse(10 * time.Minute)
		w.ok(st.Close())
		elapse(10 * time.Minute)
		w.sys.feed.mu.Lock()
		n := len(w.sys.feed.logs)
		w.sys.feed.mu.Unlock()
		if n != 0 {
			t.Errorf("%d logs are followed, and nobody listens", n)
		}
		w.say(p[0], id, "hello")
		synctest.Wait()
		if _, awake := w.sys.names.Live(groupName(p[1], id)); awake {
			t.Error("a message wakes who does not listen")
		}
	}, soonIdle)
}

// A stream with exactly a batch behind it, and news while it reads the store.
func TestStreamThatIsBehindByABatch(t *testing.T) {
	var store *holdStore
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		st := w.stream(p[1])
		n := streamQueue + streamBatch
		for i := range n {
			w.say(p[0], id, strconv.Itoa(i))
		}
		synctest.Wait()
		for n > 0 { // all but what is beyond
			items, err := st.Next(w.ctx)
			w.ok(err)
			n -= len(items)
		}
		got := make(chan []Item, 1)
		hold := make(chan struct{})
		store.mu.Lock()
		store.hold = hold
		store.after = true
		store.mu.Unlock()
		go func() { items, _ := st.Next(w.ctx); got <- items }() // finds nothing, so far
		synctest.Wait()
		w.say(p[0], id, "now")
		synctest.Wait()
		close(hold)
		elapse(time.Hour)
		select {
		case <-got:
		default:
			t.Error("an hour later the message has not come")
			st.Close()
		}
	}, func(c *Config) { store = &holdStore{Store: c.Store}; c.Store = store })
}

// The log goes backwards, and where it ends now cannot be asked at once.
func TestRewoundWhileTheEndIsNotKnown(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		st := w.stream(p[1])
		w.say(p[0], id, "kept")
		_, messages := topicsOf(id)
		end, err := w.log.End(w.ctx, messages)
		w.ok(err)
		w.say(p[0], id, "lost by the log")
		w.hears(st, "kept", "lost by the log")
		var once atomic.Int64
		w.sys.feed.bus = &endless{Bus: w.sys.feed.bus, left: &once}
		once.Store(100) // the next questions fail
		w.log.Rewind(bus.ShardOf(messages, w.log.Info().Shards), end)
		elapse(time.Minute)
		once.Store(0)
		w.sync(p[0], id)
		w.sync(p[1], id)
		w.say(p[0], id, "next")
		w.hears(st, "next")
	})
}

// An endless bus does not say where a log ends, so many times.
type endless struct {
	bus.Bus
	left *atomic.Int64
}

func (e *endless) End(ctx context.Context, topic bus.Topic) (bus.ID, error) {
	if e.left.Add(-1) >= 0 {
		return 0, errCut
	}
	return e.Bus.End(ctx, topic)
}
