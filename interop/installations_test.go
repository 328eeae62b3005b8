//go:build interop

package interop

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// notice has a member talk until all agree that an installation is in the group,
// or that it is not. Whoever sends looks at the members' installations, at most
// every five seconds: the SDK and Conclave alike.
func (s *scenario) notice(speaker room, text string, rooms []room, of member, want bool) {
	s.t.Helper()
	s.do(pollEvery(s.ctx, time.Second, func() error {
		s.say(speaker, text)
		if v := s.agree(rooms); slices.Contains(v.Installations, of.Installation()) != want {
			return fmt.Errorf("%s in the group: %v", of.Name(), !want)
		}
		return nil
	}))
}

// A second installation of a member's inbox comes into its groups when others
// send there, and leaves when it is revoked: a real client's by a Go
// installation's hand, and the other way round.
func TestSecondInstallations(t *testing.T) {
	s := begin(t, "a second installation of one inbox on each side, added and revoked")
	ada := s.real("ada")[0]
	wallet := newWallet()
	gus := must[*goMember](t)(newGoMember(s.ctx, s.nats, "gus", wallet, "first"))
	s.met(gus)
	theirs := must[room](t)(ada.NewGroup(s.ctx, "two each", gus))
	ours := s.enter(theirs.ID(), gus)
	both := []room{theirs, ours}
	s.say(theirs, "alone")
	s.say(ours, "likewise")
	s.agree(both, "ada: alone", "gus: likewise")

	ada2 := s.again(ada, "ada's second")
	s.notice(ours, "come in, ada's second", both, ada2, true)
	theirs2 := s.enter(theirs.ID(), ada2)
	s.say(theirs2, "I am in")

	gus2 := must[*goMember](t)(newGoMember(s.ctx, s.grpc, "gus's second", wallet, "second"))
	s.row.ours += 2
	s.notice(theirs, "come in, gus's second", both, gus2, true)
	ours2 := s.enter(theirs.ID(), gus2)
	s.say(ours2, "me too")
	v := s.agree(both)
	want := []string{"ada: alone", "gus: likewise", "gus: come in, ada's second", "ada: I am in", "ada: come in, gus's second", "gus: me too"}
	if got := slices.Compact(s.lines(v)); !slices.Equal(got, want) || len(v.Installations) != 4 || len(v.Members) != 2 {
		t.Fatalf("%d installations of %d members read %q", len(v.Installations), len(v.Members), got)
	}

	s.do(ada.call(s.ctx, "revoke", args{"installations": []string{ada2.Installation()}}, nil))
	s.notice(ours, "one of ada's is revoked", both, ada2, false)
	s.do(gus.client.RevokeInstallations(s.ctx, wallet, gus2.client.InstallationID()))
	s.notice(theirs, "and one of gus's", both, gus2, false)
	s.say(ours, "two are left")
	if v := s.agree(both); len(v.Installations) != 2 || len(v.Members) != 2 {
		t.Errorf("%d installations of %d members", len(v.Installations), len(v.Members))
	}
	for _, revoked := range []room{theirs2, ours2} {
		v, err := revoked.Look(s.ctx)
		if err == nil && (v.Active && v.Forked == "" || slices.Contains(s.lines(v), "gus: two are left")) {
			t.Errorf("%s, revoked, reads on: %s", revoked.Member().Name(), s.describe(v))
		}
	}
}

// Two real clients of one inbox that sync their devices make groups of their
// own for that; a group with Go installations goes on beside them.
func TestDeviceSync(t *testing.T) {
	s := begin(t, "clients with device sync switched on")
	key := newKey()
	with := args{"url": s.network.xmtpURL(), "deviceSync": true}
	ada := must[*realMember](t)(newRealMember(s.ctx, s.driver, "ada", key, with))
	s.met(ada)
	ada2 := must[*realMember](t)(newRealMember(s.ctx, s.driver, "ada's second", key, with))
	s.row.real += 2
	gus, gil := s.ours(s.nats, "gus")[0], s.ours(s.grpc, "gil")[0]
	ours := must[room](t)(gus.NewGroup(s.ctx, "synced", ada, gil))
	rooms := append([]room{ours}, s.enterAll(ours.ID(), ada, ada2, gil)...)
	var want []string
	for i, r := range rooms {
		s.say(r, fmt.Sprint("line ", i))
		want = append(want, fmt.Sprintf("%s: line %d", s.name(r.Member().Inbox()), i))
	}
	if v := s.agree(rooms, want...); len(v.Installations) != 4 {
		t.Errorf("%d installations", len(v.Installations))
	}
}
