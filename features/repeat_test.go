package features

import (
	"fmt"
	"testing"

	"github.com/conclave-chat/conclave"
)

// S58, faults S16: a message that was sent with a key is not sent again under
// that key, however much was said since.
func TestIdempotencyKeyIsForEver(t *testing.T) {
	w := newWorld(t)
	c := w.clients(2)
	g := must[*conclave.Group](t)(c[0].Conversations().NewGroup(w.ctx, addresses(c[1]), conclave.GroupOptions{}))
	send := func(text string, opts ...conclave.SendOption) conclave.MessageID {
		return must[conclave.MessageID](t)(g.Send(w.ctx, conclave.Text(text), opts...))
	}
	first := send("once", conclave.IdempotencyKey("k"))
	for i := range 300 {
		send(fmt.Sprint("line ", i))
	}
	if err := g.Sync(w.ctx); err != nil {
		t.Fatal(err)
	}
	if again := send("once", conclave.IdempotencyKey("k")); again != first {
		t.Errorf("the same message has the ids %v and %v", first, again)
	}
	if err := g.Sync(w.ctx); err != nil {
		t.Fatal(err)
	}
	if n := len(w.texts(g)); n != 301 {
		t.Errorf("%d messages, want 301", n)
	}
}
