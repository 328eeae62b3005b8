package group_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
)

// isolate has an insider commit a path that opens for all but one, and everybody read
// that. The insider's leaf is beside the victim's.
func (w *world) isolate(insider *mls.Group, id []byte) {
	c := must(insider.Commit(mls.CommitConfig{Rand: w.rand, Each: func(n int, f func(int)) {
		for i := 1; i < n; i++ { // the first encryption is for the leaf beside it
			f(i)
		}
	}}))(w.t)
	w.publish(group.TopicCommits, id, group.EncodeGroupMessage(c.Message(), nil, false))
}

// ask has a stranded installation ask the super admins of its group.
func (h *home) ask() (sent int) {
	h.t.Helper()
	a, asks := h.replica.Ask()
	if !asks {
		return 0
	}
	got := group.Fetched{Now: h.tick()}
	for _, id := range a.Inboxes {
		got.Inboxes = append(got.Inboxes, h.fetch(id))
	}
	welcomes, err := a.Welcomes(got)
	h.must(err)
	for _, o := range welcomes {
		h.publish(group.TopicWelcomes, o.ID, o.Payload)
	}
	return len(welcomes)
}

// answers reads the requests among the welcomes that came, and steps its replica with
// each that is verified.
func (h *home) answers() (requests int) {
	h.t.Helper()
	for _, e := range h.log {
		if e.topic != group.TopicWelcomes || e.key != string(h.signer.Public()) || e.id <= h.welcome {
			continue
		}
		h.welcome = e.id
		welcome, err := h.unwrap(e.payload)
		h.must(err)
		_, _, err = group.Join(h.env(), group.JoinConfig{Welcome: welcome, Secrets: h.secrets, WelcomeID: e.id, Created: e.at})
		request := new(group.ReaddError)
		if !errors.As(err, &request) || !group.Verdict(err) {
			h.t.Fatalf("%s: what came is no request: %v", h.name, err)
		}
		if string(request.Group) == string(h.replica.ID()) {
			requests++
			h.step(request.Readd)
			h.service()
		}
	}
	return requests
}

// TestTheStrandedAskToBeAdded: an installation that a commit left behind asks the super
// admins. Each of them is asked, and hears who asks; one commit takes it out and in
// again, which all follow, and what waited is sent. Somebody who is no super admin, and
// one who is asked about a stranger, does nothing.
func TestTheStrandedAskToBeAdded(t *testing.T) {
	w := newWorld(t)
	w.run(words("people mallory carol alice bob"))
	w.run(words("create mallory default"))
	for _, name := range []string{"carol", "alice", "bob"} { // beside mallory's leaf: carol's
		w.run(words("add mallory " + name))
		w.sync(w.order)
	}
	w.run(words("admin mallory super alice"))
	w.run(words("admin mallory super bob"))
	w.sync(w.order)
	alice, bob, carol, mallory := w.homes["alice"], w.homes["bob"], w.homes["carol"], w.homes["mallory"]
	if _, asks := carol.replica.Ask(); asks {
		t.Error("who follows asks")
	}
	epoch := carol.replica.Epoch()
	w.isolate(mallory.replica.Group(), alice.replica.ID())
	w.sync([]string{"alice", "bob", "carol"})
	st, why := carol.replica.Standing()
	if st != group.Stranded || !strings.Contains(why, "super admins are asked") || alice.replica.Epoch() != epoch+1 {
		t.Fatalf("carol is %v: %q; alice is in epoch %d", st, why, alice.replica.Epoch())
	}
	w.run(words(`send carol "is anybody there"`))

	if carol.ask() == 0 {
		t.Error("carol asks nobody")
	}
	if alice.answers() != 1 || bob.answers() != 1 {
		t.Error("the super admins do not hear of it")
	}
	alice.crash() // the command is stored
	alice.service()
	w.sync([]string{"alice", "bob"})
	w.sync([]string{"carol", "alice", "bob"})
	w.sync([]string{"carol", "alice", "bob"})
	if st, why := carol.replica.Standing(); st != group.Following || carol.replica.Epoch() != alice.replica.Epoch() {
		t.Errorf("carol is %v, %q, in epoch %d, alice in %d:\n%s", st, why, carol.replica.Epoch(), alice.replica.Epoch(), w.out.String())
	}
	if n := len(alice.replica.Outstanding()) + len(bob.replica.Outstanding()); n != 0 || alice.replica.Epoch() > epoch+4 {
		t.Errorf("%d commands are left, in epoch %d: one commit brings it back", n, alice.replica.Epoch())
	}
	if !strings.Contains(w.out.String(), "is anybody there") {
		t.Error("what carol sent meanwhile was not published when it was back")
	}

	before := alice.digest()
	for name, request := range map[string]group.Readd{
		"a stranger":               {Inbox: carol.inbox.id, Installation: []byte("nobody's key of thirty-two bytes")},
		"another inbox's":          {Inbox: bob.inbox.id, Installation: carol.signer.Public()},
		"this installation itself": {Inbox: alice.inbox.id, Installation: alice.signer.Public()},
	} {
		if alice.step(request); alice.digest() != before {
			t.Errorf("%s is added again", name)
		}
	}
	before = carol.digest()
	if carol.step(group.Readd{Inbox: bob.inbox.id, Installation: bob.signer.Public()}); carol.digest() != before {
		t.Error("a plain member adds somebody again")
	}
}
