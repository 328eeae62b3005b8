package node_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/messageapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

func never[M any](M) error { panic("nothing is to be sent") }

// What a stream can never serve is refused before anything is done for it.
func TestStreamsRefuseWhatIsInvalid(t *testing.T) {
	c := inMemory(t, node.Limits{})
	million := make([]*groupFilter, 1_000_000)
	for name, filters := range map[string][]*groupFilter{
		"a short group id":    {after(1, 0), {GroupId: groupID(1)[:15]}},
		"a long group id":     {{GroupId: keyOf(1)}},
		"no group id":         {{}},
		"nothing as a filter": {nil},
		"too many filters":    million,
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, c.groups(t.Context(), never, filters...), bus.CodeInvalid) })
	}
	type filter = mlsapi.SubscribeWelcomeMessagesRequest_Filter
	for name, filters := range map[string][]*filter{
		"no installation":          nil,
		"an empty installation":    {{}},
		"a short installation key": {{InstallationKey: keyOf(1)[:31]}},
		"too many installations":   make([]*filter, 10_001),
	} {
		t.Run(name, func(t *testing.T) {
			wantCode(t, c.node.SubscribeWelcomeMessages(t.Context(), &mlsapi.SubscribeWelcomeMessagesRequest{Filters: filters}, never), bus.CodeInvalid)
		})
	}
}

// A client whose cursor the log does not reach is told that the log went
// backwards: in silence it would miss what is written up to there.
func TestCursorBeyondTheLogIsSaid(t *testing.T) {
	onBoth(t, func(t *testing.T, c *channel) {
		last := c.say(t, 1, mls.ContentApplication, "last")
		for _, cursor := range []uint64{last + bus.MaxShards, math.MaxInt64, math.MaxUint64} {
			err := c.groups(t.Context(), never, after(1, cursor))
			wantCode(t, err, bus.CodeUnavailable)
			if !strings.Contains(err.Error(), bus.ErrLogRolledBack.Error()) {
				t.Errorf("it says %v", err)
			}
		}
		c.quiet(t, c.hear(t, after(1, last)), 1)
	})
}

func TestLogThatGoesBackwardsEndsItsStreams(t *testing.T) {
	log := memory.New(memory.Config{})
	c := openChannel(t, log, node.Limits{})
	kept := c.say(t, 1, mls.ContentApplication, "kept")
	c.say(t, 1, mls.ContentApplication, "lost")
	l := c.hear(t, after(1, 0))
	l.take(t, 2)
	log.Rewind(0, bus.ID(kept))
	err := l.end(t)
	wantCode(t, err, bus.CodeUnavailable)
	if !strings.Contains(err.Error(), bus.ErrLogRolledBack.Error()) {
		t.Errorf("it says %v", err)
	}
}

// Junk in a topic is nobody's message, and holds nobody up.
func TestJunkIsPassedOver(t *testing.T) {
	c := inMemory(t, node.Limits{})
	l := c.hear(t, after(1, 0))
	for _, build := range []func([]byte) (bus.Topic, error){bus.CommitsOf, bus.MessagesOf} {
		topic, err := build(groupID(1))
		if err != nil {
			t.Fatal(err)
		}
		c.putBytes(t, topic, nil)
		c.putBytes(t, topic, []byte("junk"))
	}
	c.quiet(t, l, 1)
}

func TestNodeThatStopsEndsItsStreams(t *testing.T) {
	onBoth(t, func(t *testing.T, c *channel) {
		waiting := c.hear(t, after(1, 0))
		c.quiet(t, waiting, 1)
		all := listen(t, 0, func(ctx context.Context, send func(*messageapi.Envelope) error) error {
			return c.node.SubscribeAll(ctx, &messageapi.SubscribeAllRequest{}, send)
		})
		c.node.Close()
		for _, err := range []error{waiting.end(t), all.end(t), c.groups(t.Context(), never, after(2, 0))} {
			wantCode(t, err, bus.CodeUnavailable)
			if err != nil && !strings.Contains(err.Error(), "the node is stopping") {
				t.Errorf("it says %v", err)
			}
		}
	})
}

// What send says ends the stream, and comes back as it was said.
func TestReceiverThatFailsEndsItsStream(t *testing.T) {
	c := inMemory(t, node.Limits{})
	for range 3 {
		c.say(t, 1, mls.ContentApplication, "x")
	}
	gone, sent := errors.New("gone"), 0
	err := c.groups(t.Context(), func(*mlsapi.GroupMessage) error { sent++; return gone }, after(1, 0))
	if err != gone || sent != 1 {
		t.Errorf("ended with %v after %d", err, sent)
	}
}

