package group

import (
	"io"
	"testing"

	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/contents"
)

// What tests need to do wrong on purpose, and to see.

// SavedOpens tries to open a message with the state that was saved last.
func (r *Replica) SavedOpens(data []byte) error {
	m, err := r.env.Realm.Parse(data)
	if err != nil {
		return err
	}
	_, _, err = r.saved.Open(m)
	return err
}

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

// ReplaceMembers replaces the membership list, with the installations that could
// not be added.
func ReplaceMembers(exts mls.Extensions, members map[string]uint64, failed ...[]byte) mls.Extensions {
	return replaceExtension(exts, extMembership, encodeMembership(members, failed))
}

// ReplaceKind says what the group is for, and between whom a direct message is.
func ReplaceKind(exts mls.Extensions, kind Kind, dm ...string) mls.Extensions {
	return replaceExtension(exts, extImmutableMetadata, encodeImmutable(kind, "", [2]string(append(dm, "", "")[:2]), nil))
}

// ReplacePermissions replaces the policy set.
func ReplacePermissions(exts mls.Extensions, p Permissions) mls.Extensions {
	return replaceExtension(exts, extPermissions, p.encode())
}

// Queue keeps a proposal as if the replica took those that come on their own.
func (r *Replica) Queue(t testing.TB, message []byte) {
	m, err := r.env.Realm.Parse(message)
	if err != nil {
		t.Fatal(err)
	}
	if r.group, _, err = r.group.Open(m); err != nil {
		t.Fatal(err)
	}
}

// JudgeWithKey judges a commit as if its path brought another signature key. The
// replica must share no realm, since it changes what was decoded.
func (r *Replica) JudgeWithKey(t testing.TB, message, key []byte) error {
	m, err := r.env.Realm.Parse(message)
	if err != nil {
		t.Fatal(err)
	}
	_, content, err := r.group.Open(m)
	if err != nil {
		t.Fatal(err)
	}
	c := content.(*mls.StagedCommit)
	c.PathLeaf().SignatureKey = key
	j := judge{step: &step{Replica: *r}, commit: c, exact: true}
	return j.check(&verdict{})
}

// JudgeContext judges a change of the context alone.
func (r *Replica) JudgeContext(exts mls.Extensions) error {
	return (&judge{step: &step{Replica: *r}}).context(exts)
}

// JoinSignedBy is Join where mls has taken a leaf for the welcome's signer.
func JoinSignedBy(env Env, g *mls.Group, leaf mls.LeafIndex, c JoinConfig) error {
	s := &step{Replica: Replica{env: env.withDefaults(), id: g.GroupID(), position: position{standing: Following}}}
	return s.welcomed(g, &mls.JoinInfo{Signer: leaf}, c)
}

// The rules of errors.go that tests break.
const (
	RuleWrongGroup      = errWrongGroup
	RuleNotPrivate      = errNotPrivate
	RuleByReference     = errByReference
	RuleFutureEpoch     = errFutureEpoch
	RuleLeftBehind      = errLeftBehind
	RuleManyActors      = errManyActors
	RuleActorKey        = errActorKey
	RuleProposalType    = errProposalType
	RuleMissingIdentity = errMissingIdentity
	RuleWrongInbox      = errWrongInbox
	RuleNotRequired     = errNotRequired
	RuleRequiredOfAll   = errRequiredOfAll
	RuleLeafMetadata    = errLeafMetadata
	RuleExpired         = errExpired
	RuleUnknownLeaf     = errUnknownLeaf
	RuleMissingLeaf     = errMissingLeaf
	RuleDMMembers       = errDMMembers
	RuleDMAdmins        = errDMAdmins
	RuleDMPolicy        = errDMPolicy
	RuleOneshot         = errOneshot
	RuleAdderUnknown    = errAdderUnknown
	RuleOtherKind       = errOtherKind
)

// RecordAll makes a replica write down what commits do where it publishes none.
func RecordAll(env *Env) { env.recordAll = true }

// WelcomeKey is the post-quantum key that welcomes are wrapped to.
func (k *KeyPackage) WelcomeKey() []byte { return k.wrapper }

// WrapWelcome makes the envelope of a welcome that anybody may send.
func WrapWelcome(t testing.TB, random io.Reader, welcome []byte, cursor uint64, k *KeyPackage) []byte {
	out, err := joinerOf(k).wrap(random, welcome, marshal(&contents.WelcomeMetadata{MessageCursor: cursor}), nil)
	if err != nil {
		t.Fatal(err)
	}
	return out.Payload
}
