package mls

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

// Rules of errors.go that no other test breaks, each broken once. Where a group is
// concerned, it stays the one that it was.

// RFC 9420, Section 2.1.2: one length has one encoding.
func TestLengthsAreMinimal(t *testing.T) {
	for _, b := range [][]byte{
		{0x40, 0x00}, {0x40, 0x3f}, {0x80, 0, 0, 0}, {0x80, 0, 0, 0x3f}, {0x80, 0, 0x3f, 0xff},
	} {
		if r := newReader(b); r.length() != 0 || !errors.Is(r.err, errNotMinimal) {
			t.Errorf("%x: %v", b, r.err)
		}
	}
	for n, b := range map[int][]byte{0x3f: {0x3f}, 0x40: {0x40, 0x40}, 0x3fff: {0x7f, 0xff}, 0x4000: {0x80, 0, 0x40, 0}} {
		if r := newReader(b); r.length() != n || r.end() != nil {
			t.Errorf("%x: %v", b, r.err)
		}
	}
}

// RFC 9420, Section 5.1: keys and signers of another suite, or of none.
func TestKeysAreOfTheirSuite(t *testing.T) {
	const p256 = MLS_128_DHKEMP256_AES128GCM_SHA256_P256
	c := newClub(t, 1)
	p := c.player()
	ecdsa := must(GenerateSigner(p256, c.bytes))(t)
	offCurve := append([]byte{4}, make([]byte, 64)...)
	for _, k := range []struct {
		suite  CipherSuite
		public []byte
	}{{c.suite, nil}, {c.suite, p.signer.Public()[1:]}, {c.suite, ecdsa.Public()}, {p256, p.signer.Public()}, {p256, ecdsa.Public()[1:]}, {p256, offCurve}} {
		if err := k.suite.verifyWithLabel(k.public, "x", nil, make([]byte, 64)); !errors.Is(err, errSignatureKey) {
			t.Errorf("signature key of %d bytes in %v: %v", len(k.public), k.suite, err)
		}
	}
	for suite, private := range map[CipherSuite][]byte{c.suite: make([]byte, 31), p256: make([]byte, 32)} {
		if _, err := NewSigner(suite, private); !errors.Is(err, errSignatureKey) {
			t.Errorf("private key for %v: %v", suite, err)
		}
	}
	_, point, err := p256.generateKeyPair(c.bytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		suite  CipherSuite
		public []byte
	}{{c.suite, nil}, {c.suite, make([]byte, 31)}, {c.suite, point}, {p256, make([]byte, 32)}, {p256, offCurve}} {
		if err := k.suite.checkEncryptionKey(k.public); !errors.Is(err, errEncryptionKey) {
			t.Errorf("encryption key of %d bytes in %v: %v", len(k.public), k.suite, err)
		}
	}
	if _, err := c.suite.signWithLabel(ecdsa, "x", nil); !errors.Is(err, errSignerSuite) {
		t.Error("signer of another scheme:", err)
	}
	if _, err := p256.signWithLabel(p.signer, "x", nil); !errors.Is(err, errSignerSuite) {
		t.Error("signer of another scheme:", err)
	}
	if _, _, err := NewKeyPackage(KeyPackageConfig{Rand: c.bytes, Suite: c.suite, Signer: ecdsa, Capabilities: testCapabilities(c.suite)}); !errors.Is(err, errSignerSuite) {
		t.Error("key package by a signer of another scheme:", err)
	}
}

// A member cannot bring a key into the tree to which nobody can encrypt.
func TestTreesHaveUsableKeys(t *testing.T) {
	c := newClub(t, 3)
	for _, key := range [][]byte{nil, make([]byte, 31), make([]byte, 33)} {
		leaf := c.forge(0, CommitConfig{}, func(k *Commit) {
			l := *k.path.leaf
			l.EncryptionKey = key
			k.path.leaf = must(l.signed(c.suite, c.members[0].signer, c.g(0).GroupID(), 0))(t)
		})
		parent := c.forge(0, CommitConfig{}, func(k *Commit) {
			k.path.nodes[0].encryptionKey = key
			var public [][]byte
			for _, n := range k.path.nodes {
				public = append(public, n.encryptionKey)
			}
			l := *k.path.leaf
			_, l.ParentHash = c.g(0).tree.parentHashed(c.g(0).tree.filteredPath(0), public)
			k.path.leaf = must(l.signed(c.suite, c.members[0].signer, c.g(0).GroupID(), 0))(t)
		})
		for _, m := range []*Message{leaf, parent} {
			g := c.g(1)
			if next, content, err := g.Open(m); !errors.Is(err, errEncryptionKey) || next != g || content != nil {
				t.Errorf("key of %d bytes: %v", len(key), err)
			}
		}
	}
}

