package group

import (
	"errors"
	"fmt"
	"slices"

	"github.com/conclave-chat/conclave/mls"
)

// foreignCommit judges and applies a commit from the log.
func (s *step) foreignCommit(d Delivered, hash [32]byte, c *mls.StagedCommit) error {
	return s.applyCommit(d, hash, c, nil)
}

// echoCommit applies an own commit: the log delivered it, so it is its turn
// like anybody's. The intent holds the private part, since nobody decrypts its
// own message.
func (s *step) echoCommit(d Delivered, epoch uint64, it *intent) error {
	if epoch != s.group.Epoch() {
		s.recordFailed(d, CommitWrongEpoch)
		s.reject(d, it.sealed.hash, errStaleCommit)
		s.unseal(it)
		return nil
	}
	c := it.sealed.commit
	if c == nil {
		var err error
		if c, err = s.group.UnmarshalStaged(it.sealed.staged, it.sealed.data); err != nil {
			return fmt.Errorf("group: restore own commit: %w", err)
		}
	}
	return s.applyCommit(d, it.sealed.hash, c, it)
}

// applyCommit is the one way into an epoch, for own and foreign commits.
func (s *step) applyCommit(d Delivered, hash [32]byte, c *mls.StagedCommit, own *intent) error {
	if !s.may().applies {
		s.reject(d, hash, errLeftBehind)
		if own != nil && own.state != stateFailed {
			s.fail(own, errLeftBehind)
		}
		return nil
	}
	v := s.judge(c, hash, d.Time)
	if len(v.need) > 0 {
		s.wait(d, v.need)
		return nil
	}
	if v.err != nil {
		s.recordFailed(d, resultOf(v.err))
		s.reject(d, hash, v.err)
		if own != nil && own.state != stateFailed {
			s.fail(own, v.err)
		}
		return nil
	}
	if s.pauseBelow(v.after) {
		return nil // the cursor stays: a newer client goes on from here
	}
	next, err := s.group.Merge(c)
	if err != nil {
		s.recordFailed(d, CommitUndecryptable)
		s.reject(d, hash, fmt.Errorf("%w: %w", ErrRejected, err))
		if errors.Is(err, mls.ErrCannotDecryptPath) {
			s.leftBehindBy(d, c)
		}
		return nil
	}
	if v.transcript != nil {
		key := commitKey(d.Time)
		s.store(d, usedKey{epoch: s.group.Epoch()}, Message{
			ID:      NewMessageID(s.id, key, v.transcript),
			Time:    d.Time,
			Kind:    MembershipChange,
			Sender:  v.actor,
			Key:     key,
			Content: v.transcript,
		})
	}
	s.advance(d)
	s.reach(c.Epoch(), milestone{at: d.ID, hash: hash}, own)
	s.appliedAt = d.Time
	if own != nil {
		s.keysUpdated = d.Time
		if w, ok := own.command.(dueKeyUpdate); ok && w.at.After(d.Time) {
			s.keysUpdated = w.at // by a clock that is ahead: it would ask again at once
		}
	}
	missed := s.ahead.highest >= c.Epoch()
	if own == nil {
		s.heardCompany()
	}
	s.owesKeyUpdate = s.owesKeyUpdate && (own == nil || !s.caughtUp) // what was sealed before it was rolled back heals nothing
	s.left(v.after)
	s.noteRemoved(v.removed, c.Epoch())
	s.noteImpostors(v)
	before := s.group
	s.enter(next, v.after, c.Context().Extensions)
	s.recordApplied(d, before)
	s.resolveIntents(d, own)
	if missed && next.Active() {
		s.seekHole()
	}
	return nil
}

// leftBehindBy: the others go on by a valid commit whose secrets this member does not
// have. It sends nothing from then on, since nobody would be there to read it, and
// says what brings it back. Nobody without the secrets can tell a path that opens for
// all others from one that opens for nobody, or whose confirmation tag is wrong: the
// rules that need no secret were all kept, and what needs one is not its to judge.
func (s *step) leftBehindBy(d Delivered, c *mls.StagedCommit) {
	if c.Committer() == s.group.OwnLeaf() { // a copy of this store has its keys
		s.met(leftBehind, "own commit %d is not known to this store", d.ID)
		return
	}
	s.met(leftBehind, "commit %d holds no secret that this installation can open: %s", d.ID, s.wayBack())
}

// enter makes a new epoch the current one, and saves it. The MLS state of a
// removed member stays what it was before, so what the group has become is kept
// beside it.
func (s *step) enter(next *mls.Group, meta *Metadata, exts mls.Extensions) {
	s.saveMLS(next.Rows(s.saved))
	s.group, s.saved, s.meta, s.opened = next, next, meta, s.phase()
	s.savedRatchets()
	s.dirt = true
	s.forgetUnopenable()
	if !next.Active() {
		s.met(wasTakenOut, "")
		s.last = metadataOf(exts)
		s.emit(Deactivated{})
		return
	}
	s.ahead = ahead{}
	s.reinstate(meta)
	s.met(epochEntered, "") // whatever it was about, the group goes on and so do we
	s.addStorageKey()
	s.emit(EpochChanged{Epoch: next.Epoch()})
}

