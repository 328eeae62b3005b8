package group

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/conclave-chat/conclave/mls"
)

// An intent is an accepted command until its outcome is known. Its states:
//
//	 command
//	  │
//	  ▼        plan       ┌──────────┐ own envelope delivered
//	Planned ────────────▶ │  Sealed  │ ─────────────▶ Welcoming ──▶ done
//	 │  ▲  ▲              └──────────┘      │          (a commit that
//	 │  │  │ epoch moved,   │      ▲        └─▶ done     adds somebody)
//	 │  │  │ race lost      │      │
//	 │  │  └────────────────┤      │ not in the log: the same bytes again
//	 │  │ Fetched           ▼      │
//	 ▼  │                 Unsettled ── not in the log, attempts spent ─▶ Failed
//	Fetching               (no answer, refused: the log is read first)
//
// A Planned intent has no bytes. The bytes of a Sealed one are durable here and may be
// in the log. An attempt is a publish that was refused or had no answer, or a payload
// that could not be built; the third attempt fails the intent. Waiting, losing a race
// and a change of epoch are not attempts. A failed message stays, so that it can be
// sent with Retry; other failed intents are deleted.
type intent struct {
	id       uint64
	command  Input
	state    intentState
	attempts int
	reason   string // of the last attempt that failed

	// Of Sends.
	message MessageID
	again   bool // a second copy, of what its sender knows as Published: the log lost the first, or see owe
	was     mark // the envelope that the log lost, and may yet have

	// Sealed, Unsettled and Welcoming.
	sealed    *sealed
	conflicts int    // refusals by compare-and-set in this epoch
	acked     uint64 // the ID that the bus gave it, or somewhere; 0: it has not answered
	mark      uint64 // Unsettled: the read that settles it
	try       uint64 // of its newest Outbound

	// Of membership changes.
	unreachable []string // inboxes left out
	remaining   []string // inboxes for the next commit, where one was too small for all
	got         *Fetched // what the plan is made from
}

// somewhere stands for the ID of what the bus has and gave no ID: beyond any end that
// a log which went back may have.
const somewhere = math.MaxUint64

// An intentState's numbers are stored.
type intentState uint8

const (
	statePlanned   intentState = 1
	stateFetching  intentState = 2
	stateSealed    intentState = 3
	stateUnsettled intentState = 4
	stateWelcoming intentState = 5
	stateFailed    intentState = 6
)

// maxAttempts is how often an intent is tried.
const maxAttempts = 3

// maxConflicts is how often a commit insists on following the newest entry of
// its topic; then junk there must not keep it out any longer.
const maxConflicts = 2

// sealed is what an intent publishes: exact bytes, durable before they leave.
type sealed struct {
	epoch   uint64
	hash    [32]byte // of the MLSMessage, by which the own envelope is known in the log
	payload []byte   // for the wire

	// Of messages: their place among all that were sealed since loading. One
	// from before has 0.
	turn uint64

	// Of commits: the private part, kept decoded as well while in memory.
	staged  []byte
	data    []byte // the MLSMessage
	commit  *mls.StagedCommit
	welcome []byte
	joiners []joiner
}

// isSend reports whether the intent is a message rather than a commit.
func (it *intent) isSend() bool { _, ok := it.command.(Send); return ok }

// isReoffer reports whether the intent repeats a commit that the log lost.
func (it *intent) isReoffer() bool { _, ok := it.command.(reoffer); return ok }

// isDueKeyUpdate reports whether the intent is a key update that falls due on its own.
func (it *intent) isDueKeyUpdate() bool { _, ok := it.command.(dueKeyUpdate); return ok }

// isKeyUpdate reports whether the intent is a key update that may yet come true.
func (it *intent) isKeyUpdate() bool {
	_, ok := it.command.(KeyUpdate)
	return ok && it.state != stateFailed
}

// planned reports whether the intent has no bytes yet.
func (it *intent) planned() bool { return it.state == statePlanned }

// isCheck reports whether the intent only looks whether there is something to do.
func (it *intent) isCheck() bool { _, ok := it.command.(CheckMembers); return ok }

// inFlight reports whether the intent's bytes may be in the log unread.
func (it *intent) inFlight() bool { return it.state == stateSealed || it.state == stateUnsettled }

// begin queues a command and returns its intent.
func (s *step) begin(command Input) *intent {
	s.next++
	it := &intent{id: s.next, command: command, state: statePlanned}
	s.intents = append(slices.Clone(s.intents), it)
	s.fx.Intent = it.id
	return it
}

