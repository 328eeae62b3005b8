// Package hpke is Hybrid Public Key Encryption (RFC 9180) in base mode with
// HKDF-SHA256.
//
// It exists beside crypto/hpke, its oracle in the tests, for three things that
// package does not offer: randomness as a value, a KEM id chosen by the
// caller, and a quarter of the cost per message. The arithmetic is circl's and
// the standard library's.
package hpke

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha3"
	"encoding/binary"
	"errors"
	"io"
	"math"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/conclave-chat/conclave/mls/internal/hkdf"
)

var (
	// ErrOpen says that a ciphertext or its encapsulated key is not what a
	// sender made for this key, info and additional data.
	ErrOpen = errors.New("hpke: ciphertext does not open")
	// ErrKey says that a key is not valid for its KEM: wrong length, not on
	// the curve, or of low order.
	ErrKey = errors.New("hpke: invalid key")
	// ErrKEM says that the KEM value is none of X25519, P256 and XWing.
	ErrKEM = errors.New("hpke: unknown KEM")

	errAEAD  = errors.New("hpke: unknown AEAD")
	errLimit = errors.New("hpke: too many messages in one context")
)

// An AEAD is an AEAD id of RFC 9180, Section 7.3.
type AEAD uint16

// The AEADs of this package.
const (
	AES128GCM        AEAD = 0x0001
	ChaCha20Poly1305 AEAD = 0x0003
)

func (a AEAD) keySize() int {
	if a == AES128GCM {
		return 16
	}
	return chacha20poly1305.KeySize
}

const nonceSize = 12

func (a AEAD) new(key []byte) (cipher.AEAD, error) {
	switch a {
	case AES128GCM:
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		return cipher.NewGCM(block)
	case ChaCha20Poly1305:
		return chacha20poly1305.New(key)
	}
	return nil, errAEAD
}

// A Suite is a choice of algorithms. The KDF is always HKDF-SHA256.
type Suite struct {
	KEM  KEM
	AEAD AEAD
}

// Seal encrypts one message to a public key: SealBase of RFC 9180, Section 6.1.
func (s Suite) Seal(rand io.Reader, public, info, aad, plaintext []byte) (enc, ciphertext []byte, err error) {
	enc, c, err := s.SetupSender(rand, public, info)
	if err != nil {
		return nil, nil, err
	}
	ciphertext, err = c.Seal(aad, plaintext)
	return enc, ciphertext, err
}

// Open is the inverse of Seal. The public key is the one that belongs to
// private; the caller has it anyway, and computing it doubles the cost.
func (s Suite) Open(private, public, enc, info, aad, ciphertext []byte) ([]byte, error) {
	c, err := s.SetupRecipient(private, public, enc, info)
	if err != nil {
		return nil, err
	}
	return c.Open(aad, ciphertext)
}

// A Context encrypts or decrypts a sequence of messages and exports secrets.
// It is used by one goroutine at a time, in one direction.
type Context struct {
	aead     cipher.AEAD
	suiteID  [10]byte
	nonce    [nonceSize]byte
	sequence uint64
	exporter [hkdf.Size]byte
}

// SetupSender starts a context towards a public key: SetupBaseS. The recipient
// needs enc.
func (s Suite) SetupSender(rand io.Reader, public, info []byte) (enc []byte, c *Context, err error) {
	shared, enc, err := s.KEM.encapsulate(rand, public)
	if err != nil {
		return nil, nil, err
	}
	c, err = s.keySchedule(shared, info)
	return enc, c, err
}

// SetupRecipient starts the context that a sender opened with enc: SetupBaseR.
func (s Suite) SetupRecipient(private, public, enc, info []byte) (*Context, error) {
	shared, err := s.KEM.decapsulate(private, public, enc)
	if err != nil {
		return nil, err
	}
	return s.keySchedule(shared, info)
}

