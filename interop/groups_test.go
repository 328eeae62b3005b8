//go:build interop

package interop

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// Real clients find Conclave's installations by their wallets' addresses, and the
// other way round, and both read the same identity log.
func TestWalkKnowingEachOther(t *testing.T) {
	s := begin(t, "each knows the other's wallets and installations")
	ada := s.real("ada")[0]
	gus, gil := s.ours(s.nats, "gus")[0], s.ours(s.grpc, "gil")[0]
	const stranger = "0x000000000000000000000000000000000000dead"

	var can map[string]bool
	s.do(ada.call(s.ctx, "canMessage", args{"addresses": []string{gus.client.Address(), gil.client.Address(), stranger}}, &can))
	if !can[gus.client.Address()] || !can[gil.client.Address()] || can[stranger] {
		t.Errorf("ada can message %v", can)
	}
	for _, m := range []*goMember{gus, gil} {
		can, err := m.client.CanMessage(s.ctx, ada.address, stranger)
		s.do(err)
		if !can[ada.address] || can[stranger] {
			t.Errorf("%s can message %v", m.name, can)
		}
		var state struct{ Installations, Addresses []string }
		s.do(ada.call(s.ctx, "inboxState", args{"inbox": m.Inbox()}, &state))
		if !slices.Equal(state.Installations, []string{m.Installation()}) || !slices.Equal(state.Addresses, []string{m.client.Address()}) {
			t.Errorf("ada takes %s for %+v", m.name, state)
		}
	}
	state, err := s.grpc.InboxState(s.ctx, ada.Inbox())
	s.do(err)
	if len(state.Installations) != 1 || installationHex(state.Installations[0]) != ada.Installation() || !slices.Equal(state.Addresses, []string{ada.address}) {
		t.Errorf("Conclave takes ada for %+v", state)
	}
}

// A Go installation added by a real client reads and answers.
func TestWalkRealAddsGo(t *testing.T) {
	s := begin(t, "a real client makes a group and adds Go installations")
	ada := s.real("ada")[0]
	gus, gil := s.ours(s.nats, "gus")[0], s.ours(s.grpc, "gil")[0]
	theirs := must[room](t)(ada.NewGroup(s.ctx, "made by ada", gus))
	s.do(theirs.Add(s.ctx, gil))
	rooms := append([]room{theirs}, s.enterAll(theirs.ID(), gus, gil)...)
	s.say(theirs, "welcome")
	s.say(rooms[1], "thanks")
	s.say(rooms[2], "hello over gRPC")
	s.say(theirs, "good")
	s.agree(rooms, "ada: welcome", "gus: thanks", "gil: hello over gRPC", "ada: good")
}

// A Go-created group is one that real clients accept, talk in, and rename.
func TestWalkGoAddsReal(t *testing.T) {
	for _, transport := range []string{"NATS", "gRPC"} {
		t.Run(transport, func(t *testing.T) {
			s := begin(t, "a Go installation over "+transport+" makes a group and adds real clients")
			gus, real := s.ours(s.host(transport), "gus")[0], s.real("ada", "bob")
			ours := must[room](t)(gus.NewGroup(s.ctx, "made by gus", real[0]))
			s.do(ours.Add(s.ctx, real[1]))
			rooms := append([]room{ours}, s.enterAll(ours.ID(), mixed(real, []*goMember(nil))...)...)
			s.say(ours, "welcome")
			s.say(rooms[1], "thanks")
			s.do(rooms[2].Rename(s.ctx, "renamed by bob"))
			s.say(rooms[2], "better?")
			s.say(ours, "yes")
			if v := s.agree(rooms, "gus: welcome", "ada: thanks", "bob: better?", "gus: yes"); v.Name != "renamed by bob" {
				t.Errorf("the group is called %q", v.Name)
			}
		})
	}
}

// Two of each in one group: every one of them renames it, adds somebody, has
// them talk, removes them, and was made super admin by another.
func TestWalkTwoOfEach(t *testing.T) {
	s := begin(t, "two of each: every one renames, adds, removes and promotes")
	real := s.real("ada", "bob", "newreal")
	gus, gil, newGo := s.ours(s.nats, "gus")[0], s.ours(s.grpc, "gil")[0], s.ours(s.nats, "newgo")[0]
	ada, bob := real[0], real[1]
	first := must[room](t)(ada.NewGroup(s.ctx, "four", gus, bob, gil))
	members := []member{ada, gus, bob, gil}
	rooms := append([]room{first}, s.enterAll(first.ID(), members[1:]...)...)
	for i, r := range rooms[:3] {
		s.do(r.Promote(s.ctx, members[i+1], superAdmin))
		if v := s.agree(rooms[:]); v.Roles[members[i+1].Inbox()] != superAdmin {
			t.Fatalf("%s is no super admin", members[i+1].Name())
		}
	}
	var want []string
	newcomers := []member{newGo, real[2], newGo, real[2]} // each adds one of the other kind
	for i, r := range rooms {
		name := "renamed by " + members[i].Name()
		s.do(r.Rename(s.ctx, name))
		s.do(r.Add(s.ctx, newcomers[i]))
		theirs := s.enter(first.ID(), newcomers[i])
		s.say(theirs, "in by "+members[i].Name())
		s.say(r, "and out")
		want = append(want, newcomers[i].Name()+": in by "+members[i].Name(), members[i].Name()+": and out")
		if v := s.agree(rooms, want...); v.Name != name || len(v.Members) != 5 {
			t.Fatalf("%q with %d members", v.Name, len(v.Members))
		}
		s.do(r.Remove(s.ctx, newcomers[i]))
		if v := s.agree(rooms, want...); len(v.Members) != 4 {
			t.Fatalf("%d members after the removal", len(v.Members))
		}
	}
}

