package group

import (
	"bytes"
	"errors"
	"fmt"
	"maps"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/proto/contents"
)

// Permissions are data in the group's context: who may do what. They are
// evaluated by everyone on every commit, so a client cannot grant itself
// anything.

// A Rule is the base of a policy.
type Rule uint8

const (
	Allow        Rule = iota + 1 // every member
	Deny                         // nobody
	IfAdmin                      // admins and super admins
	IfSuperAdmin                 // super admins
)

func (r Rule) String() string {
	switch r {
	case Allow:
		return "allow"
	case Deny:
		return "deny"
	case IfAdmin:
		return "admin_or_super_admin"
	case IfSuperAdmin:
		return "super_admin"
	}
	return "unspecified"
}

// A Policy is a Rule, or, where Rule is zero, a condition over others: All of
// them or Any of them must permit.
type Policy struct {
	Rule Rule
	All  []Policy
	Any  []Policy
}

// Role is what a member is by the group's mutable metadata.
type Role uint8

const (
	Member Role = iota
	Admin
	SuperAdmin
)

// permits evaluates the policy for a member of that role.
func (p Policy) permits(role Role) bool {
	switch {
	case p.Rule == Allow:
		return true
	case p.Rule == IfAdmin:
		return role >= Admin
	case p.Rule == IfSuperAdmin:
		return role == SuperAdmin
	case len(p.All) > 0:
		for _, q := range p.All {
			if !q.permits(role) {
				return false
			}
		}
		return true
	}
	for _, q := range p.Any {
		if q.permits(role) {
			return true
		}
	}
	return false
}

func (p Policy) String() string {
	switch {
	case len(p.All) > 0:
		return fmt.Sprintf("all%v", p.All)
	case len(p.Any) > 0:
		return fmt.Sprintf("any%v", p.Any)
	}
	return p.Rule.String()
}

// Permissions is a whole policy set (GroupMutablePermissionsV1).
type Permissions struct {
	AddMember         Policy
	RemoveMember      Policy
	Metadata          map[string]Policy // by attribute
	AddAdmin          Policy
	RemoveAdmin       Policy
	UpdatePermissions Policy // carried along; only super admins may in fact, see permitsChange
}

// metadataPolicy is the policy of one attribute. Attributes without one belong
// to admins, those that start with an underscore to super admins.
func (p *Permissions) metadataPolicy(attribute string) Policy {
	if q, ok := p.Metadata[attribute]; ok {
		return q
	}
	if len(attribute) > 0 && attribute[0] == '_' {
		return Policy{Rule: IfSuperAdmin}
	}
	return Policy{Rule: IfAdmin}
}

func (p *Permissions) equal(q *Permissions) bool {
	return bytes.Equal(p.encode(), q.encode())
}

// A Preset is a named policy set.
type Preset uint8

const (
	// PresetDefault is XMTP's today: everyone adds and edits, removing stays
	// with admins.
	PresetDefault Preset = iota
	// PresetAdminOnly leaves every change to admins; at first that is the creator.
	PresetAdminOnly
	// PresetAllMembers lets everyone add, remove and edit.
	PresetAllMembers
)

func uniform(r Rule, attributes ...string) map[string]Policy {
	m := make(map[string]Policy, len(attributes))
	for _, a := range attributes {
		m[a] = Policy{Rule: r}
	}
	return m
}

// Permissions returns the preset's policy set.
func (p Preset) Permissions() Permissions {
	edit, disappear, add, remove := Allow, IfAdmin, Allow, IfAdmin
	switch p {
	case PresetAdminOnly:
		edit, add = IfAdmin, IfAdmin
	case PresetAllMembers:
		remove, disappear = Allow, Allow
	}
	set := Permissions{
		AddMember:         Policy{Rule: add},
		RemoveMember:      Policy{Rule: remove},
		Metadata:          uniform(edit, AttributeName, AttributeDescription, AttributeImageURL, AttributeAppData),
		AddAdmin:          Policy{Rule: IfSuperAdmin},
		RemoveAdmin:       Policy{Rule: IfSuperAdmin},
		UpdatePermissions: Policy{Rule: IfSuperAdmin},
	}
	maps.Copy(set.Metadata, uniform(disappear, AttributeDisappearFrom, AttributeDisappearIn))
	maps.Copy(set.Metadata, uniform(IfSuperAdmin, AttributeMinimumVersion))
	return set
}

