package features

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus"
	membus "github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/node"
	memstore "github.com/conclave-chat/conclave/persistence/memory"
)

// S60: Conversations.Sync makes a group of every welcome that waits and reads
// no group's log.
func TestSyncOfWelcomesReadsNoMessages(t *testing.T) {
	wire := newWire(t, membus.Config{})
	alice := newWorld(t, wire.config)
	bob := newWorld(t, wire.config)
	alix, bo := alice.client(), bob.client()
	for range 3 {
		alice.send(alice.newGroup(conclave.GroupOptions{}, alix, bo), "hello")
	}
	wire.reset()
	bob.do(bo.Conversations().Sync(bob.ctx))
	if n := len(must[[]*conclave.Group](t)(bo.Conversations().List(bob.ctx))); n != 3 {
		t.Errorf("%d groups, want 3", n)
	}
	if got := wire.tally().received; got[bus.GroupMessages]+got[bus.GroupCommits] != 0 || got[bus.Welcomes] != 3 {
		t.Errorf("read %v, want 3 welcomes", got)
	}
}

// S61: one Sync of a group brings messages, members and metadata to what the
// sender sees, and sends what waits.
func TestSyncOfAGroup(t *testing.T) {
	w := newWorld(t)
	c := w.clients(4)
	g := w.newGroup(conclave.GroupOptions{Name: "before"}, c[:3]...)
	theirs := w.of(c[1], g)
	w.send(g, "1")
	w.do(g.UpdateName(w.ctx, "after"))
	w.do(g.UpdateDescription(w.ctx, "described"))
	w.do(g.AddMembers(w.ctx, c[3].Address()))
	w.do(g.RemoveMembers(w.ctx, c[2].Address()))
	w.send(g, "2")
	id := must[conclave.MessageID](t)(theirs.Send(w.ctx, conclave.Text("mine")))
	w.do(theirs.Sync(w.ctx))
	if m := w.message(theirs, id); m.Status != conclave.Published {
		t.Errorf("what waited is %v after Sync", m.Status)
	}
	w.do(g.Sync(w.ctx))
	mine, their := must[conclave.Info](t)(g.Info(w.ctx)), must[conclave.Info](t)(theirs.Info(w.ctx))
	if their.Name != "after" || their.Description != "described" || their.Epoch != mine.Epoch {
		t.Errorf("after Sync a member sees %+v", their)
	}
	if a, b := fmt.Sprint(w.inboxes(g)), fmt.Sprint(w.inboxes(theirs)); a != b {
		t.Errorf("after Sync a member sees %s, want %s", b, a)
	}
	w.reads(theirs, "1", "2", "mine")
	w.reads(g, "1", "2", "mine")
}

// S65: what was read is never read again: the next Sync costs one question for
// up to a thousand groups and brings nothing. After a restart each group compares
// once what it read last with the log, which may have been put back meanwhile.
func TestSecondSyncReadsNothing(t *testing.T) {
	wire, store := newWire(t, membus.Config{}), memstore.New()
	alice := newWorld(t, wire.config)
	bob := newWorld(t, wire.config, func(c *conclave.Config) { c.Store = store })
	alix, bo := alice.client(), bob.client()
	groups := make([]*conclave.Group, 20)
	for i := range groups {
		groups[i] = alice.newGroup(conclave.GroupOptions{}, alix, bo)
		alice.send(groups[i], "hello")
	}
	bob.do(bo.Conversations().SyncAll(bob.ctx))
	again := func(what string) {
		t.Helper()
		wire.reset()
		for range 10 {
			bob.do(bo.Conversations().SyncAll(bob.ctx))
		}
		// One for the welcomes and one for the groups.
		if got := wire.tally(); got.bytes != 0 || got.calls() != 10*2 {
			t.Errorf("%s, ten times: %d bytes, %d questions", what, got.bytes, got.calls())
		}
	}
	again("synced before")
	wire.reset()
	bob.do(must[*conclave.Group](t)(bo.Conversations().Get(bob.ctx, groups[3].ID())).Sync(bob.ctx))
	if got := wire.tally(); got.bytes != 0 || got.calls() != 1 {
		t.Errorf("one group that was synced before: %d bytes, %d questions", got.bytes, got.calls())
	}
	bob.do(bob.host.Close(bob.ctx))
	bob = newWorld(t, wire.config, func(c *conclave.Config) { c.Store = store })
	bo = must[*conclave.Client](t)(bob.host.LoadClient(bob.ctx, bo.InstallationID(), bo.DatabaseKey()))
	wire.reset()
	bob.do(bo.Conversations().SyncAll(bob.ctx))
	// Of each group the message and the commit that added the reader.
	if got := wire.tally().received; got[bus.GroupMessages] != 20 || got[bus.GroupCommits] != 20 {
		t.Errorf("20 groups that were read before a restart: read %v", got)
	}
	again("after a restart")

	alice.send(groups[7], "news")
	wire.reset()
	bob.do(bo.Conversations().SyncAll(bob.ctx))
	if got := wire.tally().received; got[bus.GroupMessages] != 1 || got[bus.GroupCommits] != 0 {
		t.Errorf("one message in one of 20 groups: read %v", got)
	}
	bob.reads(must[*conclave.Group](t)(bo.Conversations().Get(bob.ctx, groups[7].ID())), "hello", "news")
}

