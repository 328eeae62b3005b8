package group

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/conclave-chat/conclave/mls"
)

// A log can go backwards: a machine loses its power, a backup is restored. What
// it lost is still in the stores of those who read or sent it. Everybody then
// offers again what is its own; nobody skips anything.
//
// A commit that was applied cannot be taken back. Whoever is in an epoch that
// the log has lost the way to is Lost: it waits for the same commits to be in the
// log again, in their order, and until then reads as those do who have not applied
// them. If a commit of another member stands there instead, it is Stranded. Where the
// log lost more commits than a replica keeps, those that it keeps are offered again,
// and it is Apart until it hears somebody else in its epoch: the others may be in an
// earlier one.

// A milestone is a commit that led to one of the last epochs.
type milestone struct {
	at   uint64 // ID of the envelope that counts; 0: the log lost it
	hash [32]byte
	own  uint64 // the row with the bytes of an own commit; else 0
}

// pathKept is how many milestones there are: a message of an earlier epoch is
// not opened, and a commit that led there not offered.
const pathKept = pastEpochs

// reach adds the commit that leads to an epoch, and holds on to the bytes of an
// own one, without its secrets.
func (s *step) reach(epoch uint64, m milestone, own *intent) {
	if own != nil {
		// A row of its own: the intent may still have welcomes to send, or commits to make.
		m.own = epoch | 1<<63
		bare := *own
		bare.id = m.own
		bare.sealed = &sealed{epoch: own.sealed.epoch, hash: own.sealed.hash, payload: own.sealed.payload}
		s.saveSealed(&bare)
	}
	s.path, s.dirt = append(slices.Clone(s.path), m), true
	for ; len(s.path) > pathKept; s.path = s.path[1:] {
		s.root = s.path[0].at
		if old := s.path[0]; old.own != 0 {
			s.delete(TableSealed, keyOf(old.own))
			s.offered(old.hash)
		}
	}
}

// milestone returns the place on the path of a commit; -1: it is not there.
func (s *step) milestone(hash [32]byte) int {
	return slices.IndexFunc(s.path, func(m milestone) bool { return m.hash == hash })
}

// lostFrom returns the place of the first commit that the log lost; -1: none.
func (r *Replica) lostFrom() int {
	return slices.IndexFunc(r.path, func(m milestone) bool { return m.at == 0 })
}

// logEpoch is the epoch that the log has led to as far as it was read: the own
// one, or any, unless the log lost commits.
func (r *Replica) logEpoch() uint64 {
	i := r.lostFrom()
	if i < 0 {
		return math.MaxUint64
	}
	return r.Epoch() - uint64(len(r.path)-i)
}

// lastCommitAt is where the commit that led to this epoch lies in the log.
func (s *step) lastCommitAt() uint64 {
	if n := len(s.path); n > 0 {
		return s.path[n-1].at
	}
	return s.joined
}

// isNext reports whether a commit that is offered again is the first that the
// log lacks: what follows it waits. One that lies in a hole waits for nothing.
func (s *step) isNext(it *intent) bool {
	i := s.lostFrom()
	return i < 0 || s.path[i].hash == it.sealed.hash
}

// A reoffer is an own commit, published once more as it was.
type reoffer struct{}

func (reoffer) input() {}

