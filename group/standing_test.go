package group

import (
	"fmt"
	"testing"
)

// allStandings are those of the closed set.
func allStandings(yield func(Standing) bool) {
	for st := Following; st <= Inactive; st++ {
		if !yield(st) {
			return
		}
	}
}

// The table leads nowhere but into the set, each standing is reached from
// Following, and each is left by something.
func TestStandingsAreClosed(t *testing.T) {
	reached := map[Standing]bool{Following: true}
	for range allStandings {
		for from := range allStandings {
			for o := range occurrences {
				if to := standings[from][o]; to != 0 && reached[from] {
					reached[to] = true
				}
			}
		}
	}
	for st := range allStandings {
		if !reached[st] {
			t.Errorf("nothing leads to %v", st)
		}
		if len(standings[st]) == 0 {
			t.Errorf("nothing leads out of %v", st)
		}
		for o, to := range standings[st] {
			if to < Following || to > Inactive || to == st || o >= occurrences {
				t.Errorf("%v: occurrence %d leads to %v", st, o, to)
			}
		}
		if st.String() == "invalid" {
			t.Errorf("standing %d has no word", st)
		}
	}
}

// What a standing permits and what ends it agree: who applies no commits enters
// no epoch, who reads nothing waits for nothing in the log, and so on.
func TestStandingsAndPermitsAgree(t *testing.T) {
	for st := range allStandings {
		may := permits[st]
		if standings[st][epochEntered] != 0 && !may.applies || standings[st][wasTakenOut] != 0 && !may.applies {
			t.Errorf("%v applies no commits and enters an epoch", st)
		}
		if may.applies && !may.reads || may.sends && !may.applies {
			t.Errorf("%v permits %+v", st, may)
		}
		if !may.reads && (standings[st][needsInput] != 0 || standings[st][commitsFound] != 0) {
			t.Errorf("%v reads nothing and finds something", st)
		}
		if may.refuses != nil && may.sends {
			t.Errorf("%v sends and takes no commands", st)
		}
		if back := may.welcome == admitsKnown || may.welcome == admitsAnyone; back != (standings[st][welcomedBack] == Following) {
			t.Errorf("%v gives way to a welcome: %v", st, back)
		}
		if may.applies != (standings[st][leftBehind] == Stranded) {
			t.Errorf("%v can be left behind: %v", st, !may.applies)
		}
	}
}

// Every occurrence in every standing: the table is what becomes of it, one event
// tells of a change and none of the rest, and a reason is there where it is not
// simply Following or Inactive.
func TestEveryOccurrenceInEveryStanding(t *testing.T) {
	for st := range allStandings {
		for o := range occurrences {
			t.Run(fmt.Sprintf("%v/%d", st, o), func(t *testing.T) {
				s := &step{Replica: Replica{position: position{standing: st, why: "before"}}}
				s.met(o, "because of %d", o)
				want := standings[st][o]
				if want == 0 {
					if s.standing != st || s.why != "before" || s.dirt || len(s.fx.Emit) > 0 {
						t.Fatalf("changed to %v (%s), with %v", s.standing, s.why, s.fx.Emit)
					}
					return
				}
				reason := fmt.Sprintf("because of %d", o)
				if want == Following || want == Inactive {
					reason = ""
				}
				if got, why := s.Standing(); got != want || why != reason || s.Stalled() != reason {
					t.Errorf("%v (%s), want %v (%s)", got, why, want, reason)
				}
				if !s.dirt || len(s.fx.Emit) != 1 || s.fx.Emit[0] != Event(StandingChanged{want, reason}) {
					t.Errorf("saved %v, told %v", s.dirt, s.fx.Emit)
				}
			})
		}
	}
}

// Whatever leads to a standing that sends leads a revoked installation to Revoked.
func TestRevocationHoldsInEveryStanding(t *testing.T) {
	for st := range allStandings {
		if permits[st].sends {
			continue // takenBack led out of it
		}
		for o, want := range standings[st] {
			s := &step{Replica: Replica{position: position{standing: st, revoked: 7}}}
			if s.met(o, ""); permits[want].sends && s.standing != Revoked || s.may().sends {
				t.Errorf("%v, occurrence %d: leads to %v", st, o, s.standing)
			}
			if s.open() == nil {
				t.Errorf("%v, occurrence %d: takes commands", st, o)
			}
		}
	}
}

// The flags of older stores are standings.
func TestStandingOfOlderFlags(t *testing.T) {
	for _, c := range []struct {
		lost, dead bool
		stalled    string
		want       Standing
	}{
		{want: Following},
		{stalled: "envelope 6 waits", want: Waiting},
		{stalled: ErrRevoked.Error(), want: Revoked},
		{lost: true, stalled: "the log lost commit 7", want: Lost},
		{dead: true, stalled: "cannot be followed", want: Stranded},
		{lost: true, dead: true, stalled: "own commit", want: Stranded},
	} {
		if got := flagged(c.lost, c.dead, c.stalled); got != c.want {
			t.Errorf("lost %v, dead %v, stalled %q: %v, want %v", c.lost, c.dead, c.stalled, got, c.want)
		}
	}
}