// S64: with no stream and no call a host asks the network nothing and hears of
// nothing, whatever happens there.
func TestQuietWithoutStreams(t *testing.T) {
	wire := newWire(t, membus.Config{})
	alice := newWorld(t, func(c *conclave.Config) { c.Bus, c.ServeNode = wire.Bus, false })
	bob := newWorld(t, wire.config)
	alix, bo := alice.client(), bob.client()
	g := alice.newGroup(conclave.GroupOptions{}, alix, bo)
	theirs := bob.of(bo, g)
	wire.reset()
	alice.send(g, "unheard")
	alice.do(g.UpdateName(alice.ctx, "unseen"))
	alice.newGroup(conclave.GroupOptions{}, alix, bo)
	bob.reads(theirs)
	if got := wire.tally(); got.calls() != 0 || len(got.received) != 0 {
		t.Errorf("it asked the network %d times and was told %v", got.calls(), got.received)
	}
}

// S66: what was synced is there after a restart with the network off: lists,
// metadata, members with their addresses, messages.
func TestEverythingIsStored(t *testing.T) {
	wire, store := newWire(t, membus.Config{}), memstore.New()
	alice := newWorld(t, wire.config)
	bob := newWorld(t, wire.config, func(c *conclave.Config) { c.Store = store })
	alix, bo := alice.client(), bob.client()
	g := alice.newGroup(conclave.GroupOptions{Name: "kept"}, alix, bo)
	alice.send(g, "1")
	alice.send(g, "2")
	bob.of(bo, g)
	bob.do(bob.host.Close(bob.ctx))

	wire.setCut(true)
	wire.reset()
	bob = newWorld(t, wire.config, func(c *conclave.Config) { c.Store = store })
	bo = must[*conclave.Client](t)(bob.host.LoadClient(bob.ctx, bo.InstallationID(), bo.DatabaseKey()))
	list := must[[]*conclave.Group](t)(bo.Conversations().List(bob.ctx))
	if len(list) != 1 || list[0].ID() != g.ID() {
		t.Fatalf("it lists %d groups", len(list))
	}
	if info := must[conclave.Info](t)(list[0].Info(bob.ctx)); info.Name != "kept" || !info.Active {
		t.Errorf("it reads %+v", info)
	}
	members := must[[]conclave.Member](t)(list[0].Members(bob.ctx))
	for _, m := range members {
		if len(m.Addresses) != 1 || (m.InboxID == alix.InboxID()) != (m.Addresses[0] == alix.Address()) {
			t.Errorf("a member has the addresses %v", m.Addresses)
		}
	}
	if len(members) != 2 {
		t.Errorf("%d members", len(members))
	}
	bob.reads(list[0], "1", "2")
	wire.setCut(false)
	bob.do(list[0].Sync(bob.ctx))
}

