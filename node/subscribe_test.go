package node_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/contents"
	"github.com/conclave-chat/conclave/proto/messageapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// A channel is a bus with a node on it, as subscribers and publishers see them.
type channel struct {
	bus  bus.Bus
	node *node.Node
}

func openChannel(t testing.TB, b bus.Bus, limits node.Limits) *channel {
	t.Helper()
	n, err := node.Serve(t.Context(), b, node.Config{Verifier: ethereum.Verifier{}, Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Close()
		b.Close()
	})
	return &channel{b, n}
}

func inMemory(t testing.TB, limits node.Limits) *channel {
	return openChannel(t, memory.New(memory.Config{Shards: 4}), limits)
}

// onBoth runs a test on the bus in memory and on a real log.
func onBoth(t *testing.T, run func(t *testing.T, c *channel)) {
	t.Run("memory", func(t *testing.T) { run(t, inMemory(t, node.Limits{})) })
	t.Run("jetstream", func(t *testing.T) { run(t, openChannel(t, openJetStream(t), node.Limits{})) })
}

// groupID and keyOf are the n-th group and the n-th installation.
func groupID(n int) []byte { return hashOf("group", n)[:16] }
func keyOf(n int) []byte   { return hashOf("installation", n) }

func hashOf(what string, n int) []byte {
	h := sha256.Sum256(fmt.Appendf(nil, "%s %d", what, n))
	return h[:]
}

// framed is an MLS private message (RFC 9420, 6.3) with nothing sealed in it:
// the framing is all that the node reads. A text has up to 63 bytes.
func framed(group []byte, content mls.ContentType, text string) []byte {
	b := []byte{0, 1, 0, 2, byte(len(group))}
	b = append(b, group...)
	b = binary.BigEndian.AppendUint64(b, 7) // epoch
	b = append(b, byte(content), 0, 1, 's') // no authenticated data, some sender data
	return append(append(b, byte(len(text))), text...)
}

// say publishes as hosts do, to the bus itself, and returns the id.
func (c *channel) say(t testing.TB, group int, content mls.ContentType, text string) uint64 {
	t.Helper()
	topicOf := bus.MessagesOf
	if content != mls.ContentApplication {
		topicOf = bus.CommitsOf
	}
	topic, err := topicOf(groupID(group))
	return c.put(t, topic, err, &mlsapi.GroupMessageInput{Version: &mlsapi.GroupMessageInput_V1_{V1: &mlsapi.GroupMessageInput_V1{
		Data: framed(groupID(group), content, text), SenderHmac: []byte("hmac"), ShouldPush: true,
	}}})
}

func (c *channel) welcome(t testing.TB, installation int, text string) uint64 {
	t.Helper()
	topic, err := bus.WelcomesFor(keyOf(installation))
	return c.put(t, topic, err, &mlsapi.WelcomeMessageInput{Version: &mlsapi.WelcomeMessageInput_V1_{V1: &mlsapi.WelcomeMessageInput_V1{
		InstallationKey: keyOf(installation), Data: []byte(text), HpkePublicKey: []byte("key"),
		WrapperAlgorithm: contents.WelcomeWrapperAlgorithm_WELCOME_WRAPPER_ALGORITHM_CURVE25519,
	}}})
}

func (c *channel) put(t testing.TB, topic bus.Topic, err error, m proto.Message) uint64 {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	payload, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return c.putBytes(t, topic, payload)
}

func (c *channel) putBytes(t testing.TB, topic bus.Topic, payload []byte) uint64 {
	t.Helper()
	ack, err := c.bus.Publish(t.Context(), topic, payload)
	if err != nil {
		t.Error(err)
	}
	return uint64(ack.ID)
}

// A listener has a subscription open, and room for some messages that the test
// has not taken. One without room is a slow reader while it is left alone.
type listener[M any] struct {
	messages chan M
	leave    context.CancelFunc
	ended    chan error
}

