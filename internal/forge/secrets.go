package forge

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"math/bits"

	"github.com/conclave-chat/conclave/mls"
)

// What a member has of an epoch, read from its stored rows, and the key schedule of
// RFC 9420, Section 8, for the suite of this profile.

const (
	keySize   = 32 // of ChaCha20-Poly1305
	nonceSize = 12
	hashSize  = 32 // of SHA-256
)

// secrets are one epoch's.
type secrets struct {
	context, interim []byte
	senderData, init []byte
	ratchets         ratchetTree
}

// secretsOf reads the current epoch of a member.
func secretsOf(g *mls.Group) (s secrets) {
	number := u64(nil, g.Epoch())
	for _, row := range g.Rows(nil) {
		if !bytes.HasPrefix(row.Key, number) {
			continue
		}
		r := &reader{row.Value}
		switch row.Kind {
		case mls.RowEpoch: // format, context, interim transcript hash, and Table 4
			r.u8()
			s.context, s.interim, s.senderData = r.vector(), r.vector(), r.vector()
			r.vector()    // exporter
			r.vector()    // external
			for range 4 { // confirmation, membership, resumption, authentication
				r.vector()
			}
			s.init = r.vector()
		case mls.RowMember: // format, id of the state, own leaf, trail, and the secret tree
			r.take(1 + hashSize + 4)
			r.vector()
			s.ratchets = ratchetTree(r.vector())
		}
	}
	return s
}

func expand(secret []byte, label string, context []byte, n int) []byte {
	info := vector(vector(u16(nil, uint16(n)), []byte("MLS 1.0 "+label)), context)
	out, err := hkdf.Expand(sha256.New, secret, string(info), n)
	if err != nil {
		panic(err) // n is small
	}
	return out
}

func extract(salt, ikm []byte) []byte {
	out, err := hkdf.Extract(sha256.New, ikm, salt)
	if err != nil {
		panic(err) // only of FIPS mode
	}
	return out
}

func derive(secret []byte, label string) []byte { return expand(secret, label, nil, hashSize) }

func mac(key, data []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(data)
	return h.Sum(nil)
}

// confirmation is the tag of a commit that leads from an epoch's init secret to a
// context.
func confirmation(init, commit, psk, context, confirmed []byte) (tag []byte) {
	joiner := expand(extract(init, commit), "joiner", context, hashSize)
	epoch := expand(extract(joiner, psk), "epoch", context, hashSize)
	return mac(derive(epoch, "confirm"), confirmed)
}

// A ratchetTree is a secret tree as it is stored: nodes in preorder. An insider's has
// the ratchets of all members (Section 9).
type ratchetTree []byte

const (
	nodeInner = iota
	nodeSecret
	nodeLeaf
)

// key is the key and nonce of a leaf's generation. ok is false where it was used
// already: then it is gone from the tree.
func (t ratchetTree) key(leaf uint32, handshake bool, generation uint32) (key, nonce []byte, ok bool) {
	r := &reader{t}
	r.u16()
	depth := int(r.u8())
	if bits.Len32(leaf) > depth {
		leaf = 0
	}
	var secret []byte
	for level := depth; ; level-- {
		switch r.u8() {
		case nodeInner:
			if leaf>>(level-1)&1 == 1 {
				skipNode(r)
			}
			continue
		case nodeSecret:
			secret = r.take(hashSize)
			for ; level > 0; level-- {
				side := "left"
				if leaf>>(level-1)&1 == 1 {
					side = "right"
				}
				secret = expand(secret, "tree", []byte(side), hashSize)
			}
			label := "application"
			if handshake {
				label = "handshake"
			}
			return advance(derive(secret, label), 0, generation)
		}
		if !handshake {
			skipRatchet(r)
		}
		next := r.u32()
		return advance(r.take(hashSize), next, generation)
	}
}

// advance derives a generation's key from the ratchet's next secret (Section 9.1).
func advance(secret []byte, next, generation uint32) (key, nonce []byte, ok bool) {
	if generation < next {
		return nil, nil, false
	}
	for ; next < generation; next++ {
		secret = expand(secret, "secret", u32(nil, next), hashSize)
	}
	return expand(secret, "key", u32(nil, generation), keySize), expand(secret, "nonce", u32(nil, generation), nonceSize), true
}

func skipNode(r *reader) {
	switch r.u8() {
	case nodeInner:
		skipNode(r)
		skipNode(r)
	case nodeSecret:
		r.take(hashSize)
	default:
		skipRatchet(r)
		skipRatchet(r)
	}
}

func skipRatchet(r *reader) {
	r.take(4 + hashSize)
	r.take(int(r.u8()) * (4 + keySize + nonceSize))
}
