package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/proto/messageapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// A subscription is served in its caller's goroutine until one of these ends it:
//
//   - the caller's context: its error is returned as it is;
//   - send: its error is returned as it is;
//   - the node's Close, the bus's, or a log that went backwards: a
//     *bus.ServiceError of CodeUnavailable.
//
// Of each topic, what lies above the cursor is sent once and in the order of
// ids, first what is in the log and then what comes, without a seam. A caller
// whose send blocks holds up nobody: what it has not taken stays in the log and
// is read from there. send is never called by two goroutines at a time, nor
// after the subscription has returned.

// openedKey is the context key of what WithOpened was given.
type openedKey struct{}

// WithOpened has a subscription call opened once it is in place, before it sends
// anything: what is published from then on will be sent. An error of opened ends
// the subscription, as one of send does.
func WithOpened(ctx context.Context, opened func() error) context.Context {
	return context.WithValue(ctx, openedKey{}, opened)
}

// SubscribeGroupMessages sends the messages of the groups asked for, commits
// among them, each group's in the order of ids over both. Without a filter it
// sends nothing, for as long as it is left open.
//
// A cursor that lies beyond the end of the log was given by a log that is no
// more, such as one restored from a backup since. The answer is then
// CodeUnavailable, with what bus.ErrLogRolledBack says: to wait in silence until
// the log has grown past the cursor would hide the gap from everybody.
func (n *Node) SubscribeGroupMessages(ctx context.Context, request *mlsapi.SubscribeGroupMessagesRequest, send func(*mlsapi.GroupMessage) error) error {
	var groups [][]byte
	filters, err := readFilters(n, request.GetFilters(), func(f *mlsapi.SubscribeGroupMessagesRequest_Filter) ([]bus.Topic, uint64, error) {
		topics, err := groupTopics(f.GetGroupId())
		groups = append(groups, f.GetGroupId())
		return topics, f.GetIdCursor(), err
	})
	if err != nil {
		return n.refusal(request.ProtoReflect().Descriptor().Name(), err)
	}
	defer n.reads.begin(n.config.Now(), groups)()
	return n.stream(ctx, request, len(filters), n.following(filters), func(e bus.Envelope) error {
		if m, ok := groupMessage(e); ok {
			return send(m)
		}
		return nil
	})
}

// SubscribeWelcomeMessages sends the welcomes to the installations asked for. It
// is like SubscribeGroupMessages, but that there must be a filter.
func (n *Node) SubscribeWelcomeMessages(ctx context.Context, request *mlsapi.SubscribeWelcomeMessagesRequest, send func(*mlsapi.WelcomeMessage) error) error {
	filters, err := readFilters(n, request.GetFilters(), func(f *mlsapi.SubscribeWelcomeMessagesRequest_Filter) ([]bus.Topic, uint64, error) {
		topic, err := welcomeTopic(f.GetInstallationKey())
		return []bus.Topic{topic}, f.GetIdCursor(), err
	})
	if err == nil && len(filters) == 0 {
		err = fmt.Errorf("%w: no installation is asked for", errInvalid)
	}
	if err != nil {
		return n.refusal(request.ProtoReflect().Descriptor().Name(), err)
	}
	return n.stream(ctx, request, len(filters), n.following(filters), func(e bus.Envelope) error {
		if m, ok := welcomeMessage(e); ok {
			return send(m)
		}
		return nil
	})
}

