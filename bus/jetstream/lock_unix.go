//go:build unix

package jetstream

import (
	"errors"
	"os"
	"syscall"
)

// errLocked: another one holds the lock.
var errLocked = syscall.EWOULDBLOCK

// lockFile takes a lock that the kernel lets go of when the process dies: the
// server itself has none, and two of them in one folder destroy it.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
