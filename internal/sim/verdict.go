package sim

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/conclave-chat/conclave/group"
)

// verdict looks at the world when it has come to rest.
//
//	I3   a Published message is with everybody who was a member at its place, once
//	I4   in the order of the log
//	I5   every send has ended
//	I6   who was removed opens nothing that came after
//	I12  a newcomer has what stands behind its addition
//	I13  whoever is not where the others are says so, and an addition mends it
//	policy  no commit does what its committer may not (rights.go)
func (w *world) verdict() {
	for _, g := range w.groups {
		g.together()
		g.mend()
		g.settled()
		g.agreed()
		g.rights()
		g.histories()
		g.closed()
	}
}

// following reports whether a replica says that it has everything that the group has.
func (s *seat) following() bool {
	return !s.evil && s.replica != nil && s.replica.Active() && s.replica.Stalled() == ""
}

// together: I13. All replicas that say that they follow the log are in one epoch. Where
// the group once forked, that epoch is the branch that it went on with.
func (g *truth) together() {
	var first *seat
	for _, s := range g.seats() {
		switch {
		case !s.following():
		case first == nil:
			first = s
		case string(s.replica.EpochAuthenticator()) != string(first.replica.EpochAuthenticator()):
			g.fail("I13", "%s is in epoch %d and %s in another epoch %d, and neither says that anything is wrong",
				first.name, first.replica.Epoch(), s.name, s.replica.Epoch())
		}
	}
	switch {
	case first == nil:
		g.counters["groups that nobody follows"]++
	case g.forked:
		g.chain(g.known[string(first.replica.EpochAuthenticator())])
	}
}

// chain makes an epoch the group's last one.
func (g *truth) chain(last *epoch) {
	places := map[*envelope]uint64{}
	for _, e := range slices.Backward(g.log()) {
		if sealed := g.envelopeOf(e.Payload); sealed != nil {
			places[sealed] = uint64(e.ID)
		}
	}
	g.epochs = nil
	for e := last; e != nil; e = e.before {
		if at, there := places[e.sealed]; there && e.sealed != nil {
			e.at = at
		}
		if n := len(g.epochs); n > 0 {
			e.at = min(e.at, g.epochs[n-1].at) // its members were past it by then
		}
		g.epochs = append(g.epochs, e)
	}
	slices.Reverse(g.epochs)
	g.forked = false
}

// mend: I13. Who fell behind is added again, by whoever may, and has come to rest
// with the others then.
func (g *truth) mend() {
	var mender *seat
	behind := map[string]bool{}
	for _, s := range g.seats() {
		if s.following() && s.replica.Metadata().RoleOf(s.person.inbox) == group.SuperAdmin {
			mender = s
		}
		if why := g.behind(s); why != "" {
			if !s.restored && !g.hadRewind() && !g.orphaned(s) && !g.isolated(s) {
				g.fail("I13", "%s %s", s.name, why)
			}
			behind[s.person.inbox], s.mended = true, true
			g.counters["left behind"]++
		}
	}
	if mender == nil || len(behind) == 0 {
		return
	}
	for _, inbox := range slices.Sorted(maps.Keys(behind)) {
		if inbox == mender.person.inbox {
			continue // nobody removes itself
		}
		g.counters["added again"]++
		if mender.replica.Metadata().RoleOf(inbox) == group.SuperAdmin {
			mender.submit(group.UpdateAdmins{Inbox: inbox, Change: group.RemoveSuperAdmin})
			g.settle() // no super admin is removed
		}
		mender.submit(group.RemoveMembers{Inboxes: []string{inbox}})
		g.settle()
		mender.submit(group.AddMembers{Inboxes: []string{inbox}})
		g.settle()
	}
	mender.sendMessage()
	g.settle()
	for _, s := range g.seats() {
		if why := g.behind(s); why != "" && s.person != mender.person && s.person.has(s.signer.Public()) {
			g.fail("I13", "%s was added again and %s", s.name, why)
		}
	}
}

