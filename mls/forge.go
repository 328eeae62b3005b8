//go:build forge

package mls

import (
	"bytes"
	"io"
	"slices"
)

// Forging: commits, welcomes and group infos by somebody who has real keys and
// follows no rule. Everything that a forgery does not break on purpose is right:
// signatures, hashes, key schedule, tags. So one that breaks one rule is refused for
// that rule, or not at all.
//
// Only mls/peers is built with it, by the tag forge.

// A forgery is a commit in the making. Each hook, where it is not nil, changes what
// it is given; what comes later is computed from the result.
type forgery struct {
	g       *Group // of the forger
	rand    io.Reader
	signer  *Signer // of the message; nil: the forger's
	from    sender
	leafNow LeafNode // what the new leaf takes over
	init    secret   // of the epoch before
	list    []StagedProposal
	wire    []proposalOrRef // list, as it is sent
	noPath  bool
	private bool
	added   []*KeyPackage
	psks    []preSharedKey

	keys     func(public [][]byte)             // of the path
	leaf     func(*LeafNode)                   // of the path, before it is signed
	signLeaf func(LeafNode) (*LeafNode, error) // instead of the forger at its place
	path     func(*UpdatePath)                 // as it is sent
	tree     func(*tree) *tree                 // after the commit
	context  func(*GroupContext)               // after the commit
	content  func(*framedContent)              // before it is signed
	auth     func(*authenticatedContent)       // after that
	info     func(*GroupInfo)                  // of the welcome, before it is signed
	secrets  func(*groupSecrets)               // of the welcome
	welcome  func(*Welcome)                    // as it is sent
	padding  func(plaintext []byte) []byte     // of a private message
	data     func(*senderData)                 // of a private message
	public   func(*publicMessage)              // with its membership tag
	outside  func(message []byte) []byte       // the whole message
}

// forge begins a member's commit of these proposals.
func (g *Group) forge(rand io.Reader, proposals ...Proposal) *forgery {
	leaf, _ := g.tree.member(g.own)
	f := &forgery{g: g, rand: rand, from: memberSender(g.own), leafNow: *leaf, init: g.secrets.init}
	for _, p := range proposals {
		f.by(p)
	}
	return f
}

// by adds a proposal by value.
func (f *forgery) by(p Proposal) {
	f.list = append(f.list, StagedProposal{Proposal: p, SenderType: f.from.Type, Sender: f.from.leaf()})
	f.wire = append(f.wire, proposalOrRef{proposal: p})
}

// reference adds a proposal by reference, and returns the message that proposes it.
func (f *forgery) reference(g *Group, from sender, signer *Signer, p Proposal) ([]byte, error) {
	a, err := g.context.content(from, nil).withProposal(p).sign(g.Suite(), signer, WirePublicMessage, g.encoded)
	if err != nil {
		return nil, err
	}
	f.list = append(f.list, StagedProposal{Proposal: p, SenderType: from.Type, Sender: from.leaf(), ByReference: true})
	f.wire = append(f.wire, proposalOrRef{ref: a.proposalRef(g.Suite())})
	return g.secrets.sealPublic(a, g.encoded), nil
}

// forged is what came of a forgery.
type forged struct {
	message, welcome []byte
	authenticator    []byte // of the epoch that it makes
	state            *publicState
	epoch            epoch
	keys             *pathKeys
}

// apply does to the tree what the proposals say, as far as it can be done: what is
// done to nobody is left out, and no key has to be new.
func (f *forgery) apply() (after *tree, added []LeafIndex, extensions Extensions) {
	e, extensions := f.g.tree.edit(), f.g.context.Extensions
	blank := func(i LeafIndex) bool {
		_, ok := e.tree.member(i)
		if ok {
			e.blank(i)
		}
		return ok
	}
	for _, p := range f.list {
		switch p := p.Proposal.(type) {
		case Remove:
			if int64(p.Removed) < int64(f.g.tree.leaves()) {
				blank(p.Removed)
			}
		case GroupContextExtensions:
			extensions = p.Extensions
		}
	}
	for _, p := range f.list {
		if u, ok := p.Proposal.(Update); ok && blank(p.Sender) {
			e.place(p.Sender, u.LeafNode)
		}
	}
	e.truncate()
	for _, p := range f.list {
		if a, ok := p.Proposal.(Add); ok {
			added = append(added, e.add(a.KeyPackage.LeafNode))
			f.added = append(f.added, a.KeyPackage)
		}
	}
	return e.regardless(), added, extensions
}

// regardless ends an edit whatever was wrong with it.
func (e *treeEdit) regardless() *tree {
	e.err = nil
	t, _ := e.done()
	return t
}

