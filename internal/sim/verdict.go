package sim

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/conclave-chat/conclave/group"
)

// verdict looks at the world when it has come to rest.
//
//	I3  a Published message is with everybody who was a member at its place, once
//	I4  in the order of the log
//	I5  every send has ended
//	I6  who was removed opens nothing that came after
func (w *world) verdict() {
	for _, g := range w.groups {
		g.settled()
		g.agreed()
		g.histories()
		g.closed()
	}
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
	case s.replica != nil && s.replica.Active() && g.lost[string(s.replica.EpochAuthenticator())] != nil:
		return "the log lost its epoch"
	case s.replica != nil && s.replica.Stalled() != "" && (s.restored || g.has(faultRewind)):
		return "it is stalled: " + s.replica.Stalled()
	}
	return ""
}

// agreed: I1, once more. Everybody whom the tree names is in the last epoch,
// and nobody else is.
func (g *truth) agreed() {
	last := g.epochs[len(g.epochs)-1]
	for _, s := range g.seats() {
		_, member := last.members[string(s.signer.Public())]
		if why := g.lame(s); why != "" {
			g.counters["left behind"]++
			continue
		}
		active := s.replica != nil && s.replica.Active()
		switch {
		case member && !active && g.orphaned(s):
			g.counters["never welcomed"]++
		case member && !active:
			g.fail("I1", "%s is in the tree of epoch %d and not active", s.name, len(g.epochs)-1)
		case !member && active:
			g.fail("I1", "%s is active in epoch %d and not in the tree of epoch %d", s.name, s.replica.Epoch(), len(g.epochs)-1)
		case member && string(s.replica.EpochAuthenticator()) != last.authenticator:
			g.fail("I1", "%s is in epoch %d (stalled %q), the rest in %d", s.name, s.replica.Epoch(), s.replica.Stalled(), len(g.epochs)-1)
		}
		if s.replica != nil && s.replica.Stalled() != "" && s.person.has(s.signer.Public()) { // who was revoked stops by itself
			g.fail("liveness", "%s is stalled: %s", s.name, s.replica.Stalled())
		}
		if active {
			g.oldKeys(s)
		}
	}
}

// orphaned reports whether whoever added an installation could not welcome it.
func (g *truth) orphaned(s *seat) bool {
	e := g.epochs[g.since(s, len(g.epochs)-1)].sealed
	return e != nil && (e.from.evil || e.from.restored || g.has(faultRewind))
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
	now := 0
	for _, e := range g.log() {
		for now+1 < len(g.epochs) && g.epochs[now+1].at < uint64(e.ID) {
			now++
		}
		m := g.envelopeOf(e.Payload)
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
		for _, s := range g.seats() {
			_, member := g.epochs[now].members[string(s.signer.Public())]
			since := g.since(s, now)
			// A welcome that came after a later one is stale: it was a member, and
			// has never known.
			if !member || had[s][m.message] || !g.joins[join{s, since}] {
				continue
			}
			if since > int(m.epoch) {
				g.owe(s, since, m)
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
// in the end.
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
		if !stays(d.seat) || g.since(d.seat, last) != d.since || !stays(d.of.from) || g.hadRewind() {
			continue
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
	if g.has(faultUnread) {
		g.newcomers(expected)
	}
	changes := map[uint64]string{}
	for _, s := range g.seats() {
		if s.replica == nil || g.lame(s) != "" {
			continue
		}
		history, err := group.History(s.reader(), group.HistoryQuery{})
		if err != nil {
			g.fail("I3", "%s: %v", s.name, err)
		}
		var got []entry
		for _, m := range history {
			if m.Kind == group.ApplicationMessage {
				got = append(got, entry{m.Position.ID, m.ID})
			} else if !g.hadRewind() {
				g.transcript(s, changes, m)
			}
		}
		g.counters["deliveries"] += len(got)
		g.compareHistories(s, got, expected[s])
	}
}

func (g *truth) hadRewind() bool { return g.counters[string(faultRewind)] > 0 }

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
	if g.counters["epochs found again"] > 0 {
		return // a commit stands behind what was read after it
	}
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
