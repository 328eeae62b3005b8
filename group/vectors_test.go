package group_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// vectors returns the folder of what real XMTP clients put on the wire.
func vectors(t *testing.T) string {
	dir := os.Getenv("CONCLAVE_VECTORS")
	if dir == "" {
		t.Skip("CONCLAVE_VECTORS names no folder with test vectors; the MLS ones come from " +
			"github.com/mlswg/mls-implementations, folder test-vectors")
	}
	return filepath.Join(dir, "xmtp")
}

// report prints one line per file for make vectors.
func report(t *testing.T, file string, cases, failed int) {
	if os.Getenv("CONCLAVE_VECTORS_REPORT") != "" {
		fmt.Printf("xmtp/%s %d %d %d %d\n", file, cases, cases-failed, failed, 0)
	}
}

func readJSON(t *testing.T, path string, into any) {
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// hexBytes is lower-case hex in JSON.
type hexBytes []byte

func (h *hexBytes) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	v, err := hex.DecodeString(s)
	*h = v
	return err
}

// nanos is a decimal string of nanoseconds.
type nanos struct{ time.Time }

func (n *nanos) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseInt(strings.Trim(string(b), `"`), 10, 64)
	n.Time = time.Unix(0, v).UTC()
	return err
}

type passiveFile struct{ Scenarios []scenario }

type scenario struct {
	Name     string
	GroupID  hexBytes `json:"group_id"`
	Joiners  []vectorJoiner
	Identity []struct {
		InboxID string `json:"inbox_id"`
		Updates []struct {
			SequenceID uint64 `json:"sequence_id"`
			Update     hexBytes
		}
	}
	Envelopes []vectorEnvelope
	SDK       struct {
		HMACKeys map[string][]struct {
			Key   hexBytes
			Epoch any
		} `json:"hmac_keys"`
	}
}

type vectorJoiner struct {
	Label         string
	InboxID       string   `json:"inbox_id"`
	SignatureSeed hexBytes `json:"signature_seed"`
	InitPrivate   hexBytes `json:"init_private_key"`
	LeafPrivate   hexBytes `json:"leaf_private_key"`
	XWingSeed     hexBytes `json:"xwing_seed"`
	KeyPackage    hexBytes `json:"key_package"`
	KeyPackageRef hexBytes `json:"key_package_ref"`
	Welcomes      []struct {
		ID        uint64
		CreatedNS nanos `json:"created_ns"`
		Kind      string
		Input     hexBytes
		Pointee   struct{ Input hexBytes }
		Expect    struct {
			MLSMessage hexBytes `json:"welcome_mls_message"`
			Cursor     uint64   `json:"message_cursor"`
			OwnLeaf    uint32   `json:"own_leaf_index"`
			Adder      string   `json:"adder_inbox_id"`
			State      vectorState
		}
		Transcript struct {
			Key       string   `json:"idempotency_key"`
			Content   hexBytes `json:"encoded_content"`
			MessageID hexBytes `json:"message_id"`
		}
	}
}

type vectorEnvelope struct {
	ID        uint64
	CreatedNS nanos `json:"created_ns"`
	Data      hexBytes
	Envelope  hexBytes
	IsCommit  bool              `json:"is_commit"`
	PerJoiner map[string]string `json:"per_joiner"`
	Expect    *struct {
		Kind, Result string
		Sender       string `json:"sender_inbox_id"`
		EpochAfter   uint64 `json:"epoch_after"`
		State        *vectorState
		Content      hexBytes `json:"encoded_content"`
		Key          string   `json:"idempotency_key"`
		MessageID    hexBytes `json:"message_id"`
	}
	Transcript *vectorTranscript
}

type vectorTranscript struct {
	MessageID hexBytes `json:"message_id"`
	Content   struct{ AddedInboxes, RemovedInboxes []struct{} }
}

// exact reports whether there is a transcript that all clients write in the
// same bytes: of two inboxes each real client takes either first.
func (x *vectorTranscript) exact() bool {
	return x != nil && len(x.Content.AddedInboxes) < 2 && len(x.Content.RemovedInboxes) < 2
}

