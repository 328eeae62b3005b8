package actors

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// The world itself: a group is formed and what one says all read, at once with
// a stream and by Sync without.
func TestConversation(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(3)
		id := w.group(p[0], p[1:]...)
		live := w.stream(p[1])
		w.say(p[0], id, "hello")
		w.hears(live, "hello")
		w.reads(p[1], id, "hello")
		w.reads(p[2], id)
		w.sync(p[2], id)
		w.reads(p[2], id, "hello")
		w.agree(id, p...)
	})
}

// Save before Send before Emit: where the store refuses, nothing is published
// and nobody is told anything; the actor starts again from the store and the
// group converges. faults.md S1, S15, D10.
func TestAStoreThatRefusesPublishesNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		w.say(p[0], id, "before")
		st := w.stream(p[0])
		refused := errors.New("disk is full")
		w.failing(func(at Point) error {
			if at == PointSave {
				return refused
			}
			return nil
		})
		before := len(w.published(id))
		if _, err := w.sys.Submit(w.ctx, p[0], id, group.Send{Content: []byte("lost"), Now: time.Now()}); err == nil {
			t.Fatal("a message that was not saved was accepted")
		}
		if n := len(w.published(id)); n != before {
			t.Errorf("%d envelopes left a host that could not save", n-before)
		}
		w.failing(nil)
		w.say(p[0], id, "after")
		w.hears(st, "after")
		w.sync(p[1], id)
		w.reads(p[1], id, "before", "after")
		w.agree(id, p...)
		if w.sys.Restarts() == 0 {
			t.Error("a failed save was no crash")
		}
	})
}

// A host that dies after the save and before the publish: the next one publishes
// the message, once. faults.md S5, D8.
func TestSavedIsPublishedOnceAfterACrash(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		w.say(p[0], id, "before")
		w.line.sever()
		message := w.send(p[0], id, "under way")
		elapse(time.Second)
		w.powerCut()
		w.line.mend()
		w.open()
		status, err := w.sys.AwaitMessage(w.ctx, p[0], id, message)
		w.ok(err)
		if status != group.StatusPublished {
			t.Fatalf("the message is %v", status)
		}
		if n := len(w.published(id)); n != 2 {
			t.Errorf("%d envelopes for two messages", n)
		}
		w.sync(p[1], id)
		w.reads(p[1], id, "before", "under way")
		w.agree(id, p...)
	})
}

// A host that dies after the publish and before it learns so: the next one finds
// its own bytes in the log, and publishes nothing. faults.md S4, S5.
func TestPublishedIsNotPublishedAgainAfterACrash(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		w.say(p[0], id, "before")
		w.line.answering(func(bus.Topic) error { return bus.ErrUnavailable })
		message := w.send(p[0], id, "arrived")
		synctest.Wait()
		w.powerCut()
		w.line.answering(nil)
		tried := w.line.tries(w.published(id)[1])
		w.open()
		status, err := w.sys.AwaitMessage(w.ctx, p[0], id, message)
		w.ok(err)
		if out := w.published(id); status != group.StatusPublished || len(out) != 2 || w.line.tries(out[1]) != tried {
			t.Errorf("%v, %d envelopes for two messages, tried %d times before the crash and %d in all", status, len(out), tried, w.line.tries(out[1]))
		}
		w.sync(p[1], id)
		w.reads(p[1], id, "before", "arrived")
	})
}

// What was received and not synced may be lost in a power cut: it is read again.
func TestReceivedIsReadAgainAfterAPowerCut(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		w.ok(w.store.Sync(w.ctx))
		for _, text := range []string{"one", "two", "three"} {
			w.say(p[0], id, text)
		}
		w.ok(w.store.Sync(w.ctx))
		w.sync(p[1], id)
		w.commit(p[0], id, "renamed")
		w.sync(p[1], id)
		crashed := w.store.Unsynced()
		w.powerCut()
		if crashed == 0 {
			t.Fatal("nothing was at risk")
		}
		w.open()
		w.sync(p[0], id)
		w.sync(p[1], id)
		w.reads(p[1], id, "one", "two", "three")
		w.agree(id, p...)
	})
}

