package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// A class of requests has its own places at work and its own queue. What fills
// one class, since it waits for a chain or for much of the log, takes no place
// from another.
type class uint8

const (
	chainWork     class = iota // questions to wallets on chains, and updates that they sign
	updateWork                 // identity updates that keys sign
	lookUpWork                 // identity logs, and the inboxes of identifiers
	packageWork                // key packages
	messageWork                // messages and welcomes, stored and read
	commitLogWork              // commit logs
	streamWork                 // the beginning of subscriptions
	questionWork               // one question each to a wallet on a chain
	classes
)

func (c class) String() string {
	return [...]string{"wallets on chains", "identity updates", "look-ups", "key packages", "messages", "commit logs", "subscriptions", "questions to chains"}[c]
}

// chainPlaces is how many requests, and how many questions, may wait for chains at a
// time: a request may ask fifty. They use no
// core, and ethereum.Chains takes half as many questions about one chain, so that
// a chain that is slow holds up no other.
const chainPlaces = 256

var (
	// errCrowded: as many wait as may. Nothing was done.
	errCrowded = errors.New("too many such requests wait: ask again later")
	// errBusy: no place became free while the request waited. Nothing was done.
	errBusy = errors.New("the node is busy: ask again")
)

// A pool is the places of one class. A caller with a name has at most half of
// them, and what it has beyond waits before the queue that all share.
type pool struct {
	of     class
	places chan struct{} // one for each request at work
	queue  int           // requests that may wait

	mu      sync.Mutex
	waiting int
	shares  map[string]*share
}

// A share is what one caller has of a pool while it has anything there.
type share struct {
	places   chan struct{}
	requests int // at work and waiting
}

func newPools(l Limits) (pools [classes]*pool) {
	for of := range classes {
		places := l.Concurrent
		if of == chainWork || of == questionWork {
			places = max(places, chainPlaces)
		}
		pools[of] = &pool{of: of, places: make(chan struct{}, places), queue: l.Waiting, shares: map[string]*share{}}
	}
	return pools
}

// enter waits for a place until ctx ends. Where the queue is full it does not
// wait.
func (p *pool) enter(ctx context.Context, caller string) (leave func(), err error) {
	s, err := p.queueUp(caller)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", p.of, err)
	}
	defer p.stopWaiting()
	if err := take(ctx, s.places); err != nil {
		p.depart(caller, s)
		return nil, fmt.Errorf("%v: %w", p.of, err)
	}
	if err := take(ctx, p.places); err != nil {
		give(s.places)
		p.depart(caller, s)
		return nil, fmt.Errorf("%v: %w", p.of, err)
	}
	return func() {
		<-p.places
		give(s.places)
		p.depart(caller, s)
	}, nil
}

// queueUp counts a request in. Of those without a caller's name, nobody knows
// whose they are: they have no share and no bound but the pool's.
func (p *pool) queueUp(caller string) (*share, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.shares[caller]
	if s == nil {
		s = new(share)
		if caller != "" {
			s.places = make(chan struct{}, max(1, cap(p.places)/2))
		}
	}
	if p.waiting >= p.queue || caller != "" && s.requests >= cap(s.places)+p.queue/2 {
		return nil, errCrowded
	}
	p.waiting++
	s.requests++
	p.shares[caller] = s
	return s, nil
}

func (p *pool) stopWaiting() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting--
}

func (p *pool) depart(caller string, s *share) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.requests--; s.requests == 0 {
		delete(p.shares, caller)
	}
}

// take and give are a place's; of nil there are enough.
func take(ctx context.Context, places chan struct{}) error {
	if places == nil {
		return nil
	}
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errBusy
	}
}

func give(places chan struct{}) {
	if places != nil {
		<-places
	}
}
