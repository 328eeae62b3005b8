package group

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/contents"
)

// needsFetch reports whether a command is planned from fresh identities.
func needsFetch(command Input) bool {
	switch command.(type) {
	case AddMembers, RemoveMembers, Refresh, Readd, CheckMembers:
		return true
	}
	return false
}

// fetchList names the inboxes that a membership change looks at. The own one is
// among them as long as the group cites nothing for it.
func (s *step) fetchList(command Input) []string {
	var list []string
	switch w := command.(type) {
	case AddMembers:
		list = slices.Clone(w.Inboxes)
	case RemoveMembers:
		list = slices.Clone(w.Inboxes)
	case Readd:
		list = []string{w.Inbox}
	case CheckMembers:
		list = slices.Sorted(maps.Keys(s.meta.Members))
	case Refresh:
		if list = slices.Clone(w.Inboxes); len(list) == 0 {
			list = slices.Sorted(maps.Keys(s.meta.Members))
		}
	}
	list = slices.DeleteFunc(list, func(inbox string) bool {
		_, err := identity.ParseInboxID(inbox)
		return err != nil // a member's that some client made up: there is nothing to look up
	})
	if _, check := command.(CheckMembers); !check && s.meta.Members[s.env.Inbox] == 0 && !slices.Contains(list, s.env.Inbox) {
		list = slices.Insert(list, 0, s.env.Inbox) // first: a commit that is split must cite it at once
	}
	return list
}

// fetched: the plan can go on.
func (s *step) fetched(in Fetched) error {
	it := s.find(in.Intent)
	if it == nil || it.state != stateFetching {
		return nil
	}
	it = s.change(it, func(it *intent) { it.state, it.got = statePlanned, &in })
	for _, inbox := range in.Inboxes {
		if inbox.Inbox == s.env.Inbox && s.revokedAt(inbox.Sequence) {
			s.revoke(it, inbox.Sequence)
			return nil
		}
	}
	return nil
}

// A commitDraft is what an intent wants of the current epoch.
type commitDraft struct {
	proposals   []mls.Proposal
	joiners     []joiner
	unreachable []string
	remaining   []string
	at          time.Time
	moot        bool
}

// draftCommit plans against the current epoch. Permissions are looked at again:
// the group may have changed since the command.
func (s *step) draftCommit(it *intent) (commitDraft, error) {
	exts := s.group.Extensions()
	mutable, _ := exts.Get(extMutableMetadata)
	switch w := it.command.(type) {
	case AddMembers:
		if err := s.mayAdd(w.Inboxes); err != nil {
			return commitDraft{}, err
		}
		d, err := s.draftMembership(it.got, nil)
		if left := s.newcomers(d.unreachable, w.Inboxes); err == nil && len(left) > 0 {
			d.unreachable = left
			return d, fmt.Errorf("%w: %v", ErrNotReachable, left) // all of them, or nobody
		}
		return d, err
	case RemoveMembers:
		var still []string
		for _, inbox := range w.Inboxes {
			if _, ok := s.meta.Members[inbox]; ok {
				still = append(still, inbox)
			}
		}
		if len(still) == 0 {
			return commitDraft{moot: true}, nil
		}
		if err := s.mayRemove(still); err != nil {
			return commitDraft{}, err
		}
		return s.draftMembership(it.got, still)
	case Refresh:
		return s.draftMembership(s.stillMembers(it.got), nil)
	case Readd:
		return s.draftReadd(w, it.got)
	case UpdateMetadata:
		if err := s.mayUpdateMetadata(w); err != nil {
			return commitDraft{}, err
		}
		data, err := editMutable(mutable, func(m *contents.GroupMutableMetadataV1) { m.Attributes[w.Field] = w.Value })
		old, was := s.meta.Attributes[w.Field]
		return contextDraft(exts, extMutableMetadata, data, was && old == w.Value), err
	case UpdateAdmins:
		if err := s.mayUpdateAdmins(w); err != nil {
			return commitDraft{}, err
		}
		changed := false
		data, err := editMutable(mutable, func(m *contents.GroupMutableMetadataV1) { changed = editAdmins(m, w) })
		return contextDraft(exts, extMutableMetadata, data, !changed), err
	case UpdatePermissions:
		if err := s.mayUpdatePermissions(w); err != nil {
			return commitDraft{}, err
		}
		return contextDraft(exts, extPermissions, w.Permissions.encode(), s.meta.Permissions.equal(&w.Permissions)), nil
	case KeyUpdate:
		return commitDraft{}, nil // no proposal, only a path
	case dueKeyUpdate:
		return commitDraft{moot: !s.keyUpdateIsDue(w.at)}, nil
	}
	return commitDraft{}, fmt.Errorf("%w: nothing to commit for %T", ErrInvalid, it.command)
}

