package actors

import (
	"sync"
	"time"

	"github.com/conclave-chat/conclave/bus"
)

// A logClock knows how late it is by the log's clock, at least: as late as the newest
// envelope that this host has read, and what has passed since. This host's own clock
// says only how long something took.
type logClock struct {
	mu     sync.Mutex
	newest time.Time // time of the newest envelope that was read
	read   time.Time // when it was
}

// saw notes an envelope of the log.
func (c *logClock) saw(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); at.After(c.newest.Add(now.Sub(c.read))) {
		c.newest, c.read = at, now
	}
}

// sawAll notes envelopes of the log, the newest last.
func (c *logClock) sawAll(envelopes []bus.Envelope) {
	if n := len(envelopes); n > 0 {
		c.saw(envelopes[n-1].Time)
	}
}

// until returns how long it takes at most until a time has come; 0 where it has.
func (c *logClock) until(at time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(0, at.Sub(c.newest.Add(time.Since(c.read))))
}
