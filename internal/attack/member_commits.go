package attack

import (
	"bytes"
	"fmt"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/internal/forge"
	"github.com/conclave-chat/conclave/internal/sim"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/contents"
)

// A plain member's commits, made with its true keys.
var memberCommits = []Attack{
	{Place: Member, Name: "changes what only admins may", From: "C6; RFC 9420, Section 16.11",
		Does:  "renames the group, edits hidden attributes, the lists of admins and the policies in a group of admins",
		Holds: "every member refuses, and nothing changes",
		Run: insider(group.PresetAdminOnly, func(s *scene) {
			meta := func(edit func(*contents.GroupMutableMetadataV1)) mls.Proposal {
				return extensions(forge.Metadata(s.context(), edit))
			}
			s.refused(group.TopicCommits,
				s.commit("name", meta(func(m *contents.GroupMutableMetadataV1) { m.Attributes["group_name"] = "mine" })),
				s.commit("hidden", meta(func(m *contents.GroupMutableMetadataV1) { m.Attributes["_x"] = "mine" })),
				s.commit("unknown", meta(func(m *contents.GroupMutableMetadataV1) { m.Attributes["x"] = "mine" })),
				s.commit("version", meta(func(m *contents.GroupMutableMetadataV1) {
					m.Attributes[group.AttributeMinimumVersion] = "99.0.0"
				})),
				s.commit("admin", meta(func(m *contents.GroupMutableMetadataV1) {
					m.AdminList.InboxIds = append(m.AdminList.InboxIds, s.mallory.Inbox())
				})),
				s.commit("super admin", meta(func(m *contents.GroupMutableMetadataV1) {
					m.SuperAdminList.InboxIds = append(m.SuperAdminList.InboxIds, s.mallory.Inbox())
				})),
				s.commit("no super admin", meta(func(m *contents.GroupMutableMetadataV1) { m.SuperAdminList.InboxIds = nil })),
				s.commit("no metadata", extensions(forge.Replace(s.context(), forge.Mutable, nil), nil)),
				s.commit("no permissions", extensions(forge.Replace(s.context(), forge.Permissions, nil), nil)),
				s.commit("empty permissions", extensions(forge.Replace(s.context(), forge.Permissions, []byte{}), nil)),
				s.commit("another creator", extensions(forge.Replace(s.context(), forge.Immutable, []byte{}), nil)),
			)
		})},
	{Place: Member, Name: "moves members in silence", From: "C7; ghost and phantom members",
		Does:  "adds or removes leaves without saying so in the membership list, or the list without leaves, and keeps a ghost's leaf",
		Holds: "what the tree says and what the list says are one, or it is refused",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			members := func(edit func(*contents.GroupMembership)) mls.Proposal {
				return extensions(forge.Members(s.context(), edit))
			}
			s.refused(group.TopicCommits,
				s.commit("a leaf goes", mls.Remove{Removed: s.leafOf(s.bob)}),
				s.commit("a leaf comes", mls.Add{KeyPackage: s.dave.KeyPackage()}),
				s.commit("its inbox goes, and its leaf stays", members(func(m *contents.GroupMembership) { delete(m.Members, s.bob.Inbox()) })),
				s.commit("another leaf goes than said", mls.Remove{Removed: s.leafOf(s.carol)}, members(func(m *contents.GroupMembership) { delete(m.Members, s.bob.Inbox()) })),
				s.commit("another leaf comes than said", mls.Add{KeyPackage: s.erin.KeyPackage()}, members(func(m *contents.GroupMembership) { m.Members[s.dave.Inbox()] = s.dave.Identity() })),
				s.commit("no list", extensions(forge.Replace(s.context(), forge.Membership, nil), nil)),
				s.commit("a list that is none", extensions(forge.Replace(s.context(), forge.Membership, []byte{0xff}), nil)),
			)
		})},
	{Place: Member, Name: "goes back to an older identity", From: "I6, C19; XIP-46",
		Does:  "commits a membership list that takes inboxes at an older update, or at one that nobody has published",
		Holds: "no inbox is taken back, and nobody is asked for what does not exist without end",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			cite := func(in string, at uint64) mls.Proposal {
				return extensions(forge.Members(s.context(), func(m *contents.GroupMembership) { m.Members[in] = at }))
			}
			s.refused(group.TopicCommits,
				s.commit("older", cite(s.bob.Inbox(), 1)),
				s.commit("before all", cite(s.bob.Inbox(), 0)),
				s.commit("of a newcomer, not published", cite(s.dave.Inbox(), 1<<40), mls.Add{KeyPackage: s.dave.KeyPackage()}),
			)
		})},
	{Place: Member, Name: "splits the group by what it requires", From: "B4; RFC 9420, Sections 7.2 and 11.1",
		Does:  "drops an extension in use from the required capabilities, drops them whole, requires what nobody knows, and puts extensions where they may not stand",
		Holds: "whatever real clients refuse is refused here, and nobody is left behind",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			required := func(x ...mls.ExtensionType) mls.Proposal {
				return extensions(forge.Replace(s.context(), mls.ExtensionRequiredCapabilities,
					mls.RequiredCapabilities{Extensions: x, Credentials: []mls.CredentialType{1}}.Bytes()), nil)
			}
			in := func(name string, t mls.ExtensionType, data []byte) forgery {
				return s.raw(name, forge.ByValue(mls.ProposalGroupContextExtensions, forge.ContextBody(forge.Replace(s.context(), t, data))))
			}
			s.refused(group.TopicCommits,
				s.commit("one less", required(0xf000, 0xff00, 0xff01)),
				s.commit("none", extensions(forge.Replace(s.context(), mls.ExtensionRequiredCapabilities, nil), nil)),
				in("what nobody knows", 0x1234, []byte("x")),
				in("a tree", mls.ExtensionRatchetTree, []byte{0}),
				in("requirements that are none", mls.ExtensionRequiredCapabilities, []byte{1, 2, 3}),
				s.raw("no extensions", forge.ByValue(mls.ProposalGroupContextExtensions, forge.ContextBody(nil))),
				s.raw("one extension twice", forge.ByValue(mls.ProposalGroupContextExtensions, forge.ContextBody(append(s.context(), s.context()[0])))),
			)
		})},
	{Place: Member, Name: "names somebody outside a sender", From: "C14; RFC 9420, Section 12.1.8.1",
		Does:  "puts an external sender into the context, who then proposes to remove bob and to add herself",
		Holds: "all take or refuse the context alike; nobody takes the proposals",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			own := s.erin.KeyPackage().LeafNode
			identity := append([]byte{0, 1, 0x40, byte(len(own.Credential.Identity))}, own.Credential.Identity...)
			sender := append(append([]byte{32}, own.SignatureKey...), identity...)
			list := append([]byte{0x40, byte(len(sender))}, sender...)
			s.accepted(mls.CommitConfig{Proposals: []mls.Proposal{extensions(forge.Replace(s.context(), mls.ExtensionExternalSenders, list), nil)}})
			s.refused(group.TopicCommits,
				forgery{"removal", s.fromOutside(mls.SenderExternal, forge.Proposal(mls.ProposalRemove, forge.RemoveBody(uint32(s.leafOf(s.bob))))), nil},
				forgery{"addition", s.fromOutside(mls.SenderExternal, forge.Proposal(mls.ProposalAdd, s.erin.KeyPackage().Bytes())), nil})
		})},
	{Place: Member, Name: "keeps newcomers out by what it cites", From: "C19, C18", Open: "C19",
		Does:  "takes a member at an update that its inbox never had, and that no later one reaches",
		Holds: "newcomers can still be added",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			s.accepted(mls.CommitConfig{Proposals: []mls.Proposal{extensions(forge.Members(s.context(), func(m *contents.GroupMembership) {
				m.Members[s.bob.Inbox()] = 1 << 40
			}))}})
			s.Must(s.alice.Ask(group.AddMembers{Inboxes: []string{s.dave.Inbox()}}))
			s.Settle()
			if s.dave.Replica() == nil {
				s.Broken("newcomers can be added", "dave has not joined")
			}
		})},
	{Place: Member, Name: "commits proposals of every kind", From: "C14; RFC 9420, Sections 12.1 and 12.2",
		Does:  "commits pre-shared keys, ReInit, ExternalInit, updates by value, references to nothing, itself removed, leaves twice, unknown types and junk",
		Holds: "nothing of it is applied, and all stay in one epoch",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			own := uint32(s.in.Group().OwnLeaf())
			remove := func(leaf uint32) []byte { return forge.ByValue(mls.ProposalRemove, forge.RemoveBody(leaf)) }
			add := forge.ByValue(mls.ProposalAdd, s.dave.KeyPackage().Bytes())
			bob := uint32(s.leafOf(s.bob))
			psk := func(p mls.PreSharedKeyID) forgery {
				p.Nonce = make([]byte, 32)
				known := forge.NewInsider(s.in.Rand, s.in.Signer, s.in.Group().WithPSK(func(mls.PreSharedKeyID) ([]byte, bool) { return make([]byte, 32), true }))
				data, err := known.Commit(mls.CommitConfig{Rand: s.Random(), Proposals: []mls.Proposal{mls.PreSharedKey{ID: p}}}, forge.Bend{})
				return forgery{"pre-shared key", data, err}
			}
			s.refused(group.TopicCommits,
				psk(mls.PreSharedKeyID{Type: mls.PSKExternal, ID: []byte("x")}),
				psk(mls.PreSharedKeyID{Type: mls.PSKResumption, Usage: mls.ResumptionApplication, GroupID: s.GroupID(), Epoch: s.in.Group().Epoch()}),
				s.commit("reinit", mls.ReInit{GroupID: make([]byte, 16), Version: 1, CipherSuite: s.in.Group().Suite()}),
				s.raw("external init", forge.ByValue(mls.ProposalExternalInit, append([]byte{32}, make([]byte, 32)...))),
				s.raw("a reference to nothing", append([]byte{2, 32}, make([]byte, 32)...)),
				s.raw("itself", remove(own)),
				s.raw("one leaf twice", remove(bob), remove(bob)),
				s.raw("a leaf that is none", remove(1<<31)),
				s.raw("a newcomer twice", add, add),
				s.raw("a member once more", forge.ByValue(mls.ProposalAdd, s.bob.KeyPackage().Bytes())),
				s.raw("an unknown type", forge.ByValue(0x0a0a, nil)),
				s.raw("two contexts", forge.ByValue(mls.ProposalGroupContextExtensions, forge.ContextBody(s.context())), forge.ByValue(mls.ProposalGroupContextExtensions, forge.ContextBody(s.context()))),
				s.raw("junk", []byte{1, 0xff}),
				s.raw("many", bytes.Repeat(remove(bob), 10_000)),
			)
		})},
	{Place: Member, Name: "bends a commit field by field", From: "C3; GHSA-8x3w-qj7j-gqhf (truncated tags), GHSA-rrmv-c79f-cf5r",
		Does:  "signs with another key, truncates and flips signature and confirmation tag, claims other epochs, senders and groups, pads with more than zeros",
		Holds: "every one is refused by all alike",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			whole := func(f func(*forge.Framed)) forge.Bend { return forge.Bend{Whole: f} }
			unsigned := func(f func(*forge.Framed)) forge.Bend { return forge.Bend{Unsigned: f} }
			bob := uint32(s.leafOf(s.bob))
			s.refused(group.TopicCommits,
				s.bent("signed by somebody else", forge.Bend{As: s.dave.Signer()}),
				s.bent("no signature", whole(func(f *forge.Framed) { f.Signature = nil })),
				s.bent("half a signature", whole(func(f *forge.Framed) { f.Signature = f.Signature[:32] })),
				s.bent("a bit of the signature", whole(func(f *forge.Framed) { f.Signature[5] ^= 1 })),
				s.bent("no tag", whole(func(f *forge.Framed) { f.Confirmation = nil })),
				s.bent("half a tag", whole(func(f *forge.Framed) { f.Confirmation = f.Confirmation[:16] })),
				s.bent("a bit of the tag", whole(func(f *forge.Framed) { f.Confirmation[31] ^= 1 })),
				s.bent("another sender is signed", unsigned(func(f *forge.Framed) { f.Sender = bob })),
				s.bent("another leaf encrypts", unsigned(func(f *forge.Framed) { f.Leaf = bob })),
				s.bent("another leaf, whole", unsigned(func(f *forge.Framed) { f.Sender, f.Leaf = bob, bob })),
				s.bent("a leaf that is none", unsigned(func(f *forge.Framed) { f.Sender = 1 << 20 })),
				s.bent("an external sender", unsigned(func(f *forge.Framed) { f.SenderType = byte(mls.SenderExternal) })),
				s.bent("an external commit", unsigned(func(f *forge.Framed) { f.SenderType = byte(mls.SenderNewMemberCommit) })),
				s.bent("an epoch before", unsigned(func(f *forge.Framed) { f.Epoch-- })),
				s.bent("another group", unsigned(func(f *forge.Framed) { f.GroupID = make([]byte, 16) })),
				s.bent("padding of ones", whole(func(f *forge.Framed) { f.Padding = []byte{1} })),
				s.bent("a proposal by name", unsigned(func(f *forge.Framed) { f.Type = mls.ContentProposal })),
				s.bent("no path", unsigned(forge.Edit(func(b *forge.Body) { b.Leaf, b.Nodes = nil, nil }))),
				s.bent("a path too short", unsigned(forge.Edit(func(b *forge.Body) { b.Nodes = b.Nodes[1:] }))),
				s.bent("a path too long", unsigned(forge.Edit(func(b *forge.Body) { b.Nodes = append(b.Nodes, b.Nodes[0]) }))),
				s.bent("a node of zeros", unsigned(forge.Edit(func(b *forge.Body) { b.Nodes[0].Key = make([]byte, 32) }))),
				s.bent("too few secrets", unsigned(forge.Edit(func(b *forge.Body) { b.Nodes[1].Secrets = nil }))),
				s.bent("too many secrets", unsigned(forge.Edit(func(b *forge.Body) { b.Nodes[0].Secrets = append(b.Nodes[0].Secrets, b.Nodes[0].Secrets[0]) }))),
				s.bent("a leaf of another inbox", unsigned(forge.Edit(func(b *forge.Body) {
					b.Leaf = bytes.ReplaceAll(b.Leaf, []byte(s.mallory.Inbox()), []byte(s.alice.Inbox()))
				}))),
				s.bent("a leaf of another key", unsigned(forge.Edit(func(b *forge.Body) {
					b.Leaf = bytes.ReplaceAll(b.Leaf, s.mallory.Signer().Public(), s.dave.Signer().Public())
				}))),
			)
		})},
	{Place: Member, Name: "jumps epochs", From: "R6; epoch-number jumps",
		Does:  "publishes commits and messages that claim epochs far ahead, up to the last number",
		Holds: "they are read past; nobody goes there, and nobody is held apart for good",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			for _, epoch := range []uint64{s.in.Group().Epoch() + 1, 1 << 40, 1<<64 - 1} {
				claim := forge.Bend{Unsigned: func(f *forge.Framed) { f.Epoch = epoch }}
				f := s.bent("commit", claim)
				s.Must(f.err)
				s.Publish(s.mallory, group.TopicCommits, f.data, true)
				m, err := s.in.Say(forge.Plaintext("k", []byte("from the future")), claim)
				s.Must(err)
				s.Publish(s.mallory, group.TopicMessages, m, true)
			}
			s.Settle()
		})},
	{Place: Member, Name: "isolates one member by its path", From: "C4; insider attack on TreeKEM (Alwen et al.)",
		Does:  "encrypts a path secret so that one member cannot open it, and makes all tags anew",
		Holds: "the member says that it is stranded and sends nothing; the rest goes on; added again it is back",
		Run: play(group.PresetDefault, func(s *scene) {
			s.in = s.mallory.Take()
			victim := s.sibling()
			f := s.bent("a path", forge.Bend{Unsigned: forge.Edit(func(b *forge.Body) { b.Nodes[0].Secrets[0][1][3] ^= 1 })})
			s.Must(f.err)
			s.Publish(s.mallory, group.TopicCommits, f.data, false)
			s.Settle()
			if victim.Replica().Sends() {
				s.Broken("it is said", "%s sends in epoch %d", victim.Name(), victim.Replica().Epoch())
			}
			s.goesOn(victim)
		})},
	{Place: Member, Name: "strands everybody", From: "C4; insider attack on TreeKEM", Open: "C4",
		Does:  "publishes a commit whose path opens for nobody",
		Holds: "the group goes on without the attacker",
		Run: insider(group.PresetDefault, func(s *scene) {
			f := s.bent("all paths", forge.Bend{Unsigned: forge.Edit(func(b *forge.Body) {
				for _, n := range b.Nodes {
					for _, x := range n.Secrets {
						x[1][3] ^= 1
					}
				}
			})})
			s.Must(f.err)
			s.Publish(s.mallory, group.TopicCommits, f.data, false)
		})},
	{Place: Member, Name: "is silent about stranding everybody", From: "C4",
		Does:  "publishes a commit whose path opens for nobody",
		Holds: "all say that they are stranded; nobody goes on alone and believes to be heard",
		Run: play(group.PresetDefault, func(s *scene) {
			s.in = s.mallory.Take()
			f := s.bent("all paths", forge.Bend{Unsigned: forge.Edit(func(b *forge.Body) {
				for _, n := range b.Nodes {
					for _, x := range n.Secrets {
						x[1][3] ^= 1
					}
				}
			})})
			s.Must(f.err)
			s.Publish(s.mallory, group.TopicCommits, f.data, false)
			s.Settle()
			for _, p := range s.honest() {
				if st, why := p.Standing(); st != group.Stranded || p.Replica().Sends() {
					s.Broken("it is said", "%s is %v: %s", p.Name(), st, why)
				}
			}
		})},
	{Place: Member, Name: "takes over an inbox", From: "G20 in docs/validation.md; credential substitution",
		Does:  "adds a leaf with a key of its own that claims bob's inbox, and speaks from there",
		Holds: "nobody hears it, it is listed for nobody, and it can be removed with the inbox that it came with",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			signer, k, secrets := s.impostor(s.bob)
			staged := s.accepted(mls.CommitConfig{Proposals: []mls.Proposal{mls.Add{KeyPackage: k},
				extensions(forge.Members(s.context(), func(m *contents.GroupMembership) { m.Members[s.dave.Inbox()] = s.dave.Identity() }))}})
			welcome, err := (*mls.Realm)(nil).Parse(staged.Welcome())
			s.Must(err)
			g, _, err := mls.Join(mls.JoinConfig{Signer: signer, KeyPackage: k, Secrets: secrets, Welcome: welcome})
			s.Must(err)
			if !s.Known(g.EpochAuthenticator()) {
				return // real clients take it, and so far they are followed; refusing it is no harm
			}
			said := len(s.alice.History())
			_, data, err := g.Seal(s.Random(), nil, forge.Plaintext("k", []byte("I am bob")))
			s.Must(err)
			s.Publish(s.mallory, group.TopicMessages, data, true)
			s.Settle()
			if len(s.alice.History()) != said {
				s.Broken("nobody hears it", "alice has a message of it")
			}
			for key, inbox := range s.alice.Replica().Installations {
				if bytes.Equal(key, signer.Public()) {
					s.Broken("it is listed for nobody", "it is listed for %s", inbox)
				}
			}
		})},
	{Place: Member, Name: "races honest commits", From: "C1",
		Does:  "commits by the rules into every epoch, before others can",
		Holds: "all get through in the end, in one order",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			for i := range 5 {
				s.Must(s.bob.Ask(group.UpdateMetadata{Field: group.AttributeDescription, Value: fmt.Sprint("bob's ", i)}))
				s.accepted(mls.CommitConfig{})
			}
		})},
	{Place: Member, Name: "commits twice in one epoch", From: "C1; double commit",
		Does:  "publishes two different commits of one epoch and continues from the second",
		Holds: "the first one is the epoch's, for all",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			a, b := s.bent("first", forge.Bend{}), s.bent("second", forge.Bend{Unsigned: func(f *forge.Framed) { f.Generation++ }})
			s.Must(a.err)
			s.Must(b.err)
			s.Publish(s.mallory, group.TopicCommits, a.data, false)
			s.Publish(s.mallory, group.TopicCommits, b.data, true)
		})},
}

// raw makes a commit with encoded proposals in the place of its own.
func (s *scene) raw(name string, proposals ...[]byte) forgery {
	return s.bent(name, forge.Bend{Unsigned: forge.Edit(func(b *forge.Body) { b.Proposals = bytes.Join(proposals, nil) })})
}

// impostor makes a key package of an attacker's key that claims an inbox.
func (s *scene) impostor(of sim.Player) (*mls.Signer, *mls.KeyPackage, *mls.KeyPackageSecrets) {
	own := of.KeyPackage()
	signer, err := mls.GenerateSigner(own.CipherSuite, s.Random())
	s.Must(err)
	k, secrets, err := mls.NewKeyPackage(mls.KeyPackageConfig{Rand: s.Random(), Suite: own.CipherSuite, Signer: signer,
		Credential: own.LeafNode.Credential, Capabilities: own.LeafNode.Capabilities, Lifetime: own.LeafNode.Lifetime,
		LeafExtensions: own.LeafNode.Extensions, Extensions: own.Extensions})
	s.Must(err)
	s.Impostor(signer.Public())
	return signer, k, secrets
}
