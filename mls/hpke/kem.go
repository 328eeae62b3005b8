package hpke

import (
	"crypto/ecdh"
	"fmt"
	"io"

	"github.com/cloudflare/circl/dh/x25519"
	"github.com/cloudflare/circl/kem/xwing"

	"github.com/conclave-chat/conclave/mls/internal/hkdf"
)

// A KEM is a key encapsulation mechanism: X25519, P256 or XWing(id). Keys are
// byte strings in the encodings of RFC 9180, Section 7.1.1, and, for X-Wing,
// draft-connolly-cfrg-xwing-kem: the private key is the 32-byte seed.
type KEM struct {
	id      uint16
	scheme  scheme
	private int // Nsk
	public  int // Npk
	enc     int // Nenc
}

type scheme uint8

const (
	schemeX25519 scheme = iota + 1
	schemeP256
	schemeXWing
)

// The KEMs of RFC 9180 with HKDF-SHA256.
var (
	X25519 = KEM{id: 0x0020, scheme: schemeX25519, private: 32, public: 32, enc: 32}
	P256   = KEM{id: 0x0010, scheme: schemeP256, private: 32, public: 65, enc: 65}
)

// XWing is the hybrid of ML-KEM-768 and X25519 under the given KEM id: 0x647a
// as registered today, or 0x004D as deployed from an earlier draft. The id is
// mixed into every key, so the two do not interoperate.
func XWing(id uint16) KEM {
	return KEM{
		id: id, scheme: schemeXWing,
		private: xwing.PrivateKeySize, public: xwing.PublicKeySize, enc: xwing.CiphertextSize,
	}
}

// suiteID names the KEM in its own derivations. See RFC 9180, Section 4.1.
func (k KEM) suiteID() []byte { return []byte{'K', 'E', 'M', byte(k.id >> 8), byte(k.id)} }

// GenerateKey makes a key pair from random bytes.
func (k KEM) GenerateKey(rand io.Reader) (private, public []byte, err error) {
	seed := make([]byte, k.private)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return nil, nil, fmt.Errorf("hpke: generate key: %w", err)
	}
	if k.scheme == schemeP256 {
		// Not every string of 32 bytes is a scalar; every one is a seed.
		return k.DeriveKeyPair(seed)
	}
	public, err = k.PublicKey(seed)
	return seed, public, err
}

// DeriveKeyPair makes a key pair from ikm, at least 32 bytes of entropy. See
// RFC 9180, Section 7.1.3, and for X-Wing draft-ietf-hpke-pq.
func (k KEM) DeriveKeyPair(ikm []byte) (private, public []byte, err error) {
	switch k.scheme {
	case schemeX25519:
		prk := labeledExtract(k.suiteID(), nil, "dkp_prk", ikm)
		private = labeledExpand(k.suiteID(), prk[:], "sk", nil, k.private)
		public, err = k.PublicKey(private)
		return private, public, err
	case schemeP256:
		prk := labeledExtract(k.suiteID(), nil, "dkp_prk", ikm)
		for counter := range 256 {
			private = labeledExpand(k.suiteID(), prk[:], "candidate", []byte{byte(counter)}, k.private)
			if public, err = k.PublicKey(private); err == nil {
				return private, public, nil
			}
		}
		return nil, nil, ErrKey // Probability 2^-8192.
	case schemeXWing:
		private = shakeLabeledDerive(k.suiteID(), ikm, "DeriveKeyPair", nil, k.private)
		public, err = k.PublicKey(private)
		return private, public, err
	}
	return nil, nil, ErrKEM
}

// PublicKey computes the public key of a private key.
func (k KEM) PublicKey(private []byte) ([]byte, error) {
	if len(private) != k.private {
		return nil, ErrKey
	}
	switch k.scheme {
	case schemeX25519:
		var pk x25519.Key
		x25519.KeyGen(&pk, (*x25519.Key)(private))
		return pk[:], nil
	case schemeP256:
		sk, err := ecdh.P256().NewPrivateKey(private)
		if err != nil {
			return nil, ErrKey
		}
		return sk.PublicKey().Bytes(), nil
	case schemeXWing:
		_, pk := xwing.DeriveKeyPair(private)
		public := make([]byte, k.public)
		pk.Pack(public)
		return public, nil
	}
	return nil, ErrKEM
}

