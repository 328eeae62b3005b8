package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/persistence"
)

// A seat is a host's loop for one installation in one group: it moves the
// replica and carries its effects out, Save before Send before Emit. Nothing
// happens by itself; the world decides what comes next.
type seat struct {
	*home
	truth   *truth
	replica *group.Replica // nil: asleep, down, or never joined
	rows    bool           // the store has a replica
	live    bool           // follows the log, rather than reading it when asked
	fed     uint64         // live: the last envelope that the feed gave
	view    View           // what the log shows it; nil: everything

	outbox  []group.Outbound
	answers []group.Input // of the bus, on their way
	fetches []group.Fetch
	resolve []group.IdentityAt
	ghosts  []group.Outbound         // timed out, and not in the log yet
	pending map[group.MessageID]bool // messages of the steps whose rows are not saved yet
	mark    uint64                   // the newest read asked for
	reading *reading
	again   bool    // another read is wanted
	asleep  bool    // a stage lets it do nothing
	cut     bool    // its host was away: the feed is to be taken up again
	mended  bool    // it fell behind and said so, and was added again where somebody could
	rewound *uint64 // the log went back to here, and the replica has not been told

	furthest uint64 // the highest epoch that it was in
	beyond   uint64 // the same, when the log last lost something
	left     uint64 // where it read that it was removed
	outlived bool   // the log lost that removal, or one before
}

// A reading is a read of the log in progress.
type reading struct {
	mark, end, after uint64
}

func (s *seat) env() group.Env {
	age := time.Duration(0) // key updates come before first messages
	if s.seed%2 == 0 {
		age = -1
	}
	return group.Env{
		Realm:    s.realm,
		Signer:   s.signer,
		Inbox:    s.person.inbox,
		Rand:     s.keys,
		Limits:   group.Limits{InFlight: 8, Members: mostPeople, KeyAge: age},
		Identity: s.identity,
		Shared:   s.shared,
		PutBack:  s.putBack,
		Stored:   s.stored,
	}
}

// step moves the replica by one input, without carrying anything out.
func (s *seat) step(in group.Input) (group.Effects, error) {
	before := s.replica.Group()
	fx, err := s.replica.Step(in)
	if err != nil {
		s.tell("%s: %T: error: %v", s.name, in, err)
		return fx, err
	}
	s.tell("%s: %T: epoch %d, cursor %d, %d rows, %d sent, %d told", s.name, in, s.replica.Epoch(), s.replica.Cursor(), len(fx.Save), len(fx.Send), len(fx.Emit))
	s.truth.moved(s, before)
	s.truth.sealed(s, fx)
	return fx, nil
}

// input is a step with its effects. Only a command may be answered by an error.
func (s *seat) input(in group.Input) {
	fx, err := s.step(in)
	if err != nil {
		s.fail("no error", "%s: %T: %v", s.name, in, err)
	}
	s.carry(fx)
}

// submit asks the replica for something, which it may decline. A declined command
// leaves everything as it was: I10.
func (s *seat) submit(in group.Input) bool { return s.ask(in) == nil }

// ask is submit, and says why it is declined.
func (s *seat) ask(in group.Input) error {
	before := s.fingerprint()
	fx, err := s.step(in)
	if err != nil {
		s.counters["commands declined"]++
		if s.plant == plantHalf {
			_, _ = s.step(group.KeyUpdate{})
		}
		if after := s.fingerprint(); after != before {
			s.fail("I10", "%s: %T was declined (%v) and changed the replica: %s, was %s", s.name, in, err, after, before)
		}
		if len(fx.Save)+len(fx.Send)+len(fx.Emit)+len(fx.Fetch) > 0 || fx.Read != 0 {
			s.fail("I10", "%s: %T was declined (%v) and has effects", s.name, in, err)
		}
		return err
	}
	s.carry(fx)
	return nil
}

