package sim

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/persistence"
	storage "github.com/conclave-chat/conclave/persistence/memory"
)

// Where a host keeps things: a replica's tables, as sealed records of its
// installation; and how far an installation has read its welcomes.
const (
	typeWelcomes persistence.RecordType = 3
	typeTables   persistence.RecordType = 16
)

func recordType(t group.Table) persistence.RecordType { return typeTables + persistence.RecordType(t) }

func (s *seat) suffix(key []byte) []byte { return append(bytes.Clone(s.truth.id), key...) }

func (s *seat) sharedSuffix(t group.Table, key []byte) []byte {
	return append(append(bytes.Clone(s.truth.id), byte(t)), key...)
}

// addRows adds a replica's rows to a batch. Of rows with one key only the last
// is written, since several steps may share a batch.
func (s *seat) addRows(b *persistence.Batch, rows []group.Row) {
	name := func(r group.Row) string { return string(append([]byte{byte(r.Table)}, r.Key...)) }
	last := make(map[string]int, len(rows))
	for i, r := range rows {
		last[name(r)] = i
	}
	for i, r := range rows {
		switch {
		case last[name(r)] != i:
		case r.Table.Shared() && r.Value == nil:
			// This member needs it no more. What others need is theirs to say.
		case r.Table.Shared():
			persistence.PutShared(b, s.space, s.sharedSuffix(r.Table, r.Key), [32]byte(r.Secret), r.Value)
		case r.Value == nil:
			s.vault.Delete(b, recordType(r.Table), s.suffix(r.Key))
		default:
			s.vault.Put(b, recordType(r.Table), s.suffix(r.Key), r.Value)
		}
	}
}

// reader is a seat's group.RowReader.
type reader struct {
	*seat
	shaky bool // the disk may fail
}

func (s *seat) reader() reader { return reader{s, false} }

// shaky is the reader of a step, which a failing disk may come in the way of.
func (s *seat) shaky() reader { return reader{s, true} }

// fails decides whether a read does.
func (r reader) fails() bool { return r.shaky && r.hit(faultReadFails, 1, 60) }

func (r reader) failure() error {
	if r.plant == plantBlank {
		return nil
	}
	return errInjected
}

func (r reader) Get(t group.Table, key, secret []byte) (value []byte, err error) {
	if r.fails() {
		return nil, r.failure()
	}
	if t.Shared() {
		if len(secret) != 32 {
			return nil, fmt.Errorf("%w: secret of %d bytes", group.ErrCorrupt, len(secret))
		}
		value, err = persistence.GetShared(ctx, r.store, r.space, r.sharedSuffix(t, key), [32]byte(secret))
	} else {
		value, err = r.vault.Get(ctx, recordType(t), r.suffix(key))
	}
	if errors.Is(err, persistence.ErrNotFound) {
		return nil, nil
	}
	return value, err
}

func (r reader) Scan(t group.Table, from []byte, yield func(key, value []byte) bool) error {
	if r.fails() {
		return r.failure()
	}
	return r.vault.Scan(ctx, recordType(t), r.truth.id, r.suffix(from), func(suffix, value []byte) bool {
		return yield(suffix[len(r.truth.id):], value)
	})
}

func (r reader) ScanBack(t group.Table, before []byte, yield func(key, value []byte) bool) error {
	if r.fails() {
		return r.failure()
	}
	var below []byte
	if before != nil {
		below = r.suffix(before)
	}
	return r.vault.ScanBack(ctx, recordType(t), r.truth.id, below, func(suffix, value []byte) bool {
		return yield(suffix[len(r.truth.id):], value)
	})
}

// stored is the replica's look-up of messages.
func (s *seat) stored(id group.MessageID) (bool, error) {
	if s.pending[id] {
		return true, nil
	}
	if s.plant == plantBlind {
		return false, nil
	}
	if s.hit(faultReadFails, 1, 300) {
		return false, s.shaky().failure()
	}
	var at []group.Position
	prefix := s.sharedSuffix(group.TableText, group.TextPrefix(id))
	err := persistence.ScanShared(ctx, s.store, s.space, prefix, nil, func(row persistence.SharedRow) bool {
		if p, ok := group.TextAt(row.Suffix()[len(s.truth.id)+1:]); ok {
			at = append(at, p)
		}
		return true
	})
	s.must(err)
	return group.Stored(s.reader(), id, at)
}

// digest is a hash of a host's whole store.
func (h *host) digest() (d [32]byte) {
	sum := sha256.New()
	h.must(h.store.View(ctx, func(r persistence.Reader) error {
		return r.Scan(nil, nil, func(key, value []byte) bool {
			fmt.Fprintf(sum, "%d %d ", len(key), len(value))
			sum.Write(key)
			sum.Write(value)
			return true
		})
	}))
	sum.Sum(d[:0])
	return d
}

// A backupRow is one row of a copy of a store.
type backupRow struct{ key, value []byte }

// save makes a copy of the store.
func (h *host) saveBackup() {
	h.backup = nil
	h.must(h.store.View(ctx, func(r persistence.Reader) error {
		return r.Scan(nil, nil, func(key, value []byte) bool {
			h.backup = append(h.backup, backupRow{bytes.Clone(key), bytes.Clone(value)})
			return true
		})
	}))
}

// restoreBackup puts the copy in the place of the store.
func (h *host) restoreBackup() {
	store := storage.New()
	var b persistence.Batch
	for _, row := range h.backup {
		b.Put(row.key, row.value)
	}
	h.must(store.Apply(ctx, &b, persistence.Durable))
	h.store, h.backup = store, nil
	for _, home := range h.homes {
		if home.host != h {
			continue
		}
		home.openVault()
		home.restored = true
		for _, s := range home.seats {
			s.drop()
			s.rows = true
		}
	}
}

// later returns now, or what is later than a time before.
func later(before, now time.Time) time.Time {
	if now.After(before) {
		return now
	}
	return before.Add(1)
}

// meta is the row without which there is no replica; nil: there is none.
func (s *seat) meta() []byte {
	row, err := s.reader().Get(group.TableMeta, nil, nil)
	s.must(err)
	return row
}

// welcomesRead is how far an installation has read its welcomes.
func (h *home) welcomesRead() uint64 {
	b, err := h.vault.Get(ctx, typeWelcomes, nil)
	if errors.Is(err, persistence.ErrNotFound) {
		return 0
	}
	h.must(err)
	return binary.BigEndian.Uint64(b)
}

func (h *home) readWelcome(b *persistence.Batch, id uint64) {
	h.vault.Put(b, typeWelcomes, nil, binary.BigEndian.AppendUint64(nil, id))
}

func (h *home) openVault() {
	var err error
	h.vault, err = persistence.OpenVault(ctx, h.store, [32]byte(h.signer.Public()), h.key)
	h.must(err)
}
