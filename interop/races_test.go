//go:build interop

package interop

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// insist repeats what a real client gave up after losing several races in a row:
// the SDK makes a change again three times and then leaves it to the caller.
func (s *scenario) insist(step func() error) func() error {
	return func() (last error) {
		gaveUp := poll(s.ctx, func() error {
			last = step()
			if e := (*sdkError)(nil); errors.As(last, &e) && strings.Contains(e.text, "SyncFailedToWait") {
				return last
			}
			return nil
		})
		return cmp.Or(last, gaveUp)
	}
}

// Commits of Go installations and real clients race for every epoch, and a member
// whose client keeps no rule commits in between: one of each epoch's wins, the others
// are made again on top of it, what is forged is refused by all, and nobody forks.
func TestRacingCommits(t *testing.T) {
	const rounds = 20
	s := begin(t, fmt.Sprintf("commits race for %d rounds, with a forging member", rounds))
	mallory := s.forger("mallory")
	real, gus, gil := s.real("ada", "bob"), s.ours(s.nats, "gus")[0], s.ours(s.grpc, "gil")[0]
	newReal, newGo := s.real("newreal")[0], s.ours(s.nats, "newgo")[0]
	first := must[room](t)(gus.NewGroup(s.ctx, "race", real[0], real[1], gil, mallory))
	rooms := append([]room{first}, s.enterAll(first.ID(), real[0], real[1], gil, mallory)...)
	s.do(first.Promote(s.ctx, real[0], superAdmin))
	s.agree(rooms)
	ours, ada, bob, grpc, forging := rooms[0], rooms[1], rooms[2], rooms[3], rooms[4]
	for round := range rounds {
		steps := []func() error{
			s.insist(func() error { return bob.Rename(s.ctx, fmt.Sprint("bob's ", round)) }),
			func() error { return grpc.Rename(s.ctx, fmt.Sprint("gil's ", round)) },
			func() error { return ada.Send(s.ctx, fmt.Sprint("ada's ", round)) },
			func() error { return ours.Send(s.ctx, fmt.Sprint("gus's ", round)) },
			func() error { return mallory.forge(forging, round) },
		}
		if round%2 == 0 { // a newcomer of each kind comes, by the other kind's hand
			steps = append(steps,
				s.insist(func() error { return ada.Add(s.ctx, newGo) }),
				func() error { return ours.Add(s.ctx, newReal) })
		} else {
			steps = append(steps,
				s.insist(func() error { return ada.Remove(s.ctx, newGo) }),
				func() error { return ours.Remove(s.ctx, newReal) })
		}
		s.together(steps...)
		s.row.sent += 2
		v := s.agree(rooms)
		if want := 5 + 2*((round+1)%2); len(v.Members) != want {
			t.Fatalf("round %d: %d members, not %d", round, len(v.Members), want)
		}
		if len(v.Lines) != 2*(round+1) {
			t.Fatalf("round %d: %d messages: %q", round, len(v.Lines), s.lines(v))
		}
	}
}
