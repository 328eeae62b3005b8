package actors

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/conclave-chat/conclave/bus"
)

// A following is one log that an actor of this host follows, or followed until now.
// Actors add and remove themselves as readers without a call over the network. A worker
// then makes the feed follow what has readers, one call after another; nobody waits for
// it:
//
//	readers   followed   rewound   the worker
//	some      no         -         follows, and tells the readers; where that fails they go
//	some      yes        no        is done
//	some      yes        yes       follows anew from the log's end, and tells the readers
//	none      yes        -         unfollows
//	none      no         -         removes the entry
//
// A feed may deliver an envelope that it took from the log for an earlier Follow. So
// two kinds of batches are only hints. The first is a batch of a Next that was running
// when the log was unfollowed or followed anew, and the batch after it. The second is
// any batch before the Follow has begun, when at is not known yet.
type following struct {
	topics   []bus.Topic // a group's two topics share one entry
	readers  map[string]*readMark
	followed bool // the feed follows it
	rewound  bool // the log went backwards: it is to be followed anew
	worked   bool // a worker has it, or will

	at     bus.ID // everything up to here was handed out
	heard  bus.ID // the newest that the readers were told of
	since  moment // when that was
	sure   uint64 // what a Next before this one brings is a hint
	unsure bool   // it brought one: at is not where the next batch begins
}

// A readMark is one reader of a log, in one life of its actor.
type readMark struct {
	cursor bus.ID // the reader has everything up to here
	told   bool   // that it is live
	behind bool   // it was told to read by itself, and has not come to an end yet
}

// What a reader is told of its own following.
type (
	// isFollowed: from now on it hears of news, as they come. Where it is behind,
	// something may lie before them: it reads the log.
	isFollowed struct {
		mark   *readMark
		behind bool
	}
	// notFollowed: it is no reader any more, and asks again in a while.
	notFollowed struct {
		mark *readMark
		err  error
	}
	// logRewound: the log went backwards, and this is where it ends.
	logRewound struct{ end bus.ID }
)

const (
	// stale is how many turns of the feed's reader what was taken before may take.
	stale         = 2
	followsAtOnce = 16
	followTime    = 30 * time.Second
)

// follow makes an actor a reader of a log, up to whose cursor it has everything.
// It is told how that went, by isFollowed or notFollowed. The mark stands for
// this call in what it is told.
func (d *dispatcher) follow(name string, cursor bus.ID, topics ...bus.Topic) *readMark {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.logs[topics[0]]
	if f == nil {
		f = &following{topics: topics, readers: map[string]*readMark{}, sure: math.MaxUint64}
		for _, t := range topics {
			d.logs[t] = f
		}
	}
	mark := &readMark{cursor: cursor}
	f.readers[name] = mark
	if f.followed && !f.rewound {
		d.isLive(f, name, mark)
	} else {
		d.work(f)
	}
	return mark
}

// unfollow ends what follow began.
func (d *dispatcher) unfollow(name string, topics ...bus.Topic) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.logs[topics[0]]; f != nil {
		d.leave(f, name)
	}
}

// caughtUp gives an actor that has read to an end its credit back, and reports
// whether there was something beyond that meanwhile, and since when: then it reads
// once more.
func (d *dispatcher) caughtUp(name string, topic bus.Topic, end bus.ID) (since moment, beyond bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.logs[topic]
	if f == nil || f.readers[name] == nil {
		return 0, false
	}
	mark := f.readers[name]
	beyond = mark.behind && f.heard > end
	mark.behind, mark.cursor = false, max(mark.cursor, end)
	return f.since, beyond
}

// wentBack has every log followed anew.
func (d *dispatcher) wentBack() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.logs {
		if !f.rewound {
			f.rewound, f.sure = true, math.MaxUint64
			d.work(f)
		}
	}
}

// The methods from here to work are called with the dispatcher's mutex held.

// isLive tells a reader that it hears of news from now on.
func (d *dispatcher) isLive(f *following, name string, mark *readMark) {
	mark.told = true
	d.tell(f, name, isFollowed{mark, mark.cursor < f.at || f.unsure || !d.gapless})
}

