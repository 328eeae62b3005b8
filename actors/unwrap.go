package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/persistence"
)

// prepare unwraps a welcome. The pointee of a pointer was published before it: what
// is not there is waited for aside.
func (s *System) prepare(ctx context.Context, in *installation, e bus.Envelope) (*group.JoinConfig, error) {
	envelope, err := group.ParseWelcome(e.Payload)
	if err != nil {
		return nil, err
	}
	row, err := in.vault.Get(ctx, typeKeyPackage, keyPackageSuffix(envelope.PublicKey))
	if errors.Is(err, persistence.ErrNotFound) {
		return nil, fmt.Errorf("%w: its key is not here, or not any more", group.ErrWelcome)
	}
	if err != nil {
		return nil, fmt.Errorf("read key package of welcome: %w", err)
	}
	secrets, err := group.UnmarshalKeyPackageSecrets(row)
	if err != nil {
		return nil, fmt.Errorf("%w: key package of welcome: %w", persistence.ErrDamaged, err)
	}
	welcome, err := s.unwrap(ctx, envelope, secrets)
	if err != nil {
		return nil, err
	}
	return &group.JoinConfig{
		Welcome: welcome, Secrets: secrets, WelcomeID: uint64(e.ID), Created: e.Time,
		InOrder: true,
	}, nil
}

func (s *System) unwrap(ctx context.Context, e *group.WelcomeEnvelope, secrets *group.KeyPackageSecrets) (group.Welcome, error) {
	if !e.Pointer {
		return group.OpenWelcome(e, secrets)
	}
	pointer, err := group.OpenPointer(e, secrets)
	if err != nil {
		return group.Welcome{}, err
	}
	pointee, err := s.pointees.get(ctx, pointer.Destination)
	switch {
	case group.Verdict(err), errors.Is(err, errNoPointee):
		return group.Welcome{}, err
	case err != nil:
		return group.Welcome{}, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	return pointer.OpenShared(s.realm, s.shared, pointee)
}

// pointees remembers the last pointees read: all members that one commit added
// are sent to the same one, at the same time.
type pointees struct {
	bus bus.Bus

	mu    sync.Mutex
	kept  map[[32]byte]*pointee
	order [][32]byte
}

// A pointee is one that was read, or is being read: who comes meanwhile waits for
// the same answer. What is below done is set when that is closed.
type pointee struct {
	done     chan struct{}
	envelope *group.WelcomeEnvelope
	err      error
}

const maxPointees = 8

var errNoPointee = errors.New("actors: pointee is not there yet")

// get returns the first envelope at a destination. Only what is there, and is a
// welcome, is kept.
func (p *pointees) get(ctx context.Context, destination []byte) (*group.WelcomeEnvelope, error) {
	topic, err := bus.WelcomesFor(destination)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", group.ErrWelcome, err)
	}
	k, begin := p.take([32]byte(destination))
	if begin {
		c, cancel := context.WithTimeout(ctx, attemptTime)
		defer cancel()
		k.envelope, k.err = p.read(c, topic)
		if k.err != nil {
			p.forget([32]byte(destination), k)
		}
		close(k.done)
	}
	select {
	case <-k.done:
		return k.envelope, k.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pointees) read(ctx context.Context, topic bus.Topic) (*group.WelcomeEnvelope, error) {
	envelopes, err := p.bus.Read(ctx, 0, 1, topic)
	if err != nil {
		return nil, err
	}
	if len(envelopes) == 0 {
		return nil, errNoPointee
	}
	return group.ParseWelcome(envelopes[0].Payload)
}

// take returns the pointee of a destination, and whether the caller is to read it.
func (p *pointees) take(key [32]byte) (k *pointee, begin bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k = p.kept[key]; k != nil {
		return k, false
	}
	k = &pointee{done: make(chan struct{})}
	p.kept[key] = k
	p.order = append(p.order, key)
	if len(p.order) > maxPointees {
		delete(p.kept, p.order[0])
		p.order = p.order[1:]
	}
	return k, true
}

func (p *pointees) forget(key [32]byte, k *pointee) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept[key] == k {
		delete(p.kept, key)
		p.order = slices.DeleteFunc(p.order, func(o [32]byte) bool { return o == key })
	}
}
