package actors

import (
	"crypto/rand"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/contents"
)

// usurped is a group that a stranger makes under another's id, after some commits of
// its own.
func (w *world) usurped(by InstallationID, id GroupID, epoch int) *mls.Group {
	w.t.Helper()
	i, err := w.sys.installation(by)
	w.ok(err)
	r, _, err := group.Create(i.env, group.CreateConfig{ID: id[:], Now: time.Now()})
	w.ok(err)
	g := r.Group()
	for range epoch {
		s, err := g.Commit(mls.CommitConfig{Rand: rand.Reader})
		w.ok(err)
		g, err = g.Merge(s)
		w.ok(err)
	}
	return g
}

// distract writes envelopes of a far epoch to a group's log, as anybody can: who
// reads them may be in another epoch than the rest.
func (w *world) distract(by, victim InstallationID, id GroupID) {
	w.t.Helper()
	g := w.usurped(by, id, 20)
	_, messages := topicsOf(id)
	for range 8 {
		var data []byte
		var err error
		g, data, err = g.Seal(rand.Reader, nil, []byte("noise"))
		w.ok(err)
		_, err = w.log.Publish(w.ctx, messages, group.EncodeGroupMessage(data, make([]byte, 32), false))
		w.ok(err)
	}
	w.sync(victim, id) // it reads once more from its last commit
	w.sync(victim, id)
	if st := w.standing(victim, id); st != group.Apart {
		w.t.Fatalf("it is %v", st)
	}
}

func (w *world) standing(in InstallationID, id GroupID) group.Standing {
	w.t.Helper()
	st, err := Look(w.ctx, w.sys, in, id, func(r *group.Replica) group.Standing { st, _ := r.Standing(); return st })
	w.ok(err)
	return st
}

func (w *world) addedBy(in InstallationID, id GroupID) string {
	w.t.Helper()
	inbox, err := Look(w.ctx, w.sys, in, id, (*group.Replica).AddedBy)
	w.ok(err)
	return inbox
}

// usurp welcomes somebody to a stranger's group of its group's id.
func (w *world) usurp(by, victim InstallationID, id GroupID) {
	w.t.Helper()
	g := w.usurped(by, id, 2)
	exts := slices.Clone(g.Extensions())
	members := map[string]uint64{}
	for _, m := range []InstallationID{by, victim} {
		w.ok(w.sys.inboxes.refresh(w.ctx, []string{w.inbox(m)}))
		_, members[w.inbox(m)] = w.sys.inboxes.latest(w.inbox(m))
	}
	data, err := proto.Marshal(&contents.GroupMembership{Members: members})
	w.ok(err)
	for i := range exts {
		if exts[i].Type == 0xff01 {
			exts[i].Data = data
		}
	}
	k, err := mls.ParseKeyPackage(w.keyPackage(victim))
	w.ok(err)
	s, err := g.Commit(mls.CommitConfig{Rand: rand.Reader, Proposals: []mls.Proposal{
		mls.Add{KeyPackage: k}, mls.GroupContextExtensions{Extensions: exts}}})
	w.ok(err)
	w.forgeWelcome(victim, s.Welcome(), 0)
	w.ok(w.sys.SyncWelcomes(w.ctx, victim))
}

func (w *world) requests(in InstallationID) []Request {
	w.t.Helper()
	all, err := w.sys.Requests(w.ctx, in)
	w.ok(err)
	return all
}

