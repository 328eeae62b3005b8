package mls

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/conclave-chat/conclave/mls/internal/hkdf"
)

// Cryptographic objects. See RFC 9420, Section 5 and Section 8.

// A secret is key material. However it is printed, it reads [redacted]. (fmt
// does not ask unexported fields; what holds one has a Format of its own.)
type secret []byte

const redacted = "[redacted]"

func (secret) String() string               { return redacted }
func (secret) GoString() string             { return redacted }
func (secret) Format(f fmt.State, _ rune)   { io.WriteString(f, redacted) }
func (secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// labelPrefix starts every label of RFC 9420 but those of RefHash, which spell
// it out.
const labelPrefix = "MLS 1.0 "

// appendLabel appends opaque label<V> with the prefix.
func appendLabel(b []byte, label string) []byte {
	b = appendLength(b, len(labelPrefix)+len(label))
	return append(append(b, labelPrefix...), label...)
}

// hash is Hash of the concatenation of parts.
func (s CipherSuite) hash(parts ...[]byte) []byte {
	if len(parts) == 1 {
		h := sha256.Sum256(parts[0])
		return h[:]
	}
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// mac is MAC(key, data).
func (s CipherSuite) mac(key, data []byte) []byte {
	m := hkdf.MAC(key, data)
	return m[:]
}

// equalTags compares two MACs or hashes in constant time. Tags of different
// length differ, however much of them is equal.
func equalTags(a, b []byte) bool {
	return subtle.ConstantTimeCompare(a, b) == 1
}

// extract is KDF.Extract.
func (s CipherSuite) extract(salt, ikm []byte) secret {
	prk := hkdf.Extract(salt, ikm)
	return prk[:]
}

// expandWithLabel is ExpandWithLabel(sec, label, context, n).
func (s CipherSuite) expandWithLabel(sec secret, label string, context []byte, n int) secret {
	out := make(secret, n)
	s.expandInto(out, sec, label, context)
	return out
}

// expandInto is ExpandWithLabel to the length of out, which may not overlap
// context.
func (s CipherSuite) expandInto(out, sec []byte, label string, context []byte) {
	var buf [128]byte // KDFLabel; a longer context moves it to the heap.
	b := appendU16(buf[:0], uint16(len(out)))
	b = appendLabel(b, label)
	b = appendVector(b, context)
	hkdf.Expand(out, sec, b)
}

// deriveSecret is DeriveSecret(sec, label).
func (s CipherSuite) deriveSecret(sec secret, label string) secret {
	return s.expandWithLabel(sec, label, nil, hashSize)
}

// deriveTreeSecret is DeriveTreeSecret to the length of out. See RFC 9420,
// Section 9.1.
func (s CipherSuite) deriveTreeSecret(out, sec []byte, label string, generation uint32) {
	context := [4]byte{byte(generation >> 24), byte(generation >> 16), byte(generation >> 8), byte(generation)}
	s.expandInto(out, sec, label, context[:])
}

// refHash is RefHash(label, value). See RFC 9420, Section 5.2.
func (s CipherSuite) refHash(label string, value []byte) []byte {
	var head [64]byte
	b := appendLength(head[:0], len(label))
	b = append(b, label...)
	b = appendLength(b, len(value))
	return s.hash(b, value)
}

// The labels of RefHash.
const (
	labelKeyPackageRef = "MLS 1.0 KeyPackage Reference"
	labelProposalRef   = "MLS 1.0 Proposal Reference"
)

// The labels of signatures. See RFC 9420, Section 17.6.
const (
	labelFramedContent = "FramedContentTBS"
	labelLeafNode      = "LeafNodeTBS"
	labelKeyPackage    = "KeyPackageTBS"
	labelGroupInfo     = "GroupInfoTBS"
)

// signContent is SignContent, and EncryptContext, which has the same form. See
// RFC 9420, Sections 5.1.2 and 5.1.3.
func signContent(label string, content []byte) []byte {
	b := make([]byte, 0, 8+len(labelPrefix)+len(label)+len(content))
	return appendVector(appendLabel(b, label), content)
}

// A Signer is a member's signature key pair for one cipher suite's scheme.
type Signer struct {
	suite   CipherSuite
	private secret // Ed25519 seed or P-256 scalar
	public  []byte
	key     crypto.Signer
}

// NewSigner reads a private key: the 32-byte Ed25519 seed or P-256 scalar.
func NewSigner(suite CipherSuite, private []byte) (*Signer, error) {
	if err := suite.supported(); err != nil {
		return nil, err
	}
	s := &Signer{suite: suite, private: append(secret(nil), private...)}
	if suite.ecdsa() {
		key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), private)
		if err != nil {
			return nil, errSignatureKey
		}
		public, err := key.PublicKey.Bytes()
		if err != nil {
			return nil, errSignatureKey
		}
		s.key, s.public = key, public
		return s, nil
	}
	if len(private) != ed25519.SeedSize {
		return nil, errSignatureKey
	}
	key := ed25519.NewKeyFromSeed(private)
	s.key, s.public = key, key.Public().(ed25519.PublicKey)
	return s, nil
}

// GenerateSigner makes a signature key pair.
func GenerateSigner(suite CipherSuite, rand io.Reader) (*Signer, error) {
	private := make([]byte, ed25519.SeedSize)
	for {
		if _, err := io.ReadFull(rand, private); err != nil {
			return nil, fmt.Errorf("mls: generate signer: %w", err)
		}
		s, err := NewSigner(suite, private)
		if errors.Is(err, errSignatureKey) {
			continue // Zero or not below the order of P-256: probability 2^-32.
		}
		return s, err
	}
}

