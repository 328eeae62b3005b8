package mls

import (
	"bytes"
	"crypto/rand"
	"slices"
	"testing"
)

func TestVectorsTreeMath(t *testing.T) {
	type vector struct {
		Leaves  int          `json:"n_leaves"`
		Nodes   int          `json:"n_nodes"`
		Root    nodeIndex    `json:"root"`
		Left    []*nodeIndex `json:"left"`
		Right   []*nodeIndex `json:"right"`
		Parent  []*nodeIndex `json:"parent"`
		Sibling []*nodeIndex `json:"sibling"`
	}
	eachCase(t, "tree-math.json", func(t *testing.T, c vector) {
		depth := depthFor(c.Leaves)
		root := rootOf(depth)
		if root != c.Root || 2*int(root)+1 != c.Nodes {
			t.Fatalf("root %d of %d nodes, want %d of %d", root, 2*root+1, c.Root, c.Nodes)
		}
		check := func(what string, x nodeIndex, want *nodeIndex, exists bool, get func(nodeIndex) nodeIndex) {
			if (want != nil) != exists {
				t.Fatalf("%s of %d: exists is %v", what, x, exists)
			}
			if exists && get(x) != *want {
				t.Fatalf("%s of %d is %d, want %d", what, x, get(x), *want)
			}
		}
		for x := range nodeIndex(c.Nodes) {
			check("left", x, c.Left[x], !x.isLeaf(), nodeIndex.left)
			check("right", x, c.Right[x], !x.isLeaf(), nodeIndex.right)
			check("parent", x, c.Parent[x], x != root, nodeIndex.parent)
			check("sibling", x, c.Sibling[x], x != root, nodeIndex.sibling)
		}
	})
}

func TestVectorsTreeOperations(t *testing.T) {
	type vector struct {
		Suite      CipherSuite `json:"cipher_suite"`
		Before     hexBytes    `json:"tree_before"`
		Proposal   hexBytes    `json:"proposal"`
		Sender     LeafIndex   `json:"proposal_sender"`
		HashBefore hexBytes    `json:"tree_hash_before"`
		After      hexBytes    `json:"tree_after"`
		HashAfter  hexBytes    `json:"tree_hash_after"`
	}
	eachCase(t, "tree-operations.json", func(t *testing.T, c vector) {
		before := must(parseTree(c.Suite, c.Before))(t)
		equal(t, "tree hash before", before.hash(), c.HashBefore)
		r := newReader(c.Proposal)
		p := decodeProposal(r)
		if err := r.end(); err != nil {
			t.Fatal(err)
		}
		e := before.edit()
		switch p := p.(type) {
		case Add:
			e.add(p.KeyPackage.LeafNode)
		case Update:
			e.blank(c.Sender)
			e.place(c.Sender, p.LeafNode)
		case Remove:
			e.blank(p.Removed)
			e.truncate()
		}
		after := must(e.done())(t)
		equal(t, "tree after", after.append(nil), c.After)
		equal(t, "tree hash after", after.hash(), c.HashAfter)
		equal(t, "tree before, untouched", before.append(nil), c.Before)
		patched := must(before.patched(after.difference(before)))(t)
		equal(t, "tree after its difference was applied", patched.append(nil), c.After)
	})
}

func TestVectorsTreeValidation(t *testing.T) {
	type vector struct {
		Suite       CipherSuite   `json:"cipher_suite"`
		Tree        hexBytes      `json:"tree"`
		GroupID     hexBytes      `json:"group_id"`
		Resolutions [][]nodeIndex `json:"resolutions"`
		Hashes      []hexBytes    `json:"tree_hashes"`
	}
	eachCase(t, "tree-validation.json", func(t *testing.T, c vector) {
		tree := must(parseTree(c.Suite, c.Tree))(t)
		for x := range nodeIndex(len(c.Hashes)) {
			if got := tree.resolution(x); !slices.Equal(got, c.Resolutions[x]) {
				t.Errorf("resolution of %d: %v, want %v", x, got, c.Resolutions[x])
			}
			n := tree.at(x)
			equal(t, "tree hash", n.hash[:], c.Hashes[x])
		}
		if err := tree.validate(nil, c.GroupID, requirements{}); err != nil {
			t.Error(err)
		}
		equal(t, "tree encoded again", tree.append(nil), c.Tree)
	})
}

