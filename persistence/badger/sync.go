package badger

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/conclave-chat/conclave/persistence/badger/internal/journal"
)

const (
	flushIdle   = 50 * time.Millisecond // quiet time after which mark and Lazy batches go to the disk
	flushLatest = time.Second           // or after so long under load
	witnessWait = 5 * time.Second
)

// The syncer waits for the disk. One sync serves every request that came while
// the sync before it ran.
type syncer struct {
	c         *committer
	wake      chan struct{}
	done      chan struct{}
	witnessed *witnessed

	mu      sync.Mutex
	point   journal.Point // the end of the journal
	waiting []*request
	retired []journal.Point // segments to close
	dirty   bool            // something came since the last flush
	stopped bool
}

func startSyncer(c *committer) *syncer {
	s := &syncer{
		c: c, point: c.log.Point(),
		wake: make(chan struct{}, 1), done: make(chan struct{}),
		witnessed: startWitness(c.config),
	}
	go s.run()
	return s
}

// add tells of a group: the requests wait until the journal is durable there.
func (s *syncer) add(end journal.Point, durable []*request) {
	s.mu.Lock()
	s.point, s.dirty = end, true
	s.waiting = append(s.waiting, durable...)
	s.mu.Unlock()
	s.signal()
}

// retire tells of a new segment, and that the old one is durable.
func (s *syncer) retire(old, end journal.Point) {
	s.mu.Lock()
	s.point, s.dirty = end, true
	s.retired = append(s.retired, old)
	s.mu.Unlock()
	s.signal()
}

// stop answers who still waits and ends the goroutines.
func (s *syncer) stop() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.signal()
	<-s.done
	s.witnessed.stop()
}

func (s *syncer) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *syncer) run() {
	defer close(s.done)
	timer := time.NewTimer(0)
	<-timer.C
	var since time.Time // of the first change that is not flushed; zero: none
	for {
		select {
		case <-s.wake:
			if s.sync() {
				return
			}
			if since.IsZero() {
				since = time.Now()
				timer.Reset(flushIdle)
			}
		case <-timer.C:
			if s.takeDirty() && time.Since(since) < flushLatest {
				timer.Reset(flushIdle)
				continue
			}
			since = time.Time{}
			s.flush()
		}
	}
}

// sync serves the requests that wait.
func (s *syncer) sync() (stopped bool) {
	s.mu.Lock()
	point, waiting, retired := s.point, s.waiting, s.retired
	s.waiting, s.retired, stopped = nil, nil, s.stopped
	s.mu.Unlock()
	if len(waiting) > 0 {
		err := s.syncTo(point)
		for _, r := range waiting {
			r.result <- err
		}
	}
	for _, old := range retired {
		if err := old.Close(); err != nil {
			s.c.config.Logger.Warn("close journal segment", slog.Any("error", err))
		}
	}
	return stopped
}

// syncTo never syncs again after a failure: the system may have dropped what
// it could not write, and would then report success.
func (s *syncer) syncTo(point journal.Point) error {
	if broken := s.c.broken.Load(); broken != nil {
		return *broken
	}
	if err := point.Sync(); err != nil {
		return s.c.fail(err)
	}
	return nil
}

func (s *syncer) takeDirty() (dirty bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dirty, s.dirty = s.dirty, false
	return dirty
}

// flush makes everything durable, the mark included.
func (s *syncer) flush() {
	s.mu.Lock()
	point := s.point
	s.mu.Unlock()
	if s.syncTo(point) != nil {
		return
	}
	if err := point.SyncMark(); err != nil {
		s.c.fail(err)
		return
	}
	s.c.db.SetDiscardTs(s.c.views.oldest())
	s.witnessed.report(point.Last())
}

// witnessed brings counters to the witness without keeping anyone waiting.
type witnessed struct {
	witness Witness
	log     *slog.Logger
	latest  chan uint64
	done    chan struct{}
}

func startWitness(config *Config) *witnessed {
	w := &witnessed{config.Witness, config.Logger, make(chan uint64, 1), make(chan struct{})}
	go w.run()
	return w
}

func (w *witnessed) run() {
	defer close(w.done)
	for counter := range w.latest {
		w.store(counter)
	}
}

func (w *witnessed) store(counter uint64) {
	if w.witness == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), witnessWait)
	defer cancel()
	if err := w.witness.Store(ctx, counter); err != nil {
		w.log.Warn("store witness", slog.Any("error", err))
	}
}

// report replaces a counter that has not been stored yet. Only the syncer calls
// it.
func (w *witnessed) report(counter uint64) {
	select {
	case <-w.latest:
	default:
	}
	w.latest <- counter
}

// stop ends the goroutine.
func (w *witnessed) stop() {
	close(w.latest)
	<-w.done
}
