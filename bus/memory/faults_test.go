package memory_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/bustest"
	"github.com/conclave-chat/conclave/bus/memory"
)

// A script says which faults happen: the number of the chances that each has left.
type script map[memory.Fault]int

func (s script) hit(f memory.Fault) bool {
	s[f]--
	return s[f] >= 0
}

func texts(got []bus.Envelope) string {
	var all []string
	for _, e := range got {
		all = append(all, string(e.Payload))
	}
	return strings.Join(all, " ")
}

// pair is the two topics of a group.
func pair(t *testing.T) (commits, messages bus.Topic) {
	t.Helper()
	commits, err := bus.CommitsOf(topic(t, 1).ID())
	if err != nil {
		t.Fatal(err)
	}
	return commits, topic(t, 1)
}

// Each fault does what it says, once, and nothing else.
func TestFaults(t *testing.T) {
	c, m := pair(t)
	ctx := t.Context()
	begin := func(s script, cfg memory.Config) *memory.Bus {
		cfg.Faults.Hit = s.hit
		b := memory.New(cfg)
		t.Cleanup(func() { b.Close() })
		return b
	}
	publish := func(t *testing.T, b *memory.Bus, topic bus.Topic, text string, opts ...bus.PublishOption) bus.Ack {
		t.Helper()
		ack, err := b.Publish(ctx, topic, []byte(text), opts...)
		if err != nil {
			t.Fatal(err)
		}
		return ack
	}
	unanswered := func(t *testing.T, b *memory.Bus, text string, opts ...bus.PublishOption) {
		t.Helper()
		if _, err := b.Publish(ctx, c, []byte(text), opts...); !errors.Is(err, bus.ErrUnavailable) {
			t.Fatalf("publish %q: %v", text, err)
		}
	}
	holds := func(t *testing.T, b *memory.Bus, want string) {
		t.Helper()
		if got, err := b.Read(ctx, 0, 100, c, m); err != nil || texts(got) != want {
			t.Fatalf("the log holds %q, %v; want %q", texts(got), err, want)
		}
	}
	follow := func(t *testing.T, b *memory.Bus) bus.Feed {
		t.Helper()
		f, err := b.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Follow(ctx, 0, c, m); err != nil {
			t.Fatal(err)
		}
		return f
	}
	brings := func(t *testing.T, f bus.Feed, want string) {
		t.Helper()
		if got, err := f.Next(ctx); err != nil || texts(got) != want {
			t.Fatalf("the feed brings %q, %v; want %q", texts(got), err, want)
		}
	}

	t.Run("between", func(t *testing.T) {
		var b *memory.Bus
		b = begin(script{memory.Between: 1}, memory.Config{Faults: memory.Faults{Meanwhile: func() {
			publish(t, b, c, "commit") // below what Read finds next
			publish(t, b, m, "message")
		}}})
		holds(t, b, "")
		holds(t, b, "commit message")
	})
	t.Run("between the topics of a last", func(t *testing.T) {
		var b *memory.Bus
		b = begin(script{memory.Between: 1}, memory.Config{Faults: memory.Faults{Meanwhile: func() {
			publish(t, b, c, "commit")
			publish(t, b, m, "message")
		}}})
		last, err := b.Last(ctx, c, m)
		if err != nil || last[0] != 0 || last[1].Sequence() != 2 {
			t.Fatalf("last: %d, %v", last, err)
		}
	})
	t.Run("unreachable", func(t *testing.T) {
		b := begin(script{memory.Unreachable: 1}, memory.Config{})
		unanswered(t, b, "lost")
		holds(t, b, "")
	})
	t.Run("unanswered", func(t *testing.T) {
		b := begin(script{memory.Unanswered: 1}, memory.Config{})
		unanswered(t, b, "stored")
		holds(t, b, "stored")
	})
	t.Run("late", func(t *testing.T) {
		b := begin(script{memory.Late: 3}, memory.Config{})
		unanswered(t, b, "first")
		holds(t, b, "")
		publish(t, b, m, "second") // Hit said yes for the third time
		holds(t, b, "second first")
	})
	t.Run("late, and its condition does not hold any more", func(t *testing.T) {
		b := begin(script{memory.Late: 2}, memory.Config{})
		unanswered(t, b, "late", bus.ExpectLast(0))
		publish(t, b, c, "winner", bus.ExpectLast(0))
		holds(t, b, "winner")
	})
	t.Run("again", func(t *testing.T) {
		b := begin(script{memory.Again: 1}, memory.Config{})
		publish(t, b, c, "x")
		if again := publish(t, b, c, "x"); again.Duplicate {
			t.Error("known as a repeat")
		}
		holds(t, b, "x x")
		if again := publish(t, b, c, "x"); !again.Duplicate {
			t.Error("not known as a repeat")
		}
	})
	t.Run("lag", func(t *testing.T) {
		var b *memory.Bus
		b = begin(script{memory.Lag: 1}, memory.Config{Faults: memory.Faults{Meanwhile: func() { publish(t, b, c, "2") }}})
		f := follow(t, b)
		publish(t, b, m, "1")
		brings(t, f, "1 2")
	})
	t.Run("stale", func(t *testing.T) {
		s := script{}
		b := begin(s, memory.Config{})
		f := follow(t, b)
		first := publish(t, b, m, "1").ID
		publish(t, b, m, "2")
		s[memory.Stale] = 1
		if err := f.Follow(ctx, first, m); err != nil {
			t.Fatal(err)
		}
		brings(t, f, "1 2")
		brings(t, f, "2")
		publish(t, b, c, "3")
		s[memory.Stale] = 1
		b.Rewind(0, first)
		brings(t, f, "3")
		if _, err := f.Next(ctx); !errors.Is(err, bus.ErrLogRolledBack) {
			t.Errorf("then: %v", err)
		}
	})
	t.Run("hole", func(t *testing.T) {
		b := begin(script{memory.Hole: 1}, memory.Config{Holes: true})
		if b.Info().Gapless {
			t.Error("said to be gapless")
		}
		f := follow(t, b)
		publish(t, b, m, "1")
		publish(t, b, c, "2")
		brings(t, f, "2")
		holds(t, b, "1 2")
	})
	t.Run("no hole where none is allowed", func(t *testing.T) {
		b := begin(script{memory.Hole: 1}, memory.Config{})
		f := follow(t, b)
		publish(t, b, m, "1")
		brings(t, f, "1")
	})
	t.Run("lost", func(t *testing.T) {
		b := begin(script{}, memory.Config{})
		publish(t, b, c, "1")
		if _, lost := b.Lost(m); lost || b.Info().Losses > 0 {
			t.Error("a loss is told of before there is one")
		}
		b.Lose(publish(t, b, m, "2").ID)
		if after, lost := b.Lost(m); !lost || after.Sequence() != 1 || b.Info().Losses != 1 {
			t.Errorf("what is lost is said to be behind %d, %v, %d times", after.Sequence(), lost, b.Info().Losses)
		}
		publish(t, b, m, "3")
		holds(t, b, "1 3")
		if end, err := b.End(ctx, c); err != nil || end.Sequence() != 3 {
			t.Errorf("the log ends at %d, %v", end, err)
		}
	})
}

