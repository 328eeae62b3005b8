package actors

import (
	"bytes"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/persistence"
)

// keyPackage is the one that the network gives out for an installation.
func (w *world) keyPackage(in InstallationID) []byte {
	w.t.Helper()
	p, err := w.sys.cfg.Network.FetchKeyPackages(w.ctx, [][]byte{in[:]})
	w.ok(err)
	return p[0]
}

// secrets counts the rows that open welcomes.
func (w *world) secrets(in InstallationID) int {
	w.t.Helper()
	i, err := w.sys.installation(in)
	w.ok(err)
	n := 0
	w.ok(i.vault.Scan(w.ctx, typeKeyPackage, nil, nil, func(_, _ []byte) bool { n++; return true }))
	return n
}

const rowsOfOne = 2 // one for each key that a welcome may be wrapped to

// A key package is replaced once, five seconds after a welcome, however many
// came; and every thirty days. X40.
func TestKeyPackageIsReplaced(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(3)
		first := w.keyPackage(p[1])
		for range 3 {
			w.group(p[0], p[1])
		}
		elapse(4 * time.Second)
		if !bytes.Equal(w.keyPackage(p[1]), first) {
			t.Error("it was replaced before its time")
		}
		elapse(3 * time.Second)
		second := w.keyPackage(p[1])
		if bytes.Equal(second, first) {
			t.Error("it was not replaced after a welcome")
		}
		elapse(12 * time.Hour)
		if !bytes.Equal(w.keyPackage(p[1]), second) || w.secrets(p[1]) != 2*rowsOfOne {
			t.Error("a burst of welcomes replaced it more than once")
		}
		idle := w.keyPackage(p[2])
		elapse(29 * 24 * time.Hour)
		if !bytes.Equal(w.keyPackage(p[2]), idle) {
			t.Error("one that nobody used was replaced before its time")
		}
		elapse(24 * time.Hour)
		if bytes.Equal(w.keyPackage(p[2]), idle) || bytes.Equal(w.keyPackage(p[1]), second) {
			t.Error("it was not replaced after thirty days")
		}
		w.say(p[1], w.group(p[0], p[1], p[2]), "with the newest")
	}, soonIdle)
}

// A welcome to a key package that was replaced meanwhile is opened for a day;
// then its secrets are gone. W5.
func TestWelcomeToReplacedKeyPackage(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id, err := w.sys.CreateGroup(w.ctx, p[0], group.CreateConfig{Now: time.Now()})
		w.ok(err)
		w.add(p[0], id, p[1]) // and its welcome waits
		in, err := w.sys.installation(p[1])
		w.ok(err)
		var b persistence.Batch
		in.welcomed(&b)
		w.ok(in.vault.Apply(w.ctx, &b, persistence.Lazy))
		w.sys.renewSoon(in)
		elapse(time.Minute)
		if n := w.secrets(p[1]); n != 2*rowsOfOne {
			t.Fatalf("%d rows of secrets", n)
		}
		w.ok(w.sys.SyncWelcomes(w.ctx, p[1]))
		w.say(p[1], id, "joined by the old one")
		elapse(27 * time.Hour)
		if n := w.secrets(p[1]); n != rowsOfOne {
			t.Errorf("a day later %d rows of secrets are left", n)
		}
	})
}

// A welcome that nobody reads for weeks is opened nevertheless, though its key
// package was replaced long ago. W5.
func TestWelcomeReadLate(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id, err := w.sys.CreateGroup(w.ctx, p[0], group.CreateConfig{Now: time.Now()})
		w.ok(err)
		w.add(p[0], id, p[1]) // and its welcome waits
		elapse(40 * 24 * time.Hour)
		w.ok(w.sys.SyncWelcomes(w.ctx, p[1]))
		w.say(p[1], id, "here at last")
		if n := w.secrets(p[1]); n > 2*rowsOfOne {
			t.Errorf("%d rows of secrets are left", n)
		}
	}, soonIdle)
}

