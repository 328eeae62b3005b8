// Package bustest is the contract of the bus as tests: every adapter runs them
// against the real thing that it adapts.
package bustest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/bus"
)

// Harness is an empty log under test.
type Harness struct {
	// Bus is a connection to the log. The test may close it; whoever made the
	// harness cleans up in any case.
	Bus bus.Bus
	// Connect makes another connection to the same log, as a second host would.
	Connect func(t *testing.T) bus.Bus
	// Full makes a connection to another log, each shard of which has room for
	// 100 to 2,000 envelopes of 1 KiB.
	Full func(t *testing.T) bus.Bus
	// Rewind drops everything above an ID from its shard, as the restore of an
	// old backup does. Nil where the adapter cannot be made to.
	Rewind func(t *testing.T, shard int, to bus.ID)
	// Payload wraps a text into something that the log takes for the topic:
	// equal texts of one topic into equal bytes, no two texts into the same. Nil
	// where the log takes anything.
	Payload func(topic bus.Topic, text string) []byte
	// Whole says that the feeds of this very log have no holes, though the adapter
	// cannot promise it of every log.
	Whole bool
}

// Make returns a new harness whose logs have so many shards.
type Make func(t *testing.T, shards int) Harness

// patience is how long a test waits for what must happen.
const patience = 5 * time.Minute

// Run runs every case on one shard and on eight; with -short on eight.
func Run(t *testing.T, open Make) {
	for _, shards := range Shards() {
		t.Run(fmt.Sprintf("shards=%d", shards), func(t *testing.T) { RunOn(t, shards, open) })
	}
}

// Shards are the numbers of shards on which a contract is tried.
func Shards() []int {
	if testing.Short() {
		return []int{8}
	}
	return []int{1, 8}
}

// RunOn runs every case on so many shards, and logs the cases that the
// adapter's capabilities leave out.
func RunOn(t *testing.T, shards int, open Make) { run(t, shards, open, cases) }

// RunCase runs one case on one shard, by its name: for a log whose faults are too
// many for the others.
func RunCase(t *testing.T, name string, open Make) {
	i := slices.IndexFunc(cases, func(c testCase) bool { return c.name == name })
	run(t, 1, open, cases[i:i+1])
}

func run(t *testing.T, shards int, open Make, cases []testCase) {
	var ran, left []string
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			e := newEnv(t, open(t, shards))
			if got := e.bus.Info().Shards; got != shards {
				t.Fatalf("Info().Shards = %d, want %d", got, shards)
			}
			if c.needs != nil && !c.needs(e) {
				left = append(left, c.name)
				return
			}
			ran = append(ran, c.name)
			c.run(t, e)
		})
	}
	t.Logf("%d cases ran: %s", len(ran), strings.Join(ran, ", "))
	t.Logf("%d cases need a capability that is absent: %s", len(left), strings.Join(left, ", "))
}

type testCase struct {
	name  string
	run   func(t *testing.T, e *env)
	needs need // what the adapter must be able to; nil: nothing
}

// A need is a condition of some cases. Where a case has several, they are listed.
type need func(e *env) bool

func all(needs ...need) need {
	return func(e *env) bool {
		return !slices.ContainsFunc(needs, func(n need) bool { return !n(e) })
	}
}

var cases = concat(publishCases, readCases, cutCases, feedCases, followAllCases, serviceCases, lifeCases)

func concat(parts ...[]testCase) (all []testCase) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func compareAndSet(e *env) bool   { return e.bus.Info().CompareAndSet }
func noCompareAndSet(e *env) bool { return !e.bus.Info().CompareAndSet }
func ours(e *env) bool            { return !e.bus.Info().Foreign }
func canRewind(e *env) bool       { return e.rewind != nil }
func whole(e *env) bool           { return e.whole || e.bus.Info().Gapless }
func holes(e *env) bool           { return !e.bus.Info().Gapless }
func followAll(e *env) bool       { return e.bus.Info().FollowAll }
func noFollowAll(e *env) bool     { return !e.bus.Info().FollowAll }

// env is a harness with the steps that the cases are written in.
type env struct {
	bus     bus.Bus
	ctx     context.Context
	connect func(t *testing.T) bus.Bus
	full    func(t *testing.T) bus.Bus
	rewind  func(t *testing.T, shard int, to bus.ID)
	payload func(topic bus.Topic, text string) []byte
	whole   bool

	mu    sync.Mutex
	texts map[string]string // of payloads, where they are wrapped
}

