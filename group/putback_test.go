package group_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
)

// keyOf names the key that an own envelope was sealed under.
func (h *home) keyOf(payload []byte) string {
	data, err := group.DecodeGroupMessage(payload)
	h.must(err)
	m, err := h.realm.Parse(data)
	h.must(err)
	var own *mls.OwnMessageError
	if _, _, err := h.replica.Group().Open(m); !errors.As(err, &own) {
		h.t.Fatalf("not own: %v", err)
	}
	return fmt.Sprintf("epoch %d generation %d", own.Epoch, own.Generation)
}

// story runs a script's commands.
func story(w *world, lines ...string) {
	for _, l := range lines {
		w.printf("> %s", l)
		w.run(words(l))
		w.agree()
	}
}

// A store put back to when a KeyUpdate was sealed: it comes back in the log, and
// heals nothing, since what was sent since then is in its epoch. I8.
func TestFreshKeyIsNotAnOlderOne(t *testing.T) {
	w := newWorld(t)
	story(w, "people alice bob", "create alice", "add alice bob", "sync",
		"rotate bob", "backup bob", "publish bob", "deliver bob", `send bob "a"`)
	bob := w.homes["bob"]
	a := bob.keyOf(bob.outbox[0].Payload)
	story(w, "publish bob lost", "restore bob", "deliver bob", `send bob "b"`)
	for len(bob.outbox) > 0 && bob.outbox[0].Topic == group.TopicCommits {
		story(w, "publish bob", "deliver bob")
	}
	if b := bob.keyOf(bob.outbox[0].Payload); a == b {
		t.Errorf("two messages under one key: %s\n%s", b, w.out.String())
	}
}

// However often the fresh key is refused, nothing goes out without it. I8.
func TestNothingGoesBeforeTheFreshKey(t *testing.T) {
	w := newWorld(t)
	story(w, "people alice bob", "create alice", "add alice bob", "sync", "backup bob", `send bob "a"`)
	bob := w.homes["bob"]
	a := bob.keyOf(bob.outbox[0].Payload)
	story(w, "publish bob lost", "restore bob", `send bob "b"`, "deliver bob",
		"publish bob refused", "deliver bob", "publish bob refused", "deliver bob", "publish bob refused", "deliver bob")
	for _, o := range bob.outbox {
		if o.Topic == group.TopicMessages {
			if b := bob.keyOf(o.Payload); a == b {
				t.Errorf("two messages under one key: %s\n%s", b, w.out.String())
			}
		}
	}
}

// The log loses more messages than a replica remembers the newest of: each is
// offered again, and nobody shows one twice. R14.
func TestLongTailIsLost(t *testing.T) {
	w := newWorld(t)
	story(w, "people alice bob", "create alice", "add alice bob", "sync")
	for i := range 300 {
		w.homes["alice"].step(group.Send{Content: fmt.Appendf(nil, "m%d", i), Now: w.tick()})
	}
	story(w, "sync", "rewind 4", `send bob "first after"`, "sync bob", "sync", "sync")
	for _, n := range []string{"alice", "bob"} {
		list, err := group.History(w.homes[n].reader(), group.HistoryQuery{})
		w.must(err)
		copies := map[group.MessageID]int{}
		double := 0
		for _, m := range list {
			if copies[m.ID]++; copies[m.ID] == 2 {
				double++
			}
		}
		if double > 0 {
			t.Errorf("%s has %d of 300 messages twice", n, double)
		}
	}
}
