package bustest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/bus"
)

var publishCases = []testCase{
	{"publish/an acknowledged envelope is read by every connection", readYourWrites, nil},
	{"publish/one sequence orders both topics of a group", oneSequence, whole},
	{"publish/IDs are unique over all shards and name their shard", idsNameShards, ours},
	{"publish/an envelope is what was published", faithful, nil},
	{"publish/the same payload in the same topic is stored once", idempotent, nil},
	{"publish/concurrent repeats are stored once", concurrentRepeats, nil},
	{"publish/a payload over the limit never fits", tooLarge, nil},
	{"publish/a full log refuses and forgets nothing", full, nil},
	{"publish/an envelope with a time to live is forgotten", timeToLive, ours},
	{"publish/expect last: an empty topic, the right last, a wrong last", expectLast, compareAndSet},
	{"publish/expect last: one winner in every raced epoch", raced, compareAndSet},
	{"publish/expect last: a repeat of the winner is not its defeat", winnerRepeats, compareAndSet},
	{"publish/expect last is ignored where it is not offered", expectIgnored, noCompareAndSet},
}

func readYourWrites(t *testing.T, e *env) {
	other := e.connect(t)
	m := messages(t, 1)
	before := bus.ID(0)
	for i := range 20 {
		id := e.publish(t, m, fmt.Sprint(i))
		for _, b := range []bus.Bus{e.bus, other} {
			got, err := b.Read(e.ctx, before, 10, m)
			if err != nil {
				t.Fatal(err)
			}
			if got = e.unwrap(got); len(got) != 1 || got[0].ID != id || string(got[0].Payload) != fmt.Sprint(i) {
				t.Fatalf("publish %d acknowledged as %d, read back %v", i, id, payloads(got))
			}
		}
		before = id
	}
}

func oneSequence(t *testing.T, e *env) {
	c, m := group(t, 1)
	f := e.open(t, e.bus)
	e.follow(t, f, 0, c, m)
	sent := e.fill(t, 200, "", c, m)
	live := e.receive(t, f, len(sent))
	rising(t, live)
	same(t, live, sent)
	stored := e.read(t, 0, 1000, c, m)
	rising(t, stored)
	same(t, stored, sent)
}

func idsNameShards(t *testing.T, e *env) {
	shards := e.bus.Info().Shards
	seen := make(map[bus.ID]bool)
	for n := range 40 {
		c, m := group(t, n)
		for _, topic := range []bus.Topic{c, m} {
			id := e.publish(t, topic, "x")
			if id.Shard() != bus.ShardOf(topic, shards) || id.Sequence() == 0 || seen[id] {
				t.Fatalf("%v in shard %d got ID %d: sequence %d in shard %d, seen before: %v",
					topic, bus.ShardOf(topic, shards), id, id.Sequence(), id.Shard(), seen[id])
			}
			seen[id] = true
		}
	}
}

func faithful(t *testing.T, e *env) {
	id := bytes.Repeat([]byte{7}, 32)
	var topics []bus.Topic
	builders := []func([]byte) (bus.Topic, error){bus.WelcomesFor}
	if ours(e) {
		builders = append(builders, bus.IdentityOf, bus.KeyPackagesOf)
	}
	for _, build := range builders {
		topic, err := build(id)
		if err != nil {
			t.Fatal(err)
		}
		topics = append(topics, topic)
	}
	c, m := group(t, 1)
	topics = append(topics, c, m)
	for _, text := range []string{"", "\x00", "\r\n\x00 *.>", "big"} {
		for _, topic := range topics {
			text := text
			if text == "big" {
				text = e.largest(topic)
			}
			before := time.Now()
			buffer := e.wrap(topic, text)
			ack, err := e.bus.Publish(e.ctx, topic, buffer)
			if err != nil {
				t.Fatalf("%d bytes to %v: %v", len(buffer), topic, err)
			}
			clear(buffer) // the publisher may use its buffer again
			got := e.read(t, 0, 10, topic)
			env := got[len(got)-1]
			if string(env.Payload) != text || env.Topic != topic || ack.ID != 0 && env.ID != ack.ID {
				t.Fatalf("published %d bytes to %v as %d, read %d bytes of %v as %d",
					len(text), topic, ack.ID, len(env.Payload), env.Topic, env.ID)
			}
			if off := env.Time.Sub(before); off < -time.Minute || off > time.Minute || env.Time.Location() != time.UTC {
				t.Fatalf("envelope's time is %v, published at %v", env.Time, before)
			}
		}
	}
}

