package badger_test

import (
	"archive/zip"
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/conclave-chat/conclave/persistence"
	"github.com/conclave-chat/conclave/persistence/badger"
)

var update = flag.Bool("update", false, "write testdata/golden-v1.zip anew")

const golden = "testdata/golden-v1.zip"

var (
	goldenInstallation = [32]byte{1, 2, 3}
	goldenKey          = persistence.Key{4, 5, 6}
	goldenSecret       = [32]byte{7, 8, 9}
	goldenGroup        = []byte("group of 16 byte")
)

// A store of format 1 opens for ever: with rows in a table, rows in the
// journal, a row in pieces and each kind of sealed record.
func TestGoldenStoreOpens(t *testing.T) {
	if *update {
		writeGolden(t)
	}
	archive, err := zip.OpenReader(golden)
	check(t, err)
	defer archive.Close()
	dir := t.TempDir()
	check(t, os.CopyFS(dir, archive))
	s := open(t, config(dir))
	v, err := persistence.OpenVault(t.Context(), s, goldenInstallation, goldenKey)
	check(t, err)
	n := 0
	check(t, v.Scan(t.Context(), persistence.RecordType(6), goldenGroup, nil, func(suffix, plaintext []byte) bool {
		if string(plaintext) != fmt.Sprintf("message %d", n) || !bytes.Equal(suffix, fmt.Appendf(goldenGroup[:16:16], "%02d", n)) {
			t.Errorf("record %d is %q at %q", n, plaintext, suffix)
		}
		n++
		return true
	}))
	if n != 20 {
		t.Errorf("%d records", n)
	}
	blob, err := persistence.HostGet(t.Context(), s, "large")
	check(t, err)
	if !bytes.Equal(blob, make([]byte, 300<<10)) {
		t.Error("the large record is another")
	}
	body, err := persistence.GetShared(t.Context(), s, persistence.Realm{1}, []byte("1"), goldenSecret)
	check(t, err)
	host, err := persistence.HostGet(t.Context(), s, "incarnation")
	check(t, err)
	pins, err := persistence.Pins(t.Context(), s, goldenGroup)
	check(t, err)
	if string(body) != "body" || string(host) != "one" || len(pins) != 1 || pins[0] != (persistence.Pin{Installation: goldenInstallation, LowestEpoch: 7}) {
		t.Error(string(body), string(host), pins)
	}
}

// writeGolden makes the store, and copies it while it is open: a killed
// process's, so that the journal counts.
func writeGolden(t *testing.T) {
	dir := t.TempDir()
	s, err := badger.Open(t.Context(), config(dir))
	check(t, err)
	v, err := persistence.CreateVault(t.Context(), s, goldenInstallation, goldenKey, bytes.NewReader(make([]byte, 32)))
	check(t, err)
	messages := func(from, to int) {
		var b persistence.Batch
		for n := from; n < to; n++ {
			v.Put(&b, persistence.RecordType(6), fmt.Appendf(goldenGroup[:16:16], "%02d", n), fmt.Appendf(nil, "message %d", n))
		}
		check(t, s.Apply(t.Context(), &b, persistence.Durable))
	}
	messages(0, 10)
	check(t, s.Close())
	s = open(t, config(dir))
	messages(10, 20)
	var b persistence.Batch
	persistence.HostPut(&b, "large", make([]byte, 300<<10))
	check(t, v.PutPin(&b, goldenGroup, 7))
	persistence.PutShared(&b, persistence.Realm{1}, []byte("1"), goldenSecret, []byte("body"))
	persistence.HostPut(&b, "incarnation", []byte("one"))
	check(t, s.Apply(t.Context(), &b, persistence.Durable))
	copied := killed(t, s, dir)
	for _, cache := range []string{"tables/*.mem", "tables/*.vlog", "tables/DISCARD", "tables/KEYREGISTRY", "LOCK"} {
		paths, err := filepath.Glob(filepath.Join(copied, cache))
		check(t, err)
		for _, path := range paths {
			check(t, os.Remove(path))
		}
	}
	var archive bytes.Buffer
	w := zip.NewWriter(&archive)
	check(t, w.AddFS(os.DirFS(copied)))
	check(t, w.Close())
	check(t, os.MkdirAll(filepath.Dir(golden), 0o755))
	check(t, os.WriteFile(golden, archive.Bytes(), 0o644))
}
