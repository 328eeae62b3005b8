package mls

import (
	"bytes"
	"errors"
	"math"
	"testing"
)

const suite3 = MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519

func newTestSecretTree(leaves uint32) secretTree {
	return newSecretTree(suite3, bytes.Repeat([]byte{7}, hashSize), leaves)
}

// mustOpen takes a key and returns the tree without it.
func mustOpen(t testing.TB, tree secretTree, leaf LeafIndex, generation uint32) (secretTree, messageKey) {
	t.Helper()
	next, k, err := tree.open(leaf, applicationRatchet, generation)
	if err != nil {
		t.Fatalf("generation %d of leaf %d: %v", generation, leaf, err)
	}
	return next, k
}

func TestSenderAndReceiverDeriveTheSameKeys(t *testing.T) {
	for _, leaves := range []uint32{1, 2, 3, 5, 8} {
		sender, receiver := newTestSecretTree(leaves), newTestSecretTree(leaves)
		for leaf := range LeafIndex(leaves) {
			for _, kind := range []ratchetKind{handshakeRatchet, applicationRatchet} {
				for range 3 {
					var sent, received messageKey
					var err error
					sender, sent, err = sender.seal(leaf, kind)
					if err != nil {
						t.Fatal(err)
					}
					receiver, received, err = receiver.open(leaf, kind, sent.generation)
					if err != nil {
						t.Fatal(err)
					}
					if sent != received {
						t.Fatalf("leaf %d of %d, generation %d: keys differ", leaf, leaves, sent.generation)
					}
				}
			}
		}
	}
}

func TestTakingAKeyLeavesTheOldTreeAsItWas(t *testing.T) {
	before := newTestSecretTree(4)
	stored := before.append(nil)
	after, first := mustOpen(t, before, 2, 0)
	if !bytes.Equal(before.append(nil), stored) {
		t.Error("the old tree changed")
	}
	if _, again := mustOpen(t, before, 2, 0); again != first {
		t.Error("the old tree gives another key")
	}
	if _, _, err := after.open(2, applicationRatchet, 0); !errors.Is(err, ErrReplayed) {
		t.Errorf("a used key: %v, want ErrReplayed", err)
	}
}

// Section 9.2: with a key, the secrets it was derived from are gone.
func TestSecretsAboveAUsedLeafAreErased(t *testing.T) {
	tree := newTestSecretTree(4)
	root := bytes.Clone(tree.root.secret[:])
	leftChild := tree.child(tree.root.secret, "left").secret[:]
	tree, _ = mustOpen(t, tree, 0, 0)
	stored := tree.append(nil)
	if bytes.Contains(stored, root) || bytes.Contains(stored, leftChild) {
		t.Error("a parent's secret outlived its children's")
	}
	if tree.root.left.right.secret == nil || tree.root.right.secret == nil {
		t.Error("the secrets of the leaves not yet used are gone")
	}
}

func TestWindowOfFiveOutOfOrder(t *testing.T) {
	tree, _ := mustOpen(t, newTestSecretTree(2), 1, 10)
	for _, late := range []uint32{9, 5, 7, 6, 8} {
		tree, _ = mustOpen(t, tree, 1, late)
		if _, _, err := tree.open(1, applicationRatchet, late); !errors.Is(err, ErrReplayed) {
			t.Errorf("generation %d twice: %v, want ErrReplayed", late, err)
		}
	}
	for _, lost := range []uint32{4, 0} {
		if _, _, err := tree.open(1, applicationRatchet, lost); !errors.Is(err, ErrReplayed) {
			t.Errorf("generation %d, behind the window: %v, want ErrReplayed", lost, err)
		}
	}
}

func TestSkippedKeysLeaveTheWindowAsNewMessagesArrive(t *testing.T) {
	tree, _ := mustOpen(t, newTestSecretTree(2), 0, 1) // 0 is kept.
	for generation := uint32(2); generation <= 5; generation++ {
		tree, _ = mustOpen(t, tree, 0, generation)
	}
	mustOpen(t, tree, 0, 0)
	tree, _ = mustOpen(t, tree, 0, 6)
	if _, _, err := tree.open(0, applicationRatchet, 0); !errors.Is(err, ErrReplayed) {
		t.Errorf("generation 0 after 6: %v, want ErrReplayed", err)
	}
	if n := len(tree.ratchets(0)[applicationRatchet].skipped); n != 0 {
		t.Errorf("%d keys are kept, want none", n)
	}
}

