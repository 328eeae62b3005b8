package group

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/proto/contents"
)

// The transcript is what each member writes into its own history when the group
// changes: a GroupUpdated content that nobody sends. Its message id is made
// like any other's, so all members have the same one.

// transcriptOf tells how the metadata changed by one commit; nil where there is
// nothing to tell. Lists are sorted, so that all tell it in the same bytes.
func transcriptOf(actor string, before, after *Metadata, leaving []string) []byte {
	u := &contents.GroupUpdated{InitiatedByInboxId: actor}
	asked := setOf(leaving)
	for _, inbox := range slices.Sorted(maps.Keys(after.Members)) {
		if _, was := before.Members[inbox]; !was {
			u.AddedInboxes = append(u.AddedInboxes, updatedInbox(inbox))
		}
	}
	for _, inbox := range slices.Sorted(maps.Keys(before.Members)) {
		if _, is := after.Members[inbox]; is {
			continue
		}
		if asked[inbox] {
			u.LeftInboxes = append(u.LeftInboxes, updatedInbox(inbox))
		} else {
			u.RemovedInboxes = append(u.RemovedInboxes, updatedInbox(inbox))
		}
	}
	for _, name := range changedAttributes(before, after) {
		change := &contents.GroupUpdated_MetadataFieldChange{FieldName: name}
		if v, ok := before.Attributes[name]; ok {
			change.OldValue = proto.String(v)
		}
		if v, ok := after.Attributes[name]; ok {
			change.NewValue = proto.String(v)
		}
		u.MetadataFieldChanges = append(u.MetadataFieldChanges, change)
	}
	u.AddedAdminInboxes = updatedInboxes(missingFrom(before.Admins, after.Admins))
	u.RemovedAdminInboxes = updatedInboxes(missingFrom(after.Admins, before.Admins))
	u.AddedSuperAdminInboxes = updatedInboxes(missingFrom(before.SuperAdmins, after.SuperAdmins))
	u.RemovedSuperAdminInboxes = updatedInboxes(missingFrom(after.SuperAdmins, before.SuperAdmins))
	if proto.Size(u) == proto.Size(&contents.GroupUpdated{InitiatedByInboxId: actor}) {
		return nil
	}
	return encodeUpdated(u)
}

// encodeUpdated wraps a GroupUpdated as a content without parameters and
// without a fallback.
func encodeUpdated(u *contents.GroupUpdated) []byte {
	return marshal(&contents.EncodedContent{
		Type:    &contents.ContentTypeId{AuthorityId: "xmtp.org", TypeId: "group_updated", VersionMajor: 1},
		Content: marshal(u),
	})
}

func updatedInbox(inbox string) *contents.GroupUpdated_Inbox {
	return &contents.GroupUpdated_Inbox{InboxId: inbox}
}

func updatedInboxes(list []string) (out []*contents.GroupUpdated_Inbox) {
	for _, inbox := range list {
		out = append(out, updatedInbox(inbox))
	}
	return out
}

// missingFrom returns what is in list and not in known, sorted and once each.
func missingFrom(known, list []string) (out []string) {
	set := setOf(known)
	for _, s := range list {
		if !set[s] {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// setOf is a list whose entries are looked up: lists in a group's context are as
// long as a member likes.
func setOf(list []string) map[string]bool {
	set := make(map[string]bool, len(list))
	for _, s := range list {
		set[s] = true
	}
	return set
}

// changedAttributes returns the names of attributes that differ, sorted.
func changedAttributes(before, after *Metadata) (names []string) {
	for name, v := range after.Attributes {
		if old, was := before.Attributes[name]; !was || old != v {
			names = append(names, name)
		}
	}
	for name := range before.Attributes {
		if _, is := after.Attributes[name]; !is {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// commitKey is the idempotency key of a commit's transcript.
func commitKey(t time.Time) string { return strconv.FormatInt(nanos(t), 10) }

// welcomeKey is the idempotency key of a welcome's transcript: the time it was
// accepted, as people write it, with as many groups of three digits of the
// second as it needs.
func welcomeKey(t time.Time) string {
	layout := "2006-01-02 15:04:05"
	switch ns := t.Nanosecond(); {
	case ns == 0:
	case ns%1e6 == 0:
		layout += ".000"
	case ns%1e3 == 0:
		layout += ".000000"
	default:
		layout += ".000000000"
	}
	return t.UTC().Format(layout) + " UTC_welcome_added"
}

// welcomeTranscript tells that the adder added this installation's inbox.
func welcomeTranscript(adder, self string) []byte {
	return encodeUpdated(&contents.GroupUpdated{
		InitiatedByInboxId: adder,
		AddedInboxes:       []*contents.GroupUpdated_Inbox{updatedInbox(self)},
	})
}

// isLeaveRequest reports whether a content asks for its sender's removal.
func isLeaveRequest(content []byte) bool {
	var authority, name []byte
	_ = eachBytesField(content, func(n protowire.Number, v []byte) {
		if n != 1 { // EncodedContent.type
			return
		}
		_ = eachBytesField(v, func(n protowire.Number, v []byte) {
			switch n {
			case 1:
				authority = v
			case 2:
				name = v
			}
		})
	})
	return string(authority) == "xmtp.org" && string(name) == "leave_request"
}

// leaves notes that a member asked to go: when it is removed, it left.
func (s *step) leaves(inbox string) {
	if s.meta.Kind == KindDM || s.meta.RoleOf(inbox) == SuperAdmin || slices.Contains(s.leaving, inbox) {
		return
	}
	s.leaving = slices.Sorted(slices.Values(append(slices.Clone(s.leaving), inbox)))
	s.dirt = true
}

// left forgets those who are gone.
func (s *step) left(after *Metadata) {
	s.leaving = slices.DeleteFunc(slices.Clone(s.leaving), func(inbox string) bool {
		_, member := after.Members[inbox]
		return !member
	})
}

// Leaving returns the members who asked to be removed.
func (r *Replica) Leaving() []string { return slices.Clone(r.leaving) }
