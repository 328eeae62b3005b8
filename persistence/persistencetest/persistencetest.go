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
		{"large values may be made late", absentLarge},
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
