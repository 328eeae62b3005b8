package group_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/mls"
)

// BenchmarkDeliver is one application message at one member: all of it, and the
// part of it that is MLS.
func BenchmarkDeliver(b *testing.B) {
	w := newWorld(b)
	people := make([]string, 16)
	for i := range people {
		people[i] = fmt.Sprintf("p%d", i)
		w.install(people[i], people[i])
	}
	w.run([]string{"create", "p0"})
	w.run(append([]string{"add", "p0"}, people[1:]...))
	w.sync(people)
	text := strings.Repeat("x", 200)
	const batch = 512
	var deliveries []group.Delivered
	refill := func() {
		deliveries = deliveries[:0]
		p0, from := w.homes["p0"], len(w.log)
		for range batch {
			p0.step(group.Send{Content: []byte(text), Now: w.tick()})
			p0.send("")
			p0.deliver()
		}
		for _, e := range w.log[from:] {
			d := delivery(e)
			d.Message, _ = w.realm.Parse(d.Data)
			deliveries = append(deliveries, d)
		}
		for _, d := range deliveries { // the realm has seen it: one of many members
			_, _ = w.homes["p2"].replica.Step(d)
		}
		w.out.Reset()
	}
	p1 := w.homes["p1"].replica
	b.Run("replica", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			if i%batch == 0 {
				b.StopTimer()
				refill()
				b.StartTimer()
			}
			if _, err := p1.Step(deliveries[i%batch]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("mls", func(b *testing.B) {
		b.ReportAllocs()
		var g *mls.Group
		for i := range b.N {
			if i%batch == 0 {
				b.StopTimer()
				refill()
				g = p1.Group()
				for _, d := range deliveries {
					_, _ = p1.Step(d)
				}
				b.StartTimer()
			}
			next, _, err := g.Open(deliveries[i%batch].Message)
			if err != nil {
				b.Fatal(err)
			}
			g = next
		}
	})
}
