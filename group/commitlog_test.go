package group_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/contents"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// commitLogs is what the real creators of the scenarios recorded and published.
type commitLogs struct {
	Scenarios []struct {
		scenario
		Envelopes []struct {
			vectorEnvelope
			Real *struct {
				Result        group.CommitResult `json:"commit_result"`
				Last          hexBytes           `json:"last_epoch_authenticator"`
				Epoch         uint64             `json:"applied_epoch_number"`
				Authenticator hexBytes           `json:"applied_epoch_authenticator"`
			} `json:"real_commit_log"`
		}
		SDK struct {
			CommitLog []struct {
				Entry, Signature hexBytes
				GroupID          hexBytes `json:"group_id"`
			} `json:"commit_log"`
		}
	}
}

func readCommitLogs(t *testing.T) commitLogs {
	var f commitLogs
	readJSON(t, filepath.Join(vectors(t), "passive-join.json"), &f)
	for i := range f.Scenarios {
		s := &f.Scenarios[i]
		for _, e := range s.Envelopes {
			s.scenario.Envelopes = append(s.scenario.Envelopes, e.vectorEnvelope)
		}
	}
	return f
}

// What real clients publish of their commits reads as a whole, and was signed by
// the key in the group's metadata.
func TestCommitLogOfRealClients(t *testing.T) {
	for _, s := range readCommitLogs(t).Scenarios {
		var entries []*contents.CommitLogEntry
		for i, e := range s.SDK.CommitLog {
			signature := new(associations.RecoverableEd25519Signature)
			if err := proto.Unmarshal(e.Signature, signature); err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(e.GroupID, s.GroupID) {
				entries = append(entries, &contents.CommitLogEntry{SequenceId: uint64(i + 1), SerializedCommitLogEntry: e.Entry, Signature: signature})
			}
		}
		var log group.CommitLog
		if n := log.Read(s.GroupID, entries); n != len(entries) || n == 0 {
			t.Errorf("%s: %d of %d entries count", s.Name, n, len(entries))
		}
		seed, err := hex.DecodeString(s.Joiners[0].Welcomes[0].Expect.State.Attributes["_commit_log_signer"])
		if err != nil || len(seed) != ed25519.SeedSize {
			t.Fatalf("%s: signer of %d bytes: %v", s.Name, len(seed), err)
		}
		if !log.Key.Equal(ed25519.NewKeyFromSeed(seed).Public()) {
			t.Errorf("%s: signed by another key", s.Name)
		}
		// Anything that is bent does not count, and does not stop what follows.
		for _, bend := range []func(*contents.CommitLogEntry){
			func(e *contents.CommitLogEntry) { e.Signature = nil },
			func(e *contents.CommitLogEntry) { e.Signature.PublicKey = e.Signature.PublicKey[1:] },
			func(e *contents.CommitLogEntry) { e.Signature.Bytes[0] ^= 1 },
			func(e *contents.CommitLogEntry) { e.SerializedCommitLogEntry[20] ^= 1 },
			func(e *contents.CommitLogEntry) { e.SerializedCommitLogEntry = nil },
		} {
			bent := proto.Clone(entries[0]).(*contents.CommitLogEntry)
			bend(bent)
			bent.SequenceId = 0
			again := []*contents.CommitLogEntry{bent}
			for i, e := range entries {
				e = proto.Clone(e).(*contents.CommitLogEntry)
				e.SequenceId = uint64(i + 2)
				again = append(again, e)
			}
			again[0].SequenceId = 1
			var log group.CommitLog
			if n := log.Read(s.GroupID, again); n != len(entries) {
				t.Errorf("%s: behind a bent entry %d of %d count", s.Name, n, len(entries))
			}
		}
	}
}

