package badger_test

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/conclave-chat/conclave/persistence"
	"github.com/conclave-chat/conclave/persistence/badger"
)

// Durable batches of 4 rows of 1 KB, by concurrent writers.
func BenchmarkDurable(b *testing.B) {
	for _, writers := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := open(b, badger.Config{Dir: b.TempDir()})
			value := make([]byte, 1<<10)
			rand.Read(value)
			var next atomic.Int64
			var wait sync.WaitGroup
			b.ResetTimer()
			for range writers {
				wait.Go(func() {
					for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
						var batch persistence.Batch
						for row := range uint64(4) {
							key := binary.BigEndian.AppendUint64(nil, uint64(n))
							batch.Put(binary.BigEndian.AppendUint64(key, row), value)
						}
						if err := s.Apply(b.Context(), &batch, persistence.Durable); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wait.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "batches/s")
		})
	}
}

// One operation is one group message on a host with 400 of its members: each
// has a batch of its own with the shared body, which one of them writes, a
// sealed index row of 32 bytes and a sealed row of 60 bytes.
func BenchmarkFanOut(b *testing.B) {
	const members = 400
	s := open(b, badger.Config{Dir: b.TempDir()})
	vaults := make([]*persistence.Vault, members)
	for i := range vaults {
		v, err := persistence.CreateVault(b.Context(), s, [32]byte{byte(i), byte(i >> 8)}, persistence.Key{}, rand.Reader)
		check(b, err)
		vaults[i] = v
	}
	group := make([]byte, 16)
	start := make([]chan int, members)
	var wait sync.WaitGroup
	var stopped sync.WaitGroup
	body, index, row := make([]byte, 300), make([]byte, 32), make([]byte, 60)
	for i, v := range vaults {
		start[i] = make(chan int, 1)
		stopped.Go(func() {
			for message := range start[i] {
				suffix := binary.BigEndian.AppendUint64(group[:16:16], uint64(message))
				var batch persistence.Batch
				persistence.PutShared(&batch, persistence.Realm{}, suffix, [32]byte{byte(message)}, body)
				v.Put(&batch, persistence.RecordType(6), suffix, index)
				v.Put(&batch, persistence.RecordType(7), suffix, row)
				if err := v.Apply(b.Context(), &batch, persistence.Lazy); err != nil {
					b.Error(err)
				}
				wait.Done()
			}
		})
	}
	b.ResetTimer()
	for message := range b.N {
		wait.Add(members)
		for i := range start {
			start[i] <- message
		}
		wait.Wait()
	}
	b.StopTimer()
	for i := range start {
		close(start[i])
	}
	stopped.Wait()
	b.ReportMetric(float64(b.N)*(2*members+1)/b.Elapsed().Seconds(), "rows/s")
}
