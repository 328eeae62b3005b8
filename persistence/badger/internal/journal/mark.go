package journal

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/conclave-chat/conclave/persistence"
)

// The mark is a file of two slots, 4096 bytes apart, each in one sector:
//
//	"CNCLMARK" | format (4) | CRC-32C of these 12 bytes (4)
//	store id (16) | generation (8) | first segment (8) | last segment (8)
//	last durable stamp (8) | its tag (16)
//	when an older store was last accepted, in Unix nanoseconds (8); 0: never
//	first 16 bytes of SHA-256 over all of it
//
// The valid slot of the higher generation counts; a write goes to the other
// one. The first line keeps its form in every format; format 1 had no time.
const (
	markMagic  = "CNCLMARK"
	markFormat = 2
	slotLen    = 104
	slotGap    = 4096
	sumLen     = 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A mark says what must be there.
type mark struct {
	store       [16]byte
	generation  uint64
	first, last uint64   // segments
	durable     position // the log reaches at least here
	putBack     int64
}

func (m mark) encode() []byte {
	b := make([]byte, 0, slotLen)
	b = append(b, markMagic...)
	b = binary.BigEndian.AppendUint32(b, markFormat)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	b = append(b, m.store[:]...)
	b = binary.BigEndian.AppendUint64(b, m.generation)
	b = binary.BigEndian.AppendUint64(b, m.first)
	b = binary.BigEndian.AppendUint64(b, m.last)
	b = binary.BigEndian.AppendUint64(b, m.durable.last)
	b = append(b, m.durable.tag[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(m.putBack))
	sum := sha256.Sum256(b)
	return append(b, sum[:sumLen]...)
}

// decodeMark reads one slot. A slot that was not written whole is not ok.
func decodeMark(b []byte) (m mark, ok bool, err error) {
	if len(b) < 16 || string(b[:8]) != markMagic || binary.BigEndian.Uint32(b[12:]) != crc32.Checksum(b[:12], castagnoli) {
		return m, false, nil
	}
	f, body := binary.BigEndian.Uint32(b[8:]), slotLen-sumLen
	switch {
	case f > markFormat:
		return m, false, fmt.Errorf("%w: format %d, this version knows %d", persistence.ErrFormatTooNew, f, markFormat)
	case f == 1:
		body -= 8
	}
	if len(b) < body+sumLen {
		return m, false, nil
	}
	m.store = [16]byte(b[16:32])
	m.generation = binary.BigEndian.Uint64(b[32:])
	m.first = binary.BigEndian.Uint64(b[40:])
	m.last = binary.BigEndian.Uint64(b[48:])
	m.durable = position{binary.BigEndian.Uint64(b[56:]), tag(b[64:80])}
	if f > 1 {
		m.putBack = int64(binary.BigEndian.Uint64(b[80:]))
	}
	sum := sha256.Sum256(b[:body])
	return m, string(sum[:sumLen]) == string(b[body:body+sumLen]), nil
}

// readMark returns the mark in a file, or fs.ErrNotExist.
func readMark(path string) (newest mark, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return newest, err
	}
	found := false
	for at := 0; at < len(data) && at <= slotGap; at += slotGap {
		m, ok, err := decodeMark(data[at:])
		if err != nil {
			return newest, err
		}
		if ok && (!found || m.generation > newest.generation) {
			newest, found = m, true
		}
	}
	if !found {
		return newest, fmt.Errorf("%w: %s holds no mark", persistence.ErrDamaged, path)
	}
	return newest, nil
}

// A markFile is the mark while the store is open.
type markFile struct {
	mu   sync.Mutex
	file *os.File
	now  mark
}

// createMark puts a mark where there was none.
func createMark(path string, m mark) (*markFile, error) {
	temporary := path + ".new"
	file, err := os.Create(temporary)
	if err != nil {
		return nil, err
	}
	f := &markFile{file: file, now: m}
	if err := f.change(func(*mark) {}); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if err := os.Rename(temporary, path); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return f, SyncDir(filepath.Dir(path))
}

func openMark(path string, m mark) (*markFile, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &markFile{file: file, now: m}, nil
}

// write puts the mark into the slot that does not count.
func (f *markFile) write() error {
	f.now.generation++
	_, err := f.file.WriteAt(f.now.encode(), int64(f.now.generation%2)*slotGap)
	return err
}

// advance moves the durable place on. The write is left to the system: a mark
// that is lost with the power only asks for less.
func (f *markFile) advance(p position) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p.last <= f.now.durable.last {
		return nil
	}
	f.now.durable = p
	return f.write()
}

// change changes the mark durably and in both slots.
func (f *markFile) change(edit func(*mark)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	edit(&f.now)
	for range 2 {
		if err := errors.Join(f.write(), f.file.Sync()); err != nil {
			return err
		}
	}
	return nil
}

func newStoreID() (id [16]byte) {
	rand.Read(id[:])
	return id
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return syncDir(d)
}

func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
