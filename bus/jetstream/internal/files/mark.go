package files

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A Mark lies beside the log and says what the log held. A block that ends early
// looks like one that was written no further; by the mark it is known.
type Mark struct {
	// Last is the last sequence of each stream, or one shortly before it.
	Last map[string]uint64 `json:"last"`
	// Lost has, by stream, the first sequence whose loss was accepted, until the
	// streams themselves say so.
	Lost map[string]uint64 `json:"lost,omitempty"`
	// Files has the size of each file, where the server was stopped, and Derived
	// the sum of each that the server can make anew and does not check itself.
	Files   map[string]int64  `json:"files,omitempty"`
	Derived map[string]uint32 `json:"derived,omitempty"`
}

const (
	markFile    = "MARK"
	derivedFile = "thw.db" // when entries expire, which their headers say too
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Clean says that the mark was left by a server that was stopped.
func (m Mark) Clean() bool { return m.Files != nil }

// ReadMark returns the mark of a folder; an empty one where there is none, or
// none that is as it was written.
func ReadMark(root string) Mark {
	b, err := os.ReadFile(filepath.Join(root, markFile))
	if err != nil {
		return Mark{}
	}
	sum, text, _ := bytes.Cut(b, []byte("\n"))
	var m Mark
	if string(sum) != fmt.Sprintf("%08x", crc32.Checksum(text, castagnoli)) || json.Unmarshal(text, &m) != nil {
		return Mark{}
	}
	return m
}

// WriteMark replaces the mark. Where the server runs it is not waited for until
// it is on disk: an older mark is right too.
func WriteMark(root string, m Mark) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	path := filepath.Join(root, markFile)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%08x\n%s", crc32.Checksum(text, castagnoli), text)
	if m.Clean() && err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Stopped completes a mark by what the files are when the server has stopped.
func Stopped(root string, m Mark) (Mark, error) {
	m.Files, m.Derived = map[string]int64{}, map[string]uint32{}
	err := walk(root, func(path, name string, size int64) error {
		if filepath.Base(name) == derivedFile {
			b, err := os.ReadFile(path)
			m.Derived[name] = crc32.Checksum(b, castagnoli)
			return err
		}
		m.Files[name] = size
		return nil
	})
	return m, err
}

// walk calls f for each file of the streams.
func walk(root string, f func(path, name string, size int64) error) error {
	dirs, err := filepath.Glob(filepath.Join(root, streamsGlob))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			name, err := filepath.Rel(filepath.Dir(dir), path)
			if err != nil {
				return err
			}
			return f(path, filepath.ToSlash(name), info.Size())
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Compare returns what streams lack of what a mark says.
func Compare(root string, m Mark, streams []Stream) ([]Fault, error) {
	var faults []Fault
	ends := map[string]uint64{}
	for _, s := range streams {
		ends[s.Name] = s.Last
	}
	for name, last := range m.Last {
		end, there := ends[name]
		switch {
		case !there:
			faults = append(faults, Fault{Stream: name, Sequence: 1, File: name, What: "the stream is gone"})
		case end < last:
			faults = append(faults, Fault{Stream: name, Sequence: end + 1, File: name,
				What: fmt.Sprintf("the log ends at %d, and had %d", end, last)})
		}
	}
	sizes := map[string]int64{}
	err := walk(root, func(_, name string, size int64) error {
		sizes[name] = size
		return nil
	})
	for name, size := range m.Files {
		stream, _, _ := strings.Cut(name, "/")
		switch now, there := sizes[name]; {
		case !strings.HasSuffix(name, blockSuffix) || there && now == size:
		case there:
			faults = append(faults, Fault{Stream: stream, File: name, At: min(now, size), What: fmt.Sprintf("the file has %d bytes, and had %d", now, size)})
		default:
			faults = append(faults, Fault{Stream: stream, File: name, What: "the file is gone"})
		}
	}
	return faults, err
}

// DropDerived removes what is derived and not as a mark has it: the server makes
// it anew.
func DropDerived(root string, m Mark) error {
	return walk(root, func(path, name string, _ int64) error {
		if filepath.Base(name) != derivedFile {
			return nil
		}
		b, err := os.ReadFile(path)
		if sum, known := m.Derived[name]; err == nil && (!known || sum != crc32.Checksum(b, castagnoli)) {
			err = os.Remove(path)
		}
		return err
	})
}
