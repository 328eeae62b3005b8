package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// A disk is a small one of its own, mounted on a folder.
type disk struct{ dir string }

// mountDisk makes one of that many bytes. Where it cannot, the scenario is not
// run.
func mountDisk(w *world, dir string, size int) (disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return disk{}, err
	}
	says, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprint("size=", size), "tmpfs", dir).CombinedOutput()
	if err != nil {
		return disk{}, errNotRun{fmt.Sprintf("mounting a tmpfs needs root on Linux: %s", says)}
	}
	w.ends = append(w.ends, func() error { return exec.Command("umount", dir).Run() })
	return disk{dir}, nil
}

// fill leaves no room at all.
func (d disk) fill() error {
	f, err := os.OpenFile(d.filler(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return err
		}
	}
	return nil
}

// clear gives the room back.
func (d disk) clear() error { return os.Remove(d.filler()) }

func (d disk) filler() string { return filepath.Join(d.dir, "filler") }

// fullLog: the log's disk has no room for a while. Nobody restarts anything.
var fullLog = scenario{
	name:  "full-log",
	does:  "the log's disk is full for some seconds under load (a tmpfs), and has room again",
	holds: "it goes on by itself",
	world: worldSpec{hosts: 2, people: 6, groups: 2, guests: 1},
	log: func(w *world) (logSide, error) {
		s, err := newServe(w)
		if err == nil {
			_, err = mountDisk(w, s.dir(), 96<<20)
		}
		return s, err
	},
	round: func(ctx context.Context, w *world, full bool) error {
		return w.full(ctx, disk{w.log.(*serve).dir()})
	},
}

// fullStore: so with the disk of one host's store.
var fullStore = scenario{
	name:  "full-store",
	does:  "the disk of a host's store is full for some seconds under load (a tmpfs), and has room again",
	holds: "it goes on by itself",
	world: worldSpec{hosts: 2, people: 6, groups: 2, guests: 1},
	log: func(w *world) (logSide, error) {
		s, err := newServe(w)
		if err == nil {
			_, err = mountDisk(w, w.hostDir(0), storeDisk)
		}
		return s, err
	},
	round: func(ctx context.Context, w *world, full bool) error {
		return w.full(ctx, disk{w.hostDir(0)})
	},
}

// storeDisk is more than the 256 MiB that a store keeps free.
const storeDisk = 400 << 20

// full puts a full disk under a load that does not mind errors.
func (w *world) full(ctx context.Context, d disk) error {
	load := steadyLoad
	load.Brave = true
	if err := w.begin(ctx, load); err != nil {
		return err
	}
	w.sleep(ctx, 300*time.Millisecond, 600*time.Millisecond)
	if err := d.fill(); err != nil {
		return err
	}
	w.struck()
	w.sleep(ctx, time.Second, 3*time.Second)
	if err := d.clear(); err != nil {
		return err
	}
	w.sleep(ctx, time.Second, 2*time.Second)
	return nil
}

// copyDir copies what lies in a folder, which nothing writes to meanwhile, to
// one that is made anew. Blocks that hold nothing take no room.
func copyDir(from, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		return copyFile(path, filepath.Join(to, rel))
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	buffer, size := make([]byte, 64<<10), int64(0)
	for {
		n, err := in.Read(buffer)
		if !blank(buffer[:n]) {
			if _, err := out.WriteAt(buffer[:n], size); err != nil {
				return errors.Join(err, out.Close())
			}
		}
		size += int64(n)
		if err == io.EOF {
			return errors.Join(out.Truncate(size), out.Close())
		}
		if err != nil {
			return errors.Join(err, out.Close())
		}
	}
}

func blank(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
