// Package persistencetest checks that an adapter of the store port keeps the
// port's contract. Every test is one sentence of it.
package persistencetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/conclave-chat/conclave/persistence"
)

// An Adapter is what is tested. A dir is a fresh directory of the test's, which
// an adapter without files uses as a name.
type Adapter struct {
	// Open opens the store in dir, and makes it where there is none.
	Open func(t *testing.T, dir string) persistence.Store
	// Crash ends the store without Close and returns the directory that a
	// restart would find.
	Crash func(t *testing.T, store persistence.Store, dir string) string
}

// Run checks the whole contract.
func Run(t *testing.T, a Adapter) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Adapter)
	}{
		{"rows survive close and open", survive},
		{"a batch applies its changes in order", order},
		{"a batch is whole or absent over a crash", whole},
		{"a crash leaves a prefix that holds every durable batch", prefix},
		{"sync makes lazy batches durable", syncs},
		{"an error leaves nothing of its batch", failing},
		{"PutAbsent makes a value at most once", absentOnce},
		{"PutAbsent sees the changes before it", absentOrder},
		{"concurrent writers of one absent row agree", absentRace},
		{"a view is one snapshot", isolation},
		{"a view may write", viewWrites},
		{"scans run in key order inside prefix and bound", scans},
		{"scans stop when told", scanStops},
		{"limits are the port's", limits},
		{"large values and batches fit", large},
		{"a batch that ends before it is taken up is not applied", contexts},
		{"a closed store says so", closed},
		{"closing lets writers finish or refuses them", closeRace},
		{"a model and the store agree", model},
		{"concurrent use", concurrent},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, a) })
	}
}

type store struct {
	*testing.T
	persistence.Store
	a   Adapter
	dir string
}

func start(t *testing.T, a Adapter) *store {
	s := &store{T: t, a: a, dir: t.TempDir()}
	s.Store = a.Open(t, s.dir)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func (s *store) check(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *store) crash() {
	s.Helper()
	s.dir = s.a.Crash(s.T, s.Store, s.dir)
	s.Store = s.a.Open(s.T, s.dir)
}

func (s *store) reopen() {
	s.Helper()
	s.check(s.Close())
	s.Store = s.a.Open(s.T, s.dir)
}

func (s *store) apply(d persistence.Durability, ops ...persistence.Op) {
	s.Helper()
	s.check(s.Apply(s.Context(), &persistence.Batch{Ops: ops}, d))
}

func put(key, value string) persistence.Op {
	return persistence.Op{Kind: persistence.Put, Key: []byte(key), Value: []byte(value)}
}

func del(key string) persistence.Op {
	return persistence.Op{Kind: persistence.Delete, Key: []byte(key)}
}

func absent(key, value string) persistence.Op {
	return persistence.Op{Kind: persistence.PutAbsent, Key: []byte(key), Make: func() ([]byte, error) { return []byte(value), nil }}
}

// dump returns every row as "key=value", in order.
func (s *store) dump() string {
	s.Helper()
	var rows []string
	s.check(s.View(s.Context(), func(r persistence.Reader) error {
		return r.Scan(nil, nil, func(key, value []byte) bool {
			rows = append(rows, string(key)+"="+string(value))
			return true
		})
	}))
	return strings.Join(rows, " ")
}

func (s *store) holds(want string) {
	s.Helper()
	if got := s.dump(); got != want {
		s.Fatalf("the store holds %.200q, want %.200q", got, want)
	}
}

func (s *store) wants(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Fatalf("got %v, want %v", err, want)
	}
}

func survive(t *testing.T, a Adapter) {
	s := start(t, a)
	s.holds("")
	s.apply(persistence.Lazy, put("a", "1"), put("b", ""))
	s.holds("a=1 b=")
	s.reopen()
	s.holds("a=1 b=")
	s.apply(persistence.Durable, del("a"), put("b", "2"), del("nothing"))
	s.reopen()
	s.reopen()
	s.holds("b=2")
}

func order(t *testing.T, a Adapter) {
	s := start(t, a)
	s.apply(persistence.Lazy, put("a", "1"), del("a"), put("b", "1"), put("b", "2"), del("c"), put("c", "3"))
	s.holds("b=2 c=3")
	s.apply(persistence.Lazy)
	s.apply(persistence.Durable)
	s.holds("b=2 c=3")
}

func whole(t *testing.T, a Adapter) {
	s := start(t, a)
	const rows = 300
	batch := func(value string) (ops []persistence.Op) {
		for i := range rows {
			ops = append(ops, put(fmt.Sprintf("%03d", i), value))
		}
		return ops
	}
	s.apply(persistence.Durable, batch("old")...)
	s.apply(persistence.Lazy, batch("new")...)
	s.crash()
	if got := s.dump(); strings.Count(got, "=old") != rows && strings.Count(got, "=new") != rows {
		t.Fatalf("a part of a batch survived: %.200q", got)
	}
}

