package group_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/group"
)

// TestFourHundred: a group of 400 is made with one commit and one welcome for
// all, everyone reads a message and a commit, and 401 are too many before
// anything is sent. S26, S28, C10.
func TestFourHundred(t *testing.T) {
	w := newWorld(t)
	var ids []string
	for i := range 401 {
		name := fmt.Sprintf("m%03d", i)
		ids = append(ids, w.install(name, name).inbox.id)
	}
	alice := w.homes["m000"]
	w.run(words("create m000 admin_only"))
	if _, err := alice.replica.Step(group.AddMembers{Inboxes: ids[1:]}); !errors.Is(err, group.ErrGroupFull) {
		t.Fatalf("401 members: %v", err)
	}
	clock := time.Now()
	lap := func(what string) {
		t.Logf("%s: %v", what, time.Since(clock).Round(time.Millisecond))
		clock = time.Now()
	}
	lap("before")
	alice.step(group.AddMembers{Inboxes: ids[1:400]})
	alice.send("")
	alice.deliver()
	alice.send("")
	lap("add 399")
	commits, welcomes := 0, 0
	for _, e := range w.log {
		switch e.topic {
		case group.TopicCommits:
			commits++
			if len(e.payload) > 1<<20 {
				t.Errorf("commit of %d bytes", len(e.payload))
			}
		case group.TopicWelcomes:
			welcomes++
		}
	}
	if commits != 1 || welcomes != 400 {
		t.Errorf("%d commits and %d welcomes, want 1 and 400 (a pointer for each and the pointee)", commits, welcomes)
	}
	members := w.order[:400]
	for _, name := range members {
		w.homes[name].deliver()
	}
	lap("join 399")
	alice.step(group.Send{Content: []byte("to all"), Now: w.tick()})
	alice.send("")
	for _, name := range members {
		w.homes[name].deliver()
	}
	lap("message to 400")
	alice.step(group.UpdateMetadata{Field: group.AttributeName, Value: "large"})
	alice.send("")
	for _, name := range members {
		w.homes[name].deliver()
	}
	lap("commit to 400")
	w.agree()
	for _, name := range members {
		h := w.homes[name]
		list, err := group.History(h.reader(), group.HistoryQuery{Newest: true, Limit: 2})
		if err != nil || len(list) != 2 || string(list[1].Content) != "to all" || h.replica.Metadata().Attributes[group.AttributeName] != "large" {
			t.Fatalf("%s: %v, %v", name, list, err)
		}
	}
	if bodies := len(w.bodies[group.TableText]); bodies != 3 {
		t.Errorf("%d bodies for 3 messages", bodies)
	}
}

// TestSplitCommit: 400 inboxes of two installations each are more than one
// commit holds on a network with envelopes of 1 MiB. They come in several, each
// with its own welcomes; whoever came with an earlier one follows the later.
// S26, S28, C10.
func TestSplitCommit(t *testing.T) {
	const inboxes = 400
	w := newWorld(t)
	var ids []string
	for i := range inboxes {
		name := fmt.Sprintf("m%03d", i)
		ids = append(ids, w.install(name, name).inbox.id)
		w.install(name+"b", name)
	}
	alice := w.homes["m000"]
	alice.limits.PayloadBytes, alice.limits.CommitBytes = 1<<20, 900_000
	w.run(words("create m000"))
	alice.step(group.AddMembers{Inboxes: ids})
	for alice.replica.Pending() {
		alice.send("")
		alice.deliver()
	}
	commits, welcomes := 0, 0
	for _, e := range w.log {
		if len(e.payload) > 1<<20 {
			t.Errorf("envelope of %d bytes", len(e.payload))
		}
		switch e.topic {
		case group.TopicCommits:
			commits++
		case group.TopicWelcomes:
			welcomes++
		}
	}
	if commits != 2 || welcomes != 2*inboxes-1+commits {
		t.Errorf("%d commits and %d welcomes, want 2 and %d (a pointer for each and two pointees)", commits, welcomes, 2*inboxes-1+2)
	}
	for _, name := range w.order {
		w.homes[name].deliver()
	}
	alice.step(group.Send{Content: []byte("to all"), Now: w.tick()})
	alice.send("")
	for _, name := range w.order {
		h := w.homes[name]
		h.deliver()
		if h.replica == nil || h.replica.Epoch() != uint64(commits) {
			t.Fatalf("%s did not come in", name)
		}
		list, err := group.History(h.reader(), group.HistoryQuery{Newest: true, Limit: 1})
		if err != nil || len(list) != 1 || string(list[0].Content) != "to all" {
			t.Fatalf("%s: %v, %v", name, list, err)
		}
	}
	w.agree()
}
