package actors

import "sync"

// A memo is group.Shared for one realm: results of pure functions by a hash of
// their input, bounded. It forgets at random, which costs work and nothing else.
type memo struct {
	mu     sync.RWMutex
	values map[[32]byte]any
}

const maxMemo = 4096

func newMemo() *memo { return &memo{values: map[[32]byte]any{}} }

func (m *memo) Get(key [32]byte) any {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.values[key]
}

func (m *memo) Put(key [32]byte, value any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.values) >= maxMemo {
		for k := range m.values { // Go's order is random enough
			delete(m.values, k)
			if len(m.values) < maxMemo*3/4 {
				break
			}
		}
	}
	m.values[key] = value
}
