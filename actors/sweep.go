package actors

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/persistence"
)

// Members of one group on one host share rows: an epoch's secrets, its tree,
// and the bodies of messages. Each member has a pin on its group, the lowest
// epoch that it can still open, which moves in the transaction that enters an
// epoch. What no pin needs is swept.

// Spans, in epochs, that package mls gives its rows.
const (
	// liveEpochs is how many epochs before its current one a member opens.
	liveEpochs = 3
	// wholeTreeEvery: at multiples of it a tree is stored whole. A tree in
	// between is a difference to the one before.
	wholeTreeEvery = 16
)

// A sweeper deletes shared rows that nobody needs any more.
type sweeper struct {
	// writing is held for reading by a transaction that may find a shared row
	// where it would write one: a sweep holds it alone, so that the row is not
	// gone a moment later.
	writing sync.RWMutex

	mu  sync.Mutex
	due map[GroupID]bool
}

// sweepDelay lets the other members of the group come to the same epoch.
const sweepDelay = time.Second

// commit applies a replica's rows, and what is in b already, as one
// transaction. epoch is the replica's.
func (s *System) commit(ctx context.Context, b *persistence.Batch, v *persistence.Vault, id GroupID, epoch uint64, rows []group.Row, d persistence.Durability) error {
	if err := s.addRows(b, v, id, rows); err != nil {
		return err
	}
	advances := slices.ContainsFunc(rows, func(r group.Row) bool { return r.Table == group.TableEpoch && r.Value != nil })
	if !advances {
		err := v.Apply(ctx, b, d)
		if err == nil {
			s.sightings.note(id, rows)
		}
		return err
	}
	if err := v.PutPin(b, id[:], epoch-min(epoch, liveEpochs)); err != nil {
		return err
	}
	s.sweeper.writing.RLock()
	err := v.Apply(ctx, b, d)
	s.sweeper.writing.RUnlock()
	if err != nil {
		return err
	}
	s.sightings.note(id, rows)
	if epoch > liveEpochs {
		s.sweepSoon(id)
	}
	return nil
}

// sweepSoon sweeps a group beside the mailboxes, once for all its members.
func (s *System) sweepSoon(id GroupID) {
	s.sweeper.mu.Lock()
	defer s.sweeper.mu.Unlock()
	if s.sweeper.due[id] {
		return
	}
	if s.sweeper.due == nil {
		s.sweeper.due = map[GroupID]bool{}
	}
	s.sweeper.due[id] = true
	s.beside(func(ctx context.Context) {
		pause(ctx, nil, sweepDelay)
		s.sweeper.mu.Lock()
		delete(s.sweeper.due, id)
		s.sweeper.mu.Unlock()
		if err := s.sweep(ctx, id); err != nil && ctx.Err() == nil {
			s.log.Warn("shared rows not swept", groupAttr(id), keyErr, err) // the next sweep finds them
		}
	})
}

// sweepBatch bounds a transaction of a sweep, and so how long it keeps others
// from entering an epoch.
const sweepBatch = 1024

// sweep deletes a group's shared rows that no pin needs; all of them where there
// is no pin.
func (s *System) sweep(ctx context.Context, id GroupID) error {
	for {
		n, err := s.sweepSome(ctx, id)
		if err != nil || n < sweepBatch {
			return err
		}
	}
}

func (s *System) sweepSome(ctx context.Context, id GroupID) (int, error) {
	s.sweeper.writing.Lock()
	defer s.sweeper.writing.Unlock()
	pins, err := persistence.Pins(ctx, s.cfg.Store, id[:])
	if err != nil {
		return 0, err
	}
	var b persistence.Batch
	err = persistence.ScanShared(ctx, s.cfg.Store, s.space, id[:], nil, func(row persistence.SharedRow) bool {
		suffix := row.Suffix()[len(id):]
		if len(suffix) == 0 {
			return true
		}
		table, key := group.Table(suffix[0]), suffix[1:]
		if len(pins) > 0 && table.History() {
			return false // the last tables
		}
		if !slices.ContainsFunc(pins, func(p persistence.Pin) bool { return needs(p.LowestEpoch, table, key) }) {
			row.Delete(&b)
		}
		return len(b.Ops) < sweepBatch
	})
	if err != nil || len(b.Ops) == 0 {
		return 0, err
	}
	return len(b.Ops), s.cfg.Store.Apply(ctx, &b, persistence.Lazy)
}

// needs reports whether a member with the given pin needs a shared row, whose
// key begins with its epoch. What a member far behind will need of later epochs
// it writes itself when it gets there.
func needs(pin uint64, t group.Table, key []byte) bool {
	if len(key) < 8 {
		return true
	}
	epoch, lowest := binary.BigEndian.Uint64(key), pin
	if t == group.TableTree {
		lowest -= lowest % wholeTreeEvery
	}
	return lowest <= epoch && epoch <= pin+liveEpochs
}

// sweepOrphans deletes the shared rows of groups that have no member on this
// host any more.
func (s *System) sweepOrphans(ctx context.Context) error {
	for from := []byte{0}; from != nil; {
		var id GroupID
		found := false
		err := persistence.ScanShared(ctx, s.cfg.Store, s.space, nil, from, func(row persistence.SharedRow) bool {
			found = copy(id[:], row.Suffix()) == len(id)
			return !found
		})
		if err != nil || !found {
			return err
		}
		pins, err := persistence.Pins(ctx, s.cfg.Store, id[:])
		if err != nil {
			return err
		}
		if len(pins) == 0 {
			if err := s.sweep(ctx, id); err != nil {
				return err
			}
		}
		from = persistence.PrefixEnd(id[:])
	}
	return nil
}
