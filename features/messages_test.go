package features

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus"
	membus "github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/persistence"
	memstore "github.com/conclave-chat/conclave/persistence/memory"
)

// messages lists a group's messages, of one status where that is not zero.
func (w *world) messages(g *conclave.Group, status conclave.DeliveryStatus) []*conclave.Message {
	w.t.Helper()
	return must[[]*conclave.Message](w.t)(g.Messages(w.ctx, conclave.MessageQuery{Status: status}))
}

// message finds one message.
func (w *world) message(g *conclave.Group, id conclave.MessageID) *conclave.Message {
	w.t.Helper()
	for _, m := range w.messages(g, 0) {
		if m.ID == id {
			return m
		}
	}
	w.t.Fatalf("no message %v", id)
	return nil
}

// S42 S43: Messages returns everything that is stored, changes of the group
// included, in one order that does not change, page by page, and asks nobody.
func TestMessages(t *testing.T) {
	wire := newWire(t, membus.Config{})
	w := newWorld(t, wire.config)
	c := w.clients(2)
	g := w.newGroup(conclave.GroupOptions{}, c...)
	w.send(g, "1")
	w.do(g.UpdateName(w.ctx, "named"))
	w.send(g, "2")
	theirs := w.of(c[1], g)
	w.send(theirs, "3")
	w.do(g.Sync(w.ctx))

	wire.setCut(true)
	wire.reset()
	all := w.messages(theirs, 0)
	if got := wire.tally().calls(); got != 0 {
		t.Errorf("Messages asked the network %d times", got)
	}
	joined, ok := all[0].Content.(*conclave.GroupUpdated)
	if !ok || joined.InitiatedBy != c[0].InboxID() || !slices.Equal(joined.Added, []string{c[1].InboxID()}) {
		t.Errorf("the history begins with %+v", all[0].Content)
	}
	renamed, ok := all[2].Content.(*conclave.GroupUpdated)
	if !ok || len(renamed.Changes) != 1 || *renamed.Changes[0].New != "named" || all[2].Sender != c[0].InboxID() {
		t.Errorf("the renaming is told as %+v", all[2].Content)
	}
	if len(all) != 5 || all[1].Text() != "1" || all[3].Text() != "2" || all[4].Text() != "3" {
		t.Errorf("%d messages", len(all))
	}
	var paged []conclave.MessageID
	for after := uint64(0); ; {
		page := must[[]*conclave.Message](t)(theirs.Messages(w.ctx, conclave.MessageQuery{After: after, Limit: 2}))
		if len(page) == 0 {
			break
		}
		for _, m := range page {
			paged, after = append(paged, m.ID), m.Position
		}
	}
	if !slices.Equal(paged, ids(all)) {
		t.Error("pages hold other messages than the whole")
	}
	// What was sent and changed is the same on both sides, in the same order.
	mine := w.messages(g, 0)
	if !slices.Equal(ids(mine)[len(mine)-4:], ids(all)[1:]) {
		t.Error("two members read different histories")
	}
}

func ids(messages []*conclave.Message) (out []conclave.MessageID) {
	for _, m := range messages {
		out = append(out, m.ID)
	}
	return out
}

// S50: every installation of every member gets a message once, the sender's
// others included.
func TestSendReachesEveryInstallation(t *testing.T) {
	w := newWorld(t)
	alix, _ := w.wallet()
	bo, _ := w.wallet()
	c := []*conclave.Client{w.installation(alix, "1"), w.installation(alix, "2"), w.installation(bo, "1"), w.installation(bo, "2"), w.client()}
	g := w.newGroup(conclave.GroupOptions{}, c[0], c[2], c[4])
	id := w.send(g, "Hello")
	for i, member := range c {
		theirs := w.of(member, g)
		w.reads(theirs, "Hello")
		if m := w.message(theirs, id); m.Sender != c[0].InboxID() || m.Installation != c[0].InstallationID() {
			t.Errorf("installation %d reads %+v", i, m)
		}
	}
}

