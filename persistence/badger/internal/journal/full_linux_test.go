package journal

import (
	"errors"
	"os"
	"testing"

	"github.com/conclave-chat/conclave/persistence"
)

// D5: the system's own word for a full disk. The journal is as before, and
// goes on when there is space again.
func TestFullDisk(t *testing.T) {
	p := newPlace(t)
	j := p.begin(t)
	write(t, j, "a")
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	check(t, err)
	file, before := j.file, *j
	j.file = full
	_, err = j.Append(append(make([]byte, Room), "b"...), 1)
	if !errors.Is(err, persistence.ErrFull) || j.place != before.place || j.size != before.size {
		t.Fatal(err)
	}
	check(t, full.Close())
	j.file = file
	write(t, j, "c")
	check(t, j.Close())
	if got := p.all(t, 0); got != "1-1:a 2-2:c" {
		t.Fatal(got)
	}
}
