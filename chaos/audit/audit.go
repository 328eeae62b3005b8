// Package audit holds what hosts wrote down in their ledgers against what every
// installation has in its store, and names each promise that was broken. It is
// pure: it knows nothing of how the one or the other came to be.
package audit

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/conclave-chat/conclave/chaos/ledger"
)

// A Kind of broken promise, one for each column of the table.
type Kind string

const (
	Lost       Kind = "lost"       // a member, or a stream, lacks a message
	Repeated   Kind = "repeated"   // one message is there twice, or turns up though it Failed
	Disordered Kind = "disordered" // members differ in order, position, epoch, members or metadata
	Stuck      Kind = "stuck"      // somebody cannot go on, or a message is Unpublished for ever
	Silent     Kind = "silent"     // something is damaged or gone, and no error names it
)

// A Finding is one broken promise.
type Finding struct {
	Kind Kind   `json:"kind"`
	What string `json:"what"`
}

// A View is what one installation has in its store, read alone.
type View struct {
	Person int              `json:"person"`
	Inbox  string           `json:"inbox"`
	Groups map[string]Group `json:"groups"`
}

// A Group is one installation's view of a group.
type Group struct {
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Epoch       uint64   `json:"epoch"`
	Active      bool     `json:"active"`
	Stalled     string   `json:"stalled,omitempty"`
	Forked      bool     `json:"forked,omitempty"`
	Members     []string `json:"members"` // inbox, role and installations of each, sorted
	History     []Row    `json:"history"` // as Messages lists it
}

// A Row is one entry of a history.
type Row struct {
	ID       string   `json:"id"`
	Position uint64   `json:"position,omitempty"`
	Status   string   `json:"status"`          // Published, Unpublished or Failed
	Token    string   `json:"token,omitempty"` // a text
	Change   bool     `json:"change,omitempty"`
	Added    []string `json:"added,omitempty"` // inboxes
	Removed  []string `json:"removed,omitempty"`
	Values   []string `json:"values,omitempty"` // what was set, as field=value
}

// Statuses of a Row.
const (
	Published   = "Published"
	Unpublished = "Unpublished"
	Failed      = "Failed"
)

// A Plan says who is in a group.
type Plan struct {
	ID      string `json:"id"`
	Members []int  `json:"members"` // from the beginning to the end, by person
	Guests  []int  `json:"guests"`  // come and go
}

// Evidence is what a verdict is made of.
type Evidence struct {
	Plans   []Plan
	Entries [][]ledger.Entry // of each host
	Views   []View
	// Since is the first life whose streams are judged: where the log was put
	// back, positions mean something else before it.
	Since int
	// Forgot is who sent a text and had his store put back to before that: what
	// he sent himself he cannot open, and everybody else has it.
	Forgot map[string]int
}

// A Verdict is what was found, and how much there was to find it in.
type Verdict struct {
	Sends        int // tried
	Acknowledged int
	Failed       int
	Deliveries   int // texts in stores of members
	Findings     []Finding
}

// Judge holds the ledgers against the stores.
func Judge(e Evidence) Verdict {
	j := &judge{evidence: e, views: map[int]View{}}
	for _, v := range e.Views {
		j.views[v.Person] = v
	}
	j.sends = collect(e.Entries)
	for _, p := range e.Plans {
		j.group(p)
	}
	j.streams()
	for _, s := range j.sends {
		j.Sends++
		if s.id != "" {
			j.Acknowledged++
		}
		if s.failed {
			j.Verdict.Failed++
		}
	}
	return j.Verdict
}

type judge struct {
	Verdict
	evidence Evidence
	views    map[int]View
	sends    []*send
}

func (j *judge) find(k Kind, format string, args ...any) {
	j.Findings = append(j.Findings, Finding{k, fmt.Sprintf(format, args...)})
}

// A send is one message as the ledgers know it.
type send struct {
	group, token      string
	person            int
	id                string // empty: never acknowledged
	published, failed bool
}