// change replaces an intent by a changed copy. Intents are shared with the
// replica that this step may yet fail to replace.
func (s *step) change(old *intent, edit func(*intent)) *intent {
	it := *old
	edit(&it)
	s.intents = slices.Clone(s.intents)
	s.intents[slices.Index(s.intents, old)] = &it
	return &it
}

func (s *step) find(id uint64) *intent {
	for _, it := range s.intents {
		if it.id == id {
			return it
		}
	}
	return nil
}

// outstanding returns the intent whose envelope has that hash. One that was
// given up is among them: should its envelope turn up after all, it counts.
func (s *step) outstanding(hash [32]byte) *intent {
	for _, it := range s.intents {
		if it.sealed != nil && it.state != stateWelcoming && it.sealed.hash == hash {
			return it
		}
	}
	return nil
}

// done removes an intent whose outcome is known, and its rows.
func (s *step) done(it *intent, err error) {
	s.drop(it)
	s.emit(IntentDone{Intent: it.id, Err: err, Unreachable: it.unreachable})
}

func (s *step) drop(it *intent) {
	s.intents = slices.DeleteFunc(slices.Clone(s.intents), func(o *intent) bool { return o.id == it.id })
	key := keyOf(it.id)
	if it.isSend() {
		s.delete(TableDraft, key)
	} else {
		s.delete(TableIntent, key)
	}
	if it.sealed != nil {
		s.delete(TableSealed, key)
	}
}

// unseal takes an intent back to Planned: its bytes are for an epoch that is
// over, or did not get anywhere.
func (s *step) unseal(it *intent) *intent {
	s.stray(it)
	s.delete(TableSealed, keyOf(it.id))
	it = s.change(it, func(it *intent) {
		it.state, it.sealed, it.got = statePlanned, nil, nil
		it.conflicts, it.acked, it.mark = 0, 0, 0
	})
	s.saveIntent(it)
	return it
}

// attempt counts a failed attempt.
func (s *step) attempt(it *intent, reason string) *intent {
	reason = brief(reason)
	it = s.change(it, func(it *intent) {
		it.attempts++
		it.reason = reason
	})
	s.saveIntent(it)
	return it
}

// fail gives an intent up. Messages stay as Failed, for Retry; commits that were
// sealed stay out of sight until their epoch is over.
func (s *step) fail(it *intent, err error) {
	err = briefly(err)
	if it.again || !it.isSend() && it.sealed == nil {
		s.stray(it)
		s.drop(it)
	} else {
		it = s.change(it, func(it *intent) { it.state, it.reason = stateFailed, err.Error() })
		s.saveIntent(it)
	}
	if it.again || it.isReoffer() {
		return // nobody waits for these
	}
	if it.isSend() {
		s.emit(MessageChanged{s.draft(it)})
	}
	s.emit(IntentDone{Intent: it.id, Err: err, Unreachable: it.unreachable})
	if _, ok := it.command.(KeyUpdate); ok && s.owesKeyUpdate {
		s.failWithoutKeyUpdate(err)
	}
}

// failWithoutKeyUpdate fails the intents that wait for a key update that failed: they
// must not be sent before it. The next command tries a key update again.
func (s *step) failWithoutKeyUpdate(err error) {
	if slices.ContainsFunc(s.intents, (*intent).isKeyUpdate) {
		return
	}
	s.failEach((*intent).planned, err)
}

// failEach fails the intents of a kind. Failing one may remove others from the list.
func (s *step) failEach(kind func(*intent) bool, err error) {
	for _, it := range s.intents {
		if it = s.find(it.id); it != nil && kind(it) {
			s.fail(it, err)
		}
	}
}

// answered returns the intent that an answer of the bus is about. It returns nil for
// an intent that is no longer being published, and for the answer to an earlier try.
func (s *step) answered(id, try uint64) *intent {
	it := s.find(id)
	if it == nil || it.state != stateSealed || try != 0 && try != it.try {
		return nil
	}
	return it
}

// published: the bus has stored it. The outcome is known when the log delivers it.
func (s *step) published(in Published) error {
	it := s.answered(in.Intent, in.Try)
	if it == nil {
		return nil
	}
	if it = s.change(it, func(it *intent) { it.acked = cmp.Or(in.ID, somewhere) }); in.ID != 0 && in.ID <= s.cursor {
		s.attempt(it, "read past without effect")
		s.unsettle(it.id)
	}
	return nil
}

