package features

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus"
	membus "github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/persistence"
	memstore "github.com/conclave-chat/conclave/persistence/memory"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

func (w *world) dm(of, with *conclave.Client) *conclave.Dm {
	w.t.Helper()
	return must[*conclave.Dm](w.t)(of.Conversations().NewDm(w.ctx, with.Address()))
}

// said lists a conversation's texts.
func (w *world) said(c conclave.Conversation) []string {
	w.t.Helper()
	var out []string
	for _, m := range must[[]*conclave.Message](w.t)(c.Messages(w.ctx, conclave.MessageQuery{})) {
		if text, ok := m.Content.(conclave.Text); ok {
			out = append(out, string(text))
		}
	}
	return out
}

// tell sends a text and waits until it is published.
func (w *world) tell(c conclave.Conversation, text string) {
	w.t.Helper()
	id := must[conclave.MessageID](w.t)(c.Send(w.ctx, conclave.Text(text)))
	if status := must[conclave.DeliveryStatus](w.t)(c.Wait(w.ctx, id)); status != conclave.Published {
		w.t.Fatalf("%q is %v", text, status)
	}
}

// S92: a direct message is found again by either side, holds what both say, and
// has nobody above the other: nobody joins, is removed, or is made an admin.
func TestDirectMessage(t *testing.T) {
	w := newWorld(t)
	c := w.clients(3)
	alix, bo, caro := c[0], c[1], c[2]
	ours := w.dm(alix, bo)
	w.tell(ours, "hello")
	w.do(bo.Conversations().SyncAll(w.ctx))
	theirs := w.dm(bo, alix)
	if theirs.ID() != ours.ID() || theirs.PeerInboxID() != alix.InboxID() || ours.PeerInboxID() != bo.InboxID() {
		t.Fatalf("bo opened %v with %s", theirs.ID(), theirs.PeerInboxID())
	}
	w.tell(theirs, "hi")
	w.do(ours.Sync(w.ctx))
	if got := fmt.Sprint(w.said(ours), w.said(theirs)); got != "[hello hi] [hello hi]" {
		t.Errorf("said %s", got)
	}
	if again := must[*conclave.Dm](t)(alix.Conversations().NewDmWithInboxID(w.ctx, bo.InboxID())); again.ID() != ours.ID() {
		t.Error("opened a second one")
	}
	if got := must[*conclave.Dm](t)(alix.Conversations().GetDmByInboxID(w.ctx, bo.InboxID())); got.ID() != ours.ID() {
		t.Error("found another one")
	}
	if _, err := alix.Conversations().GetDmByInboxID(w.ctx, caro.InboxID()); !errors.Is(err, conclave.ErrNoGroup) {
		t.Errorf("a direct message with a stranger: %v", err)
	}
	for _, m := range must[[]conclave.Member](t)(theirs.Members(w.ctx)) {
		if m.Role != conclave.RoleMember {
			t.Errorf("%s has role %v", m.InboxID, m.Role)
		}
	}
	for _, c := range []*conclave.Client{alix, bo} {
		g := must[*conclave.Group](t)(c.Conversations().Get(w.ctx, ours.ID()))
		for name, err := range map[string]error{
			"add":         g.AddMembers(w.ctx, caro.Address()),
			"remove":      g.RemoveMembersByInboxID(w.ctx, map[*conclave.Client]string{alix: bo.InboxID(), bo: alix.InboxID()}[c]),
			"role":        g.SetRole(w.ctx, c.InboxID(), conclave.RoleAdmin),
			"permissions": g.UpdatePermissions(w.ctx, conclave.AllMembers),
		} {
			if !errors.Is(err, conclave.ErrForbidden) {
				t.Errorf("%s in a direct message: %v", name, err)
			}
		}
	}
	w.do(theirs.UpdateKeys(w.ctx))
	w.tell(theirs, "still here")
	w.do(ours.Sync(w.ctx))
	if said := w.said(ours); len(said) != 3 || !must[bool](t)(ours.IsActive(w.ctx)) {
		t.Errorf("after the key update alix reads %q", said)
	}
}

// A direct message with nobody, with oneself, or with somebody who has no
// installation is an error, and nothing is stored.
func TestDirectMessageWithNobody(t *testing.T) {
	w := newWorld(t)
	alix := w.client()
	stranger, _ := w.wallet()
	if _, err := alix.Conversations().NewDm(w.ctx, stranger.Address()); !errors.Is(err, conclave.ErrMemberNotReachable) {
		t.Errorf("with somebody who has no inbox: %v", err)
	}
	if _, err := alix.Conversations().NewDm(w.ctx, alix.Address()); !errors.Is(err, conclave.ErrInvalid) {
		t.Errorf("with oneself: %v", err)
	}
	if _, err := alix.Conversations().NewDm(w.ctx, "0x12"); !errors.Is(err, conclave.ErrBadAddress) {
		t.Errorf("with no address: %v", err)
	}
	if _, err := alix.Conversations().NewDmWithInboxID(w.ctx, "bo"); !errors.Is(err, conclave.ErrInvalid) {
		t.Errorf("with no inbox id: %v", err)
	}
	if all := must[[]conclave.Conversation](t)(alix.Conversations().ListAll(w.ctx)); len(all) != 0 {
		t.Errorf("%d conversations are left", len(all))
	}
}

