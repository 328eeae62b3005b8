package mls

import "math/bits"

// Index arithmetic of RFC 9420, Appendix C. A tree's nodes are numbered in
// order: leaf i is node 2i, and a parent lies between its subtrees. An index
// keeps its place when the tree grows or shrinks.

// LeafIndex numbers the leaves of a tree from the left.
type LeafIndex uint32

// A nodeIndex numbers all nodes of a tree.
type nodeIndex uint32

func (i LeafIndex) node() nodeIndex { return nodeIndex(i) << 1 }

func (x nodeIndex) isLeaf() bool    { return x&1 == 0 }
func (x nodeIndex) leaf() LeafIndex { return LeafIndex(x >> 1) }

// level is a node's height: 0 for leaves.
func (x nodeIndex) level() int { return bits.TrailingZeros32(^uint32(x)) }

// left and right are a parent's children; a leaf has none.
func (x nodeIndex) left() nodeIndex  { return x ^ 1<<(x.level()-1) }
func (x nodeIndex) right() nodeIndex { return x ^ 3<<(x.level()-1) }

// parent and sibling are computed as in an infinite tree; the root of a given
// tree has neither.
func (x nodeIndex) parent() nodeIndex {
	k := x.level()
	return (x | 1<<k) &^ (1 << (k + 1))
}

func (x nodeIndex) sibling() nodeIndex {
	if p := x.parent(); x < p {
		return p.right()
	} else {
		return p.left()
	}
}

// ancestor reports whether x is a or above it.
func (x nodeIndex) ancestor(a nodeIndex) bool {
	k := x.level() + 1
	return a.level() < k && x>>k == a>>k
}

// commonAncestor is the lowest node above both leaves.
func commonAncestor(i, j LeafIndex) nodeIndex {
	x := i.node()
	for !x.ancestor(j.node()) {
		x = x.parent()
	}
	return x
}

// rootOf is the root of a full tree of 2^depth leaves.
func rootOf(depth int) nodeIndex { return 1<<depth - 1 }

// depthFor is the depth of the smallest full tree of at least n leaves.
func depthFor(n int) int {
	if n <= 1 {
		return 0
	}
	return bits.Len(uint(n - 1))
}
