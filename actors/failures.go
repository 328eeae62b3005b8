package actors

import (
	"errors"
	"fmt"
	"sync"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/persistence"
)

// isDamage reports whether an error is about the rows that were read: others of
// the same store may be good.
func isDamage(err error) bool {
	return errors.Is(err, persistence.ErrDamaged) || errors.Is(err, group.ErrCorrupt)
}

// failures are what went wrong with some of many, while the others were done. An
// error of a thousand lines helps nobody: it names the first ones. Safe for
// concurrent use.
type failures struct {
	mu    sync.Mutex
	named []error
	more  int
}

const maxNamed = 16

func (f *failures) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.named) < maxNamed {
		f.named = append(f.named, err)
	} else {
		f.more++
	}
}

func (f *failures) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.more > 0 {
		return errors.Join(errors.Join(f.named...), fmt.Errorf("actors: and %d more", f.more))
	}
	return errors.Join(f.named...)
}