type vectorState struct {
	Epoch         uint64
	Authenticator hexBytes `json:"epoch_authenticator"`
	TreeHash      hexBytes `json:"tree_hash"`
	Transcript    hexBytes `json:"confirmed_transcript_hash"`
	Extensions    []struct {
		Type, Data hexBytes
	} `json:"group_context_extensions"`
	Immutable struct {
		ConversationType uint8  `json:"conversation_type"`
		Creator          string `json:"creator_inbox_id"`
	} `json:"immutable_metadata"`
	Attributes  map[string]string
	Admins      []string
	SuperAdmins []string `json:"super_admins"`
	Membership  map[string]uint64
	Failed      []hexBytes `json:"failed_installations"`
	Permissions struct {
		AddAdmin          string            `json:"add_admin"`
		AddMember         string            `json:"add_member"`
		RemoveAdmin       string            `json:"remove_admin"`
		RemoveMember      string            `json:"remove_member"`
		UpdatePermissions string            `json:"update_permissions"`
		UpdateMetadata    map[string]string `json:"update_metadata"`
	}
	Leaves []struct {
		Index         uint32   `json:"leaf_index"`
		InboxID       string   `json:"inbox_id"`
		Installation  hexBytes `json:"installation_key"`
		EncryptionKey hexBytes `json:"encryption_key"`
	}
}

// TestPassiveJoin replays what real clients did to a group, through the eyes of
// each joiner with its own keys: every state, text, message id and verdict must
// be what the real clients had.
func TestPassiveJoinVectors(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(vectors(t), "passive*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no passive*.json: %v", err)
	}
	for _, path := range files {
		var f passiveFile
		readJSON(t, path, &f)
		cases, failed := 0, 0
		for _, s := range f.Scenarios {
			logs := s.identities(t)
			for _, j := range s.Joiners {
				cases++
				if !t.Run(j.Label, func(t *testing.T) { s.replay(t, j, logs) }) {
					failed++
				}
			}
		}
		report(t, filepath.Base(path), cases, failed)
	}
}

func (s *scenario) identities(t *testing.T) map[string]*inbox {
	logs := map[string]*inbox{}
	for _, l := range s.Identity {
		in := &inbox{id: l.InboxID}
		for _, u := range l.Updates {
			update, err := identity.Decode(u.Update)
			if err != nil {
				t.Fatal(err)
			}
			in.append(t, u.SequenceID, time.Time{}, update)
		}
		logs[l.InboxID] = in
	}
	return logs
}

// A viewer is one joiner's replica and everything it said.
type viewer struct {
	t       *testing.T
	replica *group.Replica
	events  []group.Event
	rows    rows
	bodies  sharedRows
	need    bool
}

func (v *viewer) carry(fx group.Effects) {
	for _, r := range fx.Save {
		if r.Table.Shared() {
			v.bodies.put(v.t, r)
		} else {
			v.rows.put(r)
		}
	}
	v.events = append(v.events, fx.Emit...)
	v.need = len(fx.Resolve) > 0
}

func (v *viewer) step(in group.Input) {
	v.events = nil
	for {
		fx, err := v.replica.Step(in)
		if err != nil {
			v.t.Fatal(err)
		}
		v.carry(fx)
		if !v.need {
			return
		}
		in = group.Resolved{}
	}
}

// event returns the event of a type among those of the last step.
func event[E group.Event](v *viewer) (e E, ok bool) {
	for _, x := range v.events {
		if e, ok := x.(E); ok {
			return e, true
		}
	}
	return e, false
}

