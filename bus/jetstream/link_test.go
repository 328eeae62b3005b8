package jetstream_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
)

// guarded is a NATS server in this process that asks for a password.
type guarded struct {
	srv  *server.Server
	opts *server.Options
}

func startGuarded(t *testing.T, password string) *guarded {
	t.Helper()
	g := &guarded{opts: &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(),
		NoSigs: true, NoLog: true, MaxPayload: 8 << 20,
		Users: []*server.User{{Username: "host", Password: password}},
	}}
	var err error
	if g.srv, err = server.NewServer(g.opts); err != nil {
		t.Fatal(err)
	}
	g.srv.Start()
	t.Cleanup(g.stop)
	return g
}

func (g *guarded) stop() {
	g.srv.Shutdown()
	g.srv.WaitForShutdown()
}

// rotate makes another password the right one, and ends the connections.
func (g *guarded) rotate(t *testing.T, password string) {
	t.Helper()
	o := g.opts.Clone()
	o.Users = []*server.User{{Username: "host", Password: password}}
	if err := g.srv.ReloadOptions(o); err != nil {
		t.Fatal(err)
	}
}

// heard is a logger, and a channel of the messages that it was given.
func heard(t *testing.T) (*slog.Logger, <-chan string) {
	h := &hearing{Handler: slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}), lines: make(chan string, 1000)}
	return slog.New(h), h.lines
}

type hearing struct {
	slog.Handler
	lines chan string
}

func (h *hearing) Handle(ctx context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	h.lines <- line
	return h.Handler.Handle(ctx, r)
}

func waitFor(t *testing.T, lines <-chan string, text string) {
	t.Helper()
	for {
		select {
		case line := <-lines:
			if strings.Contains(line, text) {
				return
			}
		case <-t.Context().Done():
			t.Fatalf("nobody said %q", text)
		}
	}
}

// A server refuses the host's password, as while secrets are rotated: the host
// says that it is cut off and why, and is there again with the right one.
func TestRefusedCredentialsEndNoConnection(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, "old")
	log, lines := heard(t)
	b := open(t, jetstream.Config{URL: g.srv.ClientURL(), RetryFor: 300 * time.Millisecond, Logger: log,
		Credentials: jetstream.Credentials{User: "host", Password: "old"}})
	m := messagesOf(t, 1)
	if _, err := b.Publish(t.Context(), m, []byte("before")); err != nil {
		t.Fatal(err)
	}
	g.rotate(t, "new")
	waitFor(t, lines, "bus cut off error=nats: authorization violation")
	// More refusals than the client library takes by itself.
	for range 5 {
		_, err := b.Publish(t.Context(), m, []byte("meanwhile"))
		if !errors.Is(err, bus.ErrUnavailable) || !strings.Contains(err.Error(), "cut off: nats: authorization violation") {
			t.Fatalf("publish: %v", err)
		}
	}
	if err := b.Ready(t.Context()); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("ready: %v", err)
	}
	g.rotate(t, "old")
	for {
		_, err := b.Publish(t.Context(), m, []byte("after"))
		if err == nil {
			break
		}
		if !errors.Is(err, bus.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if err := b.Ready(t.Context()); err != nil {
		t.Errorf("ready: %v", err)
	}
}

// The password changes for good, on the server and in the host's file.
func TestPasswordFileIsReadAgain(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, "old")
	file := filepath.Join(t.TempDir(), "password")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("old\n")
	log, lines := heard(t)
	b := open(t, jetstream.Config{URL: g.srv.ClientURL(), RetryFor: 20 * time.Second, Logger: log,
		Credentials: jetstream.Credentials{User: "host", PasswordFile: file}})
	g.rotate(t, "new")
	waitFor(t, lines, "authorization violation")
	write("new\n")
	if _, err := b.Publish(t.Context(), messagesOf(t, 1), []byte("x")); err != nil {
		t.Fatal(err)
	}
	_, err := jetstream.Open(t.Context(), jetstream.Config{URL: g.srv.ClientURL(),
		Credentials: jetstream.Credentials{User: "host", PasswordFile: file + ".none"}})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// Open waits for its servers where it is asked to, and says so.
func TestOpenWaitsForItsServer(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "")
	p.kill()
	log, lines := heard(t)
	cfg := jetstream.Config{URL: p.url(), Wait: true, Logger: log}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := jetstream.Open(ctx, cfg)
		done <- err
	}()
	waitFor(t, lines, "bus cannot be reached yet, waiting for it")
	cancel()
	if err := <-done; !errors.Is(err, bus.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Fatalf("given up: %v", err)
	}
	go func() {
		b, err := jetstream.Open(t.Context(), cfg)
		if err == nil {
			err = b.Close()
		}
		done <- err
	}()
	waitFor(t, lines, "bus cannot be reached yet, waiting for it")
	p.start(t)
	if err := <-done; err != nil {
		t.Fatalf("once it is there: %v", err)
	}
	g := startGuarded(t, "right")
	cfg = jetstream.Config{URL: g.srv.ClientURL(), Wait: true, Credentials: jetstream.Credentials{User: "host", Password: "wrong"}}
	if _, err := jetstream.Open(t.Context(), cfg); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("refused: %v", err)
	}
}

