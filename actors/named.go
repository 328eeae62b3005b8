package actors

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/persistence"
)

// What a caller meets where the host itself fails. Nothing was accepted, and what
// is stored is as it was: the same call may be repeated.
var (
	// ErrStore: the host's store does not read or write. The cause is wrapped.
	ErrStore = errors.New("actors: store failed")
	// ErrCrashed: a part of the host failed over this, as often as it started anew.
	ErrCrashed = errors.New("actors: failed and started again")
)

// A namedStore marks what its store fails with as ErrStore, so that whoever
// meets it, in whatever call, knows where it comes from. What is an answer, such as
// that there is no such row, stays as it is.
type namedStore struct{ persistence.Store }

func storeError(err error) error {
	for _, answer := range []error{persistence.ErrNotFound, context.Canceled, context.DeadlineExceeded, ErrStore} {
		if errors.Is(err, answer) {
			return err
		}
	}
	if errors.Is(err, persistence.ErrClosed) {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return fmt.Errorf("%w: %w", ErrStore, err)
}

func (s namedStore) View(ctx context.Context, read func(persistence.Reader) error) error {
	var answered error
	err := s.Store.View(ctx, func(r persistence.Reader) error {
		answered = read(namedReader{r})
		return answered
	})
	if err == nil || answered != nil && errors.Is(err, answered) {
		return err
	}
	return storeError(err)
}

func (s namedStore) Apply(ctx context.Context, b *persistence.Batch, d persistence.Durability) error {
	if err := s.Store.Apply(ctx, b, d); err != nil {
		return storeError(err)
	}
	return nil
}

func (s namedStore) Sync(ctx context.Context) error {
	if err := s.Store.Sync(ctx); err != nil {
		return storeError(err)
	}
	return nil
}

type namedReader struct{ persistence.Reader }

func (r namedReader) Get(key []byte) ([]byte, error) {
	value, err := r.Reader.Get(key)
	if err != nil {
		return nil, storeError(err)
	}
	return value, nil
}

func (r namedReader) Scan(prefix, from []byte, yield func(key, value []byte) bool) error {
	if err := r.Reader.Scan(prefix, from, yield); err != nil {
		return storeError(err)
	}
	return nil
}

func (r namedReader) ScanBack(prefix, before []byte, yield func(key, value []byte) bool) error {
	if err := r.Reader.ScanBack(prefix, before, yield); err != nil {
		return storeError(err)
	}
	return nil
}

// A failure is an error that drops an actor's memory. See crash.
type failure struct{ cause error }

func (f *failure) Error() string   { return f.cause.Error() }
func (f *failure) Unwrap() []error { return []error{engine.ErrCrash, f.cause} }

// crash makes an error one that drops the replica: it is ahead of its store, or
// its store is not what it should be. It starts again from its rows.
func crash(err error) error { return &failure{err} }

// causeOf says what a crash means to whoever waited for the actor.
func causeOf(err error) error {
	var f *failure
	if !errors.As(err, &f) {
		return ErrCrashed // a panic, which is in the log
	}
	if errors.Is(f.cause, ErrStore) || errors.Is(f.cause, ErrClosed) {
		return f.cause
	}
	return fmt.Errorf("%w: %w", ErrCrashed, f.cause)
}

// ailing are the actors that crashed and have not started again, with the reason.
type ailing struct {
	mu      sync.Mutex
	reasons map[string]error
}

// maxAiling bounds what is remembered. Beyond it, it is forgotten.
const maxAiling = 10_000

func (a *ailing) crashed(name string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.reasons == nil || len(a.reasons) >= maxAiling {
		a.reasons = map[string]error{}
	}
	a.reasons[name] = err
}

func (a *ailing) started(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.reasons, name)
}

func (a *ailing) reason(name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reasons[name]
}

// askName puts a question to an actor, waking it where it sleeps. One that
// crashes before it answers is asked again once it has started.
func (s *System) askName(ctx context.Context, name string, msg any) (answer any, err error) {
	for range askTries {
		if answer, err = s.names.Ask(ctx, name, msg); !errors.Is(err, engine.ErrRestarted) {
			break
		}
	}
	return answer, s.explain(name, err)
}

// explain says what an error of an actor means to a caller. None of the engine's
// own comes out.
func (s *System) explain(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, engine.ErrStopped), errors.Is(err, engine.ErrShutdown), errors.Is(err, bus.ErrClosed):
		if s.closing() {
			return ErrClosed
		}
		if errors.Is(err, bus.ErrClosed) {
			return err
		}
		return ErrAsleep // and maybe awake again
	case errors.Is(err, engine.ErrRestarted), errors.Is(err, engine.ErrBroken):
		return causeOf(err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		if reason := s.ailing.reason(name); reason != nil {
			return fmt.Errorf("%w: %w", err, causeOf(reason))
		}
	}
	return err
}