func prefix(t *testing.T, a Adapter) {
	s := start(t, a)
	applied, durable := 0, 0
	for round := range 5 {
		for range 20 {
			s.apply(persistence.Lazy, put("at", fmt.Sprint(applied)), put(fmt.Sprintf("%04d", applied), ""))
			applied++
		}
		if round < 4 {
			s.apply(persistence.Durable, put("at", fmt.Sprint(applied)), put(fmt.Sprintf("%04d", applied), ""))
			applied++
			durable = applied
		}
		s.crash()
		survived := 0
		s.check(s.View(t.Context(), func(r persistence.Reader) error {
			for i := range applied {
				if _, err := r.Get(fmt.Appendf(nil, "%04d", i)); err != nil {
					break
				}
				survived++
			}
			at, err := r.Get([]byte("at"))
			if string(at) != fmt.Sprint(survived-1) {
				t.Errorf("%d batches survived in a row, and the last says %s", survived, at)
			}
			return err
		}))
		if survived < durable {
			t.Fatalf("%d of %d durable batches survived", survived, durable)
		}
		applied = survived
	}
}

func syncs(t *testing.T, a Adapter) {
	s := start(t, a)
	s.apply(persistence.Lazy, put("a", "1"))
	s.check(s.Sync(t.Context()))
	s.crash()
	s.holds("a=1")
}

func failing(t *testing.T, a Adapter) {
	s := start(t, a)
	s.apply(persistence.Durable, put("a", "1"))
	reason := errors.New("reason")
	for _, fail := range []func() ([]byte, error){
		func() ([]byte, error) { return nil, reason },
		func() ([]byte, error) { panic(reason) },
		func() ([]byte, error) { return make([]byte, persistence.MaxValue+1), nil },
	} {
		err := s.Apply(t.Context(), &persistence.Batch{Ops: []persistence.Op{
			put("a", "2"), absent("b", "2"),
			{Kind: persistence.PutAbsent, Key: []byte("c"), Make: fail},
			put("d", "2"),
		}}, persistence.Durable)
		if err == nil {
			t.Fatal("a failed maker did not fail its batch")
		}
		s.holds("a=1")
	}
	err := s.Apply(t.Context(), &persistence.Batch{Ops: []persistence.Op{
		{Kind: persistence.PutAbsent, Key: []byte("c"), Make: func() ([]byte, error) { return nil, reason }}}}, persistence.Lazy)
	s.wants(err, reason)
	s.apply(persistence.Lazy, absent("b", "3"))
	s.crash()
	if got := s.dump(); got != "a=1" && got != "a=1 b=3" {
		t.Fatalf("the store holds %q", got)
	}
}

func absentOnce(t *testing.T, a Adapter) {
	s := start(t, a)
	calls := 0
	once := persistence.Op{Kind: persistence.PutAbsent, Key: []byte("k"), Make: func() ([]byte, error) {
		calls++
		return fmt.Appendf(nil, "%d", calls), nil
	}}
	s.apply(persistence.Lazy, once, once)
	s.apply(persistence.Durable, once)
	s.holds("k=1")
	s.reopen()
	s.apply(persistence.Lazy, once)
	s.holds("k=1")
	if calls != 1 {
		t.Fatalf("the maker was called %d times", calls)
	}
}

func absentOrder(t *testing.T, a Adapter) {
	s := start(t, a)
	s.apply(persistence.Lazy, put("a", "1"), absent("a", "2"), put("b", "1"), del("b"), absent("b", "2"))
	s.holds("a=1 b=2")
	s.apply(persistence.Lazy, absent("b", "3"), del("b"), absent("b", "4"), del("a"))
	s.holds("b=4")
	s.apply(persistence.Lazy, absent("a", "5"), del("b"))
	s.apply(persistence.Lazy, absent("a", "6"), absent("b", "6"))
	s.holds("a=5 b=6")
}

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

func scans(t *testing.T, a Adapter) {
	s := start(t, a)
	keys := []string{"\x00", "a", "a\x00", "ab", "abc", "a\xff", "a\xff\xff", "b", "b1", "\xff", "\xff\xff"}
	for _, key := range keys {
		s.apply(persistence.Lazy, put(key, "of "+key))
	}
	sort.Strings(keys)
	bounds := append(slices.Clone(keys), "<nil>", "", "aa", "c", "a\xff\xff\xff", strings.Repeat("\xff", 600))
	for _, prefix := range append(slices.Clone(keys), "", "c") {
		for _, bound := range bounds {
			var at []byte
			if bound != "<nil>" {
				at = []byte(bound)
			}
			var forward, back []string
			for _, key := range keys {
				if strings.HasPrefix(key, prefix) && (at == nil || key >= bound) {
					forward = append(forward, key)
				}
				if strings.HasPrefix(key, prefix) && (at == nil || key < bound) {
					back = append(back, key)
				}
			}
			slices.Reverse(back)
			s.check(s.View(t.Context(), func(r persistence.Reader) error {
				var got []string
				collect := func(key, value []byte) bool {
					got = append(got, string(key))
					if string(value) != "of "+string(key) {
						t.Errorf("%q holds %q", key, value)
					}
					return true
				}
				s.check(r.Scan([]byte(prefix), at, collect))
				if !slices.Equal(got, forward) {
					t.Errorf("scan of %q from %q: %q, want %q", prefix, bound, got, forward)
				}
				got = nil
				s.check(r.ScanBack([]byte(prefix), at, collect))
				if !slices.Equal(got, back) {
					t.Errorf("scan back of %q before %q: %q, want %q", prefix, bound, got, back)
				}
				return nil
			}))
		}
	}
}

