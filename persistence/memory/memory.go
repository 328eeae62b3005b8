// Package memory is the store port in memory: for tests, for the simulation,
// and for installations that are meant to leave nothing behind.
//
// It keeps the whole contract, with a disk that only a Durable batch, Sync or
// Close reaches; Crash loses what the disk has not got.
package memory

import (
	"bytes"
	"context"
	"errors"
	"sync"

	"github.com/conclave-chat/conclave/persistence"
)

// maxUnsynced bounds the lazy batches that a crash could lose. The oldest
// reaches the disk when one more comes.
const maxUnsynced = 1024

// A Store is a persistence.Store without files. It outlives its Close: Reopen
// and Crash give the rows back, as opening a directory again would.
type Store struct {
	mu     sync.Mutex
	disk   *node   // what a crash leaves
	recent []*node // the tree after each later batch
	fail   error   // FailNext
	broken bool
	closed bool
}

// New returns an empty store.
func New() *Store { return &Store{} }

// FailNext makes the next Apply fail with err. Nothing of its batch is then in
// the store; if err is ErrBroken the store takes no more writes until it is
// reopened.
func (s *Store) FailNext(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// Crash ends the store as a power cut would, and opens it again. Of the batches
// that are not durable, keep (nil: none) says how many of the oldest survive.
func (s *Store) Crash(keep func(unsynced int) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if keep != nil {
		if n := min(keep(len(s.recent)), len(s.recent)); n > 0 {
			s.disk = s.recent[n-1]
		}
	}
	s.recent, s.fail, s.broken, s.closed = nil, nil, false, false
}

// Reopen opens a closed store again.
func (s *Store) Reopen() { s.Crash(func(unsynced int) int { return unsynced }) }

// Unsynced returns the number of batches that a crash could lose.
func (s *Store) Unsynced() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.recent)
}

// View implements persistence.Store.
func (s *Store) View(ctx context.Context, read func(persistence.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	root, closed := s.tip(), s.closed
	s.mu.Unlock()
	if closed {
		return persistence.ErrClosed
	}
	return read(snapshot{root})
}

// Apply implements persistence.Store.
func (s *Store) Apply(ctx context.Context, b *persistence.Batch, d persistence.Durability) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.Check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.writable(); err != nil {
		return err
	}
	root, err := change(s.tip(), b)
	if err != nil {
		return err
	}
	if s.recent = append(s.recent, root); d == persistence.Durable {
		s.sync()
	} else if len(s.recent) > maxUnsynced {
		s.disk, s.recent = s.recent[0], s.recent[1:]
	}
	return nil
}

// change returns the tree with the batch applied.
func change(root *node, b *persistence.Batch) (*node, error) {
	made := persistence.Batch{} // what the limit of a batch counts
	for i := range b.Ops {
		switch op := &b.Ops[i]; op.Kind {
		case persistence.Put:
			root = root.put(op.Key, op.Value)
		case persistence.Delete:
			root = root.delete(op.Key)
		case persistence.PutAbsent:
			if _, ok := root.get(op.Key); ok {
				continue
			}
			value, err := op.MakeValue()
			if err != nil {
				return nil, err
			}
			root = root.put(op.Key, value)
			made.Put(op.Key, value)
		}
	}
	return root, made.Check()
}

// Sync implements persistence.Store.
func (s *Store) Sync(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return persistence.ErrClosed
	case s.broken:
		return persistence.ErrBroken
	}
	s.sync()
	return nil
}

// Close implements persistence.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.broken {
		s.sync()
	}
	s.closed = true
	return nil
}

func (s *Store) tip() *node {
	if n := len(s.recent); n > 0 {
		return s.recent[n-1]
	}
	return s.disk
}

func (s *Store) sync() { s.disk, s.recent = s.tip(), nil }

func (s *Store) writable() error {
	switch {
	case s.closed:
		return persistence.ErrClosed
	case s.broken:
		return persistence.ErrBroken
	}
	err := s.fail
	s.fail = nil
	s.broken = errors.Is(err, persistence.ErrBroken)
	return err
}

// A snapshot is one tree, which never changes.
type snapshot struct{ root *node }

func (r snapshot) Get(key []byte) ([]byte, error) {
	if value, ok := r.root.get(key); ok {
		return value, nil
	}
	return nil, persistence.ErrNotFound
}

func (r snapshot) Scan(prefix, from []byte, yield func(key, value []byte) bool) error {
	if bytes.Compare(from, prefix) < 0 {
		from = prefix
	}
	r.root.ascend(from, func(key, value []byte) bool {
		return bytes.HasPrefix(key, prefix) && yield(key, value)
	})
	return nil
}

func (r snapshot) ScanBack(prefix, before []byte, yield func(key, value []byte) bool) error {
	if end := persistence.PrefixEnd(prefix); before == nil || end != nil && bytes.Compare(before, end) > 0 {
		before = end
	}
	r.root.descend(before, func(key, value []byte) bool {
		return bytes.HasPrefix(key, prefix) && yield(key, value)
	})
	return nil
}