// rewound puts the cursor back and queues what of ours is beyond it: messages to
// be sealed again under the same ids, and own commits as they were. What turns
// out to be there when the log is read is not sent.
func (s *step) rewound(in Rewound) error {
	s.check.failed = false
	if s.waiting != nil {
		s.waiting = nil // the log may not hold it any more
		s.met(inputCame, "")
		s.read()
	}
	if !s.group.Active() {
		return nil
	}
	if in.Lost && s.hole != in.LostAfter+1 {
		s.hole, s.seeks, s.dirt = in.LostAfter+1, 0, true
	}
	in.Lost = in.Lost && in.LostAfter <= in.End // else all of that is lost and more
	if in.End >= s.cursor && !(in.Lost && s.survey.done) {
		// What was read may be there, or the log has grown again: it is compared.
		// What was only acknowledged may be gone.
		s.check, s.caughtUp = comparison{}, false
		s.read()
		for _, it := range s.intents {
			if it.state == stateSealed && it.acked > in.End {
				s.unsettle(it.id)
			}
		}
		return nil
	}
	waits, hole := s.surveys(&in)
	if waits {
		return nil
	}
	passed := s.cursor
	s.rewinds++
	s.cursor, s.lastCommit, s.dirt = in.End, min(s.lastCommit, in.End), true
	s.caughtUp, s.ahead = false, ahead{}
	s.chain.cut(in.End)
	s.saveRatchets() // what is read from here on is behind them
	s.unsettleAll()
	if hole {
		// What it is compared with from here on begins there: what is missing before
		// that is known.
		s.passed, s.chain, s.check = passed, chain{base: in.End}, comparison{done: true}
		s.bridgePath(in.End)
	} else {
		if err := s.relay(in.Rows); err != nil {
			return fmt.Errorf("group: rewind: %w", err)
		}
		s.losePath(in.End)
	}
	if in.Rows == nil {
		return nil
	}
	err := errors.Join(s.offerCommits(hole, in.End, in.Rows), s.offerAgain(in.End, in.Rows))
	if !hole {
		err = errors.Join(err, s.dropRecords(in.End, in.Rows))
	}
	if err != nil {
		return fmt.Errorf("group: rewind: %w", err)
	}
	return nil
}

// unsettleAll: what of ours was in flight may be in the log or not. It waits for a
// read.
func (s *step) unsettleAll() {
	mark := s.read()
	for _, it := range s.intents {
		if it.inFlight() {
			s.change(it, func(it *intent) { it.state, it.acked, it.mark = stateUnsettled, 0, mark })
		}
	}
}

// bridgePath: the log leads to this epoch, though it lost commits on the way. They count
// as lying in the hole behind an ID, where no envelope is.
func (s *step) bridgePath(hole uint64) {
	s.path = slices.Clone(s.path)
	for i := range s.path {
		if s.path[i].at == 0 {
			s.path[i].at = hole + 1
		}
	}
	s.met(commitsFound, "")
}

// losePath marks the commits beyond the end of the log.
func (s *step) losePath(end uint64) {
	s.path = slices.Clone(s.path)
	var last uint64
	for i := range s.path {
		if s.path[i].at > end {
			last, s.path[i].at = s.path[i].at, 0
		}
	}
	if s.root > end {
		s.root, s.uprooted = 0, true
	}
	if last == 0 {
		return
	}
	s.met(commitsLost, "the log lost commit %d, which was applied", last)
	for _, it := range s.intents {
		switch {
		case it.state != stateWelcoming || it.acked != 0 && it.acked <= end:
		case s.milestone(it.sealed.hash) < 0:
			s.done(it, errLeftBehind) // nobody offers that commit again
		default:
			s.saveIntent(s.change(it, func(it *intent) { it.acked = 0 }))
		}
	}
}

// welcomeAgain: the log has an own commit again whose welcomes wait for that. They
// say where it lies now.
func (s *step) welcomeAgain(m milestone) {
	for _, it := range s.intents {
		if it.state == stateWelcoming && it.acked == 0 && it.sealed.hash == m.hash {
			it = s.change(it, func(it *intent) { it.acked = m.at })
			s.saveIntent(it)
			s.sendWelcomes(it)
		}
	}
}

