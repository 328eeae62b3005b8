package audit_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave/chaos/audit"
	"github.com/conclave-chat/conclave/chaos/ledger"
)

const room = "0123456789abcdef"

// calm is a world in which nothing is wrong: persons 0 and 1 are members, 2 is a
// guest who came at position 2 and left at 5, and both members streamed it all.
func calm() audit.Evidence {
	history := []audit.Row{
		{ID: "m1", Position: 1, Status: audit.Published, Token: "one"},
		{ID: "c1", Position: 2, Status: audit.Published, Change: true, Added: []string{"inbox2"}},
		{ID: "m2", Position: 3, Status: audit.Published, Token: "two"},
		{ID: "c2", Position: 4, Status: audit.Published, Change: true, Values: []string{"name=tea"}},
		{ID: "c3", Position: 5, Status: audit.Published, Change: true, Removed: []string{"inbox2"}},
		{ID: "m3", Position: 6, Status: audit.Published, Token: "three"},
	}
	group := func(rows ...audit.Row) map[string]audit.Group {
		return map[string]audit.Group{room: {Name: "tea", Epoch: 4, Active: true, Members: []string{"inbox0", "inbox1"}, History: rows}}
	}
	guest := group(history[1:5]...)
	g := guest[room]
	g.Active, g.Epoch = false, 3
	guest[room] = g
	e := audit.Evidence{
		Plans: []audit.Plan{{ID: room, Members: []int{0, 1}, Guests: []int{2}}},
		Views: []audit.View{
			{Person: 0, Inbox: "inbox0", Groups: group(slices.Clone(history)...)},
			{Person: 1, Inbox: "inbox1", Groups: group(slices.Clone(history)...)},
			{Person: 2, Inbox: "inbox2", Groups: guest},
		},
	}
	var entries []ledger.Entry
	for person := range 2 {
		entries = append(entries, ledger.Entry{Event: ledger.Streaming, Life: 1, Person: person})
	}
	for _, row := range history {
		if row.Token != "" {
			entries = append(entries,
				ledger.Entry{Event: ledger.Tried, Life: 1, Group: room, Token: row.Token},
				ledger.Entry{Event: ledger.Acknowledged, Life: 1, Group: room, Token: row.Token, ID: row.ID},
				ledger.Entry{Event: ledger.Published, Life: 1, Group: room, ID: row.ID})
		}
		for person := range 2 {
			entries = append(entries, ledger.Entry{Event: ledger.Received, Life: 1, Person: person, Group: room, ID: row.ID, Position: row.Position})
		}
	}
	entries = append(entries, ledger.Entry{Event: ledger.Changed, Life: 1, Group: room, Token: "name=tea"})
	for person := range 2 {
		entries = append(entries, ledger.Entry{Event: ledger.Drained, Life: 1, Person: person, Group: room, Position: 6})
	}
	e.Entries = [][]ledger.Entry{entries}
	return e
}

func TestNothingIsFoundWhereNothingIsWrong(t *testing.T) {
	v := audit.Judge(calm())
	if len(v.Findings) > 0 {
		t.Error(v.Findings)
	}
	if v.Sends != 3 || v.Acknowledged != 3 || v.Deliveries != 7 || v.Failed != 0 {
		t.Errorf("counted %+v", v)
	}
}

// edit changes one person's view of the room.
func edit(person int, change func(*audit.Group)) func(*audit.Evidence) {
	return func(e *audit.Evidence) {
		g := e.Views[person].Groups[room]
		change(&g)
		e.Views[person].Groups[room] = g
	}
}

// write puts entries at the end of the ledger.
func write(entries ...ledger.Entry) func(*audit.Evidence) {
	return func(e *audit.Evidence) { e.Entries[0] = append(e.Entries[0], entries...) }
}

