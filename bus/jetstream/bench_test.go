package jetstream_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
)

func BenchmarkOpenClose(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		bus, err := jetstream.Open(context.Background(), jetstream.Config{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		bus.Close()
	}
}

// publishers runs b.N publishes of 1 KiB from so many goroutines, each to the
// next of so many topics.
func publishers(b *testing.B, p bus.Bus, goroutines, topics int) {
	var all []bus.Topic
	for n := range topics {
		all = append(all, messagesOf(b, n))
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			payload := make([]byte, 1024)
			for {
				n := int(next.Add(1))
				if n > b.N {
					return
				}
				copy(payload, fmt.Sprintf("%p %d", b, n))
				if _, err := p.Publish(context.Background(), all[n%topics], payload); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

func BenchmarkPublish(b *testing.B) {
	for _, c := range []struct {
		shards, publishers, topics int
		sync                       time.Duration
	}{
		{1, 1, 1, 0}, {1, 16, 1, 0}, {8, 16, 16, 0}, {1, 400, 400, 0}, {8, 400, 400, 0}, {1, 16, 1, 100 * time.Millisecond},
	} {
		b.Run(fmt.Sprintf("shards=%d/publishers=%d/topics=%d/sync=%v", c.shards, c.publishers, c.topics, c.sync), func(b *testing.B) {
			p := open(b, jetstream.Config{Dir: b.TempDir(), Shards: c.shards, SyncInterval: c.sync})
			b.ResetTimer()
			publishers(b, p, c.publishers, c.topics)
		})
	}
}

// BenchmarkFeed is the way of an envelope from Publish to Next, live and from
// the log.
func BenchmarkFeed(b *testing.B) {
	for _, live := range []bool{true, false} {
		b.Run(map[bool]string{true: "live", false: "replayed"}[live], func(b *testing.B) {
			p := open(b, jetstream.Config{Dir: b.TempDir(), SyncInterval: time.Minute})
			f, err := p.Open(context.Background())
			if err != nil {
				b.Fatal(err)
			}
			var topics []bus.Topic
			for n := range 16 {
				topics = append(topics, messagesOf(b, n))
			}
			var wg sync.WaitGroup
			if live {
				if err := f.Follow(context.Background(), 0, topics...); err != nil {
					b.Fatal(err)
				}
				b.ResetTimer()
				wg.Go(func() { publishers(b, p, 16, len(topics)) })
			} else {
				publishers(b, p, 16, len(topics))
				b.ResetTimer()
				if err := f.Follow(context.Background(), 0, topics...); err != nil {
					b.Fatal(err)
				}
			}
			for n := 0; n < b.N; {
				batch, err := f.Next(context.Background())
				if err != nil {
					b.Fatal(err)
				}
				n += len(batch)
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// BenchmarkLatency is one envelope at a time from Publish to Next.
func BenchmarkLatency(b *testing.B) {
	p := open(b, jetstream.Config{Dir: b.TempDir()})
	f, err := p.Open(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	m := messagesOf(b, 1)
	if err := f.Follow(context.Background(), 0, m); err != nil {
		b.Fatal(err)
	}
	for n := 0; b.Loop(); n++ {
		if _, err := p.Publish(context.Background(), m, fmt.Appendf(nil, "%p %d", b, n)); err != nil {
			b.Fatal(err)
		}
		if _, err := f.Next(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadUpToDate is a catch-up of one group that has nothing new.
func BenchmarkReadUpToDate(b *testing.B) {
	p := open(b, jetstream.Config{Dir: b.TempDir()})
	m := messagesOf(b, 1)
	c, err := bus.CommitsOf(m.ID())
	if err != nil {
		b.Fatal(err)
	}
	ack, err := p.Publish(context.Background(), m, []byte("x"))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := p.Read(context.Background(), ack.ID, 100, m, c); err != nil {
			b.Fatal(err)
		}
	}
}
