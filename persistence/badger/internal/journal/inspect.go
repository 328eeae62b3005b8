package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/conclave-chat/conclave/persistence"
)

// Found is what Inspect saw. Nothing was changed.
type Found struct {
	dir, markPath string
	mark          mark
	segments      []*segment
	stale         []string // files that no longer count, and one whose creation was cut short

	// Fresh: there is no journal yet.
	Fresh bool
	// RolledBack: the journal is whole, and ends before its mark.
	RolledBack bool
}

// PutBack says when a store that was behind its mark was last accepted: as
// Begin was told. It is the zero time where that never was.
func (f *Found) PutBack() (t time.Time) {
	if f.mark.putBack != 0 {
		t = time.Unix(0, f.mark.putBack)
	}
	return t
}

// Inspect checks a journal against its mark without changing anything. It
// returns ErrDamaged or ErrFormatTooNew.
func Inspect(dir, markPath string) (*Found, error) {
	f := &Found{dir: dir, markPath: markPath}
	numbers, err := list(dir)
	if err != nil {
		return nil, err
	}
	f.mark, err = readMark(markPath)
	switch {
	case missing(err):
		return f, f.unmarked(numbers)
	case err != nil:
		return nil, err
	}
	first := f.mark.first
	if n := len(numbers); n > 0 && numbers[n-1] < first {
		first = numbers[n-1] // an older copy, from before first was made
		for slices.Contains(numbers, first-1) {
			first--
		}
	}
	for _, number := range numbers {
		if number < first {
			f.stale = append(f.stale, f.path(number))
		}
	}
	for number := first; ; number++ {
		more, err := f.read(number, number <= f.mark.last)
		switch {
		case err != nil:
			return nil, err
		case more:
			continue
		case len(f.segments) == 0 || number < numbers[len(numbers)-1]:
			return nil, fmt.Errorf("%w: %s is missing", persistence.ErrDamaged, f.path(number))
		}
		f.RolledBack = number <= f.mark.last
		return f, f.compare()
	}
}

// unmarked accepts a journal without a mark where its creation was cut short:
// the mark is written last, before the first record.
func (f *Found) unmarked(numbers []uint64) error {
	f.Fresh = true
	for _, number := range numbers {
		info, err := os.Stat(f.path(number))
		if err != nil {
			return err
		}
		if number != 1 || info.Size() > headerLen {
			return fmt.Errorf("%w: %s is missing", persistence.ErrDamaged, f.markPath)
		}
		f.stale = append(f.stale, f.path(number))
	}
	return nil
}

// read adds one segment. A segment that the mark does not know yet may be
// there, as it is made before the mark says so; one without a whole header is
// then an interrupted creation.
func (f *Found) read(number uint64, known bool) (more bool, err error) {
	path := f.path(number)
	data, err := os.ReadFile(path)
	switch {
	case missing(err):
		return false, nil
	case err != nil:
		return false, err
	}
	s, err := parse(data)
	if err != nil && !known && len(data) <= headerLen {
		f.stale = append(f.stale, path)
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%w: %s: %w", persistence.ErrDamaged, path, err)
	}
	if s.header.store != f.mark.store || s.header.number != number {
		return false, fmt.Errorf("%w: %s belongs elsewhere", persistence.ErrDamaged, path)
	}
	if n := len(f.segments); n > 0 {
		if err := f.segments[n-1].cut(s.header.end, s.header.previous); err != nil {
			return false, fmt.Errorf("%w: %s: %w", persistence.ErrDamaged, path, err)
		}
	}
	f.segments = append(f.segments, s)
	return true, nil
}

// compare holds the end of the chain against the mark.
func (f *Found) compare() error {
	last := f.segments[len(f.segments)-1]
	if last.place().last < f.mark.durable.last {
		if last.torn() {
			return fmt.Errorf("%w: %s breaks off at offset %d, before its mark", persistence.ErrDamaged, f.path(last.header.number), last.end())
		}
		f.RolledBack = true
	}
	if f.RolledBack {
		return nil
	}
	for _, s := range f.segments {
		if slices.Contains(s.places, f.mark.durable) {
			return nil
		}
	}
	return fmt.Errorf("%w: %s is not of this history", persistence.ErrDamaged, f.path(last.header.number))
}

// Last returns the last stamp of the journal, 0 where there is none.
func (f *Found) Last() uint64 {
	if f.Fresh {
		return 0
	}
	return f.segments[len(f.segments)-1].place().last
}

// Covers says whether the journal can bring a state that holds all stamps up to
// and including applied to its end: no record in between was pruned.
func (f *Found) Covers(applied uint64) bool {
	reached := applied
	for _, s := range f.segments {
		if s.header.first > reached+1 {
			return false
		}
		reached = max(reached, s.place().last)
	}
	return true
}

// Replay calls apply for each record with a stamp above applied, in order.
func (f *Found) Replay(applied uint64, apply func(first, last uint64, payload []byte) error) error {
	for _, s := range f.segments {
		for i := 1; i < len(s.ends); i++ {
			if last := s.places[i].last; last > applied {
				payload := s.data[s.ends[i-1]+recordStartLen : s.ends[i]-tagLen]
				if err := apply(s.places[i-1].last+1, last, payload); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (f *Found) path(number uint64) string { return segmentPath(f.dir, number) }

func segmentPath(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%08d.log", number))
}

// list returns the numbers of the segments in a directory, rising.
func list(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if missing(err) {
		return nil, nil
	}
	var numbers []uint64
	for _, entry := range entries {
		if name, ok := strings.CutSuffix(entry.Name(), ".log"); ok {
			if number, err := strconv.ParseUint(name, 10, 64); err == nil && entry.Name() == filepath.Base(segmentPath(dir, number)) {
				numbers = append(numbers, number)
			}
		}
	}
	slices.Sort(numbers)
	return numbers, err
}
