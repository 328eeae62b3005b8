package memory_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/conclave-chat/conclave/persistence"
	"github.com/conclave-chat/conclave/persistence/memory"
	"github.com/conclave-chat/conclave/persistence/persistencetest"
)

func TestContract(t *testing.T) {
	stores := map[string]*memory.Store{}
	persistencetest.Run(t, persistencetest.Adapter{
		Open: func(_ *testing.T, dir string) persistence.Store {
			if stores[dir] == nil {
				stores[dir] = memory.New()
			}
			stores[dir].Reopen()
			return stores[dir]
		},
		Crash: func(_ *testing.T, _ persistence.Store, dir string) string {
			stores[dir].Crash(nil)
			return dir
		},
	})
}

func put(t *testing.T, s *memory.Store, key string, d persistence.Durability) error {
	t.Helper()
	var b persistence.Batch
	b.Put([]byte(key), nil)
	return s.Apply(t.Context(), &b, d)
}

func rows(t *testing.T, s *memory.Store) (n int) {
	t.Helper()
	err := s.View(t.Context(), func(r persistence.Reader) error {
		return r.Scan(nil, nil, func(_, _ []byte) bool { n++; return true })
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCrashKeepsTheChosenPrefix(t *testing.T) {
	for keep := -1; keep <= 4; keep++ {
		s := memory.New()
		for i, d := range []persistence.Durability{persistence.Durable, persistence.Lazy, persistence.Lazy, persistence.Lazy} {
			if err := put(t, s, fmt.Sprint(i), d); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.Unsynced(); n != 3 {
			t.Fatalf("%d batches are not durable", n)
		}
		s.Crash(func(int) int { return keep })
		if got, want := rows(t, s), 1+min(max(keep, 0), 3); got != want {
			t.Errorf("keep %d: %d rows, want %d", keep, got, want)
		}
	}
}

func TestTheDiskFollowsLazyBatches(t *testing.T) {
	s := memory.New()
	for i := range 3000 {
		if err := put(t, s, fmt.Sprint(i), persistence.Lazy); err != nil {
			t.Fatal(err)
		}
	}
	lost := s.Unsynced()
	s.Crash(nil)
	if got := rows(t, s); lost > 1024 || got != 3000-lost {
		t.Fatalf("%d rows after losing %d", got, lost)
	}
}

// D5, D6: a failed write leaves nothing; a broken store writes no more.
func TestFailNext(t *testing.T) {
	s := memory.New()
	s.FailNext(persistence.ErrFull)
	if err := put(t, s, "a", persistence.Durable); !errors.Is(err, persistence.ErrFull) || rows(t, s) != 0 {
		t.Fatal(err)
	}
	if err := put(t, s, "a", persistence.Durable); err != nil {
		t.Fatal(err)
	}
	s.FailNext(fmt.Errorf("%w: no disk", persistence.ErrBroken))
	for range 2 {
		if err := put(t, s, "b", persistence.Lazy); !errors.Is(err, persistence.ErrBroken) {
			t.Fatal(err)
		}
	}
	if err := s.Sync(t.Context()); !errors.Is(err, persistence.ErrBroken) {
		t.Fatal(err)
	}
	s.Crash(nil)
	if err := put(t, s, "b", persistence.Lazy); err != nil || rows(t, s) != 2 {
		t.Fatal(err)
	}
}
