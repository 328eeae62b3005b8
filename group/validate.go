package group

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/conclave-chat/conclave/mls"
)

// A commit that is valid under RFC 9420 must also obey the group's own rules.
// They are checked by every member, on the same data and in the same order, so
// that all agree; where real clients are lenient this is too, since a stricter
// member would leave the others behind. docs/validation.md lists them by number,
// and says where peers disagree and what was chosen.

// A verdict is what became of judging a commit.
type verdict struct {
	err        error     // why it is rejected; nil: it is valid
	after      *Metadata // of the epoch it leads to
	actor      string    // the committer's inbox
	transcript []byte    // what to tell of it; nil: nothing
	removed    [][]byte  // installations it takes out
	impostors  [][]byte  // installations it brings in, whose leaves claim an inbox that does not own them
	need       []IdentityAt
}

// judge decides about a commit at its place in the log. The verdict is equal
// for all members, so co-hosted ones find it where the first left it. The key
// holds the epoch authenticator: only a member of the epoch can ask.
func (s *step) judge(c *mls.StagedCommit, hash [32]byte, at time.Time) *verdict {
	h := sha256.New()
	h.Write([]byte("commit verdict"))
	h.Write(s.group.EpochAuthenticator())
	h.Write(hash[:])
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(at.UnixNano())))
	for _, inbox := range s.leaving { // the transcript depends on it
		h.Write([]byte(inbox))
	}
	key := [32]byte(h.Sum(nil))
	if v, ok := s.recall(key).(*verdict); ok {
		return v
	}
	j := judge{step: s, commit: c, at: at, exact: true}
	v := &verdict{}
	v.err = j.check(v)
	v.need = j.need
	if len(v.need) == 0 && j.exact && s.env.Shared != nil {
		s.env.Shared.Put(key, v)
	}
	return v
}

func (s *step) recall(key [32]byte) any {
	if s.env.Shared == nil {
		return nil
	}
	return s.env.Shared.Get(key)
}

// A judge holds what the rules look at.
type judge struct {
	*step
	commit    *mls.StagedCommit
	at        time.Time
	before    *Metadata
	after     *Metadata
	adds      []*mls.LeafNode // in the order of the proposals
	drops     []*mls.LeafNode // removed leaves, of the old tree
	impostors [][]byte        // see verdict
	need      []IdentityAt
	leaves    map[string][][]byte // see leavesByInbox; nil until it is asked for
	exact     bool                // every identity asked for was there: the verdict may be remembered
}

// check applies the rules in their order.
func (j *judge) check(v *verdict) error {
	var err error
	j.before = j.meta
	if j.after, err = j.decode(j.commit.Context().Extensions); err != nil {
		return fmt.Errorf("%w: %w", errContext, err)
	}
	v.after = j.after
	if err := j.attributeSizes(); err != nil {
		return err
	}
	actor, err := j.proposals()
	if err != nil {
		return err
	}
	v.actor = actor
	if err := j.sequences(); err != nil {
		return err
	}
	want := j.expected()
	pathInbox, pathState := j.actorIdentity()
	if len(j.need) > 0 {
		return nil
	}
	if err := want.err; err != nil {
		return err
	}
	if err := j.installations(want, j.before.RoleOf(actor) == SuperAdmin); err != nil {
		return err
	}
	if !ownsInstallation(pathState, j.commit.PathLeaf().SignatureKey) {
		return fmt.Errorf("%w: inbox %s", errActorIdentity, pathInbox)
	}
	if err := j.policies(actor); err != nil {
		return err
	}
	for _, leaf := range j.drops {
		v.removed = append(v.removed, leaf.SignatureKey)
	}
	v.impostors = j.impostors
	v.transcript = transcriptOf(actor, j.before, j.after, j.leaving)
	return nil
}

// attributeSizes (G12): changed attributes are within their limits.
func (j *judge) attributeSizes() error {
	for _, name := range changedAttributes(j.before, j.after) {
		if limit, ok := v3.attributeLimit[name]; ok && len(j.after.Attributes[name]) > limit {
			return fmt.Errorf("%w: %s over %d bytes", errAttributeSize, name, limit)
		}
	}
	return nil
}

// proposals (G13 to G16, G22): all by the committer and by value, of the types the profile uses,
// and a path under the key that the committer had. It returns the committer's
// inbox.
func (j *judge) proposals() (string, error) {
	leaf, ok := j.group.Member(j.commit.Committer())
	if !ok || !j.commit.HasPath() {
		return "", errActorKey
	}
	for _, p := range j.commit.Proposals() {
		if p.ByReference || p.Sender != j.commit.Committer() {
			return "", errManyActors
		}
		switch p := p.Proposal.(type) {
		case mls.Add:
			if !validLifetime(p.KeyPackage.LeafNode.Lifetime, j.at) {
				return "", errExpired
			}
			if _, ok := p.KeyPackage.LeafNode.Extensions.Get(extImmutableMetadata); ok {
				return "", errLeafMetadata
			}
			j.adds = append(j.adds, p.KeyPackage.LeafNode)
		case mls.Remove:
			removed, ok := j.group.Member(p.Removed)
			if !ok {
				return "", errUnexpectedRemove
			}
			j.drops = append(j.drops, removed)
		case mls.GroupContextExtensions:
			if err := j.context(p.Extensions); err != nil {
				return "", err
			}
		default:
			return "", fmt.Errorf("%w: %T", errProposalType, p)
		}
	}
	if !bytes.Equal(j.commit.PathLeaf().SignatureKey, leaf.SignatureKey) {
		return "", errActorKey
	}
	if _, ok := j.commit.PathLeaf().Extensions.Get(extImmutableMetadata); ok {
		return "", errLeafMetadata
	}
	inbox, err := inboxOf(leaf.Credential)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrRejected, err)
	}
	return inbox, nil
}

