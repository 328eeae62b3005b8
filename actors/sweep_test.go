package actors

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/persistence"
)

// shared counts a group's shared rows, by table.
func (w *world) shared(id GroupID) map[group.Table]int {
	w.t.Helper()
	n := map[group.Table]int{}
	w.ok(persistence.ScanShared(w.ctx, w.store, w.sys.space, id[:], nil, func(row persistence.SharedRow) bool {
		n[group.Table(row.Suffix()[len(id)])]++
		return true
	}))
	return n
}

// Over many epochs the shared rows of a group stay few, and every member can be
// loaded from what is left at any epoch: one that keeps up, and one far behind.
// P: keys older than three epochs are gone from the store.
func TestSharedRowsAreSwept(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(4)
		late := p[3]
		id := w.group(p[0], p[1:]...)
		for n := range 70 {
			w.commit(p[0], id, fmt.Sprint("name ", n))
			w.sync(p[1], id)
			if n%10 == 0 {
				w.sync(p[2], id)
			}
			if n%16 == 13 { // in the middle of a run of tree differences
				elapse(time.Minute)
				w.ok(w.sys.sweep(w.ctx, id))
				w.restart()
			}
		}
		elapse(time.Minute)
		w.ok(w.sys.sweep(w.ctx, id))
		w.restart()
		if n := w.shared(id); n[group.TableEpoch] > 4*(liveEpochs+1) || n[group.TableTree] > 4*(wholeTreeEvery+liveEpochs+1) {
			t.Errorf("after 70 epochs the members share %v", n)
		}
		w.say(p[0], id, "still here")
		for _, m := range []InstallationID{p[1], p[2], late} {
			w.sync(m, id)
			w.reads(m, id, "still here")
		}
		w.agree(id, p...)
		elapse(time.Minute)
		w.ok(w.sys.sweep(w.ctx, id))
		w.restart()
		w.agree(id, p...)
		if n := w.shared(id); n[group.TableEpoch] > liveEpochs+1 || n[group.TableTree] > wholeTreeEvery+liveEpochs+1 {
			t.Errorf("all are at one epoch, and share %v", n)
		}
		if n := w.shared(id); n[group.TableText] == 0 {
			t.Error("the sweep took the history")
		}
	})
}

// The sweep comes by itself, beside the mailboxes.
func TestSweepComesByItself(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0], p[1])
		for w.epoch(p[0], id)%wholeTreeEvery != 0 {
			w.commit(p[0], id, fmt.Sprint("name ", w.epoch(p[0], id)))
			w.sync(p[1], id)
		}
		elapse(time.Minute)
		if n := w.shared(id); n[group.TableEpoch] > liveEpochs+2 {
			t.Errorf("nobody swept: %v", n)
		}
	})
}

// What is shared goes with the last member of this host, and not before.
func TestLastMemberTakesTheHistoryAlong(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(3)
		id, other := w.group(p[0], p[1]), w.group(p[2])
		w.say(p[0], id, "between us")
		w.sync(p[1], id)
		w.commit(p[2], other, "elsewhere")
		w.say(p[2], other, "still read")
		w.delete(p[0])
		w.reads(p[1], id, "between us")
		w.delete(p[1])
		if n := w.shared(id); len(n) != 0 {
			t.Errorf("nobody is left, and %v is", n)
		}
		w.reads(p[2], other, "still read")
		w.restart()
		w.say(p[2], other, "and said")
	})
}

func (w *world) delete(in InstallationID) {
	w.t.Helper()
	d, err := w.sys.Describe(in)
	w.ok(err)
	owner, err := identity.ParseAddress(d.Address)
	w.ok(err)
	w.ok(w.sys.Delete(w.ctx, in, owner, d.Database))
	delete(w.keys, in)
}

// Which rows a pin needs: package mls stores a tree whole at every sixteenth
// epoch, and as differences in between.
func TestNeeds(t *testing.T) {
	key := func(epoch uint64) []byte { return binary.BigEndian.AppendUint64(nil, epoch) }
	for _, c := range []struct {
		pin, epoch uint64
		table      group.Table
		needed     bool
	}{
		{20, 19, group.TableEpoch, false},
		{20, 20, group.TableEpoch, true},
		{20, 23, group.TableEpoch, true},
		{20, 24, group.TableEpoch, false},
		{20, 15, group.TableTree, false},
		{20, 16, group.TableTree, true},
		{20, 18, group.TableTree, true},
		{20, 24, group.TableTree, false},
		{16, 16, group.TableTree, true},
		{0, 0, group.TableEpoch, true},
	} {
		if needs(c.pin, c.table, key(c.epoch)) != c.needed {
			t.Errorf("pin %d, epoch %d of table %d: want %v", c.pin, c.epoch, c.table, c.needed)
		}
	}
}
