package conclave

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"time"
)

// HandlerOptions say what becomes of a piece of news whose handler fails. The
// zero value tries three times and is silent.
type HandlerOptions struct {
	// Attempts is how often one piece of news is handed over until the handler
	// returns nil; 3 where zero. After that it is given up, and the next one's
	// turn comes. Everything later waits meanwhile, so that order is kept.
	Attempts int
	// Backoff is the wait before the second attempt, and doubles from there;
	// 100 ms where zero.
	Backoff time.Duration
	// Report, where not nil, hears of each failed attempt.
	Report func(HandlerFailure)
}

// A HandlerFailure is one failed attempt to handle a piece of news.
type HandlerFailure struct {
	News    any // what the stream yields: a *Message, *Group or ActiveChange
	Attempt int // 1 for the first
	GivenUp bool
	Err     error // what the handler returned, or a *PanicError
}

// A PanicError is a handler's panic.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("conclave: handler panicked: %v", e.Value) }

// Handle hands everything that a stream yields to a handler, one after another,
// until ctx ends; then it returns nil. It returns early where the stream fails.
//
//	err := conclave.Handle(ctx, bot.Conversations().StreamAllMessages(ctx), answer, conclave.HandlerOptions{})
//
// A handler that fails or panics harms nobody else: the failure is reported,
// and what it was about is handed over again as the options say. The handler's
// context is ctx. It should give up when that ends: Handle waits for it.
func Handle[T any](ctx context.Context, news iter.Seq2[T, error], handle func(context.Context, T) error, o HandlerOptions) (err error) {
	defer failing("handle", &err)
	if err := checkContext(ctx); err != nil {
		return err
	}
	if err := errors.Join(checkGiven("stream", news), checkGiven("handler", handle)); err != nil {
		return err
	}
	if o.Attempts <= 0 {
		o.Attempts = 3
	}
	if o.Backoff <= 0 {
		o.Backoff = 100 * time.Millisecond
	}
	for item, err := range news {
		if err != nil {
			return err
		}
		if !o.deliver(ctx, item, func() error { return handle(ctx, item) }) {
			return nil
		}
	}
	return nil
}

// deliver tries until it is handled or given up, and reports whether ctx goes on.
func (o HandlerOptions) deliver(ctx context.Context, item any, handle func() error) bool {
	for attempt, wait := 1, o.Backoff; ; attempt, wait = attempt+1, 2*wait {
		err := isolated(handle)
		if err == nil {
			return ctx.Err() == nil
		}
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return false // it gave up because it was told to
		}
		givenUp := attempt >= o.Attempts
		if o.Report != nil {
			o.Report(HandlerFailure{News: item, Attempt: attempt, GivenUp: givenUp, Err: err})
		}
		if givenUp {
			return ctx.Err() == nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return false
		}
	}
}

func isolated(handle func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{v, debug.Stack()}
		}
	}()
	return handle()
}