// largest is a text whose payload just fits.
func (e *env) largest(topic bus.Topic) string {
	text := strings.Repeat("0123456789abcdef", e.bus.Info().MaxPayload/16)
	return text[len(e.wrap(topic, text))-len(text):]
}

func idempotent(t *testing.T, e *env) {
	c, m := group(t, 1)
	first, err := e.bus.Publish(e.ctx, m, e.wrap(m, "a"))
	if err != nil || first.Duplicate {
		t.Fatalf("first publish: %+v, %v", first, err)
	}
	e.publish(t, m, "b")
	again, err := e.connect(t).Publish(e.ctx, m, e.wrap(m, "a"))
	if err != nil || first.ID != 0 && !again.Duplicate || again.ID != first.ID {
		t.Fatalf("repeat of %d: %+v, %v", first.ID, again, err)
	}
	if other, err := e.bus.Publish(e.ctx, c, e.wrap(c, "a")); err != nil || other.Duplicate {
		t.Fatalf("same payload in another topic: %+v, %v", other, err)
	}
	if got := payloads(e.read(t, 0, 10, c, m)); got != "a b a" {
		t.Fatalf("log holds %q", got)
	}
	if e.bus.Info().Foreign {
		return // it knows its repeats by itself
	}
	part := []byte("part")
	for i, text := range []string{"part and more", "part and else"} {
		if ack, err := e.bus.Publish(e.ctx, m, e.wrap(m, text), bus.SameAs(part)); err != nil || ack.Duplicate != (i == 1) {
			t.Fatalf("publish %d of what is the same by a part: %+v, %v", i, ack, err)
		}
	}
	if ack, err := e.bus.Publish(e.ctx, c, e.wrap(c, "part"), bus.SameAs(part)); err != nil || ack.Duplicate {
		t.Fatalf("the same part in another topic: %+v, %v", ack, err)
	}
	if ack, err := e.bus.Publish(e.ctx, m, part); err != nil || ack.Duplicate {
		t.Fatalf("the part alone: %+v, %v", ack, err)
	}
}

