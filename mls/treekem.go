package mls

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/conclave-chat/conclave/mls/hpke"
)

// TreeKEM: how a committer's path reaches the members. See RFC 9420, Sections
// 7.4 to 7.6.

// pathKeys are a member's private keys: its leaf's, and those of the parents
// above it that it knows. They are immutable.
type pathKeys struct {
	leaf    secret
	parents []nodeKey // from below
}

type nodeKey struct {
	node nodeIndex
	key  secret
}

// Format hides the keys.
func (pathKeys) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// get returns the private key of node x, nil if the member does not have it.
func (k *pathKeys) get(x nodeIndex, own LeafIndex) secret {
	if x == own.node() {
		return k.leaf
	}
	for _, p := range k.parents {
		if p.node == x {
			return p.key
		}
	}
	return nil
}

// carry keeps the keys of nodes that a commit has neither replaced nor blanked:
// the deletion that ends Section 7.5.
func (k *pathKeys) carry(leaf secret, before, after *tree) *pathKeys {
	next := &pathKeys{leaf: leaf}
	for _, p := range k.parents {
		if now := after.at(p.node); now != nil && now.parent != nil &&
			bytes.Equal(before.at(p.node).encryptionKey(), now.parent.encryptionKey) {
			next.parents = append(next.parents, p)
		}
	}
	return next
}

// append writes private keys for storage.
func (k *pathKeys) append(b []byte) []byte {
	b = appendVector(b, k.leaf)
	return appendList(b, func(b []byte) []byte {
		for _, p := range k.parents {
			b = appendVector(appendU32(b, uint32(p.node)), p.key)
		}
		return b
	})
}

func decodePathKeys(r *reader) *pathKeys {
	k := &pathKeys{leaf: r.vector()}
	r.list(func(r *reader) { k.parents = append(k.parents, nodeKey{nodeIndex(r.u32()), r.vector()}) })
	return k
}

// fit reports whether stored keys belong to the member at own: all of them to
// parents above it.
func (k *pathKeys) fit(t *tree, own LeafIndex) bool {
	if _, ok := t.member(own); !ok {
		return false
	}
	return !slices.ContainsFunc(k.parents, func(p nodeKey) bool {
		n := t.at(p.node)
		return n == nil || n.parent == nil || !p.node.ancestor(own.node())
	})
}

// climb derives the private keys of the path steps from the one whose path
// secret is given, checks that they fit the tree's public keys, and returns the
// commit secret, which follows the last path secret (Section 7.4).
func (t *tree) climb(steps []pathStep, pathSecret secret) (keys []nodeKey, commitSecret secret, err error) {
	for _, step := range steps {
		private, public, err := t.suite.nodeKeyPair(pathSecret)
		if err != nil {
			return nil, nil, err
		}
		if n := t.at(step.node); n.parent == nil || !bytes.Equal(n.parent.encryptionKey, public) {
			return nil, nil, errPathKey
		}
		keys = append(keys, nodeKey{step.node, private})
		pathSecret = t.suite.deriveSecret(pathSecret, "path")
	}
	return keys, pathSecret, nil
}

func (s CipherSuite) nodeKeyPair(pathSecret secret) (private secret, public []byte, err error) {
	return s.deriveKeyPair(s.deriveSecret(pathSecret, "node"))
}

// audience is the resolution of a copath node without leaves that the same
// commit adds, which get their secrets in a Welcome (Section 7.5).
func (t *tree) audience(copath nodeIndex, added []LeafIndex) []nodeIndex {
	return slices.DeleteFunc(t.resolution(copath), func(x nodeIndex) bool {
		if !x.isLeaf() {
			return false
		}
		_, fresh := slices.BinarySearch(added, x.leaf())
		return fresh
	})
}

// mergePath checks a received path against the tree, to which the commit's
// proposals have been applied, and merges it (Section 7.5). The leaf i is the
// committer's.
func (t *tree) mergePath(i LeafIndex, path *UpdatePath, added []LeafIndex) (*tree, []pathStep, error) {
	steps := t.filteredPath(i)
	if len(steps) != len(path.nodes) {
		return nil, nil, errPathLength
	}
	// No key of the path may stand anywhere in the tree, the committer's old
	// leaf included; that none stands twice in the path, the merge will see.
	keys := make([][]byte, len(steps))
	for k, n := range path.nodes {
		keys[k] = n.encryptionKey
		if _, taken := t.encryptionKeys.get(n.encryptionKey); taken {
			return nil, nil, errEncryptionKeyTaken
		}
		if len(n.secrets) != len(t.audience(steps[k].copath, added)) {
			return nil, nil, errPathCiphertexts
		}
	}
	if _, taken := t.encryptionKeys.get(path.leaf.EncryptionKey); taken {
		return nil, nil, errEncryptionKeyTaken
	}
	parents, parentHash := t.parentHashed(steps, keys)
	if !bytes.Equal(parentHash, path.leaf.ParentHash) {
		return nil, nil, errParentHash
	}
	e := t.edit()
	e.merge(i, path.leaf.detached(), parents)
	merged, err := e.done()
	return merged, steps, err
}