// More than two who are added at once get pointers to one shared welcome, where
// all can read them.
func TestWalkManyAddedAtOnce(t *testing.T) {
	for _, creator := range []string{"a real client", "a Go installation"} {
		t.Run(creator, func(t *testing.T) {
			s := begin(t, creator+" adds five at once")
			real := s.real("ada", "bob", "cyd")
			ours := append(s.ours(s.nats, "gus", "gil"), s.ours(s.grpc, "gem")...)
			members := mixed(real, ours)
			if creator != "a real client" {
				members = mixed(ours, real)
			}
			first := must[room](t)(members[0].NewGroup(s.ctx, "six", members[1:]...))
			rooms := append([]room{first}, s.enterAll(first.ID(), members[1:]...)...)
			var want []string
			for i, r := range rooms {
				s.say(r, fmt.Sprint("line ", i))
				want = append(want, fmt.Sprint(members[i].Name(), ": line ", i))
			}
			s.agree(rooms, want...)
		})
	}
}

// A group of 100: 95 installations of Conclave's and 5 real clients; half of the
// members are brought in by a Go installation and half by a real client.
func TestHundredMembers(t *testing.T) {
	s := begin(t, "a group of 95 Go installations and 5 real clients")
	names := make([]string, 95)
	for i := range names {
		names[i] = fmt.Sprint("go", i)
	}
	ours := append(s.ours(s.nats, names[:50]...), s.ours(s.grpc, names[50:]...)...)
	real := s.real("ada", "bob", "cyd", "dee", "eve")
	first := must[room](t)(ours[0].NewGroup(s.ctx, "hundred", mixed(ours[1:45], real)...))
	ada := s.enter(first.ID(), real[0])
	s.do(ada.Add(s.ctx, mixed(ours[45:], []*realMember(nil))...))
	rooms := append([]room{first, ada}, s.enterAll(first.ID(), mixed(real[1:], ours[1:])...)...)
	s.agree(rooms) // who has not seen the newcomers come in speaks over their heads
	var want []string
	for _, i := range []int{0, 1, 2, 6, 60, 99} {
		text := fmt.Sprint("to a hundred, from place ", i)
		s.say(rooms[i], text)
		want = append(want, rooms[i].Member().Name()+": "+text)
	}
	if v := s.agree(rooms, want...); len(v.Members) != 100 {
		t.Fatalf("%d members", len(v.Members))
	}
}

// Whoever is removed knows it, reads nothing that comes after, and cannot send.
func TestWalkRemovedMember(t *testing.T) {
	s := begin(t, "a removed member reads nothing that comes after")
	real, gus, gil := s.real("ada", "bob"), s.ours(s.nats, "gus")[0], s.ours(s.grpc, "gil")[0]
	first := must[room](t)(real[0].NewGroup(s.ctx, "leaving", real[1], gus, gil))
	bob, ours, grpc := s.enter(first.ID(), real[1]), s.enter(first.ID(), gus), s.enter(first.ID(), gil)
	s.do(first.Promote(s.ctx, gus, superAdmin))
	s.say(first, "all here")
	s.agree([]room{first, bob, ours, grpc}, "ada: all here")

	s.do(first.Remove(s.ctx, gil)) // a real client removes a Go installation
	s.say(first, "without gil")
	s.do(poll(s.ctx, func() error { _, err := ours.Look(s.ctx); return err }))
	s.do(ours.Remove(s.ctx, real[1])) // and a Go installation removes a real client
	s.say(ours, "without bob")
	s.agree([]room{first, ours}, "ada: all here", "ada: without gil", "gus: without bob")

	for gone, want := range map[room][]string{grpc: {"ada: all here"}, bob: {"ada: all here", "ada: without gil"}} {
		name := gone.Member().Name()
		s.do(poll(s.ctx, func() error {
			v, err := gone.Look(s.ctx)
			if err == nil && v.Active {
				err = errors.New(name + " takes itself for a member")
			}
			if err == nil && !slices.Equal(s.lines(v), want) {
				err = fmt.Errorf("%s reads %q, not %q", name, s.lines(v), want)
			}
			return err
		}))
		if err := gone.Send(s.ctx, "still here"); err == nil {
			t.Errorf("%s sends", name)
		}
	}
	s.agree([]room{first, ours}, "ada: all here", "ada: without gil", "gus: without bob")
}