// SubscribeAll sends every group message and every welcome that is published
// from the moment on that WithOpened tells, as servers of push notifications need
// it. It has no cursor: what comes between two subscriptions, nobody is told. On a
// bus that cannot follow everything it is refused with CodeInvalid.
func (n *Node) SubscribeAll(ctx context.Context, request *messageapi.SubscribeAllRequest, send func(*messageapi.Envelope) error) error {
	return n.stream(ctx, request, 1, func(ctx context.Context, feed bus.Feed) error {
		return feed.FollowAll(ctx)
	}, func(e bus.Envelope) error {
		var name string
		var m proto.Message
		var ok bool
		switch e.Topic.Kind() {
		case bus.GroupCommits, bus.GroupMessages:
			name = "g-"
			m, ok = groupMessage(e)
		case bus.Welcomes:
			name = "w-"
			m, ok = welcomeMessage(e)
		}
		if !ok {
			return nil
		}
		message, err := proto.Marshal(m)
		if err != nil {
			return err
		}
		return send(&messageapi.Envelope{
			ContentTopic: "/xmtp/mls/1/" + name + hex.EncodeToString(e.Topic.ID()) + "/proto",
			TimestampNs:  uint64(e.Time.UnixNano()),
			Message:      message,
		})
	})
}

// A filter asks for the topics of one group or of one installation, which lie in
// one shard, and says how far they were read.
type filter struct {
	topics []bus.Topic
	read   bus.ID
}

// readFilters reads a request's filters. Of two for the same thing, the one that
// has read less counts.
func readFilters[F any](n *Node, requested []F, read func(F) ([]bus.Topic, uint64, error)) ([]filter, error) {
	if limit := n.config.Limits.Filters; len(requested) > limit {
		return nil, fmt.Errorf("%w: %d filters, at most %d", errInvalid, len(requested), limit)
	}
	shards := n.bus.Info().Shards
	filters := make([]filter, 0, len(requested))
	known := make(map[bus.Topic]int, len(requested))
	for _, r := range requested {
		topics, cursor, err := read(r)
		if err != nil {
			return nil, err
		}
		f := filter{topics, positionIn(cursor, bus.ShardOf(topics[0], shards))}
		if i, again := known[topics[0]]; again {
			filters[i].read = min(filters[i].read, f.read)
			continue
		}
		known[topics[0]] = len(filters)
		filters = append(filters, f)
	}
	return filters, nil
}

// following begins the feed of a request's filters, all shards at once.
func (n *Node) following(filters []filter) func(context.Context, bus.Feed) error {
	return func(ctx context.Context, feed bus.Feed) error {
		shards := n.bus.Info().Shards
		byShard := make([][]filter, shards)
		for _, f := range filters {
			shard := bus.ShardOf(f.topics[0], shards)
			byShard[shard] = append(byShard[shard], f)
		}
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(askers)
		for _, filters := range byShard {
			if len(filters) > 0 {
				g.Go(func() error { return n.followShard(ctx, feed, filters) })
			}
		}
		return g.Wait()
	}
}

// followShard follows filters of one shard. A client that returns asks for thousands of
// groups, most of them without news. Those are followed by one call from the shard's
// end, which reads nothing. The end is asked for first, so that envelopes published
// meanwhile lie above it.
func (n *Node) followShard(ctx context.Context, feed bus.Feed, filters []filter) error {
	end, err := n.bus.End(ctx, filters[0].topics[0])
	if err != nil {
		return fmt.Errorf("find the end of the log: %w", err)
	}
	var topics, quiet []bus.Topic
	for _, f := range filters {
		topics = append(topics, f.topics...)
	}
	newest, err := n.newest(ctx, topics)
	if err != nil {
		return err
	}
	for _, f := range filters {
		last := slices.Max(newest[:len(f.topics)])
		newest = newest[len(f.topics):]
		if last <= f.read && f.read <= end {
			quiet = append(quiet, f.topics...)
		} else if err := feed.Follow(ctx, f.read, f.topics...); err != nil {
			return fmt.Errorf("follow from the cursor: %w", err)
		}
	}
	if len(quiet) == 0 {
		return nil
	}
	if err := feed.Follow(ctx, end, quiet...); err != nil {
		return fmt.Errorf("follow from the end of the log: %w", err)
	}
	return nil
}

// maxLast is for how many topics the bus is asked at a time.
const maxLast = 1000

