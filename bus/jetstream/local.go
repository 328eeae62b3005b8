package jetstream

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// A server that listens on loopback and was given no password makes one, in a file
// of its folder that its user alone can read, and keeps it for the next start. Where
// that file is, it says in another one, in the user's own configuration, under the
// port. So hosts of the same user find it by themselves, whenever they connect, and
// another user's process on the machine has no more rights than a stranger.
const (
	localUser   = "host"
	localSecret = "host.password" // in Config.Dir
)

// makeLocalSecret returns the password of a folder, and makes it where there is
// none.
func makeLocalSecret(dir string) (string, error) {
	path := filepath.Join(dir, localSecret)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		if err := os.Chmod(path, 0o600); err != nil {
			return "", fmt.Errorf("jetstream: local password: %w", err)
		}
		return ReadSecret(path)
	case err != nil:
		return "", fmt.Errorf("jetstream: local password: %w", err)
	}
	secret := rand.Text()
	_, err = f.WriteString(secret + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", fmt.Errorf("jetstream: local password: %w", errors.Join(err, os.Remove(path)))
	}
	return secret, nil
}

// signpost is the file that says where the password of a port is.
func signpost(port string) (string, error) {
	dir, err := os.UserConfigDir()
	return filepath.Join(dir, "conclave", "local", port), err
}

// showLocalSecret tells hosts of the same user where the password is. remove takes
// that back.
func showLocalSecret(dir string, port int) (remove func(), err error) {
	path, err := signpost(fmt.Sprint(port))
	if err != nil {
		return nil, err
	}
	secret, err := filepath.Abs(filepath.Join(dir, localSecret))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	// Others may be reading what it was before.
	if err := errors.Join(os.WriteFile(path+".new", []byte(secret+"\n"), 0o600), os.Rename(path+".new", path)); err != nil {
		return nil, err
	}
	return func() {
		if at, err := ReadSecret(path); err == nil && at == secret {
			_ = os.Remove(path) // a server that comes later replaces it
		}
	}, nil
}

// findLocalSecret returns the user and password of a server on this machine whose
// URL it is; nothing where there is none of this user.
func findLocalSecret(server string) (user, password string) {
	if !strings.Contains(server, "://") {
		server = "nats://" + server
	}
	u, err := url.Parse(server)
	if err != nil || !isLoopback(u.Hostname()) {
		return "", ""
	}
	port := u.Port()
	if port == "" {
		port = "4222"
	}
	path, err := signpost(port)
	if err != nil {
		return "", ""
	}
	at, err := ReadSecret(path)
	if err != nil {
		return "", ""
	}
	if password, err = ReadSecret(at); err != nil {
		return "", ""
	}
	return localUser, password
}

// isLoopback says whether only this machine reaches a host.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
