package group

import (
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/conclave-chat/conclave/identity"
)

// Commands that become commits. A command that is impossible now is an error at
// once. One that has become impossible by the time of its plan fails its intent.

func (s *step) addMembers(in AddMembers) error {
	inboxes, err := s.wanted(in.Inboxes)
	if err != nil {
		return err
	}
	if err := s.mayAdd(inboxes); err != nil {
		return err
	}
	s.queue(AddMembers{Inboxes: inboxes})
	return nil
}

func (s *step) removeMembers(in RemoveMembers) error {
	inboxes, err := s.wanted(in.Inboxes)
	if err != nil {
		return err
	}
	for _, inbox := range inboxes {
		if _, ok := s.meta.Members[inbox]; !ok {
			return fmt.Errorf("%w: inbox %s", ErrNotMember, inbox)
		}
	}
	if err := s.mayRemove(inboxes); err != nil {
		return err
	}
	s.enrol()
	s.queue(RemoveMembers{Inboxes: inboxes})
	return nil
}

func (s *step) refresh(in Refresh) error {
	if err := s.open(); err != nil {
		return err
	}
	s.queue(Refresh{Inboxes: slices.Clone(in.Inboxes)})
	return nil
}

func (s *step) updateMetadata(in UpdateMetadata) error {
	if err := s.mayUpdateMetadata(in); err != nil {
		return err
	}
	s.enrol()
	s.queue(in)
	return nil
}

func (s *step) updatePermissions(in UpdatePermissions) error {
	if err := s.mayUpdatePermissions(in); err != nil {
		return err
	}
	s.enrol()
	s.queue(in)
	return nil
}

func (s *step) updateAdmins(in UpdateAdmins) error {
	if err := s.mayUpdateAdmins(in); err != nil {
		return err
	}
	s.enrol()
	s.queue(in)
	return nil
}

func (s *step) keyUpdate(in KeyUpdate) error {
	if err := s.open(); err != nil {
		return err
	}
	s.enrol()
	s.queue(in)
	return nil
}

// open reports whether the group takes commands of this installation now.
func (s *step) open() error {
	switch refused := s.may().refuses; {
	case refused == nil && s.revoked != 0:
		return ErrRevoked
	case refused == ErrPaused:
		return fmt.Errorf("%w: %s", refused, s.why)
	default:
		return refused
	}
}

func (s *step) queue(command Input) { s.saveIntent(s.begin(command)) }

// enrol makes sure that the group knows its creator's real place in the
// identity log before anything else is sent: until then nobody could check
// what it commits. Adding members does that along the way.
func (s *step) enrol() {
	if s.meta.Members[s.env.Inbox] != 0 || slices.ContainsFunc(s.intents, func(it *intent) bool { return needsFetch(it.command) && !it.isCheck() }) {
		return
	}
	s.queue(Refresh{Inboxes: []string{s.env.Inbox}})
}

// wanted checks a list of inboxes that somebody named.
func (s *step) wanted(inboxes []string) ([]string, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	if len(inboxes) == 0 {
		return nil, fmt.Errorf("%w: no inbox named", ErrInvalid)
	}
	out := slices.Compact(slices.Sorted(slices.Values(inboxes)))
	for _, inbox := range out {
		if _, member := s.meta.Members[inbox]; member {
			continue // whatever its id is, it can be removed
		}
		if _, err := identity.ParseInboxID(inbox); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	return out, nil
}

func (s *step) role() Role { return s.meta.RoleOf(s.env.Inbox) }

// mayAdd: permission and room for those who are not members yet.
func (s *step) mayAdd(inboxes []string) error {
	var added []string
	for _, inbox := range inboxes {
		if _, ok := s.meta.Members[inbox]; !ok {
			added = append(added, inbox)
		}
	}
	if len(added) == 0 {
		return nil
	}
	if !s.meta.Permissions.AddMember.permits(s.role()) && !s.meta.completesDM(s.env.Inbox, added) {
		return fmt.Errorf("%w: add members", ErrForbidden)
	}
	if s.present()+len(added) > s.env.Limits.Members {
		return &GroupFullError{Limit: s.env.Limits.Members}
	}
	return nil
}

// mayRemove: nobody removes a super admin, or itself: a committer cannot take
// its own leaf out.
func (s *step) mayRemove(inboxes []string) error {
	for _, inbox := range inboxes {
		if inbox == s.env.Inbox {
			return fmt.Errorf("%w: an inbox cannot remove itself", ErrInvalid)
		}
		if s.meta.RoleOf(inbox) == SuperAdmin {
			return fmt.Errorf("%w: remove a super admin", ErrForbidden)
		}
	}
	if !s.meta.Permissions.RemoveMember.permits(s.role()) {
		return fmt.Errorf("%w: remove members", ErrForbidden)
	}
	return nil
}

func (s *step) mayUpdateMetadata(in UpdateMetadata) error {
	if err := s.open(); err != nil {
		return err
	}
	switch limit, ok := v3.attributeLimit[in.Field]; {
	case in.Field == "" || !utf8.ValidString(in.Field) || !utf8.ValidString(in.Value):
		return fmt.Errorf("%w: attribute is not UTF-8, or has no name", ErrInvalid)
	case ok && len(in.Value) > limit:
		return fmt.Errorf("%w: %s of %d bytes, at most %d", ErrTooLarge, in.Field, len(in.Value), limit)
	case in.Field == AttributeMinimumVersion && !versionAtLeast(s.env.Version, in.Value):
		return fmt.Errorf("%w: demand version %s of a client that is %s", ErrInvalid, in.Value, s.env.Version)
	case !s.meta.Permissions.metadataPolicy(in.Field).permits(s.role()):
		return fmt.Errorf("%w: change %s", ErrForbidden, in.Field)
	}
	return nil
}

func (s *step) mayUpdatePermissions(in UpdatePermissions) error {
	if err := s.open(); err != nil {
		return err
	}
	if _, err := decodePermissions(in.Permissions.encode()); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if s.role() != SuperAdmin {
		return fmt.Errorf("%w: change permissions", ErrForbidden)
	}
	return nil
}

func (s *step) mayUpdateAdmins(in UpdateAdmins) error {
	if err := s.open(); err != nil {
		return err
	}
	if _, member := s.meta.Members[in.Inbox]; !member && (in.Change == AddAdmin || in.Change == AddSuperAdmin) {
		return fmt.Errorf("%w: inbox %s", ErrNotMember, in.Inbox)
	}
	policy := Policy{Rule: IfSuperAdmin}
	switch in.Change {
	case AddAdmin:
		policy = s.meta.Permissions.AddAdmin
	case RemoveAdmin:
		policy = s.meta.Permissions.RemoveAdmin
	case RemoveSuperAdmin:
		if len(s.meta.SuperAdmins) == 1 && s.meta.SuperAdmins[0] == in.Inbox {
			return fmt.Errorf("%w: remove the last super admin", ErrForbidden)
		}
	case AddSuperAdmin:
	default:
		return fmt.Errorf("%w: admin change %d", ErrInvalid, in.Change)
	}
	if !policy.permits(s.role()) {
		return fmt.Errorf("%w: change admins", ErrForbidden)
	}
	return nil
}
