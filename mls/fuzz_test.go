package mls

import (
	"bytes"
	"errors"
	"testing"
)

// Bytes from outside: whatever they are, no decoder and no group panics, and an
// error leaves the group as it was.

func FuzzRatchetTree(f *testing.F) {
	c := newClub(f, 5)
	c.add(1)
	f.Add(c.g(0).tree.append(nil))
	c.deliver(c.members[0], must(c.g(0).Commit(CommitConfig{Rand: c.bytes, Proposals: []Proposal{Remove{1}}}))(f), nil)
	f.Add(c.g(0).tree.append(nil))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		tree, err := parseTree(c.suite, b)
		if err != nil {
			return
		}
		if again := tree.append(nil); !bytes.Equal(again, b) {
			t.Errorf("encodes as %x", again)
		}
		_ = tree.validate(nil, c.g(0).GroupID(), requirements{})
	})
}

func FuzzTreeDifference(f *testing.F) {
	c := newClub(f, 5)
	before := c.g(0).tree
	c.add(4)
	f.Add(c.g(0).tree.difference(before))
	c.deliver(c.members[0], must(c.g(0).Commit(CommitConfig{Rand: c.bytes, Proposals: []Proposal{Remove{1}}}))(f), nil)
	f.Add(c.g(0).tree.difference(before))
	f.Fuzz(func(t *testing.T, b []byte) {
		if after, err := before.patched(b); err == nil {
			_ = after.append(nil)
		}
	})
}

func FuzzKeyPackage(f *testing.F) {
	c := newClub(f, 1)
	k, _ := c.keyPackage(c.player())
	f.Add(k.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseKeyPackage(b)
		if err == nil && !bytes.Equal(k.Bytes(), b) {
			t.Error("encodes otherwise")
		}
	})
}

func FuzzGroupExtensions(f *testing.F) {
	f.Add(RequiredCapabilities{Extensions: []ExtensionType{1, 2}, Credentials: []CredentialType{1}}.Bytes())
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ParseRequiredCapabilities(b); err == nil && !bytes.Equal(c.Bytes(), b) {
			t.Error("encodes otherwise")
		}
		_, _ = ParseExternalSenders(b)
	})
}

// A live group opens anything.
func FuzzGroupOpen(f *testing.F) {
	c := newClub(f, 3)
	add := func(b []byte, err error) {
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	_, b, err := c.g(1).Seal(c.bytes, []byte("aad"), []byte("data"))
	add(b, err)
	_, b, err = c.g(1).Propose(c.bytes, Remove{2}, nil)
	add(b, err)
	add(must(c.g(1).Commit(CommitConfig{Rand: c.bytes}))(f).Message(), nil)
	add(must(c.g(1).Commit(CommitConfig{Rand: c.bytes, Public: true}))(f).Message(), nil)
	add(must(c.g(1).Commit(CommitConfig{Rand: c.bytes, Public: true, Proposals: []Proposal{Remove{0}}}))(f).Message(), nil)
	g := c.g(0)
	before := g.memberRow(0)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			return
		}
		next, content, err := g.Open(m)
		if err != nil {
			if next != g || content != nil {
				t.Error("an error changed the group")
			}
		} else if s, ok := content.(*StagedCommit); ok {
			if _, err := g.Merge(s); err != nil {
				t.Error(err)
			}
		}
		if !bytes.Equal(g.memberRow(0), before) {
			t.Error("opening changed the group that opened")
		}
	})
}

// What follows a valid signature: a member's own commit, with any structure.
func FuzzCommitByAMember(f *testing.F) {
	c := newClub(f, 4)
	s := must(c.g(0).Commit(CommitConfig{Rand: c.bytes, Proposals: []Proposal{Remove{2}}}))(f)
	f.Add(s.private.content.body)
	f.Add(must(c.g(0).Commit(CommitConfig{Rand: c.bytes}))(f).private.content.body)
	g := c.g(1)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newReader(b)
		commit := decodeCommit(r)
		if r.end() != nil {
			return
		}
		a := authenticatedContent(unverifiedContent{wire: WirePrivateMessage, framedContent: g.context.content(memberSender(0), nil).withCommit(commit)})
		if s, err := g.stage(&a, contentID{}); err == nil && !s.SelfRemoved() {
			t.Error("a commit without its confirmation tag was staged")
		}
	})
}

func FuzzWelcome(f *testing.F) {
	c := newClub(f, 3)
	p := c.player()
	k, secrets := c.keyPackage(p)
	s := must(c.g(0).Commit(CommitConfig{Rand: c.bytes, Proposals: []Proposal{Add{k}}}))(f)
	f.Add(s.Welcome())
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := parseMessage(b); err == nil {
			_, _, err := Join(JoinConfig{Signer: p.signer, KeyPackage: k, Secrets: secrets, Welcome: m})
			if err == nil && !bytes.Equal(b, s.Welcome()) && m.wire != WireWelcome {
				t.Error("joined by something else")
			}
		}
	})
}

// What a store gives back: one row is replaced by anything.
func FuzzRestore(f *testing.F) {
	c := newClub(f, 3)
	_, b, err := c.g(0).Propose(c.bytes, Update{}, nil)
	if err != nil {
		f.Fatal(err)
	}
	p := c.members[1]
	next, _, err := p.g.Open(must(c.realm.Parse(b))(f))
	if err != nil {
		f.Fatal(err)
	}
	c.set(p, next)
	for kind, rows := range p.store.rows {
		for _, r := range rows {
			f.Add(byte(kind), r.Value)
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, value []byte) {
		get := func(k RowKind, key, secret []byte) ([]byte, error) {
			if k == RowKind(kind) {
				return value, nil
			}
			return p.store.get(k, key, secret)
		}
		if _, err := Restore(nil, p.signer, get, p.store.list); err != nil && errors.Is(err, errNoRow) {
			return
		}
	})
}

func FuzzUnmarshalStaged(f *testing.F) {
	c := newClub(f, 3)
	s := must(c.g(0).Commit(CommitConfig{Rand: c.bytes}))(f)
	f.Add(must(s.MarshalBinary())(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := c.g(0).UnmarshalStaged(b, s.Message()); err == nil {
			if _, err := c.g(0).Merge(s); err != nil {
				t.Error(err)
			}
		}
	})
}