// newcomers are those of some inboxes that a command wants in, and that are not.
func (s *step) newcomers(some, wanted []string) []string {
	return slices.DeleteFunc(slices.Clone(some), func(inbox string) bool {
		_, member := s.meta.Members[inbox]
		return member || !slices.Contains(wanted, inbox)
	})
}

// stillMembers leaves out whom somebody removed since it was fetched: a Refresh
// brings nobody back.
func (s *step) stillMembers(got *Fetched) *Fetched {
	still := *got
	still.Inboxes = slices.DeleteFunc(slices.Clone(got.Inboxes), func(in FetchedInbox) bool {
		_, member := s.meta.Members[in.Inbox]
		return !member
	})
	return &still
}

// contextDraft replaces one extension of the group's context. The proposal
// carries the whole list: what it leaves out would be gone.
func contextDraft(exts mls.Extensions, t mls.ExtensionType, data []byte, moot bool) commitDraft {
	return commitDraft{
		proposals: []mls.Proposal{mls.GroupContextExtensions{Extensions: replaceExtension(exts, t, data)}},
		moot:      moot,
	}
}

// editAdmins changes a list and reports whether that made a difference.
func editAdmins(m *contents.GroupMutableMetadataV1, w UpdateAdmins) bool {
	list := m.AdminList
	if w.Change == AddSuperAdmin || w.Change == RemoveSuperAdmin {
		list = m.SuperAdminList
	}
	at := slices.Index(list.InboxIds, w.Inbox)
	switch add := w.Change == AddAdmin || w.Change == AddSuperAdmin; {
	case add && at < 0:
		list.InboxIds = append(list.InboxIds, w.Inbox)
	case !add && at >= 0:
		list.InboxIds = slices.Delete(list.InboxIds, at, at+1)
	default:
		return false
	}
	return true
}

// commitOverhead is what a commit holds beside its proposals' key packages: a
// path through a large tree that nobody has warmed, and the context.
const commitOverhead = 64 << 10

// draftMembership brings the tree and the membership list to what the identity
// logs say: inboxes that were fetched as they are now, and without those to
// remove. Proposals stand in the order of real clients: adds, context, removes.
func (s *step) draftMembership(got *Fetched, remove []string) (commitDraft, error) {
	p := membershipPlan{step: s, at: got.Now, members: maps.Clone(s.meta.Members)}
	for _, key := range s.meta.Failed {
		p.failed = append(p.failed, bytes.Clone(key))
	}
	size := commitOverhead
	for i, in := range got.Inboxes {
		if slices.Contains(remove, in.Inbox) {
			continue // looked up only so that its identities are known
		}
		added := p.update(in)
		if size += added; size > s.env.Limits.CommitBytes && added > 0 && i+1 < len(got.Inboxes) {
			later := membershipPlan{step: s, at: got.Now, members: maps.Clone(s.meta.Members)}
			for _, rest := range got.Inboxes[i+1:] {
				p.draft.remaining = append(p.draft.remaining, rest.Inbox)
				later.update(rest)
			}
			p.draft.unreachable = append(p.draft.unreachable, later.draft.unreachable...)
			break
		}
	}
	for _, inbox := range remove {
		if err := p.remove(inbox); err != nil {
			return commitDraft{}, err
		}
	}
	d := p.draft
	d.at = got.Now
	if len(p.adds)+len(p.drops) == 0 && maps.Equal(p.members, s.meta.Members) {
		if len(d.unreachable) > 0 && len(d.unreachable) == len(got.Inboxes) {
			return d, fmt.Errorf("%w: %v", ErrNotReachable, d.unreachable)
		}
		d.moot = true
		return d, nil
	}
	exts := replaceExtension(s.group.Extensions(), extMembership, encodeMembership(p.members, p.failed))
	d.proposals = append(p.adds, mls.GroupContextExtensions{Extensions: exts})
	d.proposals = append(d.proposals, p.drops...)
	return d, nil
}

