package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/actors"
)

// faults makes every kind of actor panic now and then, and saves fail.
type faults struct {
	mu     sync.Mutex
	visits map[actors.Point]int
}

func newFaults() *faults { return &faults{visits: map[actors.Point]int{}} }

// failsAt are the visits of a point at which it fails, the first being 1.
var failsAt = map[actors.Point][]int{
	actors.PointHost:         {1},
	actors.PointInstallation: {3, 30, 300},
	actors.PointGroup:        {20, 200, 2_000, 20_000},
	actors.PointStream:       {15, 150, 1_500, 15_000},
	actors.PointSave:         {25, 250, 2_500, 25_000},
}

var errInjected = errors.New("injected failure of a save")

func (f *faults) at(p actors.Point) error {
	f.mu.Lock()
	f.visits[p]++
	n := f.visits[p]
	f.mu.Unlock()
	if !slices.Contains(failsAt[p], n) {
		return nil
	}
	if p == actors.PointSave {
		return errInjected
	}
	panic(fmt.Sprintf("injected panic %d in a %s actor", n, p))
}

// noKeys has no installation's key: each is opened by hand. But having it, a
// host's actor has something to do, and so to crash at.
type noKeys struct{}

func (noKeys) DatabaseKey(context.Context, [32]byte) (conclave.Key, error) {
	return conclave.Key{}, conclave.ErrNotFound
}