// What was cut off is finished: a host that stopped before its turn, or whose
// upload nobody answered, replaces the key package once.
func TestReplacingSurvives(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		first := w.keyPackage(p[1])
		w.group(p[0], p[1])
		w.restart()
		elapse(10 * time.Second)
		second := w.keyPackage(p[1])
		if bytes.Equal(second, first) {
			t.Error("the restart forgot it")
		}
		w.group(p[0], p[1])
		w.line.sever()
		elapse(10 * time.Second)
		w.powerCut() // the secrets are durable, and not yet uploaded
		w.line.mend()
		w.open()
		elapse(10 * time.Second)
		third := w.keyPackage(p[1])
		if bytes.Equal(third, second) {
			t.Error("the power cut forgot it")
		}
		if n := w.secrets(p[1]); n != 3*rowsOfOne {
			t.Errorf("%d rows of secrets", n)
		}
		w.group(p[0], p[1])
		w.line.sever()
		elapse(10 * time.Second)
		w.line.mend()
		elapse(2 * time.Minute)
		if bytes.Equal(w.keyPackage(p[1]), third) {
			t.Error("an upload that failed was not tried again")
		}
	})
}

// A host actor that starts again forgets no turn.
func TestReplacingSurvivesTheHostActor(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		first := w.keyPackage(p[1])
		w.once(PointHost)
		w.group(p[0], p[1])
		elapse(15 * time.Second)
		if bytes.Equal(w.keyPackage(p[1]), first) || w.sys.Restarts() != 1 {
			t.Errorf("the key package was not replaced after %d restarts", w.sys.Restarts())
		}
	})
}

// A key package that could not be uploaded in its lifetime is replaced by one
// that can.
func TestReplacingAfterLongSleep(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		first := w.keyPackage(p[1])
		w.group(p[0], p[1])
		w.line.sever()
		elapse(10 * time.Second)
		w.close()
		elapse(100 * 24 * time.Hour)
		w.line.mend()
		w.open()
		elapse(time.Minute)
		if bytes.Equal(w.keyPackage(p[1]), first) {
			t.Fatal("nobody can add it any more")
		}
		w.say(p[1], w.group(p[0], p[1]), "added")
	})
}

// Many that join at once take turns, asleep: the host is not busy with their key
// packages all at once, and nobody wakes for it.
func TestReplacingTakesTurns(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(41)
		w.group(p[0], p[1:]...)
		before := make([][]byte, len(p))
		for i := range p {
			before[i] = w.keyPackage(p[i])
		}
		replaced := func() (n int) {
			for i := range p[1:] {
				if !bytes.Equal(w.keyPackage(p[1+i]), before[1+i]) {
					n++
				}
			}
			return n
		}
		elapse(6 * time.Second)
		if n := replaced(); n == 0 || n == 40 {
			t.Errorf("%d of 40 were replaced in the first second", n)
		}
		elapse(10 * time.Second)
		if n := replaced(); n != 40 {
			t.Errorf("%d of 40 were replaced", n)
		}
	})
}

// Before a message the host looks at the members once for all who are here: new
// installations are added, revoked ones removed. S29, S30, S50, X41.
func TestMembersAreLookedAt(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(3)
		id := w.group(p[0], p...)
		w.say(p[0], id, "one")
		more := w.another(p[1])
		elapse(6 * time.Second)
		epoch := w.epoch(p[0], id)
		asked := w.line.requests(bus.GetIdentityUpdates)
		w.send(p[0], id, "two")
		w.send(p[2], id, "three")
		w.say(p[0], id, "four")
		if n := w.line.requests(bus.GetIdentityUpdates) - asked; n > 3 {
			t.Errorf("%d questions about identities", n)
		}
		w.ok(w.sys.SyncWelcomes(w.ctx, more))
		w.sync(more, id)
		if got := w.texts(more, id); !slices.Contains(got, "four") {
			t.Errorf("the new installation reads %q", got)
		}
		w.say(more, id, "from it")
		w.revoke(p[1], more)
		elapse(6 * time.Second)
		w.say(p[0], id, "without it")
		w.sync(more, id)
		if got := w.texts(more, id); slices.Contains(got, "without it") {
			t.Errorf("the revoked installation reads %q", got)
		}
		if _, err := w.sys.Submit(w.ctx, more, id, group.Send{Content: []byte("no"), Now: time.Now()}); !errors.Is(err, group.ErrInactive) {
			t.Errorf("a revoked installation sends: %v", err)
		}
		w.sync(p[2], id)
		w.sync(p[1], id)
		w.agree(id, p...)
		if now := w.epoch(p[0], id); now <= epoch {
			t.Errorf("epoch %d, was %d", now, epoch)
		}
	})
}

