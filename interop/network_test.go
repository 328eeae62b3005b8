//go:build interop

package interop

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program is the conclave binary of this tree, built once by TestMain.
var program string

// A child is a process that dies with the tests, however they end.
type child struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // of Wait, once exited is closed
}

// spawn starts a child. The kernel kills it when the thread that forked it ends,
// so that thread is kept until the child is gone.
func spawn(cmd *exec.Cmd) (*child, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c := &child{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			c.err = cmd.Wait()
			close(c.exited)
		}
	}()
	return c, <-started
}

// end asks the child to leave, and makes it where it does not.
func (c *child) end(how syscall.Signal) {
	select {
	case <-c.exited:
		return
	default:
	}
	c.cmd.Process.Signal(how)
	select {
	case <-c.exited:
	case <-time.After(15 * time.Second):
		c.cmd.Process.Kill()
		<-c.exited
	}
}

// A network is one `conclave serve --xmtp`, on its own ports and directory.
type network struct {
	dir        string
	nats, xmtp string // host:port
	serve      *child
	log        *lastLines
}

// newNetwork starts a network on free ports.
func newNetwork(ctx context.Context, dir string) (*network, error) {
	n := &network{dir: dir, log: new(lastLines)}
	for _, address := range []*string{&n.nats, &n.xmtp} {
		free, err := freeAddress()
		if err != nil {
			return nil, err
		}
		*address = free
	}
	return n, n.start(ctx)
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (n *network) natsURL() string { return "nats://" + n.nats }
func (n *network) xmtpURL() string { return "http://" + n.xmtp }

// start runs the server, on the ports and the directory that it always had, and
// returns when it says that it serves.
func (n *network) start(ctx context.Context) error {
	out, in := io.Pipe()
	cmd := exec.Command(program, "serve", "--dir", n.dir, "--listen", n.nats, "--xmtp", n.xmtp)
	cmd.Stdout, cmd.Stderr = in, n.log
	serve, err := spawn(cmd)
	if err != nil {
		return fmt.Errorf("start conclave serve: %w", err)
	}
	n.serve = serve
	go func() {
		<-serve.exited
		in.Close()
	}()
	ready, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		wanted := []string{"serving at", "XMTP API at"}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			fmt.Fprintln(n.log, lines.Text())
			for i, w := range wanted {
				if strings.Contains(lines.Text(), w) {
					if wanted = append(wanted[:i:i], wanted[i+1:]...); len(wanted) == 0 {
						close(ready)
					}
					break
				}
			}
		}
	}()
	select {
	case <-ready:
		return nil
	case <-ended:
		return fmt.Errorf("conclave serve ended: %s", n.log)
	case <-ctx.Done():
		return fmt.Errorf("conclave serve is not ready: %w: %s", ctx.Err(), n.log)
	}
}

// stop ends the server as an operator would; kill as a power cut does.
func (n *network) stop() { n.serve.end(syscall.SIGTERM) }
func (n *network) kill() { n.serve.end(syscall.SIGKILL) }

// A tail keeps the last that was written to it, for the report of a failure.
type lastLines struct {
	mu   sync.Mutex
	text []byte
}

func (l *lastLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text = append(l.text, p...); len(l.text) > 1<<14 {
		l.text = bytes.Clone(l.text[len(l.text)-1<<13:])
	}
	return len(p), nil
}

func (l *lastLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

// poll asks until the answer is yes, and reports the last reason for no.
func poll(ctx context.Context, ask func() error) error {
	return pollEvery(ctx, 50*time.Millisecond, ask)
}

func pollEvery(ctx context.Context, d time.Duration, ask func() error) error {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// must ends the test where a call failed.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
