package badger

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	badgerdb "github.com/dgraph-io/badger/v4"

	"github.com/conclave-chat/conclave/persistence"
)

// views knows the stamp that readers see and the stamps that they still read,
// since Badger in managed mode is told which old versions it may drop.
type views struct {
	mu      sync.Mutex
	idle    sync.Cond // no view is open
	visible uint64
	reading map[uint64]int // views by stamp
	open    int
	closed  bool
}

func (v *views) init(stamp uint64) {
	v.visible, v.reading = stamp, map[uint64]int{}
	v.idle.L = &v.mu
}

func (v *views) acquire() (stamp uint64, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return 0, persistence.ErrClosed
	}
	v.open++
	v.reading[v.visible]++
	return v.visible, nil
}

func (v *views) release(stamp uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.reading[stamp]--; v.reading[stamp] == 0 {
		delete(v.reading, stamp)
	}
	if v.open--; v.open == 0 {
		v.idle.Broadcast()
	}
}

func (v *views) show(stamp uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.visible = stamp
}

// oldest returns the stamp up to which no view needs an older version.
func (v *views) oldest() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	oldest := v.visible
	for stamp := range v.reading {
		oldest = min(oldest, stamp)
	}
	return oldest
}

// close refuses new views and waits for the open ones.
func (v *views) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
	for v.open > 0 {
		v.idle.Wait()
	}
}

// View implements persistence.Store. Close waits for it.
func (s *Store) View(ctx context.Context, read func(persistence.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	stamp, err := s.views.acquire()
	if err != nil {
		return err
	}
	defer s.views.release(stamp)
	txn := s.db.NewTransactionAt(stamp, false)
	defer txn.Discard()
	return read(reader{txn})
}

// A reader reads one transaction. What it hands out is the caller's own copy.
type reader struct{ txn *badgerdb.Txn }

func (r reader) Get(key []byte) ([]byte, error) {
	if len(key) > persistence.MaxKey {
		return nil, persistence.ErrNotFound
	}
	item, err := r.txn.Get(rowKey(key))
	if errors.Is(err, badgerdb.ErrKeyNotFound) {
		return nil, persistence.ErrNotFound
	} else if err != nil {
		return nil, damaged(err)
	}
	return r.value(key, item)
}

func (r reader) value(key []byte, item *badgerdb.Item) ([]byte, error) {
	value, err := item.ValueCopy(nil)
	if err != nil {
		return nil, damaged(err)
	}
	switch {
	case item.UserMeta() != inPieces:
		return value, nil
	case len(value) != 4:
		return nil, damaged(errors.New("pieces are not counted"))
	}
	var whole []byte
	for n := range int(binary.BigEndian.Uint32(value)) {
		item, err := r.txn.Get(pieceKey(key, n))
		if err == nil {
			err = item.Value(func(piece []byte) error {
				whole = append(whole, piece...)
				return nil
			})
		}
		if err != nil {
			return nil, damaged(err)
		}
	}
	return whole, nil
}

func damaged(err error) error { return fmt.Errorf("%w: read: %w", persistence.ErrDamaged, err) }

func (r reader) Scan(prefix, from []byte, yield func(key, value []byte) bool) error {
	if bytes.Compare(from, prefix) < 0 {
		from = prefix
	}
	it := r.iterator(prefix, false)
	defer it.Close()
	for it.Seek(rowKey(from)); it.Valid(); it.Next() {
		if more, err := r.yield(it.Item(), yield); !more {
			return err
		}
	}
	return nil
}

func (r reader) ScanBack(prefix, before []byte, yield func(key, value []byte) bool) error {
	switch end := persistence.PrefixEnd(prefix); {
	case before != nil && bytes.Compare(before, prefix) <= 0:
		return nil
	case before == nil, end != nil && bytes.Compare(before, end) >= 0:
		// Above every key with the prefix, and itself with the prefix.
		before = append(bytes.Clone(prefix), bytes.Repeat([]byte{0xff}, persistence.MaxKey+1)...)
	}
	it := r.iterator(prefix, true)
	defer it.Close()
	for it.Seek(rowKey(before)); it.Valid(); it.Next() {
		if bytes.Equal(it.Item().Key()[1:], before) {
			continue
		}
		if more, err := r.yield(it.Item(), yield); !more {
			return err
		}
	}
	return nil
}

// iterator walks the rows with a prefix. Values are read one by one: fetching
// ahead costs a goroutine a row.
func (r reader) iterator(prefix []byte, reverse bool) *badgerdb.Iterator {
	return r.txn.NewIterator(badgerdb.IteratorOptions{Prefix: rowKey(prefix), Reverse: reverse})
}

func (r reader) yield(item *badgerdb.Item, yield func(key, value []byte) bool) (more bool, err error) {
	key := item.KeyCopy(nil)[1:]
	value, err := r.value(key, item)
	if err != nil {
		return false, err
	}
	return yield(key, value), nil
}
