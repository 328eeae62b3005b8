package features

import (
	"errors"
	"slices"
	"testing"

	"github.com/conclave-chat/conclave"
	membus "github.com/conclave-chat/conclave/bus/memory"
)

// How a member stands to its group, as its owner sees it.

// Who was removed sees a list of members without itself, after a restart as at
// the moment of the removal, and its standing says so.
func TestRemovedMemberIsNotInItsOwnList(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	w.host = must[*conclave.Host](t)(conclave.Open(w.ctx, conclave.Config{Dir: dir}))
	c := w.clients(3)
	g := w.newGroup(conclave.GroupOptions{}, c...)
	theirs := w.of(c[1], g)
	if info := must[conclave.Info](t)(theirs.Info(w.ctx)); info.Standing != conclave.StandingFollowing {
		t.Errorf("a member is %v", info.Standing)
	}
	w.do(g.RemoveMembers(w.ctx, c[1].Address()))
	w.do(theirs.Sync(w.ctx))
	before := w.inboxes(theirs)
	if slices.Contains(before, c[1].InboxID()) || len(before) != 2 {
		t.Errorf("right after the removal its list is %v", before)
	}
	w.do(w.host.Close(w.ctx))
	w.host = must[*conclave.Host](t)(conclave.Open(w.ctx, conclave.Config{Dir: dir}))
	defer w.host.Close(w.ctx)
	again := must[*conclave.Client](t)(w.host.LoadClient(w.ctx, c[1].InstallationID(), c[1].DatabaseKey()))
	theirs = must[*conclave.Group](t)(again.Conversations().Get(w.ctx, g.ID()))
	if after := w.inboxes(theirs); !slices.Equal(before, after) {
		t.Errorf("%d members before the restart, %d after it", len(before), len(after))
	}
	if info := must[conclave.Info](t)(theirs.Info(w.ctx)); info.Standing != conclave.StandingInactive || info.Active || info.Stalled != "" {
		t.Errorf("its info after the restart is %+v", info)
	}
}

// An installation that was taken back is told so by name, whatever it tries.
func TestRevokedInstallationIsToldByName(t *testing.T) {
	wire := newWire(t, membus.Config{})
	a, b := newWorld(t, wire.config), newWorld(t, wire.config)
	wallet, _ := a.wallet()
	phone, laptop := b.installation(wallet, "phone"), a.installation(wallet, "laptop")
	bo := a.client()
	a.do(laptop.RevokeInstallations(a.ctx, wallet, phone.InstallationID()))
	if _, err := phone.Conversations().NewGroup(b.ctx, addresses(bo), conclave.GroupOptions{}); !errors.Is(err, conclave.ErrRevoked) {
		t.Errorf("a new group: %v", err)
	}
	for range 2 {
		if _, err := phone.Conversations().NewDm(b.ctx, bo.Address()); !errors.Is(err, conclave.ErrRevoked) {
			t.Errorf("a new direct message: %v", err)
		}
	}
	if _, err := phone.Conversations().NewGroup(b.ctx, nil, conclave.GroupOptions{}); !errors.Is(err, conclave.ErrRevoked) {
		t.Errorf("a group of its own: %v", err)
	}
	if all := must[[]conclave.Conversation](t)(phone.Conversations().ListAll(b.ctx)); len(all) != 0 {
		t.Errorf("%d conversations are left of that", len(all))
	}
}

// An installation that was taken back, and heard of it, is told so whenever it is
// opened. It can be read, and sends nothing.
func TestRevokedInstallationIsToldWhenItOpens(t *testing.T) {
	wire := newWire(t, membus.Config{})
	a, b := newWorld(t, wire.config), newWorld(t, wire.config)
	wallet, _ := a.wallet()
	phone, laptop := b.installation(wallet, "phone"), a.installation(wallet, "laptop")
	bo := a.client()
	g := must[*conclave.Group](t)(phone.Conversations().NewGroup(b.ctx, addresses(bo), conclave.GroupOptions{}))
	b.send(g, "before")
	a.do(laptop.RevokeInstallations(a.ctx, wallet, phone.InstallationID()))
	if _, err := phone.Conversations().NewGroup(b.ctx, nil, conclave.GroupOptions{}); !errors.Is(err, conclave.ErrRevoked) {
		t.Errorf("a group of its own: %v", err)
	}
	b.do(phone.Close(b.ctx))
	again, err := b.host.LoadClient(b.ctx, phone.InstallationID(), phone.DatabaseKey())
	if !errors.Is(err, conclave.ErrRevoked) || again == nil {
		t.Fatalf("loaded as %v, %v", again, err)
	}
	g = b.of(again, g)
	b.reads(g, "before")
	if c, err := b.host.CreateClient(b.ctx, wallet, conclave.ClientOptions{Database: "phone", DatabaseKey: phone.DatabaseKey()}); !errors.Is(err, conclave.ErrRevoked) || c == nil {
		t.Errorf("opened as %v, %v", c, err)
	}
	message := must[conclave.MessageID](t)(g.Send(b.ctx, conclave.Text("after")))
	if status := must[conclave.DeliveryStatus](t)(g.Wait(b.ctx, message)); status != conclave.Failed {
		t.Errorf("what it sends is %v", status)
	}
	if err := g.UpdateName(b.ctx, "mine"); !errors.Is(err, conclave.ErrRevoked) {
		t.Errorf("it renames: %v", err)
	}
}
