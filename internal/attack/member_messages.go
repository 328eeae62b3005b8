package attack

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/internal/forge"
	"github.com/conclave-chat/conclave/internal/sim"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/contents"
)

// say makes an application message and bends it.
func (s *scene) say(name, text string, b forge.Bend) forgery {
	data, err := s.in.Say(forge.Plaintext(name, []byte(text)), b)
	return forgery{name, data, err}
}

// A plain member's messages.
var memberMessages = []Attack{
	{Place: Member, Name: "speaks from another member's leaf", From: "RFC 9420, Section 6.1; the ratchets of all are every member's",
		Does:  "encrypts with bob's ratchet, with bob's and its own signature's sender, and signs with its own key",
		Holds: "nobody shows it, and bob's own message of that generation is still read",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			bob := uint32(s.leafOf(s.bob))
			var list []forgery
			for g := range uint32(3) {
				list = append(list,
					s.say(fmt.Sprint("as bob ", g), "I am bob", forge.Bend{Unsigned: func(f *forge.Framed) { f.Sender, f.Leaf, f.Generation = bob, bob, g }}),
					s.say(fmt.Sprint("bob's key ", g), "I am bob", forge.Bend{Unsigned: func(f *forge.Framed) { f.Leaf, f.Generation = bob, g }}),
					s.say(fmt.Sprint("own key ", g), "I am bob", forge.Bend{Unsigned: func(f *forge.Framed) { f.Sender = bob }}))
			}
			s.refused(group.TopicMessages, list...)
		})},
	{Place: Member, Name: "burns generations", From: "R9; counter exhaustion",
		Does:  "sends messages of bob's and its own leaf at the farthest generations, valid and not",
		Holds: "nothing beyond a thousand is derived, and what bob sends is read",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			bob := uint32(s.leafOf(s.bob))
			at := func(leaf, generation uint32) forgery {
				return s.say(fmt.Sprint(leaf, generation), "far", forge.Bend{Unsigned: func(f *forge.Framed) {
					f.Sender, f.Leaf, f.Generation = leaf, leaf, generation
				}})
			}
			s.refused(group.TopicMessages, at(bob, 900), at(bob, 1001), at(bob, 5000))
			far := at(uint32(s.in.Group().OwnLeaf()), 2000)
			s.refused(group.TopicMessages, far)
			last := s.say("the last", "far", forge.Bend{Whole: func(f *forge.Framed) { f.Generation = 1000 }})
			s.Must(last.err)
			s.Publish(s.mallory, group.TopicMessages, last.data, false) // it is one that real clients read
		})},
	{Place: Member, Name: "bends a message field by field", From: "C3; RFC 9420, Section 6.3",
		Does:  "signs with another key, truncates the signature, claims other groups, epochs and content types, pads with more than zeros, and sends no text at all",
		Holds: "nobody shows anything, and nobody stops",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			plain := func(name string, plaintext []byte) forgery {
				data, err := s.in.Say(plaintext, forge.Bend{})
				return forgery{name, data, err}
			}
			whole := func(f func(*forge.Framed)) forge.Bend { return forge.Bend{Whole: f} }
			unsigned := func(f func(*forge.Framed)) forge.Bend { return forge.Bend{Unsigned: f} }
			s.refused(group.TopicMessages,
				s.say("another signer", "x", forge.Bend{As: s.bob.Signer()}),
				s.say("no signature", "x", whole(func(f *forge.Framed) { f.Signature = nil })),
				s.say("a bit", "x", whole(func(f *forge.Framed) { f.Body[len(f.Body)-1] ^= 1 })),
				s.say("other data", "x", whole(func(f *forge.Framed) { f.AAD = []byte("y") })),
				s.say("another group", "x", unsigned(func(f *forge.Framed) { f.GroupID = make([]byte, 16) })),
				s.say("the epoch before", "x", unsigned(func(f *forge.Framed) { f.Epoch-- })),
				s.say("a commit by name", "x", unsigned(func(f *forge.Framed) { f.Type = mls.ContentCommit })),
				s.say("padding of ones", "x", whole(func(f *forge.Framed) { f.Padding = bytes.Repeat([]byte{1}, 100) })),
				plain("nothing", nil),
				plain("junk", bytes.Repeat([]byte{0xff}, 100)),
				plain("version two", []byte{0x12, 0x02, 0x08, 0x01}),
				plain("a key that is no text", forge.Plaintext("", nil)[:0:0]),
			)
		})},
	{Place: Member, Name: "repeats messages", From: "R1, R5, R12; replay across epochs and groups",
		Does:  "publishes every message and commit again, on both topics, epochs later, and what belongs to another group",
		Holds: "each is shown once, at the place of its first copy",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			s.Must(s.bob.Say("once"))
			s.Settle()
			first := s.Log()
			for i := range 5 {
				for _, e := range first {
					s.Write(group.TopicMessages, e.Payload)
					s.Write(group.TopicCommits, e.Payload)
				}
				if i > 0 {
					s.accepted(mls.CommitConfig{})
				}
				s.Settle()
			}
			n := 0
			for _, m := range s.carol.History() {
				if string(m.Content) == "once" {
					n++
				}
			}
			if n != 1 {
				s.Broken("it is shown once", "carol has it %d times", n)
			}
		})},
	{Place: Member, Name: "forges a membership change", From: "C17; forged GroupUpdated",
		Does:  "seals a GroupUpdated in bob's name as an application message",
		Holds: "it is told as an application message of its sender, and changes nothing",
		Run: insider(group.PresetAdminOnly, func(s *scene) {
			update, err := proto.Marshal(&contents.GroupUpdated{InitiatedByInboxId: s.alice.Inbox(), RemovedInboxes: []*contents.GroupUpdated_Inbox{{InboxId: s.bob.Inbox()}}})
			s.Must(err)
			encoded, err := proto.Marshal(&contents.EncodedContent{Type: &contents.ContentTypeId{AuthorityId: "xmtp.org", TypeId: "group_updated", VersionMajor: 1}, Content: update})
			s.Must(err)
			f := s.say("1", string(encoded), forge.Bend{})
			s.Must(f.err)
			s.Publish(s.mallory, group.TopicMessages, f.data, false)
			s.Settle()
			list := s.bob.History()
			last := list[len(list)-1]
			if last.Kind != group.ApplicationMessage || last.Sender != s.mallory.Inbox() || !s.bob.Replica().Active() {
				s.Broken("it is no change", "bob has it as %v of %s", last.Kind, last.Sender)
			}
		})},
	{Place: Member, Name: "sends on its own what only commits hold", From: "C14; RFC 9420, Section 12.1",
		Does:  "publishes proposals of every kind by themselves, and public messages",
		Holds: "nobody keeps them, and nobody commits them",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			propose := func(name string, t mls.ProposalType, body []byte) forgery {
				data, err := s.in.Propose(forge.Proposal(t, body), forge.Bend{})
				return forgery{name, data, err}
			}
			public, err := s.in.Group().Commit(mls.CommitConfig{Rand: s.Random(), Public: true})
			s.Must(err)
			info, err := s.in.Group().Info()
			s.Must(err)
			s.refused(group.TopicCommits,
				propose("removal", mls.ProposalRemove, forge.RemoveBody(uint32(s.leafOf(s.bob)))),
				propose("addition", mls.ProposalAdd, s.dave.KeyPackage().Bytes()),
				propose("context", mls.ProposalGroupContextExtensions, forge.ContextBody(nil)),
				propose("unknown", 0x2a2a, nil),
				forgery{"public commit", public.Message(), nil},
				forgery{"group info", info, nil},
				forgery{"key package", append([]byte{0, 1, 0, 5}, s.bob.KeyPackage().Bytes()...), nil},
			)
		})},
	{Place: Member, Name: "takes another's message for its own", From: "message ids are a hash of group, key and content, as in XMTP",
		Does:  "opens what bob sent and publishes the same key and content under its own name",
		Holds: "bob's message stays bob's, once, for all who were there",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			s.Must(s.bob.Ask(group.Send{Content: []byte("bob's words"), Key: "k", Now: s.bob.Replica().Created()}))
			s.Settle()
			f := s.say("k", "bob's words", forge.Bend{})
			s.Must(f.err)
			s.Publish(s.mallory, group.TopicMessages, f.data, false)
			s.Settle()
			for _, p := range s.honest() {
				n := 0
				for _, m := range p.History() {
					if string(m.Content) == "bob's words" {
						n++
						if m.Sender != s.bob.Inbox() {
							s.Broken("it stays bob's", "%s has it of another", p.Name())
						}
					}
				}
				if n != 1 {
					s.Broken("it stays bob's", "%s has it %d times", p.Name(), n)
				}
			}
		})},
	{Place: Member, Name: "takes a message before a newcomer can read it", From: "R1; message ids are a hash of group, key and content, as in XMTP", Open: "R1",
		Does:  "repeats, under its own name, a message that stands behind an addition and is sealed before it",
		Holds: "the newcomer has the message of the member who sent it",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			// Bob seals before the addition of dave and publishes after it.
			s.bob.Sees(upTo(s.End()))
			s.Must(s.alice.Ask(group.AddMembers{Inboxes: []string{s.dave.Inbox()}}))
			s.SettleBut(s.bob)
			for _, e := range s.Log() {
				s.follow(e.Payload)
			}
			s.Must(s.bob.Ask(group.Send{Content: []byte("bob's words"), Key: "k", Now: s.bob.Replica().Created()}))
			s.bob.Flush()
			f := s.say("k", "bob's words", forge.Bend{})
			s.Must(f.err)
			s.Publish(s.mallory, group.TopicMessages, f.data, false)
			s.bob.Sees(nil)
			s.Settle()
			for _, m := range s.dave.History() {
				if string(m.Content) == "bob's words" && m.Sender == s.bob.Inbox() {
					return
				}
			}
			s.Broken("the newcomer has it", "dave has nothing of bob")
		})},
}

