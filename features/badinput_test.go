package features

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus"
	membus "github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/content"
	"github.com/conclave-chat/conclave/persistence"
	memstore "github.com/conclave-chat/conclave/persistence/memory"
	"github.com/conclave-chat/conclave/proto/identityapi"
)

// hashRows hashes every row of a store.
func hashRows(t *testing.T, store persistence.Store) [32]byte {
	t.Helper()
	h := sha256.New()
	err := store.View(t.Context(), func(r persistence.Reader) error {
		return r.Scan(nil, nil, func(key, value []byte) bool {
			for _, b := range [][]byte{key, value} {
				h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
				h.Write(b)
			}
			return true
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

// pull turns a stream into a function that returns what comes next.
func pull[T any](stream iter.Seq2[T, error]) (next func() (T, error), stop func()) {
	two, stop := iter.Pull2(stream)
	return func() (T, error) {
		v, err, ok := two()
		if !ok {
			err = errors.New("the stream ended")
		}
		return v, err
	}, stop
}

// What is no address is refused by name, everywhere, before anybody is asked.
func TestBadAddresses(t *testing.T) {
	wire, store := newWire(t, membus.Config{}), memstore.New()
	w := newWorld(t, wire.config, func(c *conclave.Config) { c.Store = store })
	c := w.clients(2)
	g := w.newGroup(conclave.GroupOptions{}, c...)
	before := hashRows(t, store)
	wire.reset()
	good := c[1].Address()
	for _, bad := range []string{
		"", "0x", "*", ">", " ", "\x00", good[2:], good[:41], good + "0", " " + good, good[:41] + " ", good[:41] + "\x00", good[:41] + "*",
		"0x5AAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0x0000000000000000000000000000000000000000", strings.Repeat("0", 1<<20),
	} {
		_, canErr := c[0].CanMessage(w.ctx, good, bad)
		_, newErr := c[0].Conversations().NewGroup(w.ctx, []string{good, bad}, conclave.GroupOptions{})
		_, createErr := w.host.CreateClient(w.ctx, conclave.SignerFunc(bad, nil), conclave.ClientOptions{})
		for what, err := range map[string]error{
			"CanMessage": canErr, "NewGroup": newErr, "CreateClient": createErr,
			"AddMembers": g.AddMembers(w.ctx, good, bad), "RemoveMembers": g.RemoveMembers(w.ctx, good, bad),
		} {
			if !errors.Is(err, conclave.ErrBadAddress) || len(err.Error()) > 300 {
				t.Errorf("%s of %.50q: %.300v", what, bad, err)
			}
		}
	}
	if wire.tally().calls() != 0 || hashRows(t, store) != before {
		t.Error("the network was asked, or the rows changed")
	}
}

// Ids that are not hex reach no topic, no row and no log.
func TestBadIDs(t *testing.T) {
	wire, store := newWire(t, membus.Config{}), memstore.New()
	w := newWorld(t, wire.config, func(c *conclave.Config) { c.Store = store })
	c := w.clients(2)
	g := w.newGroup(conclave.GroupOptions{}, c...)
	before := hashRows(t, store)
	wire.reset()
	good := g.ID().String()
	if id, err := conclave.ParseGroupID(good); err != nil || id != g.ID() {
		t.Errorf("a group's own id does not parse: %v", err)
	}
	for _, bad := range []string{"", "*", ">", " ", "\x00", good[:31], good + "0", good[:31] + "*", good[:31] + ">", good[:31] + " ", good[:31] + "\x00", strings.ToUpper("a" + good[1:]), "g." + good[2:]} {
		if _, err := conclave.ParseGroupID(bad); !errors.Is(err, conclave.ErrInvalid) {
			t.Errorf("group id %q: %v", bad, err)
		}
		inbox := bad + strings.Repeat("0", max(0, 64-len(bad)-1)) + "*"
		_, stateErr := w.host.InboxState(w.ctx, inbox)
		_, newErr := c[0].Conversations().NewGroupWithInboxIDs(w.ctx, []string{c[1].InboxID(), inbox}, conclave.GroupOptions{})
		for what, err := range map[string]error{
			"InboxState": stateErr, "NewGroupWithInboxIDs": newErr,
			"AddMembersByInboxID":    g.AddMembersByInboxID(w.ctx, inbox),
			"RemoveMembersByInboxID": g.RemoveMembersByInboxID(w.ctx, inbox),
		} {
			if !errors.Is(err, conclave.ErrInvalid) {
				t.Errorf("%s of %q: %v", what, inbox, err)
			}
		}
	}
	if _, err := c[0].Conversations().Get(w.ctx, conclave.GroupID{1}); !errors.Is(err, conclave.ErrNoGroup) {
		t.Errorf("a group that is not there: %v", err)
	}
	if _, err := w.host.LoadClient(w.ctx, conclave.InstallationID{1}, conclave.Key{1}); !errors.Is(err, conclave.ErrNotFound) {
		t.Errorf("an installation that is not there: %v", err)
	}
	if wire.tally().calls() != 0 || hashRows(t, store) != before {
		t.Error("the network was asked, or the rows changed")
	}
}

// S09: a wrong database key is said to be one, asleep or awake, and changes no
// row.
func TestWrongDatabaseKey(t *testing.T) {
	store := memstore.New()
	w := newWorld(t, func(c *conclave.Config) { c.Store = store })
	wallet, _ := w.wallet()
	alix := must[*conclave.Client](t)(w.host.CreateClient(w.ctx, wallet, conclave.ClientOptions{DatabaseKey: conclave.Key{7}}))
	bo := w.client()
	w.send(w.newGroup(conclave.GroupOptions{}, alix, bo), "kept")
	flipped := alix.DatabaseKey()
	flipped[31] ^= 1
	before := hashRows(t, store)
	for _, awake := range []bool{true, false} {
		for _, wrong := range []conclave.Key{{}, flipped, bo.DatabaseKey()} {
			_, loadErr := w.host.LoadClient(w.ctx, alix.InstallationID(), wrong)
			_, createErr := w.host.CreateClient(w.ctx, wallet, conclave.ClientOptions{DatabaseKey: wrong})
			for _, err := range []error{loadErr, createErr} {
				if !errors.Is(err, conclave.ErrWrongKey) || strings.Contains(err.Error(), fmt.Sprintf("%x", wrong[:4])) {
					t.Errorf("awake %v: %v", awake, err)
				}
			}
		}
		if hashRows(t, store) != before {
			t.Error("the rows changed")
		}
		if awake {
			w.do(alix.Close(w.ctx))
			before = hashRows(t, store)
		}
	}
	again := must[*conclave.Client](t)(w.host.LoadClient(w.ctx, alix.InstallationID(), alix.DatabaseKey()))
	w.reads(must[[]*conclave.Group](t)(again.Conversations().List(w.ctx))[0], "kept")
}

// A message over the limit is refused when it is sent, whichever limit is less:
// that of contents, or the bus's. Nothing of it is stored.
func TestMessageOverTheLimit(t *testing.T) {
	for _, limit := range []int{0, 64 << 10} {
		store, b := memstore.New(), membus.New(membus.Config{MaxPayload: limit})
		t.Cleanup(func() { b.Close() })
		w := newWorld(t, func(c *conclave.Config) { c.Bus, c.Store = b, store })
		c := w.clients(2)
		g := w.newGroup(conclave.GroupOptions{}, c...)
		before := hashRows(t, store)
		size := min(content.MaxSize, b.Info().MaxPayload)
		for _, over := range []conclave.Content{conclave.Text(strings.Repeat("x", size)), conclave.Text(strings.Repeat("y", 3*size))} {
			if _, err := g.Send(w.ctx, over); !errors.Is(err, conclave.ErrTooLarge) {
				t.Errorf("over the limit of %d: %v", size, err)
			}
		}
		if hashRows(t, store) != before {
			t.Error("the rows changed")
		}
		large := strings.Repeat("z", size-2<<10)
		w.send(g, large)
		w.reads(w.of(c[1], g), large)
	}
}

// With the bus down everything that needs it says so and changes nothing.
func TestBusDown(t *testing.T) {
	wire, store := newWire(t, membus.Config{}), memstore.New()
	w := newWorld(t, wire.config, func(c *conclave.Config) { c.Store = store })
	c := w.clients(3)
	g := w.newGroup(conclave.GroupOptions{}, c[:2]...)
	wallet, signatures := w.wallet()
	before := hashRows(t, store)
	wire.setCut(true)
	_, canErr := c[0].CanMessage(w.ctx, c[1].Address())
	_, newErr := c[0].Conversations().NewGroup(w.ctx, addresses(c[1:]...), conclave.GroupOptions{})
	_, createErr := w.host.CreateClient(w.ctx, wallet, conclave.ClientOptions{})
	_, stateErr := w.host.InboxState(w.ctx, c[1].InboxID())
	for what, err := range map[string]error{
		"CanMessage": canErr, "NewGroup": newErr, "CreateClient": createErr, "InboxState": stateErr,
		"AddMembers": g.AddMembers(w.ctx, c[2].Address()), "RemoveMembers": g.RemoveMembers(w.ctx, c[1].Address()),
		"Sync": g.Sync(w.ctx), "Sync of welcomes": c[0].Conversations().Sync(w.ctx), "SyncAll": c[0].Conversations().SyncAll(w.ctx),
	} {
		if !errors.Is(err, bus.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if hashRows(t, store) != before || signatures.Load() != 0 {
		t.Error("the rows changed, or a wallet signed")
	}
	// A stream waits for the bus and then goes on.
	ctx, stop := context.WithCancel(w.ctx)
	defer stop()
	next, quit := pull(c[1].Conversations().StreamAllMessages(ctx))
	defer quit()
	id := must[conclave.MessageID](t)(g.Send(w.ctx, conclave.Text("later")))
	wire.setCut(false)
	w.do(g.Sync(w.ctx))
	if m := w.message(g, id); m.Status != conclave.Published {
		t.Errorf("it is %v", m.Status)
	}
	if got := text(t, next); got != "later" {
		t.Errorf("the stream yields %q", got)
	}
}

// A slow bus holds up nobody but those who wait for it, and they may stop
// waiting.
func TestBusSlow(t *testing.T) {
	wire := newWire(t, membus.Config{})
	w := newWorld(t, wire.config)
	c := w.clients(2)
	g, other := w.newGroup(conclave.GroupOptions{}, c...), w.newGroup(conclave.GroupOptions{}, c...)
	reached, release := make(chan struct{}, 8), make(chan struct{})
	id := g.ID()
	wire.onPublish(func(topic bus.Topic) error {
		if bytes.Equal(topic.ID(), id[:]) {
			reached <- struct{}{}
			<-release
		}
		return nil
	})
	slow := must[conclave.MessageID](t)(g.Send(w.ctx, conclave.Text("slow")))
	<-reached
	w.send(other, "not held up")
	must[conclave.MessageID](t)(g.Send(w.ctx, conclave.Text("behind it")))
	impatient, stop := context.WithCancel(w.ctx)
	stop()
	if _, err := g.Wait(impatient, slow); !errors.Is(err, context.Canceled) {
		t.Errorf("who waits no longer gets %v", err)
	}
	if n := len(w.messages(g, conclave.Unpublished)); n != 2 {
		t.Errorf("%d messages wait, want 2", n)
	}
	close(release)
	w.do(g.Sync(w.ctx))
	w.reads(w.of(c[1], g), "slow", "behind it")
}

// A full bus is waited for: it costs no attempt, and order is kept.
func TestBusFull(t *testing.T) {
	wire := newWire(t, membus.Config{})
	w := newWorld(t, wire.config)
	c := w.clients(2)
	g := w.newGroup(conclave.GroupOptions{}, c...)
	wire.onPublish(first(5, bus.GroupMessages, bus.ErrFull))
	one := must[conclave.MessageID](t)(g.Send(w.ctx, conclave.Text("1")))
	two := must[conclave.MessageID](t)(g.Send(w.ctx, conclave.Text("2")))
	if m := w.message(g, one); m.Status == conclave.Failed || m.Attempts != 0 {
		t.Errorf("while the bus is full it is %+v", m)
	}
	for _, id := range []conclave.MessageID{one, two} {
		if status := must[conclave.DeliveryStatus](t)(g.Wait(w.ctx, id)); status != conclave.Published {
			t.Errorf("it is %v", status)
		}
	}
	w.reads(w.of(c[1], g), "1", "2")
}

// A change that the bus refuses three times is an error, and was none: the
// group is as before and goes on.
func TestBusRefuses(t *testing.T) {
	wire, store := newWire(t, membus.Config{}), memstore.New()
	w := newWorld(t, wire.config, func(c *conclave.Config) { c.Store = store })
	c := w.clients(3)
	g := w.newGroup(conclave.GroupOptions{Name: "before"}, c[:2]...)
	wire.onPublish(first(-1, bus.GroupCommits, bus.ErrRefused))
	wire.reset()
	must[map[string]bool](t)(w.host.CanMessage(w.ctx, addresses(c...)...))
	groups := len(must[[]*conclave.Group](t)(c[0].Conversations().List(w.ctx)))
	_, newErr := c[0].Conversations().NewGroup(w.ctx, addresses(c[1:]...), conclave.GroupOptions{})
	for what, err := range map[string]error{
		"NewGroup": newErr, "UpdateName": g.UpdateName(w.ctx, "after"), "AddMembers": g.AddMembers(w.ctx, c[2].Address()),
	} {
		if !errors.Is(err, conclave.ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := wire.tally().published; n[bus.GroupCommits] != 3*3 || n[bus.Welcomes] != 0 {
		t.Errorf("published %v, want three commits three times", n)
	}
	if n := len(must[[]*conclave.Group](t)(c[0].Conversations().List(w.ctx))); n != groups {
		t.Errorf("%d groups, had %d", n, groups)
	}
	wire.onPublish(nil)
	if info := must[conclave.Info](t)(g.Info(w.ctx)); info.Name != "before" {
		t.Errorf("the group is %+v", info)
	}
	w.do(g.UpdateName(w.ctx, "after"))
	if info := must[conclave.Info](t)(w.of(c[1], g).Info(w.ctx)); info.Name != "after" {
		t.Errorf("a member sees %+v", info)
	}
}

// A log that lost its end: what was read stays, what its sender still has is
// offered again, and the group goes on.
func TestBusRewound(t *testing.T) {
	for _, listening := range []bool{false, true} {
		t.Run(fmt.Sprintf("listening %v", listening), func(t *testing.T) {
			wire := newWire(t, membus.Config{})
			w := newWorld(t, wire.config)
			c := w.clients(2)
			g := w.newGroup(conclave.GroupOptions{}, c...)
			w.send(g, "1")
			theirs := w.of(c[1], g)
			if listening {
				ctx, stop := context.WithCancel(w.ctx)
				defer stop()
				for _, client := range c {
					news := client.Conversations().StreamAllMessages(ctx)
					_, quit := pull(news)
					defer quit()
				}
			}
			w.send(g, "2")
			lost := w.message(g, w.send(g, "3"))
			w.do(theirs.Sync(w.ctx))
			wire.Rewind(0, bus.ID(lost.Position)-bus.MakeID(1, 0))
			w.do(g.Sync(w.ctx))
			w.do(theirs.Sync(w.ctx))
			w.send(theirs, "4")
			w.do(g.Sync(w.ctx))
			for _, member := range []*conclave.Group{g, theirs} {
				got := w.texts(member)
				for _, text := range []string{"1", "2", "3", "4"} {
					if n := strings.Count(strings.Join(got, " "), text); n != 1 {
						t.Errorf("a member reads %q", got)
						break
					}
				}
				if info := must[conclave.Info](t)(member.Info(w.ctx)); info.Stalled != "" {
					t.Errorf("a member is stalled: %s", info.Stalled)
				}
			}
		})
	}
}

// A liar is a network that has mallory's inbox for whatever address is asked.
type liar struct {
	*wire
	inbox string
}

func (l *liar) Request(ctx context.Context, service string, payload []byte) ([]byte, error) {
	b, err := l.wire.Request(ctx, service, payload)
	if service != bus.GetInboxIds || err != nil || l.inbox == "" {
		return b, err
	}
	answer := new(identityapi.GetInboxIdsResponse)
	if err := proto.Unmarshal(b, answer); err != nil {
		return nil, err
	}
	for _, r := range answer.Responses {
		r.InboxId = &l.inbox
	}
	return proto.Marshal(answer)
}

// Whose inbox an address is in is not a matter of the network's word: the inbox's
// own log must have it.
func TestAddressOfAnotherInbox(t *testing.T) {
	network := &liar{wire: newWire(t, membus.Config{})}
	w := newWorld(t, network.config, func(c *conclave.Config) { c.Bus = network })
	all := w.clients(3)
	alice, bob, mallory := all[0], all[1], all[2]
	g := w.newGroup(conclave.GroupOptions{}, alice)
	network.inbox = mallory.InboxID()
	address := bob.Address()
	if can := must[map[string]bool](t)(w.host.CanMessage(w.ctx, address)); can[address] {
		t.Error("bob can be messaged in mallory's inbox")
	}
	if err := w.of(alice, g).AddMembers(w.ctx, address); !errors.As(err, new(*conclave.MemberNotReachableError)) {
		t.Errorf("added: %v", err)
	}
	if got := w.inboxes(w.of(alice, g)); slices.Contains(got, mallory.InboxID()) {
		t.Errorf("members: %v", got)
	}
}

// A store belongs to one log: over another it does not open, and is not
// changed.
func TestAnotherLog(t *testing.T) {
	wire, store := newWire(t, membus.Config{}), memstore.New()
	w := newWorld(t, wire.config, func(c *conclave.Config) { c.Store = store })
	w.newGroup(conclave.GroupOptions{}, w.clients(2)...)
	w.do(w.host.Close(w.ctx))
	before := hashRows(t, store)
	other := newWire(t, membus.Config{})
	if _, err := conclave.Open(w.ctx, conclave.Config{Bus: other, Store: store}); !errors.Is(err, conclave.ErrLogRolledBack) {
		t.Errorf("over another log: %v", err)
	}
	if hashRows(t, store) != before {
		t.Error("the rows changed")
	}
}

// Junk on every topic, and broken copies of what is real, are read past.
func TestJunkOnTheWire(t *testing.T) {
	wire := newWire(t, membus.Config{})
	w := newWorld(t, wire.config)
	c := w.clients(3)
	g := w.newGroup(conclave.GroupOptions{Name: "named"}, c[:2]...)
	theirs := w.of(c[1], g)
	w.send(g, "1")
	wire.mu.Lock()
	real := append([]bus.Envelope(nil), wire.sent...)
	wire.mu.Unlock()
	for _, e := range real {
		flipped := bytes.Clone(e.Payload)
		flipped[len(flipped)/2] ^= 1
		for _, junk := range [][]byte{nil, {0}, []byte("junk"), e.Payload[:len(e.Payload)/2], append(bytes.Clone(e.Payload), 0), flipped, make([]byte, 1<<20)} {
			must[bus.Ack](t)(wire.Bus.Publish(w.ctx, e.Topic, junk))
		}
	}
	id := c[2].InstallationID()
	must[bus.Ack](t)(wire.Bus.Publish(w.ctx, must[bus.Topic](t)(bus.WelcomesFor(id[:])), []byte("junk")))
	w.send(theirs, "2")
	w.do(g.AddMembers(w.ctx, c[2].Address()))
	w.send(g, "3")
	w.reads(w.of(c[1], g), "1", "2", "3")
	w.reads(g, "1", "2", "3")
	w.reads(w.of(c[2], g), "3")
}

// A configuration that makes no sense is refused before anything is opened.
func TestBadConfig(t *testing.T) {
	b := membus.New(membus.Config{})
	t.Cleanup(func() { b.Close() })
	for _, c := range []conclave.Config{
		{}, {Bus: b}, {Store: memstore.New()}, {Bus: b, NATS: "nats://localhost", Store: memstore.New()}, {Bus: b, Store: memstore.New(), GroupSize: -1},
	} {
		if _, err := conclave.Open(t.Context(), c); err == nil {
			t.Errorf("%+v opens", c)
		}
	}
}
