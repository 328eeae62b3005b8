package group

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/conclave-chat/conclave/mls"
)

// pastEpochs is how many epochs behind a message may be; mls keeps the keys of
// as many.
const pastEpochs = 3

// delivered reads one envelope of the log.
func (s *step) delivered(d Delivered) error {
	switch {
	case s.survey.from > 0:
		s.lookAt(d)
		return nil
	case !s.may().reads || s.check.failed:
		return nil // not ours to read, not yet, or not before the log was gone back in
	case !s.entrance(d) || !s.compare(d) || d.ID <= s.cursor:
		return nil // read before
	case s.waiting != nil:
		return nil // the log is read again from the cursor when the wait is over
	case d.After > s.cursor || s.comparing():
		s.read() // something was missed, or may be
		return nil
	}
	return s.receive(d)
}

// receive takes an envelope apart. Whatever its bytes are, it ends in one of:
// applied, rejected with a reason, or waiting for an input that it names.
func (s *step) receive(d Delivered) error {
	m := d.Message
	hash := hashOfDelivered(d)
	s.hash = hash
	if m == nil {
		var err error
		if m, err = s.env.Realm.Parse(d.Data); err != nil {
			s.reject(d, hash, fmt.Errorf("%w: %w", errUndecodable, err))
			return nil
		}
	}
	switch {
	case m.WireFormat() != mls.WirePrivateMessage:
		s.reject(d, hash, errNotPrivate)
		return nil
	case !bytes.Equal(m.GroupID(), s.id):
		s.reject(d, hash, errWrongGroup)
		return nil
	}
	if i := s.milestone(hash); i >= 0 {
		s.commitAgain(d, i)
		return nil
	}
	if m.Epoch() > s.logEpoch() {
		if d.Commit && s.hole > 0 && s.goesOn(hash, m) && s.seekHole() {
			return nil
		}
		s.beforeItsTime(d)
		return nil
	}
	if s.known[markOf(hash)] {
		s.messageAgain(d)
		return nil
	}
	if it := s.outstanding(hash); it != nil {
		if it.isSend() {
			return s.echoSend(d, m, hash, it)
		}
		return s.echoCommit(d, m.Epoch(), it)
	}
	if st := s.strayOf(hash); st != nil {
		return s.echoSend(d, m, hash, s.sender(st.message))
	}
	next, content, err := s.group.Open(m)
	if err != nil {
		return s.unopened(d, m, err)
	}
	switch c := content.(type) {
	case *mls.Application:
		return s.application(d, hash, next, c)
	case *mls.StagedCommit:
		return s.foreignCommit(d, hash, c)
	}
	s.reject(d, hash, errByReference)
	return nil
}

// unopened: mls refused an envelope.
func (s *step) unopened(d Delivered, m *mls.Message, err error) error {
	var own *mls.OwnMessageError
	var epoch *mls.EpochError
	var path *mls.PathError
	switch {
	case errors.As(err, &own) && own.Verified:
		return s.forgotten(d, own)
	case errors.As(err, &path):
		// Valid as far as anybody can tell without the path's secrets. It is judged
		// as by everybody: what breaks a rule leads nobody on.
		return s.foreignCommit(d, s.hash, path.Commit)
	case own != nil:
		err = errOwnMessage // a copy of what was settled long ago, or a bent one
	case errors.As(err, &epoch) && epoch.Got > epoch.Want:
		err = errFutureEpoch
		defer s.outrunBy(epoch.Got)
	case errors.As(err, &epoch) && m.ContentType() == mls.ContentCommit:
		err = errStaleCommit
		s.rivalled(d, m)
	case errors.Is(err, mls.ErrEpochTooOld):
		err = errTooOld
	default:
		err = fmt.Errorf("%w: %w", ErrRejected, beyondProfile(err))
	}
	switch {
	case m.ContentType() != mls.ContentCommit || own != nil:
	case epoch != nil:
		s.recordFailed(d, CommitWrongEpoch)
	default:
		s.recordFailed(d, CommitUndecryptable)
	}
	s.reject(d, s.hash, err)
	return nil
}

// forgotten: sent by us in a life that this store does not remember. A commit is
// judged as everybody judges it. One that is valid is the epoch's, which the others
// are in, and its keys are not here.
func (s *step) forgotten(d Delivered, own *mls.OwnMessageError) error {
	if own.Commit == nil {
		s.reject(d, s.hash, errOwnMessage)
	} else if err := s.foreignCommit(d, s.hash, own.Commit); err != nil || s.cursor < d.ID {
		return err // it is read again
	}
	if own.ContentType == mls.ContentApplication {
		s.hear(own.Epoch, own.Generation)
	}
	// Its generation is used; never use it again.
	if next, err := s.group.SkipTo(own.Epoch, own.ContentType, own.Generation); err == nil && next != s.group {
		s.saveMLS(next.Rows(s.group))
		s.group = next
	}
	return nil
}

