package mls

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// What must not be accepted: RFC 9420's rules about trees, proposal lists, paths,
// external commits and Welcomes, each broken once.

// club is a group of n members, all added by the first and each with a path of
// its own, with the randomness to go on.
type club struct {
	*history
}

func newClub(t testing.TB, n int) *club {
	h := newHistory(t, MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519, nil, 99)
	c := &club{h}
	c.add(n - 1)
	for _, p := range h.members {
		h.deliver(p, must(p.g.Commit(CommitConfig{Rand: h.bytes}))(t), nil)
	}
	return c
}

func (c *club) add(n int) {
	joiners := map[*player]joining{}
	config := CommitConfig{Rand: c.bytes}
	for range n {
		p := c.player()
		k, secrets := c.keyPackage(p)
		joiners[p] = joining{k, secrets}
		config.Proposals = append(config.Proposals, Add{KeyPackage: k})
	}
	c.deliver(c.members[0], must(c.members[0].g.Commit(config))(c.t), joiners)
	c.agree()
}

func (c *club) g(i int) *Group { return c.members[i].g }

// keyPackageWith makes a key package whose configuration or result is changed.
func (c *club) keyPackageWith(change func(*KeyPackageConfig)) *KeyPackage {
	p := c.player()
	config := KeyPackageConfig{
		Rand: c.bytes, Suite: c.suite, Signer: p.signer, Credential: BasicCredential([]byte(p.name)),
		Capabilities: testCapabilities(c.suite),
	}
	change(&config)
	k, _, err := NewKeyPackage(config)
	if err != nil {
		c.t.Fatal(err)
	}
	return k
}

func (c *club) pskID() PreSharedKeyID {
	return PreSharedKeyID{Type: PSKExternal, ID: []byte("psk"), Nonce: make([]byte, 32)}
}