// make finishes the forgery.
func (f *forgery) make() (*forged, error) {
	g, suite := f.g, f.g.Suite()
	if f.signer == nil {
		f.signer = g.signer
	}
	after, added, extensions := f.apply()
	committer := f.from.leaf()
	if f.from.Type == SenderNewMemberCommit {
		var err error
		if after, committer, err = after.withVacancy(); err != nil {
			return nil, err
		}
	}
	commit, out := &Commit{proposals: f.wire}, new(forged)
	commitSecret := suite.zeroSecret()
	c := &change{extensions: extensions}
	var fresh *pathDraft
	if !f.noPath {
		var err error
		if fresh, err = f.newPath(after, committer); err != nil {
			return nil, err
		}
		after, commitSecret, out.keys = fresh.tree, fresh.commitSecret, fresh.keys
		sealed, err := fresh.seal(f.rand, added, g.provisional(c, after).append(nil), nil)
		if err != nil {
			return nil, err
		}
		if f.path != nil {
			f.path(sealed)
		}
		commit.path = sealed
	}
	if f.tree != nil {
		after = f.tree(after)
	}
	wire := WirePublicMessage
	if f.private {
		wire = WirePrivateMessage
	}
	content := g.context.content(f.from, nil).withCommit(commit)
	if f.content != nil {
		f.content(&content)
	}
	u := &unverifiedContent{wire: wire, framedContent: content}
	var err error
	if u.signature, err = suite.signWithLabel(f.signer, labelFramedContent, u.tbs(g.encoded)); err != nil {
		return nil, err
	}
	a := (*authenticatedContent)(u)
	context := g.successor(a, c, after)
	if f.context != nil {
		f.context(context)
	}
	encoded, pskSecret := context.append(nil), suite.pskSecret(f.psks)
	joiner := suite.joinerSecret(f.init, commitSecret, encoded)
	secrets, encryption := suite.newEpochSecrets(suite.epochSecret(joiner, pskSecret, encoded))
	a.confirmationTag = secrets.confirmationTag(context.ConfirmedTranscriptHash)
	out.state = context.confirmed(after, a.confirmationTag)
	out.epoch = newEpoch(out.state, secrets, encryption)
	out.authenticator = secrets.authenticator
	if f.auth != nil {
		f.auth(a)
	}
	if out.message, err = f.frame(a); err != nil {
		return nil, err
	}
	if len(added) > 0 {
		out.welcome, err = f.invite(&out.epoch, fresh, committer, added, joiner, pskSecret)
	}
	return out, err
}

// newPath is tree.newPath with the hooks.
func (f *forgery) newPath(before *tree, i LeafIndex) (*pathDraft, error) {
	fresh, err := before.newPath(f.rand, i, f.leafNow, f.g.signer, f.g.GroupID())
	if fresh == nil { // else the error is one of the tree, which is made again
		return nil, err
	}
	if f.keys != nil {
		f.keys(fresh.public)
	}
	parents, parentHash := before.parentHashed(fresh.steps, fresh.public)
	leaf := *fresh.leaf
	leaf.ParentHash = parentHash
	if f.leaf != nil {
		f.leaf(&leaf)
	}
	sign := f.signLeaf
	if sign == nil {
		sign = func(l LeafNode) (*LeafNode, error) { return l.signed(f.g.Suite(), f.g.signer, f.g.GroupID(), i) }
	}
	if fresh.leaf, err = sign(leaf); err != nil {
		return nil, err
	}
	e := before.edit()
	e.merge(i, fresh.leaf, parents)
	fresh.tree = e.regardless()
	return fresh, nil
}

// frame wraps the content, with a membership tag or encrypted.
func (f *forgery) frame(a *authenticatedContent) (message []byte, err error) {
	switch {
	case f.private:
		message, err = f.g.forgePrivate(f.rand, a, ratchetFor(a.contentType), f.padding, f.data)
	default:
		m := &publicMessage{content: unverifiedContent(*a)}
		if a.sender.Type == SenderMember {
			m.membershipTag = f.g.secrets.membershipTag(&m.content, f.g.encoded)
		}
		if f.public != nil {
			f.public(m)
		}
		message = m.append(appendMessageHeader(nil, WirePublicMessage))
	}
	if f.outside != nil {
		message = f.outside(message)
	}
	return message, err
}