// C15: a replica's record of each commit is the real client's: the same result,
// epoch and epoch authenticators, of commits that were applied, lost a race,
// broke the group's rules, and broke RFC 9420's.
func TestCommitRecordsAreTheRealClients(t *testing.T) {
	compared := map[group.CommitResult]int{}
	for _, s := range readCommitLogs(t).Scenarios {
		logs := s.identities(t)
		for _, j := range s.Joiners {
			v := s.replay(t, j, logs)
			records, err := group.CommitRecords(reader{v.rows, v.bodies}, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range s.Envelopes {
				i := slices.IndexFunc(records, func(r group.CommitRecord) bool { return r.Commit == e.ID })
				if e.Real == nil || e.PerJoiner[j.Label] != "visible" {
					if i >= 0 && e.Real == nil {
						t.Errorf("%s: record of %d, which is no commit", j.Label, e.ID)
					}
					continue
				}
				if i < 0 {
					t.Errorf("%s: no record of commit %d", j.Label, e.ID)
					continue
				}
				r := records[i]
				if r.Result != e.Real.Result || r.Epoch != e.Real.Epoch || !bytes.Equal(r.Last, e.Real.Last) || !bytes.Equal(r.Authenticator, e.Real.Authenticator) {
					t.Errorf("%s: commit %d: result %d in epoch %d, want %d in %d", j.Label, e.ID, r.Result, r.Epoch, e.Real.Result, e.Real.Epoch)
				}
				compared[r.Result]++
			}
		}
	}
	for _, r := range []group.CommitResult{group.CommitApplied, group.CommitWrongEpoch, group.CommitUndecryptable, group.CommitInvalid} {
		if compared[r] == 0 {
			t.Errorf("no commit with result %d was compared", r)
		}
	}
	t.Logf("compared, by result: %v", compared)
}

// served puts what somebody publishes at the end of a group's commit log.
func served(log []*contents.CommitLogEntry, published []*mlsapi.PublishCommitLogRequest) []*contents.CommitLogEntry {
	for _, p := range published {
		log = append(log, &contents.CommitLogEntry{SequenceId: uint64(len(log) + 1), SerializedCommitLogEntry: p.SerializedCommitLogEntry, Signature: p.Signature})
	}
	return log
}

// C15: what a super admin publishes tells every member whether it is where the
// others are. Only super admins write things down for that.
func TestForkShowsInTheCommitLog(t *testing.T) {
	w, alice, bob := two(t)
	for _, name := range []string{"one", "two", "three"} {
		alice.step(group.UpdateMetadata{Field: group.AttributeName, Value: name})
		w.sync(w.order)
	}
	records, err := group.CommitRecords(alice.reader(), 0)
	w.must(err)
	if len(records) < 4 {
		t.Fatalf("a super admin has %d records of 4 commits", len(records))
	}
	if none, err := group.CommitRecords(bob.reader(), 0); err != nil || len(none) != 0 {
		t.Errorf("a member that publishes nothing has %d records (%v)", len(none), err)
	}
	if bob.replica.SignCommits(records, nil) != nil {
		t.Error("somebody signed who is no super admin")
	}
	entries := served(nil, alice.replica.SignCommits(records, nil))
	id := alice.replica.ID()
	var log group.CommitLog
	if n := log.Read(id, entries); n != len(records) || log.Newest() != records[len(records)-1].Commit {
		t.Fatalf("%d of %d entries count", n, len(records))
	}
	for _, h := range []*home{alice, bob} {
		at, forked, known := log.Judge(h.replica.Summary().Trail)
		if forked || !known {
			t.Fatalf("forked %v, known %v", forked, known)
		}
		h.step(group.Attested(at))
		if h.replica.Forked() {
			t.Error("marked as forked by a log that agrees")
		}
	}
	// The same again, an entry of somebody else's key, and a jump do not count.
	_, other, _ := ed25519.GenerateKey(w.rand)
	forged := proto.Clone(entries[0]).(*contents.CommitLogEntry)
	forged.Signature.PublicKey = other.Public().(ed25519.PublicKey)
	forged.Signature.Bytes = ed25519.Sign(other, forged.SerializedCommitLogEntry)
	jump := slices.Clone(records[len(records)-1:])
	jump[0].Commit, jump[0].Epoch = jump[0].Commit+9, jump[0].Epoch+2
	more := served(append(slices.Clone(entries), entries...), alice.replica.SignCommits(jump, log.Key))
	more = append(more, forged)
	for i, e := range more {
		more[i] = proto.Clone(e).(*contents.CommitLogEntry)
		more[i].SequenceId = uint64(i + 1)
	}
	if n := log.Read(id, more[len(entries):]); n != 0 {
		t.Errorf("%d entries count that go on from nothing", n)
	}
	if alice.replica.SignCommits(records, other.Public().(ed25519.PublicKey)) != nil {
		t.Error("signed for a log that is under another key")
	}

	// A log of somebody who came elsewhere by the same commit.
	elsewhere := slices.Clone(records)
	last := &elsewhere[len(elsewhere)-1]
	last.Authenticator = bytes.Repeat([]byte{1}, 32)
	var theirs group.CommitLog
	theirs.Read(id, served(nil, alice.replica.SignCommits(elsewhere, nil)))
	at, forked, known := theirs.Judge(bob.replica.Summary().Trail)
	if !forked || !known {
		t.Fatalf("forked %v, known %v", forked, known)
	}
	bob.step(group.Attested(at))
	if !bob.replica.Forked() {
		t.Error("not marked as forked")
	}
	if s, err := group.Summarize(bob.reader()); err != nil || !s.Forked || s.Kind != group.KindGroup || s.KeepsCommitLog {
		t.Errorf("stored: %+v, %v", s, err)
	}
	bob.crash()
	if !bob.replica.Forked() {
		t.Error("forgotten with the memory")
	}
}

// No entry makes a reader panic, goes backwards, or counts without a signature.
func FuzzCommitLog(f *testing.F) {
	_, key, _ := ed25519.GenerateKey(bytes.NewReader(make([]byte, 64)))
	id := bytes.Repeat([]byte{7}, 16)
	entry, _ := proto.Marshal(&contents.PlaintextCommitLogEntry{GroupId: id, CommitSequenceId: 3, CommitResult: 1, AppliedEpochNumber: 1, AppliedEpochAuthenticator: make([]byte, 32)})
	f.Add(entry, ed25519.Sign(key, entry), []byte(key.Public().(ed25519.PublicKey)), uint64(1))
	f.Add([]byte{}, []byte{}, []byte{1}, uint64(0))
	f.Fuzz(func(t *testing.T, entry, signature, public []byte, sequence uint64) {
		var log group.CommitLog
		e := &contents.CommitLogEntry{SequenceId: sequence, SerializedCommitLogEntry: entry,
			Signature: &associations.RecoverableEd25519Signature{Bytes: signature, PublicKey: public}}
		if log.Read(id, []*contents.CommitLogEntry{e, nil, e}) > 0 && !ed25519.Verify(log.Key, entry, signature) {
			t.Error("counts without a signature")
		}
		// What is signed by whoever may can still say anything.
		e = proto.Clone(e).(*contents.CommitLogEntry)
		e.SequenceId, e.Signature.PublicKey, e.Signature.Bytes = 9, key.Public().(ed25519.PublicKey), ed25519.Sign(key, entry)
		log = group.CommitLog{}
		log.Read(id, []*contents.CommitLogEntry{e})
		newest := log.Newest()
		log.Read(id, []*contents.CommitLogEntry{e})
		log.Judge([]group.Applied{{Commit: newest}})
		if log.Newest() != newest || log.Cursor != 9 {
			t.Error("read twice")
		}
	})
}

// R14, C15: a log that went backwards gives an ID to another commit than the
// one that the commit log has under it. Nobody is forked for that.
func TestRewindIsNoFork(t *testing.T) {
	w, alice, bob := two(t)
	w.run(words("junk commits"))
	w.run(words("rename alice one"))
	w.sync(w.order)
	records, err := group.CommitRecords(alice.reader(), 0)
	w.must(err)
	published := records[len(records)-1].Commit
	var log group.CommitLog
	log.Read(alice.replica.ID(), served(nil, alice.replica.SignCommits(records, nil)))
	w.run(words(fmt.Sprintf("rewind %d", published-2))) // the junk is gone, and nobody offers it again
	w.sync(w.order)
	w.run(words("rename alice two"))
	w.sync(w.order)
	for _, h := range []*home{alice, bob} {
		if h.replica.Epoch() != 3 || h.replica.Cursor() != published {
			t.Fatalf("%s: epoch %d at %d, want 3 at %d", h.name, h.replica.Epoch(), h.replica.Cursor(), published)
		}
		if _, forked, _ := log.Judge(h.replica.Summary().Trail); forked {
			t.Errorf("%s takes commit %d for another", h.name, published)
		}
	}
}

// C15: a member that was added again publishes nothing of its life before. It
// may have been in an epoch without the others: that is what it was added again
// for.
func TestCommitRecordsOfAnotherLife(t *testing.T) {
	w, _, bob := two(t)
	for _, line := range []string{"admin alice super bob", "rename alice one", "admin alice unsuper bob", "remove alice bob", "add alice bob"} {
		w.run(words(line))
		w.sync(w.order)
	}
	joined := bob.replica.Cursor()
	w.run(words("admin alice super bob"))
	w.sync(w.order)
	records, err := group.CommitRecords(bob.reader(), 0)
	w.must(err)
	if len(records) != 1 || records[0].Commit <= joined {
		t.Errorf("added again at %d: records %+v", joined, records)
	}
}

// C15: who applied a commit that the others rejected, or rejected one that they
// applied, is elsewhere from there on, and the log shows it.
func TestForkOverARejectedCommit(t *testing.T) {
	w, alice, bob := two(t)
	for _, line := range []string{"people carol", "add alice carol", "permit alice admin_only"} {
		w.run(words(line))
		w.sync(w.order)
	}
	w.run(words("forge carol rename theirs")) // everybody rejects it
	w.sync(w.order)
	records, err := group.CommitRecords(alice.reader(), 0)
	w.must(err)
	rejected := &records[len(records)-1]
	if rejected.Result != group.CommitInvalid {
		t.Fatalf("the last commit has result %d", rejected.Result)
	}
	read := func() (forked, known bool) {
		var log group.CommitLog
		if n := log.Read(alice.replica.ID(), served(nil, alice.replica.SignCommits(records, nil))); n != len(records) {
			t.Fatalf("%d of %d entries count", n, len(records))
		}
		_, forked, known = log.Judge(bob.replica.Summary().Trail)
		return forked, known
	}
	if forked, known := read(); forked || !known {
		t.Errorf("all rejected it: forked %v, known %v", forked, known)
	}
	was := *rejected
	rejected.Result, rejected.Epoch, rejected.Authenticator = group.CommitApplied, was.Epoch+1, bytes.Repeat([]byte{1}, 32)
	if forked, _ := read(); !forked {
		t.Error("nothing shows that the others applied it")
	}
	records = records[:len(records)-1]
	applied := &records[len(records)-1]
	applied.Result, applied.Epoch, applied.Authenticator = group.CommitInvalid, applied.Epoch-1, applied.Last
	if forked, _ := read(); !forked {
		t.Error("nothing shows that the others rejected what bob applied")
	}
	// Junk that all see alike changes nothing, and pushes no applied one out.
	w.run(words("rename alice ours"))
	w.sync(w.order)
	for range 20 {
		w.run(words("forge carol rename theirs"))
		w.sync(w.order)
	}
	records, err = group.CommitRecords(alice.reader(), 0)
	w.must(err)
	if forked, known := read(); forked || !known {
		t.Errorf("behind junk: forked %v, known %v", forked, known)
	}
	if trail := bob.replica.Summary().Trail; len(trail) != 5 {
		t.Errorf("a trail of %d: want three that were applied, and one rejected in each of two epochs", len(trail))
	}
}
