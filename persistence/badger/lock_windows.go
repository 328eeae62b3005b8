package badger

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/conclave-chat/conclave/persistence"
)

const sharingViolation = syscall.Errno(32)

// lock holds the file, shared with nobody, until it is closed or the process
// ends.
func lock(path string) (*os.File, error) {
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	h, err := syscall.CreateFile(name, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil,
		syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, sharingViolation) {
		return nil, fmt.Errorf("%w: %s", persistence.ErrLocked, path)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(h), path), nil
}