// listen checks of each subscription that send is called by one goroutine at a
// time, and not after its end.
func listen[M any](t testing.TB, room int, subscribe func(ctx context.Context, send func(M) error) error) *listener[M] {
	ctx, cancel := context.WithCancel(t.Context())
	l := &listener[M]{make(chan M, room), cancel, make(chan error, 1)}
	var sending atomic.Int32
	var wg sync.WaitGroup
	wg.Go(func() {
		err := subscribe(ctx, func(m M) error {
			if sending.Add(1) != 1 {
				t.Error("send was called concurrently, or after the end")
			}
			defer sending.Add(-1)
			select {
			case l.messages <- m:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		sending.Add(1)
		l.ended <- err
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return l
}

const patience = 30 * time.Second

func (l *listener[M]) take(t testing.TB, n int) (got []M) {
	t.Helper()
	for timeout := time.After(patience); len(got) < n; {
		select {
		case m := <-l.messages:
			got = append(got, m)
		case err := <-l.ended:
			t.Fatalf("the stream ended after %d of %d: %v", len(got), n, err)
		case <-timeout:
			t.Fatalf("%d of %d arrived", len(got), n)
		}
	}
	return got
}

// end waits for the stream's end.
func (l *listener[M]) end(t testing.TB) error {
	t.Helper()
	select {
	case err := <-l.ended:
		return err
	case m := <-l.messages:
		t.Fatalf("a message instead of the end: %v", m)
	case <-time.After(patience):
		t.Fatal("the stream does not end")
	}
	return nil
}

type groupFilter = mlsapi.SubscribeGroupMessagesRequest_Filter

func after(group int, id uint64) *groupFilter {
	return &groupFilter{GroupId: groupID(group), IdCursor: id}
}

func (c *channel) groups(ctx context.Context, send func(*mlsapi.GroupMessage) error, filters ...*groupFilter) error {
	return c.node.SubscribeGroupMessages(ctx, &mlsapi.SubscribeGroupMessagesRequest{Filters: filters}, send)
}

func (c *channel) hear(t testing.TB, filters ...*groupFilter) *listener[*mlsapi.GroupMessage] {
	return c.hearInto(t, 0, filters...)
}

func (c *channel) hearInto(t testing.TB, room int, filters ...*groupFilter) *listener[*mlsapi.GroupMessage] {
	return listen(t, room, func(ctx context.Context, send func(*mlsapi.GroupMessage) error) error {
		return c.groups(ctx, send, filters...)
	})
}

// textOf is what say was given.
func textOf(m *mlsapi.GroupMessage) string {
	data := m.GetV1().GetData()
	return string(data[5+16+8+4+1:])
}

func texts(messages []*mlsapi.GroupMessage) string {
	var all []string
	for _, m := range messages {
		all = append(all, textOf(m))
	}
	return strings.Join(all, " ")
}

// quiet checks that a listener has nothing to hear: what is said in the group
// now is the next thing that it hears.
func (c *channel) quiet(t testing.TB, l *listener[*mlsapi.GroupMessage], group int) {
	t.Helper()
	c.say(t, group, mls.ContentApplication, "now")
	if got := texts(l.take(t, 1)); got != "now" {
		t.Errorf("heard %q", got)
	}
}

// What is in the log above the cursor and then what comes, of commits and of
// messages, each once and by rising ids, whenever the subscriber came: from the
// start, or with all read that there was a moment ago.
func TestStreamReplaysAndGoesOnLive(t *testing.T) {
	onBoth(t, func(t *testing.T, c *channel) {
		const publishers, each, subscribers = 4, 60, 20
		var wg sync.WaitGroup
		var mu sync.Mutex
		sent := map[uint64]string{}
		pace := make(chan uint64, publishers*each)
		for p := range publishers {
			wg.Go(func() {
				for i := range each {
					content := []mls.ContentType{mls.ContentApplication, mls.ContentCommit}[i%2]
					text := fmt.Sprintf("%d-%d", p, i)
					id := c.say(t, 1, content, text)
					mu.Lock()
					sent[id] = text
					mu.Unlock()
					pace <- id
				}
			})
		}
		var all []*listener[*mlsapi.GroupMessage]
		cursors := make([]uint64, subscribers)
		for i := range subscribers {
			newest := <-pace // each comes at another moment
			if i%2 == 1 {
				cursors[i] = newest
			}
			all = append(all, c.hearInto(t, publishers*each+1, after(1, cursors[i])))
		}
		wg.Wait()
		for i, l := range all {
			newest, above := cursors[i], 0
			for id := range sent {
				if id > newest {
					above++
				}
			}
			for _, m := range l.take(t, above) {
				v1 := m.GetV1()
				if v1.GetId() <= newest {
					t.Fatalf("id %d after %d", v1.GetId(), newest)
				}
				newest = v1.GetId()
				if textOf(m) != sent[newest] || !bytes.Equal(v1.GetGroupId(), groupID(1)) {
					t.Fatalf("id %d is %q, want %q", newest, textOf(m), sent[newest])
				}
			}
			if len(l.messages) > 0 {
				t.Error("and then some more")
			}
		}
	})
}

// Each filter starts at its own cursor, whatever shard its number was given in,
// and of two filters for one group the one that has read less counts.
func TestFiltersHaveCursorsOfTheirOwn(t *testing.T) {
	onBoth(t, func(t *testing.T, c *channel) {
		ids := map[int][]uint64{}
		var newest uint64
		for round := range 3 {
			for group := range 6 {
				newest = c.say(t, group, mls.ContentApplication, fmt.Sprintf("%d.%d", group, round))
				ids[group] = append(ids[group], newest)
			}
		}
		l := c.hear(t,
			after(0, 0), after(1, ids[1][0]), after(2, ids[2][2]), after(3, ids[3][0]+1),
			after(4, ids[4][2]), after(4, ids[4][1]), after(4, ids[4][2]),
		)
		got := l.take(t, 3+2+0+2+1)
		slices.SortStableFunc(got, func(a, b *mlsapi.GroupMessage) int {
			return strings.Compare(textOf(a), textOf(b))
		})
		if got := texts(got); got != "0.0 0.1 0.2 1.1 1.2 3.1 3.2 4.2" {
			t.Errorf("heard %q", got)
		}
		for _, group := range []int{2, 0, 4} {
			c.say(t, 5, mls.ContentApplication, "not asked for")
			c.quiet(t, l, group)
		}
	})
}

// Clients of XMTP keep what they have seen by id alone, whatever group it is of.
func TestIdsAreUniqueOverAllGroups(t *testing.T) {
	onBoth(t, func(t *testing.T, c *channel) {
		const groups, each = 20, 10
		var filters []*groupFilter
		for group := range groups {
			filters = append(filters, after(group, 0))
		}
		l := c.hear(t, filters...)
		var wg sync.WaitGroup
		for group := range groups {
			wg.Go(func() {
				for i := range each {
					c.say(t, group, mls.ContentApplication, fmt.Sprint(i))
				}
			})
		}
		seen, newest := map[uint64]bool{}, map[string]uint64{}
		for _, m := range l.take(t, groups*each) {
			v1 := m.GetV1()
			if seen[v1.GetId()] || v1.GetId() == 0 || v1.GetId() <= newest[string(v1.GetGroupId())] {
				t.Fatalf("id %d again, or after %d", v1.GetId(), newest[string(v1.GetGroupId())])
			}
			seen[v1.GetId()], newest[string(v1.GetGroupId())] = true, v1.GetId()
		}
		wg.Wait()
	})
}

// What the feed holds for a reader is bounded; the rest is read from the log.
func TestSlowReaderMissesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, c *channel) {
		const groups, each = 10, 600
		var filters []*groupFilter
		for group := range groups {
			filters = append(filters, after(group, 0))
		}
		slow := c.hear(t, filters...)
		c.say(t, 0, mls.ContentApplication, "first")
		slow.take(t, 1)
		var wg sync.WaitGroup
		for group := range groups {
			wg.Go(func() {
				for i := range each {
					c.say(t, group, mls.ContentApplication, fmt.Sprint(i))
				}
			})
		}
		wg.Wait()
		next := map[string]int{}
		for _, m := range slow.take(t, groups*each) {
			group := string(m.GetV1().GetGroupId())
			if textOf(m) != fmt.Sprint(next[group]) {
				t.Fatalf("heard %s, want %d", textOf(m), next[group])
			}
			next[group]++
		}
		c.quiet(t, slow, 3)
	})
}

// A stream without filters is how a client without groups waits for nothing.
func TestStreamWithoutFiltersIsSilent(t *testing.T) {
	c := inMemory(t, node.Limits{})
	l := c.hear(t)
	for i := range 10 {
		c.say(t, i, mls.ContentApplication, "x")
	}
	l.leave()
	if err := l.end(t); !errors.Is(err, context.Canceled) {
		t.Errorf("end: %v", err)
	}
}

func TestWelcomesAreStreamed(t *testing.T) {
	onBoth(t, func(t *testing.T, c *channel) {
		c.welcome(t, 1, "read already")
		read := c.welcome(t, 1, "read")
		c.welcome(t, 2, "for another")
		c.welcome(t, 1, "old")
		pointer := &mlsapi.WelcomeMessageInput_WelcomePointer{
			InstallationKey: keyOf(3), WelcomePointer: []byte("where"), HpkePublicKey: []byte("key"),
			WrapperAlgorithm: contents.WelcomePointerWrapperAlgorithm_WELCOME_POINTER_WRAPPER_ALGORITHM_XWING_MLKEM_768_DRAFT_6,
		}
		topic, err := bus.WelcomesFor(keyOf(3))
		id := c.put(t, topic, err, &mlsapi.WelcomeMessageInput{Version: &mlsapi.WelcomeMessageInput_WelcomePointer_{WelcomePointer: pointer}})
		l := listen(t, 0, func(ctx context.Context, send func(*mlsapi.WelcomeMessage) error) error {
			return c.node.SubscribeWelcomeMessages(ctx, &mlsapi.SubscribeWelcomeMessagesRequest{
				Filters: []*mlsapi.SubscribeWelcomeMessagesRequest_Filter{{InstallationKey: keyOf(1), IdCursor: read}, {InstallationKey: keyOf(3)}},
			}, send)
		})
		old := l.take(t, 2)
		slices.SortFunc(old, func(a, b *mlsapi.WelcomeMessage) int { return strings.Compare(a.String(), b.String()) })
		live := c.welcome(t, 1, "live")
		got := append(old, l.take(t, 1)...)
		var said []string
		for _, m := range got {
			if p := m.GetWelcomePointer(); p != nil {
				if p.GetId() != id || !bytes.Equal(p.GetInstallationKey(), keyOf(3)) {
					t.Errorf("pointer %v", p)
				}
				said = append(said, string(p.GetWelcomePointer()))
				continue
			}
			said = append(said, string(m.GetV1().GetData()))
		}
		slices.Sort(said)
		if got := strings.Join(said, " "); got != "live old where" {
			t.Errorf("heard %q", got)
		}
		if newest := got[2].GetV1().GetId(); newest != live {
			t.Errorf("last id %d, want %d", newest, live)
		}
	})
}

// A push server hears of everything that people are told about, under the topics
// it knows, and of nothing else.
func TestSubscribeAll(t *testing.T) {
	onBoth(t, func(t *testing.T, c *channel) {
		c.say(t, 1, mls.ContentApplication, "before")
		there := make(chan struct{})
		l := listen(t, 0, func(ctx context.Context, send func(*messageapi.Envelope) error) error {
			return c.node.SubscribeAll(node.WithOpened(ctx, func() error {
				close(there)
				return nil
			}), &messageapi.SubscribeAllRequest{}, send)
		})
		<-there // from here on it is told of everything
		for _, build := range []func() (bus.Topic, error){
			func() (bus.Topic, error) { return bus.IdentityOf(keyOf(1)) },
			func() (bus.Topic, error) { return bus.KeyPackagesOf(keyOf(1)) },
			func() (bus.Topic, error) { return bus.CommitLogOf(groupID(1)) },
			func() (bus.Topic, error) { return bus.MessagesOf(groupID(1)) },
			func() (bus.Topic, error) { return bus.WelcomesFor(keyOf(1)) },
		} {
			topic, err := build()
			if err != nil {
				t.Fatal(err)
			}
			c.putBytes(t, topic, []byte("junk"))
		}
		commit := c.say(t, 1, mls.ContentCommit, "commit")
		message := c.say(t, 1, mls.ContentApplication, "message")
		welcome := c.welcome(t, 2, "welcome")

		got := l.take(t, 3)
		slices.SortStableFunc(got, func(a, b *messageapi.Envelope) int {
			return strings.Compare(a.GetContentTopic(), b.GetContentTopic())
		})
		for i, want := range []struct {
			topic string
			id    uint64
		}{
			{fmt.Sprintf("/xmtp/mls/1/g-%x/proto", groupID(1)), commit},
			{fmt.Sprintf("/xmtp/mls/1/g-%x/proto", groupID(1)), message},
			{fmt.Sprintf("/xmtp/mls/1/w-%x/proto", keyOf(2)), welcome},
		} {
			e := got[i]
			g, w := new(mlsapi.GroupMessage), new(mlsapi.WelcomeMessage)
			var id, created uint64
			if strings.Contains(want.topic, "/g-") {
				if err := proto.Unmarshal(e.GetMessage(), g); err != nil {
					t.Fatal(err)
				}
				id, created = g.GetV1().GetId(), g.GetV1().GetCreatedNs()
			} else {
				if err := proto.Unmarshal(e.GetMessage(), w); err != nil {
					t.Fatal(err)
				}
				id, created = w.GetV1().GetId(), w.GetV1().GetCreatedNs()
			}
			if e.GetContentTopic() != want.topic || id != want.id || e.GetTimestampNs() != created || created == 0 {
				t.Errorf("%s with id %d at %d, want %s with %d at %d", e.GetContentTopic(), id, e.GetTimestampNs(), want.topic, want.id, created)
			}
		}
	})
}
