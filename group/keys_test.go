package group_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
)

// usedKeys is after how many messages the keys that they used are gone.
const usedKeys = 64

// What was received opens with the state that was saved last, in the store and in
// memory, for at most 64 messages; then with neither, and with the newest never.
func TestKeysOfWhatWasReceivedGo(t *testing.T) {
	w, alice, bob := two(t)
	stored := func() *mls.Group {
		r, _, err := group.Load(bob.env(), bob.reader())
		w.must(err)
		return r.Group()
	}
	var first []byte
	for i := range usedKeys {
		alice.step(group.Send{Content: fmt.Append(nil, i), Now: w.tick()})
		alice.send("")
		if first == nil {
			first = must(group.DecodeGroupMessage(w.log[len(w.log)-1].payload))(t)
		}
		bob.deliver()
		if _, _, err := bob.replica.Group().Open(must(w.realm.Parse(first))(t)); !errors.Is(err, mls.ErrReplayed) {
			t.Fatalf("after %d messages the newest state opens the first one: %v", i+1, err)
		}
	}
	if _, _, err := stored().Open(must(w.realm.Parse(first))(t)); !errors.Is(err, mls.ErrReplayed) {
		t.Errorf("the store opens what was read %d messages ago: %v", usedKeys, err)
	}
	if err := bob.replica.SavedOpens(first); !errors.Is(err, mls.ErrReplayed) {
		t.Errorf("memory opens what was read %d messages ago: %v", usedKeys, err)
	}
	alice.step(group.Send{Content: []byte("one more"), Now: w.tick()})
	alice.send("")
	last := must(group.DecodeGroupMessage(w.log[len(w.log)-1].payload))(t)
	bob.deliver()
	bob.save(bob.replica.Passivate())
	if _, _, err := stored().Open(must(w.realm.Parse(last))(t)); !errors.Is(err, mls.ErrReplayed) {
		t.Errorf("the store of a replica at rest opens what it has read: %v", err)
	}
}

// A member's own ratchet moves on in the store as well: after at most 64 messages
// that were sent, and when the replica rests.
func TestKeysOfWhatWasSentGo(t *testing.T) {
	w, alice, _ := two(t)
	ratchets := func() (row []byte) {
		w.must(alice.reader().ScanBack(group.TableMember, nil, func(_, value []byte) bool {
			row = bytes.Clone(value)
			return false
		}))
		return row
	}
	before := ratchets()
	for i := range usedKeys {
		alice.step(group.Send{Content: fmt.Append(nil, i), Now: w.tick()})
		alice.send("")
	}
	after := ratchets()
	if bytes.Equal(before, after) {
		t.Errorf("the ratchets in the store are those of %d messages ago", usedKeys)
	}
	alice.step(group.Send{Content: []byte("one more"), Now: w.tick()})
	alice.save(alice.replica.Passivate())
	if bytes.Equal(after, ratchets()) {
		t.Error("the ratchets in the store of a replica at rest are those of before its last message")
	}
	alice.crash()
	alice.deliver()
	w.out.Reset()
	alice.step(group.Send{Content: []byte("goes on"), Now: w.tick()})
	alice.send("")
	w.sync(w.order)
	w.run(words("same alice bob"))
}