// behind says why a seat of the tree is not with the others; empty: it is.
func (g *truth) behind(s *seat) string {
	last := g.epochs[len(g.epochs)-1]
	_, member := last.members[string(s.signer.Public())]
	switch {
	case s.evil || !member || !s.person.has(s.signer.Public()): // who was revoked stops by itself
		return ""
	case s.replica == nil || !s.replica.Active():
		return fmt.Sprintf("is in the tree of epoch %d and not active", last.number)
	case g.attacked && s.apart() && string(s.replica.EpochAuthenticator()) == last.authenticator:
		return "" // somebody claims epochs elsewhere: it is with the others, and says that it may not be
	case s.replica.Stalled() != "":
		return "is stalled: " + s.replica.Stalled()
	}
	return ""
}

// settled: I5. Nothing is outstanding with anybody who goes on.
func (g *truth) settled() {
	for _, s := range g.seats() {
		if s.replica == nil || g.lame(s) != "" {
			continue
		}
		if ids := s.replica.Outstanding(); len(ids) > 0 {
			g.fail("I5", "%s never ended intents %v (stalled %q)", s.name, ids, s.replica.Stalled())
		}
		for _, m := range s.replica.Drafts() {
			if m.Status != group.StatusFailed {
				g.fail("I5", "%s: %v is %v", s.name, m.ID, m.Status)
			}
			if g.read[m.ID] && !g.excused(s.home, m.ID) {
				g.fail("I5", "%s: %v is Failed for good (%s), and others have it", s.name, m.ID, m.Reason)
			}
		}
	}
}

func (g *truth) seats() []*seat {
	var all []*seat
	for _, h := range g.homes {
		all = append(all, h.seats[g.index])
	}
	return all
}

// lame says why a seat may be left behind for good; empty: it may not.
func (g *truth) lame(s *seat) string {
	switch {
	case s.evil:
		return "it broke the rules"
	case s.replica != nil && s.replica.Active() && s.replica.Stalled() != "" && (s.mended || s.restored || g.hadRewind()):
		return "nobody could add it again: " + s.replica.Stalled()
	}
	return ""
}

// agreed: I1, once more. Everybody whom the tree names is in the last epoch,
// and nobody else is.
func (g *truth) agreed() {
	last := g.epochs[len(g.epochs)-1]
	for _, s := range g.seats() {
		if g.lame(s) != "" {
			continue
		}
		_, member := last.members[string(s.signer.Public())]
		active := s.replica != nil && s.replica.Active()
		switch {
		case member && !active && (s.mended || g.orphaned(s) || !s.person.has(s.signer.Public())):
			g.counters["never welcomed"]++
		case member && !active:
			g.fail("I1", "%s is in the tree of epoch %d and not active", s.name, last.number)
		case !member && active && s.replica.Stalled() == "":
			g.fail("I1", "%s is active in epoch %d and not in the tree of epoch %d", s.name, s.replica.Epoch(), last.number)
		case member && string(s.replica.EpochAuthenticator()) != last.authenticator:
			g.fail("I1", "%s is in epoch %d (stalled %q), the rest in %d", s.name, s.replica.Epoch(), s.replica.Stalled(), last.number)
		}
		if active {
			g.oldKeys(s)
		}
	}
}

// orphaned reports whether whoever added an installation could not welcome it.
func (g *truth) orphaned(s *seat) bool {
	e := g.epochs[g.since(s, len(g.epochs)-1)].sealed
	return e != nil && (e.from.evil || e.from.restored)
}

// since is the first epoch of the membership that an installation has in an
// epoch.
func (g *truth) since(s *seat, n int) int {
	for n > 0 {
		if _, member := g.epochs[n-1].members[string(s.signer.Public())]; !member {
			break
		}
		n--
	}
	return n
}

// back is the epoch with which a seat that was left behind came back. Of what it
// missed before it was told that it was missing something. One that nobody added
// again came back with none.
func (g *truth) back(s *seat) int {
	last := len(g.epochs) - 1
	_, member := g.epochs[last].members[string(s.signer.Public())]
	if !member || s.replica == nil || !s.replica.Active() {
		return last + 1
	}
	return g.since(s, last)
}

// outOfOrder is how many later messages of a sender may come before one that
// still opens.
const outOfOrder = 5

// An entry is a message at its place in the log.
type entry struct {
	at uint64
	group.MessageID
}

