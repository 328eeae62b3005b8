package actors

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/bus"
	membus "github.com/conclave-chat/conclave/bus/memory"
)

// holes is a log whose feeds pass over about one of so many envelopes, for ever.
func holes(seed uint64, in int) membus.Config {
	return membus.Config{Holes: true, Faults: membus.Faults{Hit: membus.Seeded(seed, in, membus.Hole)}}
}

// A feed passes over envelopes, the last of a group and welcomes among them. Who
// listens misses nothing: it hears everything, once and in order, joins, and comes
// to the same epoch as the others, without a Sync.
func TestAFeedWithHoles(t *testing.T) {
	for seed := range uint64(8) {
		inWorldOf(t, holes(seed, 2), func(w *world) {
			p := w.people(5)
			id := w.group(p[0], p[1], p[2])
			live := []*Stream{w.stream(p[1]), w.stream(p[2]), w.stream(p[3]), w.stream(p[4])}
			w.add(p[0], id, p[3])
			var early, late []string
			for i := range 20 {
				early = append(early, fmt.Sprint("early ", i))
				w.say(p[0], id, early[i])
				if i%5 == 4 {
					w.commit(p[0], id, early[i])
				}
			}
			w.add(p[0], id, p[4])
			for i := range 20 {
				late = append(late, fmt.Sprint("late ", i))
				w.say(p[0], id, late[i])
			}
			elapse((checkWelcomes + 2) * checkGroups)
			for _, st := range live[:3] {
				w.hears(st, append(slices.Clone(early), late...)...)
			}
			w.hears(live[3], late...)
			w.agree(id, p...)
		}, func(c *Config) { c.CommitLogEvery = -1 })
	}
}

// A feed brings nothing at all: what is in the log arrives all the same, within
// the time that a check comes around.
func TestAFeedThatBringsNothing(t *testing.T) {
	inWorldOf(t, holes(1, 1), func(w *world) {
		p := w.people(3)
		id := w.group(p[0], p[1])
		st, joiner := w.stream(p[1]), w.stream(p[2])
		w.say(p[0], id, "one")
		w.commit(p[0], id, "renamed")
		elapse(2 * checkGroups)
		w.hears(st, "one")
		w.agree(id, p[:2]...)
		w.add(p[0], id, p[2])
		elapse((checkWelcomes + 2) * checkGroups)
		w.ok(w.sys.knows(w.ctx, p[2], id))
		w.say(p[0], id, "two")
		elapse(2 * checkGroups)
		w.hears(st, "two")
		w.hears(joiner, "two")
		// Also to who sleeps meanwhile.
		elapse(10 * time.Minute)
		w.say(p[0], id, "three")
		elapse(2 * checkGroups)
		w.hears(st, "three")
	}, soonIdle, func(c *Config) { c.CommitLogEvery = -1 })
}

// calls counts what a log is asked, by the kind of the question.
type calls struct {
	bus.Bus
	mu  sync.Mutex
	of  map[string]int
	sum int
}

func (c *calls) count(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of[what]++
	c.sum++
}

// since forgets what was counted, and returns it.
func (c *calls) since() (of map[string]int, sum int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of, sum = c.of, c.sum
	c.of, c.sum = map[string]int{}, 0
	return of, sum
}

func (c *calls) Read(ctx context.Context, after bus.ID, limit int, topics ...bus.Topic) ([]bus.Envelope, error) {
	c.count("Read")
	return c.Bus.Read(ctx, after, limit, topics...)
}

func (c *calls) End(ctx context.Context, topic bus.Topic) (bus.ID, error) {
	c.count("End")
	return c.Bus.End(ctx, topic)
}

// A question about many groups is one for a thousand of them; the welcomes of each
// installation are one of their own.
func (c *calls) Last(ctx context.Context, topics ...bus.Topic) ([]bus.ID, error) {
	c.count("Last")
	for _, t := range topics {
		if t.Kind() == bus.Welcomes {
			c.count("Last of welcomes")
		}
	}
	return c.Bus.Last(ctx, topics...)
}

// What it costs to take a feed for a hint only, in calls to the network: while
// nothing happens one for all groups of the host and minute, and a fifth of one for
// each installation that listens; and for news two of each page, however many
// members read it here, and however much comes at once.
func TestWhatHintsCost(t *testing.T) {
	c := &calls{of: map[string]int{}}
	inWorldOf(t, membus.Config{Holes: true}, func(w *world) {
		const members, groups = 20, 30
		p := w.people(members)
		big := w.group(p[0], p[1:]...)
		for range groups {
			w.group(p[0], p[1])
		}
		for _, m := range p {
			w.stream(m)
		}
		elapse(10 * time.Minute)
		c.since()
		elapse(100 * time.Minute)
		of, sum := c.since()
		if of["Last"] > 115 || of["Last of welcomes"] > 23*members || sum > of["Last"]+of["Last of welcomes"] {
			t.Errorf("for %d groups and %d installations in 100 minutes of silence: %v", groups+1, members, of)
		}
		w.say(p[0], big, "one message")
		elapse(time.Second)
		if of, _ = c.since(); of["End"]+of["Read"] > 4 { // the question of each minute may fall into this second
			t.Errorf("for one message to %d members here: %v", members, of)
		}
		last := ""
		for i := range 200 {
			last = fmt.Sprint(i)
			w.send(p[0], big, last)
		}
		elapse(20 * time.Second)
		if of, sum = c.since(); sum > 60 {
			t.Errorf("for 200 messages at once to %d members here: %v", members, of)
		}
		for _, m := range p {
			if texts := w.texts(m, big); len(texts) != 201 || texts[200] != last {
				t.Errorf("a member has %d of 201 messages", len(texts))
			}
		}
	}, func(cfg *Config) { c.Bus = cfg.Bus; cfg.Bus = c; cfg.CommitLogEvery = -1 })
}
