package sim

import (
	"crypto/sha256"
	"io"
	"slices"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/internal/forge"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/persistence"
	storage "github.com/conclave-chat/conclave/persistence/memory"
)

// A Stage is a world in which a program says who breaks the rules, and how. Whatever
// it does, the world is held to its invariants: those are about everybody whose client
// was not taken.
type Stage struct{ truth *truth }

// A Cast is who is in a world without faults, of which a program says everything that
// happens. The first person founds the group.
type Cast struct {
	People      int // each with one installation; every second one shares nothing
	Members     int // how many of them are in the group, the first included
	Permissions group.Preset
	Log         io.Writer // gets a line for whatever happens; nil: nobody
}

// Play runs a program in a world of its own, lets everybody come to rest, and looks at
// the world. Its error is a *Failure.
func Play(seed uint64, c Cast, play func(*Stage)) error {
	w := newWorld(seed, Options{Steps: 1, Log: c.Log})
	clear(w.faults)
	w.calm = true
	return w.guarded(func() {
		w.cast(c)
		w.groups[0].attacked = true
		play(&Stage{w.groups[0]})
		w.tail()
		w.verdict()
	})
}

func (w *world) cast(c Cast) {
	all, err := scripts()
	w.must(err)
	w.openLog()
	for i := range 2 {
		h := &host{world: w, index: i, store: storage.New(), realm: mls.NewRealm(mls.Level(i)), space: persistence.Realm{byte(i)}}
		if i == 1 {
			h.shared = memo{}
		}
		w.hosts = append(w.hosts, h)
	}
	for i := range c.People {
		p := &person{script: all[i], index: i}
		w.people, w.byID[p.inbox] = append(w.people, p), p
		w.updateIdentity(p)
	}
	var others []string
	for _, p := range w.people[1:c.Members] {
		others = append(others, p.inbox)
	}
	w.found(0, w.homes[0], c.Permissions, others)
	w.settle()
}

// underAttack leaves the world those faults that excuse nothing.
func (w *world) underAttack() {
	for _, f := range []fault{faultRewind, faultUnnoticed, faultDamage, faultRollback, faultCopy, faultForged, faultRemovedSends, faultFlood} {
		w.faults[f] = false
	}
	w.faults[faultInsider] = true
}

// attacked lets the attack happen once more.
func (s *seat) attacked() bool {
	s.attack(&Stage{s.groups[0]})
	return true
}

// A Player is one installation in the stage's group.
type Player struct{ *seat }

// Players are all installations, the founder first.
func (st *Stage) Players() []Player {
	var list []Player
	for _, s := range st.truth.seats() {
		list = append(list, Player{s})
	}
	return list
}

// Player is the first installation of a person.
func (st *Stage) Player(n int) Player { return st.Players()[n] }

// IntN is a number of the seed's.
func (st *Stage) IntN(n int) int { return st.truth.rand.IntN(n) }

// Random is what keys are made of.
func (st *Stage) Random() io.Reader { return st.truth.keys }

// GroupID is the group's id.
func (st *Stage) GroupID() []byte { return st.truth.id }

// Settle lets everybody come to rest.
func (st *Stage) Settle() { st.truth.settle() }

// SettleBut is Settle, of all but some.
func (st *Stage) SettleBut(some ...Player) {
	for _, p := range some {
		p.asleep = true
	}
	st.truth.settle()
	for _, p := range some {
		p.asleep = false
	}
}

// Broken ends the run: something that the attack promises to look at does not hold.
func (st *Stage) Broken(invariant, format string, args ...any) {
	st.truth.fail(invariant, format, args...)
}

// Must ends the run where the attack itself could not be carried out.
func (st *Stage) Must(err error) { st.truth.must(err) }

// Count counts what happened, for Result.Counters.
func (st *Stage) Count(what string) { st.truth.counters[what]++ }

