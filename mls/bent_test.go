package mls

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

// Anybody can bend an own commit behind the part of it that its sender's data
// vouch for. What comes back is told apart from a commit of another life: the
// first proves nothing, the second carries the own signature.
func TestBentOwnCommit(t *testing.T) {
	c := newClub(t, 2)
	copied := c.g(1)
	staged := must(copied.Commit(CommitConfig{Rand: c.bytes}))(t)
	bent := bytes.Clone(staged.Message())
	bent[len(bent)-1] ^= 1
	for _, x := range []struct {
		name     string
		at       *Group
		data     []byte
		verified bool
		own      bool
	}{
		{"sent by this group", staged.Sent(), staged.Message(), false, true},
		{"sent by this group, and bent", staged.Sent(), bent, false, true},
		{"sent by a later copy", copied, staged.Message(), true, true},
		{"sent by a later copy, and bent", copied, bent, false, false},
	} {
		_, _, err := x.at.Open(must(c.realm.Parse(x.data))(t))
		var own *OwnMessageError
		if is := errors.As(err, &own); is != x.own || is && own.Verified != x.verified {
			t.Errorf("%s: %v", x.name, err)
		}
	}
}

// A commit of a later copy: this member can judge it as everybody can, and has no
// part in its epoch.
func TestCommitOfALaterCopy(t *testing.T) {
	c := newClub(t, 3)
	copied := c.g(1)
	staged := must(copied.Commit(CommitConfig{Rand: c.bytes, Proposals: []Proposal{Remove{2}}}))(t)
	m := must(c.realm.Parse(staged.Message()))(t)
	var own *OwnMessageError
	if _, _, err := copied.Open(m); !errors.As(err, &own) || own.Commit == nil {
		t.Fatal(err)
	}
	_, content, err := c.g(0).Open(m)
	if err != nil {
		t.Fatal(err)
	}
	theirs := content.(*StagedCommit)
	if !slices.Equal(own.Commit.Removed(), theirs.Removed()) {
		t.Error("removed:", own.Commit.Removed())
	}
	equal(t, "tree", own.Commit.Context().TreeHash, theirs.Context().TreeHash)
	if own.Commit.SelfRemoved() || own.Commit.EpochAuthenticator() != nil {
		t.Error("it has a part in the commit")
	}
	if next, err := copied.Merge(own.Commit); !errors.Is(err, ErrCannotDecryptPath) || next != copied {
		t.Error("merged:", err)
	}
}

// A group knows the epochs that it was in, as far as their keys are kept, and
// none of another history.
func TestKnows(t *testing.T) {
	c := newClub(t, 2)
	before := c.g(1)
	rival := must(before.Merge(must(before.Commit(CommitConfig{Rand: c.bytes}))(t)))(t)
	c.deliver(c.members[0], must(c.g(0).Commit(CommitConfig{Rand: c.bytes}))(t), nil)
	switch now := c.g(1); {
	case !now.Knows(c.g(0)), !now.Knows(before):
		t.Error("its own epochs are not known")
	case now.Knows(rival), before.Knows(now):
		t.Error("an epoch is known that it was not in")
	}
}