// newest is Last for any number of topics.
func (n *Node) newest(ctx context.Context, topics []bus.Topic) ([]bus.ID, error) {
	all := make([]bus.ID, 0, len(topics))
	for part := range slices.Chunk(topics, maxLast) {
		ids, err := n.bus.Last(ctx, part...)
		if err != nil {
			return nil, fmt.Errorf("find what is new: %w", err)
		}
		all = append(all, ids...)
	}
	return all, nil
}

// followed counts the filters of all open subscriptions: they are what keeps
// memory while nothing happens.
type followed struct {
	limit   int
	mu      sync.Mutex
	all     int
	callers map[string]int // of those that have a name
}

// add reports false where it would be too many. No caller gets all of them.
func (f *followed) add(caller string, filters int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all+filters > f.limit || caller != "" && f.callers[caller]+filters > (f.limit+1)/2 {
		return false
	}
	f.all += filters
	if caller != "" {
		f.callers[caller] += filters
	}
	return true
}

func (f *followed) remove(caller string, filters int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all -= filters
	if f.callers[caller] -= filters; f.callers[caller] <= 0 {
		delete(f.callers, caller)
	}
}

// stream serves one subscription. To begin it is a request like any other; to
// keep it open is not.
func (n *Node) stream(ctx context.Context, request proto.Message, filters int, follow func(context.Context, bus.Feed) error, deliver func(bus.Envelope) error) error {
	name := request.ProtoReflect().Descriptor().Name()
	defer n.streams.Add(-1)
	if limit := n.config.Limits.Streams; n.streams.Add(1) > int64(limit) {
		return n.refusal(name, fmt.Errorf("%w: %d are open", errManyStreams, limit))
	}
	caller := callerOf(ctx)
	if !n.follows.add(caller, filters) {
		return n.refusal(name, fmt.Errorf("%w: %d more filters are more than may be followed", errManyStreams, filters))
	}
	defer n.follows.remove(caller, filters)
	n.config.Telemetry.Streams.Add(1)
	defer n.config.Telemetry.Streams.Add(-1)
	open, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.running, cancel)()

	var feed bus.Feed
	_, err := answer(open, n, streamWork, request, func(ctx context.Context, _ proto.Message) (_ proto.Message, err error) {
		if feed, err = n.bus.Open(ctx); err != nil {
			return nil, err
		}
		return nil, follow(ctx, feed)
	})
	if feed != nil {
		defer feed.Close()
	}
	if err == nil {
		if opened, wanted := ctx.Value(openedKey{}).(func() error); wanted {
			if unsent := opened(); unsent != nil {
				return unsent
			}
		}
		unsent, ended := n.pump(open, feed, deliver)
		if unsent != nil {
			return unsent
		}
		err = n.refusal(name, ended)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case n.running.Err() != nil:
		return n.refusal(name, errStopping)
	}
	return err
}

// How long a stream waits after a disturbance of the bus, and at most after one
// in a row of them: thousands of streams notice it at a time.
const (
	feedRetry    = 100 * time.Millisecond
	maxFeedRetry = 5 * time.Second
)

// pump delivers what the feed brings. It ends with the error of a delivery, or
// with that of the feed.
func (n *Node) pump(ctx context.Context, feed bus.Feed, deliver func(bus.Envelope) error) (unsent, err error) {
	wait := feedRetry
	for {
		batch, err := feed.Next(ctx)
		switch {
		case err == nil:
			if wait > feedRetry {
				n.config.Logger.Warn("stream goes on")
			}
			wait = feedRetry
		case ctx.Err() != nil, errors.Is(err, bus.ErrClosed), errors.Is(err, bus.ErrLogRolledBack):
			return nil, err
		default:
			n.config.Logger.Warn("stream interrupted", "error", err)
			select {
			case <-time.After(wait):
				wait = min(2*wait, maxFeedRetry)
			case <-ctx.Done():
			}
		}
		for _, e := range batch {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if unsent := deliver(e); unsent != nil {
				return unsent, nil
			}
		}
	}
}
