//go:build interop

package interop

import (
	"fmt"
	"slices"
	"testing"
)

// A DM that a real client opens is the one that a Go installation answers in.
func TestWalkRealOpensDM(t *testing.T) {
	for _, transport := range []string{"NATS", "gRPC"} {
		t.Run(transport, func(t *testing.T) {
			s := begin(t, "a real client opens a DM with a Go installation over "+transport)
			ada := s.real("ada")[0]
			gus := s.ours(s.host(transport), "gus")[0]
			theirs := must[room](t)(ada.NewDM(s.ctx, gus))
			s.say(theirs, "are you there?")
			ours := s.enter(theirs.ID(), gus)
			s.say(ours, "I am")
			s.agree([]room{theirs, ours}, "ada: are you there?", "gus: I am")
		})
	}
}

// A DM that a Go installation opens is the one that a real client finds by its
// peer.
func TestWalkGoOpensDM(t *testing.T) {
	for _, transport := range []string{"NATS", "gRPC"} {
		t.Run(transport, func(t *testing.T) {
			s := begin(t, "a Go installation over "+transport+" opens a DM with a real client")
			ada := s.real("ada")[0]
			gus := s.ours(s.host(transport), "gus")[0]
			ours := must[room](t)(gus.NewDM(s.ctx, ada))
			s.say(ours, "are you there?")
			theirs := s.enter(ours.ID(), ada)
			s.say(theirs, "I am")
			s.agree([]room{ours, theirs}, "gus: are you there?", "ada: I am")
			var id string
			s.do(ada.call(s.ctx, "dm", args{"inbox": gus.Inbox()}, &id))
			if id != ours.ID() {
				t.Errorf("ada's DM with gus is %q, not %s", id, ours.ID())
			}
		})
	}
}

// A DM that both open at the same time is two groups and one conversation: each
// side reads all of it.
func TestWalkBothOpenDM(t *testing.T) {
	s := begin(t, "both open a DM with each other at the same time")
	ada, gus := s.real("ada")[0], s.ours(s.grpc, "gus")[0]
	var theirs, ours room
	s.together(
		func() (err error) { theirs, err = ada.NewDM(s.ctx, gus); return err },
		func() (err error) { ours, err = gus.NewDM(s.ctx, ada); return err },
	)
	s.say(theirs, "from ada")
	s.say(ours, "from gus")
	want := []string{"ada: from ada", "gus: from gus"}
	for _, r := range []room{theirs, ours} {
		s.do(poll(s.ctx, func() error {
			if _, err := r.Member().Rooms(s.ctx); err != nil {
				return err
			}
			if real, ok := r.Member().(*realMember); ok {
				if err := real.call(s.ctx, "syncAll", nil, nil); err != nil {
					return err
				}
			}
			v, err := r.Look(s.ctx)
			got := s.lines(v)
			slices.Sort(got)
			if err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("%s reads %q", r.Member().Name(), got)
			}
			s.row.members, s.row.epoch = len(v.Members), v.Epoch
			return err
		}))
		s.row.read += len(want)
	}
}
