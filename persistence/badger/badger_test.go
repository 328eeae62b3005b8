package badger_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/conclave-chat/conclave/persistence"
	"github.com/conclave-chat/conclave/persistence/badger"
	"github.com/conclave-chat/conclave/persistence/persistencetest"
)

func TestMain(m *testing.M) {
	childProcess()
	goleak.VerifyTestMain(m)
}

// config is a small store, so that few rows go through every kind of file.
func config(dir string) badger.Config {
	return badger.Config{Dir: dir, MemTable: 8 << 20, FreeSpace: 1}
}

func open(t testing.TB, c badger.Config) *badger.Store {
	t.Helper()
	s, err := badger.Open(t.Context(), c)
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	return s
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestContract(t *testing.T) {
	persistencetest.Run(t, persistencetest.Adapter{
		Open:  func(t *testing.T, dir string) persistence.Store { return open(t, config(dir)) },
		Crash: func(t *testing.T, s persistence.Store, dir string) string { return killed(t, s, dir) },
	})
}

// killed returns what a process leaves that is killed now: what the page cache
// holds, a copy of the files as they are.
func killed(t testing.TB, s persistence.Store, dir string) string {
	t.Helper()
	// The committer tidies up after a batch before it takes the next one.
	check(t, s.Apply(t.Context(), &persistence.Batch{}, persistence.Lazy))
	return copyDir(t, dir)
}

// copyDir copies a store's files to a directory of their own. Where Badger
// changes its tables meanwhile it copies again.
func copyDir(t testing.TB, dir string) string {
	t.Helper()
	manifest := func() string {
		data, err := os.ReadFile(filepath.Join(dir, "tables", "MANIFEST"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return string(data)
	}
	for range 100 {
		to, before := t.TempDir(), manifest()
		if err := os.CopyFS(to, os.DirFS(dir)); err == nil && manifest() == before {
			return to
		}
	}
	t.Fatal("the files never stood still")
	return ""
}