func newEnv(t *testing.T, h Harness) *env {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return &env{
		bus: h.Bus, ctx: ctx, connect: h.Connect, full: h.Full, rewind: h.Rewind,
		payload: h.Payload, whole: h.Whole, texts: make(map[string]string),
	}
}

// wrap makes a payload of a text.
func (e *env) wrap(topic bus.Topic, text string) []byte {
	if e.payload == nil {
		return []byte(text)
	}
	payload := e.payload(topic, text)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.texts[string(payload)] = text
	return payload
}

// unwrap puts texts in the place of payloads that are, to the byte, what was
// published.
func (e *env) unwrap(got []bus.Envelope) []bus.Envelope {
	if e.payload == nil {
		return got
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	out := slices.Clone(got)
	for i, env := range out {
		text, ok := e.texts[string(env.Payload)]
		if !ok {
			text = fmt.Sprintf("%x, which nobody published", env.Payload)
		}
		out[i].Payload = []byte(text)
	}
	return out
}

// calls splits topics of one shard into what goes into one call: in a foreign
// log every group is its own shard.
func (e *env) calls(topics []bus.Topic) (parts [][]bus.Topic) {
	if ours(e) {
		return [][]bus.Topic{topics}
	}
	for _, t := range topics {
		i := slices.IndexFunc(parts, func(part []bus.Topic) bool { return bytes.Equal(part[0].ID(), t.ID()) })
		if i < 0 {
			i, parts = len(parts), append(parts, nil)
		}
		parts[i] = append(parts[i], t)
	}
	return parts
}

// group is the pair of topics of the n-th group.
func group(t *testing.T, n int) (commits, messages bus.Topic) {
	t.Helper()
	id := sha256.Sum256(fmt.Appendf(nil, "group %d", n))
	commits, err := bus.CommitsOf(id[:16])
	if err != nil {
		t.Fatal(err)
	}
	messages, err = bus.MessagesOf(id[:16])
	if err != nil {
		t.Fatal(err)
	}
	return commits, messages
}

// messages returns the message topic of the n-th group.
func messages(t *testing.T, n int) bus.Topic {
	_, m := group(t, n)
	return m
}

// together returns n message topics of one shard.
func (e *env) together(t *testing.T, n int) []bus.Topic {
	shards := e.bus.Info().Shards
	topics := []bus.Topic{messages(t, 0)}
	for i := 1; len(topics) < n; i++ {
		if m := messages(t, i); bus.ShardOf(m, shards) == bus.ShardOf(topics[0], shards) {
			topics = append(topics, m)
		}
	}
	return topics
}

func (e *env) publish(t *testing.T, topic bus.Topic, payload string) bus.ID {
	t.Helper()
	ack, err := e.bus.Publish(e.ctx, topic, e.wrap(topic, payload))
	if err != nil {
		t.Fatalf("publish %q: %v", payload, err)
	}
	if ack.ID == 0 {
		last, err := e.bus.Last(e.ctx, topic)
		if err != nil {
			t.Fatal(err)
		}
		return last[0]
	}
	return ack.ID
}

// fill publishes n numbered payloads from several publishers at once and
// returns what was acknowledged, by ID. Where that is not told, it is read back.
func (e *env) fill(t *testing.T, n int, prefix string, topics ...bus.Topic) map[bus.ID]string {
	t.Helper()
	const publishers = 16
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		sent = make(map[bus.ID]string, n)
		late = make(map[string]bool) // acknowledged without an ID
	)
	for p := range publishers {
		wg.Go(func() {
			for i := p; i < n; i += publishers {
				topic, payload := topics[i%len(topics)], fmt.Sprintf("%s%d", prefix, i)
				ack, err := e.bus.Publish(e.ctx, topic, e.wrap(topic, payload))
				if err != nil {
					t.Errorf("publish %q: %v", payload, err)
					return
				}
				mu.Lock()
				if ack.ID == 0 {
					late[payload] = true
				} else {
					sent[ack.ID] = payload
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(late) > 0 {
		for _, part := range e.calls(topics) {
			got, err := e.bus.Read(e.ctx, 0, 1<<20, part...)
			if err != nil {
				t.Errorf("read back: %v", err)
			}
			for _, env := range e.unwrap(got) {
				if late[string(env.Payload)] {
					sent[env.ID] = string(env.Payload)
				}
			}
		}
	}
	if len(sent) != n {
		t.Errorf("%d distinct IDs for %d envelopes", len(sent), n)
	}
	return sent
}

func (e *env) read(t *testing.T, after bus.ID, limit int, topics ...bus.Topic) []bus.Envelope {
	t.Helper()
	got, err := e.bus.Read(e.ctx, after, limit, topics...)
	if err != nil {
		t.Fatalf("read after %d: %v", after, err)
	}
	return e.unwrap(got)
}

func (e *env) open(t *testing.T, b bus.Bus) bus.Feed {
	t.Helper()
	f, err := b.Open(e.ctx)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func (e *env) follow(t *testing.T, f bus.Feed, after bus.ID, topics ...bus.Topic) {
	t.Helper()
	for _, part := range e.calls(topics) {
		if err := f.Follow(e.ctx, after, part...); err != nil {
			t.Errorf("follow after %d: %v", after, err)
		}
	}
}

func (e *env) next(t *testing.T, f bus.Feed) []bus.Envelope {
	t.Helper()
	batch, err := f.Next(e.ctx)
	if err != nil {
		t.Fatalf("next: %v", err)
	}
	if len(batch) == 0 || len(batch) > 512 {
		t.Fatalf("next returned a batch of %d", len(batch))
	}
	return e.unwrap(batch)
}

// receive takes n envelopes from a feed and checks that no topic's IDs repeat
// or fall.
func (e *env) receive(t *testing.T, f bus.Feed, n int) []bus.Envelope {
	t.Helper()
	var got []bus.Envelope
	newest := make(map[bus.Topic]bus.ID)
	for len(got) < n {
		for _, env := range e.next(t, f) {
			if env.ID <= newest[env.Topic] {
				t.Fatalf("%v: %d delivered after %d", env.Topic, env.ID, newest[env.Topic])
			}
			newest[env.Topic] = env.ID
			got = append(got, env)
		}
	}
	if len(got) > n {
		t.Fatalf("%d envelopes delivered, want %d", len(got), n)
	}
	return got
}

// quiet checks that a feed has nothing to say: what is published to topic now
// is the next thing it delivers.
func (e *env) quiet(t *testing.T, f bus.Feed, topic bus.Topic) {
	t.Helper()
	id := e.publish(t, topic, fmt.Sprintf("quiet %d", time.Now().UnixNano()))
	if got := e.next(t, f); len(got) != 1 || got[0].ID != id {
		t.Fatalf("a quiet feed delivered %d envelopes, first %d, want only %d", len(got), got[0].ID, id)
	}
}

// rising checks the order of what one feed brought of one shard's topics.
func (e *env) rising(t *testing.T, got []bus.Envelope) {
	t.Helper()
	if ours(e) {
		rising(t, got)
		return
	}
	groups := make(map[string][]bus.Envelope)
	for _, env := range got {
		group := string(env.Topic.ID())
		groups[group] = append(groups[group], env)
	}
	for _, part := range groups {
		rising(t, part)
	}
}

func rising(t *testing.T, got []bus.Envelope) {
	t.Helper()
	for i := 1; i < len(got); i++ {
		if got[i].ID <= got[i-1].ID {
			t.Fatalf("ID %d after %d", got[i].ID, got[i-1].ID)
		}
	}
}

// same checks that exactly what was sent has arrived, each where it was sent.
func same(t *testing.T, got []bus.Envelope, sent map[bus.ID]string) {
	t.Helper()
	if len(got) != len(sent) {
		t.Fatalf("got %d envelopes, want %d", len(got), len(sent))
	}
	for _, env := range got {
		want, ok := sent[env.ID]
		if !ok {
			t.Fatalf("got ID %d, which was never acknowledged", env.ID)
		}
		if string(env.Payload) != want {
			t.Fatalf("ID %d holds %q, want %q", env.ID, env.Payload, want)
		}
	}
}

func payloads(got []bus.Envelope) string {
	var all []string
	for _, env := range got {
		all = append(all, string(env.Payload))
	}
	return strings.Join(all, " ")
}
