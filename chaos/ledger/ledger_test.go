package ledger_test

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/chaos/ledger"
)

func open(t *testing.T, path string) *ledger.Writer {
	t.Helper()
	w, err := ledger.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func read(t *testing.T, path string) []ledger.Entry {
	t.Helper()
	entries, err := ledger.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// What was appended is read back, entry by entry, also by a reader beside the
// writer: Append returns when it is there.
func TestAppendedIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	w := open(t, path)
	want := []ledger.Entry{
		{Event: ledger.Tried, Life: 1, Person: 3, Group: "aa", Token: "one"},
		{Event: ledger.Received, Life: 1, Person: 2, Group: "aa", ID: "bb", Position: 7, At: time.Unix(5, 6).UTC()},
	}
	for _, e := range want {
		if err := w.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, path); !slices.Equal(got, want) {
		t.Errorf("read %+v, want %+v", got, want)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestConcurrentAppends(t *testing.T) {
	const writers, each = 8, 50
	path := filepath.Join(t.TempDir(), "ledger")
	w := open(t, path)
	var wg sync.WaitGroup
	for n := range writers {
		wg.Go(func() {
			for i := range each {
				if err := w.Append(ledger.Entry{Event: ledger.Tried, Person: n, Life: i}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	next := make([]int, writers)
	for _, e := range read(t, path) {
		if e.Life != next[e.Person] {
			t.Fatalf("writer %d: entry %d, want %d", e.Person, e.Life, next[e.Person])
		}
		next[e.Person]++
	}
	for n, got := range next {
		if got != each {
			t.Errorf("writer %d: %d entries", n, got)
		}
	}
}

// A line that a crash cut is no entry, and the next process writes in its place.
func TestCutLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	w := open(t, path)
	if err := w.Append(ledger.Entry{Event: ledger.Tried, Token: "whole"}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"event":"tri`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if got := read(t, path); len(got) != 1 {
		t.Fatalf("%d entries of a ledger with one and a half", len(got))
	}
	w = open(t, path)
	if err := w.Append(ledger.Entry{Event: ledger.Tried, Token: "after"}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if got := read(t, path); len(got) != 2 || got[1].Token != "after" {
		t.Errorf("after the cut: %+v", got)
	}
	if err := os.WriteFile(path, []byte("junk\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Read(path); err == nil {
		t.Error("junk was read as a ledger")
	}
}
