package persistencetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/conclave-chat/conclave/persistence"
)

func absentRace(t *testing.T, a Adapter) {
	s := start(t, a)
	const writers, keys = 32, 50
	var made [keys]atomic.Int32
	var wait sync.WaitGroup
	for w := range writers {
		wait.Go(func() {
			for k := range keys {
				var b persistence.Batch
				b.PutAbsent(fmt.Appendf(nil, "shared%02d", k), func() ([]byte, error) {
					made[k].Add(1)
					return fmt.Appendf(nil, "%d", w), nil
				})
				b.Put(fmt.Appendf(nil, "own%02d.%02d", w, k), nil)
				if err := s.Apply(t.Context(), &b, persistence.Lazy); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	for k := range keys {
		if n := made[k].Load(); n != 1 {
			t.Errorf("key %d was made %d times", k, n)
		}
	}
	if got := strings.Count(s.dump(), "="); got != keys+keys*writers {
		t.Errorf("%d rows", got)
	}
}

func isolation(t *testing.T, a Adapter) {
	s := start(t, a)
	s.apply(persistence.Lazy, put("a", "1"), put("b", "1"))
	s.check(s.View(t.Context(), func(r persistence.Reader) error {
		for i := range 200 {
			s.apply(persistence.Lazy, put("a", fmt.Sprint(i)), put(fmt.Sprint("c", i), ""), del("b"))
		}
		for _, key := range []string{"a", "b"} {
			value, err := r.Get([]byte(key))
			s.check(err)
			if string(value) != "1" {
				t.Errorf("%s changed to %q inside the view", key, value)
			}
		}
		rows := 0
		err := r.Scan(nil, nil, func(_, _ []byte) bool { rows++; return true })
		if rows != 2 {
			t.Errorf("the view grew to %d rows", rows)
		}
		_, gone := r.Get([]byte("c1"))
		s.wants(gone, persistence.ErrNotFound)
		return err
	}))
	failed := errors.New("failed")
	s.wants(s.View(t.Context(), func(persistence.Reader) error { return failed }), failed)
}

func viewWrites(t *testing.T, a Adapter) {
	s := start(t, a)
	s.check(s.View(t.Context(), func(persistence.Reader) error {
		s.apply(persistence.Durable, put("a", "1"))
		return s.View(t.Context(), func(r persistence.Reader) error {
			_, err := r.Get([]byte("a"))
			return err
		})
	}))
}

func closeRace(t *testing.T, a Adapter) {
	s := start(t, a)
	const writers = 8
	var written [writers]int
	var wait sync.WaitGroup
	under := make(chan struct{}, writers)
	for w := range writers {
		wait.Go(func() {
			for {
				b := persistence.Batch{Ops: []persistence.Op{put(fmt.Sprintf("%d.%d", w, written[w]), "")}}
				switch err := s.Apply(t.Context(), &b, persistence.Durability(w%2)); {
				case errors.Is(err, persistence.ErrClosed):
					return
				case err != nil:
					t.Error(err)
					return
				}
				if written[w]++; written[w] == 10 {
					under <- struct{}{}
				}
			}
		})
	}
	for range writers {
		<-under
	}
	s.check(s.Close())
	wait.Wait()
	s.Store = a.Open(t, s.dir)
	s.check(s.View(t.Context(), func(r persistence.Reader) error {
		for w, n := range written {
			rows := 0
			s.check(r.Scan(fmt.Appendf(nil, "%d.", w), nil, func(_, _ []byte) bool { rows++; return true }))
			if rows != n {
				t.Errorf("writer %d: %d rows of %d", w, rows, n)
			}
		}
		return nil
	}))
}

func absentLarge(t *testing.T, a Adapter) {
	s := start(t, a)
	const writers, size = 12, 400 << 10
	var wait sync.WaitGroup
	for w := range writers {
		wait.Go(func() {
			var b persistence.Batch
			for range 2 {
				b.PutAbsent(fmt.Appendf(nil, "%02d", w), func() ([]byte, error) { return make([]byte, size), nil })
			}
			b.PutAbsent([]byte("shared"), func() ([]byte, error) { return nil, nil })
			if err := s.Apply(t.Context(), &b, persistence.Durability(w%2)); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	rows, bytes := 0, 0
	s.check(s.View(t.Context(), func(r persistence.Reader) error {
		return r.Scan(nil, nil, func(_, value []byte) bool {
			rows, bytes = rows+1, bytes+len(value)
			return true
		})
	}))
	if rows != writers+1 || bytes != writers*size {
		t.Fatalf("%d rows of %d bytes", rows, bytes)
	}
	var b persistence.Batch
	for n := range 5 {
		b.PutAbsent(fmt.Appendf(nil, "more %d", n), func() ([]byte, error) { return make([]byte, persistence.MaxValue), nil })
	}
	s.wants(s.Apply(t.Context(), &b, persistence.Lazy), persistence.ErrLimit)
}

// model applies random batches to the store and to a map, with crashes between.
func model(t *testing.T, a Adapter) {
	s := start(t, a)
	random := rand.New(rand.NewPCG(1, 2))
	want := map[string]string{}
	for round := range 300 {
		var b persistence.Batch
		for range random.IntN(8) {
			key, value := fmt.Sprint(random.IntN(30)), fmt.Sprint(round)
			switch random.IntN(4) {
			case 0:
				b.Ops = append(b.Ops, del(key))
				delete(want, key)
			case 1:
				b.Ops = append(b.Ops, absent(key, value))
				if _, ok := want[key]; !ok {
					want[key] = value
				}
			default:
				b.Ops = append(b.Ops, put(key, value))
				want[key] = value
			}
		}
		s.check(s.Apply(t.Context(), &b, persistence.Durability(random.IntN(2))))
		switch random.IntN(40) {
		case 0:
			s.reopen()
		case 1:
			s.check(s.Sync(t.Context()))
			s.crash()
		}
		var rows []string
		for key, value := range want {
			rows = append(rows, key+"="+value)
		}
		sort.Slice(rows, func(i, j int) bool {
			a, _, _ := strings.Cut(rows[i], "=")
			b, _, _ := strings.Cut(rows[j], "=")
			return a < b
		})
		s.holds(strings.Join(rows, " "))
	}
}

func concurrent(t *testing.T, a Adapter) {
	s := start(t, a)
	const writers, rounds = 16, 60
	var wait sync.WaitGroup
	for w := range writers {
		wait.Go(func() {
			for i := range rounds {
				x, y := fmt.Sprintf("x%02d", w), fmt.Sprintf("y%02d", w)
				b := persistence.Batch{Ops: []persistence.Op{put(x, fmt.Sprint(i)), put(y, fmt.Sprint(i))}}
				if err := s.Apply(t.Context(), &b, persistence.Durability(i%7/6)); err != nil {
					t.Error(err)
				}
				err := s.View(t.Context(), func(r persistence.Reader) error {
					a, _ := r.Get([]byte(x))
					b, err := r.Get([]byte(y))
					if string(a) != string(b) || string(a) != fmt.Sprint(i) {
						t.Errorf("own batch %d is seen as %s and %s", i, a, b)
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	s.crash()
	if got := strings.Count(s.dump(), "="); got != 2*writers {
		t.Errorf("%d rows", got)
	}
}
