package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// A screen is where a talk reads lines and prints. At a terminal a line that is
// printed moves what is being typed out of its way, and what was typed stays where
// it is, once. Without one, lines come and go as they are.
type screen struct {
	terminal *term.Terminal // nil: a pipe or a file
	fd       int
	before   *term.State // how the terminal was
	in       *bufio.Reader
	out      io.Writer
	under    io.Writer // the terminal's own end
	waiting  bool      // as the prompt shows
}

// plainScreen is one without a terminal.
func (c *console) plainScreen() *screen {
	return &screen{in: bufio.NewReaderSize(c.in, 64<<10), out: c.out}
}

// openScreen takes the terminal where there is one at both ends. close gives it back.
func (c *console) openScreen() (*screen, error) {
	in, ok := c.in.(*os.File)
	if !ok || !isTerminal(in) || !isTerminal(c.out) {
		return c.plainScreen(), nil
	}
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("use the terminal: %w", err)
	}
	s := &screen{fd: int(in.Fd()), before: before, under: c.out}
	s.terminal = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{in, c.out}, "> ")
	s.out = s.terminal
	s.terminal.SetBracketedPasteMode(true)
	s.fit()
	return s, nil
}

func (s *screen) close() {
	if s.terminal == nil {
		return
	}
	s.terminal.SetBracketedPasteMode(false)
	_ = term.Restore(s.fd, s.before)
	fmt.Fprintln(s.under)
}

// fit follows the window's size.
func (s *screen) fit() {
	if width, height, err := term.GetSize(s.fd); err == nil && width > 0 {
		_ = s.terminal.SetSize(width, height)
	}
}

// print prints one line.
func (s *screen) print(line string) {
	if s.terminal != nil {
		s.fit()
	}
	fmt.Fprintln(s.out, line)
}

// mark shows in front of what is typed whether something is still on its way.
func (s *screen) mark(waiting bool) {
	if s.terminal == nil || waiting == s.waiting {
		return
	}
	s.waiting = waiting
	prompt := "> "
	if waiting {
		prompt = "… > "
	}
	s.terminal.SetPrompt(prompt)
	_, _ = s.terminal.Write(nil) // draws it
}

// readLine waits for a line. io.EOF is the end of the input, or Ctrl-C or Ctrl-D.
func (s *screen) readLine() (string, error) {
	if s.terminal == nil {
		line, err := readLine(s.in)
		return string(line), err
	}
	line, err := s.terminal.ReadLine()
	if errors.Is(err, term.ErrPasteIndicator) {
		err = nil
	}
	return line, err
}

// askSecret asks for something at a terminal without showing it. Ctrl-C, and the end
// of ctx, give the terminal back and return. The terminal's state is changed here and
// nowhere else: what may still read afterwards changes nothing.
func (c *console) askSecret(ctx context.Context, in *os.File, prompt string) (string, error) {
	fd := int(in.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return "", fmt.Errorf("use the terminal: %w", err)
	}
	defer func() {
		_ = term.Restore(fd, before)
		fmt.Fprintln(c.err)
	}()
	terminal := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{in, c.err}, "")
	type answer struct {
		secret string
		err    error
	}
	answered := make(chan answer, 1)
	go func() { // not waited for: a read of a terminal cannot be interrupted
		secret, err := terminal.ReadPassword(prompt)
		answered <- answer{secret, err}
	}()
	select {
	case a := <-answered:
		if errors.Is(a.err, io.EOF) { // Ctrl-C, Ctrl-D on an empty line
			a.err = errInterrupted
		}
		return a.secret, a.err
	case <-ctx.Done():
		return "", errInterrupted
	}
}

var errInterrupted = errors.New("interrupted: nothing has changed")
