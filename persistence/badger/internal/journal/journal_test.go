package journal

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/persistence"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// place is where a test keeps a journal.
type place struct{ dir, mark string }

func newPlace(t testing.TB) place {
	dir := t.TempDir()
	return place{filepath.Join(dir, "journal"), filepath.Join(dir, "MARK")}
}

func (p place) inspect(t testing.TB) *Found {
	t.Helper()
	found, err := Inspect(p.dir, p.mark)
	check(t, err)
	return found
}

func (p place) begin(t testing.TB) *Journal {
	t.Helper()
	found := p.inspect(t)
	j, err := found.Begin(found.Last(), found.PutBack())
	check(t, err)
	return j
}

func write(t testing.TB, j *Journal, payloads ...string) {
	t.Helper()
	for _, payload := range payloads {
		_, err := j.Append(append(make([]byte, Room), payload...), 1)
		check(t, err)
	}
}

// all replays a journal as "stamp:payload".
func (p place) all(t testing.TB, applied uint64) string {
	t.Helper()
	var records []string
	check(t, p.inspect(t).Replay(applied, func(first, last uint64, payload []byte) error {
		records = append(records, fmt.Sprintf("%d-%d:%s", first, last, payload))
		return nil
	}))
	return strings.Join(records, " ")
}

func TestRecordsComeBackInOrder(t *testing.T) {
	p := newPlace(t)
	if found := p.inspect(t); !found.Fresh || found.Last() != 0 || !found.Covers(0) {
		t.Fatal("nothing is not fresh")
	}
	j := p.begin(t)
	write(t, j, "a", "")
	_, err := j.Append(append(make([]byte, Room), "three stamps"...), 3)
	check(t, err)
	old, err := j.Rotate()
	check(t, err)
	check(t, old.Close())
	write(t, j, "b")
	check(t, j.Close())
	j = p.begin(t)
	write(t, j, "c")
	check(t, j.Close())

	if got := p.all(t, 0); got != "1-1:a 2-2: 3-5:three stamps 6-6:b 7-7:c" {
		t.Error(got)
	}
	if got := p.all(t, 4); got != "3-5:three stamps 6-6:b 7-7:c" {
		t.Error(got)
	}
	if got := p.all(t, 7); got != "" {
		t.Error(got)
	}
}

func TestPrunedRecordsMustBeInTheTables(t *testing.T) {
	p := newPlace(t)
	j := p.begin(t)
	for range 3 {
		write(t, j, "a", "b")
		old, err := j.Rotate()
		check(t, err)
		check(t, old.Close())
	}
	check(t, j.Prune(3)) // in the middle of the second segment
	check(t, j.Close())
	numbers, err := list(p.dir)
	check(t, err)
	if !slices.Equal(numbers, []uint64{2, 3, 4}) {
		t.Fatal(numbers)
	}
	found := p.inspect(t)
	for applied, want := range []bool{false, false, true, true} {
		if found.Covers(uint64(applied)) != want {
			t.Errorf("covers %d: %v", applied, !want)
		}
	}
}

// A tail that a crash tore is not there; the next segment goes on before it.
func TestTornTailIsDropped(t *testing.T) {
	p := newPlace(t)
	j := p.begin(t)
	write(t, j, "a")
	check(t, j.Point().Sync())
	write(t, j, "torn")
	check(t, j.Abandon())
	path := segmentPath(p.dir, 1)
	data, err := os.ReadFile(path)
	check(t, err)
	for cut := len(data) - 1; cut > len(data)-tagLen-4-recordStartLen; cut-- {
		check(t, os.WriteFile(path, data[:cut], 0o600))
		if got := p.all(t, 0); got != "1-1:a" {
			t.Fatal(got)
		}
	}
	j = p.begin(t)
	write(t, j, "b")
	check(t, j.Close())
	if got := p.all(t, 0); got != "1-1:a 2-2:b" {
		t.Fatal(got)
	}
}

// Stamps that only the tables have, since they reached the disk before the
// journal did, leave a gap that the tables must fill.
func TestJournalGoesOnBehindTheTables(t *testing.T) {
	p := newPlace(t)
	j := p.begin(t)
	write(t, j, "a")
	check(t, j.Close())
	j, err := p.inspect(t).Begin(5, time.Time{})
	check(t, err)
	write(t, j, "b")
	check(t, j.Close())
	if got := p.all(t, 5); got != "6-6:b" {
		t.Fatal(got)
	}
	found := p.inspect(t)
	if found.Covers(4) || !found.Covers(5) {
		t.Fatal("the gap is not seen")
	}
}

func TestOlderJournalIsRolledBack(t *testing.T) {
	p := newPlace(t)
	j := p.begin(t)
	write(t, j, "a")
	check(t, j.Point().Sync())
	older, err := os.ReadFile(segmentPath(p.dir, 1))
	check(t, err)
	write(t, j, "b")
	check(t, j.Close())
	check(t, os.WriteFile(segmentPath(p.dir, 1), older, 0o600))
	found := p.inspect(t)
	if !found.RolledBack || found.Last() != 1 {
		t.Fatal("an older journal passed")
	}
	j, err = found.Begin(1, time.Time{})
	check(t, err)
	write(t, j, "c")
	check(t, j.Close())
	if found := p.inspect(t); found.RolledBack || p.all(t, 0) != "1-1:a 2-2:c" {
		t.Fatal("an accepted one did not go on")
	}

	check(t, os.WriteFile(segmentPath(p.dir, 1), older[:len(older)-1], 0o600))
	if _, err := Inspect(p.dir, p.mark); !errors.Is(err, persistence.ErrDamaged) {
		t.Fatal(err)
	}
}

