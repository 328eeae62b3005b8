package badger_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave/persistence"
	"github.com/conclave-chat/conclave/persistence/badger"
)

// A fixture is a store with rows in every kind of file.
type fixture struct {
	dir  string
	rows [32]byte // hash of all rows
}

// build writes until there are tables, journal segments and a manifest of
// several changes, and leaves the store closed or as a killed process does.
func build(t *testing.T, kill bool) fixture {
	t.Helper()
	dir := t.TempDir()
	random := rand.NewChaCha8([32]byte{1})
	c := badger.SmallSegments(config(dir), 400<<10)
	value := func(n int) []byte {
		b := make([]byte, n)
		random.Read(b)
		return b
	}
	for range 3 { // opened several times: a table each
		s, err := badger.Open(t.Context(), c)
		check(t, err)
		for i := range 40 {
			var b persistence.Batch
			for j := range 20 {
				b.Put(fmt.Appendf(nil, "row %d.%d", i, j), value(100))
			}
			b.Delete(fmt.Appendf(nil, "row %d.3", i-1))
			check(t, s.Apply(t.Context(), &b, persistence.Lazy))
		}
		check(t, s.Close())
	}
	s, err := badger.Open(t.Context(), c)
	check(t, err)
	for i := range 6 {
		var b persistence.Batch
		b.Put(fmt.Appendf(nil, "large %d", i), value(300<<10))
		b.Put([]byte("last"), fmt.Append(nil, i))
		check(t, s.Apply(t.Context(), &b, persistence.Durable))
	}
	f := fixture{dir, hashRows(t, s)}
	if kill {
		f.dir = killed(t, s, dir)
		// Badger's own log is long and empty for the most part.
		logs, err := filepath.Glob(filepath.Join(f.dir, "tables", "*.mem"))
		check(t, err)
		for _, path := range logs {
			check(t, os.Truncate(path, 256<<10))
		}
	}
	check(t, s.Close())
	return f
}

func hashRows(t *testing.T, s persistence.Store) (sum [32]byte) {
	t.Helper()
	h := sha256.New()
	check(t, s.View(t.Context(), func(r persistence.Reader) error {
		return r.Scan(nil, nil, func(key, value []byte) bool {
			h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(key))))
			h.Write(key)
			h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(value))))
			h.Write(value)
			return true
		})
	}))
	return [32]byte(h.Sum(sum[:0]))
}

// hashFiles hashes names and bytes of every file but the lock.
func hashFiles(t *testing.T, dir string) string {
	t.Helper()
	h := sha256.New()
	for _, path := range files(t, dir) {
		data, err := os.ReadFile(filepath.Join(dir, path))
		check(t, err)
		fmt.Fprintf(h, "%s %d\n", path, len(data))
		h.Write(data)
	}
	return string(h.Sum(nil))
}

func files(t *testing.T, dir string) (paths []string) {
	t.Helper()
	check(t, fs.WalkDir(os.DirFS(dir), ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && path != "LOCK" {
			paths = append(paths, path)
		}
		return err
	}))
	return paths
}

// seen opens a damaged store. It must hold every row, or say what is wrong and
// leave every byte in place.
func (f fixture) seen(t *testing.T, dir, what string) error {
	t.Helper()
	before := hashFiles(t, dir)
	s, err := badger.Open(t.Context(), config(dir))
	if err == nil {
		if hashRows(t, s) != f.rows {
			t.Errorf("%s: opened with other rows", what)
		}
		check(t, s.Close())
		return nil
	}
	if !errors.Is(err, persistence.ErrDamaged) && !errors.Is(err, persistence.ErrRolledBack) {
		t.Errorf("%s: %v has no name", what, err)
	}
	if hashFiles(t, dir) != before {
		t.Errorf("%s: the files changed although it failed: %v", what, err)
	}
	return err
}

// each runs a test for every file, with a copy of the fixture to damage.
func (f fixture) each(t *testing.T, test func(t *testing.T, dir, path, kind string)) {
	t.Helper()
	for _, path := range files(t, f.dir) {
		kind := filepath.Ext(path)
		if kind == "" {
			kind = filepath.Base(path)
		}
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			test(t, copyDir(t, f.dir), path, kind)
		})
	}
}

func states(t *testing.T, test func(t *testing.T, f fixture)) {
	for _, kill := range []bool{false, true} {
		t.Run(map[bool]string{false: "closed", true: "killed"}[kill], func(t *testing.T) {
			f := build(t, kill)
			all := strings.Join(files(t, f.dir), " ")
			if strings.Count(all, ".sst") < 3 || strings.Count(all, ".log") < 1 || kill && strings.Count(all, ".mem") < 1 {
				t.Fatalf("the fixture lacks a kind of file: %s", all)
			}
			if err := f.seen(t, copyDir(t, f.dir), "undamaged"); err != nil {
				t.Fatal(err)
			}
			test(t, f)
		})
	}
}

