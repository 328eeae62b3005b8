package actors

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/persistence/memory"
	"github.com/conclave-chat/conclave/proto/contents"
)

// The network answers with somebody else's log under the name that was asked.
func TestAnotherInboxesLogIsNotTaken(t *testing.T) {
	mallory, alice := newNetworkLog(t), newNetworkLog(t)
	mallory.inbox = alice.inbox // the node says: this is alice's log
	d := openRegistry(t, mallory, memory.New(), ethereum.Verifier{})
	_ = d.refresh(t.Context(), []string{alice.inbox})
	if state, seq := d.latest(alice.inbox); state != nil {
		t.Errorf("inbox %.8s is taken to be inbox %.8s (update %d)", alice.inbox, state.InboxID(), seq)
	}
}

// A member's commit names an inbox that is none.
func TestCommitThatNamesNoInbox(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(3)
		id := w.group(p[0], p[1], p[2])
		for _, m := range p {
			w.sync(m, id)
		}
		staged, err := Look(w.ctx, w.sys, p[2], id, func(r *group.Replica) *mls.StagedCommit {
			exts := r.Group().Extensions()
			data, _ := exts.Get(0xff01)
			var m contents.GroupMembership
			w.ok(proto.Unmarshal(data, &m))
			m.Members["nobody"] = 7
			data, _ = proto.Marshal(&m)
			forged := append(mls.Extensions{}, exts...)
			for i := range forged {
				if forged[i].Type == 0xff01 {
					forged[i].Data = data
				}
			}
			s, err := r.Group().Commit(mls.CommitConfig{Rand: rand.Reader, Proposals: []mls.Proposal{mls.GroupContextExtensions{Extensions: forged}}})
			w.ok(err)
			return s
		})
		w.ok(err)
		commits, _ := topicsOf(id)
		_, err = w.line.Publish(w.ctx, commits, group.EncodeGroupMessage(staged.Message(), make([]byte, 32), false))
		w.ok(err)
		w.send(p[0], id, "hello")
		ctx, cancel := context.WithTimeout(w.ctx, 24*time.Hour)
		defer cancel()
		for i, m := range p[:2] {
			if err := w.sys.Sync(ctx, m, id); err != nil {
				t.Errorf("member %d: %v (asked %d times)", i, err, w.line.requests(bus.GetIdentityUpdates))
			}
		}
	}, func(c *Config) { c.CommitLogEvery = -1 })
}
