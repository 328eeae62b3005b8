package features

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave"
	membus "github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity"
)

// AddMembersByInboxID adds all or nobody, and names who cannot be added, also
// where only the plan finds out.
func TestAddMembersByInboxIDAddsAllOrNobody(t *testing.T) {
	wire := newWire(t, membus.Config{})
	w := newWorld(t, wire.config)
	c := w.clients(3)
	nobody := strings.Repeat("0", 64)
	bare := must[string](t)(identity.InboxID(walletOnly(t, wire.Bus).Identifier(), identity.DefaultNonce))
	g := w.newGroup(conclave.GroupOptions{}, c[0], c[1])
	for name, wanted := range map[string][]string{
		"an inbox that is not there":      {c[2].InboxID(), nobody},
		"an inbox without key packages":   {bare, c[2].InboxID()},
		"both, and one who is a member":   {c[1].InboxID(), bare, nobody, c[2].InboxID()},
		"nobody but one who is not there": {nobody},
	} {
		wire.reset()
		err := g.AddMembersByInboxID(w.ctx, wanted...)
		var unreachable *conclave.MemberNotReachableError
		if !errors.Is(err, conclave.ErrMemberNotReachable) || !errors.As(err, &unreachable) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var want []string
		for _, inbox := range wanted {
			if inbox == nobody || inbox == bare {
				want = append(want, inbox)
			}
		}
		slices.Sort(want)
		if !slices.Equal(slices.Sorted(slices.Values(unreachable.Addresses)), want) {
			t.Errorf("%s: the error names %v", name, unreachable.Addresses)
		}
		if got := w.inboxes(g); !slices.Equal(got, inboxesOf(c[:2]...)) || len(wire.tally().published) != 0 {
			t.Errorf("%s: the members are %v, published was %v", name, got, wire.tally().published)
		}
	}
	w.do(g.AddMembersByInboxID(w.ctx, c[1].InboxID(), c[2].InboxID()))
	if got := w.inboxes(g); !slices.Equal(got, inboxesOf(c...)) {
		t.Errorf("the members are %v", got)
	}
	if _, err := c[0].Conversations().NewGroupWithInboxIDs(w.ctx, []string{c[1].InboxID(), nobody}, conclave.GroupOptions{}); !errors.Is(err, conclave.ErrMemberNotReachable) {
		t.Errorf("a new group: %v", err)
	}
}

// Wait knows a message that is here, whoever sent it, and no other.
func TestWaitForMessagesOfAllKinds(t *testing.T) {
	w := newWorld(t)
	c := w.clients(3)
	g, other := w.newGroup(conclave.GroupOptions{}, c[:2]...), w.newGroup(conclave.GroupOptions{}, c[0])
	mine := w.send(g, "mine")
	theirs := w.send(w.of(c[1], g), "theirs")
	elsewhere := w.send(other, "elsewhere")
	w.do(g.Sync(w.ctx))
	dm := must[*conclave.Dm](t)(c[0].Conversations().NewDm(w.ctx, c[2].Address()))
	direct := must[conclave.MessageID](t)(dm.Send(w.ctx, conclave.Text("direct")))
	conversations := map[string]conclave.Conversation{"group": g, "direct message": dm}
	for _, what := range []struct {
		name string
		in   string
		id   conclave.MessageID
		here bool
	}{
		{"an own message", "group", mine, true},
		{"another's message", "group", theirs, true},
		{"a message of another group", "group", elsewhere, false},
		{"a message that never was", "group", conclave.MessageID{1, 2, 3}, false},
		{"an own direct message", "direct message", direct, true},
		{"a message of a group", "direct message", mine, false},
	} {
		status, err := conversations[what.in].Wait(w.ctx, what.id)
		switch {
		case what.here && (status != conclave.Published || err != nil):
			t.Errorf("%s: %v, %v", what.name, status, err)
		case !what.here && (status != 0 || !errors.Is(err, conclave.ErrNoMessage)):
			t.Errorf("%s: %v, %v", what.name, status, err)
		}
	}
}