// collect reads the fate of every send out of the ledgers.
func collect(ledgers [][]ledger.Entry) []*send {
	byToken, byID := map[string]*send{}, map[string]*send{}
	var all []*send
	for _, entries := range ledgers {
		for _, e := range entries {
			switch e.Event {
			case ledger.Tried:
				if byToken[e.Token] == nil { // else tried again by a later life, under the same key
					s := &send{group: e.Group, token: e.Token, person: e.Person}
					byToken[e.Token], all = s, append(all, s)
				}
			case ledger.Acknowledged:
				if s := byToken[e.Token]; s != nil {
					s.id, byID[e.ID] = e.ID, s
				}
			case ledger.Published:
				if s := byID[e.ID]; s != nil {
					s.published = true
				}
			case ledger.Failed:
				if s := byID[e.ID]; s != nil {
					s.failed = true
				}
			}
		}
	}
	return all
}

// A place is where most members have a message.
type place struct {
	position uint64
	row      Row
}

// group judges one group: first each member's history by itself, then all
// against what they have together, then both against the ledgers.
func (j *judge) group(p Plan) {
	has := map[int]map[string]Row{} // by person and message
	for _, person := range slices.Concat(p.Members, p.Guests) {
		if g, ok := j.views[person].Groups[p.ID]; ok {
			has[person] = j.history(p.ID, person, g)
		}
	}
	log := together(p.Members, has)
	for _, person := range p.Members {
		g, ok := j.views[person].Groups[p.ID]
		if !ok {
			j.find(Lost, "person %d has no group %.8s", person, p.ID)
			continue
		}
		j.standing(p.ID, person, g)
		for _, at := range log {
			row, ok := has[person][at.row.key()]
			forgot, isForgotten := j.evidence.Forgot[at.row.Token]
			switch {
			case !ok && isForgotten && forgot == person:
			case !ok:
				j.find(Lost, "person %d lacks %s in %.8s", person, at.row.describe(), p.ID)
			case row.Position != at.position:
				j.find(Disordered, "person %d has %s in %.8s at %d, others at %d", person, at.row.describe(), p.ID, row.Position, at.position)
			}
		}
	}
	j.alike(p)
	for _, guest := range p.Guests {
		j.guest(p, guest, log, has[guest])
	}
	j.settled(p, log)
}

// history reads one member's history: each message once, in rising order, and
// none that is Unpublished for ever.
func (j *judge) history(id string, person int, g Group) map[string]Row {
	has, tokens := map[string]Row{}, map[string]bool{}
	var last uint64
	for _, row := range g.History {
		switch row.Status {
		case Unpublished:
			j.find(Stuck, "person %d still has %s Unpublished in %.8s", person, row.describe(), id)
			continue
		case Failed:
			continue
		}
		if _, twice := has[row.key()]; twice || row.Token != "" && tokens[row.Token] {
			j.find(Repeated, "person %d has %s twice in %.8s", person, row.describe(), id)
			continue
		}
		if row.Position < last {
			j.find(Disordered, "person %d lists %s in %.8s at %d after %d", person, row.describe(), id, row.Position, last)
		}
		last = row.Position
		has[row.key()], tokens[row.Token] = row, true
		if row.Token != "" {
			j.Deliveries++
		}
	}
	return has
}

// together is every message that any of the members has, at the position that
// most of them have it at, in that order.
func together(members []int, has map[int]map[string]Row) []place {
	votes := map[string]map[uint64]int{}
	rows := map[string]Row{}
	for _, person := range members {
		for id, row := range has[person] {
			if votes[id] == nil {
				votes[id] = map[uint64]int{}
			}
			votes[id][row.Position]++
			if old, ok := rows[id]; !ok || len(row.Added) > len(old.Added) {
				rows[id] = row
			}
		}
	}
	log := make([]place, 0, len(rows))
	for id, row := range rows {
		positions := slices.SortedFunc(maps.Keys(votes[id]), func(a, b uint64) int {
			return cmp.Or(cmp.Compare(votes[id][b], votes[id][a]), cmp.Compare(a, b))
		})
		log = append(log, place{positions[0], row})
	}
	slices.SortFunc(log, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.position, b.position), cmp.Compare(a.row.ID, b.row.ID))
	})
	return log
}

