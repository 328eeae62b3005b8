package mls

import (
	"crypto/sha256"
	"iter"
	"slices"
)

// maxLeaves bounds the size of a tree, so that a few bytes from outside cannot
// ask for an unbounded one.
const maxLeaves = 1 << 16

// A tree is a ratchet tree: who is in the group, and the public keys of its
// subgroups. See RFC 9420, Sections 4.1 and 7. It is immutable; a change is an
// edit that yields a new tree, which shares with the old one every node that
// did not change.
type tree struct {
	suite CipherSuite
	depth int // of the root; the tree has 2^depth leaves
	root  *node

	// What is true of the tree as a whole, carried along with each change.
	signatureKeys  keyMap // to leaf indices
	encryptionKeys keyMap // to node indices
	credentials    []credentialUse
}

// A node is a node of a tree with all that is below it.
type node struct {
	left, right *node       // nil in a leaf
	leaf        *LeafNode   // nil in a parent and in a blank leaf
	parent      *parentNode // nil in a leaf and in a blank parent
	members     int32       // non-blank leaves
	dirty       bool        // owned by the edit that made it; hash is not set
	hash        [sha256.Size]byte
}

// parentNode is the content of a parent; see RFC 9420, Section 7.1.
type parentNode struct {
	encryptionKey []byte
	parentHash    []byte
	unmerged      []LeafIndex // in rising order
}

// credentialUse counts the members that present a type of credential.
type credentialUse struct {
	t CredentialType
	n int
}

func (n *node) blank() bool { return n.leaf == nil && n.parent == nil }

func (n *node) encryptionKey() []byte {
	if n.leaf != nil {
		return n.leaf.EncryptionKey
	}
	return n.parent.encryptionKey
}

func (t *tree) leaves() LeafIndex { return 1 << t.depth }
func (t *tree) rootIndex() nodeIndex {
	return rootOf(t.depth)
}

// at returns node x, or nil beyond the tree.
func (t *tree) at(x nodeIndex) *node {
	at, n := t.rootIndex(), t.root
	if x > 2*at {
		return nil
	}
	for at != x {
		if x < at {
			at, n = at.left(), n.left
		} else {
			at, n = at.right(), n.right
		}
	}
	return n
}

// member returns the leaf at i, if there is one that is not blank.
func (t *tree) member(i LeafIndex) (*LeafNode, bool) {
	if i >= t.leaves() {
		return nil, false
	}
	leaf := t.at(i.node()).leaf
	return leaf, leaf != nil
}

// size is the number of members.
func (t *tree) size() int { return int(t.root.members) }

// all walks the members from the left.
func (t *tree) all() iter.Seq2[LeafIndex, *LeafNode] {
	return func(yield func(LeafIndex, *LeafNode) bool) {
		t.root.walk(t.rootIndex(), yield)
	}
}

func (n *node) walk(x nodeIndex, yield func(LeafIndex, *LeafNode) bool) bool {
	switch {
	case n.members == 0:
		return true
	case x.isLeaf():
		return yield(x.leaf(), n.leaf)
	}
	return n.left.walk(x.left(), yield) && n.right.walk(x.right(), yield)
}

// resolution is the smallest set of nodes that covers all members below x. See
// RFC 9420, Section 4.1.1.
func (t *tree) resolution(x nodeIndex) []nodeIndex {
	return t.at(x).resolution(x, nil)
}

func (n *node) resolution(x nodeIndex, list []nodeIndex) []nodeIndex {
	switch {
	case n.parent != nil:
		list = append(list, x)
		for _, i := range n.parent.unmerged {
			list = append(list, i.node())
		}
		return list
	case n.leaf != nil:
		return append(list, x)
	case n.members == 0:
		return list
	}
	return n.right.resolution(x.right(), n.left.resolution(x.left(), list))
}

// filteredPath is the filtered direct path of leaf i: its ancestors, from below,
// without those whose other child covers nobody. See RFC 9420, Section 4.1.2.
func (t *tree) filteredPath(i LeafIndex) []pathStep {
	var path []pathStep
	for x := i.node(); x != t.rootIndex(); x = x.parent() {
		if t.at(x.sibling()).members > 0 {
			path = append(path, pathStep{node: x.parent(), copath: x.sibling()})
		}
	}
	return path
}

// A pathStep is a node of a filtered direct path, and its child on the copath.
type pathStep struct{ node, copath nodeIndex }

// A treeEdit makes the next tree. Nodes that it has copied or made are its own
// (dirty) and change in place until done hashes them. Its first error stays.
type treeEdit struct {
	tree
	err error
}

func (t *tree) edit() *treeEdit {
	e := &treeEdit{tree: *t}
	e.credentials = slices.Clone(t.credentials)
	return e
}

func (e *treeEdit) fail(err error) {
	if e.err == nil {
		e.err = err
	}
}

// done hashes what changed and ends the edit.
func (e *treeEdit) done() (*tree, error) {
	if e.err != nil {
		return nil, e.err
	}
	e.root.rehash(e.rootIndex())
	t := e.tree
	return &t, nil
}

