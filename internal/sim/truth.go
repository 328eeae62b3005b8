package sim

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
)

// The truth about a group: what the world, which sees everything, knows of it.
// It looks on after every step and fails the run where an invariant is broken;
// the rest is for verdict.go, at the end.
//
//	I1   members in one epoch hold the same authenticator and tree
//	I2   an epoch has one commit, at one place of the log
//	I5   a send ends; Failed is read by nobody, Published stays so
//	I7   who is added opens nothing from before
//	I8   no sender uses an epoch's generation for two ciphertexts
//	I9   keys older than three epochs are not in the store
//	I10  what is declined changes nothing (seat.submit, seat.badCommand)
//	I11  nobody is in a tree who is not in the identity log
//	I12  who is added has what stands behind its addition (newcomers)
type truth struct {
	*world
	index             int
	id                []byte
	commits, messages bus.Topic
	founder           *home

	epochs      []*epoch               // what the log made of the group
	known       map[string]*epoch      // by authenticator: where anybody ever was
	forked      bool                   // the log lost an epoch's commit: until the end, members may go different ways
	sent        map[[32]byte]*envelope // by hash of the MLSMessage
	status      map[own]group.DeliveryStatus
	read        map[group.MessageID]bool // by somebody else than its sender
	tainted     map[group.MessageID]bool // was in a tail that the log lost
	generations map[generation][32]byte
	removals    []removal
	strays      map[group.MessageID]bool // a late copy of it has landed
	uncertain   map[group.MessageID]bool // stands in the log where some may have erased its key
	joins       map[join]bool
	owed        []debt          // see newcomers
	impostors   map[string]bool // leaves of keys that somebody claims for another's inbox
	attacked    bool            // somebody keeps no rule
}

// An epoch is what its members agree on.
type epoch struct {
	number        uint64
	before        *epoch // nil: the first
	at            uint64 // of its commit
	authenticator string
	tree          string
	members       map[string]string // installation to inbox
	sealed        *envelope         // its commit; nil: the founder made the epoch
	metadata      *group.Metadata
}

// An envelope is something that a seat has sealed.
type envelope struct {
	from    *seat
	epoch   uint64
	within  string // the epoch's authenticator
	commit  bool
	forged  bool
	rogue   bool // by somebody who had been removed
	message group.MessageID
	key     generation
	read    uint64 // how far its sender had read the log
}

type (
	own struct {
		*home
		message group.MessageID
	}
	generation struct {
		installation string
		epoch        string // its authenticator
		content      mls.ContentType
		number       uint32
	}
	join struct {
		*seat
		epoch string // its authenticator
	}
	// A removal keeps all that an installation knew when it was removed, and
	// what it knows after.
	removal struct {
		*seat
		epoch         uint64 // the first without it
		before, after *mls.Group
	}
)

func newTruth(w *world, n int) *truth {
	id := sha256.Sum256(fmt.Appendf(nil, "group %d of %d", n, w.seed))
	g := &truth{
		world: w, index: n, id: id[:16],
		known:       map[string]*epoch{},
		sent:        map[[32]byte]*envelope{},
		status:      map[own]group.DeliveryStatus{},
		read:        map[group.MessageID]bool{},
		tainted:     map[group.MessageID]bool{},
		generations: map[generation][32]byte{},
		joins:       map[join]bool{},
		strays:      map[group.MessageID]bool{},
		uncertain:   map[group.MessageID]bool{},
		impostors:   map[string]bool{},
	}
	var err error
	g.commits, err = bus.CommitsOf(g.id)
	w.must(err)
	g.messages, err = bus.MessagesOf(g.id)
	w.must(err)
	return g
}

// log is the group's whole log, as it is now.
func (g *truth) log() []bus.Envelope {
	all, err := g.bus.Read(ctx, 0, 1<<20, g.commits, g.messages)
	g.must(err)
	return all
}

func (g *truth) found(s *seat) {
	g.enter(s, 0, nil)
	g.joins[join{s, g.epochs[0].authenticator}] = true
}

// moved looks at a replica after a step.
func (g *truth) moved(s *seat, before *mls.Group) {
	now := s.replica.Group()
	switch {
	case before.Active() && !now.Active():
		g.counters["removals"]++
		s.left = s.replica.Cursor()
		g.removals = append(g.removals, removal{s, before.Epoch() + 1, before, g.plant.leaked(plantLeak, s, now)})
	case !now.Active():
	case now.Epoch() == before.Epoch():
	default:
		g.enter(s, s.replica.Cursor(), before)
	}
}