// resolveIntents gives the intents their due after an epoch began: the own commit is
// done or welcomes whom it added; every other commit that was made for the old
// epoch is planned anew.
func (s *step) resolveIntents(d Delivered, own *intent) {
	for _, it := range s.intents {
		switch {
		case it.isSend() || own != nil && it.id == own.id:
		case it.state == stateFailed:
			s.drop(it)
		case own != nil && it.isDueKeyUpdate():
			s.done(it, nil) // the own commit had a path
		case it.inFlight() && !it.isReoffer():
			s.unseal(it)
		}
	}
	switch {
	case own == nil:
	case own.state == stateFailed:
		// It was given up and came true: whom it added is welcomed. Whom it left
		// for the next commit was given up for good.
		s.committed(d, s.change(own, func(it *intent) {
			it.unreachable, it.remaining = union(it.unreachable, it.remaining), nil
		}))
	default:
		s.committed(d, own)
	}
	if !s.group.Active() {
		s.failAll(ErrInactive)
	}
}

// committed: the own commit is in. Newcomers are told where to read from.
func (s *step) committed(d Delivered, it *intent) {
	if len(it.sealed.joiners) == 0 {
		s.accomplished(it)
		return
	}
	it = s.change(it, func(it *intent) { it.state, it.acked = stateWelcoming, d.ID })
	s.saveIntent(it)
	s.sendWelcomes(it)
}

// sendWelcomes wraps the welcome for every joiner. It is done again after a
// crash, until the host says that all are durable; joiners take one. Where the log
// lost the commit they wait until it is there again.
func (s *step) sendWelcomes(it *intent) {
	if it.acked == 0 {
		return
	}
	out, err := wrapAll(s.env.Rand, s.env.Each, it.sealed.welcome, it.acked, it.sealed.joiners)
	if err != nil {
		// Keys were checked when they were fetched: only randomness can fail.
		s.attempt(it, err.Error())
		return
	}
	for i := range out {
		out[i].Intent = it.id
	}
	s.fx.Send = append(s.fx.Send, out...)
	s.fx.Durable = true
}

// welcomesSent: the newcomers can join.
func (s *step) welcomesSent(in WelcomesSent) error {
	if it := s.find(in.Intent); it != nil && it.state == stateWelcoming && it.acked != 0 {
		s.accomplished(it)
	}
	return nil
}

// accomplished ends an intent, or plans its next commit where one was too small
// for all.
func (s *step) accomplished(it *intent) {
	if len(it.remaining) == 0 {
		s.done(it, nil)
		return
	}
	rest := it.remaining
	it = s.unseal(it)
	it = s.change(it, func(it *intent) {
		if _, ok := it.command.(Refresh); ok {
			it.command, it.remaining = Refresh{Inboxes: rest}, nil
			return
		}
		it.command, it.remaining = AddMembers{Inboxes: rest}, nil
	})
	s.saveIntent(it)
}

// plan turns an intent into a commit for the current epoch, or finds that
// nothing is left to do. It returns the intent as it is then, nil where it is
// done.
func (s *step) plan(it *intent) (*intent, error) {
	if needsFetch(it.command) && it.got == nil {
		it = s.change(it, func(it *intent) { it.state = stateFetching })
		s.fx.Fetch = append(s.fx.Fetch, Fetch{Intent: it.id, Inboxes: s.fetchList(it.command), Identities: it.isCheck()})
		return it, nil
	}
	if it.isCheck() {
		return s.checked(it), nil
	}
	c, err := s.draftCommit(it)
	if err != nil {
		return s.change(it, func(it *intent) { it.unreachable = union(it.unreachable, c.unreachable) }), err
	}
	if c.moot {
		it = s.change(it, func(it *intent) { it.unreachable = union(it.unreachable, c.unreachable) })
		s.done(it, nil)
		return nil, nil
	}
	staged, err := s.group.Commit(mls.CommitConfig{Rand: s.env.Rand, Proposals: c.proposals, Each: s.env.Each})
	if err != nil {
		return it, fmt.Errorf("group: commit: %w", err)
	}
	private, err := staged.MarshalBinary()
	if err != nil {
		return it, fmt.Errorf("group: commit: %w", err)
	}
	data := staged.Message()
	hmac, err := s.env.HMACKey.mark(s.id, c.at, data)
	if err != nil {
		return it, err
	}
	payload := EncodeGroupMessage(data, hmac, false)
	if len(payload) > s.env.Limits.PayloadBytes {
		return it, fmt.Errorf("%w: commit of %d bytes, at most %d", ErrTooLarge, len(payload), s.env.Limits.PayloadBytes)
	}
	if n := len(staged.Welcome()); n > s.env.Limits.PayloadBytes-envelopeOverhead {
		return it, fmt.Errorf("%w: welcome of %d bytes, at most %d", ErrTooLarge, n, s.env.Limits.PayloadBytes-envelopeOverhead)
	}
	// Whatever becomes of this commit, its generation is used.
	s.saveMLS(staged.Sent().Rows(s.group))
	s.group = staged.Sent()
	s.opened++
	it = s.change(it, func(it *intent) {
		it.unreachable = union(it.unreachable, c.unreachable)
		it.remaining, it.got = c.remaining, nil
	})
	return s.commitTo(it, &sealed{
		epoch:   s.group.Epoch(),
		hash:    hashOf(data),
		payload: payload,
		staged:  private,
		data:    data,
		commit:  staged,
		welcome: staged.Welcome(),
		joiners: c.joiners,
	}), nil
}

// union merges two lists; a plan that is made again finds the same inboxes.
func union(a, b []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(a, b))))
}
