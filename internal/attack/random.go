package attack

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/internal/forge"
	"github.com/conclave-chat/conclave/internal/sim"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/contents"
)

// Random are attackers that seeds make up: a member's client is taken in the middle of
// a world in which people go on as they like and the network misbehaves. It publishes
// what is valid, what is nearly valid, and what is not, all with its true keys. The
// world's own invariants must hold: who is honest stays in one state or says that it
// is not, nothing that an honest member sends is lost, and nobody panics.
func Random(first uint64, seeds int) []Attack {
	return []Attack{{Place: Member, Name: fmt.Sprintf("forges at random (%d seeds from %d)", seeds, first),
		Does:  "mutates commits, proposals and messages field by field, signs them again, and publishes them among honest ones",
		Holds: "every invariant of the simulation, for everybody else",
		From:  "internal/sim I1 to I13",
		Run: func() error {
			for seed := first; seed < first+uint64(seeds); seed++ {
				if _, err := RunRandom(seed, sim.Options{}); err != nil {
					return fmt.Errorf("%w\nreplay: make attack SEEDS=1 FIRST=%d", err, seed)
				}
			}
			return nil
		}}}
}

// RunRandom simulates one seed with a random attacker.
func RunRandom(seed uint64, o sim.Options) (sim.Result, error) {
	f := &forger{rand: newRand(seed)}
	o.Attack = f.act
	return sim.Run(seed, o)
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0xa77ac4)) }

// A forger is a random attacker: one that takes a member's client when it can, and from
// then on does something each time that it is asked.
type forger struct {
	rand *rand.Rand
	st   *sim.Stage
	me   sim.Player
	in   *forge.Insider
	read uint64 // the last envelope that it followed
}

// act is Options.Attack.
func (f *forger) act(st *sim.Stage) {
	f.st = st
	if f.in == nil && !f.enter() {
		return
	}
	f.follow()
	if !f.in.Group().Active() {
		st.Count("attacks of a removed member")
	}
	deeds := []struct {
		name string
		do   func() error
	}{
		{"bent commit", f.bentCommit}, {"bent commit", f.bentCommit}, {"bent path", f.bentPath},
		{"proposals", f.proposals}, {"context", f.context}, {"valid commit", f.validCommit},
		{"bent message", f.bentMessage}, {"bent message", f.bentMessage}, {"message", f.message},
		{"proposal alone", f.alone}, {"replay", f.replay}, {"flipped bits", f.flip},
	}
	d := deeds[f.rand.IntN(len(deeds))]
	if err := d.do(); err != nil {
		st.Count("attacks that could not be made")
		return
	}
	st.Count("attacks: " + d.name)
}

// enter takes the client of some member who did not found the group.
func (f *forger) enter() bool {
	players := f.st.Players()
	p := players[1+f.rand.IntN(max(1, len(players)-1))%len(players)]
	r := p.Replica()
	if r == nil || !r.Active() || r.Epoch() == 0 || f.st.Founded(p) || r.Group().Size() < 3 {
		return false
	}
	if st, _ := r.Standing(); st != group.Following {
		return false
	}
	f.me, f.read = p, r.Cursor()
	f.in = p.Take()
	return true
}

// follow reads the log as far as it goes.
func (f *forger) follow() {
	for _, e := range f.st.Log() {
		if uint64(e.ID) <= f.read {
			continue
		}
		f.read = uint64(e.ID)
		if data, err := group.DecodeGroupMessage(e.Payload); err == nil {
			f.in.Follow(data, f.st.Known)
		}
	}
}

func (f *forger) chance(n, of int) bool { return f.rand.IntN(of) < n }

func (f *forger) bytes(n int) []byte {
	b := make([]byte, f.rand.IntN(n+1))
	for i := range b {
		b[i] = byte(f.rand.Uint32())
	}
	return b
}

// number is one of those that are often at the edge of something.
func (f *forger) number() uint64 {
	edges := []uint64{0, 1, 2, 5, 1000, 1001, 1<<16 - 1, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 40, 1<<63 - 1, 1<<64 - 1}
	return edges[f.rand.IntN(len(edges))]
}

