package mls

import "bytes"

// difference encodes what makes t of before: the new depth, and each node whose
// content differs. Equal subtrees have equal hashes, so only changed paths are
// looked at.
func (t *tree) difference(before *tree) []byte {
	b := appendU8(nil, uint8(t.depth))
	return appendList(b, func(b []byte) []byte {
		var walk func(x nodeIndex, now *node)
		walk = func(x nodeIndex, now *node) {
			old := before.at(x)
			if old == now || old != nil && old.hash == now.hash {
				return
			}
			if !now.sameContent(old) {
				b = appendU32(b, uint32(x))
				b = appendOptional(b, !now.blank())
				if !now.blank() {
					b = now.append(b)
				}
			}
			if !x.isLeaf() {
				walk(x.left(), now.left)
				walk(x.right(), now.right)
			}
		}
		walk(t.rootIndex(), t.root)
		return b
	})
}

// sameContent compares what stands in two nodes themselves; a node beyond the
// tree is blank.
func (n *node) sameContent(m *node) bool {
	if m == nil || m.blank() || n.blank() {
		return n.blank() && (m == nil || m.blank())
	}
	return bytes.Equal(n.append(nil), m.append(nil))
}

// patched applies a difference. The result shares with t what did not change.
func (t *tree) patched(difference []byte) (*tree, error) {
	type change struct {
		x nodeIndex
		node
	}
	r := newReader(difference)
	depth := int(r.u8())
	if depth > depthFor(maxLeaves) {
		return nil, errTreeSize
	}
	var changes []change
	r.list(func(r *reader) {
		c := change{x: nodeIndex(r.u32())}
		if r.optional() {
			switch kind := r.u8(); {
			case kind == nodeTypeLeaf && c.x.isLeaf():
				c.leaf = decodeLeafNode(r)
			case kind == nodeTypeParent && !c.x.isLeaf():
				c.parent = decodeParentNode(r)
			default:
				r.fail(errTreeNode)
			}
		}
		if c.x > 2*rootOf(depth) {
			r.fail(errTreeNode)
		}
		changes = append(changes, c)
	})
	if err := r.end(); err != nil {
		return nil, err
	}

	// As in a commit, what goes makes room before what comes is placed.
	e := t.edit()
	for e.depth < depth {
		e.extend()
	}
	for e.depth > depth {
		e.release(e.root.right)
		e.releaseContent(e.root)
		e.root = e.root.left
		e.depth--
	}
	for _, c := range changes {
		e.content(c.x, func(n *node) {
			e.releaseContent(n)
			n.leaf, n.parent = nil, nil
		})
	}
	for _, c := range changes {
		e.content(c.x, func(n *node) {
			n.leaf, n.parent = c.leaf, c.parent
			switch {
			case n.leaf != nil:
				e.takeLeaf(c.x.leaf(), n.leaf)
			case n.parent != nil:
				e.takeEncryptionKey(n.parent.encryptionKey, c.x)
			}
		})
	}
	return e.done()
}

// content changes what stands in node x, which may be a parent.
func (e *treeEdit) content(x nodeIndex, change func(n *node)) {
	below := x // any leaf below x
	for !below.isLeaf() {
		below = below.left()
	}
	e.path(below.leaf(), func(y nodeIndex, n *node) {
		if y == x {
			change(n)
		}
	})
}

// release gives up the keys of all nodes at or below n.
func (e *treeEdit) release(n *node) {
	if n == nil {
		return
	}
	e.releaseContent(n)
	e.release(n.left)
	e.release(n.right)
}

func (e *treeEdit) releaseContent(n *node) {
	switch {
	case n.leaf != nil:
		e.releaseLeaf(n.leaf)
	case n.parent != nil:
		e.encryptionKeys = e.encryptionKeys.remove(n.parent.encryptionKey)
	}
}
