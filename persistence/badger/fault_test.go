package badger_test

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/conclave-chat/conclave/persistence"
	"github.com/conclave-chat/conclave/persistence/badger"
)

func put(s persistence.Store, key string, d persistence.Durability) error {
	var b persistence.Batch
	b.Put([]byte(key), []byte(key))
	return s.Apply(context.Background(), &b, d)
}

func keys(t *testing.T, s persistence.Store) string {
	t.Helper()
	var all []string
	check(t, s.View(t.Context(), func(r persistence.Reader) error {
		return r.Scan(nil, nil, func(key, _ []byte) bool {
			all = append(all, string(key))
			return true
		})
	}))
	return strings.Join(all, " ")
}

// D5: a full disk refuses batches, keeps reading, and recovers by itself.
func TestFullDisk(t *testing.T) {
	var free atomic.Int64
	free.Store(math.MaxInt64)
	c := badger.WithDisk(config(t.TempDir()), free.Load)
	c.FreeSpace = 1 << 20
	s := open(t, c)
	check(t, put(s, "a", persistence.Durable))
	free.Store(1<<20 - 1)
	for _, d := range []persistence.Durability{persistence.Lazy, persistence.Durable} {
		if err := put(s, "b", d); !errors.Is(err, persistence.ErrFull) {
			t.Fatal(err)
		}
	}
	check(t, s.Sync(t.Context()))
	if got := keys(t, s); got != "a" {
		t.Fatal(got)
	}
	free.Store(math.MaxInt64)
	check(t, put(s, "c", persistence.Durable))
	if got := keys(t, s); got != "a c" {
		t.Fatal(got)
	}
}

// D6: after a failed write the store takes no more, reads on, and what was
// acknowledged is there when it is opened again.
func TestBrokenDisk(t *testing.T) {
	dir := t.TempDir()
	s, err := badger.Open(t.Context(), config(dir))
	check(t, err)
	check(t, put(s, "a", persistence.Durable))
	check(t, badger.BreakDisk(s))
	for _, d := range []persistence.Durability{persistence.Durable, persistence.Lazy} {
		if err := put(s, "b", d); !errors.Is(err, persistence.ErrBroken) {
			t.Fatal(err)
		}
	}
	if err := s.Sync(t.Context()); !errors.Is(err, persistence.ErrBroken) {
		t.Fatal(err)
	}
	if got := keys(t, s); got != "a" {
		t.Fatal(got)
	}
	s.Close()
	if got := keys(t, open(t, config(dir))); got != "a" {
		t.Fatal(got)
	}
}

type witness struct {
	mu      sync.Mutex
	counter uint64
	fail    error
}

func (w *witness) Load(context.Context) (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counter, w.fail
}

func (w *witness) Store(_ context.Context, counter uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counter = counter
	return w.fail
}

// D4: an older copy of the directory is noticed by what lies outside of it, and
// opens only where that is allowed.
func TestRolledBackStore(t *testing.T) {
	for _, outside := range []struct {
		name   string
		config func(c *badger.Config, dir string)
	}{
		{"mark", func(c *badger.Config, dir string) { c.MarkFile = filepath.Join(dir, "mark") }},
		{"witness", func() func(c *badger.Config, dir string) {
			w := &witness{}
			return func(c *badger.Config, _ string) { c.Witness = w }
		}()},
	} {
		t.Run(outside.name, func(t *testing.T) {
			dir, elsewhere := t.TempDir(), t.TempDir()
			c := config(dir)
			outside.config(&c, elsewhere)
			s, err := badger.Open(t.Context(), c)
			check(t, err)
			check(t, put(s, "a", persistence.Durable))
			check(t, s.Close())

			c.Dir = copyDir(t, dir)
			older := c
			s, err = badger.Open(t.Context(), config2(c, dir))
			check(t, err)
			check(t, put(s, "b", persistence.Durable))
			if !s.PutBack().IsZero() {
				t.Error("a store that is up to date says that it went back")
			}
			check(t, s.Close())

			before := hashFiles(t, older.Dir)
			if _, err := badger.Open(t.Context(), older); !errors.Is(err, persistence.ErrRolledBack) {
				t.Fatal(err)
			}
			if hashFiles(t, older.Dir) != before {
				t.Fatal("the files changed")
			}
			older.AllowRolledBack = true
			s, err = badger.Open(t.Context(), older)
			check(t, err)
			putBack := s.PutBack()
			if got := keys(t, s); got != "a" || putBack.IsZero() {
				t.Fatal(got, putBack)
			}
			check(t, put(s, "c", persistence.Durable))
			check(t, put(s, "d", persistence.Durable))
			check(t, s.Close())
			older.AllowRolledBack = false
			s = open(t, older)
			if got := keys(t, s); got != "a c d" || !s.PutBack().Equal(putBack) {
				t.Fatal(got, putBack, s.PutBack())
			}
		})
	}
}

func config2(c badger.Config, dir string) badger.Config {
	c.Dir = dir
	return c
}

func TestUnreachableWitnessLeavesTheStoreClosed(t *testing.T) {
	c := config(t.TempDir())
	w := &witness{fail: errors.New("unreachable")}
	c.Witness = w
	if _, err := badger.Open(t.Context(), c); !errors.Is(err, w.fail) {
		t.Fatal(err)
	}
	open(t, config(c.Dir)) // and not locked
}

// An older copy of the tables beside the whole journal is made up from it.
func TestOlderTablesAreReplayed(t *testing.T) {
	dir := t.TempDir()
	s, err := badger.Open(t.Context(), config(dir))
	check(t, err)
	check(t, put(s, "a", persistence.Durable))
	left := killed(t, s, dir)
	check(t, s.Close())
	check(t, os.RemoveAll(filepath.Join(left, "tables")))
	if got := keys(t, open(t, config(left))); got != "a" {
		t.Fatal(got)
	}
}

// D13: nothing of a row reaches the log.
func TestLogHoldsNothingOfRows(t *testing.T) {
	var text lockedBuilder
	c := config(t.TempDir())
	c.Logger = slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for range 2 {
		s, err := badger.Open(t.Context(), c)
		check(t, err)
		check(t, put(s, "canary-of-the-row", persistence.Durable))
		check(t, s.Close())
	}
	if got := text.String(); strings.Contains(got, "canary") || !strings.Contains(got, "store opened") {
		t.Fatal(got)
	}
}

type lockedBuilder struct {
	mu sync.Mutex
	strings.Builder
}

func (b *lockedBuilder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.Write(p)
}

func TestConfigIsChecked(t *testing.T) {
	for _, c := range []badger.Config{{}, {Dir: t.TempDir(), MemTable: 1}, {Dir: t.TempDir(), MemTable: 2 << 30}} {
		if _, err := badger.Open(t.Context(), c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}