// commitAgain: a commit of the path is delivered. It counts where the log lacks
// it and nothing before it; any other copy leads nowhere.
func (s *step) commitAgain(d Delivered, i int) {
	first := s.lostFrom()
	switch {
	case s.path[i].at == d.ID:
		s.offered(s.path[i].hash)
		s.advance(d)
		return
	case s.path[i].at != 0:
		s.offered(s.path[i].hash)
		s.recordFailed(d, CommitWrongEpoch)
		s.reject(d, s.hash, errStaleCommit)
		return
	case i != first || s.standing == Stranded:
		s.reject(d, s.hash, errFutureEpoch)
		return
	}
	s.path = slices.Clone(s.path)
	s.path[i].at = d.ID
	s.offered(s.path[i].hash)
	s.advance(d)
	s.welcomeAgain(s.path[i])
	if i == len(s.path)-1 {
		if s.uprooted {
			s.met(outrun, "the log lost more commits than are kept: the others may not come to epoch %d", s.Epoch())
		}
		s.met(commitsFound, "")
		s.read() // for what is not settled before
		return
	}
	for _, it := range s.intents {
		if it.isReoffer() && s.isNext(it) {
			s.change(it, func(it *intent) { it.state, it.mark = stateUnsettled, s.read() })
		}
	}
}

// offered: a commit that was to be offered again is in the log, or too old.
func (s *step) offered(hash [32]byte) {
	for _, it := range s.intents {
		if it.isReoffer() && it.sealed.hash == hash {
			s.drop(it)
		}
	}
}

// rivalled: a commit for an epoch that is over. If it is a member's, for an epoch
// whose commit the log lost, the others follow it.
func (s *step) rivalled(d Delivered, m *mls.Message) {
	if m.Epoch() != s.logEpoch() || s.rejects[markOf(s.hash)] || !s.group.Vouches(m) {
		return
	}
	s.met(leftBehind, "commit %d stands where the log lost the one that was applied", d.ID)
	for _, it := range s.intents {
		switch {
		case it.isReoffer():
			s.drop(it)
		case it.state == stateWelcoming && it.acked == 0:
			s.done(it, errLeftBehind)
		}
	}
}

// beforeItsTime reads past an envelope of an epoch that the log does not lead to,
// since it lost the commit: by the log nobody can read it there. An own message
// or commit goes again once the log leads there.
func (s *step) beforeItsTime(d Delivered) {
	if it := s.outstanding(s.hash); it != nil && it.state != stateFailed {
		s.turns++
		s.unseal(it)
	}
	s.reject(d, s.hash, errFutureEpoch)
}

// messageAgain: the log has an envelope that was read before it went backwards.
func (s *step) messageAgain(d Delivered) {
	for _, it := range s.intents {
		if it.again && it.was == markOf(s.hash) {
			s.drop(it)
		}
	}
	s.advance(d)
}

// offerAgain queues the messages of ours that lie beyond the end of the log.
func (s *step) offerAgain(end uint64, rows RowReader) error {
	var own []*intent
	var failed error
	if s.known = maps.Clone(s.known); s.known == nil {
		s.known = map[mark]bool{}
	}
	secrets, installation := map[uint64][]byte{}, s.env.installation()
	scan := rows.Scan(TableMessage, Position{ID: end + 1}.key(), func(key, value []byte) bool {
		var row index
		if row, failed = decodeIndex(key, value); failed != nil {
			return false
		}
		if row.Kind != ApplicationMessage {
			return true
		}
		s.known[row.mark] = true
		if s.isAgain(row.ID) {
			return true
		}
		var m Message
		if m, failed = readMessage(rows, secrets, key, value); failed != nil {
			return false
		}
		if bytes.Equal(m.Installation, installation) {
			own = append(own, &intent{command: Send{Key: m.Key, Content: m.Content, Now: m.Time}, message: m.ID, was: row.mark})
		}
		return true
	})
	if err := errors.Join(scan, failed); err != nil {
		return err
	}
	for _, o := range own {
		it := s.change(s.begin(o.command), func(it *intent) { it.message, it.again, it.was = o.message, true, o.was })
		s.saveIntent(it)
	}
	s.fx.Intent = 0 // these are no commands
	return s.loadRefused(rows)
}

// isAgain reports whether a message is offered again already.
func (s *step) isAgain(id MessageID) bool {
	return slices.ContainsFunc(s.intents, func(it *intent) bool { return it.again && it.message == id })
}