// A bus that is cut off for a while: everything sent meanwhile goes out
// afterwards, in order, and being cut off counts as no attempt. S70, faults.md S7.
func TestABusThatIsCutOff(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		st := w.stream(p[1])
		w.line.sever()
		want := []string{"a", "b", "c", "d", "e"}
		var last group.MessageID
		for _, text := range want {
			last = w.send(p[0], id, text)
			elapse(10 * time.Minute)
		}
		drafts, err := Look(w.ctx, w.sys, p[0], id, func(r *group.Replica) []group.Message { return r.Drafts() })
		w.ok(err)
		if len(drafts) != len(want) {
			t.Errorf("%d messages wait", len(drafts))
		}
		for _, d := range drafts {
			if d.Attempts != 0 || d.Status != group.StatusUnpublished {
				t.Errorf("%q is %v after %d attempts", d.Content, d.Status, d.Attempts)
			}
		}
		w.line.mend()
		status, err := w.sys.AwaitMessage(w.ctx, p[0], id, last)
		w.ok(err)
		if status != group.StatusPublished {
			t.Errorf("status %v", status)
		}
		w.hears(st, want...)
		w.reads(p[0], id, want...)
	})
}

// Three refusals of the bus, and only they, make a message Failed; Retry sends
// it under the same id. S72.
func TestThreeRefusalsFail(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		w.say(p[0], id, "first")
		n := 0
		w.line.refusing(func(topic bus.Topic) error {
			if topic.Kind() == bus.GroupMessages {
				n++
				return bus.ErrRefused
			}
			return nil
		})
		message := w.send(p[0], id, "refused")
		status, err := w.sys.AwaitMessage(w.ctx, p[0], id, message)
		w.ok(err)
		if status != group.StatusFailed || n != 3 {
			t.Fatalf("%v after %d refusals", status, n)
		}
		if len(w.published(id)) != 1 {
			t.Error("a Failed message is on the bus")
		}
		w.line.refusing(nil)
		again, err := w.sys.Submit(w.ctx, p[0], id, group.Retry{Message: message, Now: time.Now()})
		w.ok(err)
		if again.Message != message {
			t.Error("Retry has another id")
		}
		status, err = w.sys.AwaitMessage(w.ctx, p[0], id, message)
		w.ok(err)
		w.sync(p[1], id)
		w.reads(p[1], id, "first", "refused")
		if status != group.StatusPublished {
			t.Errorf("status %v", status)
		}
	})
}

// A refusal says nothing of an earlier try of the same bytes that got no answer:
// that one is in the log, and a Failed message never turns up.
func TestRefusalAfterNoAnswer(t *testing.T) {
	for _, refusal := range []error{bus.ErrTooLarge, bus.ErrRefused} {
		inWorld(t, func(w *world) {
			p := w.people(2)
			id := w.group(p[0], p[1])
			w.sync(p[1], id)
			w.line.answering(func(topic bus.Topic) error {
				if topic.Kind() == bus.GroupMessages {
					w.line.refusing(func(topic bus.Topic) error {
						if topic.Kind() == bus.GroupMessages {
							return refusal
						}
						return nil
					})
					return bus.ErrUnavailable
				}
				return nil
			})
			message := w.send(p[0], id, "stored")
			status, err := w.sys.AwaitMessage(w.ctx, p[0], id, message)
			w.ok(err)
			if status != group.StatusPublished {
				t.Errorf("%v, and then %v: the message is %v", bus.ErrUnavailable, refusal, status)
			}
			w.sync(p[1], id)
			w.reads(p[1], id, "stored")
		})
	}
}

// Welcomes are sent again until the bus has them all, over a crash of their
// actor and of the host. faults.md C11.
func TestWelcomesAreSentAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(3)
		id := w.group(p[0])
		w.line.refusing(func(topic bus.Topic) error {
			if topic.Kind() == bus.Welcomes {
				return bus.ErrUnavailable
			}
			return nil
		})
		_, err := w.sys.Submit(w.ctx, p[0], id, group.AddMembers{Inboxes: []string{w.inbox(p[1]), w.inbox(p[2])}})
		w.ok(err)
		elapse(time.Minute)
		if n := w.epoch(p[0], id); n != 1 {
			t.Fatalf("epoch %d: the commit waits for its welcomes", n)
		}
		w.once(PointGroup)
		elapse(time.Minute)
		w.failing(nil)
		w.powerCut()
		w.open()
		w.line.refusing(nil)
		w.sync(p[0], id)
		for _, m := range p[1:] {
			w.ok(w.sys.SyncWelcomes(w.ctx, m))
			w.sync(m, id)
		}
		w.say(p[0], id, "welcome")
		w.sync(p[1], id)
		w.sync(p[2], id)
		w.reads(p[1], id, "welcome")
		w.agree(id, p...)
	})
}

