package ethereum

import (
	"crypto/ecdsa"
	"fmt"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/conclave-chat/conclave/identity"
)

// A Key is a wallet whose private key lies in this process. It implements
// identity.Signer, is safe for concurrent use and prints as [redacted].
type Key struct {
	private *ecdsa.PrivateKey
	address identity.Identifier
}

var _ identity.Signer = (*Key)(nil)

// GenerateKey makes a new wallet from the system's randomness.
func GenerateKey() (*Key, error) {
	private, err := crypto.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("ethereum: generate key: %w", err)
	}
	return FromECDSA(private), nil
}

// ParseKey makes a wallet of its private key's 32 bytes.
func ParseKey(b []byte) (*Key, error) {
	private, err := crypto.ToECDSA(b)
	if err != nil {
		return nil, fmt.Errorf("ethereum: read private key: %w", err)
	}
	return FromECDSA(private), nil
}

// FromECDSA makes a wallet of a secp256k1 private key, such as a keystore's.
func FromECDSA(private *ecdsa.PrivateKey) *Key {
	return &Key{private, identity.AddressFrom(crypto.PubkeyToAddress(private.PublicKey))}
}

// Address returns the wallet's address in lower case.
func (k *Key) Address() string { return k.address.String() }

// Identifier returns the wallet's address.
func (k *Key) Identifier() identity.Identifier { return k.address }

// SignMessage signs a text as personal_sign does (EIP-191): 65 bytes R‖S‖V, V 27
// or 28, S in the lower half.
func (k *Key) SignMessage(text string) ([]byte, error) {
	hash := identity.HashMessage(text)
	sig, err := crypto.Sign(hash[:], k.private)
	if err != nil {
		return nil, fmt.Errorf("ethereum: sign message: %w", err)
	}
	sig[64] += 27
	return sig, nil
}

// PrivateBytes returns the private key's 32 bytes, for whoever stores it.
func (k *Key) PrivateBytes() []byte { return crypto.FromECDSA(k.private) }

// Format implements fmt.Formatter: no verb prints the key, nor a copy of it.
func (k Key) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[redacted]") }

// MarshalJSON keeps the key out of JSON and of structured logs.
func (k Key) MarshalJSON() ([]byte, error) { return []byte(`"[redacted]"`), nil }
