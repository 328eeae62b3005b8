package xmtp

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/conclave-chat/conclave/bus"
)

// Bounds of what one feed holds for its reader. Beyond, its streams are not read
// on: the network holds back, or cuts them off, and they are opened again from
// where they stood.
const (
	maxQueued      = 4096
	maxQueuedBytes = 32 << 20
	maxBatch       = 512
)

// A feed has a queue, which its lanes fill: streams of group messages, and of
// welcomes.
type feed struct {
	bus    *Bus
	ctx    context.Context // ends with the feed
	cancel context.CancelFunc
	signal chan struct{}  // holds one token while there may be something to take
	run    sync.WaitGroup // of the lanes

	groups, welcomes lanes

	mu     sync.Mutex
	moved  sync.Cond // topics, room in the queue, or the end: for the lanes
	queue  []queued
	size   int // bytes of payload in the queue
	failed []error
}

type queued struct {
	follower *follower
	bus.Envelope
}

// A follower is one Follow of one topic. Envelopes that are queued for a follower are
// dropped once it is replaced or unfollowed.
type follower struct {
	cursor bus.ID // up to here everything was put into the queue
	stream int    // the lane's stream that it takes from; 0: none yet
}

// Open implements bus.Bus.
func (b *Bus) Open(ctx context.Context) (bus.Feed, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	f := &feed{bus: b, signal: make(chan struct{}, 1)}
	f.moved.L = &f.mu
	f.ctx, f.cancel = context.WithCancel(b.ctx)
	f.groups = lanes{newLane(f, f.followGroups), newLane(f, f.followGroups)}
	f.welcomes = lanes{newLane(f, f.followWelcomes), newLane(f, f.followWelcomes)}
	for _, p := range []lanes{f.groups, f.welcomes} {
		f.run.Go(p.main.run)
		f.run.Go(p.young.run)
	}
	b.feeds[f] = struct{}{}
	return f, nil
}

func (f *feed) lanes(l logID) lanes {
	if l.welcomes {
		return f.welcomes
	}
	return f.groups
}

func (f *feed) Follow(ctx context.Context, after bus.ID, topics ...bus.Topic) error {
	log, err := oneLog(topics)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx.Err() != nil {
		return bus.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	f.lanes(log).add(log, after, topics)
	f.moved.Broadcast()
	return nil
}

// FollowAll is for nodes.
func (f *feed) FollowAll(context.Context) error {
	return fmt.Errorf("xmtp: follow all: %w", errors.ErrUnsupported)
}

func (f *feed) Unfollow(topics ...bus.Topic) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range topics {
		f.lanes(logOf(t)).remove(t)
	}
}

// The methods from here to take are called with f.mu held.

// full says that the reader is to take something first.
func (f *feed) full() bool { return len(f.queue) >= maxQueued || f.size >= maxQueuedBytes }

func (f *feed) push(s *follower, e bus.Envelope) {
	f.queue = append(f.queue, queued{s, e})
	f.size += len(e.Payload)
	f.wake()
}

func (f *feed) fail(err error) {
	f.failed = append(f.failed, err)
	f.wake()
}

func (f *feed) wake() {
	select {
	case f.signal <- struct{}{}:
	default:
	}
}

// take returns what the reader gets next: nothing where there is nothing.
func (f *feed) take() (batch []bus.Envelope, err error) {
	if f.ctx.Err() != nil {
		return nil, bus.ErrClosed
	}
	if len(f.failed) > 0 {
		err, f.failed = f.failed[0], f.failed[1:]
		f.wake() // there may be more
		return nil, err
	}
	taken := 0
	for _, q := range f.queue {
		if len(batch) == maxBatch {
			break
		}
		taken++
		f.size -= len(q.Payload)
		if f.lanes(logOf(q.Topic)).follower(q.Topic) == q.follower {
			batch = append(batch, q.Envelope)
		}
	}
	clear(f.queue[:taken])
	if f.queue = f.queue[taken:]; len(f.queue) == 0 {
		f.queue = nil
	} else {
		f.wake()
	}
	f.moved.Broadcast()
	return batch, nil
}

func (f *feed) Next(ctx context.Context) ([]bus.Envelope, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f.mu.Lock()
		batch, err := f.take()
		f.mu.Unlock()
		if err != nil || len(batch) > 0 {
			return batch, err
		}
		select {
		case <-f.signal:
		case <-f.ctx.Done():
		case <-ctx.Done():
		}
	}
}

// stir wakes the lanes.
func (f *feed) stir() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.moved.Broadcast()
}

// Close implements bus.Feed. It waits for the streams to end.
func (f *feed) Close() error {
	f.mu.Lock()
	f.cancel()
	f.queue, f.size = nil, 0
	f.moved.Broadcast()
	f.mu.Unlock()
	f.run.Wait()

	f.bus.mu.Lock()
	defer f.bus.mu.Unlock()
	delete(f.bus.feeds, f)
	return nil
}
