package features

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus"
	membus "github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/contents"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// A judge is a world whose host compares its groups with their commit logs as
// often as the test says.
type judge struct {
	*world
	turn chan struct{} // each lets one round read
}

func newJudge(t *testing.T, wire *wire) *judge {
	t.Helper()
	turn := make(chan struct{})
	wire.onRequest(func(ctx context.Context, service string) {
		if service != bus.QueryCommitLog {
			return
		}
		select {
		case <-turn:
		case <-ctx.Done():
		}
	})
	return &judge{newWorld(t, wire.config, func(c *conclave.Config) { c.CommitLogEvery = time.Millisecond }), turn}
}

// round returns when a round has ended that began after the call. The round that
// waits for its turn began before; the one after it has ended when a third asks.
func (j *judge) round() {
	j.t.Helper()
	for range 3 {
		select {
		case j.turn <- struct{}{}:
		case <-j.ctx.Done():
			j.t.Fatal("commit logs are not read")
		}
	}
}

// commits lists the ids of a group's commits.
func (w *world) commits(log *membus.Bus, id conclave.GroupID) (ids []uint64) {
	w.t.Helper()
	topic := must[bus.Topic](w.t)(bus.CommitsOf(id[:]))
	for _, e := range must[[]bus.Envelope](w.t)(log.Read(w.ctx, 0, 100, topic)) {
		ids = append(ids, uint64(e.ID))
	}
	return ids
}

// attested reads a group's commit log.
func (w *world) attested(log *membus.Bus, id conclave.GroupID) (entries []*contents.PlaintextCommitLogEntry) {
	w.t.Helper()
	page := must[[]*mlsapi.QueryCommitLogResponse](w.t)(node.NewClient(log).QueryCommitLog(w.ctx, []*mlsapi.QueryCommitLogRequest{{
		GroupId: id[:], PagingInfo: &mlsapi.PagingInfo{Direction: mlsapi.SortDirection_SORT_DIRECTION_ASCENDING, Limit: 100},
	}}))
	for _, e := range page[0].GetCommitLogEntries() {
		p := new(contents.PlaintextCommitLogEntry)
		w.do(proto.Unmarshal(e.SerializedCommitLogEntry, p))
		entries = append(entries, p)
	}
	return entries
}

func (w *world) forked(c conclave.Conversation) bool {
	w.t.Helper()
	return must[conclave.Info](w.t)(c.Info(w.ctx)).Forked
}

// C15: what a group's commits did is published once, however many super admins
// there are, on one host or on several, and members who stand where it says are
// not marked. Both sides of a direct message do it too.
func TestCommitLogIsPublishedOnce(t *testing.T) {
	wire := newWire(t, membus.Config{})
	log, one, other := wire.Bus, newJudge(t, wire), newJudge(t, wireTo(wire.Bus))
	alix, bo, caro := one.client(), one.client(), other.client()
	g := one.newGroup(conclave.GroupOptions{}, alix, bo, caro)
	for _, c := range []*conclave.Client{bo, caro} {
		one.do(g.SetRole(one.ctx, c.InboxID(), conclave.RoleSuperAdmin))
	}
	theirs, far := one.of(bo, g), other.of(caro, g)
	one.do(theirs.UpdateName(one.ctx, "renamed"))
	dm := one.dm(alix, bo)
	for range 3 {
		one.do(g.Sync(one.ctx))
		other.do(far.Sync(other.ctx))
		one.round()
		other.round()
	}
	for _, id := range []conclave.GroupID{g.ID(), dm.ID()} {
		commits, entries := one.commits(log, id), one.attested(log, id)
		if len(commits) == 0 || len(entries) != len(commits) {
			t.Fatalf("%d entries for %d commits", len(entries), len(commits))
		}
		for i, e := range entries {
			if e.CommitSequenceId != commits[i] || e.AppliedEpochNumber != uint64(i+1) || len(e.AppliedEpochAuthenticator) != 32 ||
				i > 0 && !bytes.Equal(e.LastEpochAuthenticator, entries[i-1].AppliedEpochAuthenticator) {
				t.Errorf("entry %d: %v", i, e)
			}
		}
	}
	one.do(g.UpdateName(one.ctx, "again"))
	one.round()
	if commits, entries := one.commits(log, g.ID()), one.attested(log, g.ID()); len(entries) != len(commits) {
		t.Errorf("after another commit %d entries for %d", len(entries), len(commits))
	}
	other.do(far.Sync(other.ctx))
	other.round()
	if one.forked(g) || one.forked(theirs) || other.forked(far) || one.forked(dm) {
		t.Error("marked as forked, where all agree")
	}
}

// C15 R6: a member that stands in another epoch than the group's commit log says
// is marked, and nothing else changes for it. A host adds nothing to a log that
// somebody else's key began.
func TestForkIsShown(t *testing.T) {
	wire := newWire(t, membus.Config{})
	log, w := wire.Bus, newJudge(t, wire)
	c := w.clients(2)
	g := w.newGroup(conclave.GroupOptions{}, c...)
	w.do(g.UpdateName(w.ctx, "before"))
	theirs := w.of(c[1], g)
	w.do(g.UpdateName(w.ctx, "after"))
	w.do(theirs.Sync(w.ctx))
	id, commits := g.ID(), w.commits(log, g.ID())
	_, key, err := ed25519.GenerateKey(rand.Reader)
	w.do(err)
	entry := must[[]byte](t)(proto.Marshal(&contents.PlaintextCommitLogEntry{
		GroupId: id[:], CommitSequenceId: commits[len(commits)-1], CommitResult: contents.CommitResult_COMMIT_RESULT_APPLIED,
		AppliedEpochNumber: uint64(len(commits)), AppliedEpochAuthenticator: make([]byte, 32), LastEpochAuthenticator: make([]byte, 32),
	}))
	w.do(node.NewClient(log).PublishCommitLog(w.ctx, []*mlsapi.PublishCommitLogRequest{{
		GroupId: id[:], SerializedCommitLogEntry: entry,
		Signature: &associations.RecoverableEd25519Signature{Bytes: ed25519.Sign(key, entry), PublicKey: key.Public().(ed25519.PublicKey)},
	}}))
	w.round()
	if !w.forked(g) || !w.forked(theirs) {
		t.Errorf("forked: %v and %v", w.forked(g), w.forked(theirs))
	}
	w.send(g, "still sent")
	w.do(theirs.Sync(w.ctx))
	w.reads(theirs, "still sent")
	w.do(g.UpdateName(w.ctx, "and renamed"))
	w.round()
	if entries := w.attested(log, id); len(entries) != 1 {
		t.Errorf("%d entries in a log of another key", len(entries))
	}
}
