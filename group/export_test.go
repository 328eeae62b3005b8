package group

import (
	"testing"

	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/contents"
)

// What tests need to do wrong on purpose.

// ReplaceAttribute changes one attribute of a context's extensions.
func ReplaceAttribute(t testing.TB, exts mls.Extensions, name, value string) mls.Extensions {
	return replaceMutable(t, exts, func(m *contents.GroupMutableMetadataV1) { m.Attributes[name] = value })
}

// ReplaceSuperAdmins makes an inbox the only super admin.
func ReplaceSuperAdmins(t testing.TB, exts mls.Extensions, inbox string) mls.Extensions {
	return replaceMutable(t, exts, func(m *contents.GroupMutableMetadataV1) {
		m.SuperAdminList.InboxIds = append(m.SuperAdminList.InboxIds, inbox)
	})
}

func replaceMutable(t testing.TB, exts mls.Extensions, edit func(*contents.GroupMutableMetadataV1)) mls.Extensions {
	data, _ := exts.Get(extMutableMetadata)
	data, err := editMutable(data, edit)
	if err != nil {
		t.Fatal(err)
	}
	return replaceExtension(exts, extMutableMetadata, data)
}

// ReplaceMembers replaces the membership list.
func ReplaceMembers(exts mls.Extensions, members map[string]uint64) mls.Extensions {
	return replaceExtension(exts, extMembership, encodeMembership(members, nil))
}

// WelcomeKey is the post-quantum key that welcomes are wrapped to.
func (k *KeyPackage) WelcomeKey() []byte { return k.wrapper }
