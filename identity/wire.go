package identity

import (
	"encoding/hex"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/proto/associations"
)

// Limits on what is read from outside. A real update has one to a dozen actions.
const (
	MaxUpdateSize = 1 << 20 // bytes
	MaxActions    = 256     // in one update
)

// Decode reads a serialised IdentityUpdate. It checks nothing but the form.
func Decode(b []byte) (*associations.IdentityUpdate, error) {
	if len(b) > MaxUpdateSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(b), MaxUpdateSize)
	}
	u := new(associations.IdentityUpdate)
	if err := proto.Unmarshal(b, u); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return u, nil
}

// Encode is Decode's inverse; equal updates give equal bytes.
func Encode(u *associations.IdentityUpdate) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(u)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(b) > MaxUpdateSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(b), MaxUpdateSize)
	}
	return b, nil
}

// ParseIdentifier reads the identifier of an inbox's owner as it stands in
// requests and updates. An unspecified kind means Ethereum.
func ParseIdentifier(s string, kind associations.IdentifierKind) (Identifier, error) {
	switch kind {
	case associations.IdentifierKind_IDENTIFIER_KIND_UNSPECIFIED, associations.IdentifierKind_IDENTIFIER_KIND_ETHEREUM:
		return decodeAddress(s)
	case associations.IdentifierKind_IDENTIFIER_KIND_PASSKEY:
		key, err := hex.DecodeString(s)
		if err != nil {
			return Identifier{}, fmt.Errorf("%w: passkey %.140q is not hex", ErrBadIdentifier, s)
		}
		return PasskeyFrom(key)
	}
	return Identifier{}, fmt.Errorf("%w: kind %d", ErrBadIdentifier, kind)
}

// ProtoKind returns the kind under which an owner stands beside its string.
func (id Identifier) ProtoKind() associations.IdentifierKind {
	switch id.kind {
	case Ethereum:
		return associations.IdentifierKind_IDENTIFIER_KIND_ETHEREUM
	case Passkey:
		return associations.IdentifierKind_IDENTIFIER_KIND_PASSKEY
	}
	return associations.IdentifierKind_IDENTIFIER_KIND_UNSPECIFIED
}

func memberFromProto(m *associations.MemberIdentifier) (Identifier, error) {
	switch k := m.GetKind().(type) {
	case *associations.MemberIdentifier_EthereumAddress:
		return decodeAddress(k.EthereumAddress)
	case *associations.MemberIdentifier_InstallationPublicKey:
		return InstallationFrom(k.InstallationPublicKey)
	case *associations.MemberIdentifier_Passkey:
		return PasskeyFrom(k.Passkey.GetKey())
	}
	return Identifier{}, fmt.Errorf("%w: missing member identifier", ErrMalformed)
}

func memberToProto(id Identifier) *associations.MemberIdentifier {
	switch id.kind {
	case Installation:
		return &associations.MemberIdentifier{Kind: &associations.MemberIdentifier_InstallationPublicKey{InstallationPublicKey: id.Bytes()}}
	case Passkey:
		return &associations.MemberIdentifier{Kind: &associations.MemberIdentifier_Passkey{Passkey: &associations.Passkey{Key: id.Bytes()}}}
	}
	return &associations.MemberIdentifier{Kind: &associations.MemberIdentifier_EthereumAddress{EthereumAddress: id.String()}}
}