// mutate bends one field of a message, and says whether it must be refused then.
func (f *forger) mutate(m *forge.Framed) {
	switch f.rand.IntN(9) {
	case 0:
		m.GroupID = f.bytes(20)
	case 1:
		m.Epoch = f.number()
	case 2:
		m.SenderType = byte(1 + f.rand.IntN(5))
	case 3:
		m.Sender = uint32(f.number())
	case 4:
		m.Leaf = uint32(f.rand.IntN(8))
		m.Generation = uint32(f.rand.IntN(3))
	case 5:
		m.Sender, m.Leaf, m.Generation = uint32(f.rand.IntN(8)), uint32(f.rand.IntN(8)), uint32(f.rand.IntN(3))
	case 6:
		m.Type = mls.ContentType(1 + f.rand.IntN(4))
	case 7:
		m.AAD = f.bytes(200)
	default:
		m.Body = f.spoil(m.Body)
	}
}

// spoil flips, cuts, repeats or replaces a part.
func (f *forger) spoil(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) == 0 {
		return f.bytes(40)
	}
	at := f.rand.IntN(len(b))
	switch f.rand.IntN(4) {
	case 0:
		b[at] ^= 1 << f.rand.IntN(8)
	case 1:
		return b[:at]
	case 2:
		return append(b, b[at:]...)
	default:
		return append(b[:at], f.bytes(40)...)
	}
	return b
}

// afterwards bends what authenticates a message.
func (f *forger) afterwards(m *forge.Framed) {
	switch f.rand.IntN(5) {
	case 0:
		m.Signature = f.spoil(m.Signature)
	case 1:
		m.Confirmation = f.spoil(m.Confirmation)
	case 2:
		m.Padding = f.bytes(64)
	case 3:
		m.Generation = uint32(f.rand.IntN(1100))
	default:
		m.Body = f.spoil(m.Body)
	}
}

func (f *forger) bend() forge.Bend {
	if f.chance(1, 2) {
		return forge.Bend{Unsigned: f.mutate}
	}
	return forge.Bend{Whole: f.afterwards}
}

// publish writes a message of the attacker's. Whether it may begin an epoch is for the
// world's other invariants to say: what is bent may be valid all the same.
func (f *forger) publish(t group.Topic, data []byte, err error) error {
	if err == nil {
		if f.chance(1, 20) {
			t = group.TopicCommits + group.TopicMessages - t
		}
		f.st.Publish(f.me, t, data, false)
	}
	return err
}

func (f *forger) config(p ...mls.Proposal) mls.CommitConfig {
	return mls.CommitConfig{Rand: f.st.Random(), Proposals: p}
}

func (f *forger) bentCommit() error {
	data, err := f.in.Commit(f.config(), f.bend())
	return f.publish(group.TopicCommits, data, err)
}

// bentPath changes a path and makes the tag anew: it may be valid for some.
func (f *forger) bentPath() error {
	if !f.chance(1, 4) {
		return errNotNow // it leaves members behind, who have to be added again
	}
	data, err := f.in.Commit(f.config(), forge.Bend{Unsigned: forge.Edit(func(b *forge.Body) {
		n := &b.Nodes[f.rand.IntN(len(b.Nodes))]
		switch {
		case len(n.Secrets) == 0 || f.chance(1, 4):
			n.Key = f.spoil(n.Key)
		case f.chance(1, 4):
			n.Secrets = n.Secrets[1:]
		default:
			x := &n.Secrets[f.rand.IntN(len(n.Secrets))]
			x[f.rand.IntN(2)] = f.spoil(x[f.rand.IntN(2)])
		}
	})})
	return f.publish(group.TopicCommits, data, err)
}

// proposals commits some that are valid MLS, whatever the group's rules say of them.
func (f *forger) proposals() error {
	var list []mls.Proposal
	for range 1 + f.rand.IntN(3) {
		switch f.rand.IntN(4) {
		case 0:
			list = append(list, mls.Remove{Removed: mls.LeafIndex(f.rand.IntN(f.in.Group().Size() + 1))})
		case 1:
			players := f.st.Players()
			list = append(list, mls.Add{KeyPackage: players[f.rand.IntN(len(players))].KeyPackage()})
		case 2:
			list = append(list, mls.ReInit{GroupID: f.bytes(16), Version: 1, CipherSuite: f.in.Group().Suite()})
		default:
			p, err := f.edited()
			if err != nil {
				return err
			}
			list = append(list, p)
		}
	}
	data, err := f.in.Commit(f.config(list...), forge.Bend{})
	return f.publish(group.TopicCommits, data, err)
}