// enter compares a replica's epoch with the others'; the first one in it says
// what it is.
func (g *truth) enter(s *seat, at uint64, before *mls.Group) {
	now := s.replica.Group()
	number := now.Epoch()
	s.furthest = max(s.furthest, number)
	if before != nil && number != before.Epoch()+1 {
		g.fail("I2", "%s went from epoch %d to %d", s.name, before.Epoch(), number)
	}
	if e := g.known[string(now.EpochAuthenticator())]; e != nil {
		g.compare(s, e, at)
		return
	}
	switch {
	case g.forked:
	case s.evil && (number < uint64(len(g.epochs)) || g.known[string(before.EpochAuthenticator())] == nil):
		return // it has used a generation for two commits, and its store forgot one
	case number < uint64(len(g.epochs)):
		g.fail("I1", "%s has another epoch %d (of %d) than the rest (of %d)", s.name, number, at, g.epochs[number].at)
	case number > uint64(len(g.epochs)):
		g.fail("I2", "%s is in epoch %d, and nobody was in the one before", s.name, number)
	}
	e := g.newEpoch(s, at)
	if before != nil {
		e.before = g.known[string(before.EpochAuthenticator())]
	}
	g.known[e.authenticator] = e
	g.counters["epochs"]++
	if !g.forked {
		g.epochs = append(g.epochs, e)
	}
}

func (g *truth) newEpoch(s *seat, at uint64) *epoch {
	now := s.replica.Group()
	e := &epoch{
		number: now.Epoch(), at: at, authenticator: string(now.EpochAuthenticator()),
		tree: string(now.Context().TreeHash), members: map[string]string{}, metadata: s.replica.Metadata(),
	}
	for installation, inbox := range s.replica.Installations {
		e.members[string(installation)] = inbox
		if p := g.byID[inbox]; p == nil || !p.owns(installation) {
			g.fail("I11", "epoch %d: %x is in the tree for inbox %s", e.number, installation, inbox)
		}
	}
	if len(e.members)+g.impostorsIn(now) != now.Size() {
		g.fail("I11", "epoch %d has %d leaves for %d installations", e.number, now.Size(), len(e.members))
	}
	if at == 0 {
		return e
	}
	if e.sealed = g.envelopeAt(at); e.sealed == nil || !e.sealed.commit {
		g.fail("I2", "epoch %d began at %d, which is no commit of anybody", e.number, at)
	}
	if e.sealed.forged {
		g.fail("policy", "epoch %d began with a forged commit of %s", e.number, e.sealed.from.name)
	}
	return e
}

// compare looks at a replica that came to an epoch which others have reached.
func (g *truth) compare(s *seat, e *epoch, at uint64) {
	if tree := string(s.replica.Group().Context().TreeHash); tree != e.tree {
		g.fail("I1", "%s has another tree in epoch %d", s.name, e.number)
	}
	if at != e.at && !g.hadRewind() {
		g.fail("I2", "%s reached epoch %d by %d, others by %d", s.name, e.number, at, e.at)
	}
}

// envelopeAt is what was sealed and stands there in the log.
func (g *truth) envelopeAt(at uint64) *envelope {
	before := bus.MakeID(bus.ID(at).Sequence()-1, 0)
	found, err := g.bus.Read(ctx, before, 1, g.commits, g.messages)
	if err != nil || len(found) == 0 || uint64(found[0].ID) != at {
		return nil // the log has lost it
	}
	return g.envelopeOf(found[0].Payload)
}

func (g *truth) envelopeOf(payload []byte) *envelope {
	data, err := group.DecodeGroupMessage(payload)
	if err != nil {
		return nil
	}
	return g.sent[sha256.Sum256(data)]
}

// loaded looks at a replica that came back from its rows.
func (g *truth) loaded(s *seat) {
	r := s.replica
	if !r.Active() || s.evil {
		return
	}
	if g.known[string(r.EpochAuthenticator())] == nil {
		g.fail("I1", "%s came back in an epoch %d that nobody was in", s.name, r.Epoch())
	}
	g.oldKeys(s)
}

// oldKeys: I9. Of epochs more than three back the store has no keys of a member.
func (g *truth) oldKeys(s *seat) {
	epoch := s.replica.Epoch()
	g.must(s.reader().Scan(group.TableMember, nil, func(key, _ []byte) bool {
		if n := binary.BigEndian.Uint64(key); n+3 < epoch {
			g.fail("I9", "%s is in epoch %d and has keys of epoch %d", s.name, epoch, n)
		}
		return true
	}))
}

