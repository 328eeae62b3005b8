package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A session is a command that runs while a test talks to it.
type session struct {
	t     *testing.T
	args  []string
	in    *io.PipeWriter
	lines chan string
	stop  context.CancelFunc
	done  chan error
}

func begin(t *testing.T, args ...string) *session {
	t.Helper()
	return beginLogged(t, io.Discard, args...)
}

// beginLogged starts a command whose standard error goes to a writer.
func beginLogged(t *testing.T, errw io.Writer, args ...string) *session {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	s := &session{t: t, args: args, in: inW, lines: make(chan string, 1000), stop: stop, done: make(chan error, 1)}
	go func() {
		defer close(s.lines)
		for scan := bufio.NewScanner(outR); scan.Scan(); {
			s.lines <- scan.Text()
		}
	}()
	go func() {
		err := run(ctx, args, inR, outW, errw)
		outW.Close()
		inR.Close()
		s.done <- err
	}()
	return s
}

// sees waits for a line that contains text, and returns it.
func (s *session) sees(text string) string {
	s.t.Helper()
	var before []string
	for line := range s.lines {
		if strings.Contains(line, text) {
			return line
		}
		before = append(before, line)
	}
	s.t.Fatalf("ended without %q, after\n%s\n%v", text, strings.Join(before, "\n"), <-s.done)
	return ""
}

func (s *session) types(format string, args ...any) { fmt.Fprintf(s.in, format+"\n", args...) }

// ends stops the command and waits for its end.
func (s *session) ends() {
	s.t.Helper()
	s.stop()
	for range s.lines {
	}
	if err := <-s.done; err != nil {
		s.t.Errorf("%s ends with %v", s.args, err)
	}
	s.in.Close()
}

// after returns what follows a mark in a line.
func after(line, mark string) string {
	_, rest, _ := strings.Cut(line, mark)
	rest, _, _ = strings.Cut(rest, ",")
	return strings.TrimSpace(rest)
}

