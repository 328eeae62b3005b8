package attack

import (
	"fmt"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/internal/sim"
	"github.com/conclave-chat/conclave/mls"
)

// The node: what it shows, in which order, when, and what it answers.
var nodeLies = []Attack{
	{Place: Node, Name: "holds back", From: "R3, S4",
		Does:  "shows one member nothing for ten commits and twenty messages, then all",
		Holds: "it catches up, and has everything once, in its order",
		Run: outsider(group.PresetDefault, func(s *scene) {
			s.carol.Sees(upTo(s.End()))
			for i := range 10 {
				s.Must(s.bob.Say(fmt.Sprint("unseen ", i)))
				s.Must(s.alice.Ask(group.KeyUpdate{}))
				s.Must(s.alice.Say(fmt.Sprint("unseen too ", i)))
				s.Settle()
			}
			s.carol.Sees(nil)
		})},
	{Place: Node, Name: "withholds one commit", From: "R3, R6, C15",
		Does:  "shows one member everything but one commit",
		Holds: "it goes into no other epoch, and says that the others are elsewhere",
		Run: play(group.PresetDefault, func(s *scene) {
			s.Equivocates()
			from := s.End()
			s.Must(s.alice.Ask(group.KeyUpdate{}))
			s.SettleBut(s.carol)
			to := s.End()
			s.carol.Sees(func(id uint64, _ []byte) bool { return id <= from || id > to })
			for i := range 3 {
				s.Must(s.bob.Say(fmt.Sprint("in the next epoch ", i)))
				s.Must(s.alice.Ask(group.KeyUpdate{}))
				s.Settle()
			}
			if st, _ := s.carol.Standing(); st == group.Following {
				s.Broken("it is said", "carol follows in epoch %d, alice is in %d", s.carol.Replica().Epoch(), s.alice.Replica().Epoch())
			}
			s.carol.Sees(nil)
		})},
	{Place: Node, Name: "shows two logs", From: "C15, B5; equivocation",
		Does:  "shows two rival commits of one epoch in another order to one member, and the rest of the log to both",
		Holds: "the two histories do not mix, and it becomes visible that there are two",
		Run: play(group.PresetAllMembers, func(s *scene) {
			s.Equivocates()
			s.in = s.mallory.Take()
			a, err := s.in.Stage(mls.CommitConfig{Rand: s.Random()})
			s.Must(err)
			b, err := s.in.Stage(mls.CommitConfig{Rand: s.Random()})
			s.Must(err)
			first := s.Publish(s.mallory, group.TopicCommits, a.Message(), false)
			s.Publish(s.mallory, group.TopicCommits, b.Message(), false)
			s.carol.Sees(func(id uint64, _ []byte) bool { return id != first })
			s.Settle()
			if string(s.carol.Replica().EpochAuthenticator()) == string(s.alice.Replica().EpochAuthenticator()) {
				s.Broken("the attack", "there is one history")
			}
			for i := range 3 {
				s.Must(s.bob.Say(fmt.Sprint("to some ", i)))
				s.Must(s.alice.Ask(group.KeyUpdate{}))
				s.Settle()
			}
			if s.carol.Hears("to some 0") {
				s.Broken("they do not mix", "carol reads what was not sealed for her epoch")
			}
			if st, _ := s.carol.Standing(); st == group.Following {
				s.Broken("it becomes visible", "carol follows in epoch %d, alice in %d", s.carol.Replica().Epoch(), s.alice.Replica().Epoch())
			}
		})},
	{Place: Node, Name: "changes the order", From: "R2",
		Does:  "shows one member the messages of an epoch before the commit that begins it",
		Holds: "it goes on in the log's order when it is shown that, and loses nothing",
		Run: outsider(group.PresetDefault, func(s *scene) {
			from := s.End()
			s.Must(s.alice.Ask(group.KeyUpdate{}))
			s.SettleBut(s.carol)
			to := s.End()
			s.Must(s.alice.Say("after the commit"))
			s.SettleBut(s.carol)
			s.carol.Sees(func(id uint64, _ []byte) bool { return id <= from || id > to })
			s.Settle()
			s.carol.Sees(nil)
		})},
	{Place: Node, Name: "hands out a key package of its own", From: "W13, I3; key substitution",
		Does:  "answers for dave with a key package of an attacker's key that claims dave's inbox",
		Holds: "it is not added, and no member's secrets go to it",
		Run: outsider(group.PresetDefault, func(s *scene) {
			signer, k, secrets := s.impostor(s.dave)
			s.dave.Spoil(&group.KeyPackageSecrets{KeyPackage: parsed(s, k), MLS: secrets})
			_ = s.alice.Ask(group.AddMembers{Inboxes: []string{s.dave.Inbox()}})
			s.Settle()
			if _, in := s.alice.Replica().Group().Find(signer.Public()); in {
				s.Broken("it is not added", "its leaf is in the tree")
			}
		})},
	{Place: Node, Name: "hides a revocation", From: "I6",
		Does:  "lets a member commit with an older state of an inbox after others have cited a newer one",
		Holds: "no commit takes an inbox back",
		Run: outsider(group.PresetDefault, func(s *scene) {
			s.UpdateIdentity(s.bob)
			s.Must(s.alice.Ask(group.Refresh{}))
			s.Settle()
			s.UpdateIdentity(s.bob)
			s.Must(s.carol.Ask(group.Refresh{}))
			s.Settle()
			at := s.alice.Replica().Metadata().Members[s.bob.Inbox()]
			if at != s.bob.Identity() {
				s.Broken("the newest is cited", "alice has bob at %d of %d", at, s.bob.Identity())
			}
		})},
	{Place: Node, Name: "answers nothing to a publish", From: "S4, S9",
		Does:  "stores what is published and says nothing, at random, while all send",
		Holds: "each message is there once",
		Run: func() error {
			for seed := range uint64(2) {
				if _, err := sim.Run(seed+1, sim.Options{Steps: 60, With: []string{"lost answers", "dropped deliveries", "reordered deliveries", "repeated deliveries"}}); err != nil {
					return err
				}
			}
			return nil
		}},
}

func parsed(s *scene, k *mls.KeyPackage) *group.KeyPackage {
	out, err := group.ParseKeyPackage(nil, k.Bytes())
	s.Must(err)
	return out
}
