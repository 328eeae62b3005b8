package memory

import (
	"bytes"
	"hash/maphash"
)

// A node is the root of an immutable treap: a search tree over key that is a
// heap over rank. A change copies the path to it and shares the rest, so every
// earlier root stays a snapshot. The rank is a hash of the key, so the shape
// depends on the keys alone and not on the order in which they came.
type node struct {
	key, value  []byte
	rank        uint64
	left, right *node
}

var seed = maphash.MakeSeed()

func (n *node) get(key []byte) ([]byte, bool) {
	for n != nil {
		switch c := bytes.Compare(key, n.key); {
		case c < 0:
			n = n.left
		case c > 0:
			n = n.right
		default:
			return n.value, true
		}
	}
	return nil, false
}

// put returns a tree in which key has value.
func (n *node) put(key, value []byte) *node {
	less, more := n.split(key)
	return join(join(less, &node{key: key, value: value, rank: maphash.Bytes(seed, key)}), more)
}

// delete returns a tree without key.
func (n *node) delete(key []byte) *node {
	if _, ok := n.get(key); !ok {
		return n
	}
	return join(n.split(key))
}

// split returns the rows below and above key; a row at key is in neither.
func (n *node) split(key []byte) (less, more *node) {
	if n == nil {
		return nil, nil
	}
	copied := *n
	switch c := bytes.Compare(key, n.key); {
	case c < 0:
		less, copied.left = n.left.split(key)
		return less, &copied
	case c > 0:
		copied.right, more = n.right.split(key)
		return &copied, more
	default:
		return n.left, n.right
	}
}

// join returns the rows of both; each key of less is below each of more.
func join(less, more *node) *node {
	switch {
	case less == nil:
		return more
	case more == nil:
		return less
	case less.rank > more.rank:
		copied := *less
		copied.right = join(less.right, more)
		return &copied
	default:
		copied := *more
		copied.left = join(less, more.left)
		return &copied
	}
}

// ascend yields the rows from key on, in order, until yield returns false.
func (n *node) ascend(from []byte, yield func(key, value []byte) bool) bool {
	if n == nil {
		return true
	}
	if bytes.Compare(n.key, from) < 0 {
		return n.right.ascend(from, yield)
	}
	return n.left.ascend(from, yield) && yield(n.key, n.value) && n.right.ascend(from, yield)
}

// descend yields the rows below before (nil: all) in falling order.
func (n *node) descend(before []byte, yield func(key, value []byte) bool) bool {
	if n == nil {
		return true
	}
	if before != nil && bytes.Compare(n.key, before) >= 0 {
		return n.left.descend(before, yield)
	}
	return n.right.descend(before, yield) && yield(n.key, n.value) && n.left.descend(before, yield)
}