// TestChat proves that two people talk over a served backend, that the marks
// tell what became of each line, and that a backend which goes away and comes
// back loses nothing.
func TestChat(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "passphrase")
	if err := os.WriteFile(secret, []byte("a lamp in the fog\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	backend := begin(t, "serve", "--dir", filepath.Join(dir, "backend"), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
	health := strings.TrimSuffix(after(backend.sees("health"), "at "), "/readyz")
	url := after(backend.sees("serving"), "at ")
	for _, path := range []string{"/livez", "/readyz", "/metrics"} {
		response, err := http.Get(health + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("%s answers %s", path, response.Status)
		}
	}
	http.DefaultClient.CloseIdleConnections()

	chat := func(name string, more ...string) *session {
		return begin(t, append([]string{"chat", "--dir", filepath.Join(dir, name), "--nats", url, "--passphrase-file", secret, "--insecure-light"}, more...)...)
	}
	bo := chat("bo")
	address := after(bo.sees("you are"), "you are ")
	al := chat("al", "--new-group", "Harbour", "--with", address)
	al.sees("— Harbour, ")
	bo.sees("— Harbour, ")
	al.types("hello")
	al.sees("… hello")
	al.sees("✓ hello")
	bo.sees(": hello")
	bo.types("hello yourself")
	bo.sees("✓ hello yourself")
	al.sees(": hello yourself")
	al.types("/name Quay")
	bo.sees(`set the group name to "Quay"`)
	al.types("/members")
	al.sees(address)
	al.types("/dance")
	al.sees("! there is no /dance")

	backend.ends()
	al.types("into the void")
	al.sees("… into the void")
	backend = begin(t, "serve", "--dir", filepath.Join(dir, "backend"), "--listen", strings.TrimPrefix(url, "nats://"))
	backend.sees("serving")
	al.sees("✓ into the void")
	bo.sees(": into the void")

	al.types("/quit")
	al.ends()
	al = chat("al")
	al.sees("— Quay, ")
	al.sees("you: into the void")
	al.ends()
	bo.ends()
	backend.ends()
}

// TestChatOverXMTP proves that two people talk though one of them reaches the
// backend by XMTP's API, as a network of its own.
func TestChatOverXMTP(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "passphrase")
	if err := os.WriteFile(secret, []byte("a lamp in the fog\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	backend := begin(t, "serve", "--dir", filepath.Join(dir, "backend"), "--listen", "127.0.0.1:0", "--xmtp", "127.0.0.1:0", "--xmtp-web=")
	network := after(backend.sees("XMTP API"), "at ")
	nats := after(backend.sees("serving"), "at ")
	chat := func(name string, more ...string) *session {
		return begin(t, append([]string{"chat", "--dir", filepath.Join(dir, name), "--passphrase-file", secret, "--insecure-light"}, more...)...)
	}
	bo := chat("bo", "--xmtp", network)
	al := chat("al", "--nats", nats, "--new-group", "Harbour", "--with", after(bo.sees("you are"), "you are "))
	bo.sees("— Harbour, ")
	al.types("hello")
	bo.sees(": hello")
	bo.types("hello yourself")
	bo.sees("✓ hello yourself")
	al.sees(": hello yourself")
	bo.types("/name Quay")
	al.sees(`set the group name to "Quay"`)
	al.ends()
	bo.ends()
	backend.ends()
}

// TestChatWrongPassphrase proves that a wallet does not open with another
// passphrase, and that this is said.
func TestChatWrongPassphrase(t *testing.T) {
	dir := t.TempDir()
	if _, made, err := loadWallet(dir, "right", true); err != nil || !made {
		t.Fatal(made, err)
	}
	_, _, err := loadWallet(dir, "wrong", true)
	if err == nil || !strings.HasPrefix(err.Error(), "the passphrase does not open ") {
		t.Errorf("says %v", err)
	}
	if _, made, err := loadWallet(dir, "right", true); err != nil || made {
		t.Errorf("made %v, %v", made, err)
	}
}

// TestHarmless proves that text from others cannot steer the terminal.
func TestHarmless(t *testing.T) {
	if got := harmless("a\x1b[2Jb\nc\u202ed\u009b"); got != "a�[2Jb c�d�" {
		t.Errorf("%q", got)
	}
}

// TestChatFromAPipe proves that a line which could not be sent is an error of the
// command, whether nobody took it or nobody answered.
func TestChatFromAPipe(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "passphrase")
	if err := os.WriteFile(secret, []byte("a lamp in the fog\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	backend := begin(t, "serve", "--dir", filepath.Join(dir, "backend"), "--listen", "127.0.0.1:0")
	url := after(backend.sees("serving"), "at ")
	chat := func(input string, more ...string) error {
		_, _, err := output(t, input, append([]string{"chat", "--dir", filepath.Join(dir, "al"), "--nats", url, "--passphrase-file", secret, "--insecure-light"}, more...)...)
		return err
	}
	if err := chat("to nobody\n/quit\n"); err == nil || err.Error() != "lines that were not sent: 1; see what is said above" || exitCode(err) != exitFailed {
		t.Errorf("without a group: %v", err)
	}
	if err := chat("/new Harbour\nhello\n/name Quay\n"); err != nil {
		t.Errorf("what was sent: %v", err)
	}
	if err := chat("again\n"); err != nil {
		t.Errorf("what was sent: %v", err)
	}
	backend.ends()
	if err := chat("hello\n"); err == nil {
		t.Error("without a backend")
	}
}

// TestVersion proves that the program tells what it was built from.
func TestVersion(t *testing.T) {
	out, _, err := output(t, "", "--version")
	if err != nil || !strings.HasPrefix(out, "conclave version ") || !strings.Contains(out, " go1.") || strings.Count(out, "\n") != 1 {
		t.Errorf("%q %v", out, err)
	}
}
