package attack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/internal/forge"
	"github.com/conclave-chat/conclave/mls"
)

// Somebody who knows the group's id, may write to its topics, and has none of its keys.
var strangerWrites = []Attack{
	{Place: Stranger, Name: "writes junk", From: "C2, R7, R18",
		Does:  "writes nothing, random bytes, half messages and real messages with a bit flipped, to every topic of the group",
		Holds: "all read past it alike",
		Run: outsider(group.PresetDefault, func(s *scene) {
			s.Must(s.bob.Say("before"))
			s.Settle()
			payloads := [][]byte{nil, {0}, bytes.Repeat([]byte{0xff}, 1000), make([]byte, 1<<20), forge.Envelope(nil), forge.Envelope([]byte{0, 1, 0, 2})}
			for _, e := range s.Log() {
				payloads = append(payloads, e.Payload[:len(e.Payload)/2])
				for range 10 {
					bent := bytes.Clone(e.Payload)
					bent[s.IntN(len(bent))] ^= 1 << s.IntN(8)
					payloads = append(payloads, bent)
				}
			}
			for _, p := range payloads {
				if s.Holds(p) {
					continue // what was bent is around the message
				}
				s.Write(group.TopicCommits, p)
				s.Write(group.TopicMessages, p)
			}
		})},
	{Place: Stranger, Name: "claims epochs for old envelopes", From: "R6; ARCHITECTURE.md, where the log goes backwards",
		Does:  "publishes old commits and messages whose cleartext says that they are of later epochs",
		Holds: "who reads them looks again, may say that others could be elsewhere, and goes on",
		Run: outsider(group.PresetDefault, func(s *scene) {
			s.Must(s.bob.Say("before"))
			s.Settle()
			for _, e := range s.Log() {
				for ahead := range uint64(4) {
					at := bytes.Index(e.Payload, s.GroupID())
					bent := bytes.Clone(e.Payload)
					binary.BigEndian.PutUint64(bent[at+len(s.GroupID()):], s.alice.Replica().Epoch()+ahead*ahead*1000)
					s.Write(group.TopicCommits, bent)
					s.Write(group.TopicMessages, bent)
				}
			}
			s.Settle()
		})},
	{Place: Stranger, Name: "repeats what others published", From: "R1; the bus's window, and far beyond it",
		Does:  "publishes every envelope of the log again, on both topics, three times",
		Holds: "every message is there once, at its first place",
		Run: outsider(group.PresetDefault, func(s *scene) {
			for _, p := range s.honest() {
				s.Must(p.Say("once, of " + p.Name()))
			}
			s.Settle()
			for range 3 {
				for _, e := range s.Log() {
					s.Write(group.TopicCommits, e.Payload)
					s.Write(group.TopicMessages, e.Payload)
				}
				s.Settle()
			}
		})},
	{Place: Stranger, Name: "squats the place of commits", From: "C2",
		Does:  "writes junk before each commit, so that its place is taken",
		Holds: "after two such refusals a commit goes without asking for its place",
		Run: outsider(group.PresetDefault, func(s *scene) {
			s.Squat(1000)
			s.Must(s.bob.Say("through"))
			s.Must(s.alice.Ask(group.UpdateMetadata{Field: group.AttributeName, Value: "through"}))
			s.Settle()
			if got := s.bob.Replica().Metadata().Attributes[group.AttributeName]; got != "through" {
				s.Broken("it gets through", "the name is %q", got)
			}
			s.Squat(0)
		})},
	{Place: Stranger, Name: "floods the group's log", From: "C2, R7",
		Does:  "writes a thousand envelopes between any two of others",
		Holds: "the others get through, and store nothing of it but the last few reasons",
		Run: outsider(group.PresetDefault, func(s *scene) {
			before := s.alice.Stored()
			for i := range 1000 {
				s.Write(group.TopicCommits, fmt.Appendf(nil, "junk %d %x", i, make([]byte, 200)))
			}
			s.Settle()
			if grown := s.alice.Stored() - before; grown > 64<<10 {
				s.Broken("it is bounded", "alice's host stores %d bytes more", grown)
			}
		})},
	{Place: Stranger, Name: "proposes from outside", From: "C14; RFC 9420, Section 12.1.8",
		Does:  "publishes external and new-member proposals, signed with its own key",
		Holds: "nobody takes them",
		Run: outsider(group.PresetDefault, func(s *scene) {
			s.refused(group.TopicCommits,
				forgery{"new member", s.fromOutside(mls.SenderNewMemberProposal, forge.Proposal(mls.ProposalAdd, s.erin.KeyPackage().Bytes())), nil},
				forgery{"external", s.fromOutside(mls.SenderExternal, forge.Proposal(mls.ProposalRemove, forge.RemoveBody(1))), nil})
		})},
	{Place: Stranger, Name: "sets the clock", From: "C16, S17",
		Does:  "has the log's clock jump years ahead and back between what others publish",
		Holds: "all judge alike, and nothing is lost",
		Run: outsider(group.PresetDefault, func(s *scene) {
			for _, d := range []int{3, -3, 400, -400} {
				s.Wait(day * time.Duration(d))
				s.Must(s.bob.Say(fmt.Sprint("after ", d)))
				s.Must(s.alice.Ask(group.AddMembers{Inboxes: []string{s.dave.Inbox()}}))
				s.Settle()
				if s.dave.Replica() != nil && s.dave.Replica().Active() { // its key package is of another time, where not
					s.Must(s.alice.Ask(group.RemoveMembers{Inboxes: []string{s.dave.Inbox()}}))
					s.Settle()
				}
			}
		})},
}

