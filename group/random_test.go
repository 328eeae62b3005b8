package group_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
)

// TestSharingChangesNothing runs the same random histories, with faults and
// crashes, in a world that shares what is public and in one that shares
// nothing: every word that the replicas say is the same.
func TestSharingChangesNothing(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			shared, alone := newWorld(t), newWorld(t)
			alone.realm, alone.shared = mls.NewRealm(mls.None), nil
			a, b := shared.wander(seed, 60), alone.wander(seed, 60)
			if a == b {
				return
			}
			x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
			for i := range min(len(x), len(y)) {
				if x[i] != y[i] {
					t.Fatalf("line %d\nshared: %s\nalone:  %s", i, x[i], y[i])
				}
			}
			t.Fatal("one says more than the other")
		})
	}
}

// wander does random things to a group of five, lets it come to rest, and
// returns what was said. At rest all members agree about everything.
func (w *world) wander(seed uint64, steps int) string {
	r := rand.New(rand.NewPCG(seed, 1))
	people := []string{"ann", "ben", "cid", "dot", "eve"}
	for _, p := range people {
		w.install(p, p)
	}
	w.run([]string{"create", "ann", "all_members"})
	w.run([]string{"add", "ann", "ben", "cid"})
	w.sync(people)
	for i := range steps {
		who, other := people[r.IntN(len(people))], people[r.IntN(len(people))]
		what, h := r.IntN(16), w.homes[who]
		if h.replica == nil {
			continue
		}
		w.printf("> %d %s %s %d", i, who, other, what)
		switch what {
		case 0, 1, 2:
			w.run([]string{"send", who, fmt.Sprintf("message-%d", i)})
		case 3:
			w.run([]string{"rename", who, fmt.Sprintf("name-%d", i)})
		case 4:
			w.run([]string{"add", who, other})
		case 5:
			if r.IntN(3) == 0 && h.replica.Active() {
				w.run([]string{"remove", who, other})
			}
		case 6:
			w.run([]string{"rotate", who})
		case 7, 8, 9:
			h.send("")
		case 10:
			h.send([]string{"refused", "lost", "unanswered", "nocas"}[r.IntN(4)])
		case 11, 12, 13:
			h.deliver()
		case 14:
			w.run([]string{"crash", who})
		case 15:
			w.run([]string{"junk", "commits"})
		}
		w.agree()
	}
	w.sync(people)
	w.sync(people)
	w.atRest(people)
	return w.out.String()
}

// atRest checks that active members are in one epoch with nothing pending, that
// nobody has a message twice, and that all have it at one place of the log. (Who
// came between the sealing of a message and its place has the copy that it is owed.)
func (w *world) atRest(people []string) {
	var first *home
	for _, p := range people {
		h := w.homes[p]
		if h.replica == nil || !h.replica.Active() {
			continue
		}
		if h.replica.Pending() {
			w.t.Errorf("%s still waits for something: %q", p, h.replica.Stalled())
		}
		if first == nil {
			first = h
			continue
		}
		if first.replica.Epoch() != h.replica.Epoch() {
			w.t.Errorf("%s is in epoch %d, %s in %d", first.name, first.replica.Epoch(), p, h.replica.Epoch())
		}
	}
	places, joined := map[string]map[group.MessageID]uint64{}, map[string]uint64{}
	for _, p := range people {
		if w.homes[p].replica != nil {
			places[p] = map[group.MessageID]uint64{}
			list, err := group.History(w.homes[p].reader(), group.HistoryQuery{})
			w.must(err)
			for _, m := range list {
				if places[p][m.ID] != 0 {
					w.t.Errorf("%s has %s twice", p, w.describe(m))
				}
				places[p][m.ID] = m.Position.ID
				if strings.HasSuffix(m.Key, "_welcome_added") {
					joined[p] = m.Position.ID
				}
			}
		}
	}
	for p, at := range places {
		for q, other := range places {
			for id, place := range at {
				if later := other[id]; later > place && joined[q] <= joined[p] {
					w.t.Errorf("%s has %v at %d, %s at %d", p, id, place, q, later)
				}
			}
		}
	}
}