// S43 S51 S52 S54 S57: with the network cut a message is there at once, as
// Unpublished with the sender's time; once it is mended the status changes, one
// time, and the log's time and place are set.
func TestSendWhileCutOff(t *testing.T) {
	var seconds atomic.Int64
	seconds.Store(time.Now().Unix())
	now := func() time.Time { return time.Unix(seconds.Load(), 0).UTC() }
	wire := newWire(t, membus.Config{Now: func() time.Time { return now().Add(time.Minute) }})
	w := newWorld(t, wire.config, func(c *conclave.Config) { c.Now = now })
	c := w.clients(2)
	g := w.newGroup(conclave.GroupOptions{}, c...)
	wire.setCut(true)
	id := must[conclave.MessageID](t)(g.Send(w.ctx, conclave.Text("are you there?")))
	m := w.message(g, id)
	if m.Status != conclave.Unpublished || !m.SentAt.Equal(now()) || m.Position != 0 || m.Attempts != 0 || m.Text() != "are you there?" {
		t.Errorf("while cut off it is %+v", m)
	}
	if err := g.Sync(w.ctx); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("Sync while cut off: %v", err)
	}
	if m := w.message(g, id); m.Status != conclave.Unpublished || m.Attempts != 0 {
		t.Errorf("being cut off counts as an attempt: %+v", m)
	}
	wire.setCut(false)
	w.do(g.Sync(w.ctx))
	m = w.message(g, id)
	if m.Status != conclave.Published || !m.SentAt.Equal(now().Add(time.Minute)) || m.Position == 0 {
		t.Errorf("afterwards it is %+v", m)
	}
	w.do(g.Sync(w.ctx))
	if again := w.message(g, id); *again != *m {
		t.Errorf("it changed once more: %+v", again)
	}
	if got := w.message(w.of(c[1], g), id); !got.SentAt.Equal(m.SentAt) || got.Position != m.Position {
		t.Errorf("another member has another time or place: %+v", got)
	}
}

// S53: without a filter all messages are listed, with one exactly those.
func TestDeliveryStatusFilter(t *testing.T) {
	wire := newWire(t, membus.Config{})
	w := newWorld(t, wire.config)
	c := w.clients(2)
	g := w.newGroup(conclave.GroupOptions{}, c...)
	published := w.send(g, "published")
	wire.onPublish(first(3, bus.GroupMessages, bus.ErrRefused))
	failed := must[conclave.MessageID](t)(g.Send(w.ctx, conclave.Text("failed")))
	if status := must[conclave.DeliveryStatus](t)(g.Wait(w.ctx, failed)); status != conclave.Failed {
		t.Fatalf("refused three times it is %v", status)
	}
	wire.setCut(true)
	unpublished := must[conclave.MessageID](t)(g.Send(w.ctx, conclave.Text("unpublished")))
	texts := func(status conclave.DeliveryStatus) (out []conclave.MessageID) {
		for _, m := range w.messages(g, status) {
			if _, ok := m.Content.(conclave.Text); ok {
				out = append(out, m.ID)
			}
		}
		return out
	}
	for status, want := range map[conclave.DeliveryStatus][]conclave.MessageID{
		0:                    {published, failed, unpublished},
		conclave.Published:   {published},
		conclave.Failed:      {failed},
		conclave.Unpublished: {unpublished},
	} {
		if got := texts(status); !slices.Equal(got, want) {
			t.Errorf("filter %v lists %d messages, want %d", status, len(got), len(want))
		}
	}
	wire.setCut(false)
	w.do(g.Sync(w.ctx))
}

// S55: what fails twice is published by the third attempt. An answer that is
// lost is an attempt too, and is settled by the log: nothing is there twice.
func TestThreeAttempts(t *testing.T) {
	noAnswer := errors.New("no answer")
	for _, failure := range []error{bus.ErrRefused, noAnswer} {
		t.Run(failure.Error(), func(t *testing.T) {
			wire := newWire(t, membus.Config{})
			w := newWorld(t, wire.config)
			c := w.clients(2)
			g := w.newGroup(conclave.GroupOptions{}, c...)
			wire.onPublish(first(2, bus.GroupMessages, failure))
			wire.reset()
			w.send(g, "third time lucky")
			if n := wire.tally().published[bus.GroupMessages]; n != 3 {
				t.Errorf("published after %d attempts, want 3", n)
			}
			w.reads(w.of(c[1], g), "third time lucky")
		})
	}
	t.Run("answer lost", func(t *testing.T) {
		wire := newWire(t, membus.Config{})
		w := newWorld(t, wire.config)
		c := w.clients(2)
		g := w.newGroup(conclave.GroupOptions{}, c...)
		wire.onPublished(first(1, bus.GroupMessages, noAnswer))
		wire.reset()
		w.send(g, "once")
		if n := wire.tally().published[bus.GroupMessages]; n != 1 {
			t.Errorf("published %d times, want once", n)
		}
		w.reads(g, "once")
		w.reads(w.of(c[1], g), "once")
	})
}

