package group_test

import (
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/conclave-chat/conclave/group"
)

// S92: a direct message that is made here says of itself what one says that a
// real client made: its kind, the two inboxes with the creator first, the same
// attributes and policies, and no admins.
func TestDirectMessageIsAsRealClientsMakeIt(t *testing.T) {
	w := newWorld(t)
	w.run(words("people alice bob"))
	alice := w.homes["alice"]
	r, _, err := group.Create(alice.env(), group.CreateConfig{Kind: group.KindDM, Peer: w.inboxes["bob"].id, Now: w.tick()})
	w.must(err)
	ours := r.Metadata()
	if ours.Creator != w.inboxes["alice"].id || ours.DM != [2]string{ours.Creator, w.inboxes["bob"].id} {
		t.Errorf("between %q, by %s", ours.DM, ours.Creator)
	}
	if s := r.Summary(); s.Kind != group.KindDM || s.DMID() != group.DMID(ours.DM[1], ours.DM[0]) || !s.KeepsCommitLog {
		t.Errorf("summary %+v", s)
	}
	var f passiveFile
	readJSON(t, filepath.Join(vectors(t), "passive-join.json"), &f)
	i := slices.IndexFunc(f.Scenarios, func(s scenario) bool { return s.Name == "s04_dm_x25519" })
	real := f.Scenarios[i].Joiners[0].Welcomes[0].Expect.State
	if uint8(ours.Kind) != real.Immutable.ConversationType || len(ours.Admins)+len(ours.SuperAdmins) != len(real.Admins)+len(real.SuperAdmins) {
		t.Errorf("kind %d, admins %q and %q", ours.Kind, ours.Admins, ours.SuperAdmins)
	}
	if got, want := slices.Sorted(maps.Keys(ours.Attributes)), slices.Sorted(maps.Keys(real.Attributes)); !slices.Equal(got, want) {
		t.Errorf("attributes %q, want %q", got, want)
	}
	p, q := &ours.Permissions, &real.Permissions
	for got, want := range map[*group.Policy]string{&p.AddMember: q.AddMember, &p.RemoveMember: q.RemoveMember,
		&p.AddAdmin: q.AddAdmin, &p.RemoveAdmin: q.RemoveAdmin, &p.UpdatePermissions: q.UpdatePermissions} {
		if got.String() != want {
			t.Errorf("policy %v, want %s", got, want)
		}
	}
	if len(p.Metadata) != len(q.UpdateMetadata) {
		t.Errorf("%d policies of attributes, want %d", len(p.Metadata), len(q.UpdateMetadata))
	}
	for name, want := range q.UpdateMetadata {
		if got := p.Metadata[name]; got.String() != want {
			t.Errorf("policy of %s is %v, want %s", name, got, want)
		}
	}
}
