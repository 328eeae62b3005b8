//go:build !unix

package jetstream

import (
	"errors"
	"os"
)

// errLocked: another one holds the lock.
var errLocked = errors.New("the lock is held")

// lockFile relies on the system's own rule that an open file cannot be removed.
func lockFile(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, errors.Join(errLocked, err)
	}
	return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
}