// S56: after three failures a message is Failed, with the reason, and is left
// alone; Retry sends it under the same id.
func TestThreeFailures(t *testing.T) {
	for _, failure := range []error{bus.ErrRefused, errors.New("no answer")} {
		t.Run(failure.Error(), func(t *testing.T) {
			wire := newWire(t, membus.Config{})
			w := newWorld(t, wire.config)
			c := w.clients(2)
			g := w.newGroup(conclave.GroupOptions{}, c...)
			wire.onPublish(first(-1, bus.GroupMessages, failure))
			wire.reset()
			id := must[conclave.MessageID](t)(g.Send(w.ctx, conclave.Text("no luck")))
			if status := must[conclave.DeliveryStatus](t)(g.Wait(w.ctx, id)); status != conclave.Failed {
				t.Fatalf("it is %v", status)
			}
			for range 3 {
				w.do(g.Sync(w.ctx))
			}
			if m := w.message(g, id); m.Status != conclave.Failed || m.Attempts != 3 || m.Reason == "" || m.Position != 0 {
				t.Errorf("it is %+v", m)
			}
			if n := wire.tally().published[bus.GroupMessages]; n != 3 {
				t.Errorf("%d attempts, want 3", n)
			}
			w.reads(w.of(c[1], g))
			// Others are not held up by it.
			wire.onPublish(nil)
			w.send(g, "next")

			w.do(g.Retry(w.ctx, id))
			if status := must[conclave.DeliveryStatus](t)(g.Wait(w.ctx, id)); status != conclave.Published {
				t.Errorf("retried it is %v", status)
			}
			if m := w.message(g, id); m.Text() != "no luck" || m.Status != conclave.Published {
				t.Errorf("retried it is %+v", m)
			}
			w.reads(w.of(c[1], g), "next", "no luck")
			if err := g.Retry(w.ctx, id); !errors.Is(err, conclave.ErrNoMessage) {
				t.Errorf("retry of what is published: %v", err)
			}
		})
	}
}

// A dyingStore takes a number of writes and then none: its process is dead.
type dyingStore struct {
	*memstore.Store
	left atomic.Int64
	dies func()
}

func (s *dyingStore) Apply(ctx context.Context, b *persistence.Batch, d persistence.Durability) error {
	if s.left.Add(-1) < 0 {
		s.dies()
		return persistence.ErrBroken
	}
	return s.Store.Apply(ctx, b, d)
}

// S58: a host that dies before any of the writes which sending takes, and loses
// what was not durable, delivers each message exactly once when it is back: all
// that it had accepted, under the ids that it gave them.
func TestCrashWhileSending(t *testing.T) {
	for writes, finished := int64(0), false; !finished; writes++ {
		wire, store := newWire(t, membus.Config{}), &dyingStore{Store: memstore.New()}
		store.left.Store(1 << 30)
		receiver := newWorld(t, wire.config)
		bo := receiver.client()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		config := conclave.Config{Bus: wire, Store: store}
		w := &world{t, ctx, must[*conclave.Host](t)(conclave.Open(ctx, config))}
		alix := w.client()
		g := w.newGroup(conclave.GroupOptions{}, alix, bo)

		alive, die := context.WithCancel(ctx)
		store.dies = die
		store.left.Store(writes)
		accepted := map[conclave.MessageID]string{}
		for _, text := range []string{"one", "two", "three"} {
			if id, err := g.Send(alive, conclave.Text(text), conclave.IdempotencyKey(text)); err == nil {
				accepted[id] = text
			}
		}
		for id := range accepted {
			_, _ = g.Wait(alive, id) // the last write may be that of its status
		}
		finished = alive.Err() == nil
		_ = w.host.Close(ctx) // it is dead, and may say so
		die()
		store.Crash(nil)
		store.left.Store(1 << 30)

		w.host = must[*conclave.Host](t)(conclave.Open(ctx, config))
		alix = must[*conclave.Client](t)(w.host.LoadClient(ctx, alix.InstallationID(), alix.DatabaseKey()))
		g = w.of(alix, g)
		// Whoever got no answer sends again, with the same key.
		for _, text := range []string{"one", "two", "three"} {
			id := must[conclave.MessageID](t)(g.Send(ctx, conclave.Text(text), conclave.IdempotencyKey(text)))
			if status := must[conclave.DeliveryStatus](t)(g.Wait(ctx, id)); status != conclave.Published {
				t.Errorf("died before write %d: %q is %v", writes, text, status)
			}
			delete(accepted, id)
		}
		if len(accepted) > 0 {
			t.Errorf("died before write %d: %v had other ids", writes, accepted)
		}
		w.reads(g, "one", "two", "three")
		receiver.reads(receiver.of(bo, g), "one", "two", "three")
		if t.Failed() {
			t.Logf("died before write %d", writes)
		}
		w.do(w.host.Close(ctx))
		cancel()
		if writes > 200 {
			t.Fatal("it never gets through")
		}
	}
}