func TestForwardWindow(t *testing.T) {
	tree := newTestSecretTree(2)
	if _, _, err := tree.open(0, applicationRatchet, maxForward+1); !errors.Is(err, ErrTooFarAhead) {
		t.Errorf("%d ahead: %v, want ErrTooFarAhead", maxForward+1, err)
	}
	tree, _ = mustOpen(t, tree, 0, maxForward)
	if n := len(tree.ratchets(0)[applicationRatchet].skipped); n != maxOutOfOrder {
		t.Errorf("%d keys are kept after the longest jump, want %d", n, maxOutOfOrder)
	}
	if _, _, err := tree.open(0, applicationRatchet, math.MaxUint32); !errors.Is(err, ErrTooFarAhead) {
		t.Errorf("the last generation: %v, want ErrTooFarAhead", err)
	}
}

func TestNoGenerationIsUsedAfterTheLast(t *testing.T) {
	tree, _ := mustOpen(t, newTestSecretTree(2), 0, 0)
	tree.ratchets(0)[applicationRatchet].next = maxGeneration
	if _, _, err := tree.seal(0, applicationRatchet); !errors.Is(err, ErrRatchetExhausted) {
		t.Errorf("seal: %v, want ErrRatchetExhausted", err)
	}
	if _, _, err := tree.open(0, applicationRatchet, maxGeneration); !errors.Is(err, ErrTooFarAhead) {
		t.Errorf("open: %v, want ErrTooFarAhead", err)
	}
}

func TestSkipToNeverGoesBack(t *testing.T) {
	tree, err := newTestSecretTree(2).skipTo(1, applicationRatchet, 2*maxForward)
	if err != nil {
		t.Fatal(err)
	}
	tree, err = tree.skipTo(1, applicationRatchet, 3)
	if err != nil {
		t.Fatal(err)
	}
	if n := tree.nextGeneration(1, applicationRatchet); n != 2*maxForward {
		t.Errorf("next generation = %d, want %d", n, 2*maxForward)
	}
	_, k, err := tree.seal(1, applicationRatchet)
	if err != nil || k.generation != 2*maxForward {
		t.Errorf("seal took generation %d (%v)", k.generation, err)
	}
	if n := tree.nextGeneration(1, handshakeRatchet); n != 0 {
		t.Errorf("the handshake ratchet moved to %d", n)
	}
}

func TestALeafOutsideTheTreeIsRefused(t *testing.T) {
	for _, leaf := range []LeafIndex{4, math.MaxUint32} {
		if _, _, err := newTestSecretTree(3).open(leaf, applicationRatchet, 0); !errors.Is(err, errSenderRange) {
			t.Errorf("leaf %d: %v", leaf, err)
		}
	}
}

func TestStoredTreeGoesOnWhereItWas(t *testing.T) {
	for _, s := range []CipherSuite{1, 3} {
		tree := newSecretTree(s, bytes.Repeat([]byte{9}, hashSize), 5)
		tree, _ = mustOpen(t, tree, 3, 4)
		tree, _ = mustOpen(t, tree, 0, 2)
		stored := tree.append(nil)
		var restored secretTree
		r := newReader(stored)
		restored.decode(r)
		if err := r.end(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(restored.append(nil), stored) {
			t.Error("the restored tree is stored differently")
		}
		for leaf := range LeafIndex(5) {
			for _, generation := range []uint32{1, 3, 5} {
				_, want, wantErr := tree.open(leaf, applicationRatchet, generation)
				_, got, err := restored.open(leaf, applicationRatchet, generation)
				if got != want || err != wantErr {
					t.Errorf("leaf %d, generation %d: %v, want %v", leaf, generation, err, wantErr)
				}
			}
		}
	}
}

func FuzzStoredSecretTree(f *testing.F) {
	tree, _ := mustOpen(f, newTestSecretTree(5), 3, 4)
	f.Add(tree.append(nil))
	f.Add([]byte{0, 3, 32, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var tree secretTree
		r := newReader(b)
		tree.decode(r)
		if r.end() != nil {
			return
		}
		if !bytes.Equal(tree.append(nil), b) {
			t.Errorf("decoded %x, encoded %x", b, tree.append(nil))
		}
		tree.open(0, applicationRatchet, 0)
	})
}

func BenchmarkSecretTreeOpen(b *testing.B) {
	tree := newTestSecretTree(400)
	b.ReportAllocs()
	for b.Loop() {
		var err error
		tree, _, err = tree.open(123, applicationRatchet, tree.nextGeneration(123, applicationRatchet))
		if err != nil {
			b.Fatal(err)
		}
	}
}