// replay returns the joiner's view at the end of the scenario.
func (s *scenario) replay(t *testing.T, j vectorJoiner, logs map[string]*inbox) *viewer {
	signer, err := mls.NewSigner(mls.MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519, j.SignatureSeed)
	if err != nil {
		t.Fatal(err)
	}
	env := group.Env{
		Signer:   signer,
		Inbox:    j.InboxID,
		Shared:   memo{},
		Identity: func(id string, seq uint64, by time.Time) (*identity.State, bool) { return logs[id].at(seq, by) },
	}
	group.RecordAll(&env)
	secrets := j.secrets(t)
	v := &viewer{t: t, rows: rows{}, bodies: sharedRows{}}
	for i, w := range j.Welcomes {
		e, err := group.ParseWelcome(w.Input)
		if err != nil {
			t.Fatal(err)
		}
		var welcome group.Welcome
		if w.Kind == "pointer" {
			p, err := group.OpenPointer(e, secrets)
			if err != nil {
				t.Fatal(err)
			}
			pointee, err := group.ParseWelcome(w.Pointee.Input)
			if err != nil {
				t.Fatal(err)
			}
			welcome, err = p.Open(pointee)
			if err != nil {
				t.Fatal(err)
			}
		} else if welcome, err = group.OpenWelcome(e, secrets); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(welcome.Data, w.Expect.MLSMessage) || welcome.Cursor != w.Expect.Cursor {
			t.Fatalf("welcome %d unwraps to something else", w.ID)
		}
		r, fx, err := group.Join(env, group.JoinConfig{
			Welcome: welcome, Secrets: secrets, WelcomeID: w.ID, Created: w.CreatedNS.Time, Previous: v.replica})
		if err != nil {
			t.Fatalf("welcome %d: %v", w.ID, err)
		}
		v.replica, v.events = r, nil
		v.carry(fx)
		if got := uint32(r.Group().OwnLeaf()); got != w.Expect.OwnLeaf || r.AddedBy() != w.Expect.Adder {
			t.Errorf("joined at leaf %d by %s", got, r.AddedBy())
		}
		w.Expect.State.check(t, "welcome", r)
		m, _ := event[group.MessageChanged](v)
		if w.Transcript.MessageID != nil && !bytes.Equal(m.Message.ID[:], w.Transcript.MessageID) {
			t.Errorf("welcome transcript %s of key %q and content %x, want %q and %x", m.Message.ID, m.Message.Key,
				m.Message.Content, w.Transcript.Key, w.Transcript.Content)
		}
		until := ^uint64(0)
		if i+1 < len(j.Welcomes) {
			until = j.Welcomes[i+1].ID
		}
		for _, e := range s.Envelopes {
			if e.ID < until && e.ID > r.Cursor() {
				e.replay(t, v, j.Label)
			}
		}
	}
	// What was written can be read: every message again, and the same state.
	before := v.replica
	v.carry(group.Effects{Save: before.Passivate()})
	after, _, err := group.Load(env, reader{v.rows, v.bodies})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(after.EpochAuthenticator(), before.EpochAuthenticator()) || after.Cursor() != before.Cursor() {
		t.Error("loaded replica differs")
	}
	if _, err := group.History(reader{v.rows, v.bodies}, group.HistoryQuery{}); err != nil {
		t.Error(err)
	}
	return v
}

func (j *vectorJoiner) secrets(t *testing.T) *group.KeyPackageSecrets {
	k, err := group.ParseKeyPackage(nil, j.KeyPackage)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(k.MLS.Ref(), j.KeyPackageRef) {
		t.Error("key package ref differs")
	}
	s := &group.KeyPackageSecrets{
		KeyPackage: k,
		MLS:        &mls.KeyPackageSecrets{InitKey: []byte(j.InitPrivate), EncryptionKey: []byte(j.LeafPrivate)},
	}
	if len(j.XWingSeed) > 0 {
		s.WelcomeSeed = j.XWingSeed
	}
	b, err := s.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if s, err = group.UnmarshalKeyPackageSecrets(b); err != nil {
		t.Fatal(err)
	}
	return s
}

