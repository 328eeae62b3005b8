package mls

import (
	"bytes"
	"fmt"
	"io"
)

// A KeyPackage lets others add a client to a group while it is away. It is
// immutable. See RFC 9420, Section 10.
type KeyPackage struct {
	Version     uint16
	CipherSuite CipherSuite
	InitKey     []byte
	LeafNode    *LeafNode
	Extensions  Extensions
	Signature   []byte

	raw []byte // the encoding, without an MLSMessage around it
	tbs int    // raw[:tbs] is what precedes the signature
}

func decodeKeyPackage(r *reader) *KeyPackage {
	start := r.in
	k := &KeyPackage{
		Version:     r.u16(),
		CipherSuite: CipherSuite(r.u16()),
		InitKey:     r.vector(),
		LeafNode:    decodeLeafNode(r),
		Extensions:  decodeExtensions(r),
	}
	k.tbs = len(start) - len(r.in)
	k.Signature = r.vector()
	if r.err == nil {
		k.raw = start[: len(start)-len(r.in) : len(start)-len(r.in)]
	}
	return k
}

func (k *KeyPackage) append(b []byte) []byte { return append(b, k.raw...) }

// Bytes returns the encoded KeyPackage, without an MLSMessage around it.
func (k *KeyPackage) Bytes() []byte { return bytes.Clone(k.raw) }

// Ref returns the KeyPackageRef by which Welcomes name this key package. See
// RFC 9420, Section 5.2.
func (k *KeyPackage) Ref() []byte {
	return k.CipherSuite.refHash(labelKeyPackageRef, k.raw)
}

// ParseKeyPackage decodes exactly one KeyPackage (not an MLSMessage) and checks
// it as far as that is possible outside a group: RFC 9420, Section 10.1. The
// lifetime is the caller's to judge.
func ParseKeyPackage(b []byte) (*KeyPackage, error) {
	return (*Realm)(nil).ParseKeyPackage(b)
}

// verify is Sections 10 and 10.1 without the comparison to a group's parameters.
func (k *KeyPackage) verify(realm *Realm) error {
	if k.Version != mls10 {
		return errKeyPackageVersion
	}
	if err := k.CipherSuite.supported(); err != nil {
		return err
	}
	if k.LeafNode.Source != SourceKeyPackage {
		return errLeafSource
	}
	if bytes.Equal(k.InitKey, k.LeafNode.EncryptionKey) {
		return errInitKeyReused
	}
	if err := k.Extensions.check(inKeyPackage); err != nil {
		return err
	}
	if !supports(k.LeafNode.Capabilities.Extensions, k.Extensions.types()) {
		return errExtensionUnsupported
	}
	if err := k.LeafNode.verify(realm, k.CipherSuite, nil, 0); err != nil {
		return err
	}
	return realm.verify(k.CipherSuite, k.LeafNode.SignatureKey, labelKeyPackage, k.raw[:k.tbs], k.Signature)
}

// KeyPackageConfig says what a new key package offers.
type KeyPackageConfig struct {
	Rand           io.Reader
	Suite          CipherSuite
	Signer         *Signer
	Credential     Credential
	Capabilities   Capabilities
	Lifetime       Lifetime
	LeafExtensions Extensions
	Extensions     Extensions
}

// KeyPackageSecrets holds the private keys of a key package. They are used once:
// whoever stores the joined group deletes them in the same transaction. The
// signature key is the caller's.
type KeyPackageSecrets struct {
	InitKey       secret // private key of KeyPackage.InitKey
	EncryptionKey secret // private key of the leaf's encryption key
}

// MarshalBinary encodes the secrets for storage.
func (s *KeyPackageSecrets) MarshalBinary() ([]byte, error) {
	return appendVector(appendVector(nil, s.InitKey), s.EncryptionKey), nil
}

// UnmarshalBinary decodes what MarshalBinary wrote.
func (s *KeyPackageSecrets) UnmarshalBinary(b []byte) error {
	r := newReader(bytes.Clone(b))
	s.InitKey, s.EncryptionKey = r.vector(), r.vector()
	if err := r.end(); err != nil {
		return fmt.Errorf("decode key package secrets: %w", err)
	}
	return nil
}

// NewKeyPackage generates the key pairs of a key package and signs it.
func NewKeyPackage(c KeyPackageConfig) (*KeyPackage, *KeyPackageSecrets, error) {
	if err := c.Suite.supported(); err != nil {
		return nil, nil, err
	}
	initPrivate, initPublic, err := c.Suite.generateKeyPair(c.Rand)
	if err != nil {
		return nil, nil, fmt.Errorf("generate init key: %w", err)
	}
	leafPrivate, leafPublic, err := c.Suite.generateKeyPair(c.Rand)
	if err != nil {
		return nil, nil, fmt.Errorf("generate leaf key: %w", err)
	}
	leaf, err := LeafNode{
		EncryptionKey: leafPublic,
		SignatureKey:  c.Signer.Public(),
		Credential:    c.Credential,
		Capabilities:  c.Capabilities,
		Source:        SourceKeyPackage,
		Lifetime:      c.Lifetime,
		Extensions:    c.LeafExtensions,
	}.signed(c.Suite, c.Signer, nil, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("sign leaf: %w", err)
	}
	b := appendU16(appendU16(nil, mls10), uint16(c.Suite))
	b = appendVector(b, initPublic)
	b = leaf.append(b)
	b = c.Extensions.append(b)
	sig, err := c.Suite.signWithLabel(c.Signer, labelKeyPackage, b)
	if err != nil {
		return nil, nil, fmt.Errorf("sign key package: %w", err)
	}
	k, err := ParseKeyPackage(appendVector(b, sig))
	if err != nil {
		return nil, nil, fmt.Errorf("create key package: %w", err)
	}
	return k, &KeyPackageSecrets{InitKey: initPrivate, EncryptionKey: leafPrivate}, nil
}
