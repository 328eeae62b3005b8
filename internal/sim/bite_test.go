package sim

import (
	"errors"
	"slices"
	"testing"
)

// TestInvariantsBite puts bugs into the world, one at a time. An invariant that
// finds none of them is not worth much.
func TestInvariantsBite(t *testing.T) {
	for _, c := range []struct {
		name  string
		plant plant
		finds []string // the invariants of which one must find it
	}{
		{"the next own generation is not saved", plantForgetful, []string{"I8"}},
		{"it is sent before the disk has it", plantLazy, []string{"I8", "I3", "I4", "I13", "load"}},
		{"old keys are not deleted", plantKeeps, []string{"I9"}},
		{"an envelope is left out", plantGap, []string{"I1", "I2", "I3", "I5"}},
		{"two envelopes change places for some", plantSwap, []string{"I1", "I2", "I3", "I4"}},
		{"two commits change places for some", plantFork, []string{"I1", "I2"}},
		{"the bus refuses what it has taken", plantLiar, []string{"I5"}},
		{"the store does not say which messages it has", plantBlind, []string{"I3"}},
		{"what was sealed anew forgets its earlier sealings", plantAmnesia, []string{"I3", "I4", "I5"}},
		{"a removed member gets new keys", plantLeak, []string{"I6"}},
		{"a joiner gets old keys", plantPast, []string{"I7"}},
		{"a declined command leaves a trace", plantHalf, []string{"I10"}},
		{"a feed with holes is taken for the log", plantHole, []string{"I1", "I2", "I3", "I4", "I5", "I13"}},
		{"what was sealed once more does not come to newcomers", plantOnce, []string{"I12"}},
		{"a read of two topics is not one cut", plantTorn, []string{"I1", "I2", "I3", "I4", "I12", "I13"}},
		{"a row that cannot be read is taken for none", plantBlank, []string{"load", "I3", "I5", "I8"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			const most = 150
			for seed := uint64(1); seed <= most; seed++ {
				_, err := Run(seed, Options{plant: c.plant})
				var f *Failure
				if !errors.As(err, &f) {
					continue
				}
				if !slices.Contains(c.finds, f.Invariant) {
					t.Fatalf("seed %d: found by %v, want %v", seed, err, c.finds)
				}
				t.Logf("seed %d: %v", seed, err)
				return
			}
			t.Fatalf("not found in %d seeds", most)
		})
	}
}
