package mls

import (
	"bytes"
	"errors"
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