func (e *vectorEnvelope) replay(t *testing.T, v *viewer, label string) {
	epoch := v.replica.Epoch()
	v.step(group.Delivered{ID: e.ID, Time: e.CreatedNS.Time, Commit: e.IsCommit, Data: e.Data})
	if sees := e.PerJoiner[label]; sees != "visible" && sees != "removed" || e.Expect == nil {
		if v.replica.Epoch() != epoch {
			t.Errorf("envelope %d: applied, though not for us", e.ID)
		}
		return
	}
	x := e.Expect
	rejected, isRejected := event[group.Rejected](v)
	message, told := event[group.MessageChanged](v)
	if x.Kind == "application" {
		switch x.Result {
		case "ok":
			m := message.Message
			if !told || !bytes.Equal(m.ID[:], x.MessageID) || !bytes.Equal(m.Content, x.Content) ||
				m.Key != x.Key || m.Sender != x.Sender {
				t.Errorf("envelope %d: got message %v (%v), want %x", e.ID, m.ID, rejected.Reason, x.MessageID)
			}
		default:
			if told {
				t.Errorf("envelope %d: message shown, want %s", e.ID, x.Result)
			}
		}
		return
	}
	switch x.Result {
	case "applied", "removed":
		if x.Result == "applied" && v.replica.Epoch() != x.EpochAfter {
			t.Fatalf("envelope %d: epoch %d, want %d: %v %q", e.ID, v.replica.Epoch(), x.EpochAfter, rejected.Reason, v.replica.Stalled())
		}
		if v.replica.Active() != (x.Result == "applied") {
			t.Errorf("envelope %d: active %v", e.ID, v.replica.Active())
		}
		if x.State != nil && v.replica.Active() {
			x.State.check(t, fmt.Sprint("envelope ", e.ID), v.replica)
		}
		if e.Transcript.exact() && (!told || !bytes.Equal(message.Message.ID[:], e.Transcript.MessageID)) {
			t.Errorf("envelope %d: transcript %v, want %x", e.ID, message.Message.ID, e.Transcript.MessageID)
		}
	default:
		if !isRejected || v.replica.Epoch() != epoch {
			t.Fatalf("envelope %d: accepted, want %s", e.ID, x.Result)
		}
		// What the real engine calls invalid a policy may call so here, but not
		// the other way round.
		if x.Result == "rejected_by_policy" && errors.Is(rejected.Reason, mls.ErrInvalid) {
			t.Errorf("envelope %d: %v, want %s", e.ID, rejected.Reason, x.Result)
		}
	}
}

func (x *vectorState) check(t *testing.T, where string, r *group.Replica) {
	t.Helper()
	c, m := r.Group().Context(), r.Metadata()
	if r.Epoch() != x.Epoch || !bytes.Equal(r.EpochAuthenticator(), x.Authenticator) ||
		!bytes.Equal(c.TreeHash, x.TreeHash) || !bytes.Equal(c.ConfirmedTranscriptHash, x.Transcript) {
		t.Fatalf("%s: other MLS state at epoch %d, want %d", where, r.Epoch(), x.Epoch)
	}
	for i, e := range x.Extensions {
		if i >= len(c.Extensions) || !bytes.Equal(c.Extensions[i].Data, e.Data) ||
			fmt.Sprintf("%04x", uint16(c.Extensions[i].Type)) != hex.EncodeToString(e.Type) {
			t.Errorf("%s: extension %d differs", where, i)
		}
	}
	if uint8(m.Kind) != x.Immutable.ConversationType || m.Creator != x.Immutable.Creator {
		t.Errorf("%s: kind %d creator %s", where, m.Kind, m.Creator)
	}
	sorted := func(list []string) []string { return slices.Sorted(slices.Values(list)) }
	if !maps.Equal(m.Attributes, x.Attributes) || !slices.Equal(sorted(m.Admins), x.Admins) ||
		!slices.Equal(sorted(m.SuperAdmins), x.SuperAdmins) || !maps.Equal(m.Members, x.Membership) {
		t.Errorf("%s: metadata %+v, want %+v", where, m, x)
	}
	if len(m.Failed) != len(x.Failed) {
		t.Errorf("%s: %d failed installations, want %d", where, len(m.Failed), len(x.Failed))
	}
	p, q := &m.Permissions, &x.Permissions
	for got, want := range map[*group.Policy]string{&p.AddMember: q.AddMember, &p.RemoveMember: q.RemoveMember,
		&p.AddAdmin: q.AddAdmin, &p.RemoveAdmin: q.RemoveAdmin, &p.UpdatePermissions: q.UpdatePermissions} {
		if got.String() != want {
			t.Errorf("%s: policy %v, want %s", where, got, want)
		}
	}
	for name, want := range q.UpdateMetadata {
		if got := p.Metadata[name]; got.String() != want {
			t.Errorf("%s: policy of %s is %v, want %s", where, name, got, want)
		}
	}
	if len(p.Metadata) != len(q.UpdateMetadata) {
		t.Errorf("%s: %d metadata policies, want %d", where, len(p.Metadata), len(q.UpdateMetadata))
	}
	for _, leaf := range x.Leaves {
		got, ok := r.Group().Member(mls.LeafIndex(leaf.Index))
		if !ok || !bytes.Equal(got.SignatureKey, leaf.Installation) || !bytes.Equal(got.EncryptionKey, leaf.EncryptionKey) {
			t.Errorf("%s: leaf %d differs", where, leaf.Index)
		}
	}
	if n := r.Group().Size(); n != len(x.Leaves) {
		t.Errorf("%s: %d members, want %d", where, n, len(x.Leaves))
	}
}

