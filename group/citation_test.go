package group_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/mls"
)

// What a commit cites of identity logs is judged as it was when the log took the
// commit, whenever somebody reads it.

// A citer commits with no client in between, from a state of its own.
type citer struct {
	*home
	group *mls.Group
}

// cites publishes a commit that cites an inbox at an id, with installations that
// could not be added.
func (c *citer) cites(in *inbox, seq uint64, failed [][]byte) (*mls.StagedCommit, entry) {
	members := c.cited("alice", "bob", "carol", "dave", "mallory")
	members[in.id] = seq
	exts := group.ReplaceMembers(c.group.Extensions(), members, failed...)
	staged := must(c.group.Commit(mls.CommitConfig{Rand: c.world.rand, Proposals: []mls.Proposal{mls.GroupContextExtensions{Extensions: exts}}}))(c.t)
	return staged, c.publish(group.TopicCommits, c.homes["alice"].replica.ID(), group.EncodeGroupMessage(staged.Message(), nil, false))
}

// TestACommitIsReadAlikeWhenever: a member cites an inbox at ids that its identity
// log has, has not, and is about to have, while updates come around each commit. Alice
// reads every commit as it comes, and her host answers what she asks for as soon as
// the identity log is settled for that time. Bob sleeps, and reads some at a time; carol
// reads all of them at the end, and shares nothing. All three come to the same groups.
func TestACommitIsReadAlikeWhenever(t *testing.T) {
	waited, ended := 0, map[string]int{}
	for seed := range uint64(4) {
		w := newWorld(t)
		w.run(words("people alice bob carol dave mallory"))
		w.run(words("alone bob"))
		w.run(words("alone carol"))
		w.run(words("create alice"))
		w.run(words("add alice bob carol dave mallory"))
		w.sync(w.order)
		random := rand.New(rand.NewPCG(seed, 6))
		alice, bob, carol, dave := w.homes["alice"], w.homes["bob"], w.homes["carol"], w.inboxes["dave"]
		mallory := &citer{w.homes["mallory"], w.homes["mallory"].replica.Group()}
		var keys [][]byte // every installation that dave ever had
		extra := 0
		update := func() {
			if name := fmt.Sprint("dave", extra); extra > 0 && random.IntN(3) == 0 && dave.log.Latest().Has(must(identity.InstallationFrom(w.homes[name].signer.Public()))(t)) {
				w.revoke(name)
				return
			}
			extra++
			keys = append(keys, w.install(fmt.Sprint("dave", extra), "dave").signer.Public())
		}
		for round := range 24 {
			seq := dave.log.LatestID()
			switch random.IntN(4) {
			case 0: // it has that one
			case 1: // it has that one no more
				seq++
			default: // it has it soon, where nothing else comes in between
				seq = w.lastID + 2 + uint64(random.IntN(2))
			}
			failed := keys
			if random.IntN(4) == 0 {
				failed = nil
			}
			staged, e := mallory.cites(dave, seq, failed)
			before := alice.replica.Epoch()
			alice.step(delivery(e))
			for range random.IntN(3) { // each a second later than what was before
				if random.IntN(3) == 0 {
					w.tick()
				}
				update()
			}
			if asked := alice.replica.Waiting(); asked {
				waited++
				if until := e.at.Add(identity.Settled + time.Second); w.now.Before(until) {
					w.now = until
				}
			}
			if random.IntN(2) == 0 {
				update() // too late for the commit, whatever its id is
			}
			alice.service()
			if alice.replica.Epoch() > before {
				mallory.group = must(mallory.group.Merge(staged))(t)
				ended["applied"]++
			} else {
				ended["rejected"]++
			}
			if random.IntN(6) == 0 {
				bob.readLog()
			}
			if round%8 == 7 {
				w.now = w.now.Add(time.Hour)
			}
		}
		for _, h := range []*home{alice, bob, carol} {
			h.readLog()
			if h.replica.Epoch() != alice.replica.Epoch() || !bytes.Equal(h.replica.EpochAuthenticator(), alice.replica.EpochAuthenticator()) {
				t.Fatalf("seed %d: %s is in epoch %d, alice in %d: %s", seed, h.name, h.replica.Epoch(), alice.replica.Epoch(), w.out.String())
			}
			if got, want := h.tells(), alice.tells(); !slices.Equal(got, want) {
				t.Errorf("seed %d: %s has\n%q\nalice\n%q", seed, h.name, got, want)
			}
		}
	}
	if waited < 20 || ended["applied"] < 20 || ended["rejected"] < 10 {
		t.Errorf("%d commits waited for, and %v", waited, ended)
	}
}

