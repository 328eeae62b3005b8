package group

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

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
	var failed error
	read := func(m proto.Message) Policy {
		q, err := decodePolicy(m.ProtoReflect(), 0)
		if failed == nil {
			failed = err
		}
		return q
	}
	p.AddMember = read(s.AddMemberPolicy)
	p.RemoveMember = read(s.RemoveMemberPolicy)
	p.AddAdmin = read(s.AddAdminPolicy)
	p.RemoveAdmin = read(s.RemoveAdminPolicy)
	p.UpdatePermissions = read(s.UpdatePermissionsPolicy)
	for name, m := range s.UpdateMetadataPolicy {
		p.Metadata[name] = read(m)
	}
	if failed != nil {
		return nil, failed
	}
	return p, nil
}

// encode writes the extension 0xff02; equal sets give equal bytes.
func (p *Permissions) encode() []byte {
	s := &contents.PolicySet{
		AddMemberPolicy:         encodePolicy(p.AddMember, new(contents.MembershipPolicy)),
		RemoveMemberPolicy:      encodePolicy(p.RemoveMember, new(contents.MembershipPolicy)),
		UpdateMetadataPolicy:    make(map[string]*contents.MetadataPolicy, len(p.Metadata)),
		AddAdminPolicy:          encodePolicy(p.AddAdmin, new(contents.PermissionsUpdatePolicy)),
		RemoveAdminPolicy:       encodePolicy(p.RemoveAdmin, new(contents.PermissionsUpdatePolicy)),
		UpdatePermissionsPolicy: encodePolicy(p.UpdatePermissions, new(contents.PermissionsUpdatePolicy)),
	}
	for name, q := range p.Metadata {
		s.UpdateMetadataPolicy[name] = encodePolicy(q, new(contents.MetadataPolicy))
	}
	return marshal(&contents.GroupMutablePermissionsV1{Policies: s})
}

// XMTP has three messages for a policy: of membership, of metadata and of
// permissions. All three have the same fields, and one codec here, which reads them
// by name: a base rule, or a condition over a list of policies.
const (
	fieldKind     = "kind" // the oneof of the other three
	fieldBase     = "base"
	fieldAll      = "and_condition"
	fieldAny      = "any_condition"
	fieldPolicies = "policies" // of a condition
)

var permissionsPolicy = new(contents.PermissionsUpdatePolicy).ProtoReflect().Descriptor()

// bases are the rules of a message's base, in the order of their numbers from 1.
// Those of permissions have no "allow".
func bases(m protoreflect.Message) []Rule {
	if m.Descriptor() == permissionsPolicy {
		return []Rule{Deny, IfAdmin, IfSuperAdmin}
	}
	return []Rule{Allow, Deny, IfAdmin, IfSuperAdmin}
}

// decodePolicy reads one of the three messages, below so many conditions.
func decodePolicy(m protoreflect.Message, depth int) (p Policy, err error) {
	kind := m.WhichOneof(m.Descriptor().Oneofs().ByName(fieldKind))
	if kind == nil {
		return p, errPolicyMissing
	}
	switch value := m.Get(kind); kind.Name() {
	case fieldBase:
		n, rules := value.Enum(), bases(m)
		if n < 1 || int(n) > len(rules) {
			return p, errPolicyKind
		}
		p.Rule = rules[n-1]
	case fieldAll:
		p.All, err = decodeCondition(value.Message(), depth)
	case fieldAny:
		p.Any, err = decodeCondition(value.Message(), depth)
	}
	return p, err
}

func decodeCondition(m protoreflect.Message, depth int) ([]Policy, error) {
	list := m.Get(m.Descriptor().Fields().ByName(fieldPolicies)).List()
	if list.Len() == 0 {
		return nil, errPolicyEmpty
	}
	if depth >= maxPolicyDepth {
		return nil, errPolicyDepth
	}
	out := make([]Policy, list.Len())
	for i := range out {
		var err error
		if out[i], err = decodePolicy(list.Get(i).Message(), depth+1); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// encodePolicy writes a policy into one of the three messages, and returns it. A
// rule that the message does not have is written as its unspecified one.
func encodePolicy[M proto.Message](p Policy, m M) M {
	writePolicy(p, m.ProtoReflect())
	return m
}

func writePolicy(p Policy, m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	kind, list := protoreflect.Name(fieldAll), p.All
	if len(list) == 0 {
		kind, list = fieldAny, p.Any
	}
	if len(list) == 0 {
		number := slices.Index(bases(m), p.Rule) + 1
		m.Set(fields.ByName(fieldBase), protoreflect.ValueOfEnum(protoreflect.EnumNumber(number)))
		return
	}
	condition := m.Mutable(fields.ByName(kind)).Message()
	policies := condition.Mutable(condition.Descriptor().Fields().ByName(fieldPolicies)).List()
	for _, q := range list {
		writePolicy(q, policies.AppendMutable().Message())
	}
}
