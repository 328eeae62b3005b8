//go:build interop

package interop

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/xmtp"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/internal/forge"
	"github.com/conclave-chat/conclave/mls"
)

// A forger is a member with a client of its own making: it commits with the keys of an
// installation of Conclave's, and keeps no rule.
type forger struct {
	*goMember
	s   *scenario
	bus *xmtp.Bus
}

// forger registers one, on the host over NATS.
func (s *scenario) forger(name string) *forger {
	s.t.Helper()
	b := must[*xmtp.Bus](s.t)(xmtp.Open(xmtp.Config{URL: s.network.xmtpURL()}))
	s.t.Cleanup(func() { b.Close() })
	return &forger{s.ours(s.nats, name)[0], s, b}
}

// replica is what its store has of a group, brought up to date.
func (f *forger) replica(r room) (*group.Replica, error) {
	if _, err := r.Look(f.s.ctx); err != nil {
		return nil, err
	}
	c := f.client
	victim := forge.Victim{Store: f.s.store, Installation: c.InstallationID(), Key: c.DatabaseKey(), Inbox: c.InboxID()}
	return victim.Replica(f.s.ctx, r.(*goRoom).Conversation.ID())
}

// publish sends bytes as a commit of a group.
func (f *forger) publish(r room, payload []byte) error {
	id := r.(*goRoom).Conversation.ID()
	topic, err := bus.CommitsOf(id[:])
	if err == nil {
		_, err = f.bus.Publish(f.s.ctx, topic, payload)
	}
	return err
}

// The extensions of XMTP's groups that forgers bend.
const (
	extMetadata    mls.ExtensionType = 0xff00
	extPermissions mls.ExtensionType = 0xff02
)

// forgeries are commits that a plain member makes, and that everybody refuses.
var forgeries = []struct {
	name string
	make func(r *group.Replica) ([]byte, error)
}{
	{"without required capabilities", changing(func(exts mls.Extensions) mls.Extensions {
		return forge.Replace(exts, mls.ExtensionRequiredCapabilities, nil)
	})},
	{"without permissions", changing(func(exts mls.Extensions) mls.Extensions { return forge.Replace(exts, extPermissions, nil) })},
	{"with metadata that nobody reads", changing(func(exts mls.Extensions) mls.Extensions {
		return forge.Replace(exts, extMetadata, []byte("junk"))
	})},
	{"that removes a member which its inbox has not lost", func(r *group.Replica) ([]byte, error) {
		for i := range r.Group().Members() {
			if i != r.Group().OwnLeaf() {
				return forge.Commit(r, nil, mls.Remove{Removed: i})
			}
		}
		return nil, fmt.Errorf("nobody else is there")
	}},
	{"with its last bytes changed", func(r *group.Replica) ([]byte, error) {
		b, err := forge.Commit(r, nil)
		if err == nil {
			b = slices.Clone(b)
			data, _ := group.DecodeGroupMessage(b)
			data = slices.Clone(data)
			data[len(data)-1] ^= 1
			b = group.EncodeGroupMessage(data, make([]byte, 32), false)
		}
		return b, err
	}},
}

func changing(change func(mls.Extensions) mls.Extensions) func(*group.Replica) ([]byte, error) {
	return func(r *group.Replica) ([]byte, error) {
		return forge.Commit(r, nil, mls.GroupContextExtensions{Extensions: change(r.Group().Extensions())})
	}
}

// forge has the forger publish one of the forgeries, for the epoch that it is in.
func (f *forger) forge(r room, n int) error {
	replica, err := f.replica(r)
	if err != nil {
		return err
	}
	payload, err := forgeries[n%len(forgeries)].make(replica)
	if err != nil {
		return err
	}
	return f.publish(r, payload)
}

