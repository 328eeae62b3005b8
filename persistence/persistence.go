// Package persistence is the port to the store, and the typed, sealed records
// that stand over it.
//
// # Contract
//
// A Store is an ordered map from keys to values. Every adapter promises, and
// package persistencetest checks:
//
//  1. Atomicity. A Batch is applied whole or not at all, also over a crash.
//  2. Prefix. Batches become durable in the order they were applied: after a
//     crash the store holds a prefix of them, which contains every batch whose
//     Apply returned with Durable set.
//  3. Isolation. View sees one snapshot.
//  4. Errors. After an error of Apply nothing of the batch is stored. The exception
//     is ErrBroken: the store takes no more writes, and whether the batch is stored
//     is known when it was opened again. A context that ends before the batch is
//     taken up fails Apply; after that Apply waits for the outcome.
//  5. Damage is seen. A store that lost or changed a row that was durable fails to
//     open with ErrDamaged or ErrRolledBack, and its files stay as they were.
//
// Keys are 1 to 512 bytes, values at most 8 MiB, a batch at most 32 MiB.
package persistence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// Limits of every adapter, in bytes; a batch is the sum of its keys and values.
const (
	MaxKey   = 512
	MaxValue = 8 << 20
	MaxBatch = 32 << 20
)

// A Durability says what Apply waits for.
type Durability uint8

const (
	// Lazy waits until the batch is ordered and visible, and not for the disk. It is
	// for what can be fetched again from the log.
	Lazy Durability = iota
	// Durable waits until the batch would survive a power cut. It is for everything
	// that must be stored before something is sent.
	Durable
)

// A Batch is a list of changes that are applied together. The zero value is
// empty. Key and value slices belong to the batch from then on.
type Batch struct {
	Ops []Op
}

// An Op is one change.
type Op struct {
	Kind  OpKind
	Key   []byte
	Value []byte
	Make  func() ([]byte, error) // PutAbsent: makes the value only when it is needed
}

// An OpKind is what an Op does.
type OpKind uint8

const (
	Put       OpKind = iota // set Key to Value
	Delete                  // remove Key
	PutAbsent               // set Key to Make() unless Key is there already
)

func (b *Batch) Put(key, value []byte) {
	b.Ops = append(b.Ops, Op{Kind: Put, Key: key, Value: value})
}

func (b *Batch) Delete(key []byte) {
	b.Ops = append(b.Ops, Op{Kind: Delete, Key: key})
}

// PutAbsent writes a row that several installations share and any of them may
// be the first to write. value is called at most once, by the committer, and
// only when the row is not there.
func (b *Batch) PutAbsent(key []byte, value func() ([]byte, error)) {
	b.Ops = append(b.Ops, Op{Kind: PutAbsent, Key: key, Make: value})
}

// Check says whether the batch keeps to the limits: nil or ErrLimit. Values
// that PutAbsent has yet to make are checked when they are made.
func (b *Batch) Check() error {
	total := 0
	for i := range b.Ops {
		op := &b.Ops[i]
		if err := CheckRow(op.Key, op.Value); err != nil {
			return err
		}
		if total += len(op.Key) + len(op.Value); total > MaxBatch {
			return fmt.Errorf("%w: batch exceeds %d bytes", ErrLimit, MaxBatch)
		}
	}
	return nil
}

// CheckRow says whether one row keeps to the limits: nil or ErrLimit.
func CheckRow(key, value []byte) error {
	switch {
	case len(key) == 0 || len(key) > MaxKey:
		return fmt.Errorf("%w: key of %d bytes", ErrLimit, len(key))
	case len(value) > MaxValue:
		return fmt.Errorf("%w: value of %d bytes", ErrLimit, len(value))
	}
	return nil
}

// MakeValue calls the maker of a PutAbsent, for adapters: a maker that panics
// or makes too large a value fails its batch, not the store.
func (op *Op) MakeValue() (value []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("persistence: making a value panicked: %v", p)
		}
	}()
	if value, err = op.Make(); err != nil {
		return nil, fmt.Errorf("persistence: make value: %w", err)
	}
	return value, CheckRow(op.Key, value)
}

// A Reader reads one snapshot. Slices it hands out are the caller's only until
// View returns.
type Reader interface {
	// Get returns the value, or ErrNotFound.
	Get(key []byte) ([]byte, error)
	// Scan calls yield for each row whose key starts with prefix and is ≥ from
	// (nil: from the start), in key order, until yield returns false.
	Scan(prefix, from []byte, yield func(key, value []byte) bool) error
	// ScanBack is Scan in falling key order, from keys < before (nil: the end).
	ScanBack(prefix, before []byte, yield func(key, value []byte) bool) error
}

// PrefixEnd returns the least key above every key that starts with prefix, or
// nil where there is none.
func PrefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			end := bytes.Clone(prefix[:i+1])
			end[i]++
			return end
		}
	}
	return nil
}

// A Store is safe for concurrent use.
type Store interface {
	View(ctx context.Context, read func(Reader) error) error
	Apply(ctx context.Context, b *Batch, d Durability) error
	// Sync waits until everything applied so far is durable.
	Sync(ctx context.Context) error
	// Close makes everything durable and releases the files. Idempotent.
	Close() error
}

// Opening and reading: each leaves the rows unchanged.
var (
	// ErrNotFound: no such row.
	ErrNotFound = errors.New("persistence: not found")
	// ErrExists: the installation is there already.
	ErrExists = errors.New("persistence: exists already")
	// ErrWrongKey: the key does not open this store or installation. Give the
	// key that it was created with; nothing was changed.
	ErrWrongKey = errors.New("persistence: wrong database key")
	// ErrDamaged: a row or file is not what was written. Restore a backup; the
	// files were left as found.
	ErrDamaged = errors.New("persistence: store is damaged")
	// ErrRolledBack: the store is older than its mark. Opening it with
	// AllowRolledBack permits reading, and sending once each group has caught up
	// and renewed its keys.
	ErrRolledBack = errors.New("persistence: store was rolled back")
	// ErrLocked: another process has the store open.
	ErrLocked = errors.New("persistence: store is open in another process")
	// ErrFormatTooNew: a newer version wrote this store; use that version.
	ErrFormatTooNew = errors.New("persistence: store has a newer format")
	// ErrLimit: a key, value or batch is outside the limits. Nothing was written.
	ErrLimit = errors.New("persistence: outside the limits")
	// ErrFull: the disk is full. Nothing of the batch was written.
	ErrFull = errors.New("persistence: disk is full")
	// ErrBroken: a write failed in a way that leaves its outcome open; the
	// store takes no more writes. Open it again.
	ErrBroken = errors.New("persistence: store failed and is closed for writing")
	// ErrClosed: the store was closed by its owner.
	ErrClosed = errors.New("persistence: store is closed")
)
