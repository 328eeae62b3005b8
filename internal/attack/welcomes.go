package attack

import (
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/internal/forge"
	"github.com/conclave-chat/conclave/internal/sim"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/contents"
)

// Welcomes that nobody should take, and those that anybody may send.
var strangerWelcomes = []Attack{
	{Place: Stranger, Name: "usurps the group's id", From: "W6; RFC 9420, Section 12.4.3.1",
		Does:  "makes a group of the same id, goes on alone to a higher, the same and a lower epoch, lists the real members, and welcomes carol there",
		Holds: "who follows the group in good standing stays; its messages go to nobody else",
		Run: outsider(group.PresetDefault, func(s *scene) {
			for _, epoch := range []uint64{1, 2, 7} {
				for _, cursor := range []uint64{0, s.End(), 1 << 30} {
					s.usurp(s.carol, epoch, cursor)
				}
			}
			s.Settle()
			if s.carol.Replica().AddedBy() != s.alice.Inbox() {
				s.Broken("she stays", "carol was added by %s", s.carol.Replica().AddedBy())
			}
		})},
	{Place: Stranger, Name: "takes in whom the group removed", From: "W6, W7",
		Does:  "welcomes a removed member to a group of its own of the same id",
		Holds: "that is possible, as with XMTP; the history says by whom, and the real group can bring her back",
		Run: play(group.PresetDefault, func(s *scene) {
			s.Must(s.alice.Ask(group.RemoveMembers{Inboxes: []string{s.mallory.Inbox()}}))
			s.Settle()
			s.usurps(s.mallory)
			s.goesOn(s.mallory)
		})},
	{Place: Stranger, Name: "sends a welcome again", From: "W2, W7",
		Does:  "publishes every welcome of a member again, before and after it was removed and added again",
		Holds: "nobody goes back to keys that were used, or joins twice",
		Run: outsider(group.PresetDefault, func(s *scene) {
			again := func() {
				for _, p := range s.honest() {
					for _, w := range s.Welcomes(p) {
						s.SendWelcome(p, w)
					}
				}
				s.Settle()
			}
			again()
			s.Must(s.alice.Ask(group.RemoveMembers{Inboxes: []string{s.carol.Inbox()}}))
			s.Settle()
			again()
			if s.carol.Replica().Active() {
				s.Broken("nobody goes back", "carol is active again")
			}
			s.Must(s.alice.Ask(group.AddMembers{Inboxes: []string{s.carol.Inbox()}}))
			s.Settle()
			again()
		})},
	{Place: Stranger, Name: "welcomes to what does not exist", From: "W4, W6; A2: the cursor is the sender's",
		Does:  "sends honest-looking welcomes with cursors at nothing, far ahead and beyond every log, junk, and welcomes to other key packages",
		Holds: "they are refused once and for all, and an honest welcome behind them is joined",
		Run: outsider(group.PresetDefault, func(s *scene) {
			for _, cursor := range []uint64{1, 1 << 62, 1<<64 - 1} {
				s.usurp(s.carol, 3, cursor)
			}
			for _, junk := range [][]byte{nil, {0}, make([]byte, 1<<16), []byte("\x0a\x00"), []byte("\x12\x00")} {
				s.SendWelcome(s.dave, junk)
			}
			wrapped, err := forge.WrapWelcome(s.Random(), s.dave.KeyPackage(), []byte("junk"), 1)
			s.Must(err)
			s.SendWelcome(s.dave, wrapped)
			s.Must(s.alice.Ask(group.AddMembers{Inboxes: []string{s.dave.Inbox()}}))
			s.Settle()
			if s.dave.Replica() == nil || !s.dave.Replica().Active() {
				s.Broken("the honest one is joined", "dave is not in the group")
			}
		})},
	{Place: Stranger, Name: "uses one key package twice", From: "W5, W9; last-resort reuse, double join",
		Does:  "welcomes an installation to the id of its group with the key package that it was added with",
		Holds: "the key package serves both, as a last resort does, and the group that it follows keeps its place",
		Run: outsider(group.PresetDefault, func(s *scene) {
			s.Must(s.alice.Ask(group.AddMembers{Inboxes: []string{s.dave.Inbox()}}))
			s.Settle()
			s.usurp(s.dave, 9, s.End())
			s.Settle()
			s.Must(s.alice.Ask(group.RemoveMembers{Inboxes: []string{s.dave.Inbox()}}))
			s.Settle()
			s.Must(s.alice.Ask(group.AddMembers{Inboxes: []string{s.dave.Inbox()}}))
			s.Settle()
			if s.dave.Replica() == nil || s.dave.Replica().AddedBy() != s.alice.Inbox() || !s.dave.Replica().Active() {
				s.Broken("it keeps its place", "dave is not in alice's group")
			}
		})},
	{Place: Stranger, Name: "comes before the real group", From: "W6; RFC 9420, Section 12.4.3.1", Open: "W6",
		Does:  "knows whom a group is about to add, and welcomes it to another group of that id, in a later epoch, first",
		Holds: "the real group can still add it",
		Run: outsider(group.PresetDefault, func(s *scene) {
			s.usurp(s.dave, 9, s.End())
			s.Settle()
			s.Must(s.alice.Ask(group.AddMembers{Inboxes: []string{s.dave.Inbox()}}))
			s.Settle()
		})},
	{Place: Stranger, Name: "forges who is in a group", From: "W6; phantom members",
		Does:  "invites to groups whose lists name members without leaves, leaves without members, the future of an inbox, or another creator",
		Holds: "nobody joins what its tree and the identity log do not say",
		Run: outsider(group.PresetDefault, func(s *scene) {
			for _, edit := range []func(*contents.GroupMembership){
				func(m *contents.GroupMembership) { m.Members[s.bob.Inbox()] = s.bob.Identity() },
				func(m *contents.GroupMembership) { delete(m.Members, s.dave.Inbox()) },
				func(m *contents.GroupMembership) { delete(m.Members, s.erin.Inbox()) },
				func(m *contents.GroupMembership) { m.Members[s.dave.Inbox()] = 1 << 40 },
			} {
				g := s.ownGroup([]byte("another group id"))
				exts := extensions(forge.Members(g.Extensions(), func(m *contents.GroupMembership) {
					m.Members[s.erin.Inbox()], m.Members[s.dave.Inbox()] = s.erin.Identity(), s.dave.Identity()
					edit(m)
				}))
				staged, err := g.Commit(mls.CommitConfig{Rand: s.Random(), Proposals: []mls.Proposal{mls.Add{KeyPackage: s.dave.KeyPackage()}, exts}})
				s.Must(err)
				_, _, err = group.Join(s.dave.Env(), group.JoinConfig{Welcome: group.Welcome{Data: staged.Welcome()}, Secrets: s.dave.Secrets(), Resolved: true})
				if err == nil {
					s.Broken("nobody joins", "dave joins")
				}
			}
		})},
}

