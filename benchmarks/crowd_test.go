package benchmarks

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/conclave-chat/conclave"
)

// TestCrowdIsKept proves that a directory's members are the same the next time,
// that nobody but their owner reads their keys, and that another number of them
// is refused.
func TestCrowdIsKept(t *testing.T) {
	dir := t.TempDir()
	made, err := OpenCrowd(dir, 3)
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenCrowd(dir, 3)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range made.members {
		if o := again.members[i]; m.wallet.Address() != o.wallet.Address() || m.key != o.key || m.key == (conclave.Key{}) {
			t.Errorf("member %d is another one", i+1)
		}
	}
	if made.members[0].key == made.members[1].key {
		t.Error("two members have one key")
	}
	path := filepath.Join(dir, crowdFile)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	size := new(SizeError)
	if _, err := OpenCrowd(dir, 4); !errors.As(err, &size) || size.Have != 3 {
		t.Errorf("another size: %v", err)
	}
	if err := os.WriteFile(path, []byte("no keys\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCrowd(dir, 3); err == nil {
		t.Error("a file without keys is read")
	}
}

// TestJudge proves that what is lost, repeated, out of order or of another text
// is counted as such.
func TestJudge(t *testing.T) {
	a, b, c := conclave.MessageID{1}, conclave.MessageID{2}, conclave.MessageID{3}
	sent := sending{texts: []string{"a", "b"}, ids: []conclave.MessageID{a, b}}
	text := func(id conclave.MessageID, s string) *conclave.Message {
		return &conclave.Message{ID: id, Content: conclave.Text(s)}
	}
	tests := []struct {
		name string
		has  []*conclave.Message
		want Verdict
	}{
		{"all", []*conclave.Message{text(a, "a"), text(b, "b")}, Verdict{Deliveries: 2}},
		{"with who joined", []*conclave.Message{{ID: c, Content: &conclave.GroupUpdated{}}, text(a, "a"), text(b, "b")}, Verdict{Deliveries: 2}},
		{"lost", []*conclave.Message{text(b, "b")}, Verdict{Deliveries: 1, Lost: 1}},
		{"another text", []*conclave.Message{text(a, "x"), text(b, "b")}, Verdict{Deliveries: 1, Lost: 1}},
		{"repeated", []*conclave.Message{text(a, "a"), text(b, "b"), text(a, "a")}, Verdict{Deliveries: 2, Repeated: 1}},
		{"never sent", []*conclave.Message{text(a, "a"), text(b, "b"), text(c, "c")}, Verdict{Deliveries: 2, Repeated: 1}},
		{"out of order", []*conclave.Message{text(b, "b"), text(a, "a")}, Verdict{Deliveries: 2, Disordered: 1}},
	}
	for _, test := range tests {
		if got := sent.judge(test.has); got != test.want {
			t.Errorf("%s: %+v, not %+v", test.name, got, test.want)
		}
	}
	if (Verdict{Deliveries: 1, Lost: 1}).OK() || !(Verdict{Deliveries: 2}).OK() {
		t.Error("OK is wrong")
	}
}

// TestReplayCountsWhatHandlersSee proves that a message counts as stored by all
// when the last member has it, and that a second delivery is a repetition.
func TestReplayCountsWhatHandlersSee(t *testing.T) {
	crowd, err := OpenCrowd(t.TempDir(), 3)
	if err != nil {
		t.Fatal(err)
	}
	r := NewReplay(crowd)
	id := conclave.MessageID{7}
	deliver := func(member int) { r.got(member, &conclave.Message{ID: id, Content: conclave.Text("x")}) }
	r.recall(0, conclave.GroupID{}, []*conclave.Message{{ID: id, Content: conclave.Text("x")}})
	deliver(1)
	all := make(chan error, 1)
	go func() {
		_, _, err := r.await(t.Context(), 0, id, 3)
		all <- err
	}()
	deliver(2)
	if err := <-all; err != nil {
		t.Error(err)
	}
	if deliver(2); r.repeated != 1 {
		t.Errorf("%d repetitions", r.repeated)
	}
	if sum, n := r.checksum(); n != 1 || len(sum) != 64 {
		t.Errorf("checksum %q of %d", sum, n)
	}
}

// TestPartition proves that everybody is in every round's groups once, and
// nobody alone.
func TestPartition(t *testing.T) {
	for _, n := range []int{3, 50, 51, 101, 250} {
		groups := partition(n, 3, 50, rand.New(rand.NewPCG(1, 1)))
		in := make([]int, n)
		for _, g := range groups {
			if len(g.Members) < 2 {
				t.Errorf("%d: a group of %d", n, len(g.Members))
			}
			for _, i := range g.Members {
				in[i]++
			}
		}
		for i, k := range in {
			if k != 3 {
				t.Errorf("%d: member %d is in %d groups", n, i, k)
			}
		}
	}
}

// TestPercentile proves the edges of Percentile.
func TestPercentile(t *testing.T) {
	d := []time.Duration{1, 2, 3, 4}
	if Percentile(nil, 50) != 0 || Percentile(d, 0) != 1 || Percentile(d, 50) != 3 || Percentile(d, 100) != 4 {
		t.Error("wrong")
	}
}
