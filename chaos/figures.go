package main

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// figures are what a host's process holds.
type figures struct {
	Resident    int64 `json:"resident"` // bytes, from the kernel
	Heap        int64 `json:"heap"`     // bytes, after a collection
	Descriptors int   `json:"descriptors"`
	Goroutines  int   `json:"goroutines"`
	Disk        int64 `json:"disk"` // bytes under the host's directory
}

func figuresOf(dir string) (f figures, err error) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	f.Heap, f.Goroutines = int64(m.HeapAlloc), runtime.NumGoroutine()
	if f.Resident, err = statusBytes("self", "VmRSS"); err != nil {
		return f, err
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return f, err
	}
	f.Descriptors = len(entries) - 1 // the one that reads the directory
	f.Disk, err = usage(dir)
	return f, err
}

// statusBytes reads a size from /proc.
func statusBytes(process, field string) (int64, error) {
	file, err := os.Open("/proc/" + process + "/status")
	if err != nil {
		return 0, err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if name == field {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("no %s in the status of %s", field, process)
}

// usage is the size of the files of a folder.
func usage(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreGone(err)
		}
		info, err := d.Info()
		if err != nil {
			return ignoreGone(err)
		}
		total += info.Size()
		return nil
	})
	return total, err
}

// ignoreGone passes over files that were deleted while they were counted.
func ignoreGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}
