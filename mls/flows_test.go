package mls

import (
	"bytes"
	"errors"
	"sync"
	"testing"
)

// Flows that random histories do not take.

// open lets every member but the sender open a message, and go on.
func (c *club) open(from *player, message []byte) {
	c.send(from, message, func(p *player, m *Message) {
		next, _, err := p.g.Open(m)
		if err != nil {
			c.t.Fatalf("%s: %v", p.name, err)
		}
		c.set(p, next)
	})
}

// RFC 9420, Section 8.4: keys from outside and from earlier epochs enter the key
// schedule of members and newcomers alike.
func TestPreSharedKeys(t *testing.T) {
	c := newClub(t, 3)
	psk := func(id PreSharedKeyID) ([]byte, bool) { return []byte("shared before"), string(id.ID) == "psk" }
	resumption := PreSharedKeyID{Type: PSKResumption, Usage: ResumptionApplication, GroupID: c.g(0).GroupID(), Epoch: c.g(0).Epoch() - 2, Nonce: make([]byte, 32)}
	config := CommitConfig{Rand: c.bytes, Proposals: []Proposal{PreSharedKey{c.pskID()}, PreSharedKey{resumption}}}
	if _, err := c.g(0).Commit(config); !errors.Is(err, ErrUnknownPSK) {
		t.Error("a commit of an unknown psk:", err)
	}
	for _, p := range c.members {
		p.g = p.g.WithPSK(psk)
	}
	c.deliver(c.members[0], must(c.g(0).Commit(config))(t), nil)
	c.agree()

	config.Proposals = []Proposal{PreSharedKey{c.pskID()}}
	config.NoPath = true
	p := c.player()
	k, secrets := c.keyPackage(p)
	config.Proposals = append(config.Proposals, Add{k})
	c.members[0].g = c.g(0).WithPSK(psk)
	s := must(c.g(0).Commit(config))(t)
	join := JoinConfig{Signer: p.signer, KeyPackage: k, Secrets: secrets, Welcome: must(c.realm.Parse(s.Welcome()))(t)}
	if _, _, err := Join(join); !errors.Is(err, ErrUnknownPSK) {
		t.Error("a newcomer without the psk:", err)
	}
	join.PSK = psk
	g, info, err := Join(join)
	if err != nil {
		t.Fatal(err)
	}
	if info.HasPathSecret {
		t.Error("a commit without a path has a path secret")
	}
	equal(t, "epoch authenticator", g.EpochAuthenticator(), s.EpochAuthenticator())
}

// RFC 9420, Section 12.1.8: somebody on the group's list, and somebody who wants
// to join, propose from outside.
func TestProposalsFromOutside(t *testing.T) {
	c := newClub(t, 3)
	service := must(GenerateSigner(c.suite, c.bytes))(t)
	entry := BasicCredential([]byte("service")).append(appendVector(nil, service.Public()))
	list := appendVector(nil, entry)
	c.deliver(c.members[0], must(c.g(0).Commit(CommitConfig{Rand: c.bytes, Proposals: []Proposal{
		GroupContextExtensions{Extensions{{ExtensionExternalSenders, list}}},
	}}))(t), nil)
	propose := func(signer *Signer, from sender, p Proposal) *Message {
		a := must(c.g(0).context.content(from, nil).withProposal(p).sign(c.suite, signer, WirePublicMessage, nil))(t)
		return must(c.realm.Parse((*epochSecrets)(nil).sealPublic(a, nil)))(t)
	}
	joiner := c.player()
	k, secrets := c.keyPackage(joiner)
	remove := propose(service, sender{Type: SenderExternal}, Remove{2})
	join := propose(joiner.signer, sender{Type: SenderNewMemberProposal}, Add{k})

	for _, m := range []*Message{
		propose(service, sender{Type: SenderExternal, index: 1}, Remove{2}),
		propose(joiner.signer, sender{Type: SenderExternal}, Remove{2}),
		propose(service, sender{Type: SenderNewMemberProposal}, Add{k}),
	} {
		if _, _, err := c.g(0).Open(m); !errors.Is(err, ErrInvalid) {
			t.Error("a proposal of somebody else:", err)
		}
	}
	c.open(nil, remove.Bytes())
	c.open(nil, join.Bytes())
	if again, _, err := c.g(0).Open(join); err != nil || again != c.g(0) {
		t.Error("a proposal twice:", err)
	}
	s := must(c.g(0).Commit(CommitConfig{Rand: c.bytes, ByReference: true}))(t)
	if p := s.Proposals(); len(p) != 2 || !p[0].ByReference || p[0].SenderType != SenderExternal || p[1].SenderType != SenderNewMemberProposal {
		t.Errorf("%+v", p)
	}
	c.deliver(c.members[0], s, map[*player]joining{joiner: {k, secrets}})
	c.agree()
	if len(c.members) != 3 || len(c.gone) != 1 {
		t.Errorf("%d members, %d gone", len(c.members), len(c.gone))
	}
}