// RFC 9420, Section 12.4.3.3: nodes of an even index are leaves, the others are
// parents; so in a whole tree and in what was stored of one.
func TestTreeNodesStandInTheirPlaces(t *testing.T) {
	c := newClub(t, 2)
	leaf, _ := c.g(0).Member(0)
	leafNode := leaf.append([]byte{1, nodeTypeLeaf})
	parentNode := c.g(0).tree.at(1).parent.append([]byte{1, nodeTypeParent})
	for name, nodes := range map[string][]byte{
		"parent first": parentNode,
		"leaf second":  slices.Concat(leafNode, leafNode),
		"no such type": {1, 3},
	} {
		if _, err := parseTree(c.suite, appendVector(nil, nodes)); !errors.Is(err, errTreeNode) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string][]byte{
		"parent for a leaf": slices.Concat([]byte{0, 0, 0, 0}, parentNode),
		"leaf for a parent": slices.Concat([]byte{0, 0, 0, 1}, leafNode),
		"no such type":      {0, 0, 0, 0, 1, 3},
		"beyond the tree":   {0, 0, 0, 3, 0},
	} {
		if _, err := c.g(0).tree.patched(appendVector([]byte{1}, change)); !errors.Is(err, errTreeNode) {
			t.Errorf("stored %s: %v", name, err)
		}
	}
}

// RFC 9420, Sections 8.4 and 12.4: numbers that name nothing.
func TestUnknownKindsAreRefused(t *testing.T) {
	for _, kind := range []byte{0, 3, 255} {
		r := newReader([]byte{kind, 0, 0})
		if decodePreSharedKeyID(r); !errors.Is(r.err, errPSKType) {
			t.Errorf("pre-shared key of type %d: %v", kind, r.err)
		}
		r = newReader([]byte{kind, 0, 0})
		if decodeProposalOrRef(r); !errors.Is(r.err, errProposalOrRef) {
			t.Errorf("proposal of kind %d: %v", kind, r.err)
		}
	}
	for _, n := range []int{0, 1, hashSize - 1} {
		r := newReader(appendVector([]byte{proposalByReference}, make([]byte, n)))
		if decodeProposalOrRef(r); !errors.Is(r.err, errProposalRef) {
			t.Errorf("reference of %d bytes: %v", n, r.err)
		}
	}
}

// What is stored of a secret tree is only taken back as it was written.
func TestStoredSecretTreesAreWhole(t *testing.T) {
	tree, _ := mustOpen(t, newTestSecretTree(1), 0, 2) // two skipped keys
	stored := tree.append(nil)
	first := bytes.LastIndex(stored, appendU32([]byte{2}, 0)) + 1
	if first == 0 {
		t.Fatal("no skipped keys are stored")
	}
	const header = 3 // suite and depth
	for name, change := range map[string]func([]byte){
		"deeper than any tree":         func(b []byte) { b[header-1] = 33 },
		"node of no kind":              func(b []byte) { b[header] = 9 },
		"inner node for a leaf":        func(b []byte) { b[header] = storedInner },
		"leaf for an inner node":       func(b []byte) { b[header-1] = 1 },
		"too many skipped keys":        func(b []byte) { b[first-1] = maxOutOfOrder + 1 },
		"skipped key that is to come":  func(b []byte) { b[first+3] = 3 },
		"skipped keys not in an order": func(b []byte) { b[first+3] = 1 },
	} {
		b := bytes.Clone(stored)
		change(b)
		r := newReader(b)
		if new(secretTree).decode(r); !errors.Is(r.err, errStoredTree) {
			t.Errorf("%s: %v", name, r.err)
		}
	}
}

// PSKLabel.count has 16 bits: a list that does not fit is refused in a commit and
// in a Welcome.
func TestPreSharedKeysAreBounded(t *testing.T) {
	c := newClub(t, 2)
	ids := make([]PreSharedKeyID, maxPSKs+1)
	list := make([]StagedProposal, len(ids))
	for i := range ids {
		ids[i] = c.pskID()
		ids[i].ID = appendU32(nil, uint32(i))
		list[i] = StagedProposal{Proposal: PreSharedKey{ids[i]}, SenderType: SenderMember}
	}
	if _, err := c.g(0).apply(nil, memberSender(0), list); !errors.Is(err, errTooManyPSKs) {
		t.Error("in a commit:", err)
	}
	if _, err := c.g(0).apply(nil, memberSender(0), list[1:]); err != nil {
		t.Error("one less in a commit:", err)
	}
	if _, err := new(Group).welcomePSKs(ids, c.suite); !errors.Is(err, errTooManyPSKs) {
		t.Error("in a Welcome:", err)
	}
	if _, err := new(Group).welcomePSKs(ids[1:], c.suite); !errors.Is(err, ErrUnknownPSK) {
		t.Error("one less in a Welcome:", err)
	}
}