// With the same dice the same calls give the same log, the same feed and the same
// errors; other dice give others.
func TestSameSeedGivesTheSameFaults(t *testing.T) {
	synctest.Test(t, sameSeed)
}

func sameSeed(t *testing.T) {
	run := func(seed uint64) (all []string) {
		c, m := pair(t)
		at := time.Unix(1_000_000, 0)
		hit, calm := memory.Seeded(seed, 3, memory.Between, memory.Unreachable, memory.Unanswered, memory.Late,
			memory.Again, memory.Lag, memory.Stale, memory.Hole), false
		var b *memory.Bus
		n := 0
		publish := func() {
			n++
			ack, err := b.Publish(t.Context(), []bus.Topic{c, m}[n%2], fmt.Append(nil, n/3))
			all = append(all, fmt.Sprint(ack, err))
		}
		b = memory.New(memory.Config{
			Incarnation: "fixed", Holes: true, Now: func() time.Time { return at },
			Faults: memory.Faults{Hit: func(f memory.Fault) bool { return !calm && hit(f) }, Meanwhile: publish},
		})
		defer b.Close()
		f, err := b.Open(t.Context())
		for err != nil {
			f, err = b.Open(t.Context())
		}
		for i := range 200 {
			publish()
			got, err := b.Read(t.Context(), 0, 1000, c, m)
			all = append(all, fmt.Sprint(texts(got), err))
			if i%10 == 0 {
				all = append(all, fmt.Sprint(f.Follow(t.Context(), bus.MakeID(uint64(i/2), 0), c, m)))
			}
			soon, cancel := context.WithTimeout(t.Context(), time.Second)
			batch, err := f.Next(soon)
			cancel()
			all = append(all, fmt.Sprint(texts(batch), err))
		}
		calm = true
		got, err := b.Read(t.Context(), 0, 1000, c, m)
		return append(all, fmt.Sprint(texts(got), err))
	}
	first := run(1)
	if again := run(1); !slices.Equal(first, again) {
		t.Errorf("one seed, two logs:\n%q\n%q", first, again)
	}
	if other := run(2); slices.Equal(first, other) {
		t.Error("two seeds, one log")
	}
}

// Publishers that get no answer, or one too late, settle it by reading.
func TestContractOfUnknownOutcomes(t *testing.T) {
	bustest.RunCase(t, "cut/an unknown outcome is settled by the log", harness(memory.Config{Faults: memory.Faults{
		Hit: memory.Seeded(1, 3, memory.Unreachable, memory.Unanswered, memory.Late, memory.Again),
	}}))
}