// carry does what a step asked for.
func (s *seat) carry(fx group.Effects) {
	if !fx.Durable && len(fx.Send) > 0 {
		s.fail("save before send", "%s sends what is not durable", s.name)
	}
	if err := s.save(fx.Save, fx.Durable); err != nil {
		s.unsaved(err)
		return
	}
	if s.hit(faultCrashAfterSave, 1, 12) {
		s.drop()
		return
	}
	s.carryRest(fx)
}

// carryRest is what comes after the save.
func (s *seat) carryRest(fx group.Effects) {
	s.outbox = append(s.outbox, fx.Send...)
	if fx.Read > s.mark {
		s.mark = fx.Read
		s.again = true
	}
	if len(fx.Resolve) > 0 {
		s.resolve = fx.Resolve
	}
	s.fetches = append(s.fetches, fx.Fetch...)
	for _, e := range fx.Emit {
		s.truth.told(s, e)
	}
	if fx.Back != nil {
		s.tell("%s: goes back to %d", s.name, *fx.Back)
		s.counters["gone back"]++
		s.rewound, s.reading = fx.Back, nil
	}
}

// save writes rows as one transaction.
func (s *seat) save(changes []group.Row, durable bool) error {
	if len(changes) == 0 {
		return nil
	}
	if s.hit(faultSaveFails, 1, 25) {
		err := errInjected
		if s.chance(1, 3) {
			err = persistence.ErrBroken
		}
		s.store.FailNext(err)
	}
	var b persistence.Batch
	s.addRows(&b, s.plant.rows(changes))
	d := persistence.Lazy
	if durable {
		d = persistence.Durable
	}
	return s.vault.Apply(ctx, &b, s.plant.durability(d))
}

// unsaved: the replica is ahead of its store, so it goes; where the store is
// closed for writing, all of them go.
func (s *seat) unsaved(err error) {
	s.tell("%s: save failed: %v", s.name, err)
	if errors.Is(err, persistence.ErrBroken) {
		s.store.Reopen()
		s.host.down()
		return
	}
	s.drop()
}

// drop forgets the replica and what was under way, as a crash of its actor does.
func (s *seat) drop() {
	if s.replica == nil {
		return
	}
	s.replica = nil
	s.outbox, s.answers, s.fetches, s.resolve = nil, nil, nil, nil
	s.mark, s.reading, s.again = 0, nil, false
	s.tell("%s: down", s.name)
}

// wake loads the replica from its rows, where there are any.
func (s *seat) wake() bool {
	if s.replica != nil || !s.rows {
		return false
	}
	if s.meta() == nil { // a power cut took the join back, or a restored store has never known it
		s.rows = false
		return false
	}
	r, fx, err := group.Load(s.env(), s.shaky())
	if errors.Is(err, errInjected) {
		return false // it is tried again
	}
	if err != nil {
		s.fail("load", "%s: %v", s.name, err)
	}
	s.replica, s.live, s.fed = r, s.chance(2, 3), r.Cursor()
	if s.cut { // nobody here remembers what the log was: the replica compares
		s.cut, s.again = false, true
	}
	s.tell("%s: up at epoch %d, cursor %d", s.name, r.Epoch(), r.Cursor())
	s.counters["loads"]++
	s.truth.loaded(s)
	s.truth.sealed(s, fx)
	s.carry(fx)
	return true
}

// ready wakes the seat where need be, and tells it of a log that went back.
func (s *seat) ready() bool {
	if s.replica == nil && !s.wake() || s.replica == nil {
		return false
	}
	if s.cut {
		s.reconnected()
	}
	if s.rewound != nil {
		for s.replica != nil && s.answer() {
			// What the bus said before it went back comes first.
		}
		if s.replica == nil {
			return false
		}
		end := *s.rewound
		s.fed, s.reading, s.again = min(s.fed, end), nil, true
		s.rewind(end)
		if s.replica == nil {
			return false // it is told again
		}
		s.rewound = nil
		// What a replica does about a rewind must not be lost with the disk: the
		// log may have grown past the old cursor by then.
		s.must(s.store.Sync(ctx))
	}
	return s.replica != nil
}