// openPath finds the path secret that a merged path holds for the member at
// own, and derives what follows from it. The tree is the merged one: it differs
// from the one before on the committer's path only, not beside it.
func (t *tree) openPath(own LeafIndex, k *pathKeys, path *UpdatePath, steps []pathStep, added []LeafIndex, context []byte) ([]nodeKey, secret, error) {
	at := slices.IndexFunc(steps, func(s pathStep) bool { return s.copath.ancestor(own.node()) })
	if at < 0 {
		return nil, nil, errPathKey
	}
	for j, x := range t.audience(steps[at].copath, added) {
		private := k.get(x, own)
		if private == nil {
			continue
		}
		c := path.nodes[at].secrets[j]
		pathSecret, err := t.suite.decryptWithLabel(private, t.at(x).encryptionKey(), labelUpdatePathNode, context, c.kemOutput, c.ciphertext)
		if err != nil {
			return nil, nil, err
		}
		return t.climb(steps[at:], pathSecret)
	}
	return nil, nil, errPathKey
}

const labelUpdatePathNode = "UpdatePathNode"

// A pathDraft is a path that this member has made, before it is encrypted to
// anyone.
type pathDraft struct {
	tree         *tree // merged
	leaf         *LeafNode
	steps        []pathStep
	public       [][]byte // of each step
	secrets      []secret // path secret of each step
	keys         *pathKeys
	commitSecret secret
}

// newPath makes a fresh path for the leaf i. The template is the new leaf but
// for what the path decides; see Section 7.5.
func (t *tree) newPath(rand io.Reader, i LeafIndex, template LeafNode, signer *Signer, groupID []byte) (*pathDraft, error) {
	f := &pathDraft{steps: t.filteredPath(i)}
	leafPrivate, leafPublic, err := t.suite.generateKeyPair(rand)
	if err != nil {
		return nil, err
	}
	f.keys = &pathKeys{leaf: leafPrivate}
	pathSecret := make(secret, t.suite.hashSize())
	if _, err := io.ReadFull(rand, pathSecret); err != nil {
		return nil, err
	}
	for _, step := range f.steps {
		private, public, err := t.suite.nodeKeyPair(pathSecret)
		if err != nil {
			return nil, err
		}
		f.secrets = append(f.secrets, pathSecret)
		f.public = append(f.public, public)
		f.keys.parents = append(f.keys.parents, nodeKey{step.node, private})
		pathSecret = t.suite.deriveSecret(pathSecret, "path")
	}
	f.commitSecret = pathSecret

	parents, parentHash := t.parentHashed(f.steps, f.public)
	template.EncryptionKey, template.SignatureKey = leafPublic, signer.Public()
	template.Source, template.ParentHash = SourceCommit, parentHash
	if f.leaf, err = template.signed(t.suite, signer, groupID, i); err != nil {
		return nil, err
	}
	e := t.edit()
	e.merge(i, f.leaf, parents)
	f.tree, err = e.done()
	return f, err
}

// seal encrypts the path secrets to everyone beside the path (Section 7.6). A leaf
// with an X25519 key of low order is valid, and nothing can be encrypted to it: what
// stands there for it opens for nobody, and the commit is good for all others.
func (f *pathDraft) seal(rand io.Reader, added []LeafIndex, context []byte, each Each) (*UpdatePath, error) {
	path := &UpdatePath{leaf: f.leaf, nodes: make([]updatePathNode, len(f.steps))}
	var jobs sealJobs
	for k, step := range f.steps {
		audience := f.tree.audience(step.copath, added)
		path.nodes[k] = updatePathNode{encryptionKey: f.public[k], secrets: make([]hpkeCiphertext, len(audience))}
		for j, x := range audience {
			jobs.add(f.tree.at(x).encryptionKey(), f.secrets[k], &path.nodes[k].secrets[j])
		}
	}
	return path, jobs.run(rand, f.tree.suite, labelUpdatePathNode, context, each, orNobody)
}

// Each runs f for 0 to n-1, in any order and as many at a time as it likes, and
// returns when all are done.
type Each func(n int, f func(int))

// sealJobs are encryptions of one label and context to many keys.
type sealJobs []sealJob

type sealJob struct {
	public    []byte
	plaintext []byte
	out       *hpkeCiphertext
}

func (j *sealJobs) add(public, plaintext []byte, out *hpkeCiphertext) {
	*j = append(*j, sealJob{public, plaintext, out})
}

// unusable says what becomes of a job whose public key nothing can be encrypted to.
type unusable bool

const (
	orFail   unusable = false
	orNobody unusable = true // it gets a ciphertext that opens for nobody
)

// run does the jobs. Each has its own share of the randomness, read beforehand,
// so that the result does not depend on the order in which they run.
func (j sealJobs) run(rand io.Reader, suite CipherSuite, label string, context []byte, each Each, bad unusable) error {
	const share = 32 // what one encapsulation reads
	seeds := make([]byte, share*len(j))
	if _, err := io.ReadFull(rand, seeds); err != nil {
		return err
	}
	errs := make([]error, len(j))
	seal := func(i int) {
		job, seed := &j[i], seeds[i*share:][:share]
		job.out.kemOutput, job.out.ciphertext, errs[i] = suite.encryptWithLabel(bytes.NewReader(seed), job.public, label, context, job.plaintext)
		if bad == orNobody && errors.Is(errs[i], hpke.ErrKey) {
			job.out.kemOutput, job.out.ciphertext, errs[i] = suite.encryptToNobody(seed, label, context, len(job.plaintext))
		}
	}
	if each == nil {
		for i := range j {
			seal(i)
		}
	} else {
		each(len(j), seal)
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