// unwrite takes the entries of one event and message out of the ledger.
func unwrite(event ledger.Event, person int, id string) func(*audit.Evidence) {
	return func(e *audit.Evidence) {
		e.Entries[0] = slices.DeleteFunc(e.Entries[0], func(x ledger.Entry) bool {
			return x.Event == event && x.Person == person && x.ID == id
		})
	}
}

// Each kind of broken promise is planted once, and is found under its name.
func TestViolationsAreFound(t *testing.T) {
	drop := func(id string) func(*audit.Group) {
		return func(g *audit.Group) {
			g.History = slices.DeleteFunc(g.History, func(r audit.Row) bool { return r.ID == id })
		}
	}
	tests := []struct {
		name  string
		plant func(*audit.Evidence)
		kind  audit.Kind
		says  string
	}{
		{"a member lacks a message", edit(1, drop("m2")), audit.Lost, `person 1 lacks "two"`},
		{"a member lacks a change", edit(1, drop("c2")), audit.Lost, "person 1 lacks the change at 4"},
		{"a member has no group", func(e *audit.Evidence) { delete(e.Views[1].Groups, room) }, audit.Lost, "person 1 has no group"},
		{"a member's view is missing", func(e *audit.Evidence) { e.Views = slices.Delete(e.Views, 1, 2) }, audit.Lost, "person 1 has no group"},
		{"a guest lacks a message of his time", edit(2, drop("m2")), audit.Lost, `guest 2 lacks "two"`},
		{"nobody has what was acknowledged", write(
			ledger.Entry{Event: ledger.Tried, Life: 1, Group: room, Token: "four"},
			ledger.Entry{Event: ledger.Acknowledged, Life: 1, Group: room, Token: "four", ID: "m4"}), audit.Lost, `"four" in 01234567 was acknowledged`},
		{"nobody saw an acknowledged change", write(ledger.Entry{Event: ledger.Changed, Group: room, Token: "name=pot"}), audit.Lost, "change to name=pot"},
		{"a message is listed twice", edit(0, func(g *audit.Group) { g.History = append(g.History, g.History[5]) }), audit.Repeated, `person 0 has "three" twice`},
		{"one text is two messages", edit(0, func(g *audit.Group) {
			g.History = append(g.History, audit.Row{ID: "m9", Position: 9, Status: audit.Published, Token: "three"})
		}), audit.Repeated, `person 0 has "three" twice`},
		{"one text is another message elsewhere", edit(0, func(g *audit.Group) { g.History[5].ID = "m9" }), audit.Repeated, `"three" is two messages`},
		{"a Failed message turns up", write(ledger.Entry{Event: ledger.Failed, Group: room, ID: "m3"}), audit.Disordered, `"three" in 01234567 was said to be Failed, and Published`},
		{"a Failed message is there", func(e *audit.Evidence) {
			unwrite(ledger.Published, 0, "m3")(e)
			write(ledger.Entry{Event: ledger.Failed, Group: room, ID: "m3"})(e)
		}, audit.Repeated, `"three" in 01234567 Failed, and turned up`},
		{"a history goes back", edit(0, func(g *audit.Group) { g.History[4], g.History[5] = g.History[5], g.History[4] }), audit.Disordered, "at 5 after 6"},
		{"positions differ", edit(1, func(g *audit.Group) { g.History[5].Position = 7 }), audit.Disordered, "at 7, others at 6"},
		{"members differ", edit(1, func(g *audit.Group) { g.Members = []string{"inbox0"} }), audit.Disordered, "see different members"},
		{"metadata differs", edit(1, func(g *audit.Group) { g.Name = "pot" }), audit.Disordered, "see different members or metadata"},
		{"a member is in an old epoch", edit(1, func(g *audit.Group) { g.Epoch = 3 }), audit.Stuck, "person 1 is in epoch 3 of 4"},
		{"a member is stalled", edit(1, func(g *audit.Group) { g.Stalled = "it waits" }), audit.Stuck, "person 1 is stalled"},
		{"a member is forked", edit(1, func(g *audit.Group) { g.Forked = true }), audit.Stuck, "person 1 is forked"},
		{"a member is out", edit(1, func(g *audit.Group) { g.Active = false }), audit.Stuck, "person 1 is not active"},
		{"a guest does not know that he left", edit(2, func(g *audit.Group) { g.Active = true }), audit.Stuck, "guest 2 was removed"},
		{"a message stays Unpublished", edit(0, func(g *audit.Group) {
			g.History = append(g.History, audit.Row{ID: "m5", Status: audit.Unpublished, Token: "five"})
		}), audit.Stuck, `person 0 still has "five" Unpublished`},
		{"a stream passes over a message", unwrite(ledger.Received, 1, "m2"), audit.Lost, `the stream of person 1 passed over "two"`},
		{"a stream ends early", unwrite(ledger.Received, 1, "m3"), audit.Lost, `the stream of person 1 passed over "three"`},
		{"a stream repeats", write(ledger.Entry{Event: ledger.Received, Life: 1, Person: 1, Group: room, ID: "m3", Position: 6}), audit.Repeated, "the stream of person 1 yielded m3"},
		{"a stream goes back", func(e *audit.Evidence) {
			unwrite(ledger.Received, 1, "m2")(e)
			write(ledger.Entry{Event: ledger.Received, Life: 1, Person: 1, Group: room, ID: "m2", Position: 3})(e)
		}, audit.Disordered, "the stream of person 1 yielded m2 of 01234567 at 3 after 6"},
	}
	for _, c := range tests {
		e := calm()
		c.plant(&e)
		found := audit.Judge(e).Findings
		if !slices.ContainsFunc(found, func(f audit.Finding) bool { return f.Kind == c.kind && strings.Contains(f.What, c.says) }) {
			t.Errorf("%s: found %v, want %s: …%s…", c.name, found, c.kind, c.says)
		}
	}
}