// rewind tells the replica that the log went back.
func (s *seat) rewind(end uint64) {
	if end < s.replica.Cursor() {
		// What waits to be published is the replica's to offer again: one intent
		// must not be under way twice.
		s.outbox = slices.DeleteFunc(s.outbox, func(o group.Outbound) bool { return o.Topic != group.TopicWelcomes })
	}
	before := s.fingerprint()
	after, lost := s.bus.Lost(s.truth.commits)
	fx, err := s.step(group.Rewound{End: end, Lost: lost, LostAfter: uint64(after), Rows: s.shaky()})
	if errors.Is(err, errInjected) {
		if after := s.fingerprint(); after != before {
			s.fail("I10", "%s: a failed read changed the replica: %s, was %s", s.name, after, before)
		}
		s.drop()
		return
	}
	if err != nil {
		s.fail("no error", "%s: rewind to %d: %v", s.name, end, err)
	}
	s.carry(fx)
}

// sleep puts an idle replica away after saving what the store lacks.
func (s *seat) sleep() bool {
	if s.replica == nil || s.replica.Pending() || s.busy() {
		return false
	}
	if err := s.save(s.replica.Passivate(), false); err != nil {
		s.unsaved(err)
		return true
	}
	s.counters["passivated"]++
	s.drop()
	return true
}

func (s *seat) busy() bool {
	return len(s.outbox)+len(s.answers)+len(s.fetches)+len(s.resolve) > 0 || s.reading != nil
}

// deliver feeds envelopes in one go; their rows are one transaction.
func (s *seat) deliver(items []group.Delivered) {
	var all group.Effects
	for _, d := range s.plant.deliveries(s, items) {
		before := s.fingerprint()
		fx, err := s.step(d)
		if errors.Is(err, errInjected) {
			if after := s.fingerprint(); after != before {
				s.fail("I10", "%s: a failed read changed the replica: %s, was %s", s.name, after, before)
			}
			clear(s.pending)
			s.drop() // with what was not saved
			return
		}
		if err != nil {
			s.fail("no error", "%s: envelope %d: %v", s.name, d.ID, err)
		}
		all = merge(all, fx)
		for _, e := range fx.Emit {
			if c, ok := e.(group.MessageChanged); ok && c.Message.Status == group.StatusPublished {
				s.pending[c.Message.ID] = true
			}
		}
	}
	clear(s.pending)
	s.carry(all)
}

// merge puts the effects of a later step behind those of an earlier one.
func merge(a, b group.Effects) group.Effects {
	a.Save = append(a.Save, b.Save...)
	a.Durable = a.Durable || b.Durable
	a.Send = append(a.Send, b.Send...)
	a.Resolve = append(a.Resolve, b.Resolve...)
	a.Fetch = append(a.Fetch, b.Fetch...)
	a.Emit = append(a.Emit, b.Emit...)
	a.Read = max(a.Read, b.Read)
	if b.Back != nil {
		a.Back = b.Back
	}
	return a
}

// decode makes deliveries of envelopes, each told which one came before it.
func (s *seat) decode(after uint64, envelopes []bus.Envelope) []group.Delivered {
	items := make([]group.Delivered, len(envelopes))
	for i, e := range envelopes {
		items[i] = group.Delivered{ID: uint64(e.ID), After: after, Time: e.Time, Commit: e.Topic == s.truth.commits}
		if data, err := group.DecodeGroupMessage(e.Payload); err == nil {
			items[i].Data = data
			if s.shared != nil {
				items[i].Message, _ = s.realm.Parse(data)
			}
		}
		after = uint64(e.ID)
	}
	return items
}

// feed delivers what the live feed has next.
func (s *seat) feed() bool {
	if !s.live || s.fed > s.end() {
		return false
	}
	envelopes, err := s.readLog(s.fed, 1+s.rand.IntN(6))
	s.must(err)
	if len(envelopes) == 0 || s.replica == nil { // what others did meanwhile has broken the store
		return false
	}
	items := s.decode(s.fed, envelopes)
	s.fed = items[len(items)-1].ID
	if s.has(faultHoles) {
		s.hint(items)
		return true
	}
	switch {
	case s.hit(faultDropped, 1, 6):
		// The feed lost the first of them; the others know what came before.
		items = items[1:]
	case s.hit(faultReordered, 1, 6):
		s.rand.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
	case s.hit(faultRepeated, 1, 6):
		items = append(items, items[s.rand.IntN(len(items))])
	}
	s.deliver(items)
	return true
}

