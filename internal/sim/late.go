package sim

import (
	"errors"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
)

// A stray is a publish that got no answer and is still on its way: somewhere in
// the network, whatever has become of its sender. It lands when the log has been
// read past it and more, perhaps after the same message, sealed anew.
type stray struct {
	*seat
	out group.Outbound
	due int // the step at which it lands
}

// strayed sends a publish on a long way.
func (s *seat) strayed(o group.Outbound) {
	s.world.strays = append(s.world.strays, stray{s, o, s.steps + 5 + s.rand.IntN(120)})
}

// land lets strays arrive that are due.
func (w *world) land(step int) {
	out := w.strays
	w.strays = nil
	for _, s := range out {
		if s.due > step {
			w.strays = append(w.strays, s)
			continue
		}
		var opts []bus.PublishOption
		if s.out.ExpectLast {
			opts = append(opts, bus.ExpectLast(bus.ID(s.out.Last)))
		}
		ack, err := w.publish(s.out.Topic, s.out.ID, s.out.Payload, opts...)
		if errors.Is(err, bus.ErrConflict) {
			continue
		}
		w.must(err)
		s.truth.landed(s.out)
		w.tell("%s: stray envelope %d", s.name, ack.ID)
	}
}

// flood sends more messages in one go than anybody keeps in mind.
func (s *seat) flood() bool {
	if s.counters[string(faultFlood)] > 0 || !s.replica.Active() {
		return false
	}
	for range 35 + s.rand.IntN(10) {
		for range 8 {
			if !s.ready() || !s.sendMessage() {
				return true
			}
		}
		s.rest()
	}
	return true
}
