package badger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"

	"github.com/conclave-chat/conclave/persistence"
	"github.com/conclave-chat/conclave/persistence/badger/internal/journal"
)

// A Store is a persistence.Store over a directory.
type Store struct {
	config    Config
	db        *badgerdb.DB
	lock      *os.File
	views     views
	committer *committer
	putBack   time.Time

	closing sync.Once
	closed  error
}

var _ persistence.Store = (*Store)(nil)

// Open opens the store in Config.Dir, or makes a new one there. It returns
// ErrLocked, ErrDamaged, ErrRolledBack or ErrFormatTooNew with the files as
// they were.
func Open(ctx context.Context, config Config) (*Store, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	s, err := open(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", config.Dir, err)
	}
	return s, nil
}

func open(ctx context.Context, config Config) (_ *Store, err error) {
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, err
	}
	s := &Store{config: config}
	if s.lock, err = lock(filepath.Join(config.Dir, "LOCK")); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.lock.Close())
		}
	}()

	// Look first.
	found, err := journal.Inspect(filepath.Join(config.Dir, "journal"), config.MarkFile)
	if err != nil {
		return nil, err
	}
	tables, err := inspectTables(filepath.Join(config.Dir, "tables"))
	if err != nil {
		return nil, err
	}
	switch {
	case found.Fresh && tables.manifestEnd > 0:
		return nil, fmt.Errorf("%w: %s is missing", persistence.ErrDamaged, config.MarkFile)
	case !found.Covers(tables.applied):
		return nil, fmt.Errorf("%w: tables reach stamp %d, the journal begins later", persistence.ErrDamaged, tables.applied)
	}
	stamp := max(found.Last(), tables.applied)
	older, err := behind(ctx, config.Witness, found, stamp)
	if err != nil {
		return nil, err
	}
	if older && !config.AllowRolledBack {
		return nil, persistence.ErrRolledBack
	}
	if s.putBack = found.PutBack(); older {
		s.putBack = later(s.putBack, time.Now())
	}

	// Badger maps its files: where there is no room for them the process ends.
	least := min(config.FreeSpace, 4*config.MemTable)
	if free, err := config.freeSpace(config.Dir); err == nil && free < least {
		return nil, fmt.Errorf("%w: %d bytes are left, opening takes %d", persistence.ErrFull, free, least)
	}

	// The store is accepted: from here on files change. A new one gets its mark
	// before its tables, since tables without a mark are damage.
	var log *journal.Journal
	if found.Fresh {
		if log, err = found.Begin(stamp, s.putBack); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, log.Abandon())
			}
		}()
	}
	if err := tables.accept(); err != nil {
		return nil, err
	}
	s.db, err = badgerdb.OpenManaged(config.options(tables.dir))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.db.Close())
		}
	}()
	large, err := replay(s.db, found, tables.applied)
	if err != nil {
		return nil, err
	}
	if log == nil {
		if log, err = found.Begin(stamp, s.putBack); err != nil {
			return nil, err
		}
	}
	if err := log.Prune(tables.applied); err != nil {
		if !found.Fresh {
			err = errors.Join(err, log.Abandon())
		}
		return nil, err
	}
	s.views.init(stamp)
	s.db.SetDiscardTs(stamp)
	s.committer = startCommitter(&s.config, s.db, log, &s.views, large)
	config.Logger.Info("store opened", slog.String("dir", config.Dir),
		slog.Uint64("stamp", stamp), slog.Uint64("replayed", stamp-min(stamp, tables.applied)))
	return s, nil
}

// behind says whether the store is older than what was seen of it before.
func behind(ctx context.Context, w Witness, found *journal.Found, stamp uint64) (bool, error) {
	if w == nil {
		return found.RolledBack, nil
	}
	counter, err := w.Load(ctx)
	if err != nil {
		return false, fmt.Errorf("load witness: %w", err)
	}
	return found.RolledBack || stamp < counter, nil
}

// replay brings to Badger what the journal has and the tables lack.
// It returns the rows that are in pieces then.
func replay(db *badgerdb.DB, found *journal.Found, applied uint64) (large large, err error) {
	err = found.Replay(applied, func(first, last uint64, payload []byte) error {
		if large == nil {
			// Of the first record the tables may hold a part: what it came
			// apart into is told by the rows before it.
			large = loadLarge(db, first-1)
		}
		ops, err := parseChanges(payload)
		if err != nil {
			return err
		}
		all, changed := large.cells(ops)
		large.accept(changed)
		txns := split(all)
		if uint64(len(txns)) != last-first+1 {
			return fmt.Errorf("%w: record %d holds %d transactions", persistence.ErrDamaged, first, len(txns))
		}
		return commit(db, first, txns)
	})
	if large == nil {
		large = loadLarge(db, applied)
	}
	return large, err
}

// commit applies transactions to Badger, with rising stamps.
func commit(db *badgerdb.DB, first uint64, txns [][]cell) error {
	for i, txn := range txns {
		if err := commitOne(db, first+uint64(i), txn); err != nil {
			return fmt.Errorf("write to tables: %w", err)
		}
	}
	return nil
}

func commitOne(db *badgerdb.DB, stamp uint64, all []cell) error {
	txn := db.NewTransactionAt(stamp-1, true)
	defer txn.Discard()
	for i := range all {
		c := &all[i]
		var err error
		if c.gone {
			err = txn.Delete(c.key)
		} else {
			err = txn.SetEntry(&badgerdb.Entry{Key: c.key, Value: c.value, UserMeta: c.meta})
		}
		if err != nil {
			return err
		}
	}
	if err := txn.SetEntry(&badgerdb.Entry{Key: stampKey}); err != nil {
		return err
	}
	return txn.CommitAt(stamp, nil)
}

// PutBack says when the store was last found behind its mark or witness and
// opened all the same, with Config.AllowRolledBack: no two such times are equal.
// It is the zero time where that never was.
func (s *Store) PutBack() time.Time { return s.putBack }

// later returns now, or what is later than a time before where clocks went back.
func later(before, now time.Time) time.Time {
	if now.After(before) {
		return now.Round(0)
	}
	return before.Add(1)
}

// Apply implements persistence.Store.
func (s *Store) Apply(ctx context.Context, b *persistence.Batch, d persistence.Durability) error {
	if err := b.Check(); err != nil {
		return err
	}
	return s.committer.submit(ctx, b.Ops, d == persistence.Durable)
}

// Sync implements persistence.Store.
func (s *Store) Sync(ctx context.Context) error {
	return s.committer.submit(ctx, nil, true)
}

// Close implements persistence.Store.
func (s *Store) Close() error {
	s.closing.Do(func() {
		failed := s.committer.stop()
		s.views.close()
		s.closed = errors.Join(failed, s.db.Close(), s.lock.Close())
		s.config.Logger.Info("store closed", slog.String("dir", s.config.Dir))
	})
	return s.closed
}