// offerCommits queues the own commits that the log lost, or may have lost in a hole
// behind an ID.
func (s *step) offerCommits(hole bool, end uint64, rows RowReader) error {
	for _, m := range s.path {
		if m.at != 0 && !(hole && m.at > end) || m.own == 0 || !s.may().applies || s.outstanding(m.hash) != nil {
			continue
		}
		row, err := rows.Get(TableSealed, keyOf(m.own), nil)
		if err != nil {
			return err
		}
		envelope, err := decodeSealed(row, true)
		if err != nil {
			return err
		}
		it := s.change(s.begin(reoffer{}), func(it *intent) { it.state, it.sealed, it.mark = stateUnsettled, envelope, s.marks })
		s.saveSealed(it)
		s.saveIntent(it)
	}
	return nil
}

// loadRefused reads which commits were no good: they are no rivals. One that only
// came too late for its epoch may be valid, and come first this time.
func (r *Replica) loadRefused(rows RowReader) error {
	r.rejects = map[mark]bool{}
	return rows.Scan(TableRejected, nil, func(_, value []byte) bool {
		d := rowReader(slices.Clone(value), rejectedFormat)
		d.uint()
		d.time()
		var hash [32]byte
		d.fixed(hash[:])
		if reason := d.string(); d.err == nil && reason != errStaleCommit.Error() {
			r.rejects[markOf(hash)] = true
		}
		return true
	})
}

// dropRecords takes back what was written down of commits that the log lost: it
// will have others under their IDs.
func (s *step) dropRecords(end uint64, rows RowReader) error {
	return rows.Scan(TableCommit, nil, func(key, value []byte) bool {
		if d := rowReader(slices.Clone(value), commitFormat); d.uint() > end && d.err == nil {
			s.delete(TableCommit, slices.Clone(key))
		}
		return true
	})
}

// ahead is what was read of epochs that the replica has not reached. Anybody can
// claim an epoch: it decides that the log is read again, once in an epoch, and
// what is shown, and nothing else.
type ahead struct {
	highest uint64
	epochs  int // how often the highest rose
	count   int
}

// outrunBy: an envelope claims an epoch that is not reached. Read in the order of
// the log nobody in good standing meets one. Where that goes on, the replica reads
// again from its last commit, and says so if that does not help.
func (s *step) outrunBy(epoch uint64) {
	s.ahead.count++
	if epoch > s.ahead.highest {
		s.ahead.highest = epoch
		s.ahead.epochs++
	}
	if s.standing != Following || s.alone() {
		return
	}
	if s.hole == 0 && s.ahead.epochs < 2 && s.ahead.count < 4 {
		return
	}
	if s.readAgain() {
		return
	}
	s.met(outrun, "the log has envelopes of epoch %d, and does not lead there from epoch %d", s.ahead.highest, s.Epoch())
}

// alone reports whether this is the group's only installation: there is nobody who
// could be ahead of it, and whom it could hear.
func (s *step) alone() bool {
	for i := range s.group.Members() {
		if i != s.group.OwnLeaf() {
			return false
		}
	}
	return true
}

// readAgain goes back to the last commit, once in an epoch.
func (s *step) readAgain() bool {
	if s.reread == s.Epoch()+1 || s.lastCommitAt() >= s.cursor {
		return false
	}
	s.reread, s.dirt = s.Epoch()+1, true
	s.goBack(s.lastCommitAt())
	return true
}

// forkAttested: the group's commit log has another epoch for a commit than this
// replica has, or the same after all.
func (s *step) forkAttested(commit uint64) {
	if !s.forked {
		s.heardCompany()
		return
	}
	if s.standing == Following {
		s.readAgain()
		s.met(outrun, "the group's commit log has another epoch for commit %d", commit)
	}
}

// heardCompany: another member is in this epoch, and nobody attests that the
// others are elsewhere.
func (s *step) heardCompany() {
	s.ahead = ahead{}
	if s.uprooted {
		s.uprooted, s.dirt = false, true
	}
	if !s.forked {
		s.met(companyHeard, "")
	}
}
