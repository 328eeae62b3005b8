package forge

import (
	"fmt"
	"io"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/mls/hpke"
	"github.com/conclave-chat/conclave/proto/contents"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// XMTP's extensions of a group's context, and its envelopes.

// The extensions that a commit's GroupContextExtensions may change.
const (
	Immutable   mls.ExtensionType = 0xf000
	Mutable     mls.ExtensionType = 0xff00
	Membership  mls.ExtensionType = 0xff01
	Permissions mls.ExtensionType = 0xff02
)

// Replace puts an extension in the place of the one of its type; nil data takes it out.
func Replace(exts mls.Extensions, t mls.ExtensionType, data []byte) mls.Extensions {
	rest := slices.DeleteFunc(slices.Clone(exts), func(e mls.Extension) bool { return e.Type == t })
	if data == nil {
		return rest
	}
	return append(rest, mls.Extension{Type: t, Data: data})
}

// Metadata edits the group's name and other attributes, and the lists of admins.
func Metadata(exts mls.Extensions, edit func(*contents.GroupMutableMetadataV1)) (mls.Extensions, error) {
	m := new(contents.GroupMutableMetadataV1)
	data, _ := exts.Get(Mutable)
	if err := proto.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("forge: metadata: %w", err)
	}
	if m.AdminList == nil {
		m.AdminList = new(contents.Inboxes)
	}
	if m.SuperAdminList == nil {
		m.SuperAdminList = new(contents.Inboxes)
	}
	if m.Attributes == nil {
		m.Attributes = map[string]string{}
	}
	edit(m)
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	return Replace(exts, Mutable, data), err
}

// Members edits the membership list.
func Members(exts mls.Extensions, edit func(*contents.GroupMembership)) (mls.Extensions, error) {
	m := new(contents.GroupMembership)
	data, _ := exts.Get(Membership)
	if err := proto.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("forge: membership: %w", err)
	}
	if m.Members == nil {
		m.Members = map[string]uint64{}
	}
	edit(m)
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	return Replace(exts, Membership, data), err
}

// Plaintext is a PlaintextEnvelope: what an application message carries.
func Plaintext(key string, content []byte) []byte {
	b, err := proto.Marshal(&contents.PlaintextEnvelope{Content: &contents.PlaintextEnvelope_V1_{
		V1: &contents.PlaintextEnvelope_V1{Content: content, IdempotencyKey: key}}})
	if err != nil {
		panic(err) // it is two fields
	}
	return b
}

// Envelope is an MLSMessage as it stands on a group's topic.
func Envelope(data []byte) []byte { return group.EncodeGroupMessage(data, make([]byte, 32), false) }

// WrapWelcome is a Welcome as it stands on an installation's topic, for whoever holds
// the secrets of a key package. The cursor is the sender's to choose.
func WrapWelcome(random io.Reader, to *mls.KeyPackage, welcome []byte, cursor uint64) ([]byte, error) {
	info := vector(vector(nil, []byte("MLS 1.0 MLS_WELCOME")), nil)
	enc, c, err := hpke.Suite{KEM: hpke.X25519, AEAD: hpke.ChaCha20Poly1305}.SetupSender(random, to.InitKey, info)
	if err != nil {
		return nil, fmt.Errorf("forge: wrap welcome: %w", err)
	}
	sealed, err := c.Seal(nil, welcome)
	if err != nil {
		return nil, fmt.Errorf("forge: wrap welcome: %w", err)
	}
	metadata, err := proto.Marshal(&contents.WelcomeMetadata{MessageCursor: cursor})
	if err == nil {
		metadata, err = c.Seal(nil, metadata)
	}
	if err != nil {
		return nil, fmt.Errorf("forge: wrap welcome: %w", err)
	}
	return proto.Marshal(&mlsapi.WelcomeMessageInput{Version: &mlsapi.WelcomeMessageInput_V1_{V1: &mlsapi.WelcomeMessageInput_V1{
		InstallationKey: to.LeafNode.SignatureKey, Data: vector(vector(nil, enc), sealed), HpkePublicKey: to.InitKey,
		WelcomeMetadata: metadata, WrapperAlgorithm: contents.WelcomeWrapperAlgorithm_WELCOME_WRAPPER_ALGORITHM_CURVE25519}}})
}
