package actors

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
)

// An insider leaves one installation behind, which then asks the super admins: the one
// that is there brings it back, without anybody's doing, and what it sent meanwhile is
// published. So it is where the host was closed before anybody had read the request.
func TestAStrandedInstallationIsBroughtBack(t *testing.T) {
	for _, restart := range []bool{false, true} {
		inWorld(t, func(w *world) {
			p := w.people(3)
			mallory, carol, alice := p[0], p[1], p[2]
			id := w.group(mallory, carol) // carol's leaf is beside mallory's
			w.add(mallory, id, alice)
			w.do(mallory, id, group.UpdateAdmins{Inbox: w.inbox(alice), Change: group.AddSuperAdmin})
			for _, in := range p[1:] {
				w.ok(w.sys.SyncWelcomes(w.ctx, in))
				w.sync(in, id)
			}
			s, err := w.branch(mallory, id).Commit(mls.CommitConfig{Rand: rand.Reader, Each: func(n int, f func(int)) {
				for i := 1; i < n; i++ {
					f(i)
				}
			}})
			w.ok(err)
			commits, _ := topicsOf(id)
			_, err = w.log.Publish(w.ctx, commits, group.EncodeGroupMessage(s.Message(), make([]byte, 32), false))
			w.ok(err)
			w.sync(carol, id)
			if st := w.standing(carol, id); st != group.Stranded {
				t.Fatalf("carol is %v", st)
			}
			w.send(carol, id, "does anybody hear me")
			elapse(time.Second)
			if restart {
				w.restart()
			}
			st := w.stream(alice)
			defer st.Close()
			w.ok(w.sys.SyncWelcomes(w.ctx, alice))
			w.sync(alice, id)
			w.ok(w.sys.SyncWelcomes(w.ctx, carol))
			w.sync(carol, id)
			w.hears(st, "does anybody hear me")
			if st := w.standing(carol, id); st != group.Following || w.epoch(carol, id) != w.epoch(alice, id) {
				t.Errorf("carol is %v in epoch %d, alice in %d", st, w.epoch(carol, id), w.epoch(alice, id))
			}
		})
	}
}
