package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/bus/jetstream"
)

// TestServeSaysWhichPortIsTaken proves that serve says at once which port it
// cannot have, and lets the log's directory go.
func TestServeSaysWhichPortIsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	_, port, err := net.SplitHostPort(taken)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, test := range []struct{ flags, want string }{
		{"--listen " + taken, "jetstream: cannot listen: port " + port + " is taken: stop what listens at " + taken + ", or give another port: "},
		{"--listen 127.0.0.1:0 --http " + taken, "--http: port " + port + " is taken: "},
		{"--listen 127.0.0.1:0 --xmtp=" + taken, "--xmtp: port " + port + " is taken: "},
		{"--listen 127.0.0.1:0 --xmtp=127.0.0.1:0 --xmtp-web " + taken, "--xmtp-web: port " + port + " is taken: "},
		{"--listen 127.0.0.1:70000", "jetstream: cannot listen: 127.0.0.1:70000 is nothing to listen at: "},
		{"--listen 127.0.0.1:0 --http 203.0.113.7:0", "--http: 203.0.113.7 is no address of this machine: "},
		{"--listen 127.0.0.1:0 --xmtp=203.0.113.7:0", "--xmtp: 203.0.113.7 is no address of this machine: "},
	} {
		_, _, err := output(t, "", append([]string{"serve", "--dir", dir}, strings.Fields(test.flags)...)...)
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: %v", test.flags, err)
		}
	}
	s := begin(t, "serve", "--dir", dir, "--listen", "127.0.0.1:0")
	s.sees("serving")
	_, _, err = output(t, "", "serve", "--dir", dir, "--listen", "127.0.0.1:0")
	if want := "jetstream: folder is in use by another process or bus: stop that one, or give another folder: " + filepath.Join(dir, "bus"); err == nil || err.Error() != want {
		t.Errorf("directory in use: %v", err)
	}
	s.ends()
}

// TestServeIsInterruptedWhileItOpens proves that a serve which has not come to
// serving ends at once, and lets the log's directory go.
func TestServeIsInterruptedWhileItOpens(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := run(ctx, []string{"serve", "--dir", dir, "--listen", "127.0.0.1:0"}, strings.NewReader(""), io.Discard, io.Discard)
	if err == nil || err.Error() != "interrupted before the log was open: nothing has changed" {
		t.Errorf("says %v", err)
	}
	s := begin(t, "serve", "--dir", dir, "--listen", "127.0.0.1:0")
	s.sees("serving")
	s.ends()

	// Nobody is at the other end: it waits, is not ready, and says why.
	s = begin(t, "serve", "--nats", "nats://127.0.0.1:1", "--http", "127.0.0.1:0")
	url := strings.TrimSuffix(after(s.sees("health"), "at "), "/livez")
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(answer.Body)
	answer.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if answer.StatusCode != http.StatusServiceUnavailable || string(body) != "not ready: opening\n" {
		t.Errorf("readyz: %d %s", answer.StatusCode, body)
	}
	s.stop()
	for range s.lines {
	}
	if err := <-s.done; err == nil || !errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), "no NATS server answers at nats://127.0.0.1:1: start one there, or give --dir: ") {
		t.Errorf("ends with %v", err)
	}
	s.in.Close()
}

// TestServeIsNotReadyWithoutNATS proves that a serve whose NATS server has gone
// says so to supervisors, over HTTP and over gRPC, with the reason.
func TestServeIsNotReadyWithoutNATS(t *testing.T) {
	there, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", Nodes: jetstream.Credentials{User: "node", Password: "n"}})
	if err != nil {
		t.Fatal(err)
	}
	s := begin(t, "serve", "--nats", strings.Replace(there.ClientURL(), "//", "//node:n@", 1), "--http", "127.0.0.1:0", "--xmtp=127.0.0.1:0")
	ready := strings.TrimSuffix(after(s.sees("health"), "at "), "/livez")
	api := after(s.sees("XMTP API at"), "at ")
	s.sees("serving")
	h := &http.Client{Transport: new(http.Transport)}
	defer h.CloseIdleConnections()
	asked := func() (code int, body, health string) {
		answer, err := h.Get(ready)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		b, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		_, health = post(t, h, api+askHealth, "", "{}")
		return answer.StatusCode, string(b), health
	}
	if code, body, health := asked(); code != http.StatusOK || !strings.Contains(health, `"SERVING"`) {
		t.Errorf("with NATS: %d %s, %s", code, body, health)
	}
	if err := there.Close(); err != nil {
		t.Fatal(err)
	}
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for deadline := time.After(20 * time.Second); ; {
		code, body, health := asked()
		if code == http.StatusServiceUnavailable && strings.HasPrefix(body, "not ready: unavailable: ") && strings.Contains(health, `"NOT_SERVING"`) {
			break
		}
		select {
		case <-look.C:
		case <-deadline:
			t.Fatalf("without NATS: %d %s, %s", code, body, health)
		}
	}
	s.ends()
}