// hint takes what comes of a feed with holes for news, and nothing more: the
// log is read from the replica's own cursor.
func (s *seat) hint(items []group.Delivered) {
	after := items[0].After
	if s.hit(faultHoles, 1, 3) {
		n := s.rand.IntN(len(items))
		items = slices.Delete(items, n, n+1)
	}
	s.again = s.again || len(items) > 0
	if s.plant == plantHole && len(items) > 0 {
		for i := range items {
			items[i].After, after = after, items[i].ID
		}
		s.deliver(items)
	}
}

// read begins a read of the log, or takes its next page.
func (s *seat) read() bool {
	if s.reading == nil {
		if !s.again && s.mark == 0 && s.chance(1, 2) {
			return false
		}
		// What timed out has arrived by now, or never will.
		s.flush()
		s.again = false
		s.reading = &reading{mark: s.mark, end: s.end(), after: s.replica.ReadFrom()}
	}
	r, limit := s.reading, 1+s.rand.IntN(8)
	envelopes, err := s.readLog(r.after, limit)
	if s.replica == nil {
		return true // what others did meanwhile has broken the store
	}
	if errors.Is(err, bus.ErrLogRolledBack) {
		// The world tells every seat before it does anything; so this is a
		// welcome from a log that is no more.
		s.reading, s.again = nil, s.replica.Active()
		s.rewind(s.end())
		return true
	}
	s.must(err)
	if len(envelopes) > 0 {
		items := s.decode(r.after, envelopes)
		r.after = items[len(items)-1].ID
		s.deliver(items)
	}
	if s.replica == nil || len(envelopes) == limit {
		return true
	}
	s.reading = nil
	s.fed = max(s.fed, s.replica.Cursor())
	s.input(group.CaughtUp{End: r.end, Mark: r.mark, Now: s.now})
	if s.mark > r.mark {
		s.again = true
	}
	return true
}

// flush lets what timed out arrive after all.
func (s *seat) flush() {
	for _, o := range s.ghosts {
		ack, err := s.publish(o.Topic, o.ID, o.Payload)
		s.must(err)
		s.tell("%s: late envelope %d", s.name, ack.ID)
	}
	s.ghosts = nil
}

// answer brings the bus's next answer.
func (s *seat) answer() bool {
	if len(s.answers) == 0 {
		return false
	}
	in := s.answers[0]
	s.answers = s.answers[1:]
	s.input(in)
	if _, published := in.(group.Published); published && !s.live {
		s.again = true
	}
	return true
}

