package group

import (
	"slices"
	"time"
)

// Keys and members as they are now: what a replica sees to before it sends,
// without having been asked.

// dueKeyUpdate is a KeyUpdate that fell due with a message of that time. Any other own
// commit will do as well.
type dueKeyUpdate struct{ at time.Time }

func (dueKeyUpdate) input() {}

// A key update is work for every member, and many first messages at once would
// be a race of as many commits. So in groups above keyUpdateAtOnce inboxes those
// that fall due keep a distance from the commit before them, in proportion to
// the group's size. A member whose turn has not come sends with the keys that it
// has, which every receiver accepts, and is due with its next message.
const (
	keyUpdateAtOnce   = 8
	keyUpdateDistance = 100 * time.Millisecond // for each inbox
)

// keyUpdateIsDue reports whether this member's keys are those of its key package, or too
// old, and it is its turn to renew them. It is asked again when the commit is
// planned: by then others may have been first.
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

// lookAtMembers looks at the members' identities once, however often it is
// asked to before there is an answer. A group that nobody else knows of has
// nobody to look at: its first commit looks for itself.
func (s *step) lookAtMembers() {
	if s.meta.Members[s.env.Inbox] != 0 && !slices.ContainsFunc(s.intents, (*intent).isCheck) {
		s.begin(CheckMembers{})
		s.dirt = true // its number is not used again
	}
}

// checked turns a check into a Refresh of the members that have moved; nil
// where none has.
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
