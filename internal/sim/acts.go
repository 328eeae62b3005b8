package sim

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/persistence"
)

// An act is one thing that may happen at a seat. do reports whether it did.
type act struct {
	name   string
	weight int
	fault  fault // only where the seed has it; empty: always
	do     func(*seat) bool
}

// running is an act of a replica that must be up and know where the log ends.
func running(do func(*seat) bool) func(*seat) bool {
	return func(s *seat) bool { return s.ready() && do(s) }
}

// acts are what a world chooses from. The weights are per seat.
var acts = []act{
	{"send", 26, "", running((*seat).sendMessage)},
	{"command", 7, "", running((*seat).change)},
	{"retry", 3, "", running((*seat).retryFailed)},
	{"publish", 50, "", running((*seat).send)},
	{"answer", 36, "", running((*seat).answer)},
	{"look up", 24, "", running((*seat).lookUps)},
	{"read", 40, "", running((*seat).read)},
	{"feed", 34, "", running((*seat).feed)},
	{"welcome", 30, "", (*seat).welcome},
	{"sleep", 3, "", (*seat).sleep},
	{"new key package", 1, "", (*seat).newKeyPackage},

	{"identity update", 2, faultIdentity, func(s *seat) bool { return s.updateIdentity(s.person) }},
	{"hide key package", 3, faultNoKeyPackage, (*seat).hide},
	{"crash", 6, faultCrash, (*seat).crash},
	{"power cut", 3, faultPowerCut, (*seat).powerCut},
	{"rollback", 2, faultRollback, (*seat).rollback},
	{"copy", 2, faultCopy, (*seat).openCopy},
	{"damage", 3, faultDamage, (*seat).damage},
	{"rewind", 2, faultRewind, (*seat).rewindLog},
	{"junk", 6, faultJunk, (*seat).junk},
	{"replay", 6, faultReplay, (*seat).replay},
	{"replayed welcome", 4, faultWelcomeReplay, (*seat).replayWelcome},
	{"forged commit", 5, faultForged, running((*seat).forge)},
	{"message of a removed member", 8, faultRemovedSends, running((*seat).sendThoughRemoved)},
	{"storm", 3, faultStorm, (*seat).storm},
	{"flood", 2, faultFlood, running((*seat).flood)},
	{"impossible command", 3, faultBadCommand, (*seat).badCommand},
	{"attack", 40, faultInsider, (*seat).attacked},
}

// act lets one thing happen.
func (w *world) act() {
	w.land(w.steps)
	total := 0
	for i := range acts {
		if w.enabled(&acts[i]) {
			total += acts[i].weight
		}
	}
	for range 40 {
		s := w.anySeat()
		if s.away > w.steps {
			continue
		}
		n := w.rand.IntN(total)
		for i := range acts {
			a := &acts[i]
			if !w.enabled(a) {
				continue
			}
			if n -= a.weight; n < 0 {
				if a.do(s) {
					w.tell("%s: %s", s.name, a.name)
					if a.fault != "" {
						w.counters[string(a.fault)]++
					}
					w.wait(time.Duration(w.rand.IntN(2000)) * time.Millisecond)
					return
				}
				break
			}
		}
	}
}

func (w *world) enabled(a *act) bool { return a.fault == "" || w.has(a.fault) }

func (w *world) anySeat() *seat {
	h := w.homes[w.rand.IntN(len(w.homes))]
	return h.seats[w.rand.IntN(len(h.seats))]
}

func (s *seat) sendMessage() bool {
	s.sends++
	in := group.Send{Content: fmt.Appendf(nil, "message %d of %s", s.sends, s.name), Now: s.now, Check: s.sends%3 == 0}
	if s.chance(1, 4) {
		in.Key = fmt.Sprintf("key %d", s.sends)
	}
	if !s.submit(in) || s.replica == nil {
		return s.replica != nil
	}
	if in.Key != "" && s.chance(1, 4) {
		s.submit(in) // once more: one message all the same
	}
	return true
}