// A revoked installation notices by itself, before others do.
func TestRevokedNotices(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		more := w.another(p[0])
		w.say(p[0], id, "hello")
		w.ok(w.sys.SyncWelcomes(w.ctx, more))
		w.say(more, id, "hello too")
		w.revoke(p[0], more)
		elapse(6 * time.Second)
		w.send(more, id, "never")
		elapse(time.Second)
		if _, err := w.sys.Submit(w.ctx, more, id, group.Send{Content: []byte("no"), Now: time.Now()}); !errors.Is(err, group.ErrRevoked) {
			t.Errorf("a revoked installation sends: %v", err)
		}
		w.sync(p[1], id)
		w.reads(p[1], id, "hello", "hello too")
		w.say(p[0], id, "read as long as it is a member")
		elapse(31 * time.Minute)
		w.ok(w.sys.Sync(w.ctx, more, id)) // would look at the members, and reads
	})
}

// A sync that did not look at the members does not keep the message after it
// from looking.
func TestSendLooksAfterSync(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		w.say(p[0], id, "one")
		more := w.another(p[1])
		w.restart()
		w.sync(p[0], id)
		w.say(p[0], id, "two")
		w.ok(w.sys.SyncWelcomes(w.ctx, more))
		w.sync(more, id)
		if got := w.texts(more, id); !slices.Equal(got, []string{"two"}) {
			t.Errorf("the new installation reads %q", got)
		}
	})
}

// Half an hour after the host looked a sync looks again.
func TestSyncLooksAtMembers(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		w.say(p[1], id, "hello")
		more := w.another(p[0])
		w.sync(p[1], id)
		w.ok(w.sys.SyncWelcomes(w.ctx, more))
		if _, err := w.sys.Rows(w.ctx, more, id); !errors.Is(err, ErrNoGroup) {
			t.Errorf("a sync looked at once: %v", err)
		}
		elapse(31 * time.Minute)
		w.sync(p[1], id)
		w.ok(w.sys.SyncWelcomes(w.ctx, more))
		w.say(more, id, "hello too")
	})
}

// A network that does not answer for identities holds no message up.
func TestIdentitiesOutOfReach(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		w.say(p[0], id, "one")
		more := w.another(p[1])
		elapse(6 * time.Second)
		w.line.silence(bus.GetIdentityUpdates)
		began := time.Now()
		w.say(p[0], id, "two")
		w.say(p[0], id, "without looking again at once")
		if took := time.Since(began); took > checkTime+time.Second {
			t.Errorf("two messages were held up for %v", took)
		}
		w.line.silence("")
		elapse(6 * time.Second)
		w.say(p[0], id, "three")
		w.ok(w.sys.SyncWelcomes(w.ctx, more))
		w.sync(more, id)
		if got := w.texts(more, id); !slices.Equal(got, []string{"three"}) {
			t.Errorf("the new installation reads %q", got)
		}
	})
}

// A member that was added renews its keys before its first message, in a small
// group at once. In a large one first messages do not race: one commit is enough
// for all who send at that time, and everybody's comes in turn.
func TestKeysAreRenewed(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(3)
		id := w.group(p[0], p[1:]...)
		epoch := w.epoch(p[0], id)
		w.say(p[1], id, "one")
		w.say(p[1], id, "two")
		w.say(p[0], id, "three")
		w.sync(p[0], id)
		if now := w.epoch(p[0], id); now != epoch+1 {
			t.Errorf("epoch %d after the first messages, was %d", now, epoch)
		}
		crowd := w.people(40)
		large := w.group(p[0], crowd...)
		epoch = w.epoch(p[0], large)
		for _, m := range crowd {
			w.say(m, large, "hello")
		}
		w.sync(p[0], large)
		if now := w.epoch(p[0], large); now != epoch {
			t.Errorf("%d commits for 40 first messages", now-epoch)
		}
		elapse(time.Minute)
		for _, m := range crowd {
			w.say(m, large, "hello again")
		}
		w.sync(p[0], large)
		if now := w.epoch(p[0], large); now != epoch+1 {
			t.Errorf("%d commits for 40 messages a minute later", now-epoch)
		}
	})
}

// S17: what was made while the clock was ahead, and nobody took, is in the way of
// no other.
func TestReplacingWithAClockAhead(t *testing.T) {
	var ahead atomic.Int64
	inWorld(t, func(w *world) {
		p := w.people(1)
		ahead.Store(int64(200 * 24 * time.Hour))
		elapse(2 * time.Hour) // nobody takes what is made now
		ahead.Store(0)
		w.restart()
		elapse(2 * time.Hour)
		made := w.keyPackage(p[0])
		elapse(31 * 24 * time.Hour)
		if bytes.Equal(w.keyPackage(p[0]), made) {
			t.Error("it was not replaced after thirty days")
		}
	}, func(c *Config) { c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) } })
}