// A former member: it has the keys of the epochs that it was in.
var strangerJoins = []Attack{
	{Place: Stranger, Name: "comes back by an external commit", From: "C14; external commit by a removed member",
		Does:  "removed, commits itself back from a GroupInfo that a member leaked",
		Holds: "no member follows it",
		Run: play(group.PresetDefault, func(s *scene) {
			s.removeMallory()
			info, err := s.bob.Replica().Group().Info()
			s.Must(err)
			m, err := (*mls.Realm)(nil).Parse(info)
			s.Must(err)
			leaf := s.mallory.KeyPackage().LeafNode
			_, commit, err := mls.JoinExternal(mls.ExternalConfig{Rand: s.Random(), Signer: s.mallory.Signer(), Credential: leaf.Credential,
				Capabilities: leaf.Capabilities, LeafExtensions: leaf.Extensions, GroupInfo: m})
			s.Must(err)
			s.refused(group.TopicCommits, forgery{"external commit", commit.Message(), nil})
			s.goesOn()
		})},
	{Place: Stranger, Name: "goes on after its removal", From: "C8, C9",
		Does:  "removed, sends messages and commits of the epochs whose keys it has, and welcomes a friend into them",
		Holds: "nobody shows them, and nobody follows",
		Run: play(group.PresetDefault, func(s *scene) {
			s.removeMallory()
			f := s.bent("old commit", forge.Bend{})
			add := s.commit("old addition", mls.Add{KeyPackage: s.erin.KeyPackage()},
				extensions(forge.Members(s.context(), addsAt(s.erin))))
			s.refused(group.TopicCommits, f, add)
			s.refused(group.TopicMessages, s.say("k", "still here", forge.Bend{}))
			s.goesOn()
		})},
	{Place: Stranger, Name: "reads on after its removal", From: "C8; forward secrecy of removal",
		Does:  "removed, tries every key that it has on every later envelope",
		Holds: "it opens nothing",
		Run: play(group.PresetDefault, func(s *scene) {
			s.removeMallory()
			from := s.End()
			s.Must(s.bob.Say("without you"))
			s.Settle()
			for _, e := range s.Log() {
				data, err := group.DecodeGroupMessage(e.Payload)
				if uint64(e.ID) <= from || err != nil {
					continue
				}
				m, err := (*mls.Realm)(nil).Parse(data)
				s.Must(err)
				if _, _, err := s.in.Group().Open(m); err == nil {
					s.Broken("it opens nothing", "it opens %d", e.ID)
				}
			}
			s.goesOn()
		})},
	{Place: Stranger, Name: "acts though it was revoked", From: "I5; XIP-46",
		Does:  "an installation that its inbox has taken back goes on sending and committing, with a client of its own",
		Holds: "it does not come back by its own commits, and the others can remove it",
		Run: play(group.PresetAllMembers, func(s *scene) {
			s.UpdateIdentity(s.bob) // a second installation
			s.Must(s.alice.Ask(group.Refresh{}))
			s.Settle()
			second := s.Players()[len(s.Players())-1]
			if second.Replica() == nil {
				s.Broken("the attack", "bob's second installation is not in the group")
			}
			s.in, s.mallory = second.Take(), second
			s.UpdateIdentity(s.bob) // which is revoked
			s.Must(s.alice.Ask(group.Refresh{}))
			s.Settle()
			s.refused(group.TopicCommits, s.bent("own commit", forge.Bend{}))
			s.refused(group.TopicMessages, s.say("k", "still bob", forge.Bend{}))
			for key := range s.alice.Replica().Installations {
				if bytes.Equal(key, second.Signer().Public()) {
					s.Broken("it is removed", "alice still lists it")
				}
			}
		})},
}

// fromOutside is a proposal of erin's, who is no member, signed and in the clear
// (RFC 9420, Sections 6.1 and 12.1.8).
func (s *scene) fromOutside(sender mls.SenderType, body []byte) []byte {
	framed := append([]byte{0, 1, 0, 1, 16}, s.GroupID()...)
	framed = append(binary.BigEndian.AppendUint64(framed, s.alice.Replica().Epoch()), byte(sender))
	if sender == mls.SenderExternal {
		framed = append(framed, 0, 0, 0, 0)
	}
	framed = append(append(framed, 0, byte(mls.ContentProposal)), body...)
	signature := forge.Sign(s.erin.Signer(), "FramedContentTBS", framed)
	return append(append(framed, 64), signature...)
}

const day = 24 * time.Hour

// removeMallory takes mallory's client and has it removed from the group.
func (s *scene) removeMallory() {
	s.in = s.mallory.Take()
	s.Must(s.alice.Ask(group.RemoveMembers{Inboxes: []string{s.mallory.Inbox()}}))
	s.Settle()
	if s.alice.Replica().Group().Size() != 3 {
		s.Broken("the attack", "mallory is still a member")
	}
}
