package group_test

import (
	"bytes"
	"testing"

	"github.com/conclave-chat/conclave/group"
)

// FuzzDelivered throws bytes at a live replica: they are read past with a
// reason, and the group is what it was.
func FuzzDelivered(f *testing.F) {
	w, alice, bob := two(f)
	alice.step(group.Send{Content: []byte("seed"), Now: w.tick()})
	alice.send("")
	alice.step(group.UpdateMetadata{Field: group.AttributeName, Value: "seed"})
	alice.deliver()
	alice.send("")
	for _, e := range w.log {
		if e.topic != group.TopicWelcomes {
			f.Add(delivery(e).Data)
		}
	}
	id := bob.replica.Cursor()
	f.Fuzz(func(t *testing.T, b []byte) {
		before, epoch := bob.replica.EpochAuthenticator(), bob.replica.Epoch()
		id++
		fx, err := bob.replica.Step(group.Delivered{ID: id, Time: w.now, Data: b})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range fx.Emit {
			if _, ok := e.(group.Rejected); ok && (bob.replica.Epoch() != epoch || !bytes.Equal(before, bob.replica.EpochAuthenticator())) {
				t.Fatal("rejected, and yet the group moved")
			}
		}
		if fx.Back != nil { // many envelopes claim later epochs: it looks at the log again
			if _, err := bob.replica.Step(group.Rewound{End: *fx.Back}); err != nil {
				t.Fatal(err)
			}
			return
		}
		if bob.replica.Cursor() != id && bob.replica.Stalled() == "" {
			t.Fatal("cursor did not move")
		}
	})
}
