package group

import (
	"slices"

	"github.com/conclave-chat/conclave/mls"
)

// A message may be sealed more than once: a publish had no answer, or its epoch ended.
// Every sealing may reach the log, at any time. The first one in the log that
// receivers can open is the message, for its sender as well; receivers know the others
// by the message's id and read past them. So the replica remembers, by its hash, each
// sealing that its intent has given up. It forgets the hash when no receiver could open
// the envelope any more.

// A stray is an envelope of an own message that no intent sends any more.
type stray struct {
	hash       [32]byte
	message    MessageID
	epoch      uint64
	generation uint32
}

// unopenable reports whether nobody opens an own message of an epoch and generation
// that the log shows now. It is the rule by which receivers keep keys, applied to
// what they have read, which is the same log.
func (s *step) unopenable(epoch uint64, generation uint32) bool {
	return epoch+pastEpochs < s.group.Epoch() || s.overtook(epoch, generation, outOfOrder)
}

// stray notes the bytes that an intent gives up as a stray.
func (s *step) stray(it *intent) {
	if it.sealed == nil || !it.isSend() || s.group == nil {
		return // or of a life before: nobody hears who was removed since
	}
	data, err := DecodeGroupMessage(it.sealed.payload)
	if err != nil {
		return // cannot be: it was made here
	}
	m, err := s.env.Realm.Parse(data)
	if err != nil {
		return
	}
	st := stray{it.sealed.hash, it.message, it.sealed.epoch, s.generationOf(m)}
	if s.unopenable(st.epoch, st.generation) || s.strayOf(st.hash) != nil {
		return
	}
	s.strays = append(slices.Clone(s.strays), st)
	w := newRow(strayFormat, 48)
	w.raw(st.message[:])
	w.uint(st.epoch)
	w.uint(uint64(st.generation))
	s.put(TableStray, st.hash[:], w.b)
}

// strayOf returns the stray with a hash; nil where there is none.
func (r *Replica) strayOf(hash [32]byte) *stray {
	for i := range r.strays {
		if r.strays[i].hash == hash {
			return &r.strays[i]
		}
	}
	return nil
}

// forgetStrays drops the strays of a kind.
func (s *step) forgetStrays(kind func(stray) bool) {
	if !slices.ContainsFunc(s.strays, kind) {
		return
	}
	s.strays = slices.DeleteFunc(slices.Clone(s.strays), func(st stray) bool {
		if kind(st) {
			s.delete(TableStray, st.hash[:])
			return true
		}
		return false
	})
}

// forgetUnopenable drops the strays that nobody could open any more.
func (s *step) forgetUnopenable() {
	s.forgetStrays(func(st stray) bool { return s.unopenable(st.epoch, st.generation) })
}

// loadStrays reads the strays.
func (r *Replica) loadStrays(rows RowReader) (err error) {
	scan := rows.Scan(TableStray, nil, func(key, value []byte) bool {
		d := rowReader(value, strayFormat)
		var st stray
		if len(key) != len(st.hash) {
			d.fail("stray key")
		}
		copy(st.hash[:], key)
		d.fixed(st.message[:])
		st.epoch, st.generation = d.uint(), uint32(d.uint())
		if err = d.end(); err == nil {
			r.strays = append(r.strays, st)
		}
		return err == nil
	})
	if scan != nil {
		return scan
	}
	return err
}

// An echo is the latest generation of this member's messages that the log has
// delivered, in one epoch. Whatever is far behind it, nobody opens any more.
type echo struct {
	epoch      uint64
	generation uint32
}

// outOfOrder is how many of a sender's later messages may come before one that
// is still opened.
const outOfOrder = 5

// hear notes the generation of an own message that the log delivers.
func (s *step) hear(epoch uint64, generation uint32) {
	if s.overtook(epoch, generation, 0) {
		return
	}
	s.heard = slices.DeleteFunc(slices.Clone(s.heard), func(e echo) bool {
		return e.epoch == epoch || e.epoch+pastEpochs < s.group.Epoch()
	})
	s.heard, s.dirt = append(s.heard, echo{epoch, generation}), true
	s.forgetUnopenable()
}