// tells is a replica's history, and what it has refused.
func (h *home) tells() (all []string) {
	history, err := group.History(h.reader(), group.HistoryQuery{})
	h.must(err)
	for _, m := range history[1:] { // the first is of its own beginning
		all = append(all, fmt.Sprintf("%v %s %x", m.ID, m.Time, m.Content))
	}
	h.must(h.reader().Scan(group.TableRejected, nil, func(_, value []byte) bool {
		all = append(all, fmt.Sprintf("%x", value))
		return true
	}))
	return all
}

// TestAnInexactCitationIsReadAlike: a member may be cited at an id that no update has,
// since real clients take that. What the inbox has become by the time at which somebody
// reads the commit changes nothing: one who reads before an update and one who reads
// after it come to the same group, and the next commit is valid for both.
func TestAnInexactCitationIsReadAlike(t *testing.T) {
	w := three(t)
	w.install("bob2", "bob")
	w.run(words("refresh alice"))
	w.sync([]string{"alice", "bob", "carol"})
	alice, bob := w.homes["alice"], w.homes["bob"]
	members := w.cited("alice", "bob", "carol")
	members[bob.inbox.id] = 1 << 40
	c := w.homes["carol"].commit(mls.GroupContextExtensions{Extensions: group.ReplaceMembers(alice.replica.Group().Extensions(), members)})
	w.publish(group.TopicCommits, alice.replica.ID(), group.EncodeGroupMessage(c.Message(), nil, false))
	same := func(epoch uint64) {
		t.Helper()
		if alice.replica.Epoch() != epoch || !bytes.Equal(alice.replica.EpochAuthenticator(), bob.replica.EpochAuthenticator()) {
			t.Fatalf("alice is in epoch %d, bob in %d: %s", alice.replica.Epoch(), bob.replica.Epoch(), w.out.String())
		}
	}
	alice.deliver()
	w.revoke("bob2")
	bob.deliver()
	same(3)
	w.run(words("rename alice works"))
	w.sync([]string{"alice", "bob"})
	same(4)
	w.run(words("remove alice bob"))
	w.sync([]string{"alice", "bob"})
	if n := alice.replica.Group().Size(); n != 2 || bob.replica.Active() {
		t.Errorf("%d leaves are left: %s", n, w.out.String())
	}
}

// TestOneInputHasOneEffect: what is asked for and what is said of a commit do not
// depend on the order in which a map is walked.
func TestOneInputHasOneEffect(t *testing.T) {
	w := three(t)
	alice := w.homes["alice"]
	future := w.cited("alice", "bob", "carol", "dave")
	for id := range future {
		future[id] = 1 << 40
	}
	for name, members := range map[string]map[string]uint64{
		"asked for": future,
		"said":      {w.inboxes["alice"].id: 0, w.inboxes["bob"].id: 0, w.inboxes["carol"].id: 0},
	} {
		data := alice.commit(mls.GroupContextExtensions{Extensions: group.ReplaceMembers(alice.replica.Group().Extensions(), members)}).Message()
		seen := map[string]bool{}
		for range 20 {
			carol := w.homes["carol"]
			carol.crash() // nothing is kept of the step before
			fx := must(carol.replica.Step(group.Delivered{ID: 1 << 20, Time: w.now, Commit: true, Data: data}))(t)
			text := fmt.Sprint(fx.Resolve)
			for _, row := range fx.Save {
				text += string(row.Value)
			}
			seen[text] = true
		}
		if len(seen) != 1 {
			t.Errorf("what is %s: %d different effects of one input", name, len(seen))
		}
	}
}