// Public returns the signature key as it stands in leaf nodes.
func (s *Signer) Public() []byte { return append([]byte(nil), s.public...) }

// Private returns the private key in the form that NewSigner reads.
func (s *Signer) Private() []byte { return append([]byte(nil), s.private...) }

// Suite returns the cipher suite the signer was made for.
func (s *Signer) Suite() CipherSuite { return s.suite }

// Format prints the public key only, however the signer is printed.
func (s Signer) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "Signer(%x)", s.public) }

// signWithLabel is SignWithLabel. Both schemes sign deterministically.
func (s CipherSuite) signWithLabel(signer *Signer, label string, content []byte) ([]byte, error) {
	if signer.suite.ecdsa() != s.ecdsa() {
		return nil, errSignerSuite
	}
	message, hash := signContent(label, content), crypto.Hash(0)
	if s.ecdsa() {
		message, hash = s.hash(message), crypto.SHA256
	}
	return signer.key.Sign(nil, message, hash)
}

// verifyWithLabel is VerifyWithLabel. Its verdicts are those of libcrux, which
// libxmtp uses: members whose libraries disagree on one signature no longer share a
// group. The standard library says the same of every key that is encoded as RFC
// 8032 has it; libcrux refuses all others.
func (s CipherSuite) verifyWithLabel(public []byte, label string, content, sig []byte) error {
	message := signContent(label, content)
	if s.ecdsa() {
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), public)
		if err != nil {
			return errSignatureKey
		}
		if !ecdsa.VerifyASN1(key, s.hash(message), sig) {
			return errSignature
		}
		return nil
	}
	if len(public) != ed25519.PublicKeySize || !canonicalPoint(public) {
		return errSignatureKey
	}
	if !ed25519.Verify(public, message, sig) {
		return errSignature
	}
	return nil
}

// canonicalPoint reports whether an Ed25519 public key is encoded as RFC 8032,
// Section 5.1.3, has it: y is below 2^255-19, and the sign of an x that is zero,
// which belongs to y = 1 and y = -1, is not set.
func canonicalPoint(public []byte) bool {
	sign, high := public[31]>>7, public[31]&0x7f
	all := func(v byte) bool {
		return !slices.ContainsFunc(public[1:31], func(b byte) bool { return b != v })
	}
	switch {
	case high == 0x7f && public[0] >= 0xec && all(0xff):
		return public[0] == 0xec && sign == 0 // y = -1 is the largest
	case high == 0 && public[0] == 1 && all(0):
		return sign == 0
	}
	return true
}

// encryptWithLabel is EncryptWithLabel.
func (s CipherSuite) encryptWithLabel(rand io.Reader, public []byte, label string, context, plaintext []byte) (kemOutput, ciphertext []byte, err error) {
	kemOutput, ciphertext, err = s.hpke().Seal(rand, public, signContent(label, context), nil, plaintext)
	if err != nil {
		return nil, nil, fmt.Errorf("mls: encrypt to %s key: %w", label, err)
	}
	return kemOutput, ciphertext, nil
}

// encryptToNobody makes what looks like a ciphertext of n bytes: zeros, encrypted to
// a key that nobody has.
func (s CipherSuite) encryptToNobody(seed []byte, label string, context []byte, n int) (kemOutput, ciphertext []byte, err error) {
	_, public, err := s.deriveKeyPair(s.deriveSecret(seed, "nobody"))
	if err != nil {
		return nil, nil, err
	}
	return s.encryptWithLabel(bytes.NewReader(seed), public, label, context, make([]byte, n))
}

// decryptWithLabel is DecryptWithLabel. The public key is private's own.
func (s CipherSuite) decryptWithLabel(private secret, public []byte, label string, context, kemOutput, ciphertext []byte) ([]byte, error) {
	plaintext, err := s.hpke().Open(private, public, kemOutput, signContent(label, context), nil, ciphertext)
	if err != nil {
		return nil, errDecrypt
	}
	return plaintext, nil
}

// deriveKeyPair is KEM.DeriveKeyPair.
func (s CipherSuite) deriveKeyPair(ikm []byte) (private secret, public []byte, err error) {
	return s.hpke().KEM.DeriveKeyPair(ikm)
}

// generateKeyPair makes a fresh HPKE key pair.
func (s CipherSuite) generateKeyPair(rand io.Reader) (private secret, public []byte, err error) {
	return s.hpke().KEM.GenerateKey(rand)
}

// checkEncryptionKey refuses an HPKE public key of the wrong length or, on
// P-256, off the curve.
func (s CipherSuite) checkEncryptionKey(public []byte) error {
	if s.hpke().KEM.CheckPublicKey(public) != nil {
		return errEncryptionKey
	}
	return nil
}

// sealAEAD is AEAD.Seal.
func (s CipherSuite) sealAEAD(key, nonce, aad, plaintext []byte) []byte {
	return s.aead(key).Seal(nil, nonce, plaintext, aad)
}

// openAEAD is AEAD.Open.
func (s CipherSuite) openAEAD(key, nonce, aad, ciphertext []byte) ([]byte, error) {
	plaintext, err := s.aead(key).Open(nil, nonce, ciphertext, aad)
	if err != nil {
		return nil, errDecrypt
	}
	return plaintext, nil
}