// Proposals wait up to a number; what is one too many changes nothing, and what
// waits already comes again.
func TestWaitingProposalsAreBounded(t *testing.T) {
	c := newClub(t, 2)
	full := *c.g(1)
	full.queue = make([]*QueuedProposal, maxQueued-1)
	for i := range full.queue {
		full.queue[i] = &QueuedProposal{Proposal: Remove{0}, Ref: appendU32(nil, uint32(i))}
	}
	propose := func() *Message {
		next, b, err := c.g(0).Propose(c.bytes, Update{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.members[0].g = next
		return must(c.realm.Parse(b))(t)
	}
	last, more := propose(), propose()
	g, _, err := full.Open(last)
	if err != nil || len(g.Queued()) != maxQueued {
		t.Fatal("the last that fits:", err)
	}
	if next, content, err := g.Open(more); !errors.Is(err, errQueueFull) || next != g || content != nil {
		t.Error("one too many:", err)
	}
	if _, _, err := g.Propose(c.bytes, Update{}, nil); !errors.Is(err, errQueueFull) {
		t.Error("one of our own too many:", err)
	}
}

// RFC 9420, Section 12.4.3.2: without the external key nobody gets in; and who
// came in that way begins anew after a restart.
func TestExternalJoinersNeedTheKeyAndTheMoment(t *testing.T) {
	c := newClub(t, 2)
	p := c.player()
	join := func(info *Message) (*StagedCommit, error) {
		_, s, err := JoinExternal(ExternalConfig{Rand: c.bytes, Signer: p.signer, Credential: BasicCredential([]byte(p.name)),
			Capabilities: testCapabilities(c.suite), GroupInfo: info})
		return s, err
	}
	info := must(c.realm.Parse(must(c.g(0).Info())(t)))(t)
	s, err := join(info)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := s.MarshalBinary(); !errors.Is(err, errNotStorable) || b != nil {
		t.Error("an external commit is stored:", err)
	}
	keyless := must(c.g(0).groupInfo(0, c.members[0].signer, nil))(t)
	if _, err := join(must(c.realm.Parse(keyless.append(appendMessageHeader(nil, WireGroupInfo))))(t)); !errors.Is(err, errNoExternalPub) {
		t.Error("without the external key:", err)
	}
	for _, external := range [][]byte{{}, {1}, make([]byte, 32)} { // the last is of low order
		info := must(c.g(0).groupInfo(0, c.members[0].signer, Extensions{{ExtensionExternalPub, appendVector(nil, external)}}))(t)
		if _, err := join(must(c.realm.Parse(info.append(appendMessageHeader(nil, WireGroupInfo))))(t)); !errors.Is(err, errEncryptionKey) {
			t.Errorf("with the external key %x: %v", external, err)
		}
	}
	_, theirs, err := c.g(1).Open(must(c.realm.Parse(must(c.g(0).Commit(CommitConfig{Rand: c.bytes}))(t).Message()))(t))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := theirs.(*StagedCommit).MarshalBinary(); !errors.Is(err, errNotStorable) || b != nil {
		t.Error("another member's commit is stored:", err)
	}
}

// RFC 9420, Section 12.4.3.1: a group that continues another one does so from its
// first epoch.
func TestResumptionFoundsGroupsInTheFirstEpoch(t *testing.T) {
	c := newClub(t, 2) // in a later epoch
	p := c.player()
	k, secrets := c.keyPackage(p)
	s := must(c.g(0).Commit(CommitConfig{Rand: c.bytes, Proposals: []Proposal{Add{k}}}))(t)
	w := must(c.realm.Parse(s.Welcome()))(t).welcome
	sealed := w.secrets[0].secrets
	open := must(c.suite.decryptWithLabel(secrets.InitKey, k.InitKey, labelWelcome, w.groupInfo, sealed.kemOutput, sealed.ciphertext))(t)
	key := make(secret, 32)
	for _, usage := range []ResumptionPSKUsage{ResumptionBranch, ResumptionReInit} {
		gs := decodeGroupSecrets(newReader(open))
		id := PreSharedKeyID{Type: PSKResumption, Usage: usage, GroupID: []byte("old"), Epoch: 3, Nonce: make([]byte, 32)}
		plainKey, nonce := c.suite.welcomeKey(c.suite.welcomeSecret(gs.joinerSecret, c.suite.zeroSecret()))
		info := must(c.suite.openAEAD(plainKey, nonce, nil, w.groupInfo))(t)
		gs.psks = []PreSharedKeyID{id}
		aeadKey, nonce := c.suite.welcomeKey(c.suite.welcomeSecret(gs.joinerSecret, c.suite.pskSecret([]preSharedKey{{id, key}})))
		changed := &Welcome{suite: c.suite, groupInfo: c.suite.sealAEAD(aeadKey, nonce, nil, info)}
		kem, ct, err := c.suite.encryptWithLabel(c.bytes, k.InitKey, labelWelcome, changed.groupInfo, gs.append(nil))
		if err != nil {
			t.Fatal(err)
		}
		changed.secrets = []encryptedGroupSecrets{{newMember: k.Ref(), secrets: hpkeCiphertext{kem, ct}}}
		_, _, err = Join(JoinConfig{Signer: p.signer, KeyPackage: k, Secrets: secrets,
			Welcome: must(c.realm.Parse(changed.append(appendMessageHeader(nil, WireWelcome))))(t),
			PSK:     func(PreSharedKeyID) ([]byte, bool) { return key, true }})
		if !errors.Is(err, errResumptionEpoch) {
			t.Errorf("usage %d: %v", usage, err)
		}
	}
}