// joined looks at a replica that came of a welcome.
func (g *truth) joined(s *seat, at uint64) {
	now := s.replica.Group()
	authenticator := string(now.EpochAuthenticator())
	e := g.known[authenticator]
	if e == nil {
		g.fail("I1", "%s joined an epoch %d that nobody was in", s.name, now.Epoch())
	}
	if e.at != at && !g.hadRewind() {
		g.fail("I2", "%s was told that epoch %d began at %d, it was %d", s.name, e.number, at, e.at)
	}
	g.joins[join{s, authenticator}] = true
	// I7: it opens nothing from before.
	past := g.log()
	for i := len(past) - 1; i >= 0; i-- {
		if uint64(past[i].ID) > at {
			continue
		}
		if sealed := g.envelopeOf(past[i].Payload); g.forked && sealed != nil && sealed.within == authenticator {
			continue // the epoch's commit was written again, behind what was sent in it
		}
		if g.opens(g.plant.leaked(plantPast, s, now), past[i].Payload) {
			g.fail("I7", "%s joined at %d and opens %d", s.name, at, past[i].ID)
		}
	}
}

// opens reports whether somebody can open an envelope.
func (g *truth) opens(state *mls.Group, payload []byte) bool {
	data, err := group.DecodeGroupMessage(payload)
	if err != nil {
		return false
	}
	m, err := (*mls.Realm)(nil).Parse(data)
	if err != nil {
		return false
	}
	_, _, err = state.Open(m)
	return err == nil
}

// sealed looks at what a step wants to send.
func (g *truth) sealed(s *seat, fx group.Effects) {
	for _, o := range fx.Send {
		if o.Topic == group.TopicWelcomes {
			continue
		}
		data, err := group.DecodeGroupMessage(o.Payload)
		g.must(err)
		hash := sha256.Sum256(data)
		if g.sent[hash] == nil {
			g.sent[hash] = g.describe(s, o, data)
		}
	}
}

func (g *truth) describe(s *seat, o group.Outbound, data []byte) *envelope {
	m, err := (*mls.Realm)(nil).Parse(data)
	g.must(err)
	state := s.replica.Group()
	var mine *mls.OwnMessageError
	if _, _, err := state.Open(m); !errors.As(err, &mine) || mine.Epoch != state.Epoch() {
		g.fail("I8", "%s does not know its own envelope in epoch %d: %v", s.name, state.Epoch(), err)
	}
	e := &envelope{from: s, epoch: mine.Epoch, within: string(state.EpochAuthenticator()), commit: o.Topic == group.TopicCommits, read: s.replica.Cursor()}
	e.key = generation{string(s.signer.Public()), e.within, mine.ContentType, mine.Generation}
	if !e.commit {
		var known bool
		if e.message, known = s.replica.MessageOf(o.Intent); !known {
			g.fail("the world", "%s: intent %d sends no message", s.name, o.Intent)
		}
	}
	return e
}

// leaves looks at what really leaves an installation: I8. A restored store does not
// know what it sent before and had not read in the log when it sealed: what the log
// never took, or took later. There MLS's random reuse guard keeps the nonces apart.
func (g *truth) leaves(s *seat, o group.Outbound) {
	if s.evil {
		return
	}
	data, err := group.DecodeGroupMessage(o.Payload)
	g.must(err)
	hash := sha256.Sum256(data)
	key := g.sent[hash].key
	if other, used := g.generations[key]; used && other != hash && !(s.restored && !g.inLog(other, g.sent[hash].read)) {
		g.fail("I8", "%s uses generation %d of epoch %d twice", s.name, key.number, g.sent[hash].epoch)
	}
	g.generations[key] = hash
}

// inLog reports whether the log has an envelope at or before an ID.
func (g *truth) inLog(hash [32]byte, until uint64) bool {
	for _, e := range g.log() {
		if uint64(e.ID) > until {
			return false
		}
		if data, err := group.DecodeGroupMessage(e.Payload); err == nil && sha256.Sum256(data) == hash {
			return true
		}
	}
	return false
}