// overtook reports whether the log has delivered an own message of that epoch that is
// more than by generations later.
func (s *step) overtook(epoch uint64, generation, by uint32) bool {
	return slices.ContainsFunc(s.heard, func(e echo) bool {
		return e.epoch == epoch && uint64(e.generation) > uint64(generation)+uint64(by)
	})
}

// generationOf is what mls says of an own message: 0 where its epoch is not live.
func (s *step) generationOf(m *mls.Message) uint32 {
	if _, _, err := s.group.Open(m); err != nil {
		if own, is := err.(*mls.OwnMessageError); is {
			return own.Generation
		}
	}
	return 0
}

// echoSend: the log delivers an own message. it is the intent that sends it; nil
// where the message was settled by another copy.
func (s *step) echoSend(d Delivered, m *mls.Message, hash [32]byte, it *intent) error {
	epoch, generation := m.Epoch(), s.generationOf(m)
	sends := it != nil && it.sealed != nil && it.sealed.hash == hash // now, rather than before
	if s.wasRemoved(s.env.installation(), epoch) {
		s.reject(d, hash, errSenderRemoved) // as everybody does
		return nil
	}
	if s.unopenable(epoch, generation) {
		if !sends || it.state == stateFailed {
			s.reject(d, hash, errTooOld)
			return nil
		}
		// It came so late that nobody opens it: once more, same message.
		s.turns++
		s.unseal(it)
		s.advance(d)
		return nil
	}
	s.hear(epoch, generation)
	s.forgetStrays(func(st stray) bool { return st.hash == hash })
	if it == nil {
		s.advance(d)
		return nil
	}
	known, err := s.stored(it.message)
	if err != nil {
		return err
	}
	if known && it.again && !sends {
		s.advance(d) // from before the copy that is owed
		return nil
	}
	if !sends {
		s.stray(it)
	}
	s.drop(it)
	command := it.command.(Send)
	if known {
		// Sent once more because the log had lost it, or for who could not read it;
		// or another member sent the same content under the same key, which is the
		// same message.
		s.advance(d)
	} else {
		if isLeaveRequest(command.Content) {
			s.leaves(s.env.Inbox)
		}
		s.put(TableSent, it.message[:], keyOf(d.ID))
		s.store(d, usedKey{epoch, s.group.OwnLeaf(), generation}, Message{
			ID:           it.message,
			Time:         d.Time,
			Kind:         ApplicationMessage,
			Sender:       s.env.Inbox,
			Installation: s.env.installation(),
			Key:          command.Key,
			Content:      command.Content,
		})
		s.owe(it, epoch)
	}
	if !it.again {
		s.emit(IntentDone{Intent: it.id})
	}
	return nil
}

// owe queues a second copy of an own message that the log delivered after its epoch
// had ended, where a member may be unable to read it. The copy is sealed in the current
// epoch, and once only. For everybody who read the first copy, the first is the message.
//
// Two kinds of members cannot read the first copy. Members that were added after it was
// sealed do not have its epoch's keys. Clients on OpenMLS (libxmtp up to 1.11 at least)
// look the sender of a past epoch up by its position among the leaves that are not
// blank: with a blank leaf to the left of the sender's they find another member's key
// and drop the message.
func (s *step) owe(it *intent, epoch uint64) {
	if it.again || epoch == s.group.Epoch() || !s.group.Active() || !s.missed(epoch) {
		return
	}
	command := it.command.(Send)
	submitted := s.fx.Intent
	owed := s.begin(Send{Key: command.Key, Content: command.Content, Now: command.Now}) // whoever is to be pushed was
	s.fx.Intent = submitted                                                             // it is no command
	s.saveIntent(s.change(owed, func(owed *intent) { owed.message, owed.again = it.message, true }))
}

// missed reports whether a member may have been unable to read an own message of a
// past epoch.
func (s *step) missed(epoch uint64) bool {
	var left mls.LeafIndex // leaves that are not blank, to the left of the own one
	had := map[string]bool{}
	for i, leaf := range s.group.MembersAt(epoch) {
		if i < s.group.OwnLeaf() {
			left++
		}
		had[string(leaf.SignatureKey)] = true
	}
	if left < s.group.OwnLeaf() {
		return true
	}
	for _, leaf := range s.group.Members() {
		if !had[string(leaf.SignatureKey)] || s.wasRemoved(leaf.SignatureKey, epoch) {
			return true // it came since, for the first time or again
		}
	}
	return false
}
