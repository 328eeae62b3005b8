package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A process is a child of this one, whose standard output is read by the line.
// What it says on standard error goes to a file in its world's directory.
type process struct {
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string   // closed at the end of its output
	gone  chan struct{} // closed when it has ended
	err   error         // from then on: how
}

func start(dir, name, program string, args ...string) (*process, error) {
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{name: name, cmd: exec.Command(program, args...), lines: make(chan string, 64), gone: make(chan struct{})}
	p.cmd.Stderr = log
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 64<<20)
		for lines.Scan() {
			p.lines <- lines.Text()
		}
		close(p.lines)
		p.err = p.cmd.Wait()
		close(p.gone)
	}()
	return p, nil
}

// line waits for the next line.
func (p *process) line(ctx context.Context) (string, error) {
	select {
	case line, ok := <-p.lines:
		if !ok {
			<-p.gone
			return "", fmt.Errorf("%s ended: %v: see %s.log", p.name, p.err, p.name)
		}
		return line, nil
	case <-ctx.Done():
		return "", fmt.Errorf("%s says nothing: %w", p.name, ctx.Err())
	}
}

// until waits for a line that begins so.
func (p *process) until(ctx context.Context, prefix string) error {
	for {
		line, err := p.line(ctx)
		if err != nil || strings.HasPrefix(line, prefix) {
			return err
		}
	}
}

// kill ends it as kill -9 does, and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // also where it is frozen
	p.wait()
}

// wait waits until it is gone.
func (p *process) wait() {
	go func() {
		for range p.lines { // nobody else reads them any more
		}
	}()
	<-p.gone
}

// stopTime is how long a process may take to end in order.
const stopTime = 45 * time.Second

// stop asks it to end, and says where it does not.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	late := time.AfterFunc(stopTime, func() { _ = p.cmd.Process.Kill() })
	p.wait()
	if !late.Stop() {
		return fmt.Errorf("%s did not stop within %v", p.name, stopTime)
	}
	return nil
}

// A hostProcess is a host that answers.
type hostProcess struct{ *process }

// startTime is how long a process may take until it is open.
const startTime = time.Minute

// open waits until the host says that it is open, or why not.
func (h hostProcess) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	_, err := h.answer(ctx)
	return err
}

// A refusal is an error that a host named.
type refusal struct{ answer }

func (r refusal) Error() string { return r.answer.Error }

func (h hostProcess) answer(ctx context.Context) (answer, error) {
	line, err := h.line(ctx)
	if err != nil {
		return answer{}, err
	}
	var a answer
	if err := json.Unmarshal([]byte(line), &a); err != nil {
		return a, fmt.Errorf("%s: %w", h.name, err)
	}
	if a.Error != "" {
		return a, refusal{a}
	}
	return a, nil
}

// ask has one request answered.
func (h hostProcess) ask(ctx context.Context, r request) (answer, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return answer{}, err
	}
	if _, err := h.in.Write(append(b, '\n')); err != nil {
		return answer{}, fmt.Errorf("%s: %s: %w", h.name, r.Do, err)
	}
	a, err := h.answer(ctx)
	if err != nil {
		err = fmt.Errorf("%s: %s: %w", h.name, r.Do, err)
	}
	return a, err
}

// freePort is a port of the loopback interface that nobody listens on.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
