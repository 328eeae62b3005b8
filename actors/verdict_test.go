package actors

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/persistence"
)

// A badDisk is a store that fails to read some rows.
type badDisk struct {
	persistence.Store
	mu    sync.Mutex
	reads int
	fail  func(read int, key []byte) bool
}

func (s *badDisk) set(fail func(read int, key []byte) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads, s.fail = 0, fail
}

func (s *badDisk) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

func (s *badDisk) View(ctx context.Context, read func(persistence.Reader) error) error {
	return s.Store.View(ctx, func(r persistence.Reader) error { return read(badReader{r, s}) })
}

type badReader struct {
	persistence.Reader
	disk *badDisk
}

func (r badReader) Get(key []byte) ([]byte, error) {
	r.disk.mu.Lock()
	r.disk.reads++
	fails := r.disk.fail != nil && r.disk.fail(r.disk.reads, key)
	r.disk.mu.Unlock()
	if fails {
		return nil, fmt.Errorf("%w: input/output error", persistence.ErrDamaged)
	}
	return r.Reader.Get(key)
}

func onBadDisk(t *testing.T, run func(w *world, disk *badDisk)) {
	t.Helper()
	disk := new(badDisk)
	inWorld(t, func(w *world) { run(w, disk) }, func(c *Config) { disk.Store = c.Store; c.Store = disk; c.CommitLogEvery = -1 })
}

// Each read of the store that taking a welcome needs fails once, whichever it is:
// that is not the welcome's fault.
func TestAReadThatFailsCostsNoWelcome(t *testing.T) {
	for n, more := 1, true; more; n++ {
		onBadDisk(t, func(w *world, disk *badDisk) {
			p := w.people(4)
			id, other := w.group(p[0]), w.group(p[0])
			w.add(p[0], id, p[1])
			w.add(p[0], other, p[1], p[2], p[3]) // by a pointer
			disk.set(func(read int, _ []byte) bool { return read == n })
			err := w.sys.SyncWelcomes(w.ctx, p[1])
			more = disk.count() >= n
			w.ok(w.sys.SyncWelcomes(w.ctx, p[1]))
			disk.set(nil)
			for _, id := range []GroupID{id, other} {
				if known := w.sys.knows(w.ctx, p[1], id); known != nil {
					t.Errorf("read %d failed once (%v), and the membership is lost: %v", n, err, known)
				}
			}
			if rejected := w.tel.WelcomesRejected.Value(); rejected != 0 {
				t.Errorf("read %d failed, and %d welcomes were rejected", n, rejected)
			}
		})
		if n > 200 {
			t.Fatal("that never ends")
		}
	}
}

// While the row of a key package cannot be read the welcome waits, is tried again
// at a bounded pace, and whoever syncs is told why.
func TestADiskThatFailsForLong(t *testing.T) {
	onBadDisk(t, func(w *world, disk *badDisk) {
		p := w.people(2)
		st, err := w.sys.Stream(w.ctx, p[1], Scope{}, StreamConversations)
		w.ok(err)
		defer st.Close()
		row := append(append([]byte{3}, p[1][:]...), byte(typeKeyPackage))
		var tries atomic.Int64
		disk.set(func(_ int, key []byte) bool {
			hit := bytes.HasPrefix(key, row)
			if hit {
				tries.Add(1)
			}
			return hit
		})
		id := w.group(p[0])
		w.add(p[0], id, p[1])
		elapse(time.Minute)
		tries.Store(0)
		elapse(time.Hour)
		if n := tries.Load(); n < 60 || n > 300 {
			t.Errorf("tried %d times in an hour, want about once every 15 to 30 seconds", n)
		}
		if err := w.sys.SyncWelcomes(w.ctx, p[1]); !errors.Is(err, persistence.ErrDamaged) {
			t.Errorf("who syncs hears %v", err)
		}
		disk.set(nil)
		elapse(time.Minute)
		w.ok(w.sys.knows(w.ctx, p[1], id))
	})
}