// TestKeyPackageVectors reads real key packages, as a fetch would.
func TestKeyPackageVectors(t *testing.T) {
	var f struct {
		KeyPackages []struct {
			InboxID         string   `json:"inbox_id"`
			InstallationKey hexBytes `json:"installation_key"`
			KeyPackage      hexBytes `json:"key_package"`
			Ref             hexBytes `json:"key_package_ref"`
			UploadedNS      nanos    `json:"uploaded_ns"`
			Parsed          struct {
				XWing hexBytes `json:"xwing_public_key"`
			}
		} `json:"key_packages"`
	}
	path := filepath.Join(vectors(t), "key-packages.json")
	readJSON(t, path, &f)
	failed := 0
	for i, v := range f.KeyPackages {
		if !t.Run(strconv.Itoa(i), func(t *testing.T) {
			k, err := group.ParseKeyPackage(nil, v.KeyPackage)
			if err != nil {
				t.Fatal(err)
			}
			if k.Inbox != v.InboxID || !bytes.Equal(k.Installation(), v.InstallationKey) ||
				!bytes.Equal(k.MLS.Ref(), v.Ref) || !bytes.Equal(k.MLS.Bytes(), v.KeyPackage) {
				t.Error("parsed into something else")
			}
			if !bytes.Equal(k.WelcomeKey(), v.Parsed.XWing) {
				t.Error("other welcome key")
			}
			at := v.UploadedNS.Time
			if !k.ValidAt(at) || k.ValidAt(at.Add(85*24*time.Hour)) || k.ValidAt(at.Add(-2*time.Hour)) {
				t.Error("lifetime misjudged")
			}
		}) {
			failed++
		}
	}
	report(t, "key-packages.json", len(f.KeyPackages), failed)
}

// TestCapturedBytes decodes what real clients put on the wire and encodes it
// again, byte for byte.
func TestCapturedBytes(t *testing.T) {
	for _, kind := range []struct {
		glob  string
		again func([]byte) ([]byte, error)
	}{
		{"gm_*.bin", func(b []byte) ([]byte, error) {
			m, err := (*mls.Realm)(nil).Parse(b)
			if err != nil {
				return nil, err
			}
			data, err := group.DecodeGroupMessage(group.EncodeGroupMessage(m.Bytes(), make([]byte, 32), true))
			return data, err
		}},
		{"kp_*.bin", func(b []byte) ([]byte, error) {
			k, err := group.ParseKeyPackage(nil, b)
			if err != nil {
				return nil, err
			}
			return k.MLS.Bytes(), nil
		}},
		{"welcome_*.bin", func(b []byte) ([]byte, error) {
			if _, err := group.ParseWelcome(b); err != nil {
				return nil, err
			}
			var m mlsapi.WelcomeMessageInput
			if err := proto.Unmarshal(b, &m); err != nil {
				return nil, err
			}
			return proto.MarshalOptions{Deterministic: true}.Marshal(&m)
		}},
	} {
		files, _ := filepath.Glob(filepath.Join(vectors(t), kind.glob))
		if len(files) == 0 {
			t.Errorf("no %s", kind.glob)
		}
		failed := 0
		for _, path := range files {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := kind.again(b); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%s: %v", filepath.Base(path), err)
				failed++
			}
		}
		report(t, strings.Replace(kind.glob, "_*", "", 1), len(files), failed)
	}
}