// expected is what the log holds for everybody, in its order: of a message that
// stands there several times, the first copy that a member can read.
func (g *truth) expected() map[*seat][]entry {
	lists := map[*seat][]entry{}
	had := map[*seat]map[group.MessageID]bool{}
	newest := map[generation]uint32{} // by sender and epoch
	first := map[group.MessageID]uint64{}
	now := 0
	for _, e := range g.log() {
		for now+1 < len(g.epochs) && g.epochs[now+1].at < uint64(e.ID) {
			now++
		}
		m := g.envelopeOf(e.Payload)
		if m != nil && m.rogue && g.hadRewind() {
			// The log lost the removal that it came after. It may have been made
			// with a key that was used for what the log lost: nobody is owed it.
			continue
		}
		if m == nil || m.commit || int(m.epoch) > now || int(m.epoch)+3 < now || g.epochs[m.epoch].authenticator != m.within {
			continue
		}
		sender := m.key
		sender.number = 0
		if newest[sender] > m.key.number+outOfOrder {
			// So far behind others of its sender that its key is erased; but not with
			// who has loaded older ratchets. Its sender sends it once more.
			g.uncertain[m.message] = true
			continue
		}
		newest[sender] = max(newest[sender], m.key.number)
		if _, member := g.epochs[now].members[string(m.from.signer.Public())]; !member || g.since(m.from, now) > int(m.epoch) {
			continue
		}
		if first[m.message] == 0 {
			first[m.message] = uint64(e.ID)
		}
		for _, s := range g.seats() {
			_, member := g.epochs[now].members[string(s.signer.Public())]
			since := g.since(s, now)
			if s.beyond > m.epoch+3 {
				// It was that far when the log lost the way there, and its keys of this
				// epoch are erased. Its sender cannot know that.
				continue
			}
			// A welcome that came after a later one is stale: it was a member, and
			// has never known. Who read that it was removed reads no more, though the
			// log lost that, and has it elsewhere or not at all.
			if !member || had[s][m.message] || !g.joins[join{s, g.epochs[since].authenticator}] || (s.mended || s.outlived) && now < g.back(s) {
				continue
			}
			if since > int(m.epoch) {
				if first[m.message] > g.epochs[since].at {
					g.owe(s, since, m)
				}
				continue
			}
			if had[s] == nil {
				had[s] = map[group.MessageID]bool{}
			}
			had[s][m.message] = true
			lists[s] = append(lists[s], entry{uint64(e.ID), m.message})
		}
	}
	return lists
}

// owe: a message stands behind the addition of a newcomer, sealed by somebody
// who had not read of that. Its sender seals it once more: the newcomer has it
// in the end. (Of a message that stands before the addition as well, a later copy
// is nobody's.)
func (g *truth) owe(s *seat, since int, m *envelope) {
	g.owed = append(g.owed, debt{s, since, m})
}

// A debt is a message that a newcomer cannot read where it stands.
type debt struct {
	*seat
	since int // the epoch with which it came
	of    *envelope
}

// newcomers: I12. Who was added has everything behind its addition that honest
// members sent, whatever those had read by then.
func (g *truth) newcomers(lists map[*seat][]entry) {
	last := len(g.epochs) - 1
	stays := func(s *seat) bool {
		_, member := g.epochs[last].members[string(s.signer.Public())]
		return member && g.lame(s) == "" && !s.restored
	}
	for _, d := range g.owed {
		if !stays(d.seat) || g.since(d.seat, last) != d.since || g.hadRewind() {
			continue
		}
		from := d.of.from
		if !stays(from) || !from.person.has(from.signer.Public()) || g.since(from, last) > int(d.of.epoch) {
			continue // its sender was revoked or removed, and sends nothing of that life any more
		}
		g.counters[string(faultUnread)]++
		if !slices.ContainsFunc(lists[d.seat], func(e entry) bool { return e.MessageID == d.of.message }) {
			g.fail("I12", "%s came in epoch %d and lacks %v, %s", d.seat.name, d.since, d.of.message, g.where(d.of.message))
		}
	}
}