// path makes the nodes from the root to leaf i the edit's own and visits each,
// the root first.
func (e *treeEdit) path(i LeafIndex, visit func(x nodeIndex, n *node)) {
	var descend func(x nodeIndex, n *node) *node
	descend = func(x nodeIndex, n *node) *node {
		if !n.dirty {
			c := *n
			c.dirty = true
			n = &c
		}
		visit(x, n)
		switch leaf := i.node(); {
		case leaf < x:
			n.left = descend(x.left(), n.left)
		case leaf > x:
			n.right = descend(x.right(), n.right)
		}
		n.count()
		return n
	}
	e.root = descend(e.rootIndex(), e.root)
}

// count sets a node's number of members from what is directly below it.
func (n *node) count() {
	switch {
	case n.left != nil:
		n.members = n.left.members + n.right.members
	case n.leaf != nil:
		n.members = 1
	default:
		n.members = 0
	}
}

// place puts a leaf at i, which is blank: an Add (Section 12.1.1), or what an
// Update puts in the place that blank has cleared (Section 12.1.2).
func (e *treeEdit) place(i LeafIndex, leaf *LeafNode) {
	e.path(i, func(x nodeIndex, n *node) {
		switch {
		case x.isLeaf():
			n.leaf = leaf
			e.takeLeaf(i, leaf)
		case n.parent != nil:
			p := *n.parent
			at, _ := slices.BinarySearch(p.unmerged, i)
			p.unmerged = slices.Insert(slices.Clone(p.unmerged), at, i)
			n.parent = &p
		}
	})
}

// blank takes away leaf i and the keys of all nodes above it: a Remove, without
// the truncation that ends it (Section 12.1.3).
func (e *treeEdit) blank(i LeafIndex) {
	e.path(i, func(_ nodeIndex, n *node) {
		e.releaseContent(n)
		n.leaf, n.parent = nil, nil
	})
}

// merge sets leaf i and its direct path to what an UpdatePath says: the parents
// given, and blanks between them (Section 7.5).
func (e *treeEdit) merge(i LeafIndex, leaf *LeafNode, parents map[nodeIndex]*parentNode) {
	e.blank(i)
	e.path(i, func(x nodeIndex, n *node) {
		if x.isLeaf() {
			n.leaf = leaf
			e.takeLeaf(i, leaf)
		} else if p := parents[x]; p != nil {
			n.parent = p
			e.takeEncryptionKey(p.encryptionKey, x)
		}
	})
}

// add places a leaf leftmost among the blank ones, and makes the tree larger if
// there is none.
func (e *treeEdit) add(leaf *LeafNode) LeafIndex {
	i := e.vacancy()
	if e.err == nil {
		e.place(i, leaf)
	}
	return i
}

// withVacancy returns the leaf that an external joiner takes, in a tree that has
// room for it (Section 12.4.3.2).
func (t *tree) withVacancy() (*tree, LeafIndex, error) {
	e := t.edit()
	i := e.vacancy()
	t, err := e.done()
	return t, i, err
}

// vacancy returns the leftmost blank leaf, extending the tree if it is full
// (Section 7.7).
func (e *treeEdit) vacancy() LeafIndex {
	if e.root.members == 1<<e.depth {
		if 2*e.leaves() > maxLeaves {
			e.fail(errTreeSize)
			return 0
		}
		e.extend()
	}
	x, n := e.rootIndex(), e.root
	for !x.isLeaf() {
		if n.left.members < 1<<(x.level()-1) {
			x, n = x.left(), n.left
		} else {
			x, n = x.right(), n.right
		}
	}
	return x.leaf()
}

// extend doubles the tree to the right.
func (e *treeEdit) extend() {
	e.root = &node{left: e.root, right: blankNode(e.depth), members: e.root.members, dirty: true}
	e.depth++
}

func blankNode(depth int) *node {
	if depth == 0 {
		return &node{dirty: true}
	}
	return &node{left: blankNode(depth - 1), right: blankNode(depth - 1), dirty: true}
}

// truncate drops the right half while it is empty (Section 7.7).
func (e *treeEdit) truncate() {
	for e.depth > 0 && e.root.right.members == 0 {
		e.root = e.root.left
		e.depth--
	}
}

// takeLeaf enters a leaf's keys and credential into what the tree knows; no key
// may appear twice (Section 7.3).
func (e *treeEdit) takeLeaf(i LeafIndex, leaf *LeafNode) {
	var ok bool
	if e.signatureKeys, ok = e.signatureKeys.insert(leaf.SignatureKey, uint32(i)); !ok {
		e.fail(errSignatureKeyTaken)
	}
	e.takeEncryptionKey(leaf.EncryptionKey, i.node())
	for k := range e.credentials {
		if e.credentials[k].t == leaf.Credential.Type {
			e.credentials[k].n++
			return
		}
	}
	e.credentials = append(e.credentials, credentialUse{leaf.Credential.Type, 1})
}

