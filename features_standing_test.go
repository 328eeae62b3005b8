package conclave_test

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
	if _, err := phone.Conversations().NewDm(b.ctx, bo.Address()); !errors.Is(err, conclave.ErrRevoked) {
		t.Errorf("a new direct message: %v", err)
	}
}