// RFC 9420, Section 12.2, one rule after the other.
func TestInvalidProposalLists(t *testing.T) {
	c := newClub(t, 4)
	g := c.g(0)
	member := func(i LeafIndex, p Proposal) StagedProposal {
		return StagedProposal{Proposal: p, SenderType: SenderMember, Sender: i, ByReference: true}
	}
	own := func(p Proposal) StagedProposal { return StagedProposal{Proposal: p, SenderType: SenderMember} }
	update := func(i int) Update {
		u, _, err := c.g(i).newUpdate(c.bytes)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	newcomer := c.keyPackageWith(func(*KeyPackageConfig) {})
	twin := c.keyPackageWith(func(k *KeyPackageConfig) { k.Signer = c.members[1].signer })
	foreign, _, err := NewKeyPackage(KeyPackageConfig{
		Rand: c.bytes, Suite: MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519, Signer: must(GenerateSigner(MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519, c.bytes))(t),
		Credential: BasicCredential(nil), Capabilities: testCapabilities(MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519),
	})
	if err != nil {
		t.Fatal(err)
	}
	badSignature := *newcomer
	badSignature.Signature = bytes.Clone(newcomer.Signature)
	badSignature.Signature[0] ^= 1
	shortNonce := c.pskID()
	shortNonce.Nonce = shortNonce.Nonce[1:]
	reinitPSK := c.pskID()
	reinitPSK.Type, reinitPSK.Usage = PSKResumption, ResumptionReInit
	keyPackageLeaf, _ := must2(c.g(1).Member(1))(t)
	elsewhere := update(1)
	sameKey := func() Update {
		old, _ := c.g(1).Member(1)
		leaf := *old
		leaf.Source = SourceUpdate
		return Update{LeafNode: must(leaf.signed(c.suite, c.members[1].signer, g.GroupID(), 1))(t)}
	}()
	required := RequiredCapabilities{Extensions: []ExtensionType{0xabcd}}.Bytes()
	tests := []struct {
		rule string
		list []StagedProposal
		want error
	}{
		{"key package for another suite", []StagedProposal{own(Add{foreign})}, errKeyPackageSuite},
		{"key package with a bad signature", []StagedProposal{own(Add{&badSignature})}, errSignature},
		{"two clients with one signature key", []StagedProposal{own(Add{newcomer}), own(Add{newcomer})}, errSignatureKeyTaken},
		{"client that is a member already", []StagedProposal{own(Add{twin})}, errSignatureKeyTaken},
		{"update by the committer", []StagedProposal{own(update(0))}, errOwnUpdate},
		{"update with a leaf for a key package", []StagedProposal{member(1, Update{keyPackageLeaf})}, errLeafSource},
		{"update signed for another place", []StagedProposal{member(2, elsewhere)}, errSignature},
		{"update that keeps the encryption key", []StagedProposal{member(1, sameKey)}, errEncryptionKeyTaken},
		{"removal of the committer", []StagedProposal{member(1, Remove{0})}, errRemoveCommitter},
		{"removal of nobody", []StagedProposal{own(Remove{7})}, errBlankLeaf},
		{"removal beyond the tree", []StagedProposal{own(Remove{1 << 31})}, errBlankLeaf},
		{"two removals of one", []StagedProposal{own(Remove{1}), own(Remove{1})}, errLeafChangedTwice},
		{"update and removal of one", []StagedProposal{member(1, update(1)), own(Remove{1})}, errLeafChangedTwice},
		{"two updates of one", []StagedProposal{member(1, update(1)), member(1, update(1))}, errLeafChangedTwice},
		{"psk with a short nonce", []StagedProposal{own(PreSharedKey{shortNonce})}, errPSKNonce},
		{"psk twice", []StagedProposal{own(PreSharedKey{c.pskID()}), own(PreSharedKey{c.pskID()})}, errPSKTwice},
		{"psk for a reinitialized group", []StagedProposal{own(PreSharedKey{reinitPSK})}, errPSKUsage},
		{"two group context changes", []StagedProposal{own(GroupContextExtensions{}), own(GroupContextExtensions{})}, errTwoExtensionChanges},
		{"one type of extension twice", []StagedProposal{own(GroupContextExtensions{Extensions{{Type: 0xff00}, {Type: 0xff00}}})}, errDuplicateExtension},
		{"application id in the group's context", []StagedProposal{own(GroupContextExtensions{Extensions{{Type: ExtensionApplicationID}}})}, errExtensionPlace},
		{"ratchet tree in the group's context", []StagedProposal{own(GroupContextExtensions{Extensions{{Type: ExtensionRatchetTree}}})}, errExtensionPlace},
		{"external key in the group's context", []StagedProposal{own(GroupContextExtensions{Extensions{{Type: ExtensionExternalPub}}})}, errExtensionPlace},
		{"mark of last resort in the group's context", []StagedProposal{own(GroupContextExtensions{Extensions{{Type: ExtensionLastResort}}})}, errExtensionPlace},
		{"grease in the group's context", []StagedProposal{own(GroupContextExtensions{Extensions{{Type: 0x3a3a}}})}, errExtensionPlace},
		{"malformed required capabilities", []StagedProposal{own(GroupContextExtensions{Extensions{{ExtensionRequiredCapabilities, []byte{1}}}})}, ErrInvalid},
		{"malformed external senders", []StagedProposal{own(GroupContextExtensions{Extensions{{ExtensionExternalSenders, []byte{1}}}})}, ErrInvalid},
		{"reinit with others", []StagedProposal{own(ReInit{Version: mls10}), own(Remove{1})}, errReInitWithOthers},
		{"reinit to an older version", []StagedProposal{own(ReInit{Version: 0})}, errReInitVersion},
		{"external init inside", []StagedProposal{own(ExternalInit{[]byte{1}})}, errExternalInitInside},
	}
	for _, test := range tests {
		t.Run(test.rule, func(t *testing.T) {
			_, err := g.apply(nil, memberSender(0), test.list)
			if !errors.Is(err, test.want) || !errors.Is(err, ErrInvalid) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
	t.Run("leaf against the group", func(t *testing.T) {
		check := func(extensions Extensions, k *KeyPackage, want error) {
			t.Helper()
			list := []StagedProposal{own(GroupContextExtensions{extensions})}
			if k != nil {
				list = append(list, own(Add{k}))
			}
			change, err := g.apply(nil, memberSender(0), list)
			if err == nil {
				err = (&transition{change: change}).checkTree(change.tree, g.tree)
			}
			if !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		}
		check(Extensions{{ExtensionRequiredCapabilities, required}}, nil, errExtensionUnsupported)
		check(Extensions{{Type: 0xabcd}}, nil, errExtensionUnsupported)
		check(Extensions{{ExtensionRequiredCapabilities, RequiredCapabilities{Proposals: []ProposalType{1, 7, 99}}.Bytes()}}, nil, errProposalUnsupported)
		check(Extensions{{ExtensionRequiredCapabilities, RequiredCapabilities{Credentials: []CredentialType{1, 2}}.Bytes()}}, nil, errCredentialUnsupported)
		check(Extensions{{Type: 0xff00}}, c.keyPackageWith(func(k *KeyPackageConfig) { k.Capabilities.Extensions = nil }), errExtensionUnsupported)
		check(nil, c.keyPackageWith(func(k *KeyPackageConfig) {
			k.Credential, k.Capabilities.Credentials = Credential{Type: 77}, []CredentialType{77, CredentialBasic}
		}), errCredentialUnsupported)
		check(nil, c.keyPackageWith(func(k *KeyPackageConfig) {
			k.Credential, k.Capabilities.Credentials = Credential{Type: 77}, []CredentialType{77}
		}), errCredentialUnsupported)
	})
}

// RFC 9420, Sections 7.3 and 10.1: key packages that lead to nobody.
func TestInvalidKeyPackages(t *testing.T) {
	c := newClub(t, 1)
	p := c.player()
	valid, _ := c.keyPackage(p)
	build := func(version uint16, suite CipherSuite, init []byte, leaf *LeafNode, extensions Extensions, label string) []byte {
		b := appendU16(appendU16(nil, version), uint16(suite))
		b = extensions.append(leaf.append(appendVector(b, init)))
		return appendVector(b, must(c.suite.signWithLabel(p.signer, label, b))(t))
	}
	leaf := func(change func(*LeafNode)) *LeafNode {
		l := *valid.LeafNode
		change(&l)
		return must(l.signed(c.suite, p.signer, nil, 0))(t)
	}
	ok, init := valid.LeafNode, valid.InitKey
	tests := []struct {
		rule  string
		bytes []byte
		want  error
	}{
		{"valid", build(mls10, c.suite, init, ok, nil, labelKeyPackage), nil},
		{"another version", build(2, c.suite, init, ok, nil, labelKeyPackage), errKeyPackageVersion},
		{"another suite", build(mls10, 7, init, ok, nil, labelKeyPackage), ErrUnsupportedSuite},
		{"init key that is the leaf's", build(mls10, c.suite, ok.EncryptionKey, ok, nil, labelKeyPackage), errInitKeyReused},
		{"one extension twice", build(mls10, c.suite, init, ok, Extensions{{Type: 9}, {Type: 9}}, labelKeyPackage), errDuplicateExtension},
		{"signature of something else", build(mls10, c.suite, init, ok, nil, labelLeafNode), errSignature},
		{"bytes behind it", append(valid.Bytes(), 0), errTrailing},
		{"leaf of an update", build(mls10, c.suite, init, leaf(func(l *LeafNode) { l.Source = SourceUpdate }), nil, labelKeyPackage), errLeafSource},
		{"leaf of no source", build(mls10, c.suite, init, &LeafNode{raw: func() []byte {
			raw := bytes.Clone(ok.raw)
			at := bytes.Index(raw, ok.Capabilities.append(nil)) + len(ok.Capabilities.append(nil))
			raw[at] = 9
			return raw
		}()}, nil, labelKeyPackage), errLeafSource},
		{"leaf with an extension twice", build(mls10, c.suite, init, leaf(func(l *LeafNode) { l.Extensions = Extensions{{Type: 0xff00}, {Type: 0xff00}} }), nil, labelKeyPackage), errDuplicateExtension},
		{"leaf without its credential type", build(mls10, c.suite, init, leaf(func(l *LeafNode) { l.Capabilities.Credentials = nil }), nil, labelKeyPackage), errCredentialUnsupported},
		{"leaf without its suite", build(mls10, c.suite, init, leaf(func(l *LeafNode) { l.Capabilities.CipherSuites = []CipherSuite{1} }), nil, labelKeyPackage), errSuiteUnsupported},
		{"leaf without its version", build(mls10, c.suite, init, leaf(func(l *LeafNode) { l.Capabilities.Versions = []uint16{2} }), nil, labelKeyPackage), errSuiteUnsupported},
		{"leaf with an application id", build(mls10, c.suite, init, leaf(func(l *LeafNode) { l.Extensions = Extensions{{Type: ExtensionApplicationID}} }), nil, labelKeyPackage), nil},
		{"leaf with a ratchet tree", build(mls10, c.suite, init, leaf(func(l *LeafNode) { l.Extensions = Extensions{{Type: ExtensionRatchetTree}} }), nil, labelKeyPackage), errExtensionPlace},
		{"leaf with required capabilities", build(mls10, c.suite, init, leaf(func(l *LeafNode) { l.Extensions = Extensions{{Type: ExtensionRequiredCapabilities}} }), nil, labelKeyPackage), errExtensionPlace},
		{"leaf with external senders", build(mls10, c.suite, init, leaf(func(l *LeafNode) { l.Extensions = Extensions{{Type: ExtensionExternalSenders}} }), nil, labelKeyPackage), errExtensionPlace},
		{"leaf with the mark of last resort", build(mls10, c.suite, init, leaf(func(l *LeafNode) {
			l.Capabilities.Extensions, l.Extensions = []ExtensionType{ExtensionLastResort}, Extensions{{Type: ExtensionLastResort}}
		}), nil, labelKeyPackage), errExtensionPlace},
		{"application id of the key package", build(mls10, c.suite, init, ok, Extensions{{Type: ExtensionApplicationID}}, labelKeyPackage), errExtensionPlace},
		{"external key of the key package", build(mls10, c.suite, init, ok, Extensions{{Type: ExtensionExternalPub}}, labelKeyPackage), errExtensionPlace},
		{"extension that is supported", build(mls10, c.suite, init, ok, Extensions{{Type: 0xff00}}, labelKeyPackage), nil},
		{"extension that is not", build(mls10, c.suite, init, ok, Extensions{{Type: 0xff01}}, labelKeyPackage), errExtensionUnsupported},
		{"leaf with very many capabilities", build(mls10, c.suite, init, leaf(func(l *LeafNode) {
			l.Capabilities.Proposals = make([]ProposalType, 1<<16)
		}), nil, labelKeyPackage), nil},
	}
	for _, test := range tests {
		t.Run(test.rule, func(t *testing.T) {
			for _, realm := range []*Realm{nil, NewRealm(Public)} {
				for range 2 {
					if _, err := realm.ParseKeyPackage(test.bytes); !errors.Is(err, test.want) {
						t.Errorf("got %v, want %v", err, test.want)
					}
				}
			}
		})
	}
}

// TestLongListsAreComparedOnce: lists of capabilities may be as long as a message,
// and are compared in time that grows with their lengths alone. If it grew with the
// product, this test would take hours.
func TestLongListsAreComparedOnce(t *testing.T) {
	all := make([]ExtensionType, 1<<16)
	for i := range all {
		all[i] = ExtensionType(i)
	}
	long := slices.Repeat(all[:1<<15], 16)
	c := Capabilities{Extensions: long}
	required := Extensions{{ExtensionRequiredCapabilities, RequiredCapabilities{Extensions: slices.Repeat(all, 8)}.Bytes()}}
	q := must(required.requirements())(t)
	if len(q.extensions) != len(all) {
		t.Errorf("%d requirements of %d types", len(q.extensions), len(all))
	}
	for range 400 {
		if err := c.meets(q); err != errExtensionUnsupported {
			t.Fatal(err)
		}
	}
	c.Extensions = append(long, all[1<<15:]...)
	if err := c.meets(q); err != nil {
		t.Error(err)
	}
}

// TestALeafKeyOfLowOrder: a member whose key nothing can be encrypted to is valid,
// and in nobody's way but its own: paths go on, and everybody else follows them.
func TestALeafKeyOfLowOrder(t *testing.T) {
	for _, first := range []byte{0, 1} { // the point zero, and another of low order
		c := newClub(t, 3)
		p := c.player()
		k, _ := c.keyPackage(p)
		leaf := *k.LeafNode
		leaf.EncryptionKey = append([]byte{first}, make([]byte, 31)...)
		b := appendVector(appendU16(appendU16(nil, mls10), uint16(c.suite)), k.InitKey)
		b = Extensions(nil).append(must(leaf.signed(c.suite, p.signer, nil, 0))(t).append(b))
		bad := must(ParseKeyPackage(appendVector(b, must(c.suite.signWithLabel(p.signer, labelKeyPackage, b))(t))))(t)
		c.deliver(c.members[0], must(c.g(0).Commit(CommitConfig{Rand: c.bytes, Proposals: []Proposal{Add{bad}}}))(t), nil)
		for _, committer := range c.members {
			epoch := committer.g.Epoch()
			c.deliver(committer, must(committer.g.Commit(CommitConfig{Rand: c.bytes}))(t), nil)
			for _, m := range c.members {
				if m.g.Epoch() != epoch+1 || !bytes.Equal(m.g.EpochAuthenticator(), committer.g.EpochAuthenticator()) {
					t.Fatalf("%s does not follow %s from epoch %d", m.name, committer.name, epoch)
				}
			}
		}
	}
}

// TestKeysAreCanonical: an Ed25519 key has one encoding. The standard library takes
// further ones of some points; libcrux does not, and a member that somebody's library
// refuses would split the group.
func TestKeysAreCanonical(t *testing.T) {
	point := func(low, rest, high byte) []byte {
		b := bytes.Repeat([]byte{rest}, 32)
		b[0], b[31] = low, high
		return b
	}
	for name, c := range map[string]struct {
		key  []byte
		want bool
	}{
		"y = 0":                       {point(0, 0, 0), true},
		"y = 0, other x":              {point(0, 0, 0x80), true},
		"y = 1":                       {point(1, 0, 0), true},
		"y = 1, x = -0":               {point(1, 0, 0x80), false},
		"y = 2":                       {point(2, 0, 0x80), true},
		"y = -1":                      {point(0xec, 0xff, 0x7f), true},
		"y = -1, x = -0":              {point(0xec, 0xff, 0xff), false},
		"y = p":                       {point(0xed, 0xff, 0x7f), false},
		"y = p, other x":              {point(0xed, 0xff, 0xff), false},
		"y = p + 1":                   {point(0xee, 0xff, 0x7f), false},
		"y = p + 18":                  {point(0xff, 0xff, 0x7f), false},
		"y = p + 18, other x":         {point(0xff, 0xff, 0xff), false},
		"y = -2":                      {point(0xeb, 0xff, 0xff), true},
		"a key like any":              {must(GenerateSigner(1, rand.NewChaCha8([32]byte{})))(t).Public(), true},
		"y that only ends like p":     {append(point(0xed, 0xff, 0x7f)[:30], 0, 0x7f), true},
		"y that only begins like one": {append(point(1, 0, 0)[:31], 0x81), true},
	} {
		err := CipherSuite(1).verifyWithLabel(c.key, "label", nil, make([]byte, 64))
		if got := err != errSignatureKey; got != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The secrets of a key package come back as they were stored.
func TestKeyPackageSecretsAreStored(t *testing.T) {
	c := newClub(t, 1)
	_, secrets := c.keyPackage(c.player())
	var read KeyPackageSecrets
	if err := read.UnmarshalBinary(must(secrets.MarshalBinary())(t)); err != nil {
		t.Fatal(err)
	}
	equal(t, "init key", read.InitKey, secrets.InitKey)
	equal(t, "encryption key", read.EncryptionKey, secrets.EncryptionKey)
	if err := read.UnmarshalBinary([]byte{1}); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

// must2 is must for a result that may be missing.
func must2[T any](v T, ok bool) func(testing.TB) (T, bool) {
	return func(t testing.TB) (T, bool) {
		t.Helper()
		if !ok {
			t.Fatal("missing")
		}
		return v, ok
	}
}

// forge makes member i's commit with its structure changed before it is signed.
// The confirmation tag is that of the unchanged commit.
func (c *club) forge(i int, config CommitConfig, change func(*Commit)) *Message {
	g := c.g(i)
	config.Rand = c.bytes
	s := must(g.Commit(config))(c.t)
	commit := *s.private.content.commit
	if commit.path != nil {
		path := *commit.path
		path.nodes = slices.Clone(path.nodes)
		for k := range path.nodes {
			path.nodes[k].secrets = slices.Clone(path.nodes[k].secrets)
		}
		commit.path = &path
	}
	change(&commit)
	a := must(g.context.content(memberSender(g.own), nil).withCommit(&commit).sign(c.suite, g.signer, WirePrivateMessage, g.encoded))(c.t)
	a.confirmationTag = s.private.content.confirmationTag
	_, message, err := g.frame(c.bytes, a)
	if err != nil {
		c.t.Fatal(err)
	}
	return must(c.realm.Parse(message))(c.t)
}

// RFC 9420, Sections 7.5 and 12.4.2: a path that is not what it must be.
func TestInvalidPaths(t *testing.T) {
	c := newClub(t, 5)
	leaf := func(change func(*LeafNode)) func(*Commit) {
		return func(k *Commit) {
			l := *k.path.leaf
			change(&l)
			k.path.leaf = must(l.signed(c.suite, c.members[0].signer, c.g(0).GroupID(), 0))(t)
		}
	}
	other, _ := c.g(0).Member(2)
	tests := []struct {
		rule   string
		change func(*Commit)
		want   error
	}{
		{"no path in an empty commit", func(k *Commit) { k.path = nil }, errPathMissing},
		{"no path in a removal", func(k *Commit) {
			k.path, k.proposals = nil, []proposalOrRef{{proposal: Remove{2}}}
		}, errPathMissing},
		{"a node less", func(k *Commit) { k.path.nodes = k.path.nodes[1:] }, errPathLength},
		{"a node more", func(k *Commit) { k.path.nodes = append(k.path.nodes, k.path.nodes[0]) }, errPathLength},
		{"a ciphertext less", func(k *Commit) { k.path.nodes[1].secrets = k.path.nodes[1].secrets[1:] }, errPathCiphertexts},
		{"a ciphertext more", func(k *Commit) {
			k.path.nodes[0].secrets = append(k.path.nodes[0].secrets, k.path.nodes[0].secrets[0])
		}, errPathCiphertexts},
		{"a key of the tree", func(k *Commit) { k.path.nodes[0].encryptionKey = other.EncryptionKey }, errEncryptionKeyTaken},
		{"a key of another length", func(k *Commit) { k.path.nodes[0].encryptionKey = []byte{1} }, ErrInvalid},
		{"the parent hash of other keys", func(k *Commit) {
			k.path.nodes[0].encryptionKey = bytes.Clone(k.path.nodes[0].encryptionKey)
			k.path.nodes[0].encryptionKey[3] ^= 1
		}, errParentHash},
		{"a leaf with another parent hash", leaf(func(l *LeafNode) { l.ParentHash = make([]byte, 32) }), errParentHash},
		{"a leaf with the old encryption key", leaf(func(l *LeafNode) {
			old, _ := c.g(0).Member(0)
			l.EncryptionKey = old.EncryptionKey
		}), errEncryptionKeyTaken},
		{"a leaf for an update", leaf(func(l *LeafNode) { l.Source = SourceUpdate }), errLeafSource},
		{"a leaf that does not support its extension", leaf(func(l *LeafNode) { l.Extensions = Extensions{{Type: 0x1234}} }), errExtensionUnsupported},
		{"a leaf signed for another place", func(k *Commit) {
			k.path.leaf = must((*k.path.leaf).signed(c.suite, c.members[0].signer, c.g(0).GroupID(), 1))(t)
		}, errSignature},
		{"an unknown proposal", func(k *Commit) { k.proposals = []proposalOrRef{{ref: make([]byte, 32)}} }, ErrUnknownProposal},
		{"another commit's confirmation tag", func(k *Commit) { k.proposals = []proposalOrRef{{proposal: PreSharedKey{c.pskID()}}} }, ErrUnknownPSK},
	}
	for _, test := range tests {
		t.Run(test.rule, func(t *testing.T) {
			m := c.forge(0, CommitConfig{}, test.change)
			for _, realm := range []*Realm{nil, NewRealm(Public)} {
				for i := 1; i < 3; i++ {
					g := *c.g(i)
					g.realm = realm
					next, content, err := g.Open(m)
					if !errors.Is(err, test.want) {
						t.Errorf("got %v, want %v", err, test.want)
					}
					if next != &g || content != nil {
						t.Error("an invalid commit changed something")
					}
				}
			}
		})
	}
	t.Run("an add that does not fit the group", func(t *testing.T) {
		good := c.keyPackageWith(func(*KeyPackageConfig) {})
		bad := c.keyPackageWith(func(k *KeyPackageConfig) {
			k.Credential, k.Capabilities.Credentials = Credential{Type: 77}, []CredentialType{77, CredentialBasic}
		})
		m := c.forge(0, CommitConfig{NoPath: true, Proposals: []Proposal{Add{good}}}, func(k *Commit) {
			k.proposals = []proposalOrRef{{proposal: Add{bad}}}
		})
		if _, _, err := c.g(1).Open(m); !errors.Is(err, errCredentialUnsupported) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("another commit's confirmation tag", func(t *testing.T) {
		m := c.forge(0, CommitConfig{}, func(k *Commit) {})
		m2 := c.forge(0, CommitConfig{AAD: []byte("x")}, func(k *Commit) {})
		_, _, err := c.g(1).Open(m)
		_, _, err2 := c.g(1).Open(m2)
		if err != nil || !errors.Is(err2, errConfirmationTag) {
			t.Errorf("got %v and %v", err, err2)
		}
	})
}

// A member whose path secret is withheld, or wrong, learns it; the others cannot.
func TestInsiderForksOneMember(t *testing.T) {
	c := newClub(t, 4)
	m := c.forge(0, CommitConfig{}, func(k *Commit) {
		last := len(k.path.nodes) - 1
		ct := &k.path.nodes[last].secrets[0] // for the other half: members 2 and 3
		ct.ciphertext = bytes.Clone(ct.ciphertext)
		ct.ciphertext[0] ^= 1
	})
	for i := 1; i < 4; i++ {
		g := c.g(i)
		next, _, err := g.Open(m)
		if forked := i >= 2; forked != errors.Is(err, ErrCannotDecryptPath) || errors.Is(err, ErrInvalid) && forked {
			t.Errorf("member %d: %v", i, err)
		}
		var path *PathError
		if forked := i >= 2; forked != errors.As(err, &path) {
			t.Errorf("member %d has no commit to judge: %v", i, err)
		} else if forked {
			if merged, err := g.Merge(path.Commit); !errors.Is(err, ErrCannotDecryptPath) || merged != g {
				t.Errorf("member %d enters an epoch without its secrets: %v", i, err)
			}
		}
		if next != g {
			t.Errorf("member %d is changed", i)
		}
	}
	// What is wrong for everybody is wrong as such, whoever can open the path.
	m = c.forge(0, CommitConfig{}, func(k *Commit) {
		ct := &k.path.nodes[len(k.path.nodes)-1].secrets[0]
		ct.ciphertext = bytes.Clone(ct.ciphertext)
		ct.ciphertext[0] ^= 1
		k.path.nodes[0].encryptionKey = bytes.Clone(k.path.nodes[0].encryptionKey)
		k.path.nodes[0].encryptionKey[3] ^= 1
	})
	for i := 1; i < 4; i++ {
		if _, _, err := c.g(i).Open(m); !errors.Is(err, errParentHash) {
			t.Errorf("member %d: %v", i, err)
		}
	}
}

// RFC 9420, Section 12.4.3.1: trees that a newcomer must not accept.
func TestInvalidTrees(t *testing.T) {
	c := newClub(t, 6)
	c.add(1) // unmerged where nobody has committed since
	valid := c.g(0).tree
	flat := func() []node {
		var nodes []node
		for x := range 2*valid.rootIndex() + 1 {
			n := valid.at(x)
			if n.parent != nil {
				p := *n.parent
				n = &node{parent: &p}
			}
			nodes = append(nodes, node{leaf: n.leaf, parent: n.parent})
		}
		for nodes[len(nodes)-1].leaf == nil {
			nodes = nodes[:len(nodes)-1]
		}
		return nodes
	}
	root := valid.rootIndex()
	var unmerged LeafIndex
	for i := range valid.all() {
		unmerged = i
	}
	// A parent hash covers a node's key and unmerged list, so that each of these
	// is refused at the latest there; the point is that each is refused.
	tests := []struct {
		rule   string
		change func([]node) []node
	}{
		{"ends in a blank", func(n []node) []node { return append(n, node{}) }},
		{"is empty", func(n []node) []node { return nil }},
		{"lacks a parent's link", func(n []node) []node { n[1].parent.parentHash = make([]byte, 32); return n }},
		{"has a root nobody set", func(n []node) []node {
			n[root].parent.encryptionKey = must(GenerateSigner(c.suite, c.bytes))(t).Public()
			return n
		}},
		{"unmerged leaves unsorted", func(n []node) []node { n[root].parent.unmerged = []LeafIndex{3, 2}; return n }},
		{"unmerged leaf twice", func(n []node) []node { n[root].parent.unmerged = []LeafIndex{unmerged, unmerged}; return n }},
		{"unmerged leaf that is blank", func(n []node) []node { n[root].parent.unmerged = []LeafIndex{7}; return n }},
		{"unmerged leaf of another subtree", func(n []node) []node { n[1].parent.unmerged = []LeafIndex{3}; return n }},
		{"unmerged leaf missing below", func(n []node) []node { n[root].parent.unmerged = []LeafIndex{0}; return n }},
		{"one key twice", func(n []node) []node { n[1].parent.encryptionKey = n[0].leaf.EncryptionKey; return n }},
		{"one leaf twice", func(n []node) []node { n[4].leaf = n[0].leaf; return n }},
		{"two leaves exchanged", func(n []node) []node { n[0].leaf, n[2].leaf = n[2].leaf, n[0].leaf; return n }},
	}
	for _, test := range tests {
		t.Run(test.rule, func(t *testing.T) {
			tree, err := treeOf(c.suite, test.change(flat()))
			if err == nil {
				err = tree.validate(nil, c.g(0).GroupID(), requirements{})
			}
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("got %v", err)
			}
		})
	}
	if err := must(treeOf(c.suite, flat()))(t).validate(nil, c.g(0).GroupID(), requirements{}); err != nil {
		t.Error("the tree that was broken is not valid itself:", err)
	}
	t.Run("of another group", func(t *testing.T) {
		if err := valid.validate(nil, []byte("other"), requirements{}); !errors.Is(err, errSignature) {
			t.Errorf("got %v", err)
		}
	})
}

// RFC 9420, Section 12.4.3.2.
func TestInvalidExternalCommits(t *testing.T) {
	c := newClub(t, 3)
	outside := c.player()
	config := ExternalConfig{
		Rand: c.bytes, Signer: outside.signer, Credential: BasicCredential([]byte(outside.name)),
		Capabilities: testCapabilities(c.suite), GroupInfo: must(c.realm.Parse(must(c.g(0).Info())(t)))(t),
	}
	_, s, err := JoinExternal(config)
	if err != nil {
		t.Fatal(err)
	}
	newcomer := c.keyPackageWith(func(*KeyPackageConfig) {})
	init := proposalOrRef{proposal: s.private.content.commit.proposals[0].proposal}
	tests := []struct {
		rule      string
		proposals []proposalOrRef
		want      error
	}{
		{"without an external init", nil, errExternalCommit},
		{"with two", []proposalOrRef{init, init}, errExternalCommit},
		{"with an add", []proposalOrRef{init, {proposal: Add{newcomer}}}, errExternalCommit},
		{"with two removals", []proposalOrRef{init, {proposal: Remove{1}}, {proposal: Remove{2}}}, errExternalCommit},
		{"with a change of the group context", []proposalOrRef{init, {proposal: GroupContextExtensions{}}}, errExternalCommit},
		{"with a proposal by reference", []proposalOrRef{init, {ref: make([]byte, 32)}}, errExternalCommit},
		{"with an init that nobody can open", []proposalOrRef{{proposal: ExternalInit{[]byte("short")}}}, errExternalInit},
	}
	for _, test := range tests {
		t.Run(test.rule, func(t *testing.T) {
			commit := *s.private.content.commit
			commit.proposals = test.proposals
			a := must(c.g(0).context.content(sender{Type: SenderNewMemberCommit}, nil).withCommit(&commit).
				sign(c.suite, outside.signer, WirePublicMessage, c.g(0).encoded))(t)
			a.confirmationTag = make([]byte, 32)
			m := must(c.realm.Parse((*epochSecrets)(nil).sealPublic(a, nil)))(t)
			if _, _, err := c.g(1).Open(m); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
	t.Run("signed by somebody else", func(t *testing.T) {
		a := must(s.private.content.framedContent.sign(c.suite, c.members[1].signer, WirePublicMessage, c.g(0).encoded))(t)
		a.confirmationTag = s.private.content.confirmationTag
		m := must(c.realm.Parse((*epochSecrets)(nil).sealPublic(a, nil)))(t)
		if _, _, err := c.g(1).Open(m); !errors.Is(err, errSignature) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("with a member's signature key", func(t *testing.T) {
		config := config
		config.Signer = c.members[1].signer
		if _, _, err := JoinExternal(config); !errors.Is(err, errSignatureKeyTaken) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("of an earlier epoch", func(t *testing.T) {
		c.deliver(c.members[2], must(c.g(2).Commit(CommitConfig{Rand: c.bytes}))(t), nil)
		var wrong *EpochError
		if _, _, err := c.g(1).Open(must(c.realm.Parse(s.Message()))(t)); !errors.As(err, &wrong) || wrong.Want != wrong.Got+1 {
			t.Errorf("got %v", err)
		}
	})
}

// RFC 9420, Section 12.4.3.1: Welcomes that lead nowhere.
func TestInvalidWelcomes(t *testing.T) {
	c := newClub(t, 3)
	p := c.player()
	k, secrets := c.keyPackage(p)
	s := must(c.g(0).Commit(CommitConfig{Rand: c.bytes, Proposals: []Proposal{Add{k}}}))(t)
	join := func(change func(*JoinConfig, *Welcome)) error {
		m := *must(c.realm.Parse(s.Welcome()))(t)
		w := *m.welcome
		w.secrets = slices.Clone(w.secrets)
		m.welcome = &w
		config := JoinConfig{Signer: p.signer, KeyPackage: k, Secrets: secrets, Welcome: &m}
		change(&config, &w)
		_, _, err := Join(config)
		return err
	}
	other, otherSecrets := c.keyPackage(c.player())
	tests := []struct {
		rule   string
		change func(*JoinConfig, *Welcome)
		want   error
	}{
		{"valid", func(*JoinConfig, *Welcome) {}, nil},
		{"for somebody else", func(j *JoinConfig, _ *Welcome) { j.KeyPackage, j.Secrets = other, otherSecrets }, errNotForUs},
		{"with another key", func(j *JoinConfig, _ *Welcome) { j.Secrets = otherSecrets }, errDecrypt},
		{"for another suite", func(_ *JoinConfig, w *Welcome) { w.suite = 1 }, errSuiteMismatch},
		{"with another group info", func(_ *JoinConfig, w *Welcome) {
			w.groupInfo = bytes.Clone(w.groupInfo)
			w.groupInfo[5] ^= 1
		}, errDecrypt},
	}
	for _, test := range tests {
		t.Run(test.rule, func(t *testing.T) {
			if err := join(test.change); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
	t.Run("by a malicious member", func(t *testing.T) {
		w := must(c.realm.Parse(s.Welcome()))(t).welcome
		sealed := w.secrets[0].secrets
		opened := must(c.suite.decryptWithLabel(secrets.InitKey, k.InitKey, labelWelcome, w.groupInfo, sealed.kemOutput, sealed.ciphertext))(t)
		joinChanged := func(change func(*GroupInfo, *groupSecrets)) error {
			gs := decodeGroupSecrets(newReader(opened))
			key, nonce := c.suite.welcomeKey(c.suite.welcomeSecret(gs.joinerSecret, c.suite.zeroSecret()))
			info := *must(parseGroupInfo(must(c.suite.openAEAD(key, nonce, nil, w.groupInfo))(t)))(t)
			change(&info, &gs)
			signed := must(info.signed(c.suite, c.members[0].signer))(t)
			changed := &Welcome{suite: c.suite, groupInfo: c.suite.sealAEAD(key, nonce, nil, signed.raw)}
			kem, ct, err := c.suite.encryptWithLabel(c.bytes, k.InitKey, labelWelcome, changed.groupInfo, gs.append(nil))
			if err != nil {
				t.Fatal(err)
			}
			changed.secrets = []encryptedGroupSecrets{{newMember: k.Ref(), secrets: hpkeCiphertext{kem, ct}}}
			_, _, err = Join(JoinConfig{Signer: p.signer, KeyPackage: k, Secrets: secrets,
				Welcome: must(c.realm.Parse(changed.append(appendMessageHeader(nil, WireWelcome))))(t)})
			return err
		}
		branch := c.pskID()
		branch.Type, branch.Usage = PSKResumption, ResumptionBranch
		tests := []struct {
			rule   string
			change func(*GroupInfo, *groupSecrets)
			want   error
		}{
			{"nothing", func(*GroupInfo, *groupSecrets) {}, nil},
			{"confirmation tag", func(g *GroupInfo, _ *groupSecrets) { g.confirmationTag = make([]byte, 32) }, errConfirmationTag},
			{"short confirmation tag", func(g *GroupInfo, _ *groupSecrets) { g.confirmationTag = g.confirmationTag[:16] }, errConfirmationTag},
			{"path secret", func(_ *GroupInfo, s *groupSecrets) { s.pathSecret = make(secret, 32) }, errPathKey},
			{"joiner's own leaf as signer", func(g *GroupInfo, _ *groupSecrets) { g.signer = 3 }, errSignature},
			{"tree without the joiner", func(g *GroupInfo, _ *groupSecrets) {
				tree := c.g(0).tree
				g.extensions = Extensions{{ExtensionRatchetTree, tree.append(nil)}}
				context := *g.context
				context.TreeHash = tree.hash()
				g.context = &context
			}, errOwnLeafMissing},
			{"two founding keys", func(_ *GroupInfo, s *groupSecrets) { s.psks = []PreSharedKeyID{branch, branch} }, errPSKUsage},
			{"short nonce of a key", func(_ *GroupInfo, s *groupSecrets) { s.psks = []PreSharedKeyID{{Type: PSKExternal}} }, errPSKNonce},
		}
		for _, test := range tests {
			if err := joinChanged(test.change); !errors.Is(err, test.want) {
				t.Errorf("%s: got %v, want %v", test.rule, err, test.want)
			}
		}
	})
	t.Run("group info", func(t *testing.T) {
		info := must(parseMessage(must(c.g(0).Info())(t)))(t).groupInfo
		changed := func(change func(*GroupInfo)) error {
			g := *info
			g.extensions = slices.Clone(g.extensions)
			context := *g.context
			g.context = &context
			change(&g)
			signed := must(g.signed(c.suite, c.members[0].signer))(t)
			_, err := must(parseGroupInfo(signed.raw))(t).verifiedState(nil, nil)
			return err
		}
		check := func(err, want error) {
			t.Helper()
			if !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		}
		check(changed(func(*GroupInfo) {}), nil)
		check(changed(func(g *GroupInfo) { g.signer = 1 }), errSignature)
		check(changed(func(g *GroupInfo) { g.signer = 3 }), errBlankLeaf)
		check(changed(func(g *GroupInfo) { g.signer = 1 << 20 }), errBlankLeaf)
		check(changed(func(g *GroupInfo) { g.context.TreeHash = make([]byte, 32) }), errTreeHash)
		check(changed(func(g *GroupInfo) { g.extensions = nil }), errNoTree)
		check(changed(func(g *GroupInfo) { g.extensions = append(g.extensions, g.extensions[0]) }), errDuplicateExtension)
		check(changed(func(g *GroupInfo) { g.context.CipherSuite = 4 }), ErrUnsupportedSuite)
		check(changed(func(g *GroupInfo) { g.context.Extensions = Extensions{{Type: 0xabcd}} }), errExtensionUnsupported)
	})
}

// TestAnInvalidProposalPoisonsNoQueue: a member who proposes what nobody can commit
// keeps nobody from committing, neither the other proposals nor its own removal.
func TestAnInvalidProposalPoisonsNoQueue(t *testing.T) {
	c := newClub(t, 4)
	unknown := c.pskID()
	unknown.ID = []byte("nobody has it")
	g := c.g(0)
	propose := func(i int, p Proposal) []byte {
		next, m, err := c.g(i).Propose(c.bytes, p, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.members[i].g = next
		if g, _, err = g.Open(must(c.realm.Parse(m))(t)); err != nil {
			t.Fatal(err)
		}
		return m
	}
	propose(2, Update{})
	for _, p := range []Proposal{
		ExternalInit{KEMOutput: []byte{1}},
		Remove{Removed: 99},
		ReInit{GroupID: []byte("other"), Version: mls10, CipherSuite: c.suite},
		PreSharedKey{ID: unknown},
		GroupContextExtensions{Extensions: Extensions{{Type: 0xabcd}}},
	} {
		propose(1, p)
	}
	propose(3, Update{})
	s := must(g.Commit(CommitConfig{Rand: c.bytes, ByReference: true, Proposals: []Proposal{Remove{1}}}))(t)
	var updates int
	for _, p := range s.Proposals() {
		if _, ok := p.Proposal.(Update); ok {
			updates++
		} else if _, ok := p.Proposal.(Remove); !ok {
			t.Errorf("commits %T", p.Proposal)
		}
	}
	if updates != 2 || len(s.Proposals()) != 3 {
		t.Errorf("commits %d proposals, %d of them updates", len(s.Proposals()), updates)
	}
}

// TestAGroupInfoWithoutItsTreeIsRefused, also where somebody in the realm has it, and
// so is one with another tree.
func TestAGroupInfoWithoutItsTreeIsRefused(t *testing.T) {
	c := newClub(t, 3)
	info := must(c.realm.Parse(must(c.g(0).Info())(t)))(t).groupInfo
	tree, _ := info.extensions.Get(ExtensionRatchetTree)
	for _, realm := range []*Realm{nil, c.realm} {
		bare := *info
		bare.extensions = slices.DeleteFunc(slices.Clone(info.extensions), func(e Extension) bool { return e.Type == ExtensionRatchetTree })
		for name, test := range map[string]struct {
			tree []byte
			want error
		}{
			"none":         {nil, errNoTree},
			"its own":      {tree, nil},
			"a longer one": {append(bytes.Clone(tree), 0), errTrailing},
			"an empty one": {[]byte{0}, errTreeSize},
			"a bent one":   {tree[:len(tree)-1], ErrInvalid},
		} {
			signed := must(bare.signed(c.suite, c.members[0].signer))(t)
			if _, err := signed.verifiedState(realm, test.tree); !errors.Is(err, test.want) {
				t.Errorf("%s, shared %v: %v, want %v", name, realm != nil, err, test.want)
			}
		}
	}
}
