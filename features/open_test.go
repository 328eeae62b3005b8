package features

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus/jetstream"
	"github.com/conclave-chat/conclave/identity/ethereum"
)

// A host is opened while its NATS server is down: it waits until its context
// ends, and is there when the server is.
func TestOpenWaitsForNATS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	log, said := watchedLog(t, "bus cannot be reached yet, waiting for it")
	config := conclave.Config{Dir: t.TempDir(), NATS: "nats://node:n@" + at, ServeNode: true, Logger: log}

	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := conclave.Open(ctx, config)
		failed <- err
	}()
	<-said
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Fatalf("given up: %v", err)
	}

	go func() {
		h, err := conclave.Open(t.Context(), config)
		if err == nil {
			err = h.Close(t.Context())
		}
		failed <- err
	}()
	<-said
	b, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir(), Listen: at, Nodes: jetstream.Credentials{User: "node", Password: "n"}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := <-failed; err != nil {
		t.Fatalf("once it is there: %v", err)
	}
}

// B14: an embedded log of which something is lost does not open, and is as it was.
func TestDamagedLogDoesNotOpen(t *testing.T) {
	dir := t.TempDir()
	host := must[*conclave.Host](t)(conclave.Open(t.Context(), conclave.Config{Dir: dir}))
	must[*conclave.Client](t)(host.CreateClient(t.Context(), must[*ethereum.Key](t)(ethereum.GenerateKey()), conclave.ClientOptions{}))
	if err := host.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "bus/jetstream/$G/streams/CONCLAVE_0/msgs/1.blk")
	entries := must[[]byte](t)(os.ReadFile(path))
	spoilt := bytes.Clone(entries)
	spoilt[len(spoilt)/2] ^= 1
	for what, content := range map[string][]byte{"a flipped bit": spoilt, "half of it": entries[:len(entries)/2]} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := conclave.Open(t.Context(), conclave.Config{Dir: dir}); !errors.Is(err, conclave.ErrDamaged) || !strings.Contains(err.Error(), "stream CONCLAVE_0") {
				t.Errorf("%s: %v", what, err)
			}
		}
		if now := must[[]byte](t)(os.ReadFile(path)); !bytes.Equal(now, content) {
			t.Errorf("%s: the files have changed", what)
		}
	}
	if err := os.WriteFile(path, entries, 0o600); err != nil {
		t.Fatal(err)
	}
	host = must[*conclave.Host](t)(conclave.Open(t.Context(), conclave.Config{Dir: dir}))
	if err := host.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// watchedLog is a logger, and a channel that hears each record of a message.
func watchedLog(t *testing.T, message string) (*slog.Logger, <-chan struct{}) {
	said := make(chan struct{}, 100)
	return slog.New(logWatch{slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}), message, said}), said
}

type logWatch struct {
	slog.Handler
	message string
	said    chan<- struct{}
}

func (w logWatch) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == w.message {
		w.said <- struct{}{}
	}
	return w.Handler.Handle(ctx, r)
}
