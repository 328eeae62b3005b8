package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLogCheck proves that log check tells what a log holds and names what is
// damaged, that serve does not open such a log, and does with --accept-loss.
func TestLogCheck(t *testing.T) {
	dir := t.TempDir()
	serve := []string{"serve", "--dir", dir, "--listen", "127.0.0.1:0"}
	s := begin(t, serve...)
	url := after(s.sees("serving"), "at ")
	secret := filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(secret, []byte("a lamp in the fog\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	chat := begin(t, "chat", "--dir", t.TempDir(), "--nats", url, "--passphrase-file", secret, "--insecure-light", "--new-group", "Harbour")
	chat.sees("— Harbour, ")
	if _, _, err := output(t, "", "log", "check", "--dir", dir); err == nil || !strings.Contains(err.Error(), "folder is in use by another process") {
		t.Errorf("while it is served: %v", err)
	}
	chat.ends()
	s.ends()

	check := func() (string, error) {
		out, _, err := output(t, "", "log", "check", "--dir", dir)
		return out, err
	}
	out, err := check()
	if err != nil || !strings.HasPrefix(out, "stream CONCLAVE_0: ") || !strings.HasSuffix(out, "every entry is as it was written\n") {
		t.Errorf("sound: %v\n%s", err, out)
	}
	path := filepath.Join(dir, "bus/jetstream/$G/streams/CONCLAVE_0/msgs/1.blk")
	b := []byte(read(t, path))
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err = check()
	if err == nil || exitCode(err) != exitFailed || !strings.HasPrefix(err.Error(), "bus: log is damaged: stream CONCLAVE_0, sequence ") || strings.Count(out, "fault: stream CONCLAVE_0, sequence ") != 1 {
		t.Errorf("damaged: %v\n%s", err, out)
	}
	out, _, err = output(t, "", "log", "check", "--dir", dir, "--json")
	var report struct {
		Streams []struct{ Last int }
		Faults  []struct{ Sequence int }
	}
	if jsonErr := json.Unmarshal([]byte(out), &report); err == nil || jsonErr != nil || len(report.Streams) != 1 || len(report.Faults) != 1 || report.Faults[0].Sequence == 0 {
		t.Errorf("as JSON: %v, %v\n%s", err, jsonErr, out)
	}
	if _, _, err := output(t, "", serve...); err == nil || !strings.Contains(err.Error(), "log is damaged: stream CONCLAVE_0, sequence ") || !strings.Contains(err.Error(), "--accept-loss") {
		t.Errorf("serve: %v", err)
	}
	s = begin(t, append(serve, "--accept-loss")...)
	s.sees("serving")
	s.ends()
	if out, err := check(); err != nil {
		t.Errorf("accepted: %v\n%s", err, out)
	}
	for _, test := range []struct{ dir, want string }{{"", "give --dir, the directory of serve or of a host"}, {t.TempDir(), "holds no log"}} {
		if _, _, err := output(t, "", "log", "check", "--dir", test.dir); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v", test.dir, err)
		}
	}
}