// Who cannot follow its group's log is welcomed by a stranger: that waits for the
// owner, over a restart too, and changes nothing before it is accepted.
func TestStrangersWelcomeWaitsForTheOwner(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(3)
		alice, bob, mallory := p[0], p[1], p[2]
		id := w.group(alice, bob)
		w.usurp(mallory, bob, id)
		if st := w.standing(bob, id); st != group.Following || len(w.requests(bob)) != 0 {
			t.Fatalf("one that follows its group is %v, and has requests %v", st, w.requests(bob))
		}

		w.distract(mallory, bob, id)
		w.usurp(mallory, bob, id)
		w.usurp(mallory, bob, id) // in the place of the first
		w.restart()
		r := w.requests(bob)
		if len(r) != 1 || r[0].Group != id || r[0].AddedBy != w.inbox(mallory) {
			t.Fatalf("requests are %v", r)
		}
		w.say(alice, id, "from alice")
		w.sync(bob, id)
		if err := w.sys.Accept(w.ctx, bob, r[0]); !errors.Is(err, group.ErrRejected) || w.addedBy(bob, id) != w.inbox(alice) {
			t.Errorf("accepted while it follows again: %v", err)
		}
		if err := w.sys.Accept(w.ctx, bob, r[0]); !errors.Is(err, ErrNoRequest) {
			t.Errorf("accepted twice: %v", err)
		}

		w.distract(mallory, bob, id)
		w.usurp(mallory, bob, id)
		r = w.requests(bob)
		w.ok(w.sys.Decline(w.ctx, bob, r[0]))
		if err := w.sys.Accept(w.ctx, bob, r[0]); !errors.Is(err, ErrNoRequest) || len(w.requests(bob)) != 0 {
			t.Errorf("accepted what was declined: %v", err)
		}

		active, err := w.sys.Stream(w.ctx, bob, Scope{}, StreamActive)
		w.ok(err)
		defer active.Close()
		w.usurp(mallory, bob, id)
		w.ok(w.sys.Accept(w.ctx, bob, w.requests(bob)[0]))
		items, err := active.Next(w.ctx)
		if w.ok(err); len(items) != 1 || items[0].AddedBy != w.inbox(mallory) || w.addedBy(bob, id) != w.inbox(mallory) {
			t.Errorf("it is told %+v", items)
		}
		w.reads(bob, id, "from alice") // the history stays
		if len(w.requests(bob)) != 0 {
			t.Error("a request stays")
		}
	}, func(c *Config) { c.CommitLogEvery = -1 })
}

// The host's owner may answer for all.
func TestHostAdmits(t *testing.T) {
	var asked []Request
	admit := false
	inWorld(t, func(w *world) {
		p := w.people(3)
		alice, bob, mallory := p[0], p[1], p[2]
		id := w.group(alice, bob)
		w.distract(mallory, bob, id)
		w.usurp(mallory, bob, id)
		if len(asked) != 1 || asked[0].AddedBy != w.inbox(mallory) || len(w.requests(bob)) != 1 {
			t.Errorf("asked %v, and %v wait", asked, w.requests(bob))
		}
		admit = true
		w.usurp(mallory, bob, id)
		if w.addedBy(bob, id) != w.inbox(mallory) {
			t.Error("what was admitted was not taken")
		}
	}, func(c *Config) {
		c.CommitLogEvery = -1
		c.Admit = func(r Request) bool { asked = append(asked, r); return admit }
	})
}

// Strangers' requests are bounded: what comes beyond is refused, none is pushed out,
// and they go with time.
func TestRequestsAreBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		alice, bob := p[0], p[1]
		id := w.group(alice, bob)
		strangers := w.people(maxRequests + 3)
		w.distract(strangers[0], bob, id)
		for _, s := range strangers {
			w.usurp(s, bob, id)
		}
		r := w.requests(bob)
		if len(r) != maxRequests || r[0].AddedBy != w.inbox(strangers[0]) {
			t.Errorf("%d wait", len(r))
		}
		elapse(requestLife + time.Hour)
		if left := w.requests(bob); len(left) != 0 {
			t.Errorf("%d are left", len(left))
		}
		if err := w.sys.Accept(w.ctx, bob, r[0]); !errors.Is(err, ErrNoRequest) {
			t.Errorf("accepted after its time: %v", err)
		}
		w.usurp(strangers[0], bob, id)
		if len(w.requests(bob)) != 1 {
			t.Error("there is no room again")
		}
	}, func(c *Config) { c.CommitLogEvery = -1 })
}
