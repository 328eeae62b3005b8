package engine

import (
	"hash/maphash"
	"sync"
)

// names maps each name to its newest actor, in shards.
type names struct {
	seed   maphash.Seed
	shards [64]struct {
		mu    sync.RWMutex
		cells map[string]*cell
	}
}

func (n *names) init() {
	n.seed = maphash.MakeSeed()
	for i := range n.shards {
		n.shards[i].cells = make(map[string]*cell)
	}
}

func (n *names) shard(name string) int {
	return int(maphash.String(n.seed, name) % uint64(len(n.shards)))
}

func (n *names) find(name string) *cell {
	s := &n.shards[n.shard(name)]
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.cells[name]
}

// claim gives the name to c once spawn has succeeded. A stopping holder
// becomes c's predecessor. The caller holds c.mu.
func (n *names) claim(name string, c *cell, spawn func() error) error {
	s := &n.shards[n.shard(name)]
	s.mu.Lock()
	defer s.mu.Unlock()
	holder := s.cells[name]
	if holder != nil && !holder.isClosed() {
		return ErrNameTaken
	}
	c.predecessor = holder
	if err := spawn(); err != nil {
		return err
	}
	s.cells[name] = c
	return nil
}

// release forgets c, unless a successor holds its name.
func (n *names) release(c *cell) {
	s := &n.shards[n.shard(c.name)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cells[c.name] == c {
		delete(s.cells, c.name)
	}
}

// each calls f for a copy of every shard, so that f may take any lock.
func (n *names) each(f func(*cell)) {
	var batch []*cell
	for i := range n.shards {
		s := &n.shards[i]
		batch = batch[:0]
		s.mu.RLock()
		for _, c := range s.cells {
			batch = append(batch, c)
		}
		s.mu.RUnlock()
		for _, c := range batch {
			f(c)
		}
	}
}
