package group_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/contents"
)

// What one member can make the others do, and keep.

// TestLongAdminListsAreLookedUp: two lists of admins are compared in time that grows
// with their length. If it grew with the square, this test would take minutes.
func TestLongAdminListsAreLookedUp(t *testing.T) {
	w, alice, bob := two(t)
	g := alice.replica.Group()
	data, _ := g.Extensions().Get(0xff00)
	var m contents.GroupMutableMetadataV1
	w.must(proto.Unmarshal(data, &m))
	for i := range 100_000 {
		m.AdminList.InboxIds = append(m.AdminList.InboxIds, fmt.Sprintf("%08d", i))
	}
	for epoch := uint64(2); epoch <= 3; epoch++ {
		exts := slices.DeleteFunc(slices.Clone(g.Extensions()), func(e mls.Extension) bool { return e.Type == 0xff00 })
		exts = append(exts, mls.Extension{Type: 0xff00, Data: must(proto.Marshal(&m))(t)})
		c := must(g.Commit(mls.CommitConfig{Rand: w.rand, Proposals: []mls.Proposal{mls.GroupContextExtensions{Extensions: exts}}}))(t)
		w.publish(group.TopicCommits, alice.replica.ID(), group.EncodeGroupMessage(c.Message(), nil, false))
		bob.deliver()
		if bob.replica.Epoch() != epoch {
			t.Fatalf("bob is in epoch %d: %.300s", bob.replica.Epoch(), w.out.String())
		}
		g = must(g.Merge(c))(t)
		m.Attributes["group_name"] = "x"
		slices.Reverse(m.AdminList.InboxIds)
	}
	if role := bob.replica.Metadata().RoleOf("00099999"); role != group.Admin {
		t.Errorf("an admin is a %v", role)
	}
}

// TestPhantomsTakeNoPlace: members whom some client made up, and who have no
// installation, fill no group, are not looked up, and can be removed.
func TestPhantomsTakeNoPlace(t *testing.T) {
	w := newWorld(t)
	w.run(words("people alice bob dave erin"))
	w.run(words("create alice default"))
	w.run(words("add alice bob"))
	w.sync(w.order)
	alice, bob := w.homes["alice"], w.homes["bob"]
	m := w.cited("alice", "bob")
	for i := range 400 {
		m[fmt.Sprint("nobody ", i)] = 0
	}
	erin := w.inboxes["erin"].id
	m[erin] = 0 // somebody there is, and nothing of hers
	c := bob.commit(mls.GroupContextExtensions{Extensions: group.ReplaceMembers(bob.replica.Group().Extensions(), m)})
	w.publish(group.TopicCommits, alice.replica.ID(), group.EncodeGroupMessage(c.Message(), nil, false))
	alice.deliver()
	if n := len(alice.replica.Metadata().Members); n != 403 {
		t.Fatalf("%d members: real clients take them", n)
	}
	alice.step(group.AddMembers{Inboxes: []string{w.inboxes["dave"].id}})
	for _, f := range alice.fetches {
		if slices.ContainsFunc(f.Inboxes, func(id string) bool { return strings.HasPrefix(id, "nobody") }) {
			t.Error("asks the network about nobody")
		}
	}
	w.sync([]string{"alice"})
	phantoms := []string{erin}
	for i := range 400 {
		phantoms = append(phantoms, fmt.Sprint("nobody ", i))
	}
	alice.step(group.RemoveMembers{Inboxes: phantoms})
	w.sync([]string{"alice"})
	if got := alice.replica.Metadata().Members; len(got) != 3 || got[w.inboxes["dave"].id] == 0 {
		t.Errorf("%d members are left: %.2000s", len(got), w.out.String())
	}
	if _, err := alice.replica.Step(group.RemoveMembers{Inboxes: []string{"nobody 1"}}); !errors.Is(err, group.ErrInvalid) {
		t.Errorf("removing nobody: %v", err)
	}
}

// TestReasonsAreBrief: what a refused commit quotes is cut before it is stored or
// logged, and what the error is stays.
func TestReasonsAreBrief(t *testing.T) {
	w := three(t)
	bob, dave := w.homes["bob"], w.homes["dave"]
	long := bytes.Repeat([]byte("é"), 1<<18)
	members := w.cited("alice", "bob", "carol", "dave")
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"attribute": {bob.commit(mls.GroupContextExtensions{Extensions: group.ReplaceAttribute(t, bob.replica.Group().Extensions(), "_"+string(long), "x")}).Message(), group.ErrForbidden},
		"member": {bob.commit(mls.Add{KeyPackage: dave.secrets.KeyPackage.MLS}, mls.GroupContextExtensions{Extensions: group.ReplaceMembers(
			bob.replica.Group().Extensions(), func() map[string]uint64 { members[string(long)] = 7; return members }())}).Message(), group.RuleMissingIdentity},
	} {
		carol := w.homes["carol"]
		w.out.Reset()
		carol.refuses(t, w.now, c.data, c.want)
		if n := w.out.Len(); n > 2000 {
			t.Errorf("%s: %d bytes for the log", name, n)
		}
		for _, table := range []group.Table{group.TableRejected, group.TableMeta} {
			for _, row := range carol.rows[table] {
				if len(row) > 2000 {
					t.Errorf("%s: a row of %d bytes in table %d", name, len(row), table)
				}
			}
		}
	}
	w.goesOn(t)
}