// RFC 9420, Section 12.1.5: after a ReInit the group is closed.
func TestReInitClosesTheGroup(t *testing.T) {
	c := newClub(t, 2)
	s := must(c.g(0).Commit(CommitConfig{Rand: c.bytes, NoPath: true, Proposals: []Proposal{
		ReInit{GroupID: []byte("next"), Version: mls10, CipherSuite: c.suite},
	}}))(t)
	_, opened, err := c.g(1).Open(must(c.realm.Parse(s.Message()))(t))
	if err != nil {
		t.Fatal(err)
	}
	g := must(c.g(1).Merge(opened.(*StagedCommit)))(t)
	own := must(c.g(0).Merge(s))(t)
	equal(t, "epoch authenticator", g.EpochAuthenticator(), own.EpochAuthenticator())
	if _, _, err := g.Seal(c.bytes, nil, nil); !errors.Is(err, ErrNotMember) || g.Active() {
		t.Error("a closed group:", err)
	}
	c.set(c.members[1], g)
	if restored := c.members[1].store.restore(t, nil, c.members[1].signer); restored.Active() {
		t.Error("a closed group comes back open")
	}
}

// A path is left away only where RFC 9420, Section 12.4, allows it.
func TestNoPath(t *testing.T) {
	c := newClub(t, 3)
	for _, list := range [][]Proposal{nil, {Remove{1}}, {GroupContextExtensions{}}} {
		if _, err := c.g(0).Commit(CommitConfig{Rand: c.bytes, NoPath: true, Proposals: list}); !errors.Is(err, errPathMissing) {
			t.Errorf("%v: %v", list, err)
		}
	}
}

// A store may be behind what was received: the group comes back able to open the
// same messages again, and with its own generations never.
func TestRowsMayLagBehindWhatWasReceived(t *testing.T) {
	c := newClub(t, 2)
	p := c.members[1]
	var messages []*Message
	for range 3 {
		next, b, err := c.g(0).Seal(c.bytes, nil, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		c.members[0].g = next
		messages = append(messages, must(c.realm.Parse(b))(t))
	}
	saved := p.g
	for _, m := range messages {
		next, _, err := p.g.Open(m)
		if err != nil {
			t.Fatal(err)
		}
		p.g = next
	}
	sent, _, err := p.g.Seal(c.bytes, nil, []byte("y"))
	if err != nil {
		t.Fatal(err)
	}
	rows := sent.Rows(p.g)
	if len(rows) != 1 || rows[0].Kind != RowOwn {
		t.Errorf("sending stores %d rows", len(rows))
	}
	p.store.apply(t, rows)
	if len(p.g.Rows(saved)) != 1 || p.g.Rows(saved)[0].Kind != RowMember {
		t.Error("receiving stores something else than the member's row")
	}
	restored := p.store.restore(t, nil, p.signer)
	equal(t, "own generations", restored.ownRow(), sent.ownRow())
	for _, m := range messages {
		if restored, _, err = restored.Open(m); err != nil {
			t.Error(err)
		}
	}
}

// Rows of another group, or of another epoch, do not make a group.
func TestRowsOfAnotherGroup(t *testing.T) {
	a, b := newClub(t, 3), newHistory(t, MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519, nil, 1)
	(&club{b}).add(2)
	other := b.members[1].store
	p := a.members[1]
	for _, kind := range []RowKind{RowTree, RowEpoch} {
		get := func(k RowKind, key, secret []byte) ([]byte, error) {
			if k != kind {
				return p.store.get(k, key, secret)
			}
			for _, r := range other.rows[kind] {
				return r.Value, nil
			}
			return nil, errNoRow
		}
		if _, err := Restore(nil, p.signer, get, p.store.list); !errors.Is(err, ErrInvalid) {
			t.Errorf("a foreign row of kind %d: %v", kind, err)
		}
	}
	if _, err := Restore(nil, p.signer, p.store.get, func(RowKind) ([][]byte, error) { return nil, nil }); !errors.Is(err, errStoredGroup) {
		t.Error("no rows:", err)
	}
}

// Members of a realm open the same messages at the same time.
func TestMembersOfARealmInParallel(t *testing.T) {
	c := newCrowd(t, 40, Public)
	members := append([]*Group{c.creator}, c.join(t, 39)...)
	for round := range 4 {
		from := members[round*7]
		next, data, err := from.Seal(c.rand, nil, []byte("hello"))
		if err != nil {
			t.Fatal(err)
		}
		members[round*7] = next
		s := must(next.Commit(CommitConfig{Rand: c.rand}))(t)
		var wg sync.WaitGroup
		for i, g := range members {
			if i == round*7 {
				continue
			}
			wg.Go(func() {
				g, content, err := g.Open(must(c.realm.Parse(bytes.Clone(data)))(t))
				if err != nil || string(content.(*Application).Data) != "hello" {
					t.Error(err)
					return
				}
				_, content, err = g.Open(must(c.realm.Parse(bytes.Clone(s.Message())))(t))
				if err != nil {
					t.Error(err)
					return
				}
				members[i] = must(g.Merge(content.(*StagedCommit)))(t)
			})
		}
		wg.Wait()
		members[round*7] = must(next.Merge(s))(t)
		for _, g := range members {
			equal(t, "epoch authenticator", g.EpochAuthenticator(), members[0].EpochAuthenticator())
			if g.publicState != members[0].publicState {
				t.Error("a member has a state of its own")
			}
		}
	}
}
