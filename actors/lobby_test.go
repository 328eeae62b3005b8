package actors

import (
	"crypto/rand"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/bus"
)

// A dozen pointers to nothing, which anybody may send, and an honest welcome behind
// them: it is joined at once, and so is the one behind six times as many. faults.md W11.
func TestPointersToNothingHoldUpNobody(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(5)
		for range 12 {
			w.add(p[0], w.group(p[0]), p[1:4]...)
		}
		envelopes, err := w.log.Read(w.ctx, 0, 100, welcomeTopic(p[1]))
		w.ok(err)
		for i := range 60 { // as many others, each of bytes of its own
			_, err := w.log.Publish(w.ctx, welcomeTopic(p[1]), append(envelopes[i%12].Payload, 0xa2, 0x06, 2, byte(i), byte(i>>8)))
			w.ok(err)
		}
		honest := w.group(p[4])
		w.add(p[4], honest, p[1])
		hidden := &hiding{Bus: w.log}
		reads := &countingLine{Bus: hidden}
		w.sys.pointees.bus = reads
		began := time.Now()
		w.ok(w.sys.SyncWelcomes(w.ctx, p[1]))
		w.ok(w.sys.knows(w.ctx, p[1], honest))
		if d := time.Since(began); d > time.Second {
			t.Errorf("the honest one was joined after %v", d)
		}
		// They are tried again, at a bounded pace, and found once they are there.
		elapse(6 * time.Hour)
		if n := reads.asked.Load(); n > 72*20 {
			t.Errorf("%d reads in six hours for 72 pointers to nothing", n)
		}
		hidden.show()
		elapse(2 * time.Hour)
		joined, err := w.sys.Groups(w.ctx, p[1])
		if w.ok(err); len(joined) != 13 {
			t.Errorf("joined %d groups", len(joined))
		}
	}, func(c *Config) { c.CommitLogEvery = -1 })
}

// What of them does not fit is read from the log when there is room: the cursor has
// not passed it.
func TestWelcomesInMemoryAreBounded(t *testing.T) {
	for name, size := range map[string]int{"heavy": 1 << 20, "light": 100} {
		a := newInstallationActor(nil, nil)
		var envelopes []bus.Envelope
		for i := range 20_000 {
			envelopes = append(envelopes, bus.Envelope{ID: bus.MakeID(uint64(i+1), 0), Payload: make([]byte, size)[:size:size]})
			if size > 100 && i == 63 {
				break
			}
		}
		a.enqueue(envelopes)
		if a.lobby.bytes > maxGuestBytes+size || len(a.lobby.queue) > maxGuests || !a.more {
			t.Errorf("%s: %d welcomes of %d bytes in memory, more: %v", name, len(a.lobby.queue), a.lobby.bytes, a.more)
		}
		if a.cursor != 0 || a.last() != bus.MakeID(uint64(len(a.lobby.queue)), 0) {
			t.Errorf("%s: the cursor is at %d, read was to %d", name, a.cursor, a.last())
		}
	}
}

// Junk of every kind before an honest welcome: more of it than there is room for.
func TestJunkBeforeAWelcome(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		id := w.group(p[0])
		w.add(p[0], id, p[1])
		sample, err := w.log.Read(w.ctx, 0, 1, welcomeTopic(p[1]))
		w.ok(err)
		for i := range 3000 {
			junk := make([]byte, 64)
			_, _ = rand.Read(junk)
			switch i % 4 {
			case 1: // addressed to a key that is there, and of a megabyte
				junk = append(append([]byte{}, sample[0].Payload...), make([]byte, i%7)...)
				junk[len(junk)/2] ^= byte(i)
			case 2:
				if i%100 == 2 {
					junk = make([]byte, 1<<20)
				}
			}
			_, err := w.log.Publish(w.ctx, welcomeTopic(p[1]), junk)
			w.ok(err)
		}
		honest := w.group(p[0])
		w.add(p[0], honest, p[1])
		w.ok(w.sys.SyncWelcomes(w.ctx, p[1]))
		w.ok(w.sys.knows(w.ctx, p[1], honest))
		w.restart()
		w.ok(w.sys.SyncWelcomes(w.ctx, p[1]))
		joined, err := w.sys.Groups(w.ctx, p[1])
		if w.ok(err); len(joined) != 2 {
			t.Errorf("joined %d groups", len(joined))
		}
	}, func(c *Config) { c.CommitLogEvery = -1 })
}