// A history that forked after a copy was opened is not taken for this one.
func TestForkedJournalIsDamaged(t *testing.T) {
	p := newPlace(t)
	j := p.begin(t)
	write(t, j, "a")
	check(t, j.Close())
	fork := newPlace(t)
	check(t, os.CopyFS(filepath.Dir(fork.mark), os.DirFS(filepath.Dir(p.mark))))
	for q, payload := range map[place]string{p: "here", fork: "there"} {
		j := q.begin(t)
		write(t, j, payload, payload)
		check(t, j.Close())
	}
	theirs, err := os.ReadFile(segmentPath(fork.dir, 2))
	check(t, err)
	check(t, os.WriteFile(segmentPath(p.dir, 2), theirs, 0o600))
	if _, err := Inspect(p.dir, p.mark); !errors.Is(err, persistence.ErrDamaged) {
		t.Fatal(err)
	}
}

// Creation can be cut short after each of its steps.
func TestInterruptedCreation(t *testing.T) {
	whole, _ := header{store: newStoreID(), number: 1, first: 1}.encode()
	for _, n := range []int{0, 1, 8, tagLen, headerLen - 1, headerLen} {
		p := newPlace(t)
		check(t, os.MkdirAll(p.dir, 0o700))
		check(t, os.WriteFile(segmentPath(p.dir, 1), whole[:n], 0o600))
		if !p.inspect(t).Fresh {
			t.Fatalf("%d bytes are not fresh", n)
		}
		j := p.begin(t)
		write(t, j, "a")
		check(t, j.Close())
		// The next segment's creation likewise.
		check(t, os.WriteFile(segmentPath(p.dir, 2), whole[:min(n, headerLen-1)], 0o600))
		j = p.begin(t)
		check(t, j.Close())
		if got := p.all(t, 0); got != "1-1:a" {
			t.Fatal(got)
		}
	}
}

// markV1 is a mark of the format before the one that is written.
var markV1 = func() []byte {
	b := mark{store: [16]byte{1}, generation: 2, first: 3, last: 4, durable: position{5, tag{6}}}.encode()[:slotLen-sumLen-8]
	binary.BigEndian.PutUint32(b[8:], 1)
	binary.BigEndian.PutUint32(b[12:], crc32.Checksum(b[:12], castagnoli))
	sum := sha256.Sum256(b)
	return append(b, sum[:sumLen]...)
}()

// The mark remembers when an older store was accepted, from opening to opening;
// one of format 1 did not, and is read as it is.
func TestPutBack(t *testing.T) {
	m, ok, err := decodeMark(markV1)
	if want := (mark{store: [16]byte{1}, generation: 2, first: 3, last: 4, durable: position{5, tag{6}}}); m != want || !ok || err != nil {
		t.Fatal(m, ok, err)
	}
	p := newPlace(t)
	check(t, p.begin(t).Close())
	if at := p.inspect(t).PutBack(); !at.IsZero() {
		t.Fatal(at)
	}
	at := time.Unix(1_700_000_000, 5)
	found := p.inspect(t)
	j, err := found.Begin(found.Last(), at)
	check(t, err)
	check(t, j.Abandon())
	for range 2 {
		if got := p.inspect(t).PutBack(); !got.Equal(at) {
			t.Fatal(got)
		}
		check(t, p.begin(t).Close())
	}
}

// A mark whose newer slot was torn counts by its older one.
func TestTornMark(t *testing.T) {
	p := newPlace(t)
	j := p.begin(t)
	for _, payload := range []string{"a", "b", "c"} {
		write(t, j, payload)
		check(t, j.Point().Sync())
	}
	slot := int64(j.mark.now.generation%2) * slotGap
	check(t, j.Abandon())
	data, err := os.ReadFile(p.mark)
	check(t, err)
	for i := range slotLen {
		torn := slices.Clone(data)
		torn[slot+int64(i)] ^= 0x10
		check(t, os.WriteFile(p.mark, torn, 0o600))
		if found := p.inspect(t); found.mark.durable.last != 2 || found.Last() != 3 {
			t.Fatalf("byte %d: %+v", i, found.mark)
		}
	}
}

func FuzzParseSegment(f *testing.F) {
	p := newPlace(f)
	j := p.begin(f)
	write(f, j, "a", "", "longer than the others")
	check(f, j.Close())
	data, err := os.ReadFile(segmentPath(p.dir, 1))
	check(f, err)
	f.Add(data)
	f.Add(data[:headerLen])
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parse(data)
		if err != nil {
			return
		}
		if s.end() > int64(len(data)) || len(s.ends) != len(s.places) || s.place().last < s.header.first-1 {
			t.Fatalf("parsed to %d of %d bytes", s.end(), len(data))
		}
	})
}

func FuzzDecodeMark(f *testing.F) {
	f.Add(mark{store: [16]byte{1}, generation: 2, first: 3, last: 4, durable: position{5, tag{6}}, putBack: 7}.encode())
	f.Add(markV1)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, ok, err := decodeMark(data)
		if !ok {
			return
		}
		if again, _, _ := decodeMark(m.encode()); err != nil || again != m {
			t.Fatal(m, again, err)
		}
	})
}
