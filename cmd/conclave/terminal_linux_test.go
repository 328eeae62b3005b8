package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A tty is a terminal of 60 columns whose screen a test looks at.
type tty struct {
	t       *testing.T
	own     *os.File // the test's end
	program *os.File // the program's

	mu      sync.Mutex
	changed *sync.Cond
	rows    [][]rune
	x, y    int
	ended   bool
}

const columns = 60

func newTTY(t *testing.T) *tty {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: columns})
	}
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &tty{t: t, own: os.NewFile(uintptr(fd), "ptmx"), program: program}
	s.changed = sync.NewCond(&s.mu)
	go s.show()
	t.Cleanup(func() { s.own.Close(); s.program.Close() }) // which ends whoever still reads
	return s
}

// show draws what the program prints: the part of a VT100 that it uses.
func (s *tty) show() {
	b, escape := make([]byte, 4096), ""
	var rest []byte
	for {
		n, err := s.own.Read(b)
		s.mu.Lock()
		rest = append(rest, b[:n]...)
		whole := strings.ToValidUTF8(string(rest), "")
		rest = nil
		for _, r := range whole {
			escape = s.draw(r, escape)
		}
		s.ended = err != nil
		s.changed.Broadcast()
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// draw draws one rune, or adds it to an escape sequence, which it returns.
func (s *tty) draw(r rune, escape string) string {
	for len(s.rows) <= s.y {
		s.rows = append(s.rows, nil)
	}
	switch {
	case r == 0x1b:
		return "\x1b"
	case escape == "\x1b" && r == '[', escape != "" && (r == '?' || r >= '0' && r <= '9' || r == ';'):
		return escape + string(r)
	case escape != "":
		n, _ := strconv.Atoi(strings.TrimPrefix(escape, "\x1b["))
		n = max(n, 1)
		switch r {
		case 'A':
			s.y = max(0, s.y-n)
		case 'B':
			s.y += n
		case 'C':
			s.x += n
		case 'D':
			s.x = max(0, s.x-n)
		case 'K':
			s.rows[s.y] = s.rows[s.y][:min(s.x, len(s.rows[s.y]))]
		}
		return ""
	case r == '\r':
		s.x = 0
	case r == '\n':
		s.y++
	case r == 0x7:
	default:
		if s.x == columns {
			s.x, s.y = 0, s.y+1
			for len(s.rows) <= s.y {
				s.rows = append(s.rows, nil)
			}
		}
		for len(s.rows[s.y]) <= s.x {
			s.rows[s.y] = append(s.rows[s.y], ' ')
		}
		s.rows[s.y][s.x] = r
		s.x++
	}
	return ""
}

func (s *tty) lines() (lines []string) {
	for _, row := range s.rows {
		lines = append(lines, strings.TrimRight(string(row), " "))
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

// until waits for a screen on which ok holds, and returns it.
func (s *tty) until(what string, ok func(lines []string) bool) []string {
	s.t.Helper()
	late := time.AfterFunc(30*time.Second, func() { s.mu.Lock(); s.ended = true; s.changed.Broadcast(); s.mu.Unlock() })
	defer late.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !ok(s.lines()) {
		if s.ended {
			s.t.Fatalf("the screen does not show %s:\n%s", what, strings.Join(s.lines(), "\n"))
		}
		s.changed.Wait()
	}
	return s.lines()
}

func (s *tty) sees(text string) []string {
	s.t.Helper()
	return s.until(fmt.Sprintf("%q", text), func(lines []string) bool { return strings.Contains(strings.Join(lines, "\n"), text) })
}

func (s *tty) types(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.own, text); err != nil {
		s.t.Fatal(err)
	}
}

// begin runs a command on the terminal. end interrupts it.
func (s *tty) begin(args ...string) (interrupt context.CancelFunc, done chan error) {
	ctx, interrupt := context.WithCancel(context.Background())
	done = make(chan error, 1)
	go func() { done <- run(ctx, args, s.program, s.program, s.program) }()
	return interrupt, done
}

// TestChatAtATerminal proves that what arrives does not land in what one types, that
// own lines stand on the screen once, that a command without a backend holds up
// nothing, that no line of the log is between, and that Ctrl-C ends it.
func TestChatAtATerminal(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "passphrase")
	if err := os.WriteFile(secret, []byte("a lamp in the fog\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	backend := begin(t, "serve", "--dir", filepath.Join(dir, "backend"), "--listen", "127.0.0.1:0")
	url := after(backend.sees("serving"), "at ")
	bo := begin(t, "chat", "--dir", filepath.Join(dir, "bo"), "--nats", url, "--passphrase-file", secret, "--insecure-light")
	screen := newTTY(t)
	_, done := screen.begin("chat", "--dir", filepath.Join(dir, "al"), "--nats", url, "--passphrase-file", secret, "--insecure-light",
		"--new-group", "Harbour", "--with", after(bo.sees("you are"), "you are "))
	bo.sees("— Harbour, ")
	last := func(text string) func([]string) bool {
		return func(lines []string) bool { return len(lines) > 0 && lines[len(lines)-1] == text }
	}
	screen.until("a prompt", last(">"))
	screen.types("half a")
	screen.until("what is typed", last("> half a"))
	bo.types("hello there")
	screen.sees(": hello there")
	lines := screen.until("what is typed below", last("> half a"))
	if !strings.HasSuffix(lines[len(lines)-2], ": hello there") {
		t.Errorf("above what is typed is %q", lines[len(lines)-2])
	}
	screen.types(" line\r")
	bo.sees(": half a line")
	screen.until("the next prompt", last(">"))
	long := strings.Repeat("x", 3*columns) + "end"
	screen.types(long + "\r")
	bo.sees(": " + long)
	shown := strings.Join(screen.until("the next prompt", last(">")), "\n")
	if strings.Count(shown, "half a line") != 1 || strings.Count(shown, "end") != 1 {
		t.Errorf("own lines are there more than once:\n%s", shown)
	}

	backend.ends()
	screen.types("/name Quay\r")
	screen.until("that it waits", last("… >"))
	screen.types("/dance\r")
	screen.sees("! there is no /dance: see /help")
	screen.types("\x03")
	if err := <-done; err != nil {
		t.Errorf("Ctrl-C ends it with %v", err)
	}
	shown = strings.Join(screen.until("anything", func([]string) bool { return true }), "\n")
	if strings.Contains(shown, "level=") {
		t.Errorf("the log is between the messages:\n%s", shown)
	}
	if _, err := os.Stat(filepath.Join(dir, "al", "chat.log")); err != nil {
		t.Errorf("the log is nowhere: %v", err)
	}
	bo.ends()
}

// TestPassphraseAtATerminal proves that a new wallet is announced, that its passphrase is
// asked for twice, and that Ctrl-C ends the question.
func TestPassphraseAtATerminal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "al")
	screen := newTTY(t)
	_, done := screen.begin("chat", "--dir", dir)
	screen.sees("There is no wallet in")
	screen.sees("passphrase of the new wallet:")
	screen.types("one\r")
	screen.sees("the same once more:")
	screen.types("two\r")
	if err := <-done; err == nil || err.Error() != "the two differ: nothing has changed" {
		t.Errorf("two that differ: %v", err)
	}
	again := newTTY(t)
	interrupt, done := again.begin("chat", "--dir", dir)
	again.sees("passphrase of the new wallet:")
	interrupt()
	if err := <-done; err == nil || err.Error() != "interrupted: nothing has changed" {
		t.Errorf("Ctrl-C: %v", err)
	}
	typed := newTTY(t)
	_, done = typed.begin("chat", "--dir", dir)
	typed.sees("passphrase of the new wallet:")
	typed.types("on\x03")
	if err := <-done; err == nil || err.Error() != "interrupted: nothing has changed" {
		t.Errorf("Ctrl-C that is typed: %v", err)
	}
	if files, err := os.ReadDir(keystoreOf(dir)); err == nil {
		t.Errorf("there is a wallet: %v", slices.Collect(slices.Values(files)))
	}
}