// standing: nobody who belongs to a group is out of it, or cannot go on.
func (j *judge) standing(id string, person int, g Group) {
	switch {
	case !g.Active:
		j.find(Stuck, "person %d is not active in %.8s", person, id)
	case g.Stalled != "":
		j.find(Stuck, "person %d is stalled in %.8s, epoch %d: %s", person, id, g.Epoch, g.Stalled)
	case g.Forked:
		j.find(Stuck, "person %d is forked in %.8s, epoch %d", person, id, g.Epoch)
	}
}

// alike: members agree on epoch, members and metadata. Who is behind is stuck,
// who differs in the same epoch is disordered.
func (j *judge) alike(p Plan) {
	var newest uint64
	for _, person := range p.Members {
		newest = max(newest, j.views[person].Groups[p.ID].Epoch)
	}
	states := map[string]int{} // what it is like in the newest epoch, and one who says so
	for _, person := range p.Members {
		g, ok := j.views[person].Groups[p.ID]
		switch {
		case !ok:
		case g.Epoch < newest:
			j.find(Stuck, "person %d is in epoch %d of %d of %.8s", person, g.Epoch, newest, p.ID)
		default:
			states[fmt.Sprint(g.Name, "|", g.Description, "|", g.Members)] = person
		}
	}
	if len(states) > 1 {
		j.find(Disordered, "persons %v see different members or metadata of %.8s in epoch %d", slices.Sorted(maps.Values(states)), p.ID, newest)
	}
}

// guest: who comes and goes has each message that the log has while he is in.
// One that was sent before he was added may come to him as a later copy, so his
// positions are his own.
func (j *judge) guest(p Plan, person int, log []place, has map[string]Row) {
	inbox, inside := j.views[person].Inbox, false
	for _, at := range log {
		if slices.Contains(at.row.Removed, inbox) {
			inside = false
		}
		if _, ok := has[at.row.key()]; inside && !ok && at.row.Token != "" {
			j.find(Lost, "guest %d lacks %s in %.8s, sent while a member", person, at.row.describe(), p.ID)
		}
		if slices.Contains(at.row.Added, inbox) {
			inside = true
		}
	}
	if g, ok := j.views[person].Groups[p.ID]; inside && ok {
		j.standing(p.ID, person, g)
	} else if inside {
		j.find(Lost, "guest %d has no group %.8s", person, p.ID)
	} else if ok && g.Active {
		j.find(Stuck, "guest %d was removed from %.8s and does not know", person, p.ID)
	}
}

// settled: what the ledgers promised is so in the log.
func (j *judge) settled(p Plan, log []place) {
	inLog, tokens, values := map[string]bool{}, map[string]string{}, map[string]bool{}
	for _, at := range log {
		inLog[at.row.ID] = true
		for _, v := range at.row.Values {
			values[v] = true
		}
		if at.row.Token == "" {
			continue
		}
		if id, ok := tokens[at.row.Token]; ok && id != at.row.ID {
			j.find(Repeated, "%s is two messages in %.8s", at.row.describe(), p.ID)
		}
		tokens[at.row.Token] = at.row.ID
	}
	for _, s := range j.sends {
		switch {
		case s.group != p.ID || s.id == "":
		case s.failed && s.published:
			j.find(Disordered, "%q in %.8s was said to be Failed, and Published", s.token, p.ID)
		case s.failed && inLog[s.id]:
			j.find(Repeated, "%q in %.8s Failed, and turned up", s.token, p.ID)
		case !s.failed && !inLog[s.id]:
			j.find(Lost, "%q in %.8s was acknowledged, and no member has it", s.token, p.ID)
		}
	}
	for _, entries := range j.evidence.Entries {
		for _, e := range entries {
			if e.Event == ledger.Changed && e.Group == p.ID && e.Token != "" && !values[e.Token] {
				j.find(Lost, "the change to %s of %.8s was acknowledged, and no member has it", e.Token, p.ID)
			}
		}
	}
}

// key tells rows apart. What a member writes down of the commit that added it is
// about itself alone, so a change is known by its place.
func (r Row) key() string {
	if r.Change {
		return fmt.Sprint("change at ", r.Position)
	}
	return r.ID
}

func (r Row) describe() string {
	if r.Token != "" {
		return fmt.Sprintf("%q", r.Token)
	}
	return fmt.Sprintf("the change at %d", r.Position)
}