// The required capabilities of a group are kept, byte for byte, by what real clients
// and Go installations commit; a commit that drops them, or breaks another rule, is
// refused by both, and no epoch is begun by it.
func TestForgedCommits(t *testing.T) {
	s := begin(t, "required capabilities are kept, and forged commits are refused by both sides")
	ada, gil, newReal, newGo := s.real("ada")[0], s.ours(s.grpc, "gil")[0], s.real("newreal")[0], s.ours(s.nats, "newgo")[0]
	mallory := s.forger("mallory")
	theirs := must[room](t)(ada.NewGroup(s.ctx, "kept", gil, mallory))
	rooms := append([]room{theirs}, s.enterAll(theirs.ID(), gil, mallory)...)
	own := rooms[2]
	s.do(theirs.Promote(s.ctx, gil, admin))
	s.agree(rooms)
	required := func() []byte {
		t.Helper()
		data, ok := must[*group.Replica](t)(mallory.replica(own)).Group().Extensions().Get(mls.ExtensionRequiredCapabilities)
		if !ok {
			t.Fatal("the group requires nothing")
		}
		return data
	}
	before := required()
	for name, step := range map[string]func() error{
		"a real client's name":     func() error { return theirs.Rename(s.ctx, "by ada") },
		"a real client's addition": func() error { return theirs.Add(s.ctx, newGo) },
		"a Go member's name":       func() error { return rooms[1].Rename(s.ctx, "by gil") },
		"a Go member's addition":   func() error { return rooms[1].Add(s.ctx, newReal) },
		"a Go member's removal":    func() error { return rooms[1].Remove(s.ctx, newGo) },
	} {
		s.do(step())
		s.agree(rooms)
		if after := required(); !bytes.Equal(before, after) {
			t.Errorf("%s has changed what is required from %x to %x", name, before, after)
		}
	}
	for n, f := range forgeries {
		epoch := s.agree(rooms).Epoch
		s.do(mallory.forge(own, n))
		s.do(theirs.Rename(s.ctx, f.name))
		if v := s.agree(rooms); v.Epoch != epoch+1 || v.Name != f.name {
			t.Errorf("a commit %s: %q in epoch %d, after %d", f.name, v.Name, v.Epoch, epoch)
		}
	}
}

// An insider commits a path that opens for some only. A real client and a Go
// installation that it leaves out are both left behind, read nothing of what the others
// say, and are both back when an admin removes and adds them.
func TestInsiderIsolates(t *testing.T) {
	s := begin(t, "an insider isolates a real client and a Go installation, and both come back")
	mallory := s.forger("mallory")
	bob, ada := s.real("bob")[0], s.real("ada")[0]
	gus, gil := s.ours(s.nats, "gus")[0], s.ours(s.grpc, "gil")[0]
	// Leaves in this order: mallory, bob; ada, gus; gil. The path has an encryption for
	// bob's first, and for gil's last; those in between are for ada and gus.
	own := must[room](t)(mallory.NewGroup(s.ctx, "isolated", bob))
	for _, m := range []member{ada, gus, gil} {
		s.do(own.Add(s.ctx, m))
	}
	left, stay := s.enterAll(own.ID(), ada, gus), s.enterAll(own.ID(), bob, gil)
	s.do(own.Promote(s.ctx, bob, superAdmin))
	s.do(own.Promote(s.ctx, gil, superAdmin))
	s.say(stay[0], "all are here")
	epoch := s.agree(slices.Concat(left, stay)).Epoch

	replica := must[*group.Replica](t)(mallory.replica(own))
	commit := must[[]byte](t)(forge.Commit(replica, func(i, n int) bool { return 0 < i && i < n-1 }))
	s.do(mallory.publish(own, commit))
	if v := s.agree(stay); v.Epoch != epoch+1 {
		t.Fatalf("those for whom it opens are in epoch %d, not %d", v.Epoch, epoch+1)
	}
	s.say(stay[0], "without them")
	s.say(stay[1], "we go on")
	s.agree(stay, "bob: all are here", "bob: without them", "gil: we go on")
	for _, r := range left {
		v := must[view](t)(r.Look(s.ctx))
		if v.Epoch != epoch || !slices.Equal(s.lines(v), []string{"bob: all are here"}) {
			t.Errorf("%s is left out: %s", r.Member().Name(), s.describe(v))
		}
		t.Logf("%s says: %q", r.Member().Name(), v.Forked)
	}
	info, err := left[1].(*goRoom).Info(s.ctx)
	s.do(err)
	if info.Standing != conclave.StandingStranded || !strings.Contains(info.Stalled, "add it again") {
		t.Errorf("gus stands %v: %q", info.Standing, info.Stalled)
	}

	s.do(stay[0].Remove(s.ctx, gus)) // a real client brings the Go installation back, and the other way round
	s.do(stay[0].Add(s.ctx, gus))
	s.do(stay[1].Remove(s.ctx, ada))
	s.do(stay[1].Add(s.ctx, ada))
	s.back(slices.Concat(stay, s.enterAll(own.ID(), ada, gus)))
}