// CheckPublicKey reports whether public can be encrypted to, as far as that
// shows without a Diffie-Hellman computation: length and, for P-256, the curve
// equation.
func (k KEM) CheckPublicKey(public []byte) error {
	if len(public) != k.public {
		return ErrKey
	}
	if k.scheme == schemeP256 {
		if _, err := ecdh.P256().NewPublicKey(public); err != nil {
			return ErrKey
		}
	}
	return nil
}

// TryPublicKey reports whether public can be encrypted to. Beyond CheckPublicKey
// it refuses X25519 keys of low order, and for X-Wing what is no ML-KEM key; it
// costs about as much as half an encryption.
func (k KEM) TryPublicKey(public []byte) error {
	if err := k.CheckPublicKey(public); err != nil {
		return err
	}
	switch k.scheme {
	case schemeX25519:
		_, err := k.diffieHellman(make([]byte, k.private), public) // any scalar shows the order
		return err
	case schemeXWing:
		if new(xwing.PublicKey).Unpack(public) != nil {
			return ErrKey
		}
	}
	return nil
}

// encapsulate is Encap. See RFC 9180, Section 4.1.
func (k KEM) encapsulate(rand io.Reader, public []byte) (shared, enc []byte, err error) {
	if len(public) != k.public {
		return nil, nil, ErrKey
	}
	if k.scheme == schemeXWing {
		var seed [xwing.EncapsulationSeedSize]byte
		if _, err := io.ReadFull(rand, seed[:]); err != nil {
			return nil, nil, fmt.Errorf("hpke: encapsulate: %w", err)
		}
		shared, enc, err = xwing.Encapsulate(public, seed[:])
		if err != nil {
			return nil, nil, ErrKey
		}
		return shared, enc, nil
	}
	ephemeral, enc, err := k.GenerateKey(rand)
	if err != nil {
		return nil, nil, err
	}
	dh, err := k.diffieHellman(ephemeral, public)
	if err != nil {
		return nil, nil, err
	}
	return k.extractAndExpand(dh, enc, public), enc, nil
}

// decapsulate is Decap. See RFC 9180, Section 4.1.
func (k KEM) decapsulate(private, public, enc []byte) ([]byte, error) {
	if len(private) != k.private || len(public) != k.public {
		return nil, ErrKey
	}
	if len(enc) != k.enc {
		return nil, ErrOpen
	}
	if k.scheme == schemeXWing {
		return xwing.Decapsulate(enc, private), nil
	}
	dh, err := k.diffieHellman(private, enc)
	if err != nil {
		return nil, ErrOpen
	}
	return k.extractAndExpand(dh, enc, public), nil
}

// diffieHellman refuses a public key of low order and one that is not on the
// curve. See RFC 9180, Section 7.1.4.
func (k KEM) diffieHellman(private, public []byte) ([]byte, error) {
	switch k.scheme {
	case schemeX25519:
		var shared x25519.Key
		if !x25519.Shared(&shared, (*x25519.Key)(private), (*x25519.Key)(public)) {
			return nil, ErrKey
		}
		return shared[:], nil
	case schemeP256:
		sk, err := ecdh.P256().NewPrivateKey(private)
		if err != nil {
			return nil, ErrKey
		}
		pk, err := ecdh.P256().NewPublicKey(public)
		if err != nil {
			return nil, ErrKey
		}
		return sk.ECDH(pk)
	}
	return nil, ErrKEM
}

func (k KEM) extractAndExpand(dh, enc, public []byte) []byte {
	var buf [2 * 65]byte
	context := append(append(buf[:0], enc...), public...)
	prk := labeledExtract(k.suiteID(), nil, "eae_prk", dh)
	return labeledExpand(k.suiteID(), prk[:], "shared_secret", context, hkdf.Size)
}
