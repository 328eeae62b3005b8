package mls

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// A history is a group's random life, played by all its members: every member
// opens every message, stores its rows after every step, and restarts from them
// now and then. Everything that anyone sees goes into the journal, so that two
// histories of one seed can be compared byte for byte.
type history struct {
	t       testing.TB
	suite   CipherSuite
	realm   *Realm
	bytes   *rand.ChaCha8 // randomness of the members
	dice    *rand.Rand    // choices of the history
	members []*player     // in the order in which they came
	gone    []*player
	named   int
	journal []byte
	trees   []*tree // one of each epoch
}

type player struct {
	name   string
	g      *Group
	signer *Signer
	store  *rowStore
}

func newHistory(t testing.TB, suite CipherSuite, realm *Realm, seed byte) *history {
	h := &history{t: t, suite: suite, realm: realm}
	h.bytes = rand.NewChaCha8([32]byte{seed})
	h.dice = rand.New(rand.NewPCG(uint64(seed), 1))
	p := h.player()
	g := must(Create(CreateConfig{
		Realm: realm, Rand: h.bytes, Suite: suite, GroupID: fmt.Appendf(nil, "group %d", seed), Signer: p.signer,
		Credential: BasicCredential([]byte(p.name)), Capabilities: testCapabilities(suite), Lifetime: Lifetime{0, 1 << 40},
	}))(t)
	h.enter(p, g)
	return h
}

func testCapabilities(suite CipherSuite) Capabilities {
	return Capabilities{
		Versions: []uint16{mls10}, CipherSuites: []CipherSuite{suite},
		Extensions: []ExtensionType{0xff00}, Proposals: nil, Credentials: []CredentialType{CredentialBasic},
	}
}

func (h *history) player() *player {
	h.named++
	return &player{
		name:   fmt.Sprintf("member %d", h.named),
		signer: must(GenerateSigner(h.suite, h.bytes))(h.t),
		store:  newRowStore(),
	}
}

