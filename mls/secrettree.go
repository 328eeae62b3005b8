package mls

import (
	"math/bits"
	"slices"
)

// The secret tree. See RFC 9420, Section 9.
//
// A secretTree is a value: taking a key returns the tree without it and leaves
// the receiver as it was, so that a message that turns out to be invalid costs
// nothing. The two share everything but the path to one leaf. Nodes exist only
// where a secret lives: a node's secret is gone as soon as its children have
// theirs, which is the deletion schedule of Section 9.2.

const (
	// maxForward is how many generations a message may run ahead of the last
	// one seen from its sender.
	maxForward = 1000
	// maxOutOfOrder is how many generations behind the newest one the keys of
	// messages that have not arrived are kept.
	maxOutOfOrder = 5
)

// ratchetKind tells a leaf's two ratchets apart.
type ratchetKind uint8

const (
	handshakeRatchet ratchetKind = iota
	applicationRatchet
)

// ratchetFor is the ratchet that protects a content type. See RFC 9420,
// Section 6.3.1.
func ratchetFor(c ContentType) ratchetKind {
	if c == ContentApplication {
		return applicationRatchet
	}
	return handshakeRatchet
}

type secretTree struct {
	suite CipherSuite
	depth uint8 // Levels below the root: the tree has 1<<depth leaves.
	root  *secretNode
}

// secretNode is a node with a secret, or one with children, or a leaf with
// ratchets.
type secretNode struct {
	secret      *[hashSize]byte
	left, right *secretNode
	leaf        *leafRatchets
}

// leafRatchets are indexed by ratchetKind.
type leafRatchets [2]ratchet

// ratchet is at generation next: the first whose key has not been derived.
type ratchet struct {
	secret  [hashSize]byte
	next    uint32
	skipped []messageKey // Derived and not used, ascending; at most maxOutOfOrder. Never modified.
}

// messageKey encrypts one message.
type messageKey struct {
	generation uint32
	size       uint8 // AEAD.Nk
	bytes      [32]byte
	nonce      [nonceSize]byte
}

func (k *messageKey) key() []byte { return k.bytes[:k.size] }

// newSecretTree starts from encryption_secret, for a ratchet tree of so many
// leaves, blank ones included.
func newSecretTree(s CipherSuite, encryption secret, leaves uint32) secretTree {
	root := &secretNode{secret: (*[hashSize]byte)(encryption)}
	return secretTree{suite: s, depth: uint8(bits.Len32(leaves - 1)), root: root}
}

// withLeaf replaces the ratchets of a leaf by what change makes of them,
// deriving them first if nobody has asked for that leaf before.
func (t secretTree) withLeaf(leaf LeafIndex, change func(*leafRatchets) error) (secretTree, error) {
	if uint64(leaf) >= 1<<t.depth {
		return t, errSenderRange
	}
	root, err := t.descend(*t.root, leaf, int(t.depth), change)
	if err != nil {
		return t, err
	}
	t.root = root
	return t, nil
}

func (t secretTree) descend(n secretNode, leaf LeafIndex, level int, change func(*leafRatchets) error) (*secretNode, error) {
	if level == 0 {
		var l leafRatchets
		if n.leaf != nil {
			l = *n.leaf
		} else {
			t.suite.expandInto(l[handshakeRatchet].secret[:], n.secret[:], "handshake", nil)
			t.suite.expandInto(l[applicationRatchet].secret[:], n.secret[:], "application", nil)
		}
		if err := change(&l); err != nil {
			return nil, err
		}
		return &secretNode{leaf: &l}, nil
	}
	if n.secret != nil {
		n.left, n.right = t.child(n.secret, "left"), t.child(n.secret, "right")
		n.secret = nil
	}
	side := &n.left
	if leaf>>(level-1)&1 == 1 {
		side = &n.right
	}
	below, err := t.descend(**side, leaf, level-1, change)
	if err != nil {
		return nil, err
	}
	*side = below
	return &n, nil
}

