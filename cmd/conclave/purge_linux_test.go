package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	sendMessages  = "/xmtp.mls.api.v1.MlsApi/SendGroupMessages"
	queryMessages = "/xmtp.mls.api.v1.MlsApi/QueryGroupMessages"
)

// framed is what anybody can make who has no group: random bytes, 16 KiB or more,
// framed as a commit of the group (RFC 9420, Section 6.3).
func framed(group []byte, size int) []byte {
	b := append([]byte{0, 1, 0, 2, 16}, group...) // mls10, mls_private_message
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0)   // epoch 0, commit, no authenticated data
	b = append(b, 1, 7, 0x80|byte(size>>24), byte(size>>16), byte(size>>8), byte(size))
	junk := make([]byte, size)
	rand.Read(junk)
	return append(b, junk...)
}

// from is a client with an address of its own.
func from(t *testing.T, address string) *http.Client {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	transport := &http.Transport{DialContext: dialer.DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// TestPurge proves that a flood of junk from one address is stopped by its budget
// and hurts nobody else; that what it left is listed once nobody has read it for
// long enough, and nothing that somebody reads; and that only who may delete it
// deletes it, while the log is served and while it is not.
func TestPurge(t *testing.T) {
	dir := t.TempDir()
	secret := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(name+"'s password\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	host, operator, log := secret("host"), secret("operator"), filepath.Join(dir, "log")
	s := begin(t, "serve", "--dir", log, "--listen", "127.0.0.1:0", "--xmtp=127.0.0.1:0", "--xmtp-web=", "--keep-unread", "6s",
		"--user", "host", "--password-file", host, "--operator-user", "operator", "--operator-password-file", operator,
		"--caller-bytes", "1kB:4MB")
	api := after(s.sees("XMTP API at"), "at ")
	url := after(s.sees("serving"), "at ")

	send := func(h *http.Client, message []byte) (int, string) {
		return post(t, h, api+sendMessages, "", fmt.Sprintf(`{"messages":[{"v1":{"data":%q}}]}`, base64.StdEncoding.EncodeToString(message)))
	}
	held := func(h *http.Client, group []byte) int {
		code, answer := post(t, h, api+queryMessages, "", fmt.Sprintf(`{"groupId":%q}`, base64.StdEncoding.EncodeToString(group)))
		if code != http.StatusOK {
			t.Errorf("query: %d %s", code, answer)
		}
		return strings.Count(answer, `"createdNs"`)
	}
	live, honest, flood := []byte("a living group.."), from(t, "127.0.0.2"), from(t, "127.0.0.3")
	if code, answer := send(honest, framed(live, 20_000)); code != http.StatusOK {
		t.Fatalf("honest: %d %s", code, answer)
	}
	ctx, stop := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	reading.Go(func() {
		for look := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-look.C:
				held(honest, live)
			case <-ctx.Done():
				look.Stop()
				return
			}
		}
	})

	var invented [][]byte
	for len(invented) < 100 {
		group := make([]byte, 16)
		rand.Read(group)
		code, answer := send(flood, framed(group, 512<<10))
		if code == http.StatusTooManyRequests && strings.Contains(answer, "over budget: the caller's bytes: ask again in ") {
			break
		}
		if code != http.StatusOK {
			t.Fatalf("junk: %d %s", code, answer)
		}
		invented = append(invented, group)
	}
	if len(invented) != 7 { // of 512 KiB each, in 4 MB
		t.Errorf("%d messages of junk are taken", len(invented))
	}
	if code, answer := send(honest, framed(live, 20_000)); code != http.StatusOK {
		t.Errorf("honest, while another floods: %d %s", code, answer)
	}

	served := func(user, file string, more ...string) []string {
		return append([]string{"purge", "--nats", url, "--user", user, "--password-file", file}, more...)
	}
	until := func(says string, args ...string) string {
		t.Helper()
		look := time.NewTicker(100 * time.Millisecond)
		defer look.Stop()
		for deadline := time.After(time.Minute); ; {
			out, _, err := output(t, "", args...)
			if err == nil && strings.Contains(out, says) {
				return out
			}
			select {
			case <-look.C:
			case <-deadline:
				t.Fatalf("%v never says %q, but\n%s%v", args, says, out, err)
			}
		}
	}
	table := until(fmt.Sprintf("%d groups", len(invented)), served("operator", operator)...)
	for _, group := range invented {
		if !strings.Contains(table, hex.EncodeToString(group)) {
			t.Errorf("%x is not listed in\n%s", group, table)
		}
	}
	if strings.Contains(table, hex.EncodeToString(live)) || !strings.Contains(table, "nothing is deleted: --yes deletes them") {
		t.Errorf("a dry run says\n%s", table)
	}
	if _, _, err := output(t, "", served("host", host, "--yes")...); err == nil || !strings.HasPrefix(err.Error(), "0 of 7 groups are deleted: only an operator deletes, see serve --operator-user: ") {
		t.Errorf("a host deletes: %v", err)
	}
	if _, _, err := output(t, "", "purge", "--nats", url, "--yes"); err == nil {
		t.Error("a stranger deletes")
	}
	if _, _, err := output(t, "", "purge", "--dir", log, "--yes"); err == nil || !strings.HasSuffix(err.Error(), "where it is served, give --nats and its operator") {
		t.Errorf("beside serve: %v", err)
	}
	until(fmt.Sprintf("%d groups", len(invented)), served("operator", operator, "--dry-run")...) // all of them still
	until(fmt.Sprintf("deleted %d groups", len(invented)), served("operator", operator, "--yes")...)
	for _, group := range invented {
		if n := held(honest, group); n > 0 {
			t.Errorf("%x holds %d messages", group, n)
		}
	}
	if n := held(honest, live); n != 2 {
		t.Errorf("the living group holds %d messages, want 2", n)
	}
	stop()
	reading.Wait()
	s.ends()
	if out, _, err := output(t, "", "log", "check", "--dir", log); err != nil {
		t.Errorf("log check: %v\n%s", err, out)
	}
	until("deleted 1 groups", "purge", "--dir", log, "--yes")
	if out, _, err := output(t, "", "log", "check", "--dir", log); err != nil {
		t.Errorf("log check: %v\n%s", err, out)
	}
}