// Close is prompt, whether the server is gone or does not answer.
func TestCloseWithoutAServer(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*process, <-chan string){
		"gone": func(p *process, lines <-chan string) {
			p.kill()
			waitFor(t, lines, "bus cut off")
		},
		"frozen": func(p *process, _ <-chan string) {
			if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := startProcess(t, "")
			log, lines := heard(t)
			b := open(t, jetstream.Config{URL: p.url(), Logger: log})
			for _, name := range []string{"a", "b", "c"} {
				if _, err := b.Serve(name, func(_ context.Context, p []byte) ([]byte, error) { return p, nil }); err != nil {
					t.Fatal(err)
				}
			}
			f, err := b.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Follow(t.Context(), 0, messagesOf(t, 1)); err != nil {
				t.Fatal(err)
			}
			lose(p, lines)
			began := time.Now()
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > 6*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// After a restart many actors ask for the log's end, and read, at once.
func TestManyQuestionsAtOnce(t *testing.T) {
	const many = 20000
	b := open(t, jetstream.Config{Dir: t.TempDir()})
	ack, err := b.Publish(t.Context(), messagesOf(t, 1), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	var asked sync.WaitGroup
	failed := make(chan error, 2*many)
	for n := range many {
		asked.Go(func() {
			end, err := b.End(t.Context(), messagesOf(t, n))
			if err == nil && end != ack.ID {
				err = errors.New("another end")
			}
			failed <- err
		})
		if n%10 > 0 {
			continue
		}
		asked.Go(func() {
			_, err := b.Read(t.Context(), 0, 10, messagesOf(t, n))
			failed <- err
		})
	}
	asked.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A server that answers nothing, though the connection to it stands, is not ready.
func TestReadyAsksTheLog(t *testing.T) {
	p := startProcess(t, "")
	b := open(t, jetstream.Config{URL: p.url(), Shards: 2})
	if err := b.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	until := func(ready bool) {
		t.Helper()
		look := time.NewTicker(50 * time.Millisecond)
		defer look.Stop()
		for deadline := time.After(20 * time.Second); ; {
			if err := b.Ready(t.Context()); ready == (err == nil) && (ready || errors.Is(err, bus.ErrUnavailable)) {
				return
			}
			select {
			case <-look.C:
			case <-deadline:
				t.Fatalf("ready: %v", b.Ready(t.Context()))
			}
		}
	}
	until(false)
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until(true)
	info := func() error { // one of the shards is gone, the connection stands
		nc, err := nats.Connect(p.url())
		if err != nil {
			return err
		}
		defer nc.Close()
		_, err = nc.RequestWithContext(t.Context(), "$JS.API.STREAM.DELETE.CONCLAVE_1", nil)
		return err
	}
	if err := info(); err != nil {
		t.Fatal(err)
	}
	until(false)
}

// What stands in a URL proves who the host is, and is shown nowhere.
func TestCredentialsInURLs(t *testing.T) {
	const canary = "CANARY7"
	p := startProcess(t, `authorization { users: [ { user: host, password: "`+canary+`" } ] }`)
	at := strings.TrimPrefix(p.url(), "nats://")
	open(t, jetstream.Config{URL: "nats://host:" + canary + "@" + at})

	tokens := startProcess(t, `authorization { token: "`+canary+`" }`)
	open(t, jetstream.Config{URL: strings.Replace(tokens.url(), "//", "//"+canary+"@", 1)})

	for _, url := range []string{
		"nats://host:x" + canary + "@" + at, "nats://host:" + canary + "@127.0.0.1:1", "nats://host:" + canary + "@no.such.host:4222",
		"nats://host:x/" + canary + "@" + at, "nats://host:%zz" + canary + "@" + at, "host:" + canary + "@127.0.0.1:1", canary + "@127.0.0.1:1",
		"nats://host:" + canary + "1@" + at + ",nats://host:" + canary + "2@" + at, "nats://host:x," + canary + "@" + at,
		"nats://host:" + canary + "@:::", "://host:" + canary + "@" + at, "nats://host:x@" + canary + "@" + at,
	} {
		var log bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		b, err := jetstream.Open(ctx, jetstream.Config{URL: url, Wait: true, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		cancel()
		if err == nil {
			b.Close()
			t.Errorf("%s opens", url)
			continue
		}
		if text := err.Error() + log.String(); strings.Contains(text, canary) {
			t.Errorf("%s: %s", url, text)
		}
		if text := jetstream.RedactURLs(url); strings.Contains(text, canary) {
			t.Errorf("%s is shown as %s", url, text)
		}
	}
	if got := jetstream.RedactURLs("nats://a:b@n1:4222,nats://a:b@n2:4222"); got != "nats://n1:4222,nats://n2:4222" {
		t.Errorf("shown as %s", got)
	}
	_, err := jetstream.Open(t.Context(), jetstream.Config{URL: "nats://a:b@" + at, Credentials: jetstream.Credentials{User: "c", Password: "d"}})
	if !errors.Is(err, jetstream.ErrConfig) {
		t.Errorf("two users: %v", err)
	}
}