func (t secretTree) child(parent *[hashSize]byte, direction string) *secretNode {
	n := &secretNode{secret: new([hashSize]byte)}
	t.suite.expandInto(n.secret[:], parent[:], "tree", []byte(direction))
	return n
}

// ratchets returns the ratchets of a leaf, nil if they have not been derived.
func (t secretTree) ratchets(leaf LeafIndex) *leafRatchets {
	n := t.root
	for level := int(t.depth); n != nil && level > 0; level-- {
		if leaf>>(level-1)&1 == 1 {
			n = n.right
		} else {
			n = n.left
		}
	}
	if n == nil {
		return nil
	}
	return n.leaf
}

// open takes the key of a generation to decrypt with it. Use the returned tree
// once the message has proved valid.
func (t secretTree) open(leaf LeafIndex, kind ratchetKind, generation uint32) (next secretTree, k messageKey, err error) {
	next, err = t.withLeaf(leaf, func(l *leafRatchets) error {
		k, err = l[kind].take(t.suite, generation)
		return err
	})
	return next, k, err
}

// seal takes the next key to encrypt with it. The returned tree must be stored
// before the message leaves: a generation is never used twice.
func (t secretTree) seal(leaf LeafIndex, kind ratchetKind) (next secretTree, k messageKey, err error) {
	next, err = t.withLeaf(leaf, func(l *leafRatchets) error {
		if l[kind].next == maxGeneration {
			return ErrRatchetExhausted
		}
		k = l[kind].step(t.suite)
		return nil
	})
	return next, k, err
}

// skipTo makes generation the next one that seal takes, if it is ahead; the
// keys before it are erased. It is for a member's own ratchets, whose
// generations come from its own store or messages: the cost is linear.
func (t secretTree) skipTo(leaf LeafIndex, kind ratchetKind, generation uint32) (secretTree, error) {
	if t.nextGeneration(leaf, kind) >= generation {
		return t, nil
	}
	return t.withLeaf(leaf, func(l *leafRatchets) error {
		for l[kind].next < generation {
			l[kind].advance(t.suite)
		}
		return nil
	})
}

// nextGeneration is the generation that seal would take.
func (t secretTree) nextGeneration(leaf LeafIndex, kind ratchetKind) uint32 {
	if l := t.ratchets(leaf); l != nil {
		return l[kind].next
	}
	return 0
}

// maxGeneration is never used, so that next cannot wrap around.
const maxGeneration = 1<<32 - 1

// take derives or finds the key of a generation and drops it from the ratchet.
func (r *ratchet) take(s CipherSuite, generation uint32) (messageKey, error) {
	if generation < r.next {
		return r.takeSkipped(generation)
	}
	if generation == maxGeneration || generation-r.next > maxForward {
		return messageKey{}, ErrTooFarAhead
	}
	if generation > r.next {
		r.skip(s, generation)
	} else if len(r.skipped) > 0 {
		r.skipped = inWindow(r.skipped, generation)
	}
	return r.step(s), nil
}

func (r *ratchet) takeSkipped(generation uint32) (messageKey, error) {
	for i, k := range r.skipped {
		if k.generation == generation {
			rest := make([]messageKey, 0, len(r.skipped)-1)
			r.skipped = append(append(rest, r.skipped[:i]...), r.skipped[i+1:]...)
			return k, nil
		}
	}
	return messageKey{}, ErrReplayed
}

// skip advances to a generation and keeps the keys that are still in the
// window once that one is used.
func (r *ratchet) skip(s CipherSuite, generation uint32) {
	skipped := append(make([]messageKey, 0, maxOutOfOrder), inWindow(r.skipped, generation)...)
	for r.next < generation {
		if generation-r.next > maxOutOfOrder {
			r.advance(s)
		} else {
			skipped = append(skipped, r.step(s))
		}
	}
	r.skipped = skipped
}