// A welcome that points to what is not there yet waits, and so do the ones
// behind it, in order.
func TestPointeeThatIsNotThereYet(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(4)
		id := w.group(p[0])
		w.add(p[0], id, p[1:]...)
		// The bus tells the newcomer of its welcome, and keeps the pointee back.
		// A second welcome, which points at nothing, is not held up by it.
		second := w.group(p[3])
		w.add(p[3], second, p[1])
		hidden := &hiding{Bus: w.log}
		w.sys.pointees.bus = hidden
		w.ok(w.sys.SyncWelcomes(w.ctx, p[1]))
		w.sync(p[1], second)
		w.agree(second, p[3], p[1])
		if _, err := w.sys.Rows(w.ctx, p[1], id); !errors.Is(err, ErrNoGroup) {
			t.Fatalf("joined without the pointee: %v", err)
		}
		// What was set aside survives a restart, and is joined once the pointee
		// is there.
		w.restart()
		w.sys.pointees.bus = hidden
		w.ok(w.sys.SyncWelcomes(w.ctx, p[1]))
		hidden.show()
		w.ok(w.sys.SyncWelcomes(w.ctx, p[1]))
		w.sync(p[1], id)
		w.agree(id, p[0], p[1])
	})
}

// rejoin: one that was removed and is added again reads on, and nothing of what
// was said without it. S46.
func TestRejoinAfterRemoval(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(3)
		id := w.group(p[0], p[1:]...)
		w.say(p[0], id, "all of us")
		w.do(p[0], id, group.RemoveMembers{Inboxes: []string{w.inbox(p[2])}})
		w.say(p[0], id, "without you")
		w.sync(p[2], id)
		active, err := Look(w.ctx, w.sys, p[2], id, func(r *group.Replica) bool { return r.Active() })
		w.ok(err)
		if active {
			t.Fatal("removed and still active")
		}
		w.add(p[0], id, p[2])
		w.ok(w.sys.SyncWelcomes(w.ctx, p[2]))
		w.say(p[0], id, "with you again")
		w.sync(p[2], id)
		w.reads(p[2], id, "all of us", "with you again")
		w.sync(p[1], id)
		w.agree(id, p...)
		w.restart()
		w.agree(id, p...)
		w.say(p[2], id, "thanks")
	})
}

// The log goes backwards under a host that runs: what it had published and is
// gone is offered again, and nothing is said twice. faults.md R14.
func TestLogRewound(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		st := w.stream(p[1])
		w.say(p[0], id, "kept")
		_, messages := topicsOf(id)
		end, err := w.log.End(w.ctx, messages)
		w.ok(err)
		w.say(p[0], id, "lost by the log")
		w.hears(st, "kept", "lost by the log")
		w.log.Rewind(0, end)
		elapse(time.Minute)
		w.say(p[0], id, "next")
		w.sync(p[0], id)
		w.sync(p[1], id)
		if n := len(w.published(id)); n != 3 {
			t.Errorf("%d envelopes in the log, want what was kept, lost and next", n)
		}
		w.reads(p[0], id, "kept", "lost by the log", "next")
		w.hears(st, "next")
		w.agree(id, p...)
	})
}

// A Sync is answered when the log was read to its end, and it is not while an
// envelope in it waits for an identity.
func TestSyncReadsPastAWait(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(3)
		id := w.group(p[0], p[1])
		w.add(p[0], id, p[2])
		w.ok(w.sys.SyncWelcomes(w.ctx, p[2]))
		w.say(p[2], id, "behind the wait")
		w.sys.inboxes.mu.Lock()
		w.sys.inboxes.inboxes[w.inbox(p[2])] = &inbox{loaded: true} // never heard of
		w.sys.inboxes.mu.Unlock()
		w.line.silence(bus.GetIdentityUpdates)
		done := make(chan error, 1)
		go func() { done <- w.sys.Sync(w.ctx, p[1], id) }()
		elapse(time.Second)
		select {
		case err := <-done:
			t.Fatalf("answered while it waits: %v", err)
		default:
		}
		w.line.silence("")
		w.ok(<-done)
		w.reads(p[1], id, "behind the wait")
	}, func(c *Config) { c.Sharing = mls.None })
}

// What a host has published to the bus by itself, somebody who reads it sends again
// through a node, under an HMAC of his own: it is in the log once.
func TestACopyOfWhatAHostSent(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		w.say(p[0], id, "once")
		all := w.published(id)
		data, err := group.DecodeGroupMessage(all[len(all)-1])
		w.ok(err)
		_, err = w.node.SendGroupMessages(w.ctx, &mlsapi.SendGroupMessagesRequest{Messages: []*mlsapi.GroupMessageInput{{
			Version: &mlsapi.GroupMessageInput_V1_{V1: &mlsapi.GroupMessageInput_V1{Data: data, SenderHmac: []byte("mallory")}}}}})
		if w.ok(err); len(w.published(id)) != len(all) {
			t.Error("the copy is in the log, too")
		}
	})
}