// told looks at what an installation's owner hears: I5.
func (g *truth) told(s *seat, e group.Event) {
	switch e := e.(type) {
	case group.MessageChanged:
		g.messageChanged(s, e.Message)
	case group.Rejected:
		g.counters["rejected envelopes"]++
		g.tell("%s: rejected %d: %v", s.name, e.ID, e.Reason)
	case group.StandingChanged:
		g.counters["standing "+e.Standing.String()]++
		g.tell("%s: %v: %s", s.name, e.Standing, e.Reason)
	case group.IntentDone:
		g.counters["intents done"]++
		g.tell("%s: intent %d: %v", s.name, e.Intent, e.Err)
	}
}

func (g *truth) messageChanged(s *seat, m group.Message) {
	if m.Kind != group.ApplicationMessage {
		return
	}
	g.tell("%s: %x is %v", s.name, m.ID[:4], m.Status)
	mine := own{s.home, m.ID}
	if !bytes.Equal(m.Installation, s.signer.Public()) && m.Status == group.StatusPublished {
		if s.evil || s.restored || g.forked {
			return // it may have forgotten, or not know, that the sender was removed
		}
		g.read[m.ID] = true
		for _, h := range g.homes {
			if bytes.Equal(h.signer.Public(), m.Installation) && g.status[own{h, m.ID}] == group.StatusFailed && !g.excused(h, m.ID) && !g.strays[m.ID] {
				g.fail("I5", "%s reads %v, which is Failed at %s", s.name, m.ID, h.name)
			}
		}
		return
	}
	was := g.status[mine]
	g.status[mine] = m.Status
	g.counters["own messages "+m.Status.String()]++
	switch {
	case g.excused(s.home, m.ID):
	case m.Status == group.StatusFailed && was == group.StatusPublished:
		g.fail("I5", "%s: %v was Published and is Failed", s.name, m.ID)
	case m.Status == group.StatusPublished && was == group.StatusFailed && g.strays[m.ID]:
	case m.Status == group.StatusPublished && was == group.StatusFailed:
		g.fail("I5", "%s: %v was Failed and is Published", s.name, m.ID)
	case m.Status == group.StatusFailed && g.read[m.ID] && !g.strays[m.ID]:
		g.fail("I5", "%s: %v is Failed (%s), and was read", s.name, m.ID, m.Reason)
	}
}

// excused: of what a rewound log or a restored backup has taken apart, no
// statement about a message's fate holds.
func (g *truth) excused(h *home, m group.MessageID) bool {
	return h.evil || h.restored || g.tainted[m]
}

// landed: a publish that had no answer is in the log after all. Its sender may
// have given its message up by then; it learns of it as everybody does.
func (g *truth) landed(o group.Outbound) {
	if e := g.envelopeOf(o.Payload); e != nil && !e.commit {
		g.strays[e.message] = true
	}
}

func (g *truth) retried(s *seat, m group.MessageID) {
	g.status[own{s.home, m}] = group.StatusUnpublished
}

// rewound: the log is about to lose everything above an ID.
func (g *truth) rewound(to uint64) {
	log := g.log()
	g.lose(slices.DeleteFunc(log, func(e bus.Envelope) bool { return uint64(e.ID) <= to }))
	g.forked = g.forked || g.has(faultUnnoticed)
	for _, s := range g.seats() {
		s.beyond = s.furthest
	}
	for _, e := range g.known {
		e.at = min(e.at, to)
	}
}

// lose: the log is about to lose entries.
func (g *truth) lose(entries []bus.Envelope) {
	g.taint(entries)
	for _, s := range g.seats() {
		s.outlived = s.outlived || slices.ContainsFunc(entries, func(e bus.Envelope) bool { return uint64(e.ID) == s.left })
	}
	for _, e := range entries {
		if sealed := g.envelopeOf(e.Payload); sealed != nil && sealed.commit && g.began(sealed, uint64(e.ID)) {
			g.forked = true
		}
	}
}

// taint: whether the messages among entries were read by somebody says nothing any
// more.
func (g *truth) taint(entries []bus.Envelope) {
	for _, e := range entries {
		if sealed := g.envelopeOf(e.Payload); sealed != nil && !sealed.commit {
			g.tainted[sealed.message] = true
		}
	}
}

// began reports whether an epoch began with a commit at a place.
func (g *truth) began(sealed *envelope, at uint64) bool {
	for _, e := range g.known {
		if e.sealed == sealed && e.at == at {
			return true
		}
	}
	return false
}

// hadRewind reports whether the log ever lost something.
func (g *truth) hadRewind() bool {
	return g.counters[string(faultRewind)]+g.counters[string(faultDamage)] > 0
}