// S92: both sides begin a direct message at the same time. It is one
// conversation: listed and streamed once, with the messages of both groups in
// their order, and both sides go on in the same group.
func TestDirectMessageFromBothSides(t *testing.T) {
	w := newWorld(t)
	c := w.clients(2)
	alix, bo := c[0], c[1]
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	ours, theirs := w.dm(alix, bo), w.dm(bo, alix) // neither has read its welcome
	if ours.ID() == theirs.ID() {
		t.Fatal("one group, though neither side knew of the other's")
	}
	w.tell(ours, "one")
	begun := alix.Conversations().StreamDms(ctx) // from here on alix hears of welcomes
	heard := ours.Stream(ctx)
	w.tell(theirs, "two")
	w.do(bo.Conversations().SyncAll(w.ctx))
	w.do(alix.Conversations().SyncAll(w.ctx))
	w.tell(ours, "three")
	w.do(theirs.Sync(w.ctx))
	w.tell(theirs, "four")
	w.do(ours.Sync(w.ctx))
	want := "[one two three four]"
	if got := fmt.Sprint(w.said(ours)); got != want {
		t.Errorf("alix reads %s", got)
	}
	if got := fmt.Sprint(w.said(theirs)); got != want {
		t.Errorf("bo reads %s", got)
	}
	var groups []conclave.GroupID
	var paged []string
	for after := uint64(0); ; {
		page := must[[]*conclave.Message](t)(ours.Messages(w.ctx, conclave.MessageQuery{After: after, Limit: 2}))
		if len(page) == 0 {
			break
		}
		for _, m := range page {
			if text, ok := m.Content.(conclave.Text); ok {
				paged, groups = append(paged, string(text)), append(groups, m.Group)
			}
			after = m.Position
		}
	}
	if fmt.Sprint(paged) != want {
		t.Errorf("by pages alix reads %q", paged)
	}
	if groups[0] == groups[1] || groups[2] != groups[3] {
		t.Errorf("sent to %v", groups)
	}
	var streamed []string
	for m, err := range heard {
		w.do(err)
		if text, ok := m.Content.(conclave.Text); ok {
			streamed = append(streamed, string(text))
		}
		if len(streamed) == 3 {
			break
		}
	}
	slices.Sort(streamed) // two groups have no order of their own
	if fmt.Sprint(streamed) != "[four three two]" {
		t.Errorf("streamed %q", streamed)
	}
	for _, c := range c {
		if dms := must[[]*conclave.Dm](t)(c.Conversations().ListDms(w.ctx)); len(dms) != 1 {
			t.Errorf("%d direct messages listed", len(dms))
		}
		if groups := must[[]*conclave.Group](t)(c.Conversations().List(w.ctx)); len(groups) != 0 {
			t.Errorf("%d groups listed", len(groups))
		}
	}
	// The other side's group is no news: this conversation was there. Somebody
	// else's is.
	caro := w.client()
	w.dm(caro, alix)
	for dm, err := range begun {
		w.do(err)
		if dm.PeerInboxID() != caro.InboxID() {
			t.Errorf("news of a direct message with %s", dm.PeerInboxID())
		}
		break
	}
}