// A plain member's size: what one can make all others do and keep.
var memberBurdens = []Attack{
	{Place: Member, Name: "floods the group with junk of its own", From: "R7, C2",
		Does:  "publishes hundreds of signed messages and commits that mean nothing, before everything else",
		Holds: "the others read past them, and their own gets through",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			for i := range 150 {
				data, err := s.in.Say(bytes.Repeat([]byte{byte(i)}, i), forge.Bend{Unsigned: func(f *forge.Framed) { f.Generation += uint32(i) }})
				s.Must(err)
				s.Publish(s.mallory, group.TopicMessages, data, true)
				f := s.bent("tag", forge.Bend{Whole: func(f *forge.Framed) { f.Confirmation[0]++ }})
				s.Must(f.err)
				s.Publish(s.mallory, group.TopicCommits, f.data, true)
			}
		})},
	{Place: Member, Name: "fills the group with phantoms", From: "C18",
		Does:  "writes four hundred inboxes that nobody has into the membership list",
		Holds: "they take no place: others are added, and the phantoms removed",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			var phantoms []string
			for i := range 400 {
				phantoms = append(phantoms, fmt.Sprintf("%064x", i))
			}
			s.accepted(mls.CommitConfig{Proposals: []mls.Proposal{extensions(forge.Members(s.context(), func(m *contents.GroupMembership) {
				for _, id := range phantoms {
					m.Members[id] = 0
				}
			}))}})
			s.Must(s.alice.Ask(group.AddMembers{Inboxes: []string{s.dave.Inbox()}}))
			s.Settle()
			if s.dave.Replica() == nil {
				s.Broken("they take no place", "dave was not added")
			}
			if len(s.alice.Replica().Metadata().Members) > 100 {
				s.Must(s.alice.Ask(group.RemoveMembers{Inboxes: phantoms}))
				s.Settle()
			}
			if n := len(s.alice.Replica().Metadata().Members); n != 5 {
				s.Broken("they are removed", "%d members are left", n)
			}
		})},
	{Place: Member, Name: "quotes a megabyte", From: "C18",
		Does:  "commits attributes, members and admins whose names are half a megabyte long, which are refused",
		Holds: "what each member stores and logs of it is a few lines",
		Run: insider(group.PresetAdminOnly, func(s *scene) {
			long := string(bytes.Repeat([]byte("x"), 1<<19))
			meta := func(edit func(*contents.GroupMutableMetadataV1)) mls.Proposal {
				return extensions(forge.Metadata(s.context(), edit))
			}
			before := s.alice.Stored()
			s.refused(group.TopicCommits,
				s.commit("attribute", meta(func(m *contents.GroupMutableMetadataV1) { m.Attributes["_"+long] = "x" })),
				s.commit("admin", meta(func(m *contents.GroupMutableMetadataV1) { m.AdminList.InboxIds = append(m.AdminList.InboxIds, long) })),
				s.commit("member", extensions(forge.Members(s.context(), func(m *contents.GroupMembership) { m.Members[long] = 7 }))))
			if grown := s.alice.Stored() - before; grown > 64<<10 {
				s.Broken("it is brief", "alice's host stores %d bytes more", grown)
			}
		})},
	{Place: Member, Name: "brings a key that nothing can be encrypted to", From: "B4 of the rules; low-order points (Cremers et al.)",
		Does:  "adds an installation whose leaf key is a point of low order, so that every later path has to be encrypted to it",
		Holds: "the others go on to commit",
		Run: insider(group.PresetAllMembers, func(s *scene) {
			k := s.withLeafKey(s.dave, make([]byte, 32))
			data, err := s.in.Commit(mls.CommitConfig{Rand: s.Random(), Proposals: []mls.Proposal{mls.Add{KeyPackage: k},
				extensions(forge.Members(s.context(), func(m *contents.GroupMembership) { m.Members[s.dave.Inbox()] = s.dave.Identity() }))}}, forge.Bend{})
			if err != nil {
				return // it cannot even be made
			}
			s.dave.Corrupt()
			s.Publish(s.mallory, group.TopicCommits, data, false)
		})},
}

// upTo shows an old state of the log.
func upTo(id uint64) sim.View { return func(at uint64, _ []byte) bool { return at <= id } }

// follow lets the taken client read an envelope.
func (s *scene) follow(payload []byte) {
	if data, err := group.DecodeGroupMessage(payload); err == nil {
		s.in.Follow(data, s.Known)
	}
}

// withLeafKey is somebody's key package with another encryption key in its leaf,
// signed anew (RFC 9420, Sections 7.2 and 10).
func (s *scene) withLeafKey(p sim.Player, key []byte) *mls.KeyPackage {
	k, err := forge.WithLeafKey(p.KeyPackage(), p.Signer(), key)
	s.Must(err)
	return k
}
