package group

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/contents"
)

// The attributes that a group's mutable metadata may have. A group may carry
// others; they pass through untouched.
const (
	AttributeName           = "group_name"
	AttributeDescription    = "description"
	AttributeImageURL       = "group_image_url_square"
	AttributeAppData        = "app_data"
	AttributeDisappearFrom  = "message_disappear_from_ns"
	AttributeDisappearIn    = "message_disappear_in_ns"
	AttributeMinimumVersion = "minimum_supported_protocol_version"

	attributeCommitLogSigner = "_commit_log_signer"
)

// ErrMetadata says that a group's context lacks one of XMTP's extensions or
// holds one that does not decode.
var ErrMetadata = errors.New("group: invalid group metadata")

// A Kind is what a group is for.
type Kind uint8

const (
	KindGroup   = Kind(contents.ConversationType_CONVERSATION_TYPE_GROUP)
	KindDM      = Kind(contents.ConversationType_CONVERSATION_TYPE_DM)
	KindSync    = Kind(contents.ConversationType_CONVERSATION_TYPE_SYNC)
	KindOneshot = Kind(contents.ConversationType_CONVERSATION_TYPE_ONESHOT)
)

// Metadata is what a group's context says above MLS. It is immutable, and
// shared by the replicas of one epoch where the host allows it: callers must
// not change what they are given.
type Metadata struct {
	Kind        Kind
	Creator     string    // inbox id
	DM          [2]string // the two inboxes of a direct message
	Attributes  map[string]string
	Admins      []string
	SuperAdmins []string
	Members     map[string]uint64 // inbox id to the sequence id of the identity update it is taken at
	Failed      [][]byte          // installations that could not be added
	Permissions Permissions

	roles  map[string]Role        // of those on the admin lists
	readd  *contents.ReaddRequest // of a oneshot group: see Ask
	digest [32]byte               // of the extensions this was decoded from
}

// RoleOf returns what an inbox may do by the admin lists. Whether it is a
// member is another question.
func (m *Metadata) RoleOf(inbox string) Role { return m.roles[inbox] }

// metadataDigest identifies the decoded form of a context's extensions.
func metadataDigest(exts mls.Extensions) (d [32]byte) {
	h := sha256.New()
	for _, t := range []mls.ExtensionType{extImmutableMetadata, extMutableMetadata, extMembership, extPermissions} {
		data, ok := exts.Get(t)
		n := uint64(len(data)) << 1
		if ok {
			n |= 1
		}
		h.Write(binary.BigEndian.AppendUint64(nil, n))
		h.Write(data)
	}
	h.Sum(d[:0])
	return d
}

// decodeMetadata reads the four extensions of a group context.
func decodeMetadata(exts mls.Extensions) (*Metadata, error) {
	m := &Metadata{digest: metadataDigest(exts)}
	for _, part := range []struct {
		name   string
		t      mls.ExtensionType
		decode func([]byte) error
	}{
		{"immutable metadata", extImmutableMetadata, m.decodeImmutable},
		{"mutable metadata", extMutableMetadata, m.decodeMutable},
		{"membership", extMembership, m.decodeMembership},
		{"permissions", extPermissions, func(b []byte) error {
			p, err := decodePermissions(b)
			if err == nil {
				m.Permissions = *p
			}
			return err
		}},
	} {
		data, ok := exts.Get(part.t)
		if !ok {
			return nil, fmt.Errorf("%w: no %s", ErrMetadata, part.name)
		}
		if err := part.decode(data); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrMetadata, part.name, err)
		}
	}
	return m, nil
}

// metadataOf returns the extensions that metadata is read from.
func metadataOf(exts mls.Extensions) (of mls.Extensions) {
	for _, t := range []mls.ExtensionType{extImmutableMetadata, extMutableMetadata, extMembership, extPermissions} {
		if data, ok := exts.Get(t); ok {
			of = append(of, mls.Extension{Type: t, Data: data})
		}
	}
	return of
}

var (
	errLengthPrefix = errors.New("group: bad length prefix")
	errListMissing  = errors.New("group: admin list missing")
)

// decodeImmutable reads 0xf000, the one extension whose data is a vector of its
// own: a length prefix inside the extension's length prefix.
func (m *Metadata) decodeImmutable(b []byte) error {
	inner, rest, ok := cutVector(b)
	if !ok || len(rest) > 0 {
		return errLengthPrefix
	}
	var p contents.GroupMetadataV1
	if err := proto.Unmarshal(inner, &p); err != nil {
		return err
	}
	m.Kind, m.Creator = Kind(p.ConversationType), p.CreatorInboxId
	m.readd = p.OneshotMessage.GetReaddRequest()
	if dm := p.DmMembers; dm != nil {
		m.DM = [2]string{dm.GetDmMemberOne().GetInboxId(), dm.GetDmMemberTwo().GetInboxId()}
	}
	return nil
}