// S41: groups and direct messages in one list, typed, the newest first.
func TestListAll(t *testing.T) {
	w := newWorld(t)
	c := w.clients(3)
	alix := c[0]
	var want []string
	for i := range 3 {
		g := w.newGroup(conclave.GroupOptions{Name: fmt.Sprint("group ", i)}, alix, c[1])
		w.send(g, "hello")
		want = append(want, g.ID().String())
	}
	for _, peer := range c[1:] {
		dm := w.dm(alix, peer)
		w.tell(dm, "hello")
		want = append(want, dm.PeerInboxID())
	}
	slices.Reverse(want)
	var got []string
	for _, one := range must[[]conclave.Conversation](t)(alix.Conversations().ListAll(w.ctx)) {
		switch one := one.(type) {
		case *conclave.Group:
			got = append(got, one.ID().String())
		case *conclave.Dm:
			got = append(got, one.PeerInboxID())
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	if state := must[conclave.LocalState](t)(alix.LocalState(w.ctx)); state.Groups != 5 {
		t.Errorf("the local database has %d conversations", state.Groups)
	}
}

// X23: the keys for push servers tell own messages from others', in every
// conversation, and print as nothing.
func TestHmacKeys(t *testing.T) {
	log := membus.New(membus.Config{})
	t.Cleanup(func() { log.Close() })
	w := newWorld(t, func(c *conclave.Config) { c.Bus = log })
	c := w.clients(2)
	g := w.newGroup(conclave.GroupOptions{}, c[0], c[1])
	w.send(g, "mine")
	w.send(w.of(c[1], g), "theirs")
	dm := w.dm(c[0], c[1])
	keys := must[map[conclave.GroupID][]conclave.HmacKey](t)(c[0].HmacKeys(w.ctx))
	if len(keys) != 2 || len(keys[dm.ID()]) != 3 {
		t.Fatalf("keys for %d conversations, %d for the direct message", len(keys), len(keys[dm.ID()]))
	}
	now := keys[g.ID()][1]
	if keys[g.ID()][0].Epoch != now.Epoch-1 || keys[g.ID()][2].Epoch != now.Epoch+1 || fmt.Sprintf("%v %+v", now, keys) == fmt.Sprint(now.Key) {
		t.Errorf("epochs around %d", now.Epoch)
	}
	id := g.ID()
	topic := must[bus.Topic](t)(bus.MessagesOf(id[:]))
	var marked []bool
	for _, e := range must[[]bus.Envelope](t)(log.Read(w.ctx, 0, 100, topic)) {
		var m mlsapi.GroupMessageInput
		w.do(proto.Unmarshal(e.Payload, &m))
		h := hmac.New(sha256.New, now.Key)
		h.Write(m.GetV1().GetData())
		marked = append(marked, hmac.Equal(h.Sum(nil), m.GetV1().GetSenderHmac()))
	}
	if fmt.Sprint(marked) != "[true false]" {
		t.Errorf("own messages: %v", marked)
	}
}

// S92: every installation of both inboxes has the direct message, whichever of
// them began it, also after the host was away.
func TestDirectMessageOfManyInstallations(t *testing.T) {
	w := newWorld(t)
	wallet, _ := w.wallet()
	phone, laptop := w.installation(wallet, "phone"), w.installation(wallet, "laptop")
	bo := w.client()
	w.tell(w.dm(phone, bo), "from the phone")
	w.do(laptop.Conversations().SyncAll(w.ctx))
	w.do(bo.Conversations().SyncAll(w.ctx))
	onLaptop := w.dm(laptop, bo)
	if onLaptop.PeerInboxID() != bo.InboxID() {
		t.Fatalf("on the laptop it is with %s", onLaptop.PeerInboxID())
	}
	w.tell(onLaptop, "from the laptop")
	theirs := w.dm(bo, phone)
	w.do(theirs.Sync(w.ctx))
	if got := fmt.Sprint(w.said(theirs)); got != "[from the phone from the laptop]" {
		t.Errorf("bo reads %s", got)
	}
	w.do(bo.Close(w.ctx))
	again := must[*conclave.Client](t)(w.host.LoadClient(w.ctx, bo.InstallationID(), bo.DatabaseKey()))
	dms := must[[]*conclave.Dm](t)(again.Conversations().ListDms(w.ctx))
	if len(dms) != 1 || dms[0].PeerInboxID() != phone.InboxID() || len(must[[]conclave.Member](t)(dms[0].Members(w.ctx))) != 2 {
		t.Errorf("after loading: %d direct messages", len(dms))
	}
}

// What could not be sent in a direct message can be sent again there.
func TestDirectMessageRetry(t *testing.T) {
	w := newWorld(t)
	c := w.clients(2)
	dm := w.dm(c[0], c[1])
	if err := dm.Retry(w.ctx, conclave.MessageID{1}); !errors.Is(err, conclave.ErrNoMessage) {
		t.Errorf("retry of nothing: %v", err)
	}
	if _, err := dm.Send(w.ctx, conclave.Text(make([]byte, 4<<20))); !errors.Is(err, conclave.ErrTooLarge) {
		t.Errorf("a message over the limit: %v", err)
	}
}

// A toldStore calls a function after each write.
type toldStore struct {
	*memstore.Store
	wrote atomic.Pointer[func()]
}

func (s *toldStore) Apply(ctx context.Context, b *persistence.Batch, d persistence.Durability) error {
	err := s.Store.Apply(ctx, b, d)
	if f := s.wrote.Load(); f != nil {
		(*f)()
	}
	return err
}

// A direct message whose host stopped before it had added the other side, is
// formed when it is opened again: what is sent there is for somebody.
func TestDirectMessageIsFormedLater(t *testing.T) {
	store := &toldStore{Store: memstore.New()}
	w := newWorld(t, func(c *conclave.Config) { c.Store = store })
	c := w.clients(2)
	alix, bo := c[0], c[1]
	must[map[string]bool](t)(w.host.CanMessage(w.ctx, bo.Address())) // so that the next write is the group's
	ctx, stop := context.WithCancel(w.ctx)
	tell := func() { stop() }
	store.wrote.Store(&tell)
	if _, err := alix.Conversations().NewDm(ctx, bo.Address()); !errors.Is(err, context.Canceled) {
		t.Fatalf("a call that was cut off: %v", err)
	}
	store.wrote.Store(nil)
	half := must[[]*conclave.Dm](t)(alix.Conversations().ListDms(w.ctx))
	if len(half) != 1 || len(must[[]conclave.Member](t)(half[0].Members(w.ctx))) != 1 {
		t.Fatalf("it is not half made: %v", half)
	}
	ours := w.dm(alix, bo)
	w.tell(ours, "hello")
	w.do(bo.Conversations().SyncAll(w.ctx))
	if got := fmt.Sprint(w.said(w.dm(bo, alix))); got != "[hello]" {
		t.Errorf("bo reads %s", got)
	}
}