// back has everybody say something that everybody reads. The SDK goes on calling a
// group forked that it was forked from once.
func (s *scenario) back(rooms []room) {
	s.t.Helper()
	s.do(poll(s.ctx, func() error {
		var epoch uint64
		for _, r := range rooms {
			v, err := r.Look(s.ctx)
			if err != nil {
				return err
			}
			if epoch = max(epoch, v.Epoch); v.Epoch != epoch || !v.Active {
				return fmt.Errorf("%s is not back in epoch %d: %s", r.Member().Name(), epoch, s.describe(v))
			}
		}
		return nil
	}))
	var want []string
	for _, r := range rooms {
		text := r.Member().Name() + " is here"
		s.say(r, text)
		want = append(want, r.Member().Name()+": "+text)
	}
	s.do(poll(s.ctx, func() error {
		var first view
		for i, r := range rooms {
			v, err := r.Look(s.ctx)
			if err != nil {
				return err
			}
			if i == 0 {
				first = v
			}
			lines := s.lines(v)
			if got := lines[max(0, len(lines)-len(want)):]; !slices.Equal(got, want) {
				return fmt.Errorf("%s reads %q, not %q", r.Member().Name(), got, want)
			}
			if v.Epoch != first.Epoch || !slices.Equal(v.Members, first.Members) || !slices.Equal(v.Installations, first.Installations) {
				return fmt.Errorf("%s and %s see different things", rooms[0].Member().Name(), r.Member().Name())
			}
			s.row.members, s.row.epoch, s.row.read = len(v.Members), v.Epoch, len(lines)
		}
		return nil
	}))
}

// Who is removed reads nothing, and who is added again is a member as before: each
// kind by each kind's hand.
func TestAddedAgain(t *testing.T) {
	s := begin(t, "members of each kind are removed and added again, by each kind")
	ada, bob, gus, gil := s.real("ada")[0], s.real("bob")[0], s.ours(s.nats, "gus")[0], s.ours(s.grpc, "gil")[0]
	theirs := must[room](t)(ada.NewGroup(s.ctx, "again", bob, gus, gil))
	rooms := append([]room{theirs}, s.enterAll(theirs.ID(), bob, gus, gil)...)
	s.do(theirs.Promote(s.ctx, gus, admin))
	s.agree(rooms)
	for _, turn := range []struct{ by, who int }{{0, 3}, {2, 1}, {0, 1}, {2, 3}} { // ada, bob; gus, gil
		by, who := rooms[turn.by], rooms[turn.who].Member()
		without := slices.Delete(slices.Clone(rooms), turn.who, turn.who+1)
		said := fmt.Sprintf("%s is out by %s's hand", who.Name(), by.Member().Name())
		s.do(by.Remove(s.ctx, who))
		s.say(by, said)
		for _, r := range without {
			s.do(poll(s.ctx, func() error {
				v, err := r.Look(s.ctx)
				if err == nil && (len(v.Members) != 3 || !slices.Contains(s.lines(v), by.Member().Name()+": "+said)) {
					err = fmt.Errorf("%s has not read it: %s", r.Member().Name(), s.describe(v))
				}
				return err
			}))
		}
		if v, err := rooms[turn.who].Look(s.ctx); err == nil && (v.Active || slices.Contains(s.lines(v), by.Member().Name()+": "+said)) {
			t.Errorf("%s was removed: %s", who.Name(), s.describe(v))
		}
		s.do(by.Add(s.ctx, who))
		rooms[turn.who] = s.enter(theirs.ID(), who)
		s.back(rooms)
	}
}
