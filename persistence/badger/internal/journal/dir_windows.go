package journal

import (
	"errors"
	"os"
	"syscall"
)

// Windows has no such call; its file system journals the names.
func syncDir(*os.File) error { return nil }

// ERROR_HANDLE_DISK_FULL and ERROR_DISK_FULL.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.Errno(39)) || errors.Is(err, syscall.Errno(112))
}
