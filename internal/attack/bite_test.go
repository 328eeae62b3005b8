package attack

import (
	"errors"
	"slices"
	"testing"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/internal/forge"
	"github.com/conclave-chat/conclave/internal/sim"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/contents"
)

// TestVerdictsBite plays what would be broken if a member, or the log, had a bug. A list
// on which everything holds whatever happens is not worth much.
func TestVerdictsBite(t *testing.T) {
	for _, c := range []struct {
		name  string
		finds []string
		run   func() error
	}{
		{"a commit is taken that must be refused", []string{"policy"}, insider(group.PresetDefault, func(s *scene) {
			f := s.bent("valid", forge.Bend{})
			s.Must(f.err)
			s.Publish(s.mallory, group.TopicCommits, f.data, true)
		})},
		{"a commit is taken that nobody sealed", []string{"I2"}, insider(group.PresetDefault, func(s *scene) {
			f := s.bent("valid", forge.Bend{})
			s.Must(f.err)
			s.Write(group.TopicCommits, forge.Envelope(f.data))
		})},
		{"a forgery is taken", []string{"it is refused", "policy"}, insider(group.PresetDefault, func(s *scene) {
			s.refused(group.TopicCommits, s.commit("name", extensions(forge.Metadata(s.context(), func(m *contents.GroupMutableMetadataV1) {
				m.Attributes["group_name"] = "anybody may do this"
			}))))
		})},
		{"a forged message is shown", []string{"it is refused"}, insider(group.PresetDefault, func(s *scene) {
			s.refused(group.TopicMessages, s.say("k", "valid", forge.Bend{}))
		})},
		{"members go different ways", []string{"I1"}, play(group.PresetAllMembers, func(s *scene) {
			s.in = s.mallory.Take()
			a, err := s.in.Stage(mls.CommitConfig{Rand: s.Random()})
			s.Must(err)
			b, err := s.in.Stage(mls.CommitConfig{Rand: s.Random()})
			s.Must(err)
			first := s.Publish(s.mallory, group.TopicCommits, a.Message(), false)
			s.Publish(s.mallory, group.TopicCommits, b.Message(), false)
			s.carol.Sees(func(id uint64, _ []byte) bool { return id != first })
			s.Settle()
		})},
		{"a member does not go on", []string{"nobody is stopped", "I1", "I5", "I13"}, outsider(group.PresetDefault, func(s *scene) {
			s.carol.Sees(upTo(s.End()))
		})},
		{"a message does not come", []string{"I3"}, play(group.PresetDefault, func(s *scene) {
			from := s.End()
			s.Must(s.bob.Say("lost"))
			s.SettleBut(s.carol)
			to := s.End()
			s.carol.Sees(func(id uint64, _ []byte) bool { return id <= from || id > to })
			s.Settle()
		})},
		{"who is lost does not say so", []string{"it is said"}, play(group.PresetDefault, func(s *scene) { s.goesOn(s.carol) })},
		{"somebody panics", []string{"no panic"}, outsider(group.PresetDefault, func(*scene) { panic("a bug") })},
		{"a message is lost among random attacks", []string{"I3", "I1", "I2", "I4", "I12", "I13"}, func() error {
			for seed := uint64(1); seed <= 20; seed++ {
				f := &forger{rand: newRand(seed)}
				_, err := sim.Run(seed, sim.Options{Attack: func(st *sim.Stage) {
					f.act(st)
					// Of what comes now, the founder misses one in seven.
					end := st.End()
					st.Player(0).Sees(func(id uint64, _ []byte) bool { return id <= end || id/64%7 != 0 })
				}})
				if err != nil {
					return err
				}
			}
			return nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var f *sim.Failure
			if err := c.run(); !errors.As(err, &f) || !slices.Contains(c.finds, f.Invariant) {
				t.Errorf("%v, want one of %q", err, c.finds)
			}
		})
	}
}

// TestVerdicts: an error is broken, or open where that is known; what is said to be open
// and holds is broken too.
func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		open string
		err  error
		want Verdict
	}{{"", nil, Held}, {"", errNotNow, Broken}, {"C4", errNotNow, Open}, {"C4", nil, Broken}} {
		a := Attack{Open: c.open, Run: func() error { return c.err }}
		if got, _ := a.Try(); got != c.want {
			t.Errorf("open %q, error %v: %v, want %v", c.open, c.err, got, c.want)
		}
	}
}
