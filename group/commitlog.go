package group

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/contents"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// Members of one group can come to stand in different epochs, by a fault of
// theirs or of somebody's client, and MLS alone does not tell them: each only
// sees messages that it cannot open. The commit log is how they notice. Those
// who keep it publish, for each commit, the epoch authenticator that they came
// to, signed by a key that is in the group's metadata; everybody compares.

// A CommitResult is what became of a commit. The numbers are XMTP's.
type CommitResult uint8

const (
	CommitApplied       = CommitResult(contents.CommitResult_COMMIT_RESULT_APPLIED)
	CommitWrongEpoch    = CommitResult(contents.CommitResult_COMMIT_RESULT_WRONG_EPOCH)
	CommitUndecryptable = CommitResult(contents.CommitResult_COMMIT_RESULT_UNDECRYPTABLE)
	CommitInvalid       = CommitResult(contents.CommitResult_COMMIT_RESULT_INVALID)
)

// A CommitRecord is what one commit of the log did to whoever wrote it down.
type CommitRecord struct {
	Commit        uint64 // ID of the envelope
	Last          []byte // epoch authenticator before
	Result        CommitResult
	Epoch         uint64 // after
	Authenticator []byte // epoch authenticator after
}

const (
	// trailKept is how many commits every member remembers, to compare with a
	// commit log that lags behind: see follow.
	trailKept = 16
	// appliedKept is how many records of applied commits are kept by a member
	// that publishes them, and failedKept of others: whoever floods the log
	// with junk pushes out no applied one.
	appliedKept = 128
	failedKept  = 32
)

// An Applied is a commit and the epoch that it led to, or was rejected in.
type Applied struct {
	Commit        uint64
	Authenticator [16]byte // the beginning of the epoch authenticator
}

// keepsCommitLog reports whether this member publishes what commits did: super
// admins do, and both sides of a direct message.
func (r *Replica) keepsCommitLog() bool {
	return r.kind == KindDM || r.kind != KindSync && r.meta.RoleOf(r.env.Inbox) == SuperAdmin
}

// follow puts a commit on the trail: applied, or rejected in the epoch that it
// was for. Of each epoch the trail has what led there and what was rejected
// last, so that nobody pushes out what was applied. It reports whether it did:
// a log that went backwards gives an ID to another commit than the one that the
// commit log has under it.
func (s *step) follow(commit uint64, authenticator []byte) bool {
	now, n := Applied{commit, [16]byte(authenticator)}, len(s.trail)
	if n > 0 && commit <= s.trail[n-1].Commit {
		return false
	}
	if n > 1 && s.trail[n-1].Authenticator == now.Authenticator && s.trail[n-2].Authenticator == now.Authenticator {
		n--
	}
	s.trail, s.dirt = append(slices.Clone(s.trail[:n]), now), true
	s.trail = s.trail[max(0, len(s.trail)-trailKept):]
	return true
}

// recordApplied notes a commit that led from an epoch to the current one.
func (s *step) recordApplied(d Delivered, before *mls.Group) {
	if !s.group.Active() {
		return // who is removed does not know the epoch that the others are in
	}
	authenticator := s.group.EpochAuthenticator()
	if !s.follow(d.ID, authenticator) {
		return
	}
	if s.keepsCommitLog() || s.env.recordAll {
		s.saveRecord(s.Epoch()%appliedKept, CommitRecord{d.ID, before.EpochAuthenticator(), CommitApplied, s.Epoch(), authenticator})
	}
}

// recordFailed notes a commit that changed nothing.
func (s *step) recordFailed(d Delivered, result CommitResult) {
	if d.ID <= s.passed {
		return // it is on record
	}
	now := s.group.EpochAuthenticator()
	if result != CommitWrongEpoch { // of another time than ours, and no decision
		s.follow(d.ID, now)
	}
	if s.keepsCommitLog() || s.env.recordAll {
		s.saveRecord(appliedKept+s.rejected%failedKept, CommitRecord{d.ID, now, result, s.Epoch(), now})
	}
}