// A welcome to a group that is known here, whose own rows cannot be read: it waits
// for that group, those behind it do not, and it is taken once the disk is mended.
func TestAWelcomeToABrokenGroupHoldsUpNoOther(t *testing.T) {
	onBadDisk(t, func(w *world, disk *badDisk) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		w.do(p[0], id, group.RemoveMembers{Inboxes: []string{w.inbox(p[1])}})
		w.sync(p[1], id)
		w.restart()
		disk.set(func(_ int, key []byte) bool { return disk.of(p[1], id, key) })
		w.add(p[0], id, p[1])
		other := w.group(p[0])
		w.add(p[0], other, p[1])
		err := w.sys.SyncWelcomes(w.ctx, p[1])
		if err == nil || !strings.Contains(err.Error(), id.String()) || !errors.Is(err, persistence.ErrDamaged) {
			t.Errorf("who syncs hears %v, which does not say which group and why", err)
		}
		w.ok(w.sys.knows(w.ctx, p[1], other))
		w.close()
		elapse(asideLife + time.Hour) // longer than what points at nothing is kept
		w.open()
		if err := w.sys.SyncWelcomes(w.ctx, p[1]); !errors.Is(err, persistence.ErrDamaged) {
			t.Errorf("who syncs again hears %v", err)
		}
		disk.set(nil)
		elapse(time.Minute)
		w.ok(w.sys.SyncWelcomes(w.ctx, p[1]))
		w.say(p[0], id, "welcome back")
		w.sync(p[1], id)
		w.reads(p[1], id, "welcome back")
	})
}

// of reports whether a key is one of the rows from which an installation's replica
// is loaded: all but the one that says that it is there.
func (*badDisk) of(in InstallationID, id GroupID, key []byte) bool {
	meta := append(append([]byte{3}, in[:]...), byte(recordType(group.TableMeta)))
	return bytes.HasPrefix(key, meta[:33]) && bytes.Contains(key, id[:]) && !bytes.HasPrefix(key, meta)
}

// One group of an installation is damaged. All others are synced, and the error
// says which one was not, and why: whether it shows before its actor wakes, or as
// it cannot start, however the installation's owner asks.
func TestADamagedGroupStopsNoOther(t *testing.T) {
	for name, damaged := range map[string]func(disk *badDisk, in InstallationID, id GroupID, key []byte) bool{
		"seen at rest": func(_ *badDisk, in InstallationID, id GroupID, key []byte) bool {
			return bytes.HasPrefix(key, append([]byte{3}, in[:]...)) && bytes.Contains(key, id[:])
		},
		"cannot start": (*badDisk).of,
	} {
		t.Run(name, func(t *testing.T) {
			onBadDisk(t, func(w *world, disk *badDisk) {
				p := w.people(2)
				var ids []GroupID
				for range 40 {
					ids = append(ids, w.group(p[0], p[1]))
				}
				for _, id := range ids {
					w.say(p[0], id, "news")
				}
				w.restart()
				bad := ids[3]
				disk.set(func(_ int, key []byte) bool { return damaged(disk, p[1], bad, key) })
				err := w.sys.SyncGroups(w.ctx, p[1])
				if err == nil || !strings.Contains(err.Error(), bad.String()) || !errors.Is(err, persistence.ErrDamaged) {
					t.Errorf("who syncs hears %v, which does not say which group and why", err)
				}
				for _, id := range ids {
					if id != bad {
						w.reads(p[1], id, "news")
					}
				}
				disk.set(nil)
				elapse(time.Minute)
				w.ok(w.sys.SyncGroups(w.ctx, p[1]))
				w.reads(p[1], bad, "news")
			})
		})
	}
}

// One group of an installation is damaged: the others are listed, and a stream
// tells of them.
func TestADamagedGroupHidesNoOther(t *testing.T) {
	onBadDisk(t, func(w *world, disk *badDisk) {
		p := w.people(2)
		good, bad := w.group(p[0], p[1]), w.group(p[0], p[1])
		w.restart()
		disk.set(func(_ int, key []byte) bool {
			return bytes.HasPrefix(key, append([]byte{3}, p[1][:]...)) && bytes.Contains(key, bad[:])
		})
		for range 2 {
			all, err := w.sys.Conversations(w.ctx, p[1], Scope{})
			if w.ok(err); len(all) != 2 {
				t.Errorf("%d groups are listed", len(all))
			}
		}
		st := w.stream(p[1])
		w.say(p[0], good, "hello")
		w.hears(st, "hello")
		disk.set(nil)
		elapse(time.Minute)
		w.say(p[0], bad, "mended")
		w.hears(st, "mended")
	})
}

// Where many fail the error names some, and says how many more there are.
func TestFailuresAreNamedUpToABound(t *testing.T) {
	var f failures
	if f.err() != nil {
		t.Error("nothing failed")
	}
	for i := range maxNamed + 5 {
		f.add(fmt.Errorf("group %d: %w", i, bus.ErrUnavailable))
	}
	err := f.err()
	if lines := strings.Count(err.Error(), "\n") + 1; lines != maxNamed+1 || !errors.Is(err, bus.ErrUnavailable) || !strings.HasSuffix(err.Error(), "and 5 more") {
		t.Errorf("%d lines: %v", lines, err)
	}
}
