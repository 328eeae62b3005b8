package attack

import (
	"fmt"
	"io"
	"slices"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/internal/forge"
	"github.com/conclave-chat/conclave/internal/sim"
	"github.com/conclave-chat/conclave/mls"
)

// A scene is a group of alice, who founded it, bob, carol and mallory; dave and erin
// are outside.
type scene struct {
	*sim.Stage
	alice, bob, carol, mallory, dave, erin sim.Player

	in *forge.Insider // mallory's client, once it is taken
}

// Log gets a line for whatever happens in the attacks' worlds; nil: nobody.
var Log io.Writer

// play is a scene.
func play(preset group.Preset, do func(*scene)) func() error {
	return func() error {
		return sim.Play(2, sim.Cast{People: 6, Members: 4, Permissions: preset, Log: Log}, func(st *sim.Stage) {
			p := st.Players()
			s := &scene{Stage: st, alice: p[0], bob: p[1], carol: p[2], mallory: p[3], dave: p[4], erin: p[5]}
			do(s)
		})
	}
}

// insider is a scene in which mallory, a plain member, runs a client of its own.
func insider(preset group.Preset, do func(*scene)) func() error {
	return play(preset, func(s *scene) {
		s.in = s.mallory.Take()
		do(s)
		s.goesOn()
	})
}

// promoted is a scene in which mallory has a role before its client is taken.
func promoted(changes []group.AdminChange, do func(*scene)) func() error {
	return play(group.PresetDefault, func(s *scene) {
		for _, c := range changes {
			s.Must(s.alice.Ask(group.UpdateAdmins{Inbox: s.mallory.Inbox(), Change: c}))
			s.Settle()
		}
		s.in = s.mallory.Take()
		do(s)
		s.goesOn()
	})
}

// outsider is a scene in which nobody in the group breaks a rule.
func outsider(preset group.Preset, do func(*scene)) func() error {
	return play(preset, func(s *scene) {
		do(s)
		s.goesOn()
	})
}

// honest are those of the group whose clients keep the rules.
func (s *scene) honest() []sim.Player {
	list := []sim.Player{s.alice, s.bob, s.carol}
	if s.in == nil {
		list = append(list, s.mallory)
	}
	return list
}

// goesOn: what each honest member says comes to all of them, and so does a change, but
// for those who were lost on the way: they say so.
func (s *scene) goesOn(lost ...sim.Player) {
	s.Settle()
	var texts []string
	rest := slices.DeleteFunc(s.honest(), func(p sim.Player) bool {
		return slices.ContainsFunc(lost, func(l sim.Player) bool { return l.Name() == p.Name() })
	})
	for _, p := range lost {
		if st, why := p.Standing(); st != group.Stranded && st != group.Inactive && st != group.Apart {
			s.Broken("it is said", "%s is %v (%s)", p.Name(), st, why)
		}
	}
	for _, p := range rest {
		text := fmt.Sprintf("%s is still here, at %d", p.Name(), s.End())
		if err := p.Say(text); err != nil {
			s.Broken("nobody is stopped", "%s cannot send: %v", p.Name(), err)
		}
		texts = append(texts, text)
	}
	first := rest[0]
	if err := first.Ask(group.UpdateMetadata{Field: group.AttributeName, Value: fmt.Sprint("still ours at ", s.End())}); err != nil {
		s.Broken("nobody is stopped", "a change: %v", err)
	}
	s.Settle()
	name := first.Replica().Metadata().Attributes[group.AttributeName]
	for _, p := range rest {
		// Who is apart shows that somebody claims epochs elsewhere, and goes on.
		if st, why := p.Standing(); st != group.Following && st != group.Apart {
			s.Broken("nobody is stopped", "%s is %v: %s", p.Name(), st, why)
		}
		if got := p.Replica().Metadata().Attributes[group.AttributeName]; got != name {
			s.Broken("nobody is stopped", "%s calls the group %q, %s %q", p.Name(), got, first.Name(), name)
		}
		for _, text := range texts {
			if !p.Hears(text) {
				s.Broken("nobody is stopped", "%s lacks %q", p.Name(), text)
			}
		}
	}
}

// A forgery is one of several that an attack makes in one epoch.
type forgery struct {
	name string
	data []byte
	err  error
}

// refused publishes forgeries one after another: none of them begins an epoch, is shown
// as a message, or changes how anybody stands.
func (s *scene) refused(t group.Topic, list ...forgery) {
	for _, f := range list {
		if f.err != nil {
			s.Broken("the attack", "%s: %v", f.name, f.err)
		}
		epoch := s.alice.Replica().Epoch()
		said := map[string]int{}
		for _, p := range s.honest() {
			said[p.Name()] = len(p.History())
		}
		s.Publish(s.mallory, t, f.data, true)
		s.Settle()
		for _, p := range s.honest() {
			st, why := p.Standing()
			if st != group.Following || p.Replica().Epoch() != epoch || len(p.History()) != said[p.Name()] {
				s.Broken("it is refused", "%s: %s is %v in epoch %d (%s), was in %d, and has %d messages, had %d",
					f.name, p.Name(), st, p.Replica().Epoch(), why, epoch, len(p.History()), said[p.Name()])
			}
		}
	}
}

// commit makes a commit that asks nobody.
func (s *scene) commit(name string, proposals ...mls.Proposal) forgery {
	data, err := s.in.Commit(mls.CommitConfig{Rand: s.Random(), Proposals: proposals}, forge.Bend{})
	return forgery{name, data, err}
}

// bent makes a commit without proposals and bends it.
func (s *scene) bent(name string, b forge.Bend) forgery {
	data, err := s.in.Commit(mls.CommitConfig{Rand: s.Random()}, b)
	return forgery{name, data, err}
}

// accepted publishes a commit that the others take, and follows it.
func (s *scene) accepted(c mls.CommitConfig) *mls.StagedCommit {
	c.Rand = s.Random()
	staged, err := s.in.Stage(c)
	s.Must(err)
	s.Publish(s.mallory, group.TopicCommits, staged.Message(), false)
	s.Settle()
	s.in.Follow(staged.Message(), s.Known)
	return staged
}

// extensions are the group's, edited.
func extensions(x mls.Extensions, err error) mls.Proposal {
	if err != nil {
		panic(err) // what an honest member holds decodes
	}
	return mls.GroupContextExtensions{Extensions: x}
}

// context is the group's as mallory has it.
func (s *scene) context() mls.Extensions { return s.in.Group().Extensions() }

// sibling is the honest member whose leaf is beside mallory's.
func (s *scene) sibling() sim.Player {
	for _, p := range s.honest() {
		if s.leafOf(p) == s.in.Group().OwnLeaf()^1 {
			return p
		}
	}
	s.Broken("the attack", "nobody is beside mallory")
	return s.alice
}

// leafOf is somebody's leaf.
func (s *scene) leafOf(p sim.Player) mls.LeafIndex {
	leaf, ok := s.in.Group().Find(p.Signer().Public())
	if !ok {
		s.Broken("the attack", "%s has no leaf", p.Name())
	}
	return leaf
}