// S67: what a stream yields, and what a change had to read first, is stored.
func TestStreamsAndChangesStore(t *testing.T) {
	wire := newWire(t, membus.Config{})
	alice, bob := newWorld(t, wire.config), newWorld(t, wire.config)
	alix, bo := alice.client(), bob.client()
	g := alice.newGroup(conclave.GroupOptions{}, alix, bo)
	ctx, stop := context.WithCancel(bob.ctx)
	next, quit := pull(bo.Conversations().StreamAllMessages(ctx))
	var want []string
	for i := range 100 {
		want = append(want, fmt.Sprint(i))
		must[conclave.MessageID](t)(g.Send(alice.ctx, conclave.Text(want[i])))
	}
	for got := 0; got < 100; {
		if _, ok := must[*conclave.Message](t)(next()).Content.(conclave.Text); ok {
			got++
		}
	}
	quit()
	stop()
	wire.setCut(true)
	theirs := must[*conclave.Group](t)(bo.Conversations().Get(bob.ctx, g.ID()))
	bob.reads(theirs, want...)
	wire.setCut(false)

	// S62: a change reads the log first, and what it read is there without Sync.
	alice.send(g, "before the change")
	bob.do(theirs.UpdateName(bob.ctx, "changed"))
	bob.reads(theirs, append(want, "before the change")...)
}

// S68: SyncEvery keeps a replica fresh until its context ends.
func TestSyncEvery(t *testing.T) {
	w := newWorld(t)
	c := w.clients(2)
	g := w.newGroup(conclave.GroupOptions{}, c...)
	w.send(g, "hello")
	ctx, stop := context.WithCancel(w.ctx)
	rounds, done := make(chan error), make(chan struct{})
	go func() {
		defer close(done)
		c[1].Conversations().SyncEvery(ctx, time.Millisecond, func(err error) {
			select {
			case rounds <- err:
			case <-ctx.Done():
			}
		})
	}()
	w.do(<-rounds)
	w.reads(must[*conclave.Group](t)(c[1].Conversations().Get(w.ctx, g.ID())), "hello")
	w.do(<-rounds)
	stop()
	<-done
}

// The embedded default keeps the same promises over NATS and Badger: S44 S50
// S60 S65 S66.
func TestEmbeddedDefaultSyncs(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	dir := t.TempDir()
	open := func() *world {
		return &world{t, ctx, must[*conclave.Host](t)(conclave.Open(ctx, conclave.Config{Dir: dir}))}
	}
	w := open()
	c := w.clients(3)
	g := w.newGroup(conclave.GroupOptions{Name: "ops"}, c...)
	for i := range 20 {
		must[conclave.MessageID](t)(g.Send(ctx, conclave.Text(fmt.Sprint(i))))
	}
	w.do(g.Sync(ctx))
	theirs := w.of(c[1], g)
	w.do(g.RemoveMembers(ctx, c[2].Address()))
	w.send(theirs, "last")
	want := w.texts(theirs)
	if len(want) != 21 || want[20] != "last" {
		t.Fatalf("a member reads %q", want)
	}
	gone := w.of(c[2], g)
	if must[bool](t)(gone.IsActive(ctx)) || len(w.texts(gone)) != 20 {
		t.Errorf("who was removed reads %q", w.texts(gone))
	}
	w.do(w.host.Close(ctx))

	w = open()
	defer func() { w.do(w.host.Close(ctx)) }()
	mine := must[*conclave.Client](t)(w.host.LoadClient(ctx, c[0].InstallationID(), c[0].DatabaseKey()))
	w.reads(w.of(mine, g), want...)
	for _, m := range must[[]conclave.Member](t)(w.of(mine, g).Members(ctx)) {
		if len(m.Addresses) != 1 {
			t.Errorf("after the restart a member has the addresses %v", m.Addresses)
		}
	}
}

// A network that nobody serves is said to be so.
func TestNobodyServesTheNode(t *testing.T) {
	b := membus.New(membus.Config{})
	t.Cleanup(func() { b.Close() })
	w := newWorld(t, func(c *conclave.Config) { c.Bus, c.ServeNode = b, false })
	wallet, _ := w.wallet()
	if _, err := w.host.CreateClient(w.ctx, wallet, conclave.ClientOptions{}); err == nil {
		t.Error("a client was made without anybody to register it")
	}
	n := must[*node.Node](t)(node.Serve(w.ctx, b, node.Config{Verifier: ethereum.Verifier{}}))
	t.Cleanup(n.Close)
	w.installation(wallet, "")
}
