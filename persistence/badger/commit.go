package badger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	badgerdb "github.com/dgraph-io/badger/v4"

	"github.com/conclave-chat/conclave/persistence"
	"github.com/conclave-chat/conclave/persistence/badger/internal/journal"
)

// A group is as many waiting requests as these allow: one journal record, one
// transaction of Badger's unless a single request needs more.
const (
	groupRequests = 512
	groupBytes    = txnBytes / 2
	groupOps      = txnCells / 2
)

// The committer is the one goroutine that writes. A second one, the syncer,
// waits for the disk on behalf of the Durable requests, so that the Lazy ones
// never do, and every group that was written meanwhile shares its next sync.
type committer struct {
	config *Config
	db     *badgerdb.DB
	log    *journal.Journal
	views  *views
	large  large
	recent recent
	syncer *syncer

	queue   chan *request
	closing sync.RWMutex // submit shares it, stop holds it
	closed  bool
	done    chan struct{}
	broken  atomic.Pointer[error]

	record []byte           // of the group
	ops    []persistence.Op // of the group
	seen   map[string]bool  // of the group: is the key there after its ops so far
}

type request struct {
	ctx     context.Context
	ops     []persistence.Op
	durable bool
	result  chan error
}

var requests = sync.Pool{New: func() any { return &request{result: make(chan error, 1)} }}

func startCommitter(config *Config, db *badgerdb.DB, log *journal.Journal, v *views, large large) *committer {
	c := &committer{
		config: config, db: db, log: log, views: v, large: large,
		queue: make(chan *request, groupRequests),
		done:  make(chan struct{}),
		seen:  map[string]bool{},
	}
	c.syncer = startSyncer(c)
	go c.run()
	return c
}

// submit queues a request and waits for its outcome.
func (c *committer) submit(ctx context.Context, ops []persistence.Op, durable bool) error {
	r := requests.Get().(*request)
	r.ctx, r.ops, r.durable = ctx, ops, durable
	if err := c.enqueue(r); err != nil {
		return err
	}
	err := <-r.result
	r.ctx, r.ops = nil, nil
	requests.Put(r)
	return err
}

func (c *committer) enqueue(r *request) error {
	c.closing.RLock()
	defer c.closing.RUnlock()
	if c.closed {
		return persistence.ErrClosed
	}
	select {
	case c.queue <- r:
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

// stop finishes what is queued, makes it durable and ends both goroutines.
func (c *committer) stop() error {
	c.closing.Lock()
	c.closed = true
	close(c.queue)
	c.closing.Unlock()
	<-c.done
	c.syncer.stop()
	if c.broken.Load() != nil {
		return c.log.Abandon()
	}
	if err := c.log.Close(); err != nil {
		return err
	}
	c.syncer.witnessed.store(c.log.Last())
	return nil
}

// fail closes the store for writing.
func (c *committer) fail(cause error) error {
	err := fmt.Errorf("%w: %w", persistence.ErrBroken, cause)
	if c.broken.CompareAndSwap(nil, &err) {
		c.config.Logger.Error("store failed", slog.Any("error", cause))
	}
	return *c.broken.Load()
}

func (c *committer) run() {
	defer close(c.done)
	group := make([]*request, 0, groupRequests)
	for r := range c.queue {
		group = append(group[:0], r)
		bytes, ops := r.size(), len(r.ops)
		for more := true; more && len(group) < groupRequests && bytes < groupBytes && ops < groupOps; {
			select {
			case r, more = <-c.queue:
				if more {
					group = append(group, r)
					bytes, ops = bytes+r.size(), ops+len(r.ops)
				}
			default:
				more = false
			}
		}
		c.commit(group)
		clear(group)
	}
}

func (r *request) size() int {
	n := 0
	for i := range r.ops {
		n += len(r.ops[i].Key) + len(r.ops[i].Value)
	}
	return n
}

// commit writes a group: at once, unless what PutAbsent makes is too much.
func (c *committer) commit(group []*request) {
	for len(group) > 0 {
		var taken []*request
		taken, group = c.resolve(group)
		c.answer(taken, c.write())
	}
}

// answer tells each request its outcome, or leaves it to the syncer.
func (c *committer) answer(taken []*request, err error) {
	if err != nil {
		for _, r := range taken {
			r.result <- err
		}
		return
	}
	var durable []*request
	for _, r := range taken {
		if r.durable {
			durable = append(durable, r)
		} else {
			r.result <- nil
		}
	}
	c.syncer.add(c.log.Point(), durable)
	if c.log.Size() >= c.config.segment {
		c.rotate()
	}
}

// write brings the group's changes into journal and tables, in this order.
func (c *committer) write() error {
	if broken := c.broken.Load(); broken != nil {
		return *broken
	}
	if len(c.ops) == 0 {
		return nil
	}
	if free, err := c.config.freeSpace(c.config.Dir); err == nil && free < c.config.FreeSpace {
		return fmt.Errorf("%w: %d bytes are left, %d are kept free", persistence.ErrFull, free, c.config.FreeSpace)
	}
	c.record = append(c.record[:0], make([]byte, journal.Room)...)
	for _, op := range c.ops {
		c.record = appendChange(c.record, op)
	}
	all, changed := c.large.cells(c.ops)
	txns := split(all)
	first := c.log.Last() + 1
	var err error
	if c.record, err = c.log.Append(c.record, uint32(len(txns))); err != nil {
		if errors.Is(err, persistence.ErrFull) {
			return err
		}
		return c.fail(err)
	}
	// A crash may leave some of several transactions in the tables. Then the
	// rest must be in the journal.
	if len(txns) > 1 {
		if err := c.log.Point().Sync(); err != nil {
			return c.fail(err)
		}
	}
	if err := commit(c.db, first, txns); err != nil {
		return c.fail(err)
	}
	c.views.show(c.log.Last())
	c.large.accept(changed)
	c.recent.follow(c.ops)
	if cap(c.record) > 4*txnBytes {
		c.record = nil
	}
	return nil
}

// rotate starts a new journal segment and drops those that the tables hold.
func (c *committer) rotate() {
	old, err := c.log.Rotate()
	if errors.Is(err, persistence.ErrFull) {
		return
	} else if err != nil {
		c.fail(err)
		return
	}
	c.syncer.retire(old, c.log.Point())
	if err := c.log.Prune(flushed(c.db)); err != nil {
		c.fail(err)
	}
}

// flushed returns the stamp up to which Badger's tables hold everything.
func flushed(db *badgerdb.DB) (stamp uint64) {
	for _, t := range db.Tables() {
		stamp = max(stamp, t.MaxVersion)
	}
	return stamp
}
