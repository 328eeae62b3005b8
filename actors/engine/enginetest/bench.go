package enginetest

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/actors/engine"
)

// Bench measures an engine: goals are Tell ≤ 1 µs, Ask ≤ 5 µs and 1 KB for an
// idle actor.
func Bench(b *testing.B, newEngine New) {
	open := func(b *testing.B) *engine.Engine {
		e, err := newEngine(engine.Config{})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := e.Shutdown(context.Background()); err != nil {
				b.Log(err)
			}
		})
		return e
	}
	b.Run("Tell", func(b *testing.B) {
		e := open(b)
		ref := benchActor(b, e, "a", 0)
		b.ReportAllocs()
		for b.Loop() {
			_ = e.Tell(ref, 1)
		}
		if _, err := e.Ask(b.Context(), ref, 1); err != nil { // all handled
			b.Fatal(err)
		}
	})
	b.Run("Ask", func(b *testing.B) {
		e := open(b)
		ref := benchActor(b, e, "a", 0)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := e.Ask(b.Context(), ref, 1); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("RegistryTell", func(b *testing.B) {
		e := open(b)
		dir := engine.NewRegistry(e, func(string) (func() engine.Behavior, engine.Options, error) {
			return func() engine.Behavior { return &script{} }, engine.Options{IdleAfter: time.Hour}, nil
		})
		b.ReportAllocs()
		for b.Loop() {
			_ = dir.Tell("a", 1)
		}
	})
	b.Run("Idle100k", func(b *testing.B) {
		const actors = 100_000
		for b.Loop() {
			e := open(b)
			names := namesOf(actors)
			before := heap()
			began := time.Now()
			for _, name := range names {
				benchActor(b, e, name, time.Hour)
			}
			b.ReportMetric(float64(time.Since(began).Nanoseconds())/actors, "ns/spawn")
			b.ReportMetric(float64(heap()-before)/actors, "B/actor")
			b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
			if err := e.Shutdown(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func namesOf(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%032x", i)
	}
	return names
}

func benchActor(b *testing.B, e *engine.Engine, name string, idle time.Duration) engine.Ref {
	ref, err := e.Spawn(name, func() engine.Behavior { return &script{} }, engine.Options{IdleAfter: idle})
	if err != nil {
		b.Fatal(err)
	}
	return ref
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
