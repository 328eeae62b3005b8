package jetstream

import (
	"context"
	"sync"

	"github.com/conclave-chat/conclave/bus"
)

// A round answers many who ask the same thing at once with one question. Who
// asks while a question is under way waits for the next one: an answer is never
// older than the asking.
type round[T any] struct {
	mu   sync.Mutex
	busy bool
	next *answer[T]
}

type answer[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// ask waits for the answer to a question that begins from now on. The question is
// not the asker's own, so that ctx bounds the wait alone. start runs a function
// on a goroutine, or says that it does not.
func (r *round[T]) ask(ctx context.Context, start func(func()) bool, question func() (T, error)) (none T, err error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &answer[T]{done: make(chan struct{})}
	}
	a := r.next
	if !r.busy {
		if r.busy = start(func() { r.run(question) }); !r.busy {
			r.next = nil
			r.mu.Unlock()
			return none, bus.ErrClosed
		}
	}
	r.mu.Unlock()
	select {
	case <-a.done:
		return a.value, a.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// run asks as long as somebody waits.
func (r *round[T]) run(question func() (T, error)) {
	for {
		r.mu.Lock()
		a := r.next
		r.next, r.busy = nil, a != nil
		r.mu.Unlock()
		if a == nil {
			return
		}
		a.value, a.err = question()
		close(a.done)
	}
}
