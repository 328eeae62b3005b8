package actors

import (
	"context"
	"sync/atomic"

	"github.com/conclave-chat/conclave/bus"
)

// hiding is a bus whose topics look empty until they are shown.
type hiding struct {
	bus.Bus
	shown atomic.Bool
}

func (h *hiding) show() { h.shown.Store(true) }

func (h *hiding) Read(ctx context.Context, after bus.ID, limit int, topics ...bus.Topic) ([]bus.Envelope, error) {
	if !h.shown.Load() {
		return nil, nil
	}
	return h.Bus.Read(ctx, after, limit, topics...)
}
