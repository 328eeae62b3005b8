package files

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Repair makes the streams such that the server opens them with every entry that
// is whole, and that no sequence which had an entry gets another one. What it
// changes is copied to aside first. A stream whose description cannot be read is
// moved there: the log is made anew then.
func Repair(root, aside string, m Mark, streams []Stream) error {
	for _, s := range streams {
		if err := s.repair(aside, m.Last[s.Name]); err != nil {
			return fmt.Errorf("repair stream %s: %w", s.Name, err)
		}
	}
	return nil
}

func (s Stream) repair(aside string, had uint64) error {
	whole, err := s.describe(aside)
	if err != nil || !whole {
		return err
	}
	next, changed := 1, s.Last < had
	for _, b := range s.blocks {
		next = max(next, b.number+1)
		if len(b.bad) == 0 {
			continue
		}
		changed = true
		if err := s.cutOut(aside, b); err != nil {
			return err
		}
	}
	if s.Last < had {
		if err := s.endAt(next, had); err != nil {
			return err
		}
	}
	if !changed {
		return nil
	}
	for _, derived := range []string{"index.db", derivedFile} {
		if err := os.Remove(filepath.Join(s.dir, "msgs", derived)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// describe renews the sum of a description that can be read, and moves the stream
// away where it cannot.
func (s Stream) describe(aside string) (whole bool, err error) {
	if checkMeta(s.dir) == "" {
		return true, nil
	}
	meta, err := os.ReadFile(filepath.Join(s.dir, metaFile))
	var described struct {
		Name string `json:"name"`
	}
	if err == nil && json.Unmarshal(meta, &described) == nil && described.Name == s.Name {
		return true, os.WriteFile(filepath.Join(s.dir, sumFile), metaSum(s.Name, meta), 0o600)
	}
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return false, err
	}
	return false, os.Rename(s.dir, filepath.Join(aside, s.Name))
}

// cutOut takes what holds no record out of a block.
func (s Stream) cutOut(aside string, b block) error {
	path := filepath.Join(s.dir, "msgs", b.name)
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	kept := filepath.Join(aside, s.Name, "msgs")
	if err := os.MkdirAll(kept, 0o700); err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(kept, b.name), data); err != nil {
		return err
	}
	var good []byte
	from := 0
	for _, bad := range b.bad {
		good, from = append(good, data[from:bad.from]...), bad.to
	}
	if err := writeSynced(path+".tmp", append(good, data[from:]...)); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// endAt adds a block with a tombstone of the last sequence that the stream had, so
// that the server goes on behind it.
func (s Stream) endAt(number int, last uint64) error {
	b := make([]byte, headBytes, headBytes+hashBytes)
	binary.LittleEndian.PutUint32(b, headBytes+hashBytes)
	binary.LittleEndian.PutUint64(b[4:], last|tombstone)
	binary.LittleEndian.PutUint64(b[12:], uint64(time.Now().UnixNano()))
	h := hashOf(s.Name, number)
	h.Write(b[4:20])
	dir := filepath.Join(s.dir, "msgs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return writeSynced(filepath.Join(dir, fmt.Sprint(number)+blockSuffix), h.Sum(b))
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	n, err := f.Write(data)
	if err == nil && n < len(data) {
		err = io.ErrShortWrite
	}
	return errors.Join(err, f.Sync(), f.Close())
}
