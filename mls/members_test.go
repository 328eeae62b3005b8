package mls

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// What a member may do, in which state, and how often.

// Messages that are valid somewhere else, or were.
func TestMessagesOutOfPlace(t *testing.T) {
	c := newClub(t, 3)
	stranger := newHistory(t, c.suite, nil, 5)
	_, foreign, err := stranger.members[0].g.Seal(c.bytes, nil, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	seal := func(i int) *Message {
		next, b, err := c.g(i).Seal(c.bytes, nil, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		c.members[i].g = next
		return must(c.realm.Parse(b))(t)
	}
	step := func() { c.deliver(c.members[0], must(c.g(0).Commit(CommitConfig{Rand: c.bytes}))(t), nil) }
	open := func(m *Message) error {
		next, content, err := c.g(1).Open(m)
		if err != nil && (next != c.g(1) || content != nil) {
			t.Error("an error changed the group")
		}
		return err
	}
	old := seal(2)
	stale := must(c.realm.Parse(must(c.g(2).Commit(CommitConfig{Rand: c.bytes}))(t).Message()))(t)
	kept := c.g(2)
	for range keepEpochs {
		step()
		if err := open(old); err != nil {
			t.Error("a past epoch's message:", err)
		}
	}
	if err := open(stale); !errors.Is(err, ErrWrongEpoch) {
		t.Error("a past epoch's commit:", err)
	}
	step()
	if err := open(old); !errors.Is(err, ErrEpochTooOld) {
		t.Error("a message older than what is kept:", err)
	}
	if err := open(must(c.realm.Parse(foreign))(t)); !errors.Is(err, ErrWrongGroup) {
		t.Error("another group's message:", err)
	}
	future := seal(2)
	c.members[1].g, kept = kept, c.g(1)
	if err := open(future); !errors.Is(err, ErrWrongEpoch) {
		t.Error("a future epoch's message:", err)
	}
	c.members[1].g = kept
	if err := open(must(c.realm.Parse(must(c.g(0).Info())(t)))(t)); !errors.Is(err, errMessageKind) {
		t.Error("a group info:", err)
	}
}

// A member that restores an old copy learns its later generations from its own
// messages, and uses none of them twice.
func TestOwnMessagesAfterARollback(t *testing.T) {
	c := newClub(t, 2)
	copied := c.g(1)
	var last *Message
	for range 3 {
		next, b, err := c.g(1).Seal(c.bytes, nil, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		c.members[1].g, last = next, must(c.realm.Parse(b))(t)
	}
	var own *OwnMessageError
	if _, _, err := copied.Open(last); !errors.As(err, &own) || own.Generation != 2 {
		t.Fatal(err)
	}
	restored := must(copied.SkipTo(own.Epoch, own.ContentType, own.Generation))(t)
	equal(t, "own generations", restored.ownRow(), c.g(1).ownRow())
	if again := must(restored.SkipTo(own.Epoch, own.ContentType, 0))(t); !bytes.Equal(again.ownRow(), restored.ownRow()) {
		t.Error("skipped backwards")
	}
	_, b, err := restored.Seal(c.bytes, nil, []byte("y"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.g(0).Open(must(c.realm.Parse(b))(t)); err != nil {
		t.Error(err)
	}
}

// Who is removed stays where it was: it neither sends nor follows.
func TestRemovedMember(t *testing.T) {
	c := newClub(t, 3)
	gone := c.members[1]
	late, message, err := c.g(2).Seal(c.bytes, nil, []byte("late"))
	if err != nil {
		t.Fatal(err)
	}
	c.members[2].g = late
	c.deliver(c.members[0], must(c.g(0).Commit(CommitConfig{Rand: c.bytes, Proposals: []Proposal{Remove{1}}}))(t), nil)
	g := gone.g
	if g.Active() {
		t.Fatal("still active")
	}
	_, _, sealErr := g.Seal(c.bytes, nil, nil)
	_, commitErr := g.Commit(CommitConfig{Rand: c.bytes})
	_, _, proposeErr := g.Propose(c.bytes, Update{}, nil)
	_, exportErr := g.Export("x", nil, 32)
	_, infoErr := g.Info()
	for _, err := range []error{sealErr, commitErr, proposeErr, exportErr, infoErr} {
		if !errors.Is(err, ErrNotMember) {
			t.Error(err)
		}
	}
	if _, content, err := g.Open(must(c.realm.Parse(message))(t)); err != nil || string(content.(*Application).Data) != "late" {
		t.Error("what was sent before:", err)
	}
	restored := gone.store.restore(t, nil, gone.signer)
	if restored.Active() || restored.Epoch() != g.Epoch() {
		t.Error("comes back as a member")
	}
}

// Two commits for one epoch: the second cannot be merged after the first.
func TestMergeOnlyOnce(t *testing.T) {
	c := newClub(t, 2)
	first := must(c.g(0).Commit(CommitConfig{Rand: c.bytes}))(t)
	second := must(c.g(0).Commit(CommitConfig{Rand: c.bytes}))(t)
	next := must(c.g(0).Merge(first))(t)
	if same, err := next.Merge(second); !errors.Is(err, ErrWrongEpoch) || same != next {
		t.Error(err)
	}
	if _, err := next.UnmarshalStaged(must(second.MarshalBinary())(t), second.Message()); !errors.Is(err, ErrWrongEpoch) {
		t.Error(err)
	}
	if _, err := c.g(0).UnmarshalStaged(must(second.MarshalBinary())(t), first.Message()); !errors.Is(err, errStagedFormat) {
		t.Error(err)
	}
}

// One stream of randomness makes one commit, however it is computed.
func TestCommitIsDeterministic(t *testing.T) {
	c := newClub(t, 4)
	k, _ := c.keyPackage(c.player())
	backwards := func(n int, f func(int)) {
		for i := range n {
			f(n - 1 - i)
		}
	}
	commit := func(each Each) *StagedCommit {
		return must(c.g(0).Commit(CommitConfig{Rand: rand.NewChaCha8([32]byte{7}), Proposals: []Proposal{Add{k}}, Each: each}))(t)
	}
	a, b := commit(nil), commit(backwards)
	equal(t, "commit", b.Message(), a.Message())
	equal(t, "welcome", b.Welcome(), a.Welcome())
}

// However a group or its parts are printed, no secret shows.
func TestGroupsPrintNoSecrets(t *testing.T) {
	c := newClub(t, 2)
	g := c.g(0)
	s := must(g.Commit(CommitConfig{Rand: c.bytes}))(t)
	_, secrets := c.keyPackage(c.player())
	printed := fmt.Sprintf("%v %+v %#v %v %+v %v %+v %+v", g, *g, g, s, *s, secrets, g.Rows(nil), *g.keys)
	for _, b := range [][]byte{g.keys.leaf, g.secrets.init, g.secrets.exporter, s.keys.leaf, secrets.InitKey, g.ownRow(), g.memberRow(0)[:40], g.epochRow()} {
		for _, form := range []string{string(b), fmt.Sprint(b)[1 : len(fmt.Sprint(b))-1], fmt.Sprintf("%x", b), fmt.Sprintf("%#v", b)} {
			if strings.Contains(printed, form) {
				t.Errorf("%q is in what is printed", form)
			}
		}
	}
}
