package mls

import (
	"bytes"
	"crypto/sha256"
	"slices"
)

// Tree hashes (RFC 9420, Section 7.8) and parent hashes (Section 7.9). Every
// supported cipher suite hashes with SHA-256.

// hash is the tree hash of the whole tree.
func (t *tree) hash() []byte { return bytes.Clone(t.root.hash[:]) }

// rehash hashes what an edit has changed, from below.
func (n *node) rehash(x nodeIndex) {
	if !n.dirty {
		return
	}
	if n.left != nil {
		n.left.rehash(x.left())
		n.right.rehash(x.right())
	}
	n.hash = n.hashed(x)
	n.dirty = false
}

// hashed is the hash of a node's TreeHashInput, from its children's hashes.
func (n *node) hashed(x nodeIndex) [sha256.Size]byte {
	var buf [512]byte // A larger leaf moves it to the heap.
	if x.isLeaf() {
		b := appendU32(append(buf[:0], nodeTypeLeaf), uint32(x.leaf()))
		b = appendOptional(b, n.leaf != nil)
		if n.leaf != nil {
			b = n.leaf.append(b)
		}
		return sha256.Sum256(b)
	}
	return hashParent(buf[:0], n.parent, n.left.hash[:], n.right.hash[:])
}

func hashParent(b []byte, p *parentNode, left, right []byte) [sha256.Size]byte {
	b = append(b, nodeTypeParent)
	b = appendOptional(b, p != nil)
	if p != nil {
		b = p.append(b)
	}
	return sha256.Sum256(appendVector(appendVector(b, left), right))
}

// originalHash is the tree hash of n as it was before the leaves in gone were
// added: with them blank, and without them in any list of unmerged leaves. The
// list is sorted and holds only leaves below n.
func (n *node) originalHash(x nodeIndex, gone []LeafIndex) [sha256.Size]byte {
	switch {
	case len(gone) == 0:
		return n.hash
	case x.isLeaf():
		return (&node{}).hashed(x)
	}
	leftGone, rightGone := splitLeaves(gone, x)
	left := n.left.originalHash(x.left(), leftGone)
	right := n.right.originalHash(x.right(), rightGone)
	p := n.parent
	if p != nil {
		p = &parentNode{encryptionKey: p.encryptionKey, parentHash: p.parentHash, unmerged: without(p.unmerged, gone)}
	}
	return hashParent(nil, p, left[:], right[:])
}

// splitLeaves divides a sorted list of leaves below x into those on its left
// and those on its right.
func splitLeaves(list []LeafIndex, x nodeIndex) (left, right []LeafIndex) {
	at, _ := slices.BinarySearchFunc(list, x, func(i LeafIndex, x nodeIndex) int { return int(i.node()) - int(x) })
	return list[:at], list[at:]
}

// without returns the sorted list less what is in the sorted list gone.
func without(list, gone []LeafIndex) []LeafIndex {
	var rest []LeafIndex
	for _, i := range list {
		if _, found := slices.BinarySearch(gone, i); !found {
			rest = append(rest, i)
		}
	}
	return rest
}

// hash is the parent hash of p with a copath child of the given original tree
// hash: Section 7.9.
func (p *parentNode) hash(originalSibling [sha256.Size]byte) []byte {
	b := make([]byte, 0, 192)
	b = appendVector(b, p.encryptionKey)
	b = appendVector(b, p.parentHash)
	b = appendVector(b, originalSibling[:])
	h := sha256.Sum256(b)
	return h[:]
}

// parentHashed computes the parents of an UpdatePath's nodes: the parents
// along the filtered direct path with their parent hashes, from the root down,
// and the parent hash that belongs into the leaf. The siblings' hashes are
// those of t, in which the path is not merged yet; it does not touch them.
func (t *tree) parentHashed(path []pathStep, keys [][]byte) (parents map[nodeIndex]*parentNode, leafParentHash []byte) {
	parents = make(map[nodeIndex]*parentNode, len(path))
	for k, step := range slices.Backward(path) {
		p := &parentNode{encryptionKey: bytes.Clone(keys[k]), parentHash: leafParentHash}
		parents[step.node] = p
		leafParentHash = p.hash(t.at(step.copath).hash)
	}
	return parents, leafParentHash
}

// validate checks a tree that came from outside, as a newcomer does: RFC 9420,
// Section 12.4.3.1. That no key appears twice was checked as it was built.
func (t *tree) validate(realm *Realm, groupID []byte, q requirements) error {
	q.credentials = append(q.credentials[:len(q.credentials):len(q.credentials)], t.credentialTypes(nil)...)
	for i, leaf := range t.all() {
		if err := leaf.verify(realm, t.suite, groupID, i); err != nil {
			return err
		}
		if err := leaf.Capabilities.meets(q); err != nil {
			return err
		}
	}
	return t.root.validateParents(t.rootIndex())
}