// D2: one flipped bit anywhere is all rows or a named error.
func TestFlippedBitIsSeen(t *testing.T) {
	states(t, func(t *testing.T, f fixture) {
		f.each(t, func(t *testing.T, dir, path, kind string) {
			random := rand.New(rand.NewPCG(3, 4))
			good, err := os.ReadFile(filepath.Join(dir, path))
			check(t, err)
			named := 0
			for _, at := range positions(random, kind, len(good)) {
				bad := bytes.Clone(good)
				bad[at] ^= 1 << random.IntN(8)
				check(t, os.WriteFile(filepath.Join(dir, path), bad, 0o600))
				if err := f.seen(t, dir, fmt.Sprintf("%s, bit at %d", path, at)); err == nil {
					dir = copyDir(t, f.dir)
				} else {
					named++
				}
				check(t, os.WriteFile(filepath.Join(dir, path), good, 0o600))
			}
			if named == 0 && holdsRows(kind) {
				t.Errorf("no flipped bit was named")
			}
		})
	})
}

func holdsRows(kind string) bool { return kind == ".sst" || kind == ".log" || kind == "MANIFEST" }

// positions are both ends and some places between. Files that hold no row only
// cost time.
func positions(random *rand.Rand, kind string, n int) (at []int) {
	some := map[string]int{".sst": 9, ".log": 9, "MANIFEST": 9, "MARK": 3}[kind]
	for range min(n, some) {
		at = append(at, random.IntN(n))
	}
	for i := range min(n, 1+some/3) {
		at = append(at, i, n-1-i)
	}
	return at
}

// D3: a file that was cut is seen.
func TestCutFileIsSeen(t *testing.T) {
	states(t, func(t *testing.T, f fixture) {
		f.each(t, func(t *testing.T, dir, path, kind string) {
			good, err := os.ReadFile(filepath.Join(dir, path))
			check(t, err)
			lengths := []int{0, len(good) - 1}
			if holdsRows(kind) {
				lengths = append(lengths, 1, len(good)/2, len(good)/3)
			}
			for _, length := range lengths {
				check(t, os.WriteFile(filepath.Join(dir, path), good[:max(length, 0)], 0o600))
				if f.seen(t, dir, fmt.Sprintf("%s cut to %d", path, length)) == nil {
					dir = copyDir(t, f.dir)
				}
				check(t, os.WriteFile(filepath.Join(dir, path), good, 0o600))
			}
		})
	})
}

// D3: a file that is gone is seen.
func TestMissingFileIsSeen(t *testing.T) {
	states(t, func(t *testing.T, f fixture) {
		f.each(t, func(t *testing.T, dir, path, kind string) {
			check(t, os.Remove(filepath.Join(dir, path)))
			err := f.seen(t, dir, path+" missing")
			if (kind == ".sst" || kind == ".log" || kind == "MARK") && err == nil {
				t.Error("not seen")
			}
		})
		for _, folder := range []string{"journal", "tables"} {
			dir := copyDir(t, f.dir)
			check(t, os.RemoveAll(filepath.Join(dir, folder)))
			if err := f.seen(t, dir, folder+" missing"); !errors.Is(err, persistence.ErrDamaged) {
				t.Errorf("%s missing: %v", folder, err)
			}
		}
	})
}

// A file of another store is not taken for one of this.
func TestForeignFileIsSeen(t *testing.T) {
	f := build(t, true)
	other := build(t, true)
	for _, path := range files(t, f.dir) {
		foreign, err := os.ReadFile(filepath.Join(other.dir, path))
		if err != nil || !strings.HasSuffix(path, ".log") && path != "MARK" {
			continue
		}
		dir := copyDir(t, f.dir)
		check(t, os.WriteFile(filepath.Join(dir, path), foreign, 0o600))
		if err := f.seen(t, dir, path+" of another store"); !errors.Is(err, persistence.ErrDamaged) {
			t.Errorf("%s of another store: %v", path, err)
		}
	}
}

// D1 in spirit: a store that a newer version wrote is left alone.
func TestNewerFormatIsLeftAlone(t *testing.T) {
	f := build(t, false)
	path := filepath.Join(f.dir, "MARK")
	mark, err := os.ReadFile(path)
	check(t, err)
	for _, slot := range []int{0, 4096} {
		binary.BigEndian.PutUint32(mark[slot+8:], 1000)
		binary.BigEndian.PutUint32(mark[slot+12:], castagnoli(mark[slot:slot+12]))
	}
	check(t, os.WriteFile(path, mark, 0o600))
	before := hashFiles(t, f.dir)
	if _, err := badger.Open(t.Context(), config(f.dir)); !errors.Is(err, persistence.ErrFormatTooNew) {
		t.Fatal(err)
	}
	if hashFiles(t, f.dir) != before {
		t.Fatal("the files changed")
	}
}
