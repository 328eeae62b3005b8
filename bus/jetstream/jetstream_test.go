package jetstream_test

import (
	"errors"
	"log/slog"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/bustest"
	"github.com/conclave-chat/conclave/bus/jetstream"
)

var binaryDir string

func TestMain(m *testing.M) {
	var err error
	if binaryDir, err = os.MkdirTemp("", "conclave-bus-"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(binaryDir)
		os.Exit(code)
	}))
}

func open(t testing.TB, cfg jetstream.Config) *jetstream.Bus {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	b, err := jetstream.Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

func connect(t testing.TB, b *jetstream.Bus) *jetstream.Bus {
	t.Helper()
	c, err := b.Connect(t.Context())
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// The contract on a server embedded in this process.
func TestContractEmbedded(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, shards int) bustest.Harness {
		b := open(t, jetstream.Config{Dir: t.TempDir(), Shards: shards})
		return bustest.Harness{
			Bus:     b,
			Connect: func(t *testing.T) bus.Bus { return connect(t, b) },
			Full: func(t *testing.T) bus.Bus {
				return open(t, jetstream.Config{Dir: t.TempDir(), Shards: shards, MaxBytes: 1 << 20})
			},
		}
	})
}

func TestConfigThatCannotBeMeantIsRefused(t *testing.T) {
	for name, cfg := range map[string]jetstream.Config{
		"neither folder nor server":       {},
		"folder and server":               {Dir: "x", URL: "nats://localhost"},
		"listen off loopback, no user":    {Dir: "x", Listen: "0.0.0.0:4222"},
		"listen on all, no user":          {Dir: "x", Listen: ":4222"},
		"listen off loopback, no secret":  {Dir: "x", Listen: "0.0.0.0:4222", Credentials: jetstream.Credentials{User: "u"}},
		"listen at no address":            {Dir: "x", Listen: "nowhere"},
		"listen on another's server":      {URL: "nats://localhost", Listen: "127.0.0.1:0"},
		"a deployment that is a wildcard": {Dir: "x", Deployment: "A.*"},
		"too many shards":                 {Dir: "x", Shards: 65},
		"replicas of one server":          {Dir: "x", Replicas: 3},
		"retry beyond de-duplication":     {Dir: "x", RetryFor: 1 << 40},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := jetstream.Open(t.Context(), cfg); !errors.Is(err, jetstream.ErrConfig) {
				t.Fatalf("got %v", err)
			}
		})
	}
}