// forgePrivate is sealPrivate with hooks, and with the ratchet that is asked for.
func (g *Group) forgePrivate(rand io.Reader, a *authenticatedContent, kind ratchetKind, padding func([]byte) []byte, data func(*senderData)) ([]byte, error) {
	d := senderData{leaf: g.own}
	if _, err := io.ReadFull(rand, d.guard[:]); err != nil {
		return nil, err
	}
	_, k, err := g.ratchets.seal(g.own, kind)
	if err != nil {
		return nil, err
	}
	d.generation = k.generation
	b := appendMessageHeader(nil, WirePrivateMessage)
	start := len(b)
	b = appendU8(appendU64(appendVector(b, a.groupID), a.epoch), uint8(a.contentType))
	dataAAD := bytes.Clone(b[start:])
	b = appendVector(b, a.aad)
	plaintext := (*unverifiedContent)(a).appendAuth(bytes.Clone(a.body))
	if padding != nil {
		plaintext = padding(plaintext)
	}
	nonce := d.guarded(k.nonce)
	ciphertext := g.Suite().sealAEAD(k.key(), nonce[:], b[start:], plaintext)
	if data != nil {
		data(&d)
	}
	plain := append(appendU32(appendU32(nil, uint32(d.leaf)), d.generation), d.guard[:]...)
	sk := g.Suite().senderDataKey(g.secrets.senderData, ciphertext)
	b = appendVector(b, g.Suite().sealAEAD(sk.key(), sk.nonce[:], dataAAD, plain))
	return appendVector(b, ciphertext), nil
}

// invite makes the Welcome for all whom the forgery adds.
func (f *forgery) invite(e *epoch, fresh *pathDraft, committer LeafIndex, added []LeafIndex, joiner, psk secret) ([]byte, error) {
	suite := f.g.Suite()
	info := &GroupInfo{
		context:         e.context,
		extensions:      Extensions{{Type: ExtensionRatchetTree, Data: e.tree.append(nil)}},
		confirmationTag: e.secrets.confirmationTag(e.context.ConfirmedTranscriptHash),
		signer:          committer,
	}
	info, err := f.g.forgeInfo(info, f.info)
	if err != nil {
		return nil, err
	}
	key, nonce := suite.welcomeKey(suite.welcomeSecret(joiner, psk))
	w := &Welcome{suite: suite, groupInfo: suite.sealAEAD(key, nonce, nil, info.raw)}
	for k, i := range added {
		s := groupSecrets{joinerSecret: joiner}
		for _, p := range f.psks {
			s.psks = append(s.psks, p.id)
		}
		if fresh != nil {
			common := commonAncestor(committer, i)
			s.pathSecret = fresh.secrets[slices.IndexFunc(fresh.steps, func(s pathStep) bool { return s.node == common })]
		}
		if f.secrets != nil {
			f.secrets(&s)
		}
		// Who cannot be encrypted to is not who judges: the members are.
		kem, ct, _ := suite.encryptWithLabel(f.rand, f.added[k].InitKey, labelWelcome, w.groupInfo, s.append(nil))
		w.secrets = append(w.secrets, encryptedGroupSecrets{f.added[k].Ref(), hpkeCiphertext{kem, ct}})
	}
	if f.welcome != nil {
		f.welcome(w)
	}
	return w.append(appendMessageHeader(nil, WireWelcome)), nil
}

// forgeInfo signs a group info that a hook has changed.
func (g *Group) forgeInfo(info *GroupInfo, change func(*GroupInfo)) (*GroupInfo, error) {
	context := *info.context
	info.context = &context
	if change != nil {
		change(info)
	}
	return info.signed(g.Suite(), g.signer)
}

// nodes lists the tree's nodes, each the caller's own, without trailing blanks.
func (t *tree) nodes() (nodes []node) {
	for x := range 2*t.rootIndex() + 1 {
		n := node{leaf: t.at(x).leaf}
		if p := t.at(x).parent; p != nil {
			copied := *p
			n.parent = &copied
		}
		nodes = append(nodes, n)
	}
	for len(nodes) > 0 && nodes[len(nodes)-1].blank() {
		nodes = nodes[:len(nodes)-1]
	}
	return nodes
}

// forgeTree builds a tree from nodes whatever is wrong with them.
func forgeTree(suite CipherSuite, nodes []node) *tree {
	e := &treeEdit{tree: tree{suite: suite, depth: depthFor(len(nodes)/2 + 1)}}
	e.root = e.build(e.rootIndex(), nodes)
	return e.regardless()
}

// forgeKeyPackage encodes and signs a key package whose fields are set; the label is
// what its signature is over.
func forgeKeyPackage(suite CipherSuite, signer *Signer, version uint16, named CipherSuite, init []byte, leaf *LeafNode, x Extensions, label string) (*KeyPackage, error) {
	b := appendU16(appendU16(nil, version), uint16(named))
	b = x.append(leaf.append(appendVector(b, init)))
	sig, err := suite.signWithLabel(signer, label, b)
	if err != nil {
		return nil, err
	}
	return &KeyPackage{Version: version, CipherSuite: named, InitKey: init, LeafNode: leaf, Extensions: x, raw: appendVector(b, sig), tbs: len(b)}, nil
}