// send publishes the first of the outbox.
func (s *seat) send() bool {
	if len(s.outbox) == 0 {
		return false
	}
	o := s.outbox[0]
	s.outbox = s.outbox[1:]
	if o.Topic == group.TopicWelcomes {
		s.sendWelcome(o)
		return true
	}
	s.truth.leaves(s, o)
	answer := func(in group.Input) {
		s.answers = append(s.answers, in)
		s.tell("%s: intent %d: %T", s.name, o.Intent, in)
	}
	switch {
	case s.hit(faultRefused, 1, 8):
		answer(group.Refused{Intent: o.Intent, Try: o.Try, Reason: "budget", Final: s.chance(1, 5)})
		return true
	case s.hit(faultLost, 1, 8):
		answer(group.Unknown{Intent: o.Intent, Try: o.Try})
		return true
	case s.hit(faultStray, 1, 8):
		s.strayed(o)
		answer(group.Unknown{Intent: o.Intent, Try: o.Try})
		return true
	case s.hit(faultLate, 1, 8):
		s.ghosts = append(s.ghosts, o)
		answer(group.Unknown{Intent: o.Intent, Try: o.Try})
		return true
	}
	var opts []bus.PublishOption
	if o.ExpectLast {
		opts = append(opts, bus.ExpectLast(bus.ID(o.Last)))
	}
	if s.squat > 0 && o.ExpectLast {
		s.world.squat--
		s.mustPublish(o.Topic, fmt.Appendf(nil, "in the way %d", s.squat))
	}
	ack, err := s.publish(o.Topic, o.ID, o.Payload, opts...)
	if errors.Is(err, bus.ErrConflict) {
		s.counters["conflicts"]++
		answer(group.Conflict{Intent: o.Intent, Try: o.Try})
		return true
	}
	s.must(err)
	s.tell("%s: envelope %d", s.name, ack.ID)
	if o.ExpectLast && s.has(faultNoCompareAndSet) {
		s.counters[string(faultNoCompareAndSet)]++
	}
	if s.hit(faultTwice, 1, 8) {
		s.wait(time.Minute) // beyond the bus's window
		_, err := s.publish(o.Topic, o.ID, o.Payload)
		s.must(err)
	}
	if s.plant == plantLiar && s.chance(1, 4) {
		answer(group.Refused{Intent: o.Intent, Try: o.Try, Reason: "a lie", Final: true})
		return true
	}
	if s.hit(faultLostAnswer, 1, 8) {
		answer(group.Unknown{Intent: o.Intent, Try: o.Try})
		return true
	}
	in := group.Published{Intent: o.Intent, Try: o.Try, ID: uint64(ack.ID), Duplicate: ack.Duplicate}
	if s.has(faultNoIDs) {
		s.counters[string(faultNoIDs)]++
		in.ID = 0
	}
	answer(in)
	return true
}

// sendWelcome publishes one welcome; those of an intent stand together.
func (s *seat) sendWelcome(o group.Outbound) {
	_, err := s.publish(o.Topic, o.ID, o.Payload)
	s.must(err)
	s.counters["welcomes"]++
	if len(s.outbox) == 0 || s.outbox[0].Topic != group.TopicWelcomes || s.outbox[0].Intent != o.Intent {
		s.answers = append(s.answers, group.WelcomesSent{Intent: o.Intent})
	}
}

// lookUps answers what was asked of the identity log and of key packages.
func (s *seat) lookUps() bool {
	switch {
	case len(s.resolve) > 0:
		for _, need := range s.resolve {
			s.lookUp(need.Inbox)
		}
		s.resolve = nil
		s.input(group.Resolved{})
	case len(s.fetches) > 0:
		f := s.fetches[0]
		s.fetches = s.fetches[1:]
		if s.hit(faultRefused, 1, 10) {
			s.input(group.Refused{Intent: f.Intent, Reason: "busy"})
			return true
		}
		in := group.Fetched{Intent: f.Intent, Now: s.now}
		for _, inbox := range f.Inboxes {
			s.lookUp(inbox)
			in.Inboxes = append(in.Inboxes, s.fetch(inbox))
		}
		s.input(in)
	default:
		return false
	}
	return true
}

// fetch is what the network says about an inbox now.
func (w *world) fetch(inbox string) group.FetchedInbox {
	f := group.FetchedInbox{Inbox: inbox}
	p := w.byID[inbox]
	if p == nil {
		return f
	}
	f.Sequence = p.newest()
	for _, h := range w.homes {
		if h.person == p && !h.hidden {
			f.KeyPackages = append(f.KeyPackages, h.secrets[len(h.secrets)-1].KeyPackage.MLS.Bytes())
		}
	}
	return f
}

// fingerprint is what can be seen of a replica.
func (s *seat) fingerprint() string {
	r := s.replica
	drafts := ""
	for _, m := range r.Drafts() {
		drafts += fmt.Sprintf(" %x:%v:%d", m.ID[:4], m.Status, m.Attempts)
	}
	return fmt.Sprintf("epoch %d %.8x, cursor %d, intents %v, drafts%s, stalled %q, active %v, tree %.8x",
		r.Epoch(), r.EpochAuthenticator(), r.Cursor(), r.Outstanding(), drafts, r.Stalled(), r.Active(), r.Group().Context().TreeHash)
}
