package actors

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/persistence"
)

// sightings remember where the store has messages, for all members of a host: each
// asks for each message that it reads whether it has it already, and nearly always
// nobody has. One of them asks the store, once. What is remembered is complete or
// nothing: a place that a member has since written is noted once that is saved, and
// an answer of the store is not remembered where anything was noted after the
// question. Between a member's step and its save, it knows by itself.
type sightings struct {
	mu     sync.RWMutex
	places map[sighting][]group.Position
	noted  uint64 // places noted so far
}

// A sighting names messages of a group, by the first bytes of their ids.
type sighting struct {
	group  GroupID
	prefix [8]byte
}

const maxSightings = 4096

func newSightings() *sightings { return &sightings{places: map[sighting][]group.Position{}} }

// of returns where the store has messages whose ids begin alike.
func (s *sightings) of(ctx context.Context, sys *System, id GroupID, message group.MessageID) ([]group.Position, error) {
	key := sighting{id, [8]byte(group.TextPrefix(message))}
	s.mu.RLock()
	places, known := s.places[key]
	noted := s.noted
	s.mu.RUnlock()
	if known {
		return places, nil
	}
	err := persistence.ScanShared(ctx, sys.cfg.Store, sys.space, sharedSuffix(id, group.TableText, key.prefix[:]), nil, func(row persistence.SharedRow) bool {
		if p, ok := group.TextAt(row.Suffix()[len(id)+1:]); ok {
			places = append(places, p)
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noted == noted {
		s.remember(key, places)
	}
	return places, nil
}

// remember keeps an answer. It forgets at random, which costs a question.
func (s *sightings) remember(key sighting, places []group.Position) {
	if len(s.places) >= maxSightings {
		for k := range s.places {
			delete(s.places, k)
			if len(s.places) < maxSightings*3/4 {
				break
			}
		}
	}
	s.places[key] = places
}

// hostRowIndexed says that the bodies which a version before wrote are found by
// their messages' ids.
const hostRowIndexed = "bodies by id"

// indexOldBodies writes, once, where the bodies lie that a version before wrote by
// their position alone: an empty row for each, under a secret that is none.
func (s *System) indexOldBodies(ctx context.Context) error {
	_, err := persistence.HostGet(ctx, s.cfg.Store, hostRowIndexed)
	if !errors.Is(err, persistence.ErrNotFound) {
		return err
	}
	for from := []byte{0}; from != nil; {
		var b persistence.Batch
		next := []byte(nil)
		err := persistence.ScanShared(ctx, s.cfg.Store, s.space, nil, from, func(row persistence.SharedRow) bool {
			suffix := row.Suffix()
			if len(b.Ops) == sweepBatch {
				next = suffix
				return false
			}
			var id GroupID
			if n := copy(id[:], suffix); n < len(id) || len(suffix) == n || group.Table(suffix[n]) != group.TableBody {
				return true
			}
			if key, ok := group.TextKey(suffix[len(id)+1:]); ok {
				persistence.PutShared(&b, s.space, sharedSuffix(id, group.TableText, key), [32]byte{}, nil)
			}
			return true
		})
		if err != nil {
			return fmt.Errorf("actors: index messages: %w", err)
		}
		if from = next; from == nil {
			persistence.HostPut(&b, hostRowIndexed, []byte{1})
		}
		if err := s.cfg.Store.Apply(ctx, &b, persistence.Durable); err != nil {
			return fmt.Errorf("actors: index messages: %w", err)
		}
	}
	return nil
}

// note takes in what was saved.
func (s *sightings) note(id GroupID, rows []group.Row) {
	for _, row := range rows {
		if row.Table != group.TableText {
			continue
		}
		if p, ok := group.TextAt(row.Key); ok {
			s.add(sighting{id, p.Message}, p)
		}
	}
}

func (s *sightings) add(key sighting, p group.Position) {
	if s.has(key, p) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noted++
	if places, known := s.places[key]; known {
		s.places[key] = append(places[:len(places):len(places)], p)
	}
}

func (s *sightings) has(key sighting, p group.Position) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, q := range s.places[key] {
		if p == q {
			return true
		}
	}
	return false
}