// hear notes that the readers are told of what a log has up to an ID.
func (f *following) hear(last bus.ID, since moment) {
	if last > f.heard {
		f.heard, f.since = last, since
	}
}

// leave takes a reader away.
func (d *dispatcher) leave(f *following, name string) {
	delete(f.readers, name)
	if len(f.readers) == 0 {
		d.work(f)
	}
}

// work sees to it that a worker brings the feed to what the table says.
func (d *dispatcher) work(f *following) {
	if f.worked {
		return
	}
	f.worked = true
	d.queue = append(d.queue, f)
	if d.workers < followsAtOnce {
		d.workers++
		d.beside(d.worker)
	}
}

// worker works until nothing is left to do.
func (d *dispatcher) worker(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.queue) > 0 && ctx.Err() == nil {
		f := d.queue[0]
		d.queue = d.queue[1:]
		for d.step(ctx, f) {
		}
	}
	d.workers--
}

// step makes one call to the network for a log, or finds that none is left to be
// made. The mutex is held, but not during the call.
func (d *dispatcher) step(ctx context.Context, f *following) (again bool) {
	switch {
	case len(f.readers) == 0 && f.followed:
		d.unlocked(func() { d.feed.Unfollow(f.topics...) })
		f.followed, f.sure, d.left = false, math.MaxUint64, d.turn
	case len(f.readers) == 0:
		for _, t := range f.topics {
			delete(d.logs, t)
		}
		f.worked = false
		return false
	case f.followed && f.rewound:
		return d.followAnew(ctx, f)
	case !f.followed:
		d.followFirst(ctx, f)
	default:
		f.worked = false
		return false
	}
	return ctx.Err() == nil
}

// followFirst follows a log from the newest cursor of its readers. Those that
// have less read what lies before it by themselves, a page for all of them.
func (d *dispatcher) followFirst(ctx context.Context, f *following) {
	f.at, f.heard, f.sure, f.unsure, f.rewound = 0, 0, 0, false, false
	for _, mark := range f.readers {
		f.at = max(f.at, mark.cursor)
	}
	f.heard = f.at
	if d.turn <= d.left+1 {
		f.sure = d.left + stale
	}
	after := f.at
	var err error
	d.unlocked(func() {
		c, cancel := context.WithTimeout(ctx, followTime)
		defer cancel()
		if err = d.feed.Follow(c, after, f.topics...); err != nil {
			d.feed.Unfollow(f.topics...) // it may have come to be
		}
	})
	if err != nil {
		d.left = d.turn
	}
	f.followed = err == nil
	for name, mark := range f.readers {
		switch {
		case err == nil:
			d.isLive(f, name, mark)
		case !errors.Is(err, bus.ErrLogRolledBack) || mark.cursor >= after:
			// Where the log ends before a cursor, that is its reader's alone.
			delete(f.readers, name)
			d.tell(f, name, notFollowed{mark, err})
		}
	}
}

// followAnew follows a log that went backwards from where it ends now. It is
// repeated until that went well, since who is not followed again hears of nothing
// any more.
func (d *dispatcher) followAnew(ctx context.Context, f *following) (again bool) {
	var end bus.ID
	var err error
	d.unlocked(func() {
		c, cancel := context.WithTimeout(ctx, followTime)
		defer cancel()
		if end, err = d.bus.End(c, f.topics[0]); err == nil {
			err = d.feed.Follow(c, end, f.topics...)
		}
	})
	if err != nil {
		d.log.Error("follow after rewind", keyErr, err)
		time.AfterFunc(feedRetry, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			f.worked = false
			d.work(f)
		})
		return false
	}
	f.rewound, f.at, f.heard, f.sure, f.unsure = false, end, end, d.turn+stale, false
	for name, mark := range f.readers {
		mark.cursor = min(mark.cursor, end)
		if !mark.told {
			d.isLive(f, name, mark)
		}
		d.tell(f, name, logRewound{end})
	}
	return ctx.Err() == nil
}

// unlocked calls the network while others go on.
func (d *dispatcher) unlocked(call func()) {
	d.mu.Unlock()
	defer d.mu.Lock()
	call()
}
