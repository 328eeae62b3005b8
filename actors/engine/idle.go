package engine

import (
	"sync"
	"sync/atomic"
	"time"
)

// An idleWheel finds idle actors without a timer for each: every tick it looks
// at one slot of the wheel. A cell waits in the slot of the moment at which it
// may first be due, and is put forward when it was used in between.
type idleWheel struct {
	tick time.Duration
	now  atomic.Int64 // ticks; stands still while nobody is watched

	mu      sync.Mutex
	slots   [256][]*cell
	watched int
	timer   *time.Timer
	halted  bool
}

// ticks rounds d up, and adds the part of a tick that may be gone already.
func (w *idleWheel) ticks(d time.Duration) int64 {
	return int64((d+w.tick-1)/w.tick) + 1
}

func (w *idleWheel) watch(c *cell) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.used.Store(w.now.Load())
	w.put(c)
	w.watched++
	if w.timer == nil && !w.halted {
		w.timer = time.AfterFunc(w.tick, w.turn)
	}
}

// put files c under its due time, or as far ahead as the wheel reaches. The
// caller holds w.mu.
func (w *idleWheel) put(c *cell) {
	now := w.now.Load()
	at := min(max(c.used.Load()+c.idleTicks, now+1), now+int64(len(w.slots))-1)
	slot := &w.slots[at%int64(len(w.slots))]
	*slot = append(*slot, c)
}

// turn moves the wheel by one tick and asks those that are due.
func (w *idleWheel) turn() {
	var due []*cell
	w.mu.Lock()
	now := w.now.Add(1)
	slot := &w.slots[now%int64(len(w.slots))]
	looked := *slot
	*slot = nil
	for _, c := range looked {
		if c.isClosed() {
			w.watched--
			continue
		}
		if c.used.Load()+c.idleTicks <= now {
			due = append(due, c)
		}
		w.put(c)
	}
	w.timer = nil
	if w.watched > 0 && !w.halted {
		w.timer = time.AfterFunc(w.tick, w.turn)
	}
	w.mu.Unlock()

	for _, c := range due {
		if !c.probed.Swap(true) && !c.post(&envelope{kind: idleProbe}) {
			c.probed.Store(false)
		}
	}
}

// halt stops the wheel for good.
func (w *idleWheel) halt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.halted = true
	if w.timer != nil {
		w.timer.Stop()
	}
}