// resultOf says what a rejected commit is called: what real clients' MLS engine
// refuses already, before they judge it, is undecryptable to them.
func resultOf(rejected error) CommitResult {
	for _, engines := range []error{ErrMetadata, errLeafMetadata, errNotRequired, errRequiredOfAll} {
		if errors.Is(rejected, engines) {
			return CommitUndecryptable
		}
	}
	return CommitInvalid
}

func (s *step) saveRecord(slot uint64, c CommitRecord) {
	w := newRow(commitFormat, 96)
	w.uint(c.Commit)
	w.uint(uint64(c.Result))
	w.uint(c.Epoch)
	w.bytes(c.Last)
	w.bytes(c.Authenticator)
	s.put(TableCommit, keyOf(slot), w.b)
}

// forgetRecords deletes what was written down so far.
func (s *step) forgetRecords() {
	for slot := range uint64(appliedKept + failedKept) {
		s.delete(TableCommit, keyOf(slot))
	}
}

// CommitRecords reads what a member has written down of the commits behind one,
// in the order of the log. Of members that publish none there is nothing.
func CommitRecords(rows RowReader, after uint64) (records []CommitRecord, err error) {
	scan := rows.Scan(TableCommit, nil, func(_, value []byte) bool {
		d := rowReader(slices.Clone(value), commitFormat)
		c := CommitRecord{Commit: d.uint(), Result: CommitResult(d.uint()), Epoch: d.uint(), Last: d.bytes(), Authenticator: d.bytes()}
		if err = d.end(); err == nil && c.Commit > after {
			records = append(records, c)
		}
		return err == nil
	})
	if scan != nil {
		err = scan
	}
	if err != nil {
		return nil, fmt.Errorf("group: read records of commits: %w", err)
	}
	slices.SortFunc(records, func(a, b CommitRecord) int { return cmp.Compare(a.Commit, b.Commit) })
	return records, nil
}

// SignCommits makes records ready to be published, under the key in the group's
// metadata. There is nothing to publish for a member that does not keep the
// log or is in an epoch without the others, in a group without such a key, or
// where the log is under another:
// consensus is the key that the log began with, nil where it is empty.
func (r *Replica) SignCommits(records []CommitRecord, consensus ed25519.PublicKey) []*mlsapi.PublishCommitLogRequest {
	seed, err := hex.DecodeString(r.meta.Attributes[attributeCommitLogSigner])
	if err != nil || len(seed) != ed25519.SeedSize || !r.Active() || r.standing == Lost || r.standing == Stranded || !r.keepsCommitLog() {
		return nil
	}
	key := ed25519.NewKeyFromSeed(seed)
	public := key.Public().(ed25519.PublicKey)
	if consensus != nil && !public.Equal(consensus) {
		return nil
	}
	out := make([]*mlsapi.PublishCommitLogRequest, len(records))
	for i, c := range records {
		entry := marshal(&contents.PlaintextCommitLogEntry{
			GroupId:                   r.id,
			CommitSequenceId:          c.Commit,
			LastEpochAuthenticator:    c.Last,
			CommitResult:              contents.CommitResult(c.Result),
			AppliedEpochNumber:        c.Epoch,
			AppliedEpochAuthenticator: c.Authenticator,
		})
		out[i] = &mlsapi.PublishCommitLogRequest{
			GroupId:                  bytes.Clone(r.id),
			SerializedCommitLogEntry: entry,
			Signature: &associations.RecoverableEd25519Signature{
				Bytes: ed25519.Sign(key, entry), PublicKey: public,
			},
		}
	}
	return out
}

// A CommitLog is what is known of a group's published commit log. Anybody can
// write there, so each entry is checked against those before it. The zero value
// has read nothing.
type CommitLog struct {
	Cursor uint64            // sequence id of the last entry read
	Key    ed25519.PublicKey // of the first entry with a valid signature: the others are under it too
	newest CommitRecord      // the last entry that counts
	recent []Applied         // the last entries that count, but for commits of another time
}

