package mls

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/conclave-chat/conclave/mls/hpke"
)

// A CipherSuite names the algorithms of a group. See RFC 9420, Section 5.1 and
// Section 17.1. The zero value is reserved and invalid.
type CipherSuite uint16

// The cipher suites of RFC 9420. The first three are supported; XMTP uses the
// third.
const (
	MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519        CipherSuite = 0x0001
	MLS_128_DHKEMP256_AES128GCM_SHA256_P256             CipherSuite = 0x0002
	MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519 CipherSuite = 0x0003
	MLS_256_DHKEMX448_AES256GCM_SHA512_Ed448            CipherSuite = 0x0004
	MLS_256_DHKEMP521_AES256GCM_SHA512_P521             CipherSuite = 0x0005
	MLS_256_DHKEMX448_CHACHA20POLY1305_SHA512_Ed448     CipherSuite = 0x0006
	MLS_256_DHKEMP384_AES256GCM_SHA384_P384             CipherSuite = 0x0007
)

// ErrUnsupportedSuite says that a structure names a cipher suite other than
// 0x0001, 0x0002 and 0x0003.
var ErrUnsupportedSuite = errors.New("mls: unsupported cipher suite")

var suiteNames = map[CipherSuite]string{
	MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519:        "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519",
	MLS_128_DHKEMP256_AES128GCM_SHA256_P256:             "MLS_128_DHKEMP256_AES128GCM_SHA256_P256",
	MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519: "MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519",
	MLS_256_DHKEMX448_AES256GCM_SHA512_Ed448:            "MLS_256_DHKEMX448_AES256GCM_SHA512_Ed448",
	MLS_256_DHKEMP521_AES256GCM_SHA512_P521:             "MLS_256_DHKEMP521_AES256GCM_SHA512_P521",
	MLS_256_DHKEMX448_CHACHA20POLY1305_SHA512_Ed448:     "MLS_256_DHKEMX448_CHACHA20POLY1305_SHA512_Ed448",
	MLS_256_DHKEMP384_AES256GCM_SHA384_P384:             "MLS_256_DHKEMP384_AES256GCM_SHA384_P384",
}

// String is the RFC's name of the suite, or its number.
func (s CipherSuite) String() string {
	if name, ok := suiteNames[s]; ok {
		return name
	}
	return fmt.Sprintf("CipherSuite(%#04x)", uint16(s))
}

// supported returns an error that names the suite if this package does not
// have its algorithms. Every structure with a suite in it is checked once,
// before any of the other methods is called.
func (s CipherSuite) supported() error {
	switch s {
	case MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
		MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
		MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519:
		return nil
	}
	return fmt.Errorf("%w: %v", ErrUnsupportedSuite, s)
}

// All supported suites hash with SHA-256 and use AEAD nonces of 12 bytes.
const (
	hashSize  = sha256.Size
	nonceSize = chacha20poly1305.NonceSize
)

// hashSize is KDF.Nh, also the length of hashes, MACs and secrets.
func (s CipherSuite) hashSize() int { return hashSize }

// keySize is AEAD.Nk.
func (s CipherSuite) keySize() int {
	if s == MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519 {
		return chacha20poly1305.KeySize
	}
	return 16
}

// ecdsa reports whether the suite signs with ECDSA on P-256 instead of Ed25519.
func (s CipherSuite) ecdsa() bool { return s == MLS_128_DHKEMP256_AES128GCM_SHA256_P256 }

func (s CipherSuite) hpke() hpke.Suite {
	switch s {
	case MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519:
		return hpke.Suite{KEM: hpke.X25519, AEAD: hpke.AES128GCM}
	case MLS_128_DHKEMP256_AES128GCM_SHA256_P256:
		return hpke.Suite{KEM: hpke.P256, AEAD: hpke.AES128GCM}
	default:
		return hpke.Suite{KEM: hpke.X25519, AEAD: hpke.ChaCha20Poly1305}
	}
}

// aead returns the suite's AEAD under a key of keySize bytes.
func (s CipherSuite) aead(key []byte) cipher.AEAD {
	if s == MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519 {
		a, err := chacha20poly1305.New(key)
		if err != nil {
			panic(err) // Keys come from our own derivations, never from a message.
		}
		return a
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	a, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return a
}
