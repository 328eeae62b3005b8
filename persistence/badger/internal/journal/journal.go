// Package journal is the log in front of the store's tables: what a batch
// changed is here before it is anywhere else, and what the tables lack after a
// crash comes from here.
//
// Every record is stamped with a rising number and chained to the one before by
// a hash. The mark, a small file beside it, says how far the chain is durable,
// so that a log which lost its end is told from one that was torn by a crash.
package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/conclave-chat/conclave/persistence"
)

// A Journal is open for appending. One goroutine calls Append, Rotate, Prune
// and Point; Points are synced by any.
type Journal struct {
	dir     string
	mark    *markFile
	file    *os.File
	number  uint64
	size    int64
	place   position
	retired []retired // older segments that are still needed
}

type retired struct {
	number, last uint64
}

// Begin starts a segment behind what Inspect found, whose first record will
// have the stamp after applied: the last one that the tables and the journal
// hold together. Older segments stay until Prune. The mark remembers putBack as
// PutBack, in the same write in which what was found becomes the truth.
func (f *Found) Begin(applied uint64, putBack time.Time) (_ *Journal, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("begin segment: %w", noSpace(err))
		}
	}()
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return nil, err
	}
	for _, path := range f.stale {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	j := &Journal{dir: f.dir}
	if !putBack.IsZero() {
		f.mark.putBack = putBack.UnixNano()
	}
	if f.Fresh {
		// The folder, the one that holds it and that one's own name.
		for dir, n := f.dir, 0; n < 3; dir, n = filepath.Dir(dir), n+1 {
			if err := SyncDir(dir); err != nil {
				return nil, err
			}
		}
		f.mark = mark{store: newStoreID(), first: 1, putBack: f.mark.putBack}
		h := header{store: f.mark.store, number: 1, first: applied + 1}
		if err := j.create(h); err != nil {
			return nil, err
		}
		f.mark.last, f.mark.durable = 1, j.place
		j.mark, err = createMark(f.markPath, f.mark)
		return j, err
	}
	last := f.segments[len(f.segments)-1]
	for _, s := range f.segments {
		j.retired = append(j.retired, retired{s.header.number, s.place().last})
	}
	if j.mark, err = openMark(f.markPath, f.mark); err != nil {
		return nil, err
	}
	// What was read may still be on its way to the disk.
	if err := syncFile(f.path(last.header.number)); err != nil {
		return nil, errors.Join(err, j.mark.file.Close())
	}
	err = j.create(header{
		store: f.mark.store, number: last.header.number + 1, first: applied + 1,
		previous: last.place(), end: last.end(),
	})
	if err == nil {
		err = j.updateMark()
	}
	if err != nil {
		return nil, errors.Join(err, j.mark.file.Close())
	}
	return j, nil
}

// create makes a segment with nothing but its header, durably. It has its name
// once it is whole: the mark may know a segment of that number, of a history
// that was given up.
func (j *Journal) create(h header) error {
	path := segmentPath(j.dir, h.number)
	temporary := path + ".new"
	file, err := os.Create(temporary)
	if err != nil {
		return err
	}
	b, t := h.encode()
	_, err = file.Write(b)
	if err = errors.Join(err, file.Sync()); err != nil {
		return errors.Join(err, file.Close(), os.Remove(temporary))
	}
	if err = os.Rename(temporary, path); err != nil {
		return errors.Join(err, file.Close(), os.Remove(temporary))
	}
	if err = SyncDir(j.dir); err != nil {
		return errors.Join(err, file.Close(), os.Remove(path))
	}
	j.file, j.number, j.size, j.place = file, h.number, headerLen, position{h.first - 1, t}
	return nil
}

// updateMark brings segments and place into the mark.
func (j *Journal) updateMark() error {
	return j.mark.change(func(m *mark) {
		m.first, m.last, m.durable = j.first(), j.number, j.place
	})
}

func (j *Journal) first() uint64 {
	if len(j.retired) > 0 {
		return j.retired[0].number
	}
	return j.number
}

