package attack

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/internal/forge"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/contents"
)

var (
	asAdmin = []group.AdminChange{group.AddAdmin}
	asSuper = []group.AdminChange{group.AddSuperAdmin}
)

// An admin, and a super admin, who go beyond what they may, or as far as they may.
var adminAbuse = []Attack{
	{Place: Admin, Name: "rises to super admin", From: "C6",
		Does:  "as an admin, puts itself and others on both lists, takes the super admin off, removes it, and changes the policies",
		Holds: "every member refuses",
		Run: promoted(asAdmin, func(s *scene) {
			meta := func(edit func(*contents.GroupMutableMetadataV1)) mls.Proposal {
				return extensions(forge.Metadata(s.context(), edit))
			}
			gone := extensions(forge.Members(s.context(), func(m *contents.GroupMembership) { delete(m.Members, s.alice.Inbox()) }))
			s.refused(group.TopicCommits,
				s.commit("itself", meta(func(m *contents.GroupMutableMetadataV1) {
					m.SuperAdminList.InboxIds = append(m.SuperAdminList.InboxIds, s.mallory.Inbox())
				})),
				s.commit("in her place", meta(func(m *contents.GroupMutableMetadataV1) { m.SuperAdminList.InboxIds = []string{s.mallory.Inbox()} })),
				s.commit("another admin", meta(func(m *contents.GroupMutableMetadataV1) {
					m.AdminList.InboxIds = append(m.AdminList.InboxIds, s.bob.Inbox())
				})),
				s.commit("no admin", meta(func(m *contents.GroupMutableMetadataV1) { m.AdminList.InboxIds = nil })),
				s.commit("nobody", meta(func(m *contents.GroupMutableMetadataV1) { m.SuperAdminList = nil })),
				s.commit("the super admin goes", gone, mls.Remove{Removed: s.leafOf(s.alice)}),
				s.commit("policies", s.permissions(func(p *contents.PolicySet) {
					p.RemoveMemberPolicy = &contents.MembershipPolicy{Kind: &contents.MembershipPolicy_Base{Base: contents.MembershipPolicy_BASE_POLICY_ALLOW}}
				})),
			)
		})},
	{Place: Admin, Name: "nests policies", From: "oversized and deep structures",
		Does:  "as a super admin, sets policies a thousand conditions deep, a thousand wide, empty, and of no kind",
		Holds: "what is taken is alike for all and evaluated in bounded time; the rest is refused",
		Run: promoted(asSuper, func(s *scene) {
			allow := &contents.MembershipPolicy{Kind: &contents.MembershipPolicy_Base{Base: contents.MembershipPolicy_BASE_POLICY_ALLOW}}
			for _, c := range []struct {
				name string
				p    func() *contents.MembershipPolicy
			}{
				{"deep", func() *contents.MembershipPolicy {
					p := allow
					for range 1000 {
						p = all(p)
					}
					return p
				}},
				{"deep and wide", func() *contents.MembershipPolicy {
					p := allow
					for range 12 {
						p = all(p, p)
					}
					return p
				}},
				{"wide", func() *contents.MembershipPolicy {
					var list []*contents.MembershipPolicy
					for range 1000 {
						list = append(list, allow)
					}
					return all(list...)
				}},
				{"empty", func() *contents.MembershipPolicy { return all() }},
				{"none", func() *contents.MembershipPolicy { return &contents.MembershipPolicy{} }},
				{"unknown", func() *contents.MembershipPolicy {
					return &contents.MembershipPolicy{Kind: &contents.MembershipPolicy_Base{Base: 99}}
				}},
			} {
				f := s.commit(c.name, s.permissions(func(p *contents.PolicySet) { p.AddMemberPolicy = c.p() }))
				s.Must(f.err)
				s.Publish(s.mallory, group.TopicCommits, f.data, false)
				s.Settle()
				for _, p := range s.honest() {
					if p.Replica().Epoch() != s.alice.Replica().Epoch() {
						s.Broken("it is alike for all", "%s: %s is in epoch %d, alice in %d", c.name, p.Name(), p.Replica().Epoch(), s.alice.Replica().Epoch())
					}
				}
				if s.alice.Replica().Epoch() != s.in.Group().Epoch() {
					return // it was taken, and mallory's client has no part in its own bent epoch
				}
			}
		})},
	{Place: Admin, Name: "fills the lists of admins", From: "C18",
		Does:  "as a super admin, makes fifty thousand strangers, itself many times, and nothing at all admins",
		Holds: "the next commits are judged in time that grows with the lists, alike for all",
		Run: promoted(asSuper, func(s *scene) {
			s.accepted(mls.CommitConfig{Proposals: []mls.Proposal{extensions(forge.Metadata(s.context(), func(m *contents.GroupMutableMetadataV1) {
				for i := range 50_000 {
					m.AdminList.InboxIds = append(m.AdminList.InboxIds, fmt.Sprintf("%016d", i))
				}
				m.AdminList.InboxIds = append(m.AdminList.InboxIds, "", s.mallory.Inbox(), s.mallory.Inbox())
			}))}})
		})},
	{Place: Admin, Name: "leaves the group without a super admin", From: "C6",
		Does:  "as one of two super admins, removes the other and then itself from the list",
		Holds: "one is always left, and no super admin is removed",
		Run: promoted(asSuper, func(s *scene) {
			gone := extensions(forge.Members(s.context(), func(m *contents.GroupMembership) { delete(m.Members, s.alice.Inbox()) }))
			s.refused(group.TopicCommits,
				s.commit("no list", extensions(forge.Metadata(s.context(), func(m *contents.GroupMutableMetadataV1) { m.SuperAdminList = nil }))),
				s.commit("an empty list", extensions(forge.Metadata(s.context(), func(m *contents.GroupMutableMetadataV1) { m.SuperAdminList.InboxIds = nil }))),
				s.commit("the other goes", gone, mls.Remove{Removed: s.leafOf(s.alice)}),
			)
		})},
	{Place: Admin, Name: "writes what is too long", From: "C10, S11; oversized structures",
		Does:  "as a super admin, sets a name and a description beyond their limits, and an attribute of half a megabyte",
		Holds: "the limits are every receiver's; what has none is alike for all",
		Run: promoted(asSuper, func(s *scene) {
			set := func(name, value string) forgery {
				return s.commit(name, extensions(forge.Metadata(s.context(), func(m *contents.GroupMutableMetadataV1) { m.Attributes[name] = value })))
			}
			s.refused(group.TopicCommits,
				set(group.AttributeName, strings.Repeat("x", 101)),
				set(group.AttributeDescription, strings.Repeat("x", 1<<16)))
			f := set("_blob", strings.Repeat("x", 1<<19))
			s.Must(f.err)
			s.Publish(s.mallory, group.TopicCommits, f.data, false)
		})},
	{Place: Admin, Name: "adds what a client lacks", From: "W13, C19; a key package that was replaced, has ended, or is another's",
		Does:  "as an admin, adds newcomers with key packages that have ended, and cites updates that are to come",
		Holds: "it is refused alike, by the log's time",
		Run: promoted(asAdmin, func(s *scene) {
			joins := func(at uint64) mls.Proposal {
				return extensions(forge.Members(s.context(), func(m *contents.GroupMembership) { m.Members[s.dave.Inbox()] = at }))
			}
			old := s.dave.KeyPackage()
			late, err := forge.WithLifetime(old, s.dave.Signer(), 1, 2)
			s.Must(err)
			early, err := forge.WithLifetime(old, s.dave.Signer(), 1<<40, 1<<41)
			s.Must(err)
			s.refused(group.TopicCommits,
				s.commit("it has ended", joins(s.dave.Identity()), mls.Add{KeyPackage: late}),
				s.commit("it has not begun", joins(s.dave.Identity()), mls.Add{KeyPackage: early}),
				s.commit("an update to come", joins(s.dave.Identity()+1000), mls.Add{KeyPackage: old}))
		})},
}

func all(list ...*contents.MembershipPolicy) *contents.MembershipPolicy {
	return &contents.MembershipPolicy{Kind: &contents.MembershipPolicy_AndCondition_{AndCondition: &contents.MembershipPolicy_AndCondition{Policies: list}}}
}

// permissions edits the policy set.
func (s *scene) permissions(edit func(*contents.PolicySet)) mls.Proposal {
	data, _ := s.context().Get(forge.Permissions)
	m := new(contents.GroupMutablePermissionsV1)
	s.Must(proto.Unmarshal(data, m))
	edit(m.Policies)
	data, err := proto.Marshal(m)
	s.Must(err)
	return extensions(forge.Replace(s.context(), forge.Permissions, data), nil)
}
