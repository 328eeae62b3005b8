package identity

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha512"
	"fmt"
)

// An installation key signs with Ed25519ph (RFC 8032, Section 5.1) under a
// context that says what for, so that no signature made for one purpose, MLS
// included, can serve another.
const (
	updateContext = "IDENTITY UPDATE SIGNATURE"
	publicContext = "PUBLIC SIGNATURE CONTEXT"
)

// SignUpdateText signs an identity update's text with an installation key.
func SignUpdateText(key ed25519.PrivateKey, text string) ([]byte, error) {
	return signPrehashed(key, text, updateContext)
}

// SignPublic signs a text of the app's own with an installation key, so that
// anybody can check which installation said it.
func SignPublic(key ed25519.PrivateKey, text string) ([]byte, error) {
	return signPrehashed(key, text, publicContext)
}

// VerifyPublic checks a signature made by SignPublic.
func VerifyPublic(publicKey ed25519.PublicKey, text string, sig []byte) error {
	return verifyPrehashed(publicKey, text, sig, publicContext)
}

func signPrehashed(key ed25519.PrivateKey, text, context string) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("%w: installation private key of %d bytes", ErrBadIdentifier, len(key))
	}
	digest := sha512.Sum512([]byte(text))
	sig, err := key.Sign(nil, digest[:], &ed25519.Options{Hash: crypto.SHA512, Context: context})
	if err != nil {
		return nil, fmt.Errorf("identity: sign with installation key: %w", err)
	}
	return sig, nil
}

func verifyPrehashed(publicKey ed25519.PublicKey, text string, sig []byte, context string) error {
	if len(publicKey) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: installation key of %d bytes", ErrBadSignature, len(publicKey))
	}
	digest := sha512.Sum512([]byte(text))
	err := ed25519.VerifyWithOptions(publicKey, digest[:], sig, &ed25519.Options{Hash: crypto.SHA512, Context: context})
	if err != nil {
		return fmt.Errorf("%w: installation key: %w", ErrBadSignature, err)
	}
	return nil
}
