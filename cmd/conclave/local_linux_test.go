package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestChatIsNotLetIn proves that who has no password is told what to do, of a
// backend that was given one, and of one that another user of the machine serves.
func TestChatIsNotLetIn(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "passphrase")
	if err := os.WriteFile(secret, []byte("a lamp in the fog\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "who serves"))
	for name, more := range map[string][]string{"given": {"--user", "host", "--password-file", secret}, "made": nil} {
		backend := begin(t, append([]string{"serve", "--dir", filepath.Join(dir, name), "--listen", "127.0.0.1:0"}, more...)...)
		url := after(backend.sees("serving"), "at ")
		t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "another"))
		_, _, err := output(t, "", "chat", "--dir", filepath.Join(dir, "chat"), "--nats", url, "--passphrase-file", secret, "--insecure-light")
		if want := "the backend at " + url + " does not let you in: give its --user and --password-file, or chat as the user who serves it on this machine ("; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("a password that was %s: %v", name, err)
		}
		t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "who serves"))
		backend.ends()
	}
}