func (h *history) keyPackage(p *player) (*KeyPackage, *KeyPackageSecrets) {
	k, secrets, err := NewKeyPackage(KeyPackageConfig{
		Rand: h.bytes, Suite: h.suite, Signer: p.signer, Credential: BasicCredential([]byte(p.name)),
		Capabilities: testCapabilities(h.suite), Lifetime: Lifetime{0, 1 << 40},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return must(h.realm.ParseKeyPackage(k.Bytes()))(h.t), secrets
}

func (h *history) note(b ...[]byte) {
	for _, b := range b {
		h.journal = appendVector(h.journal, b)
	}
}

// enter makes p a member and stores it for the first time.
func (h *history) enter(p *player, g *Group) {
	p.g = g
	p.store.apply(h.t, g.Rows(nil))
	h.members = append(h.members, p)
}

// set moves p to its next state and stores what that takes.
func (h *history) set(p *player, next *Group) {
	rows := next.Rows(p.g)
	for _, r := range rows {
		h.note([]byte{byte(r.Kind)}, r.Key, r.Value, r.Secret)
	}
	p.store.apply(h.t, rows)
	p.g = next
}

func (h *history) anyone() *player { return h.members[h.dice.IntN(len(h.members))] }

// send delivers a message to everyone but its sender, who must recognise it.
func (h *history) send(from *player, message []byte, to func(p *player, m *Message)) {
	h.note(message)
	m := must(h.realm.Parse(message))(h.t)
	for _, p := range h.members {
		if p != from {
			to(p, m)
			continue
		}
		if _, _, err := p.g.Open(m); !errors.Is(err, ErrOwnMessage) {
			h.t.Fatalf("%s opens its own message: %v", p.name, err)
		}
	}
}

func (h *history) talk() {
	from, data := h.anyone(), []byte(fmt.Sprintf("hello %d", h.dice.IntN(1000)))
	next, message, err := from.g.Seal(h.bytes, []byte("aad"), data)
	if err != nil {
		h.t.Fatal(err)
	}
	h.set(from, next)
	h.send(from, message, func(p *player, m *Message) {
		next, c, err := p.g.Open(m)
		if err != nil {
			h.t.Fatalf("%s opens: %v", p.name, err)
		}
		a := c.(*Application)
		if !bytes.Equal(a.Data, data) || a.Sender != from.g.OwnLeaf() || string(a.AAD) != "aad" ||
			string(a.Leaf.Credential.Identity) != from.name {
			h.t.Fatalf("%s opened %+v", p.name, a)
		}
		if _, _, err := next.Open(m); !errors.Is(err, ErrReplayed) {
			h.t.Fatalf("%s opens twice: %v", p.name, err)
		}
		h.set(p, next)
	})
	for _, p := range h.gone {
		if _, _, err := p.g.Open(must(h.realm.Parse(message))(h.t)); err == nil {
			h.t.Fatalf("%s reads after its removal", p.name)
		}
	}
}

func (h *history) propose() {
	from := h.anyone()
	var p Proposal = Update{}
	if h.dice.IntN(3) == 0 {
		if other := h.anyone(); other != from {
			p = Remove{Removed: other.g.OwnLeaf()}
		}
	}
	next, message, err := from.g.Propose(h.bytes, p, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	h.set(from, next)
	h.send(from, message, func(p *player, m *Message) {
		next, _, err := p.g.Open(m)
		if err != nil {
			h.t.Fatalf("%s opens a proposal: %v", p.name, err)
		}
		h.set(p, next)
	})
}

// commit commits what is proposed, and with some luck adds and removes, or
// changes the group context.
func (h *history) commit() {
	from := h.anyone()
	c := CommitConfig{Rand: h.bytes, ByReference: true, Public: h.dice.IntN(4) == 0}
	removed := map[LeafIndex]bool{}
	for range h.dice.IntN(3) {
		if other := h.anyone(); other != from && h.dice.IntN(3) == 0 && !removed[other.g.OwnLeaf()] {
			removed[other.g.OwnLeaf()] = true
			c.Proposals = append(c.Proposals, Remove{Removed: other.g.OwnLeaf()})
		}
	}
	joiners := map[*player]joining{}
	for range h.dice.IntN(4) {
		p := h.player()
		k, secrets := h.keyPackage(p)
		joiners[p] = joining{k, secrets}
		c.Proposals = append(c.Proposals, Add{KeyPackage: k})
	}
	if h.dice.IntN(5) == 0 {
		c.Proposals = append(c.Proposals, GroupContextExtensions{Extensions: Extensions{{Type: 0xff00, Data: []byte{byte(h.dice.IntN(256))}}}})
	}
	c.NoPath = h.dice.IntN(3) == 0 && len(joiners) > 0 && len(joiners) == len(c.Proposals) && len(from.g.queue) == 0
	s, err := from.g.Commit(c)
	if err != nil {
		h.t.Fatalf("%s commits: %v", from.name, err)
	}
	h.deliver(from, s, joiners)
	h.agree()
}

type joining struct {
	keyPackage *KeyPackage
	secrets    *KeyPackageSecrets
}

// deliver brings an own staged commit to everyone.
func (h *history) deliver(from *player, s *StagedCommit, joiners map[*player]joining) {
	h.note(s.Welcome())
	if from.g.Active() {
		h.set(from, s.Sent())
	}
	h.send(from, s.Message(), func(p *player, m *Message) {
		same, c, err := p.g.Open(m)
		if err != nil {
			h.t.Fatalf("%s opens a commit of %s: %v", p.name, from.name, err)
		}
		if same != p.g {
			h.t.Fatal("staging a commit changed the group")
		}
		h.sameCommit(p, from, c.(*StagedCommit), s)
		h.set(p, must(p.g.Merge(c.(*StagedCommit)))(h.t))
	})
	if from.g.Active() {
		if h.dice.IntN(2) == 0 { // the committer restarts before its commit comes back
			stored := must(s.MarshalBinary())(h.t)
			from.g = from.store.restore(h.t, h.realm, from.signer)
			s = must(from.g.UnmarshalStaged(stored, s.Message()))(h.t)
			equal(h.t, "generations after a commit was read back", s.Sent().ownRow(), from.g.ownRow())
		}
		h.set(from, must(from.g.Merge(s))(h.t))
	}
	for _, p := range h.members {
		if !p.g.Active() {
			h.gone = append(h.gone, p)
		}
	}
	h.members = slices.DeleteFunc(h.members, func(p *player) bool { return !p.g.Active() })
	if s.Welcome() != nil {
		w := must(h.realm.Parse(s.Welcome()))(h.t)
		names := slices.SortedFunc(maps.Keys(joiners), func(a, b *player) int { return bytes.Compare([]byte(a.name), []byte(b.name)) })
		for _, p := range names {
			j := joiners[p]
			g, info, err := Join(JoinConfig{Realm: h.realm, Signer: p.signer, KeyPackage: j.keyPackage, Secrets: j.secrets, Welcome: w})
			if err != nil {
				h.t.Fatalf("%s joins: %v", p.name, err)
			}
			if info.Signer != from.g.OwnLeaf() || info.HasPathSecret != s.HasPath() {
				h.t.Fatalf("joined with %+v", info)
			}
			h.enter(p, g)
		}
	}
}

// sameCommit checks that p has staged what the committer has.
func (h *history) sameCommit(p, from *player, got, own *StagedCommit) {
	leaf, ok := got.Leaf(got.Committer())
	if !ok || string(leaf.Credential.Identity) != from.name {
		h.t.Fatalf("%s takes somebody else for the committer", p.name)
	}
	if got.Own() || !own.Own() || got.HasPath() && !leaf.Equal(got.PathLeaf()) || got.External() != own.External() {
		h.t.Fatalf("%s has staged another commit", p.name)
	}
	if !slices.Equal(got.Added(), own.Added()) || !slices.Equal(got.Removed(), own.Removed()) || got.Epoch() != p.g.Epoch()+1 ||
		!bytes.Equal(got.Context().append(nil), own.Context().append(nil)) || len(got.Proposals()) != len(own.Proposals()) {
		h.t.Fatalf("%s has staged other changes", p.name)
	}
	if got.SelfRemoved() {
		if !slices.Contains(got.Removed(), p.g.OwnLeaf()) || got.EpochAuthenticator() != nil {
			h.t.Fatalf("%s is removed by a commit that does not remove it", p.name)
		}
		return
	}
	equal(h.t, "epoch authenticator of a staged commit", got.EpochAuthenticator(), own.EpochAuthenticator())
}

// joinExternally lets somebody in by an external commit: new, or a member that
// starts anew.
func (h *history) joinExternally() {
	info := must(h.anyone().g.Info())(h.t)
	h.note(info)
	p, resync := h.player(), h.dice.IntN(2) == 0 && len(h.members) > 1
	if resync {
		old := h.anyone()
		p.signer, p.name = old.signer, old.name
	}
	outsider, s, err := JoinExternal(ExternalConfig{
		Realm: h.realm, Rand: h.bytes, Signer: p.signer, Credential: BasicCredential([]byte(p.name)),
		Capabilities: testCapabilities(h.suite), GroupInfo: must(h.realm.Parse(info))(h.t), Resync: resync,
	})
	if err != nil {
		h.t.Fatal("external commit:", err)
	}
	p.g = outsider
	h.deliver(p, s, nil)
	h.enter(p, must(outsider.Merge(s))(h.t))
	h.agree()
}

// restart takes a member from its rows.
func (h *history) restart() {
	p := h.anyone()
	g := p.store.restore(h.t, h.realm, p.signer)
	for i := range g.epochs() {
		equal(h.t, "member row of a restored group", g.memberRow(i), p.g.memberRow(i))
	}
	equal(h.t, "own row of a restored group", g.ownRow(), p.g.ownRow())
	if rows := g.Rows(p.g); len(rows) > 0 && !onlyMembers(rows) {
		h.t.Errorf("a restored group stores %d rows", len(rows))
	}
	p.g = g
}

// A restored group has other pointers, by which it cannot tell that nothing was
// received since.
func onlyMembers(rows []Row) bool {
	return !slices.ContainsFunc(rows, func(r Row) bool { return r.Kind != RowMember })
}

// agree checks what the members of a group have in common, and that each parent
// key is known to the members below it that are merged, and to nobody else.
func (h *history) agree() {
	first := h.members[0].g
	h.trees = append(h.trees, first.tree)
	authenticator := first.EpochAuthenticator()
	h.note(authenticator, first.encoded)
	exported := must(first.Export("label", []byte("context"), 32))(h.t)
	for _, p := range h.members {
		equal(h.t, "epoch authenticator", p.g.EpochAuthenticator(), authenticator)
		equal(h.t, "context", p.g.encoded, first.encoded)
		equal(h.t, "exported", must(p.g.Export("label", []byte("context"), 32))(h.t), exported)
		if leaf, ok := p.g.Member(p.g.OwnLeaf()); !ok || string(leaf.Credential.Identity) != p.name {
			h.t.Fatalf("%s is not where it thinks", p.name)
		}
		if i, ok := p.g.Find(p.signer.Public()); !ok || i != p.g.OwnLeaf() {
			h.t.Fatalf("%s is not found", p.name)
		}
	}
	if first.Size() != len(h.members) {
		h.t.Fatalf("%d members in the tree of %d", first.Size(), len(h.members))
	}
	// The tree that came of all edits is the one that a newcomer accepts.
	t := must(parseTree(h.suite, first.tree.append(nil)))(h.t)
	if err := t.validate(nil, first.GroupID(), requirements{}); err != nil {
		h.t.Fatal(err)
	}
	if !bytes.Equal(t.hash(), first.Context().TreeHash) {
		h.t.Fatal("tree hash differs after encoding")
	}
	for x := range 2*first.tree.rootIndex() + 1 {
		n := first.tree.at(x)
		for _, p := range h.members {
			private := p.g.keys.get(x, p.g.own)
			knows := !n.blank() && x.ancestor(p.g.own.node())
			if n.parent != nil {
				if _, unmerged := slices.BinarySearch(n.parent.unmerged, p.g.own); unmerged {
					knows = false
				}
			}
			if knows != (private != nil) {
				h.t.Fatalf("%s knows node %d: %v, want %v", p.name, x, private != nil, knows)
			}
			if private != nil {
				h.opens(private, n.encryptionKey())
			}
		}
	}
}

func (h *history) opens(private secret, public []byte) {
	seed := sha256.Sum256(public)
	kem, ct, err := h.suite.encryptWithLabel(bytes.NewReader(seed[:]), public, "test", nil, []byte("x"))
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.suite.decryptWithLabel(private, public, "test", nil, kem, ct); err != nil {
		h.t.Fatal("a private key does not fit the tree's public key")
	}
}

func (h *history) live(steps int) {
	for range steps {
		switch n := h.dice.IntN(20); {
		case n < 6:
			h.talk()
		case n < 9:
			h.propose()
		case n < 16:
			h.commit()
		case n < 18:
			h.joinExternally()
		default:
			h.restart()
		}
	}
}

// Random histories: all members agree at every step, whatever they restart
// from, and whoever is removed reads nothing more.
func TestRandomHistories(t *testing.T) {
	for seed := range byte(6) {
		suite := []CipherSuite{
			MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
			MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
			MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
		}[seed%3]
		t.Run(fmt.Sprintf("%d", seed), func(t *testing.T) {
			newHistory(t, suite, nil, seed).live(40)
		})
	}
}

// A difference leads from any tree to any other, with all that a tree knows of
// itself.
func TestTreeDifferences(t *testing.T) {
	h := newHistory(t, MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519, nil, 3)
	h.live(25)
	c := &club{h}
	c.add(20)
	var removed []Proposal
	for _, p := range h.members[1:] {
		removed = append(removed, Remove{p.g.OwnLeaf()})
	}
	h.deliver(h.members[0], must(h.members[0].g.Commit(CommitConfig{Rand: h.bytes, Proposals: removed}))(t), nil)
	h.agree()
	for _, a := range h.trees {
		for _, b := range h.trees {
			got := must(a.patched(b.difference(a)))(t)
			if got.root.hash != b.root.hash || got.depth != b.depth || !bytes.Equal(got.append(nil), b.append(nil)) {
				t.Fatalf("from %d to %d members: another tree", a.size(), b.size())
			}
			for x := range 2*max(a.rootIndex(), b.rootIndex()) + 1 {
				for _, tree := range []*tree{a, b} {
					n := tree.at(x)
					if n == nil || n.blank() {
						continue
					}
					place, known := got.encryptionKeys.get(n.encryptionKey())
					want, also := b.encryptionKeys.get(n.encryptionKey())
					if known != also || place != want {
						t.Fatalf("from %d to %d members: keys of other places", a.size(), b.size())
					}
				}
			}
		}
	}
}

// Members that share a realm see, send and store the same bytes as members that
// share nothing.
func TestSharingChangesNothing(t *testing.T) {
	for seed := range byte(3) {
		t.Run(fmt.Sprintf("%d", seed), func(t *testing.T) {
			alone := newHistory(t, MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519, NewRealm(None), seed)
			together := newHistory(t, MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519, NewRealm(Public), seed)
			alone.live(35)
			together.live(35)
			if !bytes.Equal(alone.journal, together.journal) {
				t.Error("the journals differ")
			}
			if len(alone.members) < 2 {
				t.Error("a history of nobody")
			}
			shared := map[*publicState]bool{}
			for _, p := range together.members {
				shared[p.g.publicState] = true
			}
			if len(shared) != 1 {
				t.Errorf("%d members hold %d states", len(together.members), len(shared))
			}
		})
	}
}