// A membershipPlan collects what one commit changes.
type membershipPlan struct {
	*step
	at      time.Time
	members map[string]uint64
	failed  [][]byte
	adds    []mls.Proposal
	drops   []mls.Proposal
	draft   commitDraft
}

// update takes an inbox to its newest state and returns about how many bytes
// that adds to the commit.
func (p *membershipPlan) update(in FetchedInbox) int {
	old, was := p.members[in.Inbox]
	if was && in.Sequence <= old {
		return 0
	}
	now, exact := p.env.Identity(in.Inbox, in.Sequence, time.Time{})
	if in.Sequence == 0 || !exact {
		p.draft.unreachable = append(p.draft.unreachable, in.Inbox)
		return 0
	}
	before, _ := p.citedNow(in.Inbox, old)
	had, has := keySet(before), keySet(installationsOf(now))
	packages := map[string]*KeyPackage{}
	for _, b := range in.KeyPackages {
		// One that is no good fails its own installation and nobody else's.
		if k, err := ParseKeyPackage(p.env.Realm, b); err == nil && k.Inbox == in.Inbox && k.ValidAt(p.at) {
			packages[string(k.Installation())] = k
		}
	}
	size, reached := 0, false
	var failed [][]byte
	for _, key := range installationsOf(now) {
		if _, member := p.group.Find(key); member {
			reached = true
			continue
		}
		if had[string(key)] {
			continue // failed before: only what an inbox gained may be added
		}
		k := packages[string(key)]
		if k == nil {
			failed = append(failed, key)
			continue
		}
		reached = true
		size += len(k.MLS.Bytes())
		p.adds = append(p.adds, mls.Add{KeyPackage: k.MLS})
		p.draft.joiners = append(p.draft.joiners, joinerOf(k))
		p.failed = slices.DeleteFunc(p.failed, func(f []byte) bool { return bytes.Equal(f, key) })
	}
	if !reached && !was {
		p.draft.unreachable = append(p.draft.unreachable, in.Inbox)
		return 0
	}
	for _, key := range failed {
		p.fail(key)
	}
	for _, key := range before {
		if !has[string(key)] {
			p.drop(key)
		}
	}
	p.members[in.Inbox] = in.Sequence
	return size
}

// remove takes an inbox out with all installations that it had when the group
// last looked.
func (p *membershipPlan) remove(inbox string) error {
	cited, known := p.citedNow(inbox, p.members[inbox])
	if !known {
		return fmt.Errorf("%w: identity of %s at %d is not known", ErrRejected, inbox, p.members[inbox])
	}
	for _, key := range cited {
		p.drop(key)
	}
	delete(p.members, inbox)
	return nil
}

// citedNow lists the installations that the group has an inbox with, as the judges of
// the commit will see them. They are not known where nothing of the inbox was looked
// up; one that is nobody's has none.
func (p *membershipPlan) citedNow(inbox string, seq uint64) (keys [][]byte, known bool) {
	if _, err := identity.ParseInboxID(inbox); err != nil || seq == 0 {
		return nil, true
	}
	state, exact := p.env.Identity(inbox, seq, time.Time{})
	if exact {
		return installationsOf(state), true
	}
	return p.leavesByInbox()[inbox], state != nil
}

// drop removes an installation's leaf. One that was never in the tree must be
// named as failed, or receivers miss its removal.
func (p *membershipPlan) drop(key []byte) {
	if leaf, ok := p.group.Find(key); ok {
		p.drops = append(p.drops, mls.Remove{Removed: leaf})
		p.failed = slices.DeleteFunc(p.failed, func(f []byte) bool { return bytes.Equal(f, key) }) // as it once was
		return
	}
	p.fail(key)
}

func (p *membershipPlan) fail(key []byte) {
	if !slices.ContainsFunc(p.failed, func(f []byte) bool { return bytes.Equal(f, key) }) {
		p.failed = append(p.failed, key)
	}
}
