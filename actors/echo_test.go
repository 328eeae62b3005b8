package actors

import (
	"context"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/internal/telemetry"
)

// lateAnswers is a bus whose log is faster than its answers: what is published
// is delivered before its publisher hears that it was taken.
type lateAnswers struct{ bus.Bus }

func (b lateAnswers) Publish(ctx context.Context, t bus.Topic, payload []byte, opts ...bus.PublishOption) (bus.Ack, error) {
	ack, err := b.Bus.Publish(ctx, t, payload, opts...)
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	return ack, err
}

// An own commit or message that is delivered before its publish is answered is
// settled by the delivery, and no sign of a log that went backwards.
func TestEchoBeforeAnswer(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(2)
		st, err := w.sys.Stream(w.ctx, p[0], Scope{}, StreamMessages) // hears of news at once
		w.ok(err)
		defer st.Close()
		id := w.group(p[0])
		w.add(p[0], id, p[1])
		w.say(p[0], id, "one")
		if n := w.tel.Standings.Of(telemetry.StandingLost).Value(); n != 0 {
			t.Errorf("%d stalls: a replica believed that the log went backwards", n)
		}
		w.ok(w.sys.SyncWelcomes(w.ctx, p[1]))
		w.sync(p[1], id)
		w.reads(p[1], id, "one")
	}, func(c *Config) { c.Bus = lateAnswers{c.Bus} })
}