// validateParents checks the unmerged leaves and the parent hashes of every
// parent at or below n.
func (n *node) validateParents(x nodeIndex) error {
	if x.isLeaf() {
		return nil
	}
	if n.parent != nil {
		if err := n.validateUnmerged(x); err != nil {
			return err
		}
	}
	if err := n.left.validateParents(x.left()); err != nil {
		return err
	}
	if err := n.right.validateParents(x.right()); err != nil {
		return err
	}
	if n.parent == nil {
		return nil
	}
	// Section 7.9.2, top down: exactly one descendant was set together with n.
	leftUnmerged, rightUnmerged := splitLeaves(n.parent.unmerged, x)
	links := n.links(n.left, x.left(), leftUnmerged, n.right, x.right(), rightUnmerged) +
		n.links(n.right, x.right(), rightUnmerged, n.left, x.left(), leftUnmerged)
	if links != 1 {
		return errParentHash
	}
	return nil
}

// validateUnmerged checks that n's unmerged leaves are sorted members below it,
// and unmerged in every parent between.
func (n *node) validateUnmerged(x nodeIndex) error {
	for k, i := range n.parent.unmerged {
		if k > 0 && n.parent.unmerged[k-1] >= i || !x.ancestor(i.node()) {
			return errUnmergedLeaves
		}
		for y, below := x, n; ; {
			if i.node() < y {
				y, below = y.left(), below.left
			} else {
				y, below = y.right(), below.right
			}
			if y.isLeaf() {
				if below.leaf == nil {
					return errUnmergedLeaves
				}
				break
			}
			if below.parent != nil {
				if _, found := slices.BinarySearch(below.parent.unmerged, i); !found {
					return errUnmergedLeaves
				}
			}
		}
	}
	return nil
}

// links counts the nodes below child c whose parent hash is that of n with
// copath child s, and that are, besides n's unmerged leaves, all there is in
// c's resolution.
func (n *node) links(c *node, cx nodeIndex, cUnmerged []LeafIndex, s *node, sx nodeIndex, sUnmerged []LeafIndex) int {
	resolution := c.resolution(cx, nil)
	if len(resolution) != len(cUnmerged)+1 {
		return 0
	}
	want := n.parent.hash(s.originalHash(sx, sUnmerged))
	count := 0
	for _, d := range resolution {
		if !bytes.Equal(want, c.parentHashAt(cx, d)) {
			continue
		}
		rest := slices.DeleteFunc(slices.Clone(resolution), func(x nodeIndex) bool { return x == d })
		slices.Sort(rest)
		if slices.EqualFunc(rest, cUnmerged, func(x nodeIndex, i LeafIndex) bool { return x == i.node() }) {
			count++
		}
	}
	return count
}

// parentHashAt is the parent hash that node d, at or below n, carries; empty if
// it carries none.
func (n *node) parentHashAt(x, d nodeIndex) []byte {
	for x != d {
		if d < x {
			x, n = x.left(), n.left
		} else {
			x, n = x.right(), n.right
		}
	}
	switch {
	case n.parent != nil:
		return n.parent.parentHash
	case n.leaf != nil && n.leaf.Source == SourceCommit:
		return n.leaf.ParentHash
	}
	return nil
}

// checkLeaves checks leaves that a commit has put into the tree against the
// group, and the group against them: the part of Section 7.3 that a leaf cannot
// say by itself. Types of credentials that were in use before the commit are
// known to be supported by everyone.
func (t *tree) checkLeaves(changed []LeafIndex, q requirements, before *tree) error {
	q.credentials = append(q.credentials[:len(q.credentials):len(q.credentials)], t.credentialTypes(nil)...)
	for _, i := range changed {
		leaf, _ := t.member(i)
		if err := leaf.Capabilities.meets(q); err != nil {
			return err
		}
	}
	fresh := t.credentialTypes(before)
	if len(fresh) == 0 {
		return nil
	}
	for _, leaf := range t.all() {
		if !supports(leaf.Capabilities.Credentials, fresh) {
			return errCredentialUnsupported
		}
	}
	return nil
}

// credentialTypes lists the types of credentials that members present, but for
// those that are in another tree.
func (t *tree) credentialTypes(but *tree) (list []CredentialType) {
	for _, u := range t.credentials {
		if but == nil || !slices.ContainsFunc(but.credentials, func(old credentialUse) bool { return old.t == u.t }) {
			list = append(list, u.t)
		}
	}
	return list
}