// context commits a change of the context alone.
func (f *forger) context() error {
	p, err := f.edited()
	if err != nil {
		return err
	}
	staged, err := f.in.Stage(f.config(p))
	if err != nil {
		return err
	}
	return f.publish(group.TopicCommits, staged.Message(), nil)
}

// edited changes something of the context.
func (f *forger) edited() (mls.Proposal, error) {
	exts := f.in.Group().Extensions()
	players := f.st.Players()
	someone := players[f.rand.IntN(len(players))].Inbox()
	var err error
	switch f.rand.IntN(6) {
	case 0:
		exts, err = forge.Metadata(exts, func(m *contents.GroupMutableMetadataV1) {
			names := []string{"group_name", "description", "_x", "x", "", "message_disappear_in_ns"}
			m.Attributes[names[f.rand.IntN(len(names))]] = string(bytes.ToValidUTF8(f.bytes(120), nil))
		})
	case 1:
		exts, err = forge.Metadata(exts, func(m *contents.GroupMutableMetadataV1) {
			list := &m.AdminList.InboxIds
			if f.chance(1, 2) {
				list = &m.SuperAdminList.InboxIds
			}
			if *list = append(*list, someone); f.chance(1, 3) {
				*list = nil
			}
		})
	case 2:
		exts, err = forge.Members(exts, func(m *contents.GroupMembership) {
			if delete(m.Members, someone); f.chance(1, 2) {
				m.Members[someone] = uint64(f.rand.IntN(12))
			}
		})
	case 3:
		exts, err = forge.Members(exts, func(m *contents.GroupMembership) {
			m.FailedInstallations = append(m.FailedInstallations, f.bytes(32))
			m.Members[fmt.Sprintf("%064x", f.bytes(32))] = 0
		})
	case 4:
		exts = forge.Replace(exts, mls.ExtensionType(f.number()), f.bytes(30))
	default:
		i := f.rand.IntN(len(exts))
		exts = forge.Replace(exts, exts[i].Type, f.spoil(exts[i].Data))
	}
	return mls.GroupContextExtensions{Extensions: exts}, err
}

// validCommit renews its keys, by all rules.
func (f *forger) validCommit() error {
	staged, err := f.in.Stage(f.config())
	if err != nil {
		return err
	}
	return f.publish(group.TopicCommits, staged.Message(), nil)
}

func (f *forger) bentMessage() error {
	data, err := f.in.Say(forge.Plaintext("k", f.bytes(50)), f.bend())
	return f.publish(group.TopicMessages, data, err)
}

// message is one that others read, or whose content is nothing.
func (f *forger) message() error {
	plaintext := f.bytes(60)
	if f.chance(1, 2) {
		plaintext = forge.Plaintext(fmt.Sprint(f.read), f.bytes(60))
	}
	data, err := f.in.Say(plaintext, forge.Bend{})
	return f.publish(group.TopicMessages, data, err)
}

func (f *forger) alone() error {
	data, err := f.in.Propose(forge.Proposal(mls.ProposalType(f.rand.IntN(10)), f.bytes(100)), forge.Bend{})
	return f.publish(group.TopicCommits, data, err)
}

func (f *forger) replay() error {
	log := f.st.Log()
	if len(log) == 0 {
		return errNotNow
	}
	f.st.Write(group.TopicCommits+group.Topic(f.rand.IntN(2)), log[f.rand.IntN(len(log))].Payload)
	return nil
}

func (f *forger) flip() error {
	log := f.st.Log()
	if len(log) == 0 {
		return errNotNow
	}
	payload := f.spoil(log[f.rand.IntN(len(log))].Payload)
	if f.st.Holds(payload) {
		return errNotNow // what was bent is around the message
	}
	f.st.Write(group.TopicCommits+group.Topic(f.rand.IntN(2)), payload)
	return nil
}

var errNotNow = errors.New("attack: not now")
