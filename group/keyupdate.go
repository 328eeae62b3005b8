package group

import (
	"slices"
	"time"
)

// What a replica does on its own before it sends: a key update where one is due, and
// a look at the members' newest identities.

// dueKeyUpdate is a KeyUpdate that the replica queues itself, before a message of that
// time. Any other own commit in between makes it unnecessary.
type dueKeyUpdate struct{ at time.Time }

func (dueKeyUpdate) input() {}

// A key update is work for every member. If many members sent their first message at
// once, as many commits would race for one epoch. So in a group of more than
// keyUpdateAtOnce inboxes a key update becomes due only some time after the last
// commit; the time is proportional to the group's size. Until then a member sends with
// the keys that it has, which every receiver accepts, and is asked again with its next
// message.
const (
	keyUpdateAtOnce   = 8
	keyUpdateDistance = 100 * time.Millisecond // for each inbox
)

// keyUpdateIsDue reports whether this member's keys are still those of its key package,
// or are older than Limits.KeyAge, and the last commit is long enough ago. It is asked
// again when the commit is planned, since another member may have committed meanwhile.
func (s *step) keyUpdateIsDue(at time.Time) bool {
	if s.env.Limits.KeyAge < 0 || !s.keysUpdated.IsZero() && at.Sub(s.keysUpdated) < s.env.Limits.KeyAge {
		return false
	}
	n := len(s.meta.Members)
	return n <= keyUpdateAtOnce || at.Sub(s.appliedAt) >= time.Duration(n)*keyUpdateDistance
}

// keyUpdateBefore puts a key update before a message where one is due.
func (s *step) keyUpdateBefore(at time.Time) {
	if s.keyUpdateIsDue(at) && !slices.ContainsFunc(s.intents, func(it *intent) bool {
		_, ok := it.command.(KeyUpdate)
		return it.state != stateFailed && (ok || it.isDueKeyUpdate())
	}) {
		s.queue(dueKeyUpdate{at})
	}
}

func (s *step) checkMembers(CheckMembers) error {
	if s.open() == nil {
		s.lookAtMembers()
	}
	return nil
}

// lookAtMembers queues one CheckMembers, unless one is queued already. In a group
// that has no commit yet there is nothing to check: the first commit fetches the
// identities itself.
func (s *step) lookAtMembers() {
	if s.meta.Members[s.env.Inbox] != 0 && !slices.ContainsFunc(s.intents, (*intent).isCheck) {
		s.begin(CheckMembers{})
		s.dirt = true // its number is not used again
	}
}

// checked turns a CheckMembers into a Refresh of the members whose identity has
// changed since the group knew it. It returns nil where there is none.
func (s *step) checked(it *intent) *intent {
	var moved []string
	for _, in := range it.got.Inboxes {
		old, member := s.meta.Members[in.Inbox]
		if !member || in.Sequence <= old {
			continue
		}
		moved = append(moved, in.Inbox)
	}
	if len(moved) == 0 {
		s.done(it, nil)
		return nil
	}
	it = s.change(it, func(it *intent) { it.command, it.got = Refresh{Inboxes: moved}, nil })
	s.saveIntent(it)
	return it
}

// pauseBelow stops a replica whose client is older than a group demands, and
// reports whether it did.
func (s *step) pauseBelow(m *Metadata) bool {
	want := m.Attributes[AttributeMinimumVersion]
	if versionAtLeast(s.env.Version, want) {
		return false
	}
	s.met(newerDemanded, "the group needs version %s of its clients", want)
	return true
}