// change asks for a commit of some kind.
func (s *seat) change() bool {
	someone := s.people[s.rand.IntN(len(s.people))].inbox
	var in group.Input
	switch s.rand.IntN(10) {
	case 0, 1, 2:
		in = group.AddMembers{Inboxes: []string{someone, s.people[s.rand.IntN(len(s.people))].inbox}}
	case 3, 4:
		in = group.RemoveMembers{Inboxes: []string{someone}}
	case 5:
		s.sends++
		in = group.UpdateMetadata{Field: group.AttributeName, Value: fmt.Sprintf("name %d", s.sends)}
	case 6:
		in = group.UpdateAdmins{Inbox: someone, Change: group.AdminChange(1 + s.rand.IntN(4))}
	case 7:
		in = group.Refresh{}
	case 8:
		in = group.UpdatePermissions{Permissions: group.Preset(s.rand.IntN(3)).Permissions()}
	default:
		in = group.KeyUpdate{}
	}
	return s.submit(in)
}

func (s *seat) retryFailed() bool {
	for _, m := range s.replica.Drafts() {
		if m.Status == group.StatusFailed {
			if !s.replica.Active() {
				return false
			}
			s.truth.retried(s, m.ID)
			return s.submit(group.Retry{Message: m.ID, Now: s.now})
		}
	}
	return false
}

func (s *seat) newKeyPackage() bool {
	if len(s.secrets) > 4 {
		return false
	}
	s.renewKeyPackage()
	return true
}

// rewoundTo: the log ends there now, and the welcomes behind it are gone.
func (h *home) rewoundTo(end uint64) {
	if h.welcomesRead() <= end {
		return
	}
	var b persistence.Batch
	h.readWelcome(&b, end)
	h.must(h.vault.Apply(ctx, &b, persistence.Durable))
}

// welcome reads the installation's next welcome, whichever group it is to.
func (s *seat) welcome() bool {
	if s.taken {
		return false
	}
	topic, err := bus.WelcomesFor(s.signer.Public())
	s.must(err)
	envelopes, err := s.bus.Read(ctx, bus.ID(s.welcomesRead()), 1, topic)
	if errors.Is(err, bus.ErrLogRolledBack) { // a restored store had read further
		s.rewoundTo(s.end())
		return false
	}
	s.must(err)
	if len(envelopes) == 0 {
		return false
	}
	e := envelopes[0]
	err = s.home.join(e, false)
	if errors.Is(err, group.ErrBehind) && s.calm {
		for _, t := range s.seats {
			t.rest()
		}
		err = s.home.join(e, true)
	}
	if errors.Is(err, group.ErrBehind) {
		for _, t := range s.seats {
			t.again = true
		}
		return !s.calm // read first
	}
	if err != nil {
		s.tell("%s: welcome %d: %v", s.name, e.ID, err)
		s.counters["welcomes declined"]++
		var b persistence.Batch
		s.readWelcome(&b, uint64(e.ID))
		s.must(s.vault.Apply(ctx, &b, persistence.Lazy))
	}
	return true
}

// join takes a welcome. It is complete where the log was read to its end since the
// welcome came.
func (h *home) join(e bus.Envelope, complete bool) error {
	welcome, secrets, err := h.unwrap(e.Payload)
	if err != nil {
		return err
	}
	c := group.JoinConfig{Welcome: welcome, Secrets: secrets, WelcomeID: uint64(e.ID), Created: e.Time, InOrder: true, Complete: complete}
	_, _, err = group.Join(h.env(), c)
	if need := new(group.UnresolvedError); errors.As(err, &need) {
		for _, n := range need.Need {
			h.lookUp(n.Inbox)
		}
		h.counters["joins that waited"]++
		c.Resolved = true
	} else if err != nil {
		return err
	}
	r, _, err := group.Join(h.env(), c)
	if err != nil {
		return err
	}
	for _, s := range h.seats {
		if string(s.truth.id) == string(r.ID()) {
			return s.enter(c)
		}
	}
	return errors.New("sim: welcome to a group of no world")
}