// keySchedule is KeySchedule in mode_base. See RFC 9180, Section 5.1.
func (s Suite) keySchedule(shared, info []byte) (*Context, error) {
	c := new(Context)
	copy(c.suiteID[:], "HPKE")
	binary.BigEndian.PutUint16(c.suiteID[4:], s.KEM.id)
	binary.BigEndian.PutUint16(c.suiteID[6:], 0x0001) // HKDF-SHA256
	binary.BigEndian.PutUint16(c.suiteID[8:], uint16(s.AEAD))
	id := c.suiteID[:]

	pskIDHash := labeledExtract(id, nil, "psk_id_hash", nil)
	infoHash := labeledExtract(id, nil, "info_hash", info)
	var context [1 + 2*hkdf.Size]byte // mode_base is 0
	copy(context[1:], pskIDHash[:])
	copy(context[1+hkdf.Size:], infoHash[:])
	secret := labeledExtract(id, shared, "secret", nil)

	key := labeledExpand(id, secret[:], "key", context[:], s.AEAD.keySize())
	copy(c.nonce[:], labeledExpand(id, secret[:], "base_nonce", context[:], nonceSize))
	copy(c.exporter[:], labeledExpand(id, secret[:], "exp", context[:], hkdf.Size))
	var err error
	c.aead, err = s.AEAD.new(key)
	return c, err
}

// Seal encrypts the next message.
func (c *Context) Seal(aad, plaintext []byte) ([]byte, error) {
	if c.sequence == math.MaxUint64 {
		return nil, errLimit
	}
	nonce := c.messageNonce()
	c.sequence++
	return c.aead.Seal(nil, nonce[:], plaintext, aad), nil
}

// Open decrypts the next message. A message that does not open leaves the
// context where it was.
func (c *Context) Open(aad, ciphertext []byte) ([]byte, error) {
	if c.sequence == math.MaxUint64 {
		return nil, errLimit
	}
	nonce := c.messageNonce()
	plaintext, err := c.aead.Open(nil, nonce[:], ciphertext, aad)
	if err != nil {
		return nil, ErrOpen
	}
	c.sequence++
	return plaintext, nil
}

// messageNonce is ComputeNonce. See RFC 9180, Section 5.2.
func (c *Context) messageNonce() [nonceSize]byte {
	nonce := c.nonce
	tail := nonce[nonceSize-8:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^c.sequence)
	return nonce
}

// Export derives n bytes, at most 8160, that both sides share. See RFC 9180,
// Section 5.3.
func (c *Context) Export(context []byte, n int) []byte {
	return labeledExpand(c.suiteID[:], c.exporter[:], "sec", context, n)
}

const version = "HPKE-v1"

// labeledExtract is LabeledExtract. See RFC 9180, Section 4.
func labeledExtract(suiteID, salt []byte, label string, ikm []byte) [hkdf.Size]byte {
	var buf [64]byte
	prefix := append(append(append(buf[:0], version...), suiteID...), label...)
	return hkdf.Extract(salt, prefix, ikm)
}

// labeledExpand is LabeledExpand. See RFC 9180, Section 4.
func labeledExpand(suiteID, prk []byte, label string, info []byte, n int) []byte {
	var buf [256]byte
	b := binary.BigEndian.AppendUint16(buf[:0], uint16(n))
	b = append(append(append(append(b, version...), suiteID...), label...), info...)
	out := make([]byte, n)
	hkdf.Expand(out, prk, b)
	return out
}

// shakeLabeledDerive is LabeledDerive of draft-ietf-hpke-pq with SHAKE256, the
// one place where a KEM's own KDF is not HKDF.
func shakeLabeledDerive(suiteID, ikm []byte, label string, context []byte, n int) []byte {
	b := append(append(append([]byte(nil), ikm...), version...), suiteID...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(label)))
	b = append(b, label...)
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	b = append(b, context...)
	return sha3.SumSHAKE256(b, n)
}