// Log is the group's log, in its order.
func (st *Stage) Log() []bus.Envelope { return st.truth.log() }

// Holds reports whether a payload holds a message that the truth knows.
func (st *Stage) Holds(payload []byte) bool { return st.truth.envelopeOf(payload) != nil }

// Founded reports whether somebody made the group.
func (st *Stage) Founded(p Player) bool { return st.truth.founder == p.home }

// Known reports whether somebody honest has been in an epoch.
func (st *Stage) Known(authenticator []byte) bool {
	return st.truth.known[string(authenticator)] != nil
}

// Squat lets junk come before each of the next commits, in the place that it asks for.
func (st *Stage) Squat(commits int) { st.truth.squat = commits }

// Wait lets time pass on the clock of the log and of everybody, also backwards.
func (st *Stage) Wait(d time.Duration) { st.truth.wait(d) }

// Equivocates says that the log may show different things to different members: each
// may go its own way, and must say so.
func (st *Stage) Equivocates() {
	st.truth.forked = true
	st.truth.counters[string(faultRewind)]++
}

// Publish writes an MLSMessage of a taken client into the group's log, at which the
// truth will know it. No epoch may begin with what must be refused.
func (st *Stage) Publish(by Player, t group.Topic, data []byte, refused bool) uint64 {
	g := st.truth
	hash := sha256.Sum256(data)
	if g.sent[hash] == nil {
		g.sent[hash] = &envelope{from: by.seat, commit: t == group.TopicCommits, forged: refused}
	}
	return st.Write(t, forge.Envelope(data))
}

// Write appends a payload to one of the group's topics, as anybody may.
func (st *Stage) Write(t group.Topic, payload []byte) uint64 {
	st.truth.wait(beyondWindow)
	ack, err := st.truth.publish(t, st.truth.id, payload)
	st.truth.must(err)
	st.truth.tell("attack: envelope %d", ack.ID)
	return uint64(ack.ID)
}

// End is the newest id of the log.
func (st *Stage) End() uint64 { return st.truth.end() }

// SendWelcome writes a payload where an installation reads its welcomes.
func (st *Stage) SendWelcome(to Player, payload []byte) {
	st.truth.wait(beyondWindow)
	_, err := st.truth.publish(group.TopicWelcomes, to.signer.Public(), payload)
	st.truth.must(err)
}

// Welcomes are the payloads on an installation's topic.
func (st *Stage) Welcomes(to Player) (payloads [][]byte) {
	topic, err := bus.WelcomesFor(to.signer.Public())
	st.truth.must(err)
	all, err := st.truth.bus.Read(ctx, 0, 1<<10, topic)
	st.truth.must(err)
	for _, e := range all {
		payloads = append(payloads, e.Payload)
	}
	return payloads
}

// Impostor says that a key is some attacker's, whatever inbox its leaf claims.
func (st *Stage) Impostor(key []byte) { st.truth.impostors[string(key)] = true }

// UpdateIdentity brings a person's next update into the identity log: a second
// installation, its revocation, a third installation.
func (st *Stage) UpdateIdentity(p Player) { st.truth.updateIdentity(p.person) }

// Name is a person's and an installation's number.
func (p Player) Name() string { return p.name }

// Inbox is whose installation it is.
func (p Player) Inbox() string { return p.person.inbox }

// Identity is the newest update of its inbox.
func (p Player) Identity() uint64 { return p.person.newest() }

// Owns reports whether its inbox still has this installation.
func (p Player) Owns() bool {
	id, err := identity.InstallationFrom(p.signer.Public())
	return err == nil && p.person.states[len(p.person.seqs)-1].Has(id)
}

// Signer is its key.
func (p Player) Signer() *mls.Signer { return p.signer }

// Secrets are those of its newest key package.
func (p Player) Secrets() *group.KeyPackageSecrets { return p.secrets[len(p.secrets)-1] }