// enter joins for the first time, or once more.
func (s *seat) enter(c group.JoinConfig) error {
	if s.ready() {
		c.Previous = s.replica
	} else if s.rows {
		s.tell("%s: cannot wake to be welcomed", s.name)
		return nil // a fault took it down again: later
	}
	r, fx, err := group.Join(s.env(), c)
	if unknown := new(group.UnknownAdderError); errors.As(err, &unknown) && s.truth.honest(unknown.Adder) {
		s.counters["brought back by somebody unknown"]++
		c.Accepted = true // its owner asked the others
		r, fx, err = group.Join(s.env(), c)
	}
	if err != nil {
		return err
	}
	var b persistence.Batch
	s.addRows(&b, fx.Save)
	s.readWelcome(&b, c.WelcomeID)
	d := persistence.Durable
	if s.chance(1, 2) {
		d = persistence.Lazy // it can be read again, with the key package that is kept
	}
	s.must(s.vault.Apply(ctx, &b, d))
	if p := c.Previous; p != nil && p.Stalled() != "" && s.truth.hadRewind() {
		s.mended = true // it said that it had fallen behind
	}
	s.replica, s.rows, s.mark, s.reading, s.rewound = r, true, 0, nil, nil
	s.live, s.fed = s.chance(2, 3), r.Cursor()
	s.tell("%s: joined at epoch %d, cursor %d", s.name, r.Epoch(), r.Cursor())
	s.counters["joins"]++
	s.truth.joined(s, c.Welcome.Cursor)
	s.carryRest(fx)
	return nil
}

// honest reports whether an inbox has no installation that forged anything.
func (g *truth) honest(inbox string) bool {
	return !slices.ContainsFunc(g.seats(), func(s *seat) bool { return s.evil && s.person.inbox == inbox })
}

// env is of no group in particular.
func (h *home) env() group.Env { return h.seats[0].env() }

func (h *home) unwrap(payload []byte) (w group.Welcome, k *group.KeyPackageSecrets, err error) {
	e, err := group.ParseWelcome(payload)
	if err != nil {
		return w, nil, err
	}
	for _, k = range h.secrets {
		for _, public := range k.PublicKeys() {
			if string(public) != string(e.PublicKey) {
				continue
			}
			if !e.Pointer {
				w, err = group.OpenWelcome(e, k)
				return w, k, err
			}
			p, err := group.OpenPointer(e, k)
			if err != nil {
				return w, nil, err
			}
			w, err = h.pointee(p)
			return w, k, err
		}
	}
	return w, nil, errors.New("sim: welcome for no key package of mine")
}

func (h *home) pointee(p *group.WelcomePointer) (group.Welcome, error) {
	topic, err := bus.WelcomesFor(p.Destination)
	h.must(err)
	envelopes, err := h.bus.Read(ctx, 0, 1, topic)
	h.must(err)
	if len(envelopes) == 0 {
		return group.Welcome{}, errors.New("sim: pointee is not there")
	}
	e, err := group.ParseWelcome(envelopes[0].Payload)
	if err != nil {
		return group.Welcome{}, err
	}
	if h.shared != nil {
		return p.OpenShared(h.realm, h.shared, e)
	}
	return p.Open(e)
}

// tail lets everybody come to rest, with no faults any more.
func (w *world) tail() {
	w.calm = true
	w.tell("tail")
	for _, h := range w.homes {
		for p := range w.byID {
			h.lookUp(p)
		}
	}
	w.settle()
	w.land(math.MaxInt) // nothing is out any more
	w.settle()
}

func (w *world) settle() {
	for range 60 {
		busy := false
		for _, h := range w.homes {
			w.steps++
			for h.seats[0].welcome() {
				busy = true
			}
			for _, s := range h.seats {
				busy = s.rest() || busy
			}
		}
		w.wait(time.Second)
		if !busy {
			return
		}
	}
	w.fail("I5", "the world does not come to rest: %s", w.unrest())
}

// rest lets a seat do all that it has to do now. It reports whether anything is
// different from before.
func (s *seat) rest() bool {
	if s.asleep || !s.ready() {
		return false
	}
	before := [3]uint64{s.end(), s.replica.Cursor(), uint64(len(s.replica.Outstanding()))}
	s.again = true
	for n := 0; s.replica != nil && (s.again || s.reading != nil || s.busy()); n++ {
		if n > 5000 {
			s.fail("liveness", "%s does not come to rest: %s", s.name, s.fingerprint())
		}
		if !s.lookUps() && !s.answer() && !s.send() {
			s.read()
		}
	}
	return s.replica == nil || before != [3]uint64{s.end(), s.replica.Cursor(), uint64(len(s.replica.Outstanding()))}
}

// unrest says who still wants something.
func (w *world) unrest() (list string) {
	for _, h := range w.homes {
		for _, s := range h.seats {
			if s.replica != nil && len(s.replica.Outstanding()) > 0 {
				list += fmt.Sprintf("%s has intents %v, stalled %q; ", s.name, s.replica.Outstanding(), s.replica.Stalled())
			}
		}
	}
	return list
}
