package telemetry

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// A Counter only rises.
type Counter struct{ n atomic.Uint64 }

// Inc adds one.
func (c *Counter) Inc() { c.n.Add(1) }

// Add adds n.
func (c *Counter) Add(n int) { c.n.Add(uint64(max(n, 0))) }

// Value is the count so far.
func (c *Counter) Value() uint64 { return c.n.Load() }

// By is a counter for each value of a label.
type By[L label] struct{ of [maxWords]Counter }

// Of is the counter of one value.
func (b *By[L]) Of(l L) *Counter { return &b.of[slot(l)] }

// A Level rises and falls.
type Level struct{ n atomic.Int64 }

// Add moves the level.
func (l *Level) Add(n int) { l.n.Add(int64(n)) }

// Set sets the level.
func (l *Level) Set(n int) { l.n.Store(int64(n)) }

// Value is the level now.
func (l *Level) Value() int64 { return l.n.Load() }

// Levels is a level for each value of a label.
type Levels[L label] struct{ of [maxWords]Level }

// Of is the level of one value.
func (b *Levels[L]) Of(l L) *Level { return &b.of[slot(l)] }

// A Histogram distributes durations. Unlike a counter it is the exporter's
// own: about 0.1 µs an observation, for what happens once per group message.
type Histogram struct{ out metric.Float64Histogram }

// Observe counts one duration.
func (h *Histogram) Observe(d time.Duration) {
	if h.out != nil {
		h.out.Record(context.Background(), d.Seconds())
	}
}