// histories: I3 and I4. What everybody has stored is what the log holds for it.
func (g *truth) histories() {
	expected := g.expected()
	changes := map[uint64]string{}
	lists := map[*seat][]entry{}
	for _, s := range g.seats() {
		if s.replica == nil || g.lame(s) != "" {
			continue
		}
		history, err := group.History(s.reader(), group.HistoryQuery{})
		if err != nil {
			g.fail("I3", "%s: %v", s.name, err)
		}
		for _, m := range history {
			switch {
			case g.attacked && g.ofEvil(m.Installation): // nothing is promised of what it sends
			case m.Kind == group.ApplicationMessage:
				lists[s] = append(lists[s], entry{m.Position.ID, m.ID})
			case !g.hadRewind():
				g.transcript(s, changes, m)
			}
		}
		g.counters["deliveries"] += len(lists[s])
	}
	g.newcomers(lists)
	for _, s := range g.seats() {
		if s.replica != nil && g.lame(s) == "" {
			g.compareHistories(s, lists[s], expected[s])
		}
	}
}

// transcript: what a commit did is told alike to all who were there.
func (g *truth) transcript(s *seat, changes map[uint64]string, m group.Message) {
	if s.replica.Created().Equal(m.Time) || m.Position.ID == 0 {
		return
	}
	n := slices.IndexFunc(g.epochs, func(e *epoch) bool { return e.at == m.Position.ID })
	if n < 0 && s.restored {
		return // it forgot that it had left, and nobody else was there
	}
	if n < 0 {
		g.fail("I4", "%s tells of a commit at %d, where is none", s.name, m.Position.ID)
	}
	if g.since(s, n) == n {
		return // its own welcome
	}
	if text, known := changes[m.Position.ID]; known && text != string(m.Content) {
		g.fail("I4", "%s tells another story of the commit at %d", s.name, m.Position.ID)
	}
	changes[m.Position.ID] = string(m.Content)
}

func (g *truth) compareHistories(s *seat, got, want []entry) {
	unique := map[group.MessageID]bool{}
	for _, m := range got {
		if unique[m.MessageID] {
			g.fail("I3", "%s has %v twice", s.name, m.MessageID)
		}
		unique[m.MessageID] = true
	}
	loose := s.restored || g.hadRewind()
	for _, m := range want {
		if !unique[m.MessageID] && !s.restored && !(loose && g.excusedFor(s, m.MessageID)) {
			g.fail("I3", "%s lacks %v, %s", s.name, m.MessageID, g.where(m.MessageID))
		}
	}
	unsure := func(m entry) bool { return g.uncertain[m.MessageID] }
	got, want = slices.DeleteFunc(got, unsure), slices.DeleteFunc(want, unsure)
	if loose || slices.Equal(got, want) {
		return
	}
	for _, m := range got {
		if !slices.ContainsFunc(want, func(e entry) bool { return e.MessageID == m.MessageID }) {
			g.fail("I3", "%s has %v, which is not for it, %s", s.name, m.MessageID, g.where(m.MessageID))
		}
	}
	n := 0
	for got[n] == want[n] {
		n++
	}
	g.fail("I4", "%s has %v as number %d at %d, %s; the log has %v at %d, %s", s.name,
		got[n].MessageID, n, got[n].at, g.where(got[n].MessageID), want[n].MessageID, want[n].at, g.where(want[n].MessageID))
}

// excusedFor: an own message that a restored store does not remember is not
// opened; nobody opens its own.
func (g *truth) excusedFor(s *seat, m group.MessageID) bool {
	for _, e := range g.sent {
		if e.message == m && e.from.home == s.home {
			return true
		}
	}
	return false
}

// where tells where in the log a message is, for who looks for a bug.
func (g *truth) where(m group.MessageID) string {
	var b bytes.Buffer
	for _, e := range g.log() {
		if sealed := g.envelopeOf(e.Payload); sealed != nil && !sealed.commit && sealed.message == m {
			fmt.Fprintf(&b, "at %d by %s in epoch %d; ", e.ID, sealed.from.name, sealed.epoch)
		}
	}
	return b.String()
}

// closed: I6. With all that it ever knew, who was removed opens nothing of the
// epochs without it.
func (g *truth) closed() {
	for _, r := range g.removals {
		for _, e := range g.log() {
			sealed := g.envelopeOf(e.Payload)
			if sealed == nil || sealed.epoch < r.epoch {
				continue
			}
			if g.opens(r.before, e.Payload) || g.opens(r.after, e.Payload) {
				g.fail("I6", "%s was removed in epoch %d and opens %d, of epoch %d", r.name, r.epoch, e.ID, sealed.epoch)
			}
		}
	}
}