func (e *treeEdit) takeEncryptionKey(key []byte, x nodeIndex) {
	if err := e.suite.checkEncryptionKey(key); err != nil {
		e.fail(err)
		return
	}
	var ok bool
	if e.encryptionKeys, ok = e.encryptionKeys.insert(key, uint32(x)); !ok {
		e.fail(errEncryptionKeyTaken)
	}
}

func (e *treeEdit) releaseLeaf(leaf *LeafNode) {
	e.signatureKeys = e.signatureKeys.remove(leaf.SignatureKey)
	e.encryptionKeys = e.encryptionKeys.remove(leaf.EncryptionKey)
	for k := range e.credentials {
		if u := &e.credentials[k]; u.t == leaf.Credential.Type {
			if u.n--; u.n == 0 {
				e.credentials = slices.Delete(e.credentials, k, k+1)
			}
			return
		}
	}
}

// newTree is the tree of a group of one. See RFC 9420, Section 11.
func newTree(suite CipherSuite, leaf *LeafNode) (*tree, error) {
	e := &treeEdit{tree: tree{suite: suite, root: blankNode(0)}}
	e.place(0, leaf)
	return e.done()
}

// The node types of RFC 9420, Section 7.8.
const (
	nodeTypeLeaf   = 1
	nodeTypeParent = 2
)

// parseTree decodes a ratchet_tree extension's data and builds the tree from
// below. What it says is not verified, except that no key appears twice. See
// RFC 9420, Section 12.4.3.3.
func parseTree(suite CipherSuite, data []byte) (*tree, error) {
	r := newReader(data)
	var nodes []node
	r.list(func(r *reader) {
		if len(nodes) == 2*maxLeaves-1 {
			r.fail(errTreeSize)
			return
		}
		var n node
		if r.optional() {
			x := nodeIndex(len(nodes))
			switch t := r.u8(); {
			case t == nodeTypeLeaf && x.isLeaf():
				n.leaf = decodeLeafNode(r)
			case t == nodeTypeParent && !x.isLeaf():
				n.parent = decodeParentNode(r)
			default:
				r.fail(errTreeNode)
			}
		}
		nodes = append(nodes, n)
	})
	if err := r.end(); err != nil {
		return nil, err
	}
	return treeOf(suite, nodes)
}

// treeOf builds a tree from its nodes in order, without trailing blanks.
func treeOf(suite CipherSuite, nodes []node) (*tree, error) {
	// The rightmost leaf is never blank: Section 7.7 truncates. So the last node
	// is a leaf, and the smallest full tree around it is the tree.
	if len(nodes) == 0 || nodes[len(nodes)-1].leaf == nil {
		return nil, errTreeSize
	}
	e := &treeEdit{tree: tree{suite: suite, depth: depthFor(len(nodes)/2 + 1)}}
	e.root = e.build(e.rootIndex(), nodes)
	return e.done()
}

func (e *treeEdit) build(x nodeIndex, nodes []node) *node {
	n := &node{dirty: true}
	if int(x) < len(nodes) {
		n.leaf, n.parent = nodes[x].leaf, nodes[x].parent
	}
	switch {
	case n.leaf != nil:
		e.takeLeaf(x.leaf(), n.leaf)
	case n.parent != nil:
		e.takeEncryptionKey(n.parent.encryptionKey, x)
	}
	if !x.isLeaf() {
		n.left, n.right = e.build(x.left(), nodes), e.build(x.right(), nodes)
	}
	n.count()
	return n
}

// append encodes the tree as a ratchet_tree extension's data.
func (t *tree) append(b []byte) []byte {
	return appendList(b, func(b []byte) []byte {
		end := len(b) // after the last node that is not blank
		var walk func(n *node)
		walk = func(n *node) {
			if n.left != nil {
				walk(n.left)
			}
			if n.blank() {
				b = append(b, 0)
			} else {
				b = n.append(append(b, 1))
				end = len(b)
			}
			if n.right != nil {
				walk(n.right)
			}
		}
		walk(t.root)
		return b[:end]
	})
}

// append encodes a node that is not blank, with its type.
func (n *node) append(b []byte) []byte {
	if n.leaf != nil {
		return n.leaf.append(append(b, nodeTypeLeaf))
	}
	return n.parent.append(append(b, nodeTypeParent))
}

func decodeParentNode(r *reader) *parentNode {
	p := &parentNode{encryptionKey: r.vector(), parentHash: r.vector()}
	r.list(func(r *reader) { p.unmerged = append(p.unmerged, LeafIndex(r.u32())) })
	return p
}

func (p *parentNode) append(b []byte) []byte {
	b = appendVector(b, p.encryptionKey)
	b = appendVector(b, p.parentHash)
	b = appendLength(b, 4*len(p.unmerged))
	for _, i := range p.unmerged {
		b = appendU32(b, uint32(i))
	}
	return b
}
