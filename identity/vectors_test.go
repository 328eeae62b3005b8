package identity_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
)

// The vectors were captured from a real client; see their own README.
func vectorsDir(t testing.TB) string {
	root := os.Getenv("CONCLAVE_VECTORS")
	if root == "" {
		t.Skip("CONCLAVE_VECTORS is not set (official files: github.com/mlswg/mls-implementations test-vectors; these lie beside them in xmtp/)")
	}
	return filepath.Join(root, "xmtp")
}

// report prints one line for each file where CONCLAVE_VECTORS_REPORT asks for it.
func report(file string, cases, passed int) {
	if os.Getenv("CONCLAVE_VECTORS_REPORT") != "" {
		fmt.Printf("%s %d %d %d 0\n", file, cases, passed, cases-passed)
	}
}

type scenario struct {
	Name    string `json:"name"`
	InboxID string `json:"inbox_id"`
	Updates []struct {
		SequenceID    uint64     `json:"sequence_id"`
		Update        hexBytes   `json:"update"`
		SignatureText string     `json:"signature_text"`
		Invalid       bool       `json:"invalid"`
		StateAfter    stateAfter `json:"state_after"`
	} `json:"updates"`
}

type stateAfter struct {
	InboxID            string       `json:"inbox_id"`
	RecoveryIdentifier string       `json:"recovery_identifier"`
	Members            []memberJSON `json:"members"`
	SeenSignatures     []hexBytes   `json:"seen_signatures"`
}

type memberJSON struct {
	Kind              string      `json:"kind"`
	Identifier        string      `json:"identifier"`
	AddedBy           *memberJSON `json:"added_by"`
	ClientTimestampNs *string     `json:"client_timestamp_ns"`
}

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// String gives a member one line, so that two lists of members can be compared.
func (m memberJSON) String() string {
	s := m.Kind + " " + m.Identifier
	if m.AddedBy != nil {
		s += " by " + m.AddedBy.Kind + " " + m.AddedBy.Identifier
	}
	if m.ClientTimestampNs != nil {
		s += " at " + *m.ClientTimestampNs
	}
	return s
}

func memberLine(m identity.Member) string {
	s := m.ID.Kind().String() + " " + m.ID.String()
	if !m.AddedBy.IsZero() {
		s += " by " + m.AddedBy.Kind().String() + " " + m.AddedBy.String() + " at " + strconv.FormatUint(m.AddedAt, 10)
	}
	return s
}

func readScenarios(t testing.TB) []scenario {
	b, err := os.ReadFile(filepath.Join(vectorsDir(t), "identity.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Scenarios []scenario `json:"scenarios"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	return file.Scenarios
}

// Every update of a real client gives the state that the real client had, and
// the one update that no client may accept is refused and changes nothing.
func TestVectorsOfRealUpdates(t *testing.T) {
	var cases, passed int
	for _, sc := range readScenarios(t) {
		var h identity.History
		for _, u := range sc.Updates {
			cases++
			ok := t.Run(fmt.Sprintf("%s/%d", sc.Name, u.SequenceID), func(t *testing.T) {
				update, err := identity.Decode(u.Update)
				if err != nil {
					t.Fatal(err)
				}
				if again, err := identity.Encode(update); err != nil || !bytes.Equal(again, u.Update) {
					t.Errorf("re-encoded update differs (%v)", err)
				}
				verified, err := identity.Verify(update, ethereum.Verifier{})
				if err != nil {
					t.Fatal(err)
				}
				before, beforeID := h.Latest(), h.LatestID()
				err = h.Append(u.SequenceID, time.Time{}, verified)
				if u.Invalid {
					if err == nil || h.Latest() != before || h.LatestID() != beforeID {
						t.Errorf("invalid update: err = %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if text, err := identity.SignatureText(update); text != u.SignatureText || err != nil {
					t.Errorf("signature text:\n%s\nwant:\n%s\n%v", text, u.SignatureText, err)
				}
				checkState(t, h.Latest(), u.StateAfter)
			})
			if ok {
				passed++
			}
		}
		checkEveryIDCanBeCited(t, &h, sc)
	}
	report("xmtp/identity.json", cases, passed)
}

func checkState(t *testing.T, got *identity.State, want stateAfter) {
	t.Helper()
	if got.InboxID() != want.InboxID || got.Recovery().String() != want.RecoveryIdentifier {
		t.Errorf("inbox %s recovery %s, want %s and %s", got.InboxID(), got.Recovery(), want.InboxID, want.RecoveryIdentifier)
	}
	var gotMembers, wantMembers []string
	for m := range got.Members() {
		gotMembers = append(gotMembers, memberLine(m))
	}
	for _, m := range want.Members {
		wantMembers = append(wantMembers, m.String())
	}
	slices.Sort(gotMembers)
	slices.Sort(wantMembers)
	if !slices.Equal(gotMembers, wantMembers) {
		t.Errorf("members:\n%s\nwant:\n%s", strings.Join(gotMembers, "\n"), strings.Join(wantMembers, "\n"))
	}
	seen := map[string]bool{}
	for _, s := range want.SeenSignatures {
		if len(s) == 65 {
			s, _ = ethereum.Canonical(s)
		}
		seen[string(s)] = true
		if !got.Seen(s) {
			t.Errorf("signature %x is not remembered", s)
		}
	}
	if got.SeenCount() != len(seen) {
		t.Errorf("%d signatures remembered, want %d", got.SeenCount(), len(seen))
	}
}

// Groups cite exact sequence ids: At answers for those of the log alone.
func checkEveryIDCanBeCited(t *testing.T, h *identity.History, sc scenario) {
	t.Helper()
	for _, u := range sc.Updates {
		s, ok := h.At(u.SequenceID)
		if ok == u.Invalid {
			t.Errorf("%s: At(%d) = %v", sc.Name, u.SequenceID, ok)
		}
		if ok {
			checkState(t, s, u.StateAfter)
		}
	}
	for _, id := range []uint64{0, 1, h.LatestID() + 1} {
		if _, ok := h.At(id); ok {
			t.Errorf("%s: a state at %d, which no update has", sc.Name, id)
		}
	}
}

// Captured updates decode, verify, fold, and encode to the bytes they came in.
func TestCapturedUpdatesRoundTrip(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(vectorsDir(t), "identity_*.bin"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no captured updates: %v", err)
	}
	for _, file := range files {
		ok := t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			update, err := identity.Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			if len(update.ProtoReflect().GetUnknown()) > 0 {
				t.Error("unknown fields")
			}
			if again, err := identity.Encode(update); err != nil || !bytes.Equal(again, b) {
				t.Errorf("re-encoded update differs (%v)", err)
			}
			verified, err := identity.Verify(update, ethereum.Verifier{})
			if err != nil {
				t.Fatal(err)
			}
			if s, err := identity.Fold(verified); err != nil || len(s.Installations()) != 1 {
				t.Errorf("fold: %v", err)
			}
		})
		passed := 0
		if ok {
			passed = 1
		}
		report("xmtp/"+filepath.Base(file), 1, passed)
	}
}
