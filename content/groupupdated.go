package content

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/proto/contents"
)

// GroupUpdated tells what a commit changed (xmtp.org/group_updated:1.0). It is
// never sent: every member writes it down from the commit, and since the order
// of every list is part of the message's identity, all write the same.
type GroupUpdated struct {
	InitiatedBy        string   // all inboxes by id
	Added              []string // inboxes, as are the next ones
	Removed            []string
	Left               []string // removed after they had asked for it
	Changes            []FieldChange
	AddedAdmins        []string
	RemovedAdmins      []string
	AddedSuperAdmins   []string
	RemovedSuperAdmins []string
}

// A FieldChange is a change of one attribute of a group. Old is nil where the
// attribute was not set, New where it no longer is.
type FieldChange struct {
	Field    string
	Old, New *string
}

// The names of the reserved types. The second one is XMTP's earlier form of the
// first; nobody writes it any more.
const (
	groupUpdatedName     = "group_updated"
	membershipChangeName = "group_membership_change"
)

// Type implements Content.
func (*GroupUpdated) Type() TypeID { return TypeID{"xmtp.org", groupUpdatedName, 1, 0} }

// GroupUpdatedCodec carries *GroupUpdated. No registry has it: see DecodeTranscript.
type GroupUpdatedCodec struct{}

func (GroupUpdatedCodec) Type() TypeID            { return (*GroupUpdated)(nil).Type() }
func (GroupUpdatedCodec) Fallback(Content) string { return "" }
func (GroupUpdatedCodec) ShouldPush(Content) bool { return false }

// Encode implements Codec.
func (GroupUpdatedCodec) Encode(c Content) (*contents.EncodedContent, error) {
	u, ok := c.(*GroupUpdated)
	if !ok || u == nil {
		return nil, fmt.Errorf("%w: not a GroupUpdated", ErrMalformed)
	}
	out := &contents.GroupUpdated{
		InitiatedByInboxId:       u.InitiatedBy,
		AddedInboxes:             inboxes(u.Added),
		RemovedInboxes:           inboxes(u.Removed),
		LeftInboxes:              inboxes(u.Left),
		AddedAdminInboxes:        inboxes(u.AddedAdmins),
		RemovedAdminInboxes:      inboxes(u.RemovedAdmins),
		AddedSuperAdminInboxes:   inboxes(u.AddedSuperAdmins),
		RemovedSuperAdminInboxes: inboxes(u.RemovedSuperAdmins),
	}
	for _, f := range u.Changes {
		out.MetadataFieldChanges = append(out.MetadataFieldChanges, &contents.GroupUpdated_MetadataFieldChange{
			FieldName: f.Field, OldValue: f.Old, NewValue: f.New,
		})
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return &contents.EncodedContent{Content: b}, nil
}

// Decode implements Codec.
func (GroupUpdatedCodec) Decode(e *contents.EncodedContent) (Content, error) {
	in := new(contents.GroupUpdated)
	if err := proto.Unmarshal(e.GetContent(), in); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	u := &GroupUpdated{
		InitiatedBy:        in.GetInitiatedByInboxId(),
		Added:              inboxIDs(in.GetAddedInboxes()),
		Removed:            inboxIDs(in.GetRemovedInboxes()),
		Left:               inboxIDs(in.GetLeftInboxes()),
		AddedAdmins:        inboxIDs(in.GetAddedAdminInboxes()),
		RemovedAdmins:      inboxIDs(in.GetRemovedAdminInboxes()),
		AddedSuperAdmins:   inboxIDs(in.GetAddedSuperAdminInboxes()),
		RemovedSuperAdmins: inboxIDs(in.GetRemovedSuperAdminInboxes()),
	}
	for _, f := range in.GetMetadataFieldChanges() {
		u.Changes = append(u.Changes, FieldChange{f.GetFieldName(), f.OldValue, f.NewValue})
	}
	return u, nil
}

func inboxes(ids []string) (out []*contents.GroupUpdated_Inbox) {
	for _, id := range ids {
		out = append(out, &contents.GroupUpdated_Inbox{InboxId: id})
	}
	return out
}

func inboxIDs(in []*contents.GroupUpdated_Inbox) (ids []string) {
	for _, i := range in {
		ids = append(ids, i.GetInboxId())
	}
	return ids
}