// One more than the limit is refused, until another one leaves.
func TestStreamsAreCounted(t *testing.T) {
	c := inMemory(t, node.Limits{Streams: 2})
	first, second := c.hear(t, after(1, 0)), c.hear(t, after(1, 0))
	c.say(t, 1, mls.ContentApplication, "x")
	first.take(t, 1)
	second.take(t, 1)
	wantCode(t, c.groups(t.Context(), never, after(1, 0)), bus.CodeExhausted)
	first.leave()
	first.end(t)
	c.quiet(t, c.hear(t, after(2, 0)), 2)
}

// An observed bus counts the follows of its feeds, and disturbs them once.
type observed struct {
	bus.Bus
	follows, topics atomic.Int64
}

type observedFeed struct {
	bus.Feed
	of      *observed
	disturb sync.Once
}

func (b *observed) Open(ctx context.Context) (bus.Feed, error) {
	f, err := b.Bus.Open(ctx)
	return &observedFeed{Feed: f, of: b}, err
}

func (f *observedFeed) Follow(ctx context.Context, after bus.ID, topics ...bus.Topic) error {
	f.of.follows.Add(1)
	f.of.topics.Add(int64(len(topics)))
	return f.Feed.Follow(ctx, after, topics...)
}

func (f *observedFeed) Next(ctx context.Context) (batch []bus.Envelope, err error) {
	f.disturb.Do(func() { err = bus.ErrUnavailable })
	if err != nil {
		return nil, err
	}
	return f.Feed.Next(ctx)
}

// A bus that cannot be reached for a while interrupts a stream, and no more.
func TestDisturbanceOfTheBusIsNoEnd(t *testing.T) {
	c := openChannel(t, &observed{Bus: memory.New(memory.Config{})}, node.Limits{})
	c.quiet(t, c.hear(t, after(1, 0)), 1)
}

// Whoever comes back with thousands of groups and has read them all costs one
// follow of each shard, and one for each group that has something new.
func TestComingBackToManyGroupsIsCheap(t *testing.T) {
	const groups, shards = 5000, 4
	b := &observed{Bus: memory.New(memory.Config{Shards: shards})}
	c := openChannel(t, b, node.Limits{})
	var filters []*groupFilter
	for group := range groups {
		filters = append(filters, after(group, c.say(t, group, mls.ContentApplication, "read")))
	}
	c.say(t, 17, mls.ContentApplication, "new")
	c.say(t, 4711, mls.ContentApplication, "new")
	began := time.Now()
	l := c.hear(t, filters...)
	if got := texts(l.take(t, 2)); got != "new new" {
		t.Errorf("heard %q", got)
	}
	t.Logf("%d groups: heard what is new after %v", groups, time.Since(began))
	c.quiet(t, l, 1)
	c.quiet(t, l, 4711)
	if follows, topics := b.follows.Load(), b.topics.Load(); follows != shards+2 || topics != 2*groups {
		t.Errorf("%d topics were followed by %d calls, want %d by %d", topics, follows, 2*groups, shards+2)
	}
}

// A glance is a bus whose feeds end when they have begun, and cannot follow
// everything.
type glance struct{ bus.Bus }

type glanceFeed struct{ bus.Feed }

func (b glance) Open(ctx context.Context) (bus.Feed, error) {
	f, err := b.Bus.Open(ctx)
	return glanceFeed{f}, err
}

func (glanceFeed) Next(context.Context) ([]bus.Envelope, error) { return nil, bus.ErrClosed }

func (glanceFeed) FollowAll(context.Context) error { return errors.ErrUnsupported }

func TestSubscribeAllNeedsABusThatCan(t *testing.T) {
	c := openChannel(t, glance{memory.New(memory.Config{})}, node.Limits{})
	wantCode(t, c.node.SubscribeAll(t.Context(), &messageapi.SubscribeAllRequest{}, never), bus.CodeInvalid)
}

// Whatever is asked for, the answer has a code.
func FuzzSubscribe(f *testing.F) {
	b := glance{memory.New(memory.Config{Shards: 4})}
	c := openChannel(f, b, node.Limits{})
	last := c.say(f, 1, mls.ContentApplication, "last")
	for _, filters := range [][]*groupFilter{
		nil, {after(1, 0)}, {after(1, last), after(2, last)}, {after(1, last+64)}, {{GroupId: keyOf(1), IdCursor: math.MaxUint64}},
	} {
		seed, err := proto.Marshal(&mlsapi.SubscribeGroupMessagesRequest{Filters: filters})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var groups mlsapi.SubscribeGroupMessagesRequest
		var welcomes mlsapi.SubscribeWelcomeMessagesRequest
		if proto.Unmarshal(b, &groups) != nil || proto.Unmarshal(b, &welcomes) != nil {
			return
		}
		for _, err := range []error{
			c.node.SubscribeGroupMessages(t.Context(), &groups, never),
			c.node.SubscribeWelcomeMessages(t.Context(), &welcomes, never),
		} {
			var refused *bus.ServiceError
			if !errors.As(err, &refused) || refused.Code != bus.CodeInvalid && refused.Code != bus.CodeUnavailable {
				t.Errorf("%v", err)
			}
		}
	})
}
