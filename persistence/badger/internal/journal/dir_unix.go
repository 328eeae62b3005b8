//go:build unix

package journal

import (
	"errors"
	"os"
	"syscall"
)

func syncDir(d *os.File) error { return d.Sync() }

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
