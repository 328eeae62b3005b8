package gateway

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
)

// A table is where a test's requests take their turns. Each works until it is
// told to end.
type table struct {
	t     *testing.T
	turns turns
	began chan string // whose requests began to work, in order
	ends  map[string]chan chan struct{}
}

// ask makes a request that waits for its turn, if it has to.
func (b *table) ask(ctx context.Context, c *caller, name string) <-chan error {
	answer := make(chan error, 1)
	if b.ends[name] == nil {
		b.ends[name] = make(chan chan struct{})
	}
	end := b.ends[name]
	go func() {
		if err := b.turns.take(ctx, c); err != nil {
			answer <- err
			return
		}
		b.began <- name
		ended := <-end
		b.turns.give(c)
		close(ended)
		answer <- nil
	}()
	synctest.Wait()
	return answer
}

// end ends a request of a caller that is at work.
func (b *table) end(name string) {
	ended := make(chan struct{})
	b.ends[name] <- ended
	<-ended
	synctest.Wait()
}

func (b *table) want(began ...string) {
	b.t.Helper()
	var got []string
	for len(b.began) > 0 {
		got = append(got, <-b.began)
	}
	if !slices.Equal(got, began) {
		b.t.Errorf("at work came %v, want %v", got, began)
	}
}

func atTable(t *testing.T, turns, most int, test func(*table)) {
	synctest.Test(t, func(t *testing.T) {
		b := &table{t: t, began: make(chan string, 100), ends: map[string]chan chan struct{}{}}
		b.turns.size, b.turns.most, b.turns.latest = turns, most, new(caller) // nobody is alone
		test(b)
		if len(b.turns.round) > 0 || b.turns.all != 0 {
			t.Errorf("in the end %d callers wait, and %d are at work", len(b.turns.round), b.turns.all)
		}
	})
}

// What one caller sends waits for its own: another begins at once when it has
// nothing at work, and after that has every second turn, however many requests of
// the first were there before.
func TestTurnsGoRound(t *testing.T) {
	atTable(t, 4, 4, func(b *table) {
		flooder, bob := new(caller), new(caller)
		for range 8 {
			b.ask(b.t.Context(), flooder, "flooder")
		}
		b.want("flooder", "flooder", "flooder", "flooder")
		for range 4 {
			b.ask(b.t.Context(), bob, "bob")
		}
		b.want("bob") // the fifth where four should work
		b.end("flooder")
		b.want()
		for range 4 {
			b.end("flooder")
		}
		b.want("flooder", "bob", "flooder", "bob")
		// Now three of bob's work, and the flooder still has its one.
		b.end("flooder")
		b.end("flooder")
		b.want("flooder", "flooder")
		b.end("bob")
		b.want("bob")
		b.end("flooder")
		for range 3 {
			b.end("bob")
		}
		b.want()
	})
}

// However many turns are free, one caller has some of them only, so that another
// finds one. Whoever is next and may have one is not held up by who may not.
func TestTurnsOfOneCaller(t *testing.T) {
	atTable(t, 4, 2, func(b *table) {
		flooder, bob, carol := new(caller), new(caller), new(caller)
		for range 4 {
			b.ask(b.t.Context(), flooder, "flooder")
		}
		b.want("flooder", "flooder")
		b.ask(b.t.Context(), bob, "bob")
		b.ask(b.t.Context(), carol, "carol")
		b.want("bob", "carol")
		b.ask(b.t.Context(), bob, "bob")
		b.want()
		b.end("carol")
		b.want("bob") // behind the flooder, which has its two
		b.end("flooder")
		b.want("flooder")
		b.end("bob")
		b.want()
		for range 3 {
			b.end("flooder")
		}
		b.want("flooder")
		b.end("bob")
	})
}

// Who is alone waits for no turn; when another comes, it is back to what it should
// have before anything more of it begins.
func TestTurnsOfOneAlone(t *testing.T) {
	atTable(t, 1, 1, func(b *table) {
		flooder, bob := new(caller), new(caller)
		b.ask(b.t.Context(), flooder, "flooder")
		b.ask(b.t.Context(), flooder, "flooder")
		b.want("flooder") // there was another a moment ago
		<-time.After(2 * alone)
		b.ask(b.t.Context(), flooder, "flooder")
		b.want("flooder", "flooder") // the one that waited too
		b.ask(b.t.Context(), bob, "bob")
		b.ask(b.t.Context(), flooder, "flooder")
		b.want("bob")
		b.end("bob")
		b.end("flooder")
		b.end("flooder")
		b.want()
		b.end("flooder")
		b.want("flooder")
		b.end("flooder")
	})
}

// A caller with one thing to ask at a time never waits, though all turns are
// taken by what never ends.
func TestTurnsCannotBeHeldFromOthers(t *testing.T) {
	atTable(t, 2, 2, func(b *table) {
		stuck := []*caller{new(caller), new(caller), new(caller)}
		for i, c := range stuck {
			for range 3 {
				b.ask(b.t.Context(), c, fmt.Sprint("stuck ", i))
			}
		}
		b.want("stuck 0", "stuck 0", "stuck 1", "stuck 2")
		regular := new(caller)
		for range 10 {
			b.ask(b.t.Context(), regular, "regular")
			b.want("regular")
			b.end("regular")
		}
		for i := range stuck {
			for range 3 {
				b.end(fmt.Sprint("stuck ", i))
			}
		}
	})
}

// Who no longer waits is passed over, and keeps no turn.
func TestTurnsOfThoseThatLeft(t *testing.T) {
	atTable(t, 1, 1, func(b *table) {
		c := new(caller)
		b.ask(b.t.Context(), c, "c")
		b.want("c")
		ctx, cancel := context.WithCancel(b.t.Context())
		first, second := b.ask(ctx, c, "first"), b.ask(b.t.Context(), c, "second")
		cancel()
		if err := <-first; connect.CodeOf(err) != connect.CodeCanceled {
			t.Errorf("err = %v", err)
		}
		b.end("c")
		b.want("second")
		b.end("second")
		if err := <-second; err != nil {
			t.Error(err)
		}

		// The turn may come while its request leaves.
		b.ask(b.t.Context(), c, "c")
		ctx, cancel = context.WithCancel(b.t.Context())
		defer cancel()
		third := b.ask(ctx, c, "third")
		b.want("c")
		ended := make(chan struct{})
		b.ends["c"] <- ended
		cancel()
		<-ended
		synctest.Wait()
		if len(b.began) > 0 {
			b.end("third")
		}
		<-third
	})
}

// Who is not alone, since another's requests still wait, has no more than its part.
func TestTurnsOfOneNotAlone(t *testing.T) {
	atTable(t, 2, 1, func(b *table) {
		flooder, bob := new(caller), new(caller)
		for range 4 {
			b.ask(b.t.Context(), bob, "bob")
		}
		b.want("bob") // it takes long; three wait
		b.ask(b.t.Context(), flooder, "flooder")
		b.want("flooder")
		<-time.After(2 * alone)
		for range 4 {
			b.ask(b.t.Context(), flooder, "flooder")
		}
		b.want() // a half of two
		for b.turns.all > 0 || len(b.turns.round) > 0 {
			if flooder.line.working > 0 {
				b.end("flooder")
			}
			if bob.line.working > 0 {
				b.end("bob")
			}
		}
		for len(b.began) > 0 {
			<-b.began
		}
	})
}
