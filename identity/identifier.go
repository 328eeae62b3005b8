// Package identity is XMTP v3's identity, as pure functions: inbox ids, signed
// identity updates, and the fold of an inbox's update log into its association
// state, which says who may act for the inbox.
//
// An update is verified first (Verify: every signature, against one text) and
// folded afterwards (State.Apply: every rule). Only Verify makes a Verified, so
// that nothing unsigned can reach a state.
package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/sha3"
)

// A Kind says what an Identifier names.
type Kind uint8

const (
	Ethereum     Kind = iota + 1 // a wallet or contract address, 20 bytes
	Passkey                      // a WebAuthn P-256 public key in SEC1 form, 33 or 65 bytes
	Installation                 // an app installation's Ed25519 public key, 32 bytes
)

func (k Kind) String() string {
	switch k {
	case Ethereum:
		return "ethereum"
	case Passkey:
		return "passkey"
	case Installation:
		return "installation"
	}
	return "unknown"
}

// An Identifier names one member of an inbox. It is comparable, and canonical:
// two equal members have equal Identifiers. The zero Identifier names nobody.
type Identifier struct {
	kind Kind
	raw  string // the bytes, half the size of their hex form
}

// ParseAddress reads an Ethereum address as people write it: "0x" and 40 hex
// digits, in lower case, in upper case or with EIP-55's checksum in mixed case.
// Anything else, and the zero address, is ErrBadAddress.
func ParseAddress(s string) (Identifier, error) {
	id, err := decodeAddress(strings.ToLower(s))
	if err != nil {
		return Identifier{}, fmt.Errorf("%w: %.80q is not 0x and 40 hex digits", ErrBadAddress, s)
	}
	digits := s[2:]
	mixed := digits != strings.ToLower(digits) && digits != strings.ToUpper(digits)
	if mixed && digits != checksummed(digits) {
		return Identifier{}, fmt.Errorf("%w: the upper and lower case of %q is not its EIP-55 checksum", ErrBadAddress, s)
	}
	if id.IsZeroAddress() {
		return Identifier{}, fmt.Errorf("%w: the zero address signs nothing", ErrBadAddress)
	}
	return id, nil
}

// decodeAddress accepts the one form that may stand in an update: lower case.
func decodeAddress(s string) (Identifier, error) {
	if len(s) != 42 || s[:2] != "0x" || strings.ToLower(s) != s {
		return Identifier{}, fmt.Errorf("%w: %.80q", ErrBadAddress, s)
	}
	raw, err := hex.DecodeString(s[2:])
	if err != nil {
		return Identifier{}, fmt.Errorf("%w: %.80q", ErrBadAddress, s)
	}
	return Identifier{Ethereum, string(raw)}, nil
}

// checksummed returns 40 hex digits in EIP-55's mixed case: a letter is upper
// case where the same digit of the lower-case address's Keccak-256 is above 7.
func checksummed(digits string) string {
	out := []byte(strings.ToLower(digits))
	h := sha3.NewLegacyKeccak256()
	h.Write(out)
	sum := hex.EncodeToString(h.Sum(nil))
	for i, c := range out {
		if c >= 'a' && sum[i] > '7' {
			out[i] = c - 'a' + 'A'
		}
	}
	return string(out)
}

// AddressFrom makes an Identifier of an address's 20 bytes.
func AddressFrom(b [20]byte) Identifier { return Identifier{Ethereum, string(b[:])} }

// InstallationFrom makes an Identifier of an Ed25519 public key.
func InstallationFrom(publicKey []byte) (Identifier, error) {
	if len(publicKey) != 32 {
		return Identifier{}, fmt.Errorf("%w: installation key of %d bytes, want 32", ErrBadIdentifier, len(publicKey))
	}
	return Identifier{Installation, string(publicKey)}, nil
}

// PasskeyFrom makes an Identifier of a P-256 public key in SEC1 form.
func PasskeyFrom(publicKey []byte) (Identifier, error) {
	if len(publicKey) != 33 && len(publicKey) != 65 {
		return Identifier{}, fmt.Errorf("%w: passkey of %d bytes, want 33 or 65", ErrBadIdentifier, len(publicKey))
	}
	return Identifier{Passkey, string(publicKey)}, nil
}

func (id Identifier) Kind() Kind { return id.kind }

// Bytes returns the raw address or key.
func (id Identifier) Bytes() []byte { return []byte(id.raw) }

// IsZero reports whether id names nobody.
func (id Identifier) IsZero() bool { return id.kind == 0 }

// IsZeroAddress reports whether id is the Ethereum address that no key has.
func (id Identifier) IsZeroAddress() bool {
	return id.kind == Ethereum && strings.Trim(id.raw, "\x00") == ""
}

// String returns the form that stands in updates and signature texts: lower-case
// hex, with 0x before an address.
func (id Identifier) String() string {
	s := hex.EncodeToString([]byte(id.raw))
	if id.kind == Ethereum {
		return "0x" + s
	}
	return s
}

// DefaultNonce is the nonce of a new inbox, as real clients choose it. Nonce 0
// belongs to inboxes that were migrated from XMTP v2.
const DefaultNonce = 1

// InboxID returns the id of the inbox that owner makes with nonce: 64 lower-case
// hex digits. An installation owns no inbox.
func InboxID(owner Identifier, nonce uint64) (string, error) {
	if owner.kind != Ethereum && owner.kind != Passkey {
		return "", fmt.Errorf("%w: an inbox belongs to an address or a passkey, not to kind %s", ErrBadIdentifier, owner.kind)
	}
	sum := sha256.Sum256([]byte(owner.String() + strconv.FormatUint(nonce, 10)))
	return hex.EncodeToString(sum[:]), nil
}

// ParseInboxID returns the 32 bytes that an inbox id spells.
func ParseInboxID(s string) ([32]byte, error) {
	var id [32]byte
	if len(s) != 64 || strings.ToLower(s) != s {
		return id, fmt.Errorf("%w: %.80q", ErrBadInboxID, s)
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return id, fmt.Errorf("%w: %.80q", ErrBadInboxID, s)
	}
	return id, nil
}
