package group_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave/group"
)

var writeStore = flag.String("write-store", "", "write testdata/stores/NAME.json as this version does")

// A storedRow is one row of a golden store; or an envelope of its group's log,
// with which a replica compares what it has read.
type storedRow struct {
	Table              group.Table
	Key, Value, Secret []byte
	ID                 uint64      `json:",omitempty"` // of an envelope: its payload is the Value
	Topic              group.Topic `json:",omitempty"`
}

// storyOfFormats is the life whose rows the golden stores are: a member that has
// joined, read, sent, renewed its keys, and has a message on its way.
var storyOfFormats = []string{
	"people alice bob", "create alice", "add alice bob", "sync", "send alice kept", "send bob mine", "sync",
	"rotate bob", "sync", "send bob waits",
}

// Rows of every format that was ever written load, and what was on its way goes
// on. A new format leaves its store beside the older ones: -write-store NAME.
func TestStoredFormats(t *testing.T) {
	if *writeStore != "" {
		w := newWorld(t)
		for _, line := range storyOfFormats {
			w.run(words(line))
		}
		var stored []storedRow
		for table, rows := range w.homes["bob"].rows {
			for key, value := range rows {
				stored = append(stored, storedRow{Table: table, Key: []byte(key), Value: value})
			}
		}
		for table, rows := range w.bodies {
			for key, row := range rows {
				stored = append(stored, storedRow{Table: table, Key: []byte(key), Value: row.Value, Secret: row.Secret})
			}
		}
		for _, e := range w.log {
			if e.topic != group.TopicWelcomes {
				stored = append(stored, storedRow{Key: []byte(e.key), Value: e.payload, ID: e.id, Topic: e.topic})
			}
		}
		b, err := json.Marshal(stored)
		w.must(err)
		w.must(os.WriteFile(filepath.Join("testdata/stores", *writeStore+".json"), b, 0o644))
	}
	files, err := filepath.Glob("testdata/stores/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stores: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			w := newWorld(t)
			for _, line := range storyOfFormats[:1] {
				w.run(words(line))
			}
			b, err := os.ReadFile(file)
			w.must(err)
			var stored []storedRow
			w.must(json.Unmarshal(b, &stored))
			bob := w.homes["bob"]
			for _, r := range stored {
				if r.ID != 0 {
					w.log, w.lastID = append(w.log, entry{r.ID, w.now, r.Topic, string(r.Key), r.Value}), r.ID
					continue
				}
				row := group.Row{Table: r.Table, Key: r.Key, Value: r.Value, Secret: r.Secret}
				if r.Table.Shared() {
					w.bodies.put(t, row)
				} else {
					bob.rows.put(row)
				}
			}
			bob.crash()
			w.run(words("history bob"))
			w.run(words("show bob"))
			if bob.replica == nil || bob.replica.KeysUpdated().IsZero() {
				t.Fatalf("the store does not load:\n%s", w.out.String())
			}
			if kind := bob.replica.Summary().Kind; kind != group.KindGroup {
				t.Errorf("loaded as kind %d", kind)
			}
			bob.deliver()
			if len(bob.outbox) != 1 {
				t.Error("the message that was on its way does not go on")
			}
			got := w.out.String()
			for _, line := range []string{
				`bob has alice: (added bob)`, `bob has alice: "kept"`, `bob has bob: "mine"`,
				`bob has bob: "waits" [unpublished, 0 attempts]`, `bob sees epoch 2,`,
			} {
				if !strings.Contains(got, line) {
					t.Errorf("no %q in:\n%s", line, got)
				}
			}
		})
	}
}