func TestVectorsTreeKEM(t *testing.T) {
	type vector struct {
		Suite      CipherSuite `json:"cipher_suite"`
		GroupID    hexBytes    `json:"group_id"`
		Epoch      uint64      `json:"epoch"`
		Transcript hexBytes    `json:"confirmed_transcript_hash"`
		Tree       hexBytes    `json:"ratchet_tree"`
		Leaves     []struct {
			Index       LeafIndex `json:"index"`
			Encryption  hexBytes  `json:"encryption_priv"`
			Signature   hexBytes  `json:"signature_priv"`
			PathSecrets []struct {
				Node   nodeIndex `json:"node"`
				Secret hexBytes  `json:"path_secret"`
			} `json:"path_secrets"`
		} `json:"leaves_private"`
		Paths []struct {
			Sender       LeafIndex  `json:"sender"`
			Path         hexBytes   `json:"update_path"`
			PathSecrets  []hexBytes `json:"path_secrets"`
			CommitSecret hexBytes   `json:"commit_secret"`
			HashAfter    hexBytes   `json:"tree_hash_after"`
		} `json:"update_paths"`
	}
	eachCase(t, "treekem.json", func(t *testing.T, c vector) {
		before := must(parseTree(c.Suite, c.Tree))(t)
		private := map[LeafIndex]*pathKeys{}
		signers := map[LeafIndex]*Signer{}
		for _, l := range c.Leaves {
			signers[l.Index] = must(NewSigner(c.Suite, l.Signature))(t)
			keys := &pathKeys{leaf: secret(l.Encryption)}
			for _, p := range l.PathSecrets {
				key, public, err := c.Suite.nodeKeyPair(secret(p.Secret))
				if err != nil {
					t.Fatal(err)
				}
				equal(t, "public key of a path secret", public, before.at(p.Node).parent.encryptionKey)
				keys.parents = append(keys.parents, nodeKey{p.Node, key})
			}
			private[l.Index] = keys
		}
		context := func(after *tree) []byte {
			return (&GroupContext{CipherSuite: c.Suite, GroupID: c.GroupID, Epoch: c.Epoch,
				TreeHash: after.hash(), ConfirmedTranscriptHash: c.Transcript}).append(nil)
		}
		for _, p := range c.Paths {
			r := newReader(p.Path)
			path := decodeUpdatePath(r)
			if err := r.end(); err != nil {
				t.Fatal(err)
			}
			after, steps, err := before.mergePath(p.Sender, path, nil)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "tree hash after", after.hash(), p.HashAfter)
			leaf, _ := before.member(p.Sender)
			template := *leaf
			fresh := must(before.newPath(rand.Reader, p.Sender, template, signers[p.Sender], c.GroupID))(t)
			sealed := must(fresh.seal(rand.Reader, nil, context(fresh.tree), nil))(t)
			remerged, _, err := before.mergePath(p.Sender, sealed, nil)
			if err != nil {
				t.Fatal(err)
			}
			for j, keys := range private {
				if j == p.Sender {
					continue
				}
				common := commonAncestor(j, p.Sender)
				at := slices.IndexFunc(steps, func(s pathStep) bool { return s.node == common })
				_, commitSecret, err := after.climb(steps[at:], secret(p.PathSecrets[j]))
				if err != nil {
					t.Fatal(err)
				}
				equal(t, "commit secret from the path secret", commitSecret, p.CommitSecret)
				_, commitSecret, err = after.openPath(j, keys, path, steps, nil, context(after))
				if err != nil {
					t.Fatal(err)
				}
				equal(t, "commit secret", commitSecret, p.CommitSecret)
				_, commitSecret, err = remerged.openPath(j, keys, sealed, steps, nil, context(remerged))
				if err != nil {
					t.Fatal(err)
				}
				equal(t, "commit secret of an own path", commitSecret, fresh.commitSecret)
			}
		}
	})
}

// must turns a result and an error into the result, or the end of the test.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func equal(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: %x, want %x", what, got, want)
	}
}
