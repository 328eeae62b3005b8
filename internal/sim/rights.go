package sim

import (
	"maps"
	"slices"

	"github.com/conclave-chat/conclave/group"
)

// rights looks at every epoch's commit once more: what it did is what its committer
// was allowed to do by the epoch before. The rules are XMTP's, told anew, and on
// what the epochs show rather than on what commits say.
func (g *truth) rights() {
	for _, e := range g.epochs {
		if e.before == nil || e.sealed == nil {
			continue
		}
		a, b := e.before.metadata, e.metadata
		inbox := e.sealed.from.person.inbox
		if what := exceeds(a, b, a.RoleOf(inbox)); what != "" {
			g.fail("policy", "epoch %d: %s, a %v, %s", e.number, e.sealed.from.name, a.RoleOf(inbox), what)
		}
	}
}

// exceeds says what of a change is beyond a role; empty: nothing.
func exceeds(a, b *group.Metadata, role group.Role) string {
	super := role == group.SuperAdmin
	added, removed := difference(a.Members, b.Members), difference(b.Members, a.Members)
	newAdmins, oldAdmins := missing(a.Admins, b.Admins), missing(b.Admins, a.Admins)
	newSupers, oldSupers := missing(a.SuperAdmins, b.SuperAdmins), missing(b.SuperAdmins, a.SuperAdmins)
	switch {
	case len(added) > 0 && !allows(a.Permissions.AddMember, role):
		return "adds members"
	case len(removed) > 0 && !allows(a.Permissions.RemoveMember, role):
		return "removes members"
	case slices.ContainsFunc(removed, func(inbox string) bool { return slices.Contains(a.SuperAdmins, inbox) }):
		return "removes a super admin"
	case len(newAdmins) > 0 && !allows(a.Permissions.AddAdmin, role):
		return "makes admins"
	case len(oldAdmins) > 0 && !allows(a.Permissions.RemoveAdmin, role):
		return "takes admins their role"
	case (len(newSupers) > 0 || len(oldSupers) > 0) && !super:
		return "changes the super admins"
	case len(a.SuperAdmins) > 0 && len(b.SuperAdmins) == 0:
		return "leaves no super admin"
	case a.Kind != b.Kind || a.Creator != b.Creator || a.DM != b.DM:
		return "changes what never changes"
	case !samePermissions(&a.Permissions, &b.Permissions) && !super:
		return "changes the permissions"
	}
	for inbox, at := range b.Members {
		if was, known := a.Members[inbox]; known && at < was {
			return "takes an inbox back to an older identity"
		}
	}
	for name := range attributes(a, b) {
		policy, named := a.Permissions.Metadata[name]
		switch {
		case a.Attributes[name] == b.Attributes[name]:
		case named && allows(policy, role), !named && super, !named && name[0] != '_' && role == group.Admin:
		default:
			return "changes " + name
		}
	}
	return ""
}

func attributes(a, b *group.Metadata) map[string]string {
	all := maps.Clone(a.Attributes)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, b.Attributes)
	delete(all, "")
	return all
}

// allows evaluates a policy for a role.
func allows(p group.Policy, role group.Role) bool {
	switch {
	case len(p.All) > 0:
		return !slices.ContainsFunc(p.All, func(q group.Policy) bool { return !allows(q, role) })
	case len(p.Any) > 0:
		return slices.ContainsFunc(p.Any, func(q group.Policy) bool { return allows(q, role) })
	}
	return p.Rule == group.Allow || p.Rule == group.IfAdmin && role != group.Member || p.Rule == group.IfSuperAdmin && role == group.SuperAdmin
}

func samePermissions(a, b *group.Permissions) bool {
	same := func(p, q group.Policy) bool { return p.String() == q.String() }
	return same(a.AddMember, b.AddMember) && same(a.RemoveMember, b.RemoveMember) && same(a.AddAdmin, b.AddAdmin) &&
		same(a.RemoveAdmin, b.RemoveAdmin) && same(a.UpdatePermissions, b.UpdatePermissions) && maps.EqualFunc(a.Metadata, b.Metadata, same)
}

// difference is who is in b and not in a.
func difference(a, b map[string]uint64) (list []string) {
	for inbox := range b {
		if _, both := a[inbox]; !both {
			list = append(list, inbox)
		}
	}
	return list
}

// missing is what is in b and not in a.
func missing(a, b []string) (list []string) {
	known := make(map[string]bool, len(a))
	for _, inbox := range a {
		known[inbox] = true
	}
	for _, inbox := range b {
		if !known[inbox] {
			list = append(list, inbox)
		}
	}
	return list
}
