package features

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conclave-chat/conclave"
)

// hashFiles hashes names and bytes of every file but the lock.
func hashFiles(t *testing.T, dir string) [32]byte {
	t.Helper()
	h := sha256.New()
	for _, path := range files(t, dir) {
		data := must[[]byte](t)(os.ReadFile(filepath.Join(dir, path)))
		fmt.Fprintf(h, "%s %d\n", path, len(data))
		h.Write(data)
	}
	return [32]byte(h.Sum(nil))
}

func files(t *testing.T, dir string) (paths []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && filepath.Base(path) != "LOCK" {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// embedded is a directory of the embedded default, closed, with two clients in
// a group.
type embedded struct {
	dir   string
	c     []*conclave.Client
	group conclave.GroupID
}

// open runs something on the directory's host.
func (e *embedded) open(t *testing.T, config conclave.Config, use func(w *world, members []*conclave.Group)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	config.Dir = e.dir
	w := &world{t, ctx, must[*conclave.Host](t)(conclave.Open(ctx, config))}
	if e.c == nil {
		e.c = w.clients(2)
		e.group = w.newGroup(conclave.GroupOptions{}, e.c...).ID()
	}
	var members []*conclave.Group
	for _, c := range e.c {
		c = must[*conclave.Client](t)(w.host.LoadClient(ctx, c.InstallationID(), c.DatabaseKey()))
		w.do(c.Conversations().SyncAll(ctx))
		members = append(members, must[*conclave.Group](t)(c.Conversations().Get(ctx, e.group)))
	}
	use(w, members)
	w.do(w.host.Close(ctx))
}

// refused opens a directory that must not open.
func (e *embedded) refused(t *testing.T, what string, want ...error) {
	t.Helper()
	before := hashFiles(t, e.dir)
	host, err := conclave.Open(t.Context(), conclave.Config{Dir: e.dir})
	if err == nil {
		err = errors.Join(errors.New("it opens"), host.Close(t.Context()))
	}
	named := false
	for _, target := range want {
		named = named || errors.Is(err, target)
	}
	if !named {
		t.Errorf("%s: %v", what, err)
	}
	if hashFiles(t, e.dir) != before {
		t.Errorf("%s: the files changed", what)
	}
}

// A store that was damaged, cut, or lost a file, or that a newer version wrote,
// does not open, says why, and is left as it is.
func TestDamagedStoreDoesNotOpen(t *testing.T) {
	whole := embedded{dir: t.TempDir()}
	whole.open(t, conclave.Config{}, func(w *world, g []*conclave.Group) { w.send(g[0], "kept") })
	copied := func() *embedded {
		e := whole
		e.dir = filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(e.dir, os.DirFS(whole.dir)); err != nil {
			t.Fatal(err)
		}
		return &e
	}
	edit := func(e *embedded, path string, change func([]byte) []byte) {
		full := filepath.Join(e.dir, path)
		if err := os.WriteFile(full, change(must[[]byte](t)(os.ReadFile(full))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var tables, journals int
	for _, path := range files(t, whole.dir) {
		kind := filepath.Ext(path)
		if !strings.HasPrefix(path, "store/") || kind != ".sst" && kind != ".log" {
			continue
		}
		e := copied()
		edit(e, path, func(b []byte) []byte { b[len(b)/2] ^= 0x10; return b })
		e.refused(t, "a flipped bit in "+path, conclave.ErrDamaged)
		e = copied()
		edit(e, path, func(b []byte) []byte { return b[:len(b)/2] })
		e.refused(t, "half of "+path, conclave.ErrDamaged, conclave.ErrRolledBack)
		e = copied()
		if err := os.Remove(filepath.Join(e.dir, path)); err != nil {
			t.Fatal(err)
		}
		e.refused(t, "no "+path, conclave.ErrDamaged, conclave.ErrRolledBack)
		if kind == ".sst" {
			tables++
		} else {
			journals++
		}
	}
	if tables+journals == 0 {
		t.Errorf("the store has %d tables and %d journals: %v", tables, journals, files(t, whole.dir))
	}
	e := copied()
	edit(e, "store.mark", func(b []byte) []byte {
		for _, slot := range []int{0, 4096} { // each says its format, and a checksum over that
			binary.BigEndian.PutUint32(b[slot+8:], 1000)
			binary.BigEndian.PutUint32(b[slot+12:], crc32.Checksum(b[slot:slot+12], crc32.MakeTable(crc32.Castagnoli)))
		}
		return b
	})
	e.refused(t, "a newer format", conclave.ErrFormatTooNew)
	copied().open(t, conclave.Config{}, func(w *world, g []*conclave.Group) { w.reads(g[1], "kept") })
}

// An older copy of the store is noticed. Where it is allowed it opens: members
// catch up with the log, and whoever sends does so under fresh keys.
func TestRolledBackStore(t *testing.T) {
	e := embedded{dir: t.TempDir()}
	var epoch uint64
	e.open(t, conclave.Config{}, func(w *world, g []*conclave.Group) {
		w.send(g[0], "1")
		w.do(g[1].UpdateKeys(w.ctx)) // a commit after the copy could not be repeated
		info, err := g[1].Info(w.ctx)
		w.do(err)
		epoch = info.Epoch
	})
	older := filepath.Join(t.TempDir(), "store")
	if err := os.CopyFS(older, os.DirFS(filepath.Join(e.dir, "store"))); err != nil {
		t.Fatal(err)
	}
	e.open(t, conclave.Config{}, func(w *world, g []*conclave.Group) {
		w.send(g[0], "2")
		w.send(g[1], "3")
	})
	store := filepath.Join(e.dir, "store")
	if err := errors.Join(os.RemoveAll(store), os.CopyFS(store, os.DirFS(older))); err != nil {
		t.Fatal(err)
	}
	e.refused(t, "an older store", conclave.ErrRolledBack)
	// Whoever is not awake in the process that is told learns of it later.
	host, err := conclave.Open(t.Context(), conclave.Config{Dir: e.dir, AllowRolledBack: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.open(t, conclave.Config{}, func(w *world, g []*conclave.Group) {
		w.send(g[0], "4")
		w.do(g[1].Sync(w.ctx))
		// What each had sent since is in the log only, and it cannot open that.
		w.reads(g[0], "1", "3", "4")
		w.reads(g[1], "1", "2", "4")
		if now, err := g[0].Info(w.ctx); err != nil || now.Epoch <= epoch {
			t.Errorf("sent in epoch %d, the copy was of epoch %d: %v", now.Epoch, epoch, err)
		}
	})
	e.open(t, conclave.Config{}, func(w *world, g []*conclave.Group) { w.reads(g[0], "1", "3", "4") })
}

// childProcess holds a directory open where a test started this binary for
// that, until its standard input ends.
func childProcess() {
	dir := os.Getenv("CONCLAVE_TEST_HOLD")
	if dir == "" {
		return
	}
	host, err := conclave.Open(context.Background(), conclave.Config{Dir: dir})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("open")
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	if err := host.Close(context.Background()); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A second process that opens the directory is refused, and harms neither the
// first nor the files.
func TestTwoProcesses(t *testing.T) {
	e := embedded{dir: t.TempDir()}
	e.open(t, conclave.Config{}, func(w *world, g []*conclave.Group) { w.send(g[0], "kept") })
	child := exec.Command(must[string](t)(os.Executable()))
	child.Env = append(os.Environ(), "CONCLAVE_TEST_HOLD="+e.dir)
	in, out := must[io.WriteCloser](t)(child.StdinPipe()), must[io.ReadCloser](t)(child.StdoutPipe())
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "open" {
		t.Fatalf("the child says %q", lines.Text())
	}
	if _, err := conclave.Open(t.Context(), conclave.Config{Dir: e.dir}); !errors.Is(err, conclave.ErrLocked) {
		t.Errorf("a second process: %v", err)
	}
	if err := errors.Join(in.Close(), child.Wait()); err != nil {
		t.Errorf("the first process: %v", err)
	}
	e.open(t, conclave.Config{}, func(w *world, g []*conclave.Group) { w.reads(g[0], "kept") })
}
