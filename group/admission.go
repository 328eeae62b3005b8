package group

import (
	"fmt"
	"maps"
	"slices"

	"github.com/conclave-chat/conclave/mls"
)

// Whoever makes a group chooses its id. So whoever knows a group's id can make
// another group of that id, and welcome anybody to it. RFC 9420, Section 12.4.3.1,
// has the joiner verify that the id is unique among the groups that it is in. Here
// the standing says whose welcome takes the place of the replica that is there:
//
//	following, waiting, revoked   nobody's: the log does not say that this
//	                              installation was removed
//	apart, lost, stranded         a member's that it knows and that may add;
//	                              anybody else's once the owner accepts that
//	paused                        nobody's yet: a newer client reads first what
//	                              the log says
//	inactive                      anybody's, as to a group that is not known
//
// A welcome may be read before the removal is: where the log may say more, it is
// read to its end first (ErrBehind), and then the welcome is judged. Its cursor is
// its sender's to choose, and decides no more than that. Its epoch decides nothing:
// where the log went back, the others may be in an earlier one.
//
// Who was removed takes anybody's welcome, and the group that it leads to may be a
// stranger's, who publishes its commits as well: this installation then follows, and
// gives way to nobody. So a membership that began by the welcome of somebody unknown
// remembers who could add this installation in the one before. One of those brings it
// back once the owner accepts that, whatever the standing and the epoch: two groups
// claim one id then, and the log cannot say which is meant.
//
// No welcome leads to where this installation was before, since the keys of there
// may be used.

// An admission says whose welcome a standing gives way to.
type admission uint8

const (
	admitsNobody admission = iota
	admitsKnown
	admitsLater
	admitsAnyone
)

// livesKept is how many welcomes are remembered. Key packages are replaced long
// before somebody is added so often.
const livesKept = 64

// lifeOf is the mark of the epoch that a welcome leads to.
func lifeOf(g *mls.Group) mark { return markOf(hashOf(g.EpochAuthenticator())) }

// makesRoom reports why a welcome does not take the place of this replica, whoever
// sent it; nil: it may.
func (r *Replica) makesRoom(g *mls.Group, c JoinConfig) error {
	may := r.may()
	ahead := may.applies && r.cursor < c.Welcome.Cursor
	unread := ahead || may.applies && c.Welcome.Cursor == 0
	switch {
	case r.wasThere(g, c):
		return ErrStaleWelcome
	case may.welcome == admitsLater:
		return fmt.Errorf("%w: the welcome waits for it: %s", ErrPaused, r.why)
	case c.InOrder && unread && (!c.Complete || r.waiting != nil):
		return ErrBehind
	case c.Complete && ahead:
		return errCursor
	case may.welcome != admitsNobody || len(r.former) > 0:
	case g.Epoch() <= r.group.Epoch():
		return ErrStaleWelcome
	default:
		return errStillMember
	}
	return nil
}

// wasThere reports whether a welcome leads to where this installation was before:
// anybody may publish an old one again. One case is none: a newcomer for which the
// log lost the commit that added it has sent nothing, and the same welcome, sent
// again, says where that commit is now.
func (r *Replica) wasThere(g *mls.Group, c JoinConfig) bool {
	if len(r.path) == 1 && r.path[0] == (milestone{}) && r.group.Epoch() == g.Epoch() && r.group.Knows(g) {
		return !c.Created.After(r.created)
	}
	old := g.Epoch() <= r.group.Epoch()
	switch {
	case slices.Contains(r.lives, lifeOf(g)) || old && r.group.Knows(g):
		return true
	case r.addedBy == "": // it was made here, and its time is another clock's
		return false
	}
	// Rows of older formats name no lives: the last welcome is known by its place.
	return old && (!c.Created.After(r.created) || len(r.lives) == 0 && c.Welcome.Cursor == r.joined)
}

// admits reports why the inbox that signed a welcome does not bring this
// installation back; nil: it does. What a conversation is for, and between whom a
// direct message is, never changes.
func (r *Replica) admits(adder string, m *Metadata, accepted bool) error {
	switch may := r.may().welcome; {
	case r.kind != m.Kind || r.dm != m.DM:
		return errOtherKind
	case may == admitsNobody && !r.formerly(adder):
		return errStillMember
	case accepted || may == admitsAnyone || may == admitsKnown && r.knowsAdder(adder):
		return nil
	}
	return &UnknownAdderError{Adder: adder}
}

// knowsAdder reports whether an inbox is a member, by what this replica knows, that
// may add this installation. A super admin repairs forks, and an inbox brings its
// own installations in, whatever the policy on adding members says.
func (r *Replica) knowsAdder(inbox string) bool {
	if _, member := r.meta.Members[inbox]; !member {
		return false
	}
	role := r.meta.RoleOf(inbox)
	return role == SuperAdmin || inbox == r.env.Inbox || r.meta.Permissions.AddMember.permits(role) ||
		r.meta.completesDM(inbox, []string{r.env.Inbox})
}

// formerly reports whether an inbox could add this installation before a stranger's
// welcome began this membership.
func (r *Replica) formerly(inbox string) bool { return slices.Contains(r.former, markOfInbox(inbox)) }

func markOfInbox(inbox string) mark { return markOf(hashOf([]byte(inbox))) }

// formerAfter is who could add this installation before a stranger did, after a welcome
// of an inbox that takes the place of this membership. It ends where one of those, or
// in a membership that is nobody's capture a member, brings it back.
func (r *Replica) formerAfter(adder string) []mark {
	switch {
	case len(r.former) > 0 && !r.formerly(adder):
		return r.former
	case len(r.former) > 0 || r.knowsAdder(adder):
		return nil
	}
	var all []mark
	for _, inbox := range slices.Sorted(maps.Keys(r.meta.Members)) {
		if inbox != r.env.Inbox && r.knowsAdder(inbox) {
			all = append(all, markOfInbox(inbox))
		}
	}
	return all
}
