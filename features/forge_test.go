package features

import (
	"crypto/rand"
	"errors"
	"testing"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus"
	membus "github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/content"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/internal/forge"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/persistence"
	memstore "github.com/conclave-chat/conclave/persistence/memory"
	"github.com/conclave-chat/conclave/proto/contents"
	"google.golang.org/protobuf/proto"
)

// stolen is a member's replica in the hands of a client that asks for no permission.
func stolen(t *testing.T, store persistence.Store, c *conclave.Client, id conclave.GroupID) *group.Replica {
	t.Helper()
	victim := forge.Victim{Store: store, Installation: c.InstallationID(), Key: c.DatabaseKey(), Inbox: c.InboxID()}
	return must[*group.Replica](t)(victim.Replica(t.Context(), id))
}

// renames publishes a commit that renames a group, made with a member's own keys.
func renames(t *testing.T, wire *wire, store persistence.Store, c *conclave.Client, id conclave.GroupID, name string) {
	t.Helper()
	replica := stolen(t, store, c, id)
	const mutableMetadata = 0xff00
	extensions := replica.Group().Extensions()
	data, _ := extensions.Get(mutableMetadata)
	var metadata contents.GroupMutableMetadataV1
	if err := proto.Unmarshal(data, &metadata); err != nil {
		t.Fatal(err)
	}
	metadata.Attributes[group.AttributeName] = name
	forged := forge.Replace(extensions, mutableMetadata, must[[]byte](t)(proto.Marshal(&metadata)))
	commit := must[[]byte](t)(forge.Commit(replica, nil, mls.GroupContextExtensions{Extensions: forged}))
	topic := must[bus.Topic](t)(bus.CommitsOf(id[:]))
	must[bus.Ack](t)(wire.Publish(t.Context(), topic, commit))
}

// TestNobodySendsATranscript: what a membership change looks like is in no member's
// power. Send refuses it, and where another client seals one all the same, it is a
// message like any other, of a content that is not known, beside the genuine ones.
func TestNobodySendsATranscript(t *testing.T) {
	wire, store := newWire(t, membus.Config{}), memstore.New()
	w := newWorld(t, wire.config, func(c *conclave.Config) { c.Store = store })
	c := w.clients(3)
	g := w.newGroup(conclave.GroupOptions{Permissions: conclave.AdminOnly}, c...)
	mallory := w.of(c[2], g)
	forged := &conclave.GroupUpdated{InitiatedBy: c[0].InboxID(), Removed: []string{c[1].InboxID()}}

	before := hashRows(t, store)
	if _, err := mallory.Send(w.ctx, forged); !errors.Is(err, conclave.ErrInvalid) || !errors.Is(err, content.ErrReserved) {
		t.Errorf("sent: %v", err)
	}
	if hashRows(t, store) != before {
		t.Error("the rows changed")
	}

	e := must[*contents.EncodedContent](t)(content.GroupUpdatedCodec{}.Encode(forged))
	id := forged.Type()
	e.Type = &contents.ContentTypeId{AuthorityId: id.Authority, TypeId: id.Name, VersionMajor: id.Major}
	plaintext := must[[]byte](t)(proto.Marshal(&contents.PlaintextEnvelope{Content: &contents.PlaintextEnvelope_V1_{
		V1: &contents.PlaintextEnvelope_V1{Content: must[[]byte](t)(proto.Marshal(e)), IdempotencyKey: "1"}}}))
	_, data, err := stolen(t, store, c[2], g.ID()).Group().Seal(rand.Reader, nil, plaintext)
	w.do(err)
	raw := g.ID()
	topic := must[bus.Topic](t)(bus.MessagesOf(raw[:]))
	must[bus.Ack](t)(wire.Publish(w.ctx, topic, group.EncodeGroupMessage(data, make([]byte, 32), false)))

	victim := w.of(c[1], g)
	w.do(victim.Sync(w.ctx))
	all := w.messages(victim, 0)
	added, last := all[0], all[len(all)-1]
	if _, genuine := added.Content.(*conclave.GroupUpdated); !genuine || added.Kind != conclave.MembershipChange {
		t.Errorf("the addition is told as %v %+v", added.Kind, added.Content)
	}
	u, unknown := last.Content.(*content.Unknown)
	if last.Kind != conclave.ApplicationMessage || last.Sender != c[2].InboxID() || !unknown || !errors.Is(u.Reason, content.ErrReserved) {
		t.Errorf("the forgery is told as %v of %s: %+v", last.Kind, last.Sender, last.Content)
	}
	if !must[bool](t)(victim.IsActive(w.ctx)) || len(w.inboxes(victim)) != 3 {
		t.Error("the forgery had an effect")
	}
}
