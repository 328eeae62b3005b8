package actors

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
)

// attested counts the entries of a group's commit log.
func (w *world) attested(id GroupID) int {
	w.t.Helper()
	topic, err := bus.CommitLogOf(id[:])
	w.ok(err)
	entries, err := w.log.Read(w.ctx, 0, 1000, topic)
	w.ok(err)
	return len(entries)
}

// C15: a host tends the commit logs of its groups by itself, every few minutes,
// and wakes for it only who has something to publish.
func TestCommitLogsAreTended(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(3)
		id := w.group(p[0], p[1:]...)
		elapse(4 * time.Minute)
		if n := w.attested(id); n != 0 {
			t.Fatalf("%d entries too early", n)
		}
		elapse(2 * time.Minute)
		if n := w.attested(id); n != 1 {
			t.Fatalf("%d entries of one commit", n)
		}
		elapse(2 * time.Minute)
		if n := w.live(); n != 1 {
			t.Errorf("%d actors are awake, want the host", n)
		}
		elapse(time.Hour)
		if n, awake := w.attested(id), w.live(); n != 1 || awake != 1 {
			t.Errorf("%d entries, and %d actors are awake where nothing is new", n, awake)
		}
		w.commit(p[0], id, "renamed")
		w.once(PointHost) // the host actor starts again, and so do its rounds
		elapse(10 * time.Minute)
		if n := w.attested(id); n != 2 {
			t.Errorf("%d entries of two commits", n)
		}
		w.restart() // what was read is read again
		elapse(10 * time.Minute)
		if n := w.attested(id); n != 2 {
			t.Errorf("%d entries after a restart", n)
		}
	}, soonIdle)
}

// A host that shall not tend commit logs does not, and one whose network is away
// goes on when it is back.
func TestCommitLogsWithoutNetwork(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		elapse(time.Hour)
		if n := w.attested(id); n != 0 {
			t.Errorf("%d entries, and nobody asked for any", n)
		}
	}, func(c *Config) { c.CommitLogEvery = -1 })
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		w.line.sever()
		elapse(time.Hour)
		w.line.mend()
		elapse(10 * time.Minute)
		if n := w.attested(id); n != 1 {
			t.Errorf("%d entries of one commit", n)
		}
	})
}

// A group between an inbox's own installations is joined and kept, and people
// neither see nor hear of it: it is in no list and no stream, and has no commit
// log.
func TestSyncGroupsAreHidden(t *testing.T) {
	inWorld(t, func(w *world) {
		phone := w.person()
		laptop := w.another(phone)
		heard := w.stream(laptop)
		joined, err := w.sys.Stream(w.ctx, laptop, Scope{}, StreamConversations)
		w.ok(err)
		active, err := w.sys.Stream(w.ctx, laptop, Scope{}, StreamActive)
		w.ok(err)
		id, err := w.sys.CreateGroup(w.ctx, phone, group.CreateConfig{Kind: group.KindSync, Now: time.Now()})
		w.ok(err)
		w.add(phone, id, phone)
		synctest.Wait()
		w.say(phone, id, "for the other installation")
		elapse(10 * time.Minute)
		w.reads(laptop, id, "for the other installation")
		w.agree(id, phone, laptop)
		for _, in := range []InstallationID{phone, laptop} {
			if seen, err := w.sys.Conversations(w.ctx, in, Scope{}); err != nil || len(seen) != 0 {
				t.Errorf("%d conversations are seen: %v", len(seen), err)
			}
			if _, err := w.sys.Conversation(w.ctx, in, id); err != ErrNoGroup {
				t.Errorf("seen by its id: %v", err)
			}
		}
		if n := w.attested(id); n != 0 {
			t.Errorf("%d entries in its commit log", n)
		}
		// The next news are of a group for people.
		ours := w.group(phone)
		w.add(phone, ours, phone)
		w.say(phone, ours, "seen")
		w.hears(heard, "seen")
		for _, st := range []*Stream{joined, active} {
			if items, err := st.Next(w.ctx); err != nil || len(items) != 1 || items[0].Group != ours {
				t.Errorf("news: %+v, %v", items, err)
			}
		}
		for _, st := range []*Stream{heard, joined, active} {
			w.ok(st.Close())
		}
	})
}