func concurrentRepeats(t *testing.T, e *env) {
	m := messages(t, 1)
	var wg sync.WaitGroup
	acks := make([]bus.Ack, 16)
	for i := range acks {
		wg.Go(func() {
			var err error
			if acks[i], err = e.bus.Publish(e.ctx, m, e.wrap(m, "again")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	firsts := 0
	for _, ack := range acks {
		if !ack.Duplicate {
			firsts++
		}
		if ack.ID != acks[0].ID {
			t.Errorf("one payload got IDs %d and %d", ack.ID, acks[0].ID)
		}
	}
	if got := e.read(t, 0, 100, m); len(got) != 1 || acks[0].ID != 0 && firsts != 1 {
		t.Fatalf("%d stored, %d acknowledged as first", len(got), firsts)
	}
}

func tooLarge(t *testing.T, e *env) {
	m := messages(t, 1)
	if _, err := e.bus.Publish(e.ctx, m, make([]byte, e.bus.Info().MaxPayload+1)); !errors.Is(err, bus.ErrTooLarge) {
		t.Fatalf("got %v", err)
	}
	if got := e.read(t, 0, 10, m); len(got) != 0 {
		t.Fatal("a refused envelope was stored")
	}
	e.publish(t, m, "fits")
}

func full(t *testing.T, e *env) {
	b := e.full(t)
	m := messages(t, 1)
	stored := 0
	for ; stored <= 2000; stored++ {
		payload := strings.Repeat(fmt.Sprintf("%08d", stored), 128)
		if _, err := b.Publish(e.ctx, m, e.wrap(m, payload)); err != nil {
			if !errors.Is(err, bus.ErrFull) {
				t.Fatalf("after %d envelopes: %v", stored, err)
			}
			break
		}
	}
	if stored < 100 || stored > 2000 {
		t.Fatalf("room for %d envelopes", stored)
	}
	got, err := b.Read(e.ctx, 0, 3000, m)
	if got = e.unwrap(got); err != nil || len(got) != stored || string(got[0].Payload[:8]) != "00000000" {
		t.Fatalf("%d acknowledged, %d read, %v", stored, len(got), err)
	}
}

func timeToLive(t *testing.T, e *env) {
	m := messages(t, 1)
	e.publish(t, m, "kept before")
	if _, err := e.bus.Publish(e.ctx, m, []byte("forgotten"), bus.TTL(time.Second)); err != nil {
		t.Fatal(err)
	}
	e.publish(t, m, "kept after")
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		got := payloads(e.read(t, 0, 10, m))
		if got == "kept before kept after" {
			return
		}
		select {
		case <-tick.C:
		case <-e.ctx.Done():
			t.Fatalf("still there: %s", got)
		}
	}
}

func expectLast(t *testing.T, e *env) {
	c, m := group(t, 1)
	try := func(payload string, last bus.ID) (bus.ID, error) {
		ack, err := e.bus.Publish(e.ctx, c, []byte(payload), bus.ExpectLast(last))
		return ack.ID, err
	}
	first, err := try("1", 0)
	if err != nil {
		t.Fatalf("on an empty topic: %v", err)
	}
	if _, err := try("0", 0); !errors.Is(err, bus.ErrConflict) {
		t.Fatalf("the topic is not empty any more: %v", err)
	}
	e.publish(t, m, "messages do not disturb")
	second, err := try("2", first)
	if err != nil {
		t.Fatalf("on the right last: %v", err)
	}
	for _, last := range []bus.ID{first, second + bus.MaxShards} {
		if _, err := try("3", last); !errors.Is(err, bus.ErrConflict) {
			t.Fatalf("on %d while the last is %d: %v", last, second, err)
		}
	}
	if got := payloads(e.read(t, 0, 10, c)); got != "1 2" {
		t.Fatalf("log holds %q", got)
	}
}

func raced(t *testing.T, e *env) {
	const racers, epochs = 8, 25
	c, m := group(t, 1)
	var last bus.ID
	for epoch := range epochs {
		var (
			wg      sync.WaitGroup
			mu      sync.Mutex
			winners []bus.ID
		)
		for r := range racers {
			wg.Go(func() {
				ack, err := e.bus.Publish(e.ctx, c, fmt.Appendf(nil, "%d/%d", epoch, r), bus.ExpectLast(last))
				switch {
				case err == nil:
					mu.Lock()
					winners = append(winners, ack.ID)
					mu.Unlock()
				case !errors.Is(err, bus.ErrConflict):
					t.Errorf("epoch %d: %v", epoch, err)
				}
			})
		}
		wg.Go(func() {
			if _, err := e.bus.Publish(e.ctx, m, fmt.Append(nil, epoch)); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if len(winners) != 1 {
			t.Fatalf("epoch %d has %d winners", epoch, len(winners))
		}
		last = winners[0]
	}
	if got := e.read(t, 0, 1000, c); len(got) != epochs {
		t.Fatalf("%d commits for %d epochs", len(got), epochs)
	}
}

func winnerRepeats(t *testing.T, e *env) {
	c, _ := group(t, 1)
	first, err := e.bus.Publish(e.ctx, c, []byte("commit"), bus.ExpectLast(0))
	if err != nil {
		t.Fatal(err)
	}
	again, err := e.bus.Publish(e.ctx, c, []byte("commit"), bus.ExpectLast(0))
	if err != nil || !again.Duplicate || again.ID != first.ID {
		t.Fatalf("repeat of %d: %+v, %v", first.ID, again, err)
	}
	if _, err := e.bus.Publish(e.ctx, c, []byte("next"), bus.ExpectLast(first.ID)); err != nil {
		t.Fatal(err)
	}
	again, err = e.bus.Publish(e.ctx, c, []byte("commit"), bus.ExpectLast(0))
	if err != nil || !again.Duplicate || again.ID != first.ID {
		t.Fatalf("repeat of %d after another one: %+v, %v", first.ID, again, err)
	}
	if got := payloads(e.read(t, 0, 10, c)); got != "commit next" {
		t.Fatalf("log holds %q", got)
	}
}

func expectIgnored(t *testing.T, e *env) {
	c, _ := group(t, 1)
	for _, payload := range []string{"1", "2"} {
		if _, err := e.bus.Publish(e.ctx, c, e.wrap(c, payload), bus.ExpectLast(0)); err != nil {
			t.Fatal(err)
		}
	}
}

var readCases = []testCase{
	{"read/limits, positions and merging", readMerges, nil},
	{"read/every page but the last is full, whatever the sizes", readPages, nil},
	{"read/last and end", lastAndEnd, nil},
	{"read/a position beyond the end is a log that went backwards", beyondEnd, ours},
	{"read/what went backwards is said, then read anew", readRewound, canRewind},
	{"read/topics that are none, or lie apart, are refused", badTopics, nil},
}

func readMerges(t *testing.T, e *env) {
	c, m := group(t, 1)
	other := e.together(t, 1)[0]
	var ids []bus.ID
	for i := range 6 {
		ids = append(ids, e.publish(t, []bus.Topic{c, m}[i%2], fmt.Sprint(i)))
		e.publish(t, other, fmt.Sprint("other ", i))
	}
	for _, c := range []struct {
		after  bus.ID
		limit  int
		topics []bus.Topic
		want   string
	}{
		{0, 100, []bus.Topic{c, m}, "0 1 2 3 4 5"},
		{0, 100, []bus.Topic{m, c}, "0 1 2 3 4 5"},
		{0, 100, []bus.Topic{m, c, m}, "0 1 2 3 4 5"},
		{0, 100, []bus.Topic{c}, "0 2 4"},
		{0, 4, []bus.Topic{c, m}, "0 1 2 3"},
		{0, 1, []bus.Topic{m, c}, "0"},
		{ids[1], 100, []bus.Topic{c, m}, "2 3 4 5"},
		{ids[1], 2, []bus.Topic{c, m}, "2 3"},
		{ids[4], 100, []bus.Topic{c}, ""},
		{ids[5], 100, []bus.Topic{c, m}, ""},
		{0, 0, []bus.Topic{c, m}, ""},
	} {
		if got := payloads(e.read(t, c.after, c.limit, c.topics...)); got != c.want {
			t.Errorf("after %d, limit %d, %v: %q, want %q", c.after, c.limit, c.topics, got, c.want)
		}
	}
}

func readPages(t *testing.T, e *env) {
	topics := e.together(t, 5)
	if !ours(e) {
		c, m := group(t, 0)
		topics = []bus.Topic{c, m}
	}
	sent := e.fill(t, 300, "", topics...)
	for i := range 12 {
		payload := fmt.Sprintf("%08d", i) + e.largest(topics[i%2])[8:]
		sent[e.publish(t, topics[i%2], payload)] = payload
	}
	for _, limit := range []int{1000, 100, 7, 1} {
		var got []bus.Envelope
		after := bus.ID(0)
		for {
			page := e.read(t, after, limit, topics...)
			got = append(got, page...)
			if len(page) < limit {
				break
			}
			after = page[len(page)-1].ID
		}
		rising(t, got)
		same(t, got, sent)
	}
}

func lastAndEnd(t *testing.T, e *env) {
	c, m := group(t, 1)
	empty := messages(t, 2)
	if end, err := e.bus.End(e.ctx, c); err != nil || end != 0 {
		t.Fatalf("end of an empty shard: %d, %v", end, err)
	}
	first := e.publish(t, c, "1")
	e.publish(t, m, "2")
	last := e.publish(t, m, "3")
	ids, err := e.bus.Last(e.ctx, m, empty, c, m)
	if !ours(e) && err == nil && ids[2] == 0 {
		alone, err := e.bus.Last(e.ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		ids[2] = alone[0]
	}
	if err != nil || fmt.Sprint(ids) != fmt.Sprint([]bus.ID{last, 0, first, last}) {
		t.Fatalf("last: %v, %v; want %d, 0, %d, %d", ids, err, last, first, last)
	}
	if end, err := e.bus.End(e.ctx, c); err != nil || end != last {
		t.Fatalf("end: %d, %v; want %d", end, err, last)
	}
	var many []bus.Topic
	for n := range 1500 {
		many = append(many, messages(t, 10+n))
	}
	newest := e.publish(t, many[1400], "x")
	ids, err = e.bus.Last(e.ctx, many...)
	if err != nil || len(ids) != len(many) || ids[1400] != newest || ids[0] != 0 {
		t.Fatalf("last of %d topics: %v", len(many), err)
	}
}

func beyondEnd(t *testing.T, e *env) {
	m := messages(t, 1)
	end := e.publish(t, m, "1")
	if _, err := e.bus.Read(e.ctx, end+bus.MaxShards, 10, m); !errors.Is(err, bus.ErrLogRolledBack) {
		t.Fatalf("read: %v", err)
	}
	if err := e.open(t, e.bus).Follow(e.ctx, end+bus.MaxShards, m); !errors.Is(err, bus.ErrLogRolledBack) {
		t.Fatalf("follow: %v", err)
	}
	if got := e.read(t, end, 10, m); len(got) != 0 {
		t.Fatalf("at the end: %v", payloads(got))
	}
}

func readRewound(t *testing.T, e *env) {
	m := messages(t, 1)
	kept := e.publish(t, m, "kept")
	lost := e.publish(t, m, "lost")
	e.rewind(t, lost.Shard(), kept)
	if _, err := e.bus.Read(e.ctx, lost, 10, m); !errors.Is(err, bus.ErrLogRolledBack) {
		t.Fatalf("read: %v", err)
	}
	if got := payloads(e.read(t, 0, 10, m)); got != "kept" {
		t.Fatalf("the log holds %q", got)
	}
	e.publish(t, m, "lost") // offered again, it is stored: nothing remembers it
	if got := payloads(e.read(t, 0, 10, m)); got != "kept lost" {
		t.Fatalf("the log holds %q", got)
	}
}

func badTopics(t *testing.T, e *env) {
	m := messages(t, 1)
	shards := e.bus.Info().Shards
	f := e.open(t, e.bus)
	check := func(what string, after bus.ID, topics ...bus.Topic) {
		t.Helper()
		if _, err := e.bus.Read(e.ctx, after, 10, topics...); !errors.Is(err, bus.ErrBadTopic) {
			t.Errorf("read of %s: %v", what, err)
		}
		if err := f.Follow(e.ctx, after, topics...); !errors.Is(err, bus.ErrBadTopic) {
			t.Errorf("follow of %s: %v", what, err)
		}
	}
	check("no topic", 0)
	check("the zero topic", 0, bus.Topic{})
	if ours(e) {
		check("a position in another shard", bus.MakeID(1, bus.ShardOf(m, shards)+1), m)
	}
	for n := 2; shards > 1 || !ours(e); n++ {
		if other := messages(t, n); !ours(e) || bus.ShardOf(other, shards) != bus.ShardOf(m, shards) {
			check("topics that lie apart", 0, m, other)
			break
		}
	}
	if _, err := e.bus.Publish(e.ctx, bus.Topic{}, nil); !errors.Is(err, bus.ErrBadTopic) {
		t.Errorf("publish to the zero topic: %v", err)
	}
	if _, err := e.bus.Last(e.ctx, bus.Topic{}); !errors.Is(err, bus.ErrBadTopic) {
		t.Errorf("last of the zero topic: %v", err)
	}
	if _, err := e.bus.End(e.ctx, bus.Topic{}); !errors.Is(err, bus.ErrBadTopic) {
		t.Errorf("end of the zero topic: %v", err)
	}
}

var lifeCases = []testCase{
	{"life/info", info, nil},
	{"life/a cancelled context ends every call", cancelled, whole},
	{"life/close ends feeds, refuses calls and is idempotent", closes, whole},
}

func info(t *testing.T, e *env) {
	a, b := e.bus.Info(), e.connect(t).Info()
	if a != b {
		t.Errorf("two connections to one log: %+v and %+v", a, b)
	}
	if a.Incarnation == "" || a.MaxPayload < 1<<10 {
		t.Errorf("%+v", a)
	}
	if c := e.full(t).Info(); c.Incarnation == a.Incarnation {
		t.Error("two logs share an incarnation")
	}
}

func cancelled(t *testing.T, e *env) {
	m := messages(t, 1)
	f := e.open(t, e.bus)
	e.follow(t, f, 0, m)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for what, call := range calls(ctx, e.bus, f, m) {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ctx, cancel = context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := f.Next(ctx)
		ended <- err
	}()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a waiting Next: %v", err)
	}
	e.quiet(t, f, m)
}

func calls(ctx context.Context, b bus.Bus, f bus.Feed, topic bus.Topic) map[string]func() error {
	all := map[string]func() error{
		"publish": func() error { _, err := b.Publish(ctx, topic, []byte("x")); return err },
		"read":    func() error { _, err := b.Read(ctx, 0, 10, topic); return err },
		"last":    func() error { _, err := b.Last(ctx, topic); return err },
		"end":     func() error { _, err := b.End(ctx, topic); return err },
		"open":    func() error { _, err := b.Open(ctx); return err },
		"request": func() error { _, err := b.Request(ctx, "none", nil); return err },
		"follow":  func() error { return f.Follow(ctx, 0, topic) },
		"next":    func() error { _, err := f.Next(ctx); return err },
	}
	if b.Info().FollowAll {
		all["follow all"] = func() error { return f.FollowAll(ctx) }
	}
	return all
}

func closes(t *testing.T, e *env) {
	m := messages(t, 1)
	other := e.connect(t)
	f, kept := e.open(t, e.bus), e.open(t, other)
	e.follow(t, f, 0, m)
	e.follow(t, kept, 0, m)
	ended := make(chan error)
	go func() {
		_, err := f.Next(e.ctx)
		ended <- err
	}()
	for range 2 {
		if err := e.bus.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if err := <-ended; !errors.Is(err, bus.ErrClosed) {
		t.Errorf("a waiting Next: %v", err)
	}
	for what, call := range calls(e.ctx, e.bus, f, m) {
		if err := call(); !errors.Is(err, bus.ErrClosed) {
			t.Errorf("%s after close: %v", what, err)
		}
	}
	if _, err := e.bus.Serve("late", nil); !errors.Is(err, bus.ErrClosed) {
		t.Errorf("serve after close: %v", err)
	}
	f.Unfollow(m)
	if err := f.Close(); err != nil {
		t.Errorf("close of an ended feed: %v", err)
	}
	e.bus = other
	e.quiet(t, kept, m)
}