// context (G17, G18): a change of the context is one that OpenMLS takes. It asks for more than
// RFC 9420: the required capabilities name every extension that is not default, and
// whoever is a member before the commit, also where the commit removes it, supports
// the extensions that they name.
func (j *judge) context(after mls.Extensions) error {
	required, whole, err := after.Requirements()
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrRejected, err)
	case !whole:
		return errNotRequired
	}
	for _, leaf := range j.group.Members() {
		if !leaf.Capabilities.Supports(required.Extensions) {
			return errRequiredOfAll
		}
	}
	return nil
}

// sequences (G19): no inbox is taken at an older state than before.
func (j *judge) sequences() error {
	var back []string
	for inbox, seq := range j.after.Members {
		if old, was := j.before.Members[inbox]; was && seq < old {
			back = append(back, inbox)
		}
	}
	if len(back) == 0 {
		return nil
	}
	inbox := slices.Min(back)
	return fmt.Errorf("%w: inbox %s from %d to %d", errSequenceBack, inbox, j.before.Members[inbox], j.after.Members[inbox])
}

// policies (G25): the committer may do all that the commit does. Roles are those from
// before it.
func (j *judge) policies(actor string) error {
	before, after := j.before, j.after
	role := before.RoleOf(actor)
	p := &before.Permissions
	var added, removed []string
	for inbox := range after.Members {
		if _, was := before.Members[inbox]; !was {
			added = append(added, inbox)
		}
	}
	for inbox := range before.Members {
		if _, is := after.Members[inbox]; !is {
			removed = append(removed, inbox)
		}
	}
	if len(added) > 0 && !p.AddMember.permits(role) && !before.completesDM(actor, added) {
		return fmt.Errorf("%w: add members", errPolicy)
	}
	if len(removed) > 0 && !p.RemoveMember.permits(role) {
		return fmt.Errorf("%w: remove members", errPolicy)
	}
	for _, inbox := range removed {
		if before.RoleOf(inbox) == SuperAdmin {
			return fmt.Errorf("%w: remove a super admin", errPolicy)
		}
	}
	for _, name := range changedAttributes(before, after) {
		if !p.metadataPolicy(name).permits(role) {
			return fmt.Errorf("%w: change %s", errPolicy, name)
		}
	}
	for _, c := range []struct {
		changed bool
		policy  Policy
		what    string
	}{
		{len(missingFrom(before.Admins, after.Admins)) > 0, p.AddAdmin, "add an admin"},
		{len(missingFrom(after.Admins, before.Admins)) > 0, p.RemoveAdmin, "remove an admin"},
		{len(missingFrom(before.SuperAdmins, after.SuperAdmins)) > 0, Policy{Rule: IfSuperAdmin}, "add a super admin"},
		{len(missingFrom(after.SuperAdmins, before.SuperAdmins)) > 0, Policy{Rule: IfSuperAdmin}, "remove a super admin"},
		// The policy set names a policy for its own change; nobody consults it.
		{!p.equal(&after.Permissions), Policy{Rule: IfSuperAdmin}, "change permissions"},
	} {
		if c.changed && !c.policy.permits(role) {
			return fmt.Errorf("%w: %s", errPolicy, c.what)
		}
	}
	if len(before.SuperAdmins) > 0 && len(after.SuperAdmins) == 0 {
		return fmt.Errorf("%w: remove the last super admin", errPolicy)
	}
	return nil
}

// completesDM: in a direct message nobody may add, but one of the two may add
// the other.
func (m *Metadata) completesDM(actor string, added []string) bool {
	return m.Kind == KindDM && len(added) == 1 && added[0] != actor &&
		(added[0] == m.DM[0] || added[0] == m.DM[1])
}

// decode returns the metadata of a context; what was decoded once is shared.
func (s *step) decode(exts mls.Extensions) (*Metadata, error) {
	digest := metadataDigest(exts)
	if s.meta != nil && s.meta.digest == digest {
		return s.meta, nil
	}
	key := sha256.Sum256(append([]byte("metadata"), digest[:]...))
	if m, ok := s.recall(key).(*Metadata); ok {
		return m, nil
	}
	m, err := decodeMetadata(exts)
	if err == nil && s.env.Shared != nil {
		s.env.Shared.Put(key, m)
	}
	return m, err
}