func scanStops(t *testing.T, a Adapter) {
	s := start(t, a)
	for i := range 9 {
		s.apply(persistence.Lazy, put(fmt.Sprint(i), fmt.Sprint(i)))
	}
	s.check(s.View(t.Context(), func(r persistence.Reader) error {
		var kept [][]byte
		keep := func(key, value []byte) bool {
			kept = append(kept, key, value)
			return len(kept) < 6
		}
		s.check(r.Scan(nil, nil, keep))
		s.check(r.ScanBack(nil, nil, func(key, value []byte) bool {
			kept = append(kept, key, value)
			return len(kept) < 12
		}))
		// Slices last as long as the view.
		if got := string(bytes.Join(kept, nil)); got != "001122887766" {
			t.Errorf("got %s", got)
		}
		return nil
	}))
}

func limits(t *testing.T, a Adapter) {
	s := start(t, a)
	longest := strings.Repeat("k", persistence.MaxKey)
	s.apply(persistence.Lazy, put(longest, "1"))
	for _, op := range []persistence.Op{
		put("", "1"), put(longest+"k", "1"), del(""), absent(longest+"k", ""),
		put("a", string(make([]byte, persistence.MaxValue+1))),
	} {
		s.wants(s.Apply(t.Context(), &persistence.Batch{Ops: []persistence.Op{put("b", "1"), op}}, persistence.Lazy), persistence.ErrLimit)
	}
	value := string(make([]byte, persistence.MaxValue))
	many := []persistence.Op{put("1", value), put("2", value), put("3", value), put("4", value)}
	s.wants(s.Apply(t.Context(), &persistence.Batch{Ops: many}, persistence.Lazy), persistence.ErrLimit)
	s.holds(longest + "=1")
	s.check(s.View(t.Context(), func(r persistence.Reader) error {
		for _, key := range []string{"", longest + "k"} {
			_, err := r.Get([]byte(key))
			s.wants(err, persistence.ErrNotFound)
		}
		return nil
	}))
}

func large(t *testing.T, a Adapter) {
	s := start(t, a)
	random := rand.NewChaCha8([32]byte{1})
	value := func(n int) string {
		b := make([]byte, n)
		random.Read(b)
		return string(b)
	}
	want := map[string]string{}
	var many []persistence.Op
	for i := range 20000 {
		many = append(many, put(fmt.Sprintf("many%05d", i), "x"))
		want[fmt.Sprintf("many%05d", i)] = "x"
	}
	check := func() {
		t.Helper()
		s.check(s.View(t.Context(), func(r persistence.Reader) error {
			rows := 0
			err := r.Scan(nil, nil, func(key, value []byte) bool {
				rows++
				if want[string(key)] != string(value) {
					t.Fatalf("%s is not what was written", key)
				}
				return true
			})
			if rows != len(want) {
				t.Fatalf("%d rows, want %d", rows, len(want))
			}
			return err
		}))
	}
	s.apply(persistence.Lazy, many...)
	for _, size := range []int{persistence.MaxValue, 1 << 20, 3<<18 + 1, 10, 1 << 18, 1<<18 + 1, 0, persistence.MaxValue} {
		want["a"], want["b"] = value(size), value(size/2)
		s.apply(persistence.Lazy, put("a", want["a"]), put("b", "first"), put("b", want["b"]))
		check()
	}
	s.reopen()
	check()
	delete(want, "b")
	s.apply(persistence.Durable, del("b"))
	s.crash()
	check()
	want["b"] = ""
	s.apply(persistence.Durable, put("b", ""))
	s.crash()
	check()
}

func contexts(t *testing.T, a Adapter) {
	s := start(t, a)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.wants(s.Apply(ctx, &persistence.Batch{Ops: []persistence.Op{put("a", "1")}}, persistence.Lazy), context.Canceled)
	s.wants(s.Sync(ctx), context.Canceled)
	s.wants(s.View(ctx, func(persistence.Reader) error { return nil }), context.Canceled)
	s.holds("")
}

func closed(t *testing.T, a Adapter) {
	s := start(t, a)
	s.apply(persistence.Lazy, put("a", "1"))
	for range 2 {
		s.check(s.Close())
	}
	s.wants(s.Apply(t.Context(), &persistence.Batch{Ops: []persistence.Op{put("a", "2")}}, persistence.Lazy), persistence.ErrClosed)
	s.wants(s.Sync(t.Context()), persistence.ErrClosed)
	s.wants(s.View(t.Context(), func(persistence.Reader) error { return nil }), persistence.ErrClosed)
	s.Store = a.Open(t, s.dir)
	s.holds("a=1")
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
