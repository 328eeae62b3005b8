// Package hkdf is HMAC and HKDF (RFC 2104, RFC 5869) over SHA-256 for the
// short inputs of HPKE and MLS. It hashes whole messages from stack buffers:
// an expansion of 32 bytes costs two or three hashes and no allocation, where
// crypto/hkdf costs ten.
package hkdf

import "crypto/sha256"

// Size is the length of a MAC and of a pseudorandom key, Nh in RFC 9420.
const Size = sha256.Size

// maxStack is the longest message hashed from the stack, with its key block.
const maxStack = 512

// MAC is HMAC-SHA256 of the concatenation of parts.
func MAC(key []byte, parts ...[]byte) [Size]byte {
	var pad [sha256.BlockSize]byte
	if len(key) > len(pad) {
		h := sha256.Sum256(key)
		key = h[:]
	}
	copy(pad[:], key)

	for i := range pad {
		pad[i] ^= 0x36
	}
	inner := sum(pad[:], parts)
	for i := range pad {
		pad[i] ^= 0x36 ^ 0x5c
	}
	var outer [sha256.BlockSize + Size]byte
	copy(outer[:], pad[:])
	copy(outer[sha256.BlockSize:], inner[:])
	return sha256.Sum256(outer[:])
}

// sum hashes block followed by parts.
func sum(block []byte, parts [][]byte) [Size]byte {
	n := len(block)
	for _, p := range parts {
		n += len(p)
	}
	if n <= maxStack {
		var buf [maxStack]byte
		b := append(buf[:0], block...)
		for _, p := range parts {
			b = append(b, p...)
		}
		return sha256.Sum256(b)
	}
	h := sha256.New()
	h.Write(block)
	for _, p := range parts {
		h.Write(p)
	}
	var out [Size]byte
	h.Sum(out[:0])
	return out
}

// Extract is HKDF-Extract. The input keying material is the concatenation of
// parts.
func Extract(salt []byte, parts ...[]byte) [Size]byte { return MAC(salt, parts...) }

// Expand fills out, at most 255*Size bytes, with HKDF-Expand of prk and info.
func Expand(out, prk, info []byte) {
	if len(out) > 255*Size {
		panic("hkdf: output longer than 255 blocks")
	}
	var block [Size]byte
	previous := block[:0]
	for counter := byte(1); len(out) > 0; counter++ {
		block = MAC(prk, previous, info, []byte{counter})
		previous = block[:]
		out = out[copy(out, previous):]
	}
}
