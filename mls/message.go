package mls

import "crypto/sha256"

// A Message is one MLSMessage: what members, newcomers and the delivery service
// pass around. It is immutable, and keeps the bytes it was made of. See
// RFC 9420, Section 6.
type Message struct {
	raw  []byte
	hash [sha256.Size]byte
	wire WireFormat

	// One of these, by wire.
	public     *publicMessage
	private    *privateMessage
	welcome    *Welcome
	groupInfo  *GroupInfo
	keyPackage *KeyPackage
}

// parseMessage decodes exactly one MLSMessage. The message refers to b, which
// must not change any more. Nothing in it has been verified.
func parseMessage(b []byte) (*Message, error) {
	r := newReader(b)
	decodeVersion(r)
	m := &Message{raw: b, wire: WireFormat(r.u16())}
	switch m.wire {
	case WirePublicMessage:
		m.public = decodePublicMessage(r)
	case WirePrivateMessage:
		m.private = decodePrivateMessage(r)
	case WireWelcome:
		m.welcome = decodeWelcome(r)
	case WireGroupInfo:
		m.groupInfo = decodeGroupInfo(r)
	case WireKeyPackage:
		m.keyPackage = decodeKeyPackage(r)
	default:
		r.fail(errWireFormat)
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	m.hash = sha256.Sum256(b)
	return m, nil
}

// appendMessageHeader starts an MLSMessage.
func appendMessageHeader(b []byte, wire WireFormat) []byte {
	return appendU16(appendU16(b, mls10), uint16(wire))
}

// WireFormat says what the message holds.
func (m *Message) WireFormat() WireFormat { return m.wire }

// GroupID is the group that a PublicMessage, PrivateMessage or GroupInfo
// belongs to, as it claims; nil for the others. It must not be modified.
func (m *Message) GroupID() []byte {
	switch m.wire {
	case WirePublicMessage:
		return m.public.content.groupID
	case WirePrivateMessage:
		return m.private.groupID
	case WireGroupInfo:
		return m.groupInfo.context.GroupID
	}
	return nil
}

// Epoch is the epoch that a PublicMessage, PrivateMessage or GroupInfo belongs
// to, as it claims; 0 for the others.
func (m *Message) Epoch() uint64 {
	switch m.wire {
	case WirePublicMessage:
		return m.public.content.epoch
	case WirePrivateMessage:
		return m.private.epoch
	case WireGroupInfo:
		return m.groupInfo.context.Epoch
	}
	return 0
}

// ContentType is what a PublicMessage or PrivateMessage carries, as it claims;
// 0 for the others.
func (m *Message) ContentType() ContentType {
	switch m.wire {
	case WirePublicMessage:
		return m.public.content.contentType
	case WirePrivateMessage:
		return m.private.contentType
	}
	return 0
}

// Bytes is the encoded MLSMessage. It must not be modified.
func (m *Message) Bytes() []byte { return m.raw }

// Hash is the SHA-256 of Bytes.
func (m *Message) Hash() [32]byte { return m.hash }

// KeyPackageRefs names the key packages of those whom a Welcome is for; nil for
// other messages.
func (m *Message) KeyPackageRefs() [][]byte {
	if m.wire != WireWelcome {
		return nil
	}
	refs := make([][]byte, len(m.welcome.secrets))
	for i, s := range m.welcome.secrets {
		refs[i] = s.newMember
	}
	return refs
}
