package jetstream_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
)

// disk is a file system of its own, of a few megabytes in memory.
func disk(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("a disk that can be filled needs the right to mount one: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill leaves no room on a disk, but for so many bytes, until empty is called.
func fill(t *testing.T, dir string, but int64) (empty func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := io.Copy(f, zeros{})
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Truncate(n - but); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// until waits for a condition.
func until(what func() bool) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !what() {
		<-tick.C
	}
}

// The log's disk is full for a while: nothing is taken and that is said, to hosts
// in the process and elsewhere; once there is room it takes entries again, without
// anybody's help, and what was acknowledged is there, once.
func TestFullDiskIsGotOver(t *testing.T) {
	t.Parallel()
	for name, but := range map[string]int64{"no room at all": 0, "room for a few entries": 300 << 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := disk(t)
			near := open(t, jetstream.Config{Dir: filepath.Join(dir, "log"), Listen: "127.0.0.1:0", RetryFor: time.Second})
			far := open(t, jetstream.Config{URL: near.ClientURL(), RetryFor: time.Second})
			m := messagesOf(t, 1)
			var stored []string
			send := func(b bus.Bus) error {
				text := fmt.Sprintf("%d %050000d", len(stored), 0)
				_, err := b.Publish(t.Context(), m, []byte(text))
				if err == nil {
					stored = append(stored, text)
				}
				return err
			}
			for _, b := range []bus.Bus{near, far} {
				if err := send(b); err != nil {
					t.Fatal(err)
				}
			}
			empty := fill(t, dir, but)
			var err error
			for err == nil {
				err = send(far)
			}
			if !errors.Is(err, bus.ErrUnavailable) && !errors.Is(err, bus.ErrFull) {
				t.Errorf("on a full disk: %v", err)
			}
			until(func() bool { return errors.Is(near.Ready(t.Context()), bus.ErrFull) })
			if err := send(near); !errors.Is(err, bus.ErrFull) {
				t.Errorf("known to be full: %v", err)
			}
			empty()
			until(func() bool { return near.Ready(t.Context()) == nil })
			for _, b := range []bus.Bus{near, far, near} {
				until(func() bool { return send(b) == nil })
			}
			got, err := far.Read(t.Context(), 0, 1000, m)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]int{}
			for _, e := range got {
				text, _, _ := strings.Cut(string(e.Payload), " ")
				seen[text]++
			}
			for n := range stored {
				if seen[fmt.Sprint(n)] != 1 {
					t.Errorf("entry %d is there %d times", n, seen[fmt.Sprint(n)])
				}
			}
		})
	}
}

// A folder that cannot be written is named, and let go of.
func TestFolderThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	dir := disk(t)
	config := jetstream.Config{Dir: filepath.Join(dir, "log")}
	b := open(t, config)
	publish(t, b, messagesOf(t, 1), "x")
	b.Close()
	empty := fill(t, dir, 0)
	if _, err := jetstream.Open(t.Context(), config); !errors.Is(err, bus.ErrFull) || !strings.Contains(err.Error(), "make room on the disk") {
		t.Errorf("full: %v", err)
	}
	empty()
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := jetstream.Open(t.Context(), config); !errors.Is(err, jetstream.ErrReadOnly) || !strings.Contains(err.Error(), "give one that this user may write to") {
		t.Errorf("read-only: %v", err)
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	b = open(t, config)
	if got, err := b.Read(t.Context(), 0, 10, messagesOf(t, 1)); err != nil || len(got) != 1 {
		t.Errorf("%d entries, %v", len(got), err)
	}
}