// addsAt writes an inbox into a membership list.
func addsAt(p sim.Player) func(*contents.GroupMembership) {
	return func(m *contents.GroupMembership) { m.Members[p.Inbox()] = p.Identity() }
}

// ownGroup is a group of erin's, of any id.
func (s *scene) ownGroup(id []byte) *mls.Group {
	r, _, err := group.Create(s.erin.Env(), group.CreateConfig{ID: id, Name: "usurped", Now: s.alice.Replica().Created()})
	s.Must(err)
	return r.Group()
}

// usurp lets erin welcome somebody to a group of its own, of the real one's id and at
// some epoch: everybody is a member by name.
func (s *scene) usurp(victim sim.Player, epoch, cursor uint64) {
	g := s.ownGroup(s.GroupID())
	for g.Epoch()+1 < epoch {
		staged, err := g.Commit(mls.CommitConfig{Rand: s.Random()})
		s.Must(err)
		g, err = g.Merge(staged)
		s.Must(err)
	}
	exts := extensions(forge.Members(g.Extensions(), func(m *contents.GroupMembership) {
		for _, p := range s.Players() {
			m.Members[p.Inbox()] = p.Identity()
			if p.Name() != victim.Name() && p.Name() != s.erin.Name() {
				m.FailedInstallations = append(m.FailedInstallations, p.Signer().Public())
			}
		}
	}))
	staged, err := g.Commit(mls.CommitConfig{Rand: s.Random(), Proposals: []mls.Proposal{mls.Add{KeyPackage: victim.KeyPackage()}, exts}})
	s.Must(err)
	payload, err := forge.WrapWelcome(s.Random(), victim.KeyPackage(), staged.Welcome(), cursor)
	s.Must(err)
	s.SendWelcome(victim, payload)
}

// usurps asks only for the verdict of whoever was removed: its own client may take it.
func (s *scene) usurps(victim sim.Player) {
	g := s.ownGroup(s.GroupID())
	exts := extensions(forge.Members(g.Extensions(), func(m *contents.GroupMembership) {
		addsAt(s.erin)(m)
		addsAt(victim)(m)
	}))
	staged, err := g.Commit(mls.CommitConfig{Rand: s.Random(), Proposals: []mls.Proposal{mls.Add{KeyPackage: victim.KeyPackage()}, exts}})
	s.Must(err)
	r, _, err := group.Join(victim.Env(), group.JoinConfig{Welcome: group.Welcome{Data: staged.Welcome()}, Secrets: victim.Secrets(),
		Resolved: true, Previous: victim.Replica(), Complete: true, Created: victim.Replica().Created().Add(day)})
	if err != nil {
		return
	}
	if r.AddedBy() != s.erin.Inbox() {
		s.Broken("it is said by whom", "added by %s", r.AddedBy())
	}
}