func encodeImmutable(kind Kind, creator string, dm [2]string, oneshot *contents.OneshotMessage) []byte {
	p := &contents.GroupMetadataV1{ConversationType: contents.ConversationType(kind), CreatorInboxId: creator, OneshotMessage: oneshot}
	if kind == KindDM {
		p.DmMembers = &contents.DmMembers{
			DmMemberOne: &contents.Inbox{InboxId: dm[0]},
			DmMemberTwo: &contents.Inbox{InboxId: dm[1]},
		}
	}
	return appendVector(nil, marshal(p))
}

// decodeMutable reads 0xff00. Both admin lists are there even when empty.
func (m *Metadata) decodeMutable(b []byte) error {
	var p contents.GroupMutableMetadataV1
	if err := proto.Unmarshal(b, &p); err != nil {
		return err
	}
	if p.AdminList == nil || p.SuperAdminList == nil {
		return errListMissing
	}
	m.Attributes = p.Attributes
	m.Admins, m.SuperAdmins = p.AdminList.InboxIds, p.SuperAdminList.InboxIds
	m.roles = make(map[string]Role, len(m.Admins)+len(m.SuperAdmins))
	for _, inbox := range m.Admins {
		m.roles[inbox] = Admin
	}
	for _, inbox := range m.SuperAdmins {
		m.roles[inbox] = SuperAdmin
	}
	return nil
}

func encodeMutable(attributes map[string]string, admins, superAdmins []string) []byte {
	return marshal(&contents.GroupMutableMetadataV1{
		Attributes:     attributes,
		AdminList:      &contents.Inboxes{InboxIds: admins},
		SuperAdminList: &contents.Inboxes{InboxIds: superAdmins},
	})
}

// decodeMembership reads 0xff01.
func (m *Metadata) decodeMembership(b []byte) error {
	var p contents.GroupMembership
	if err := proto.Unmarshal(b, &p); err != nil {
		return err
	}
	m.Members, m.Failed = p.Members, p.FailedInstallations
	return nil
}

func encodeMembership(members map[string]uint64, failed [][]byte) []byte {
	return marshal(&contents.GroupMembership{Members: members, FailedInstallations: failed})
}

// editMutable changes attributes and lists of an encoded 0xff00 and keeps what
// it does not know.
func editMutable(b []byte, edit func(*contents.GroupMutableMetadataV1)) ([]byte, error) {
	var p contents.GroupMutableMetadataV1
	if err := proto.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("group: edit metadata: %w", err)
	}
	if p.Attributes == nil {
		p.Attributes = make(map[string]string)
	}
	edit(&p)
	return marshal(&p), nil
}

// firstExtensions are the extensions of a new group's context. The creator is
// cited at 0, "nothing yet"; its real sequence id comes with the first commit.
func firstExtensions(c CreateConfig, creator, commitLogSigner string) mls.Extensions {
	attributes := map[string]string{
		AttributeName:            c.Name,
		AttributeDescription:     c.Description,
		AttributeImageURL:        c.ImageURL,
		attributeCommitLogSigner: commitLogSigner,
	}
	permissions, superAdmins := c.Permissions.Permissions(), []string{creator}
	if c.Kind == KindDM {
		permissions, superAdmins = dmPermissions(), nil
	} else {
		attributes[AttributeAppData] = ""
	}
	maps.Copy(attributes, c.Attributes)
	return mls.Extensions{
		{Type: extImmutableMetadata, Data: encodeImmutable(c.Kind, creator, c.dmMembers(creator), c.oneshot)},
		{Type: extMutableMetadata, Data: encodeMutable(attributes, nil, superAdmins)},
		{Type: extMembership, Data: encodeMembership(map[string]uint64{creator: 0}, nil)},
		{Type: extPermissions, Data: permissions.encode()},
		{Type: mls.ExtensionRequiredCapabilities, Data: v3.required},
	}
}

// marshal writes a message so that equal messages give equal bytes.
func marshal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		// Only invalid UTF-8 in a string field can fail; every string that
		// reaches here was decoded from protobuf or checked by the caller.
		panic("group: marshal: " + err.Error())
	}
	return b
}

// appendVector writes opaque data<V>. See RFC 9420, Section 2.1.2.
func appendVector(b, v []byte) []byte {
	switch n := len(v); {
	case n < 1<<6:
		b = append(b, byte(n))
	case n < 1<<14:
		b = binary.BigEndian.AppendUint16(b, uint16(n)|0x4000)
	default:
		b = binary.BigEndian.AppendUint32(b, uint32(n)|0x80000000)
	}
	return append(b, v...)
}

// cutVector reads opaque data<V> from the front of b.
func cutVector(b []byte) (v, rest []byte, ok bool) {
	if len(b) == 0 || b[0] >= 0xc0 {
		return nil, nil, false
	}
	header := 1 << (b[0] >> 6)
	if len(b) < header {
		return nil, nil, false
	}
	n := int(b[0] & 0x3f)
	for _, c := range b[1:header] {
		n = n<<8 | int(c)
	}
	minimal := header == 1 || header == 2 && n >= 1<<6 || header == 4 && n >= 1<<14
	if b = b[header:]; !minimal || n > len(b) {
		return nil, nil, false
	}
	return b[:n:n], b[n:], true
}