// application stores a message that was opened. The key it used is gone from
// the next state, whether the message is worth anything or not.
func (s *step) application(d Delivered, hash [32]byte, next *mls.Group, c *mls.Application) error {
	s.group = next
	s.opened++
	used := usedKey{c.Epoch, c.Sender, c.Generation}
	// A member who was removed may still hold keys of past epochs. By the
	// log, which all read alike, it sent this too late.
	if s.wasRemoved(c.Leaf.SignatureKey, c.Epoch) {
		s.use(d, used)
		s.reject(d, hash, errSenderRemoved)
		return nil
	}
	if s.isImpostor(c.Leaf.SignatureKey) {
		s.use(d, used)
		s.reject(d, hash, errWrongInbox)
		return nil
	}
	inbox, err := inboxOf(c.Leaf.Credential)
	if err != nil {
		s.use(d, used)
		s.reject(d, hash, fmt.Errorf("%w: %w", ErrRejected, err))
		return nil
	}
	key, content, err := decodePlaintext(c.Data)
	if err != nil {
		s.use(d, used)
		s.reject(d, hash, fmt.Errorf("%w: %w", ErrRejected, err))
		return nil
	}
	if c.Epoch == s.Epoch() {
		s.heardCompany()
	}
	id := NewMessageID(s.id, key, content)
	if known, err := s.stored(id); err != nil {
		return err
	} else if known {
		s.use(d, used)
		s.advance(d) // a later copy: the first one is the message
		return nil
	}
	if isLeaveRequest(content) {
		s.leaves(inbox)
	}
	s.store(d, used, Message{
		ID:           id,
		Time:         d.Time,
		Kind:         ApplicationMessage,
		Sender:       inbox,
		Installation: c.Leaf.SignatureKey,
		Key:          key,
		Content:      content,
	})
	return nil
}

// store writes a message that the log holds: a small row of this member's and
// a body that all co-hosted members share. The cursor needs no row of its own,
// since loading takes it from the newest message.
func (s *step) store(d Delivered, used usedKey, m Message) {
	m.Status = StatusPublished
	m.Position = positionOf(d.ID, m.ID)
	key := m.Position.key()
	secret := s.storageSecret(storageEpoch(s.era, used.epoch))
	s.put(TableMessage, key, s.encodeIndex(m, used, secret == nil))
	if secret != nil {
		s.fx.Save = append(s.fx.Save, Row{Table: TableText, Key: m.Position.textKey(), Value: encodeBody(m), Secret: secret})
	}
	s.cursor = d.ID
	s.chain.add(link{d.ID, markOf(s.hash), !d.Commit}, d.Time)
	if d.Commit {
		s.lastCommit, s.dirt = d.ID, true
	}
	s.emit(MessageChanged{m})
}

// advance reads past an envelope.
func (s *step) advance(d Delivered) {
	s.cursor, s.dirt = d.ID, true
	s.chain.add(link{d.ID, markOf(s.hash), !d.Commit}, d.Time)
	if d.Commit {
		s.lastCommit = d.ID
	}
}

// rejectedKept is how many rejected envelopes are remembered, for inspection.
const rejectedKept = 64

// reject reads past an envelope and remembers why.
func (s *step) reject(d Delivered, hash [32]byte, reason error) {
	reason = briefly(reason)
	w := newRow(rejectedFormat, 128)
	w.uint(d.ID)
	w.time(d.Time)
	w.raw(hash[:])
	w.string(reason.Error())
	s.put(TableRejected, keyOf(s.rejected%rejectedKept), w.b)
	s.rejected++
	s.advance(d)
	s.emit(Rejected{ID: d.ID, Reason: reason})
}

// wait parks a delivery that cannot be judged yet. The cursor stays before it.
func (s *step) wait(d Delivered, need []IdentityAt) {
	s.waiting = &d
	s.fx.Resolve = need
	s.met(needsInput, "envelope %d waits for inbox %s at %d", d.ID, need[0].Inbox, need[0].Sequence)
}

// resolved: what the waiting delivery asked for was looked up.
func (s *step) resolved() error {
	if s.waiting == nil {
		return nil
	}
	d := *s.waiting
	s.waiting, s.lookedUp = nil, true
	s.met(inputCame, "")
	if err := s.receive(d); err != nil {
		return err
	}
	s.lookedUp = false
	s.read() // what came meanwhile was not taken
	return nil
}