// Strangers and a friend: the friend's welcome, which is the last in the log, is
// joined first, and of strangers each has his turn. Nothing is lost, whatever
// crashes meanwhile.
func TestAFriendBeforeStrangers(t *testing.T) {
	for _, crashes := range []bool{false, true} {
		t.Run(fmt.Sprintf("crashes %v", crashes), func(t *testing.T) {
			inWorld(t, func(w *world) {
				p := w.people(4)
				me, friend, pest, stranger := p[0], p[1], p[2], p[3]
				w.group(friend, me)
				elapse(time.Minute)
				order := map[GroupID]string{}
				invite := func(by InstallationID, as string) {
					id := w.group(by)
					w.add(by, id, me)
					order[id] = as
				}
				const pests = 40
				for range pests {
					invite(pest, "pest")
				}
				invite(stranger, "stranger")
				invite(friend, "friend")
				st, err := w.sys.Stream(w.ctx, me, Scope{}, StreamConversations)
				w.ok(err)
				var n atomic.Int64
				if crashes {
					w.failing(func(p Point) error {
						if p == PointSave && n.Add(1)%7 == 3 {
							panic("injected")
						}
						return nil
					})
				}
				_ = w.sys.SyncWelcomes(w.ctx, me)
				elapse(time.Hour)
				w.failing(nil)
				w.ok(w.sys.SyncWelcomes(w.ctx, me))
				var got []string
				for len(got) < pests+2 {
					items, err := st.Next(w.ctx)
					w.ok(err)
					for _, it := range items {
						got = append(got, order[it.Group])
					}
				}
				if got[0] != "friend" || got[1] != "stranger" && got[2] != "stranger" {
					t.Errorf("joined in the order %v", got[:4])
				}
				if rejected := w.tel.WelcomesRejected.Value(); rejected != 0 {
					t.Errorf("%d welcomes were rejected, or taken twice", rejected)
				}
			}, func(c *Config) { c.CommitLogEvery = -1 })
		})
	}
}

// The rules by which a lobby chooses.
func TestWhoIsJoinedNext(t *testing.T) {
	made := func(n int, state guestState, group, inbox string, friend bool) *guest {
		g := &guest{id: bus.MakeID(uint64(n), 0), time: time.Unix(int64(n), 0), state: state, friend: friend}
		if group != "" {
			g.from.Group, g.from.Inbox = []byte(group), inbox
		}
		return g
	}
	for _, tt := range []struct {
		name    string
		queue   []*guest
		turns   map[string]int
		readAll bool
		want    int // position; -1: none
	}{
		{"nobody", nil, nil, true, -1},
		{"one that came alone", []*guest{made(1, deferred, "", "", false)}, nil, false, 0},
		{"a stranger, and the log goes on", []*guest{made(1, deferred, "g", "mallory", false)}, nil, false, -1},
		{"a stranger at the end of the log", []*guest{made(1, deferred, "g", "mallory", false)}, nil, true, 0},
		{"a friend behind a stranger", []*guest{made(1, deferred, "g", "mallory", false), made(2, deferred, "h", "bob", true)}, nil, false, 1},
		{"a friend behind what was not looked at", []*guest{made(1, opening, "", "", false), made(2, deferred, "h", "bob", true)}, nil, true, -1},
		{"a friend who had his turns", []*guest{made(1, deferred, "g", "carol", false), made(2, deferred, "h", "bob", true)}, map[string]int{"bob": maxTurns}, true, 0},
		{"who had fewer turns", []*guest{made(1, deferred, "g", "mallory", false), made(2, deferred, "h", "carol", false)}, map[string]int{"mallory": 1}, true, 1},
		{"the earlier of one group", []*guest{made(1, deferred, "g", "mallory", false), made(2, deferred, "g", "bob", true)}, nil, false, 0},
		{"while the earlier of its group is joined", []*guest{made(1, entering, "g", "mallory", false), made(2, deferred, "g", "bob", true)}, nil, true, -1},
	} {
		l := lobby{queue: tt.queue, turns: tt.turns}
		got := -1
		for i, g := range tt.queue {
			if g == l.nextJoin(tt.readAll) {
				got = i
			}
		}
		if got != tt.want {
			t.Errorf("%s: the one at %d, want %d", tt.name, got, tt.want)
		}
	}
}
