package audit

import (
	"cmp"
	"maps"
	"slices"

	"github.com/conclave-chat/conclave/chaos/ledger"
)

// A stream is one installation's stream in one life of its host.
type stream struct {
	life, person int
	stored       map[string]uint64 // by group: the last position that was stored before it began
	drained      map[string]uint64 // by group: the last position stored when its host was calm
	received     map[string][]ledger.Entry
}

// streams judges what each stream yielded: each message once, in order, and all
// that was stored since it began, up to the last one that it yielded; where the
// host came to rest, up to the last one stored then. What a kill caught between
// store and stream is not asked for.
func (j *judge) streams() {
	for _, entries := range j.evidence.Entries {
		for _, s := range streamsOf(entries) {
			if s.life < j.evidence.Since {
				continue
			}
			for id, g := range j.views[s.person].Groups {
				j.stream(s, id, g)
			}
		}
	}
}

func streamsOf(entries []ledger.Entry) []*stream {
	type key struct{ life, person int }
	all := map[key]*stream{}
	for _, e := range entries {
		k := key{e.Life, e.Person}
		switch e.Event {
		case ledger.Streaming:
			if all[k] == nil {
				all[k] = &stream{life: e.Life, person: e.Person, stored: map[string]uint64{}, drained: map[string]uint64{}, received: map[string][]ledger.Entry{}}
			}
			if e.Group != "" {
				all[k].stored[e.Group] = e.Position
			}
		case ledger.Received:
			if s := all[k]; s != nil {
				s.received[e.Group] = append(s.received[e.Group], e)
			}
		case ledger.Drained:
			if s := all[k]; s != nil {
				s.drained[e.Group] = e.Position
			}
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b *stream) int {
		return cmp.Or(cmp.Compare(a.life, b.life), cmp.Compare(a.person, b.person))
	})
}

func (j *judge) stream(s *stream, id string, g Group) {
	got := map[string]bool{}
	var last uint64
	for _, e := range s.received[id] {
		if got[e.ID] {
			j.find(Repeated, "the stream of person %d yielded %.8s of %.8s twice in life %d", s.person, e.ID, id, s.life)
		}
		if e.Position < last {
			j.find(Disordered, "the stream of person %d yielded %.8s of %.8s at %d after %d", s.person, e.ID, id, e.Position, last)
		}
		got[e.ID], last = true, max(last, e.Position)
	}
	for _, row := range g.History {
		due := row.Status == Published && row.Position > s.stored[id] && row.Position <= max(last, s.drained[id])
		if due && !got[row.ID] {
			j.find(Lost, "the stream of person %d passed over %s of %.8s at %d in life %d", s.person, row.describe(), id, row.Position, s.life)
		}
	}
}