// inWindow drops the keys that are too old beside a newest generation; no
// memory of them stays with the rest.
func inWindow(keys []messageKey, newest uint32) []messageKey {
	old := 0
	for old < len(keys) && newest-keys[old].generation > maxOutOfOrder {
		old++
	}
	if old == 0 {
		return keys
	}
	return slices.Clone(keys[old:])
}

// step derives the key of the next generation and advances. See RFC 9420,
// Section 9.1.
func (r *ratchet) step(s CipherSuite) messageKey {
	k := messageKey{generation: r.next, size: uint8(s.keySize())}
	s.deriveTreeSecret(k.nonce[:], r.secret[:], "nonce", r.next)
	s.deriveTreeSecret(k.key(), r.secret[:], "key", r.next)
	r.advance(s)
	return k
}

// advance moves to the next generation.
func (r *ratchet) advance(s CipherSuite) {
	var next [hashSize]byte
	s.deriveTreeSecret(next[:], r.secret[:], "secret", r.next)
	r.secret = next
	r.next++
}

// The stored form: nodes in preorder, each a tag and what it holds.

const (
	storedInner uint8 = iota
	storedSecret
	storedLeaf
)

// append writes the tree for storage. The result is secret.
func (t secretTree) append(b []byte) []byte {
	b = appendU16(b, uint16(t.suite))
	b = appendU8(b, t.depth)
	return t.root.append(b)
}

func (n *secretNode) append(b []byte) []byte {
	switch {
	case n.secret != nil:
		return append(appendU8(b, storedSecret), n.secret[:]...)
	case n.leaf != nil:
		b = appendU8(b, storedLeaf)
		for i := range n.leaf {
			b = n.leaf[i].append(b)
		}
		return b
	}
	return n.right.append(n.left.append(appendU8(b, storedInner)))
}

func (r *ratchet) append(b []byte) []byte {
	b = appendU32(b, r.next)
	b = append(b, r.secret[:]...)
	b = appendU8(b, uint8(len(r.skipped)))
	for i := range r.skipped {
		k := &r.skipped[i]
		b = appendU32(b, k.generation)
		b = append(b, k.key()...)
		b = append(b, k.nonce[:]...)
	}
	return b
}

// decode reads what append wrote, and refuses anything else.
func (t *secretTree) decode(r *reader) {
	t.suite = CipherSuite(r.u16())
	t.depth = r.u8()
	if err := t.suite.supported(); err != nil {
		r.fail(err)
	}
	if t.depth > 32 {
		r.fail(errStoredTree)
	}
	t.root = decodeSecretNode(r, t.suite, int(t.depth))
}

func decodeSecretNode(r *reader, s CipherSuite, level int) *secretNode {
	n := new(secretNode)
	switch tag := r.u8(); {
	case r.err != nil:
	case tag == storedSecret:
		n.secret = new([hashSize]byte)
		copy(n.secret[:], r.take(hashSize))
	case tag == storedInner && level > 0:
		n.left = decodeSecretNode(r, s, level-1)
		n.right = decodeSecretNode(r, s, level-1)
	case tag == storedLeaf && level == 0:
		n.leaf = new(leafRatchets)
		for i := range n.leaf {
			n.leaf[i].decode(r, s)
		}
	default:
		r.fail(errStoredTree)
	}
	return n
}

func (q *ratchet) decode(r *reader, s CipherSuite) {
	q.next = r.u32()
	copy(q.secret[:], r.take(hashSize))
	count := int(r.u8())
	if count > maxOutOfOrder {
		r.fail(errStoredTree)
		return
	}
	for i := range count {
		k := messageKey{generation: r.u32(), size: uint8(s.keySize())}
		copy(k.key(), r.take(s.keySize()))
		copy(k.nonce[:], r.take(nonceSize))
		if k.generation >= q.next || i > 0 && k.generation <= q.skipped[i-1].generation {
			r.fail(errStoredTree)
			return
		}
		q.skipped = append(q.skipped, k)
	}
}