// dmPermissions is the policy set of a direct message: two members, for good.
func dmPermissions() Permissions {
	deny := Policy{Rule: Deny}
	return Permissions{
		AddMember: deny, RemoveMember: deny, AddAdmin: deny, RemoveAdmin: deny, UpdatePermissions: deny,
		Metadata: uniform(Allow, AttributeName, AttributeDescription, AttributeImageURL, AttributeAppData,
			AttributeDisappearFrom, AttributeDisappearIn, AttributeMinimumVersion),
	}
}

// maxPolicyDepth is what a peer with the usual limit of 100 nested protobuf
// messages can read: each condition takes two of them.
const maxPolicyDepth = 48

var (
	errPolicyMissing = errors.New("group: policy set lacks a policy")
	errPolicyKind    = errors.New("group: policy of no known kind")
	errPolicyEmpty   = errors.New("group: policy condition over nothing")
	errPolicyDepth   = errors.New("group: policies nested too deeply")
)

// decodePermissions reads the extension 0xff02.
func decodePermissions(b []byte) (*Permissions, error) {
	var m contents.GroupMutablePermissionsV1
	if err := proto.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("group: decode permissions: %w", err)
	}
	s := m.GetPolicies()
	if s == nil {
		return nil, errPolicyMissing
	}
	p := &Permissions{Metadata: make(map[string]Policy, len(s.UpdateMetadataPolicy))}
	var err error
	membership := func(m *contents.MembershipPolicy) (q Policy) {
		if err == nil {
			q, err = decodeMembershipPolicy(m, 0)
		}
		return q
	}
	permission := func(m *contents.PermissionsUpdatePolicy) (q Policy) {
		if err == nil {
			q, err = decodePermissionPolicy(m, 0)
		}
		return q
	}
	p.AddMember = membership(s.AddMemberPolicy)
	p.RemoveMember = membership(s.RemoveMemberPolicy)
	p.AddAdmin = permission(s.AddAdminPolicy)
	p.RemoveAdmin = permission(s.RemoveAdminPolicy)
	p.UpdatePermissions = permission(s.UpdatePermissionsPolicy)
	for name, m := range s.UpdateMetadataPolicy {
		if err == nil {
			p.Metadata[name], err = decodeMetadataPolicy(m, 0)
		}
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// conditions decodes the policies below an "and" or "any".
func conditions[T any](list []T, depth int, decode func(T, int) (Policy, error)) ([]Policy, error) {
	if len(list) == 0 {
		return nil, errPolicyEmpty
	}
	if depth >= maxPolicyDepth {
		return nil, errPolicyDepth
	}
	out := make([]Policy, len(list))
	for i, m := range list {
		var err error
		if out[i], err = decode(m, depth+1); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// base maps a wire number to a rule; the two bases number theirs differently.
func base(n int32, rules ...Rule) (Policy, error) {
	if n < 1 || int(n) > len(rules) {
		return Policy{}, errPolicyKind
	}
	return Policy{Rule: rules[n-1]}, nil
}

func decodeMembershipPolicy(m *contents.MembershipPolicy, depth int) (p Policy, err error) {
	switch k := m.GetKind().(type) {
	case *contents.MembershipPolicy_Base:
		return base(int32(k.Base), Allow, Deny, IfAdmin, IfSuperAdmin)
	case *contents.MembershipPolicy_AndCondition_:
		p.All, err = conditions(k.AndCondition.GetPolicies(), depth, decodeMembershipPolicy)
	case *contents.MembershipPolicy_AnyCondition_:
		p.Any, err = conditions(k.AnyCondition.GetPolicies(), depth, decodeMembershipPolicy)
	default:
		err = errPolicyMissing
	}
	return p, err
}

func decodeMetadataPolicy(m *contents.MetadataPolicy, depth int) (p Policy, err error) {
	switch k := m.GetKind().(type) {
	case *contents.MetadataPolicy_Base:
		return base(int32(k.Base), Allow, Deny, IfAdmin, IfSuperAdmin)
	case *contents.MetadataPolicy_AndCondition_:
		p.All, err = conditions(k.AndCondition.GetPolicies(), depth, decodeMetadataPolicy)
	case *contents.MetadataPolicy_AnyCondition_:
		p.Any, err = conditions(k.AnyCondition.GetPolicies(), depth, decodeMetadataPolicy)
	default:
		err = errPolicyMissing
	}
	return p, err
}

func decodePermissionPolicy(m *contents.PermissionsUpdatePolicy, depth int) (p Policy, err error) {
	switch k := m.GetKind().(type) {
	case *contents.PermissionsUpdatePolicy_Base:
		return base(int32(k.Base), Deny, IfAdmin, IfSuperAdmin)
	case *contents.PermissionsUpdatePolicy_AndCondition_:
		p.All, err = conditions(k.AndCondition.GetPolicies(), depth, decodePermissionPolicy)
	case *contents.PermissionsUpdatePolicy_AnyCondition_:
		p.Any, err = conditions(k.AnyCondition.GetPolicies(), depth, decodePermissionPolicy)
	default:
		err = errPolicyMissing
	}
	return p, err
}

// encode writes the extension 0xff02; equal sets give equal bytes.
func (p *Permissions) encode() []byte {
	s := &contents.PolicySet{
		AddMemberPolicy:         encodeMembershipPolicy(p.AddMember),
		RemoveMemberPolicy:      encodeMembershipPolicy(p.RemoveMember),
		UpdateMetadataPolicy:    make(map[string]*contents.MetadataPolicy, len(p.Metadata)),
		AddAdminPolicy:          encodePermissionPolicy(p.AddAdmin),
		RemoveAdminPolicy:       encodePermissionPolicy(p.RemoveAdmin),
		UpdatePermissionsPolicy: encodePermissionPolicy(p.UpdatePermissions),
	}
	for name, q := range p.Metadata {
		s.UpdateMetadataPolicy[name] = encodeMetadataPolicy(q)
	}
	return marshal(&contents.GroupMutablePermissionsV1{Policies: s})
}

func each[T any](list []Policy, encode func(Policy) T) []T {
	out := make([]T, len(list))
	for i, p := range list {
		out[i] = encode(p)
	}
	return out
}

func encodeMembershipPolicy(p Policy) *contents.MembershipPolicy {
	switch {
	case len(p.All) > 0:
		return &contents.MembershipPolicy{Kind: &contents.MembershipPolicy_AndCondition_{
			AndCondition: &contents.MembershipPolicy_AndCondition{Policies: each(p.All, encodeMembershipPolicy)}}}
	case len(p.Any) > 0:
		return &contents.MembershipPolicy{Kind: &contents.MembershipPolicy_AnyCondition_{
			AnyCondition: &contents.MembershipPolicy_AnyCondition{Policies: each(p.Any, encodeMembershipPolicy)}}}
	}
	return &contents.MembershipPolicy{Kind: &contents.MembershipPolicy_Base{
		Base: contents.MembershipPolicy_BasePolicy(p.Rule)}}
}

func encodeMetadataPolicy(p Policy) *contents.MetadataPolicy {
	switch {
	case len(p.All) > 0:
		return &contents.MetadataPolicy{Kind: &contents.MetadataPolicy_AndCondition_{
			AndCondition: &contents.MetadataPolicy_AndCondition{Policies: each(p.All, encodeMetadataPolicy)}}}
	case len(p.Any) > 0:
		return &contents.MetadataPolicy{Kind: &contents.MetadataPolicy_AnyCondition_{
			AnyCondition: &contents.MetadataPolicy_AnyCondition{Policies: each(p.Any, encodeMetadataPolicy)}}}
	}
	return &contents.MetadataPolicy{Kind: &contents.MetadataPolicy_Base{
		Base: contents.MetadataPolicy_MetadataBasePolicy(p.Rule)}}
}

// encodePermissionPolicy: this base has no "allow", so its numbers are one less.
func encodePermissionPolicy(p Policy) *contents.PermissionsUpdatePolicy {
	switch {
	case len(p.All) > 0:
		return &contents.PermissionsUpdatePolicy{Kind: &contents.PermissionsUpdatePolicy_AndCondition_{
			AndCondition: &contents.PermissionsUpdatePolicy_AndCondition{Policies: each(p.All, encodePermissionPolicy)}}}
	case len(p.Any) > 0:
		return &contents.PermissionsUpdatePolicy{Kind: &contents.PermissionsUpdatePolicy_AnyCondition_{
			AnyCondition: &contents.PermissionsUpdatePolicy_AnyCondition{Policies: each(p.Any, encodePermissionPolicy)}}}
	}
	return &contents.PermissionsUpdatePolicy{Kind: &contents.PermissionsUpdatePolicy_Base{
		Base: contents.PermissionsUpdatePolicy_PermissionsBasePolicy(p.Rule - 1)}}
}