// S59: the commands that were given while cut off are sent by one Sync, in their
// order.
func TestSyncPushesWhatWaits(t *testing.T) {
	wire := newWire(t, membus.Config{})
	w := newWorld(t, wire.config)
	c := w.clients(3)
	g := w.newGroup(conclave.GroupOptions{}, c[0], c[1])
	wire.setCut(true)
	// A change is durable as soon as it is asked for; who waits, waits for its
	// outcome. Ending the wait takes nothing back.
	submit := func(change func(context.Context) error) {
		ended, stop := context.WithCancel(w.ctx)
		stop()
		if err := change(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("a change without network: %v", err)
		}
	}
	must[conclave.MessageID](t)(g.Send(w.ctx, conclave.Text("1")))
	submit(func(ctx context.Context) error { return g.UpdateName(ctx, "renamed") })
	must[conclave.MessageID](t)(g.Send(w.ctx, conclave.Text("2")))
	submit(func(ctx context.Context) error { return g.AddMembersByInboxID(ctx, c[2].InboxID()) })
	must[conclave.MessageID](t)(g.Send(w.ctx, conclave.Text("3")))
	wire.setCut(false)
	w.do(g.Sync(w.ctx))

	var order []string
	for _, m := range w.messages(w.of(c[1], g), 0)[1:] {
		switch c := m.Content.(type) {
		case conclave.Text:
			order = append(order, string(c))
		case *conclave.GroupUpdated:
			order = append(order, fmt.Sprintf("changed %d added %d", len(c.Changes), len(c.Added)))
		}
	}
	if want := []string{"1", "changed 1 added 0", "2", "changed 0 added 1", "3"}; !slices.Equal(order, want) {
		t.Errorf("the log has %q, want %q", order, want)
	}
	if n := len(w.messages(g, conclave.Unpublished)); n != 0 {
		t.Errorf("%d messages still wait", n)
	}
	w.reads(w.of(c[2], g), "3")
}

// An idempotency key makes the same send one message; without one, equal texts
// are two, also where the clock stands still.
func TestIdempotencyKey(t *testing.T) {
	w := newWorld(t, func(c *conclave.Config) { now := time.Now(); c.Now = func() time.Time { return now } })
	c := w.clients(2)
	g := w.newGroup(conclave.GroupOptions{}, c...)
	var got []conclave.MessageID
	for range 2 {
		got = append(got, must[conclave.MessageID](t)(g.Send(w.ctx, conclave.Text("keyed"), conclave.IdempotencyKey("k"))))
	}
	if got[0] != got[1] {
		t.Error("the same key and content are two messages")
	}
	for range 2 {
		w.send(g, "plain")
	}
	if id := must[conclave.MessageID](t)(g.Send(w.ctx, conclave.Text("keyed"), conclave.IdempotencyKey("k"))); id != got[0] {
		t.Error("repeated after it was published, it is another message")
	}
	w.reads(g, "keyed", "plain", "plain")
	w.reads(w.of(c[1], g), "keyed", "plain", "plain")
}

// Somebody who only sends (a notifier without a stream) has not yet read that a
// member was added. The message lies behind the addition in the log, everybody
// else reads it there, and so does the new member, once.
func TestNewMemberReadsWhatCameAfterItWasAdded(t *testing.T) {
	wire := newWire(t, membus.Config{})
	a, b := newWorld(t, wire.config), newWorld(t, wire.config)
	alix, bo := a.client(), b.client()
	g := a.newGroup(conclave.GroupOptions{}, alix, bo)
	theirs := b.of(bo, g)
	b.send(theirs, "before")
	a.do(g.Sync(a.ctx))
	carol := a.client()
	a.do(g.AddMembers(a.ctx, carol.Address()))
	b.send(theirs, "alert 1")
	b.send(theirs, "alert 2")
	b.do(theirs.Sync(b.ctx))
	a.do(g.Sync(a.ctx))
	a.reads(g, "before", "alert 1", "alert 2")
	b.reads(theirs, "before", "alert 1", "alert 2")
	a.reads(a.of(carol, g), "alert 1", "alert 2")
}
