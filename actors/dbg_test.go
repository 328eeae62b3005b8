package actors
import ("testing";"fmt";"github.com/conclave-chat/conclave/group")
func TestDbg(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.people(4)
		id := w.group(p[0])
		w.add(p[0], id, p[1:]...)
		for _, m := range p[1:] {
		es, err := w.log.Read(w.ctx, 0, 100, welcomeTopic(m))
		fmt.Println(len(es), err)
		for _, e := range es { x, err := group.ParseWelcome(e.Payload); fmt.Println(x.Pointer, err) }
		}
	})
}
