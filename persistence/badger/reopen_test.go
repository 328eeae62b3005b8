package badger_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/conclave-chat/conclave/persistence"
	"github.com/conclave-chat/conclave/persistence/badger"
)

// A row that was deleted is absent, whatever the committer remembers.
func TestPutAbsentAfterDelete(t *testing.T) {
	s := open(t, config(t.TempDir()))
	absent := func(n int) {
		var b persistence.Batch
		b.PutAbsent(fmt.Appendf(nil, "k%d", n), func() ([]byte, error) { return []byte("v"), nil })
		check(t, s.Apply(t.Context(), &b, persistence.Lazy))
	}
	for n := range 4097 { // one more than recentKeys: a generation of one key
		absent(n)
	}
	for _, n := range []int{4096, 0} {
		var b persistence.Batch
		b.Delete(fmt.Appendf(nil, "k%d", n))
		check(t, s.Apply(t.Context(), &b, persistence.Lazy))
	}
	absent(0)
	check(t, s.View(t.Context(), func(r persistence.Reader) error {
		_, err := r.Get([]byte("k0"))
		if err != nil {
			t.Errorf("PutAbsent returned nil, and the row: %v", err)
		}
		return nil
	}))
}

// A first Open that fails, because the disk is full or the mark's folder is not
// there, is repeated when that is mended.
func TestFirstOpenFailsAndIsRepeated(t *testing.T) {
	c := config(t.TempDir())
	c.MarkFile = filepath.Join(t.TempDir(), "elsewhere", "mark")
	if _, err := badger.Open(t.Context(), c); err == nil {
		t.Fatal("opened")
	}
	check(t, os.Mkdir(filepath.Dir(c.MarkFile), 0o700))
	s, err := badger.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	check(t, s.Close())
}

// Badger maps its files, and would end the process where the disk has no room for
// them: such a store does not open, and stays as it is.
func TestOpenOnAFullDisk(t *testing.T) {
	c := config(t.TempDir())
	s, err := badger.Open(t.Context(), c)
	check(t, err)
	check(t, put(s, "a", persistence.Durable))
	check(t, s.Close())
	before := hashFiles(t, c.Dir)
	c.FreeSpace = 0 // the default
	if _, err := badger.Open(t.Context(), badger.WithDisk(c, func() int64 { return 1 << 20 })); !errors.Is(err, persistence.ErrFull) {
		t.Fatal(err)
	}
	if hashFiles(t, c.Dir) != before {
		t.Fatal("the files changed")
	}
	if got := keys(t, open(t, c)); got != "a" {
		t.Fatal(got)
	}
}
