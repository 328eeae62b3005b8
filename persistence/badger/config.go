package badger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	badgerdb "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// A Witness keeps a store's counter outside its directory, so that an older
// copy of the whole directory is noticed.
type Witness interface {
	// Load returns the last counter that was stored, 0 at first.
	Load(ctx context.Context) (uint64, error)
	// Store keeps a counter. It is called at most once a second and by Close;
	// an error is logged, and the next call makes up for it.
	Store(ctx context.Context, counter uint64) error
}

// A Config says how to open a store. Dir is required.
type Config struct {
	// Dir is created where it is missing. One process opens it at a time.
	Dir string
	// MarkFile is the path of the mark; Dir/MARK where empty. On another disk
	// than Dir it also notices that Dir went back as a whole.
	MarkFile string
	// Witness may be nil.
	Witness Witness
	// AllowRolledBack opens a store that is behind its mark or witness, as
	// Store.PutBack says from then on. The older state is the truth then.
	AllowRolledBack bool
	// MemTable is the number of bytes that Badger gathers in memory before it
	// writes a table; 16 MiB where 0. At times there are three of them. It
	// also bounds what Open has to replay.
	MemTable int64
	// FreeSpace is the number of bytes below which the disk counts as full;
	// 256 MiB where 0. Badger writes through mapped memory and would end the
	// process on a disk that is really full.
	FreeSpace int64
	// Logger may be nil. Nothing of a row is logged.
	Logger *slog.Logger

	// Tests replace these.
	freeSpace func(dir string) (int64, error)
	segment   int64 // bytes after which the journal starts a new file
}

const (
	blockSize   = 4 << 10
	minMemTable = 8 << 20 // 15 % of it must hold txnBytes
	maxMemTable = 1 << 30
)

func (c *Config) validate() error {
	if c.Dir == "" {
		return errors.New("badger: Config.Dir is empty")
	}
	if c.MarkFile == "" {
		c.MarkFile = filepath.Join(c.Dir, "MARK")
	}
	if c.MemTable == 0 {
		c.MemTable = 16 << 20
	}
	if c.MemTable < minMemTable || c.MemTable > maxMemTable {
		return fmt.Errorf("badger: Config.MemTable is %d, not within %d and %d", c.MemTable, minMemTable, maxMemTable)
	}
	if c.FreeSpace == 0 {
		c.FreeSpace = 256 << 20
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.segment == 0 {
		c.segment = 8 << 20
	}
	if c.freeSpace == nil {
		c.freeSpace = freeSpace
	}
	return nil
}

// options are for rows of some hundred bytes that are mostly sealed: they do
// not compress, and the system's page cache serves their blocks.
func (c *Config) options(dir string) badgerdb.Options {
	return badgerdb.DefaultOptions(dir).
		WithMemTableSize(c.MemTable).
		WithNumMemtables(2).
		WithBaseTableSize(4 << 20).
		WithBaseLevelSize(32 << 20).
		WithNumLevelZeroTables(4).
		WithNumLevelZeroTablesStall(12).
		WithNumCompactors(2).
		WithBlockSize(blockSize).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithValueThreshold(pieceLen + 1).
		WithValueLogFileSize(1 << 20).
		WithSyncWrites(false).
		WithDetectConflicts(false).
		WithMetricsEnabled(false).
		WithBypassLockGuard(true).
		WithLogger(quiet{c.Logger})
}

// quiet passes Badger's messages on: what it calls info is debug here. Badger
// names files and sizes, never a row.
type quiet struct{ log *slog.Logger }

func (q quiet) Errorf(format string, args ...any) {
	q.log.Error("badger", "message", line(format, args))
}
func (q quiet) Warningf(format string, args ...any) {
	q.log.Warn("badger", "message", line(format, args))
}

func (q quiet) Infof(format string, args ...any) {
	if q.log.Enabled(context.Background(), slog.LevelDebug) {
		q.log.Debug("badger", "message", line(format, args))
	}
}

// Debugf drops what Badger says for its own developers, keys included.
func (quiet) Debugf(string, ...any) {}

func line(format string, args []any) string {
	return strings.TrimSpace(fmt.Sprintf(format, args...))
}