// unsettle marks an intent of which it is unknown whether the log has it. The read of
// the log that it asks for settles that.
func (s *step) unsettle(id uint64) {
	s.change(s.find(id), func(it *intent) {
		it.state = stateUnsettled
		it.mark = s.read()
	})
}

// read asks for a read of the log that begins after this step.
func (s *step) read() uint64 {
	if s.fx.Read == 0 {
		s.marks++
		s.fx.Read = s.marks
		s.reading = s.marks
	}
	return s.fx.Read
}

// refused: an attempt that certainly got nowhere.
func (s *step) refused(in Refused) error {
	it := s.answered(in.Intent, in.Try)
	if it == nil {
		// What it was fetched for; welcomes are sent until they are sent.
		if it = s.find(in.Intent); it == nil || it.state != stateFetching {
			return nil
		}
	}
	it = s.attempt(it, in.Reason)
	if in.Final || it.attempts >= maxAttempts {
		s.fail(it, fmt.Errorf("%w: %s", ErrRefused, in.Reason))
		return nil
	}
	if it.state == stateFetching {
		s.change(it, func(it *intent) { it.state = statePlanned })
		return nil
	}
	s.unsettle(it.id)
	return nil
}

// unknown: an attempt that may have got there. The log is read before anything
// else is done about it.
func (s *step) unknown(in Unknown) error {
	it := s.answered(in.Intent, in.Try)
	if it == nil {
		return nil
	}
	s.attempt(it, "no answer")
	s.unsettle(it.id)
	return nil
}

// conflict: somebody else's entry is newer on the commits topic. Whether it is
// a commit, and whether ours got there all the same, the log says.
func (s *step) conflict(in Conflict) error {
	it := s.answered(in.Intent, in.Try)
	if it == nil {
		return nil
	}
	s.change(it, func(it *intent) { it.conflicts++ })
	s.unsettle(it.id)
	return nil
}

// caughtUpTo: the log was read. What was in flight before the read began and
// did not turn up is not there.
func (s *step) caughtUpTo(in CaughtUp) error {
	if s.survey.from > 0 {
		s.surveyed(in)
		return nil
	}
	if in.Mark < s.marks || s.waiting != nil || s.check.failed || s.may().reads && !s.compareRest(in) {
		return nil // an older read, or one that stopped at a delivery that waits, or of another log
	}
	s.caughtUp, s.reading = true, 0
	if !s.may().reads {
		return nil // what was in flight may be in what is not read
	}
	for _, it := range s.intents {
		switch {
		case it.isReoffer() && !s.isNext(it):
			// The log has it, or does not have what was before it.
		case it.state == stateUnsettled && it.mark <= in.Mark:
			s.resend(it)
		case it.state == stateSealed && it.acked != 0 && it.acked <= in.End:
			// Acknowledged, and yet not in the log: it lost its tail.
			s.resend(s.attempt(it, "acknowledged but not in the log"))
		}
	}
	return nil
}

// resend: the intent is not in the log.
func (s *step) resend(it *intent) {
	switch {
	case s.standing == Lost && !it.isSend() && !it.isReoffer() && it.sealed.epoch == s.group.Epoch():
		// It may land where the log leads here again, and is known then.
		s.change(it, func(it *intent) { it.state = stateUnsettled })
	case it.attempts >= maxAttempts && !it.isReoffer():
		err := ErrUnanswered
		if it.reason != "no answer" {
			err = ErrRefused
		}
		s.fail(it, fmt.Errorf("%w: %s", err, it.reason))
	case (it.sealed.epoch != s.group.Epoch() || !s.may().sends) && !it.isReoffer():
		s.unseal(it)
	case it.isSend() && it.sealed.turn != s.turns:
		// Later messages are on their way, and receivers open few out of
		// order: it needs a later key. So do those behind it, to stay there.
		s.turns++
		s.unseal(it)
	default:
		s.publish(s.change(it, func(it *intent) { it.state, it.acked = stateSealed, 0 }))
	}
}

// publish sends the exact bytes that are durable.
func (s *step) publish(it *intent) *intent {
	s.tries++
	it = s.change(it, func(it *intent) { it.try = s.tries })
	out := Outbound{Intent: it.id, Try: it.try, Topic: TopicMessages, ID: s.id, Payload: it.sealed.payload, Attempt: it.attempts}
	if !it.isSend() {
		out.Topic = TopicCommits
		out.ExpectLast, out.Last = it.conflicts < maxConflicts && !it.isReoffer(), s.lastCommit
	}
	s.fx.Send = append(s.fx.Send, out)
	s.fx.Durable = true
	return it
}
