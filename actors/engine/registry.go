package engine

import (
	"context"
	"errors"
	"fmt"
)

// A Registry makes passivation invisible: it maps a name to its live actor,
// and spawns it where there is none.
type Registry struct {
	engine *Engine
	open   func(name string) (func() Behavior, Options, error)
}

// NewRegistry returns a registry that spawns by open, which says how to make
// the actor of a name, or refuses with an error that goes to the teller. It
// may be called more than once for one wake-up, and must not block.
func NewRegistry(e *Engine, open func(name string) (func() Behavior, Options, error)) *Registry {
	return &Registry{engine: e, open: open}
}

// Tell queues a message, waking the actor where it sleeps. The order of one
// sender holds over passivation and wake-up.
func (d *Registry) Tell(name string, msg any) error {
	return d.deliver(name, &envelope{msg: msg})
}

// Ask is Engine.Ask to whoever holds the name, waking it where it sleeps.
func (d *Registry) Ask(ctx context.Context, name string, msg any) (any, error) {
	m := &envelope{msg: msg, reply: newReply(nil)}
	if err := d.deliver(name, m); err != nil {
		return nil, err
	}
	return m.reply.wait(ctx)
}

// Try is Ask for who asks many: where the actor cannot start he hears so, by
// ErrBroken, and goes on with the others. What he asked before that was known stays
// in the actor's queue.
func (d *Registry) Try(ctx context.Context, name string, msg any) (any, error) {
	if c := d.engine.names.find(name); c != nil {
		if err := c.cannotStart(); err != nil {
			return nil, err
		}
	}
	m := &envelope{msg: msg, reply: newReply(nil)}
	if err := d.deliver(name, m); err != nil {
		return nil, err
	}
	for {
		rings := d.engine.broken.rings()
		if err := m.reply.cell.cannotStart(); err != nil {
			return nil, err
		}
		select {
		case a := <-m.reply.out:
			return a.value, a.err
		case <-rings:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Live returns the actor of the name without waking it.
func (d *Registry) Live(name string) (Ref, bool) { return d.engine.Lookup(name) }

func (d *Registry) deliver(name string, m *envelope) error {
	for {
		c := d.engine.names.find(name)
		if c == nil || c.isClosed() {
			make, opts, err := d.open(name)
			if err != nil {
				return fmt.Errorf("wake: %w", err)
			}
			ref, err := d.engine.Spawn(name, make, opts)
			if errors.Is(err, ErrNameTaken) {
				continue // another teller was faster
			}
			if err != nil {
				return err
			}
			c = ref.c
		}
		if m.reply != nil {
			m.reply.cell = c
		}
		if c.post(m) {
			return nil
		}
	}
}
