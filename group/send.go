package group

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"
)

// send takes a message on: it is stored and shown at once, and sealed as soon
// as nothing is in its way.
func (s *step) send(in Send) error {
	if err := s.open(); err != nil {
		return err
	}
	if !utf8.ValidString(in.Key) {
		return fmt.Errorf("%w: idempotency key is not UTF-8", ErrInvalid)
	}
	if most := s.env.Limits.PayloadBytes - envelopeOverhead; len(in.Content)+len(in.Key) > most {
		return fmt.Errorf("%w: message of %d bytes, at most %d", ErrTooLarge, len(in.Content)+len(in.Key), most)
	}
	if in.Key == "" {
		var err error
		if in.Key, err = s.uniqueKey(in); err != nil {
			return err
		}
	}
	id := NewMessageID(s.id, in.Key, in.Content)
	s.fx.Message = id
	if it := s.message(id); it != nil {
		s.fx.Intent = it.id // the same message again
		return nil
	}
	if known, err := s.stored(id); err != nil || known {
		return err
	}
	s.enrol()
	if in.Check {
		s.lookAtMembers()
	}
	s.keyUpdateBefore(in.Now)
	it := s.change(s.begin(in), func(it *intent) { it.message = id })
	s.saveIntent(it)
	s.emit(MessageChanged{s.draft(it)})
	return nil
}

// uniqueKey is the time of sending, made later where the same content was sent
// in the same nanosecond.
func (s *step) uniqueKey(in Send) (string, error) {
	for at := nanos(in.Now); ; at++ {
		key := strconv.FormatInt(at, 10)
		id := NewMessageID(s.id, key, in.Content)
		if s.message(id) != nil {
			continue
		}
		if known, err := s.stored(id); err != nil || !known {
			return key, err
		}
	}
}

// message returns the intent of an own message that is not Published.
func (s *step) message(id MessageID) *intent {
	if it := s.sender(id); it != nil && !it.again {
		return it
	}
	return nil
}

// sender returns the intent that sends a message, for the first time or again. One
// of the first time comes first.
func (s *step) sender(id MessageID) (again *intent) {
	for _, it := range s.intents {
		switch {
		case !it.isSend() || it.message != id:
		case !it.again:
			return it
		default:
			again = it
		}
	}
	return again
}

// retry starts a failed message again, behind the commands accepted since.
func (s *step) retry(in Retry) error {
	if err := s.open(); err != nil {
		return err
	}
	old := s.message(in.Message)
	if old == nil || old.state != stateFailed {
		return fmt.Errorf("%w: %v", ErrNoMessage, in.Message)
	}
	command := old.command.(Send)
	command.Now = in.Now
	s.stray(old)
	s.drop(old)
	it := s.change(s.begin(command), func(it *intent) { it.message = in.Message })
	s.fx.Message = in.Message
	s.saveIntent(it)
	s.emit(MessageChanged{s.draft(it)})
	return nil
}

// draft shows an own message that is not Published.
func (s *step) draft(it *intent) Message {
	command := it.command.(Send)
	m := Message{
		ID:           it.message,
		Time:         command.Now,
		Kind:         ApplicationMessage,
		Status:       StatusUnpublished,
		Sender:       s.env.Inbox,
		Installation: s.env.installation(),
		Key:          command.Key,
		Content:      command.Content,
		Push:         command.Push,
		Attempts:     it.attempts,
	}
	if it.state == stateFailed {
		m.Status, m.Reason = StatusFailed, it.reason
	}
	return m
}

// pump lets intents go on in the order of the commands: a later command is
// not sent earlier. A commit lets nothing behind it go before its outcome is
// known, so there is one in flight; messages share a window.
func (s *step) pump() {
	if !s.group.Active() || !s.caughtUp || s.waiting != nil {
		return
	}
	if !s.may().sends {
		s.failRevoked()
		return
	}
	if s.owesKeyUpdate && slices.ContainsFunc(s.intents, (*intent).planned) && !s.intents[0].isKeyUpdate() {
		s.mend() // the one before failed, or was from before the store was put back
	}
	inFlight := 0
	for i := 0; i < len(s.intents); i++ {
		it := s.intents[i]
		if s.owesKeyUpdate && it.state == statePlanned && !it.isKeyUpdate() {
			return // nothing goes before the fresh key
		}
		for it != nil && it.state == statePlanned {
			if it.isSend() && inFlight >= s.env.Limits.InFlight {
				return
			}
			it = s.build(it)
		}
		switch {
		case !s.may().sends:
			s.failRevoked()
			return
		case it == nil:
			i-- // it is done, and gone from the list
		case it.state == stateFailed || it.state == stateWelcoming:
		case it.state == stateSealed && it.isSend():
			inFlight++
		default:
			return
		}
	}
}

// seal encrypts a message in the current epoch. The generation it uses, its
// exact bytes and its intent are one transaction, durable before it is sent.
func (s *step) seal(it *intent) (*intent, error) {
	command := it.command.(Send)
	next, data, err := s.group.Seal(s.env.Rand, nil, encodePlaintext(command.Key, command.Content))
	if err != nil {
		return it, err
	}
	hmac, err := s.env.HMACKey.mark(s.id, command.Now, data)
	if err != nil {
		return it, err
	}
	s.saveMLS(next.Rows(s.group))
	s.group = next
	s.opened++
	s.turns++
	return s.commitTo(it, &sealed{
		turn:    s.turns,
		epoch:   s.group.Epoch(),
		hash:    hashOf(data),
		payload: EncodeGroupMessage(data, hmac, command.Push),
	}), nil
}

// commitTo makes an intent's bytes durable and sends them.
func (s *step) commitTo(it *intent, b *sealed) *intent {
	it = s.change(it, func(it *intent) { it.state, it.sealed, it.acked = stateSealed, b, 0 })
	s.saveSealed(it)
	s.saveIntent(it)
	return s.publish(it)
}

// build makes a planned intent's payload. It returns the intent as it is then;
// nil where it is over. A payload that could not be built is an attempt.
func (s *step) build(it *intent) *intent {
	var next *intent
	var err error
	if it.isSend() {
		next, err = s.seal(it)
	} else {
		next, err = s.plan(it)
	}
	if err == nil {
		return next
	}
	it = s.attempt(next, err.Error())
	if it.attempts >= maxAttempts || hopeless(err) {
		s.fail(it, err)
		return s.find(it.id)
	}
	return it
}

// hopeless reports whether an error says no for good: trying again would give
// the same.
func hopeless(err error) bool {
	for _, target := range []error{ErrTooLarge, ErrForbidden, ErrInvalid, ErrNotMember, ErrNotReachable, ErrGroupFull, ErrInactive} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// failAll: nothing of ours can be sent any more. Whatever is in the log behind
// the removal is refused by everybody, so no read is needed to fail it.
func (s *step) failAll(err error) {
	s.failEach(func(it *intent) bool { return it.state != stateFailed && it.state != stateWelcoming }, err)
}