// recentAttested is how many of them are remembered.
const recentAttested = 64

// Newest returns the last commit that the log counts.
func (l *CommitLog) Newest() uint64 { return l.newest.Commit }

// Read takes entries on, in the order of the log, and returns how many counted.
func (l *CommitLog) Read(group []byte, entries []*contents.CommitLogEntry) (counted int) {
	for _, e := range entries {
		if e.GetSequenceId() <= l.Cursor {
			continue
		}
		l.Cursor = e.GetSequenceId()
		if c, ok := l.verify(group, e); ok && l.follows(&c) {
			l.newest, counted = c, counted+1
			if c.Result != CommitWrongEpoch && len(c.Authenticator) >= 16 {
				l.recent = append(l.recent, Applied{c.Commit, [16]byte(c.Authenticator)})
				l.recent = l.recent[max(0, len(l.recent)-recentAttested):]
			}
		}
	}
	return counted
}

// verify reads an entry that is signed by the log's key.
func (l *CommitLog) verify(group []byte, e *contents.CommitLogEntry) (c CommitRecord, ok bool) {
	entry, key := e.GetSerializedCommitLogEntry(), e.GetSignature().GetPublicKey()
	if len(key) != ed25519.PublicKeySize || l.Key != nil && !l.Key.Equal(ed25519.PublicKey(key)) ||
		!ed25519.Verify(key, entry, e.GetSignature().GetBytes()) {
		return c, false
	}
	l.Key = bytes.Clone(key)
	var p contents.PlaintextCommitLogEntry
	if proto.Unmarshal(entry, &p) != nil || !bytes.Equal(p.GroupId, group) || p.CommitSequenceId == 0 {
		return c, false
	}
	return CommitRecord{
		Commit:        p.CommitSequenceId,
		Last:          p.LastEpochAuthenticator,
		Result:        CommitResult(p.CommitResult),
		Epoch:         p.AppliedEpochNumber,
		Authenticator: p.AppliedEpochAuthenticator,
	}, true
}

// follows reports whether an entry goes on from where the log stands: what two
// publishers say of one commit counts once, and nobody jumps.
func (l *CommitLog) follows(c *CommitRecord) bool {
	was := &l.newest
	switch {
	case was.Commit == 0:
		return true
	case c.Commit <= was.Commit:
		return false
	case c.Result == CommitApplied:
		return c.Epoch == was.Epoch+1 && (len(was.Authenticator) == 0 || bytes.Equal(c.Last, was.Authenticator))
	}
	return c.Epoch == was.Epoch && bytes.Equal(c.Authenticator, was.Authenticator)
}

// Judge compares a member's newest commits with the log. known is false where
// the log says nothing of any of them, or not yet.
func (l *CommitLog) Judge(trail []Applied) (attested Applied, forked, known bool) {
	for i := len(trail) - 1; i >= 0; i-- {
		for j := len(l.recent) - 1; j >= 0; j-- {
			if l.recent[j].Commit == trail[i].Commit {
				return l.recent[j], l.recent[j] != trail[i], true
			}
		}
	}
	return Applied{}, false, false
}

// attested: the group's commit log has this for a commit.
func (s *step) attested(in Attested) error {
	for _, own := range s.trail {
		if own.Commit != in.Commit {
			continue
		}
		forked := own.Authenticator != in.Authenticator
		if forked != s.forked {
			s.forked, s.dirt = forked, true
			s.emit(ForkChanged{Forked: forked, Commit: in.Commit})
			s.forkAttested(in.Commit)
		}
	}
	return nil
}

// Forked reports whether the group's commit log says that the others are in
// another epoch than this replica. It reads again from its last commit and is
// Apart; only a new welcome brings the member back.
func (r *Replica) Forked() bool { return r.forked }
