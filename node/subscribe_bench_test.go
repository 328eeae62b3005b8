package node_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

func benchBuses(b *testing.B, run func(b *testing.B, c *channel)) {
	for name, open := range map[string]func() bus.Bus{
		"memory":    func() bus.Bus { return memory.New(memory.Config{Shards: 4}) },
		"jetstream": func() bus.Bus { return openJetStream(b) },
	} {
		b.Run(name, func(b *testing.B) { run(b, openChannel(b, open(), node.Limits{})) })
	}
}

// BenchmarkSubscribers is the way of a message from the bus to 100 of 2,000
// subscribers with five groups each, and what one of those holds while it waits.
func BenchmarkSubscribers(b *testing.B) {
	const subscribers, groupsOfEach, groups = 2000, 5, 100
	benchBuses(b, func(b *testing.B, c *channel) {
		ctx, cancel := context.WithCancel(b.Context())
		var left, there, heard sync.WaitGroup
		defer left.Wait()
		defer cancel()
		b.StopTimer()
		before := heap()
		for i := range subscribers {
			var filters []*groupFilter
			for j := range groupsOfEach {
				filters = append(filters, after((i+j)%groups, 0))
			}
			there.Add(groupsOfEach)
			left.Go(func() {
				welcomed := 0
				c.groups(ctx, func(*mlsapi.GroupMessage) error {
					if welcomed++; welcomed <= groupsOfEach {
						there.Done()
					} else {
						heard.Done()
					}
					return nil
				}, filters...)
			})
		}
		for group := range groups {
			c.say(b, group, mls.ContentApplication, "welcome")
		}
		there.Wait()
		b.ReportMetric(float64(heap()-before)/subscribers/1024, "KiB/subscriber")
		b.StartTimer()
		for i := range b.N {
			heard.Add(subscribers * groupsOfEach / groups)
			c.say(b, i%groups, mls.ContentApplication, fmt.Sprint(i))
			heard.Wait()
		}
		b.StopTimer()
	})
}

// heap is what is in use, stacks included.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// BenchmarkComeBack opens a stream of 5,000 groups in which nothing is new
// but in one.
func BenchmarkComeBack(b *testing.B) {
	const groups = 5000
	benchBuses(b, func(b *testing.B, c *channel) {
		var filters []*groupFilter
		var mu sync.Mutex
		var wg sync.WaitGroup
		for worker := range 50 {
			wg.Go(func() {
				for group := worker; group < groups; group += 50 {
					id := c.say(b, group, mls.ContentApplication, "read")
					mu.Lock()
					filters = append(filters, after(group, id))
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		filters[0].IdCursor = 0
		for b.Loop() {
			ctx, cancel := context.WithCancel(b.Context())
			c.groups(ctx, func(*mlsapi.GroupMessage) error { cancel(); return nil }, filters...)
		}
	})
}