// A kill may catch a message between the store and the stream: what comes after
// the last one that a life's stream yielded is not asked of it.
func TestAKilledStreamOwesNothing(t *testing.T) {
	e := calm()
	e.Entries[0] = slices.DeleteFunc(e.Entries[0], func(x ledger.Entry) bool { return x.Event == ledger.Drained })
	unwrite(ledger.Received, 1, "m3")(&e)
	if found := audit.Judge(e).Findings; len(found) > 0 {
		t.Error(found)
	}
}

// A send that was never acknowledged may be there or not, but if at all, with
// everybody.
func TestAnUnacknowledgedSendIsWholeOrNot(t *testing.T) {
	e := calm()
	write(ledger.Entry{Event: ledger.Tried, Life: 1, Group: room, Token: "four"})(&e)
	if found := audit.Judge(e).Findings; len(found) > 0 {
		t.Error(found)
	}
	row := audit.Row{ID: "m4", Position: 8, Status: audit.Published, Token: "four"}
	edit(0, func(g *audit.Group) { g.History = append(g.History, row) })(&e)
	if found := audit.Judge(e).Findings; len(found) != 1 || found[0].Kind != audit.Lost {
		t.Error(found)
	}
}

// Whose store was put back lacks what he sent since, and nobody else may.
func TestOnlyTheSenderForgets(t *testing.T) {
	drop := func(g *audit.Group) {
		g.History = slices.DeleteFunc(g.History, func(r audit.Row) bool { return r.ID == "m3" })
	}
	for person, want := range []int{0, 1} {
		e := calm()
		e.Forgot = map[string]int{"three": 0}
		e.Entries[0] = slices.DeleteFunc(e.Entries[0], func(x ledger.Entry) bool { return x.Event == ledger.Received })
		edit(person, drop)(&e)
		found := slices.DeleteFunc(audit.Judge(e).Findings, func(f audit.Finding) bool { return !strings.Contains(f.What, "lacks") })
		if len(found) != want {
			t.Errorf("person %d: %v", person, found)
		}
	}
}
