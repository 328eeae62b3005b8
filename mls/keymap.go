package mls

import "crypto/sha256"

// A keyMap is a persistent map from public keys to their place in a tree: a
// 16-way trie over the keys' hashes. Every change makes a new map that shares
// all but one path with the old one, so that each epoch's tree knows its keys
// at the price of what changed. The zero value is empty.
type keyMap struct{ root *keyTrie }

type keyTrie struct {
	children [16]*keyTrie // all nil in an entry
	digest   [sha256.Size]byte
	place    uint32
	inner    bool
}

// get returns the place of key.
func (m keyMap) get(key []byte) (place uint32, ok bool) {
	digest := sha256.Sum256(key)
	n := m.root
	for depth := 0; n != nil; depth++ {
		if !n.inner {
			return n.place, n.digest == digest
		}
		n = n.children[nibble(&digest, depth)]
	}
	return 0, false
}

// insert returns the map with key at place; ok is false, and the map unchanged,
// if the key has a place already.
func (m keyMap) insert(key []byte, place uint32) (next keyMap, ok bool) {
	entry := &keyTrie{digest: sha256.Sum256(key), place: place}
	root, ok := m.root.insert(entry, 0)
	return keyMap{root}, ok
}

func (n *keyTrie) insert(entry *keyTrie, depth int) (*keyTrie, bool) {
	if n == nil {
		return entry, true
	}
	if !n.inner {
		if n.digest == entry.digest {
			return n, false
		}
		split := &keyTrie{inner: true}
		split.children[nibble(&n.digest, depth)] = n
		return split.insert(entry, depth)
	}
	i := nibble(&entry.digest, depth)
	child, ok := n.children[i].insert(entry, depth+1)
	if !ok {
		return n, false
	}
	c := *n
	c.children[i] = child
	return &c, true
}

// remove returns the map without key.
func (m keyMap) remove(key []byte) keyMap {
	digest := sha256.Sum256(key)
	return keyMap{m.root.remove(&digest, 0)}
}

func (n *keyTrie) remove(digest *[sha256.Size]byte, depth int) *keyTrie {
	if n == nil {
		return nil
	}
	if !n.inner {
		if n.digest == *digest {
			return nil
		}
		return n
	}
	i := nibble(digest, depth)
	child := n.children[i].remove(digest, depth+1)
	if child == n.children[i] {
		return n
	}
	c := *n
	c.children[i] = child
	return c.collapsed()
}

// collapsed replaces an inner node by its only child, if that is an entry, and
// by nil if it has none: a map's size follows what it holds.
func (n *keyTrie) collapsed() *keyTrie {
	var only *keyTrie
	for _, c := range n.children {
		switch {
		case c == nil:
		case only != nil || c.inner:
			return n
		default:
			only = c
		}
	}
	return only
}

func nibble(digest *[sha256.Size]byte, depth int) byte {
	b := digest[depth/2]
	if depth%2 == 0 {
		return b >> 4
	}
	return b & 0xf
}
