package persistence

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
)

// formatVersion leads every sealed value and is part of what is authenticated.
const formatVersion = 1

// A sealed value is
//
//	version (1) | nonce (12, random) | AES-256-GCM ciphertext | tag (16)
//
// with version and the row's full key as additional data, so that a value stays
// where it was written: under its installation, type and suffix. An older value
// of the same row would pass; that a whole store went back is the adapter's to
// see. Random nonces allow 2^32 values under one key, which at ten rows a second
// is thirteen years.
const sealOverhead = 1 + 12 + 16

// A box seals and opens values under one key.
type box struct{ aead cipher.AEAD }

func newBox(key *[32]byte) box {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // 32 bytes are a key
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // AES has GCM's block size
	}
	return box{aead}
}

// seal returns the sealed value of the row at key. One allocation holds the
// additional data and, behind it, the value.
func (b box) seal(key, plaintext []byte) []byte {
	aad := additional(key, len(plaintext)+sealOverhead)
	return b.aead.Seal(append(aad, formatVersion)[len(aad):], nil, plaintext, aad)
}

// open returns the plaintext, or ErrFormatTooNew or ErrDamaged.
func (b box) open(key, value []byte) ([]byte, error) {
	switch {
	case len(value) < sealOverhead:
		return nil, fmt.Errorf("%w: sealed value of %d bytes", ErrDamaged, len(value))
	case value[0] > formatVersion:
		return nil, fmt.Errorf("%w: record version %d", ErrFormatTooNew, value[0])
	case value[0] != formatVersion:
		return nil, fmt.Errorf("%w: record version %d", ErrDamaged, value[0])
	}
	aad := additional(key, len(value))
	plaintext, err := b.aead.Open(aad[len(aad):], nil, value[1:], aad)
	if err != nil {
		return nil, fmt.Errorf("%w: record does not open", ErrDamaged)
	}
	return plaintext, nil
}

// additional returns the additional data of the row at key, with room behind.
func additional(key []byte, room int) []byte {
	aad := make([]byte, 0, len(key)+1+room)
	return append(append(aad, key...), formatVersion)
}

// sharedBox returns the box of a shared record's secret.
func sharedBox(secret *[32]byte) box {
	key, err := hkdf.Key(sha256.New, secret[:], nil, "conclave shared record", 32)
	if err != nil {
		panic(err) // 32 bytes are within HKDF's limit
	}
	return newBox((*[32]byte)(key))
}
