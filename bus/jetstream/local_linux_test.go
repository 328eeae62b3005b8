package jetstream_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
)

// A server on loopback that was given no password makes one: hosts of the same user
// find it by themselves, also after the next start, and another user is refused.
func TestLocalPassword(t *testing.T) {
	mine, others := t.TempDir(), t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", mine)
	dir, m := t.TempDir(), messagesOf(t, 1)
	b := open(t, jetstream.Config{Dir: dir, Listen: "127.0.0.1:0"})
	url := b.ClientURL()
	publish(t, open(t, jetstream.Config{URL: url}), m, "from a host that found it")
	publish(t, open(t, jetstream.Config{URL: strings.TrimPrefix(url, "nats://")}), m, "without a scheme")

	secret := filepath.Join(dir, "host.password")
	signs, err := filepath.Glob(filepath.Join(mine, "conclave", "local", "*"))
	if err != nil || len(signs) != 1 {
		t.Fatalf("%v, %v", signs, err)
	}
	for path, want := range map[string]os.FileMode{secret: 0o600, signs[0]: 0o600, filepath.Dir(signs[0]): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	t.Setenv("XDG_CONFIG_HOME", others)
	if _, err := jetstream.Open(t.Context(), jetstream.Config{URL: url}); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("another user: %v", err)
	}
	t.Setenv("XDG_CONFIG_HOME", mine)

	before, err := os.ReadFile(secret)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(url, strings.TrimSpace(string(before))) {
		t.Error("the URL shows the password")
	}
	far := open(t, jetstream.Config{URL: url})
	b.Close()
	if signs, _ := filepath.Glob(filepath.Join(mine, "conclave", "local", "*")); len(signs) != 0 {
		t.Errorf("left behind: %v", signs)
	}
	open(t, jetstream.Config{Dir: dir, Listen: strings.TrimPrefix(url, "nats://")})
	publish(t, far, m, "from a host that comes back")
	if after, err := os.ReadFile(secret); err != nil || string(after) != string(before) {
		t.Errorf("the password is another one now, %v", err)
	}

	// Where a password was given, there is none to be found.
	given := open(t, jetstream.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", Credentials: jetstream.Credentials{User: "h", Password: "p"}})
	if _, err := jetstream.Open(t.Context(), jetstream.Config{URL: given.ClientURL()}); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("a server that was given a password lets in who has none: %v", err)
	}
}