// KeyPackage is its newest one.
func (p Player) KeyPackage() *mls.KeyPackage { return p.Secrets().KeyPackage.MLS }

// Env is what its client makes replicas with.
func (p Player) Env() group.Env { return p.env() }

// Replica is its client's state; nil: it has none, or was taken.
func (p Player) Replica() *group.Replica {
	if p.taken || !p.ready() {
		return nil
	}
	return p.seat.replica
}

// Standing is how it stands to the log; 0: it has no replica.
func (p Player) Standing() (st group.Standing, why string) {
	if r := p.Replica(); r != nil {
		return r.Standing()
	}
	return 0, ""
}

// Ask asks its client for something.
func (p Player) Ask(in group.Input) error {
	if p.Replica() == nil {
		return group.ErrInactive
	}
	return p.ask(in)
}

// Say sends a text.
func (p Player) Say(text string) error { return p.Ask(group.Send{Content: []byte(text), Now: p.now}) }

// Hears reports whether its history has a text.
func (p Player) Hears(text string) bool {
	return slices.ContainsFunc(p.History(), func(m group.Message) bool { return string(m.Content) == text })
}

// History is what its store has of the group.
func (p Player) History() []group.Message {
	list, err := group.History(p.reader(), group.HistoryQuery{})
	p.must(err)
	return list
}

// Stored is how many bytes its host has stored.
func (p Player) Stored() (n int) {
	p.must(p.store.View(ctx, func(r persistence.Reader) error {
		return r.Scan(nil, nil, func(key, value []byte) bool { n += len(key) + len(value); return true })
	}))
	return n
}

// A View is what a log shows of itself: by id and payload. Nil: everything.
type View func(id uint64, payload []byte) bool

// Sees says which envelopes the log shows it from now on.
func (p Player) Sees(v View) { p.view = v }

// Flush publishes what its client has to publish, without reading anything.
func (p Player) Flush() {
	for p.send() {
	}
}

// Spoil makes its key package one that others find where they look for it.
func (p Player) Spoil(k *group.KeyPackageSecrets) { p.home.secrets = append(p.home.secrets, k) }

// Corrupt says that its owner breaks the rules, with the client that everybody has.
func (p Player) Corrupt() { p.home.evil, p.truth.attacked = true, true }

// Take takes its client away and runs one in its place that keeps no rule.
func (p Player) Take() *forge.Insider {
	state := p.Replica().Group()
	p.Corrupt()
	p.home.taken = true
	for _, s := range p.seats {
		s.drop()
		s.rows = false
	}
	return forge.NewInsider(p.keys, p.signer, state)
}

// impostorsIn counts the leaves of a group that claim another's inbox.
func (g *truth) impostorsIn(now *mls.Group) (n int) {
	for _, leaf := range now.Members() {
		if g.impostors[string(leaf.SignatureKey)] {
			n++
		}
	}
	return n
}

// isolated reports whether an attacker has left a member behind, which says so.
func (g *truth) isolated(s *seat) bool {
	if !g.attacked || s.replica == nil {
		return false
	}
	st, _ := s.replica.Standing()
	return st == group.Stranded
}

// apart reports whether a seat has not heard the others in its epoch.
func (s *seat) apart() bool {
	st, _ := s.replica.Standing()
	return st == group.Apart
}

// ofEvil reports whether an installation has broken the rules.
func (g *truth) ofEvil(installation []byte) bool {
	return slices.ContainsFunc(g.homes, func(h *home) bool { return h.evil && string(h.signer.Public()) == string(installation) })
}

// readView is what an equivocating log shows a seat.
func (s *seat) readView(after bus.ID, limit int) ([]bus.Envelope, error) {
	all, err := s.bus.Read(ctx, after, 1<<20, s.truth.commits, s.truth.messages)
	all = slices.DeleteFunc(all, func(e bus.Envelope) bool { return !s.view(uint64(e.ID), e.Payload) })
	return all[:min(limit, len(all))], err
}