// Last returns the last stamp.
func (j *Journal) Last() uint64 { return j.place.last }

// Size returns the bytes in the current segment.
func (j *Journal) Size() int64 { return j.size }

// Append writes a record of so many stamps. The payload starts at
// record[Room]; record is overwritten and may grow. ErrFull means that the
// journal is as before, any other error that its end is not known.
func (j *Journal) Append(record []byte, stamps uint32) ([]byte, error) {
	binary.BigEndian.PutUint32(record, uint32(len(record)-Room))
	binary.BigEndian.PutUint32(record[4:], stamps)
	binary.BigEndian.PutUint64(record[8:], j.place.last+1)
	t := makeTag(j.place.tag, record)
	record = append(record, t[:]...)
	if _, err := j.file.WriteAt(record, j.size); err != nil {
		if err = noSpace(err); errors.Is(err, persistence.ErrFull) {
			err = errors.Join(err, j.file.Truncate(j.size))
		}
		return record, fmt.Errorf("append to journal: %w", err)
	}
	j.size += int64(len(record))
	j.place = position{j.place.last + uint64(stamps), t}
	return record, nil
}

// A Point is the end of the journal at some moment.
type Point struct {
	mark  *markFile
	file  *os.File
	place position
}

// Point returns the end as it is now.
func (j *Journal) Point() Point { return Point{j.mark, j.file, j.place} }

// Last returns the stamp at the point.
func (p Point) Last() uint64 { return p.place.last }

// Sync makes everything up to the point durable, and the mark say so.
func (p Point) Sync() error {
	if err := p.file.Sync(); err != nil {
		return fmt.Errorf("sync journal: %w", err)
	}
	if err := p.mark.advance(p.place); err != nil {
		return fmt.Errorf("write mark: %w", err)
	}
	return nil
}

// Close releases the point's file, once nothing will be synced through it.
func (p Point) Close() error { return p.file.Close() }

// SyncMark makes the mark durable as it is.
func (p Point) SyncMark() error { return p.mark.change(func(*mark) {}) }

// Rotate starts a segment. It returns the end of the one before, which is
// durable, for the caller to close. After ErrFull the current one goes on.
func (j *Journal) Rotate() (Point, error) {
	old := j.Point()
	if err := old.Sync(); err != nil {
		return old, err
	}
	before := *j
	err := j.create(header{
		store: j.mark.now.store, number: j.number + 1, first: j.place.last + 1,
		previous: j.place, end: j.size,
	})
	if err != nil {
		return old, fmt.Errorf("rotate journal: %w", noSpace(err))
	}
	j.retired = append(j.retired, retired{before.number, before.place.last})
	if err := j.updateMark(); err != nil {
		return old, fmt.Errorf("write mark: %w", err)
	}
	return old, nil
}

// Prune removes the segments whose stamps the tables hold durably.
func (j *Journal) Prune(applied uint64) error {
	n := 0
	for n < len(j.retired) && j.retired[n].last <= applied {
		n++
	}
	if n == 0 {
		return nil
	}
	gone := j.retired[:n]
	j.retired = j.retired[n:]
	if err := j.mark.change(func(m *mark) { m.first = j.first() }); err != nil {
		return fmt.Errorf("write mark: %w", err)
	}
	for _, s := range gone {
		if err := os.Remove(segmentPath(j.dir, s.number)); err != nil {
			return fmt.Errorf("prune journal: %w", err)
		}
	}
	return nil
}

// Close makes journal and mark durable and releases the files.
func (j *Journal) Close() error {
	err := j.Point().Sync()
	if err == nil {
		err = j.Point().SyncMark()
	}
	return errors.Join(err, j.Abandon())
}

// Abandon releases the files and leaves their content as it is.
func (j *Journal) Abandon() error {
	return errors.Join(j.file.Close(), j.mark.file.Close())
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// noSpace gives errors of a full disk their name.
func noSpace(err error) error {
	if isNoSpace(err) {
		return fmt.Errorf("%w: %w", persistence.ErrFull, err)
	}
	return err
}
