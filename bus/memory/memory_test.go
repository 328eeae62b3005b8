package memory_test

import (
	"runtime"
	"testing"

	"go.uber.org/goleak"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/bustest"
	"github.com/conclave-chat/conclave/bus/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func harness(cfg memory.Config) bustest.Make {
	return func(t *testing.T, shards int) bustest.Harness {
		cfg := cfg
		cfg.Shards = shards
		b := memory.New(cfg)
		small := cfg
		small.MaxBytes = 1 << 20
		return bustest.Harness{
			Bus:     b,
			Connect: func(*testing.T) bus.Bus { return b.Connect() },
			Full:    func(*testing.T) bus.Bus { return memory.New(small) },
			Rewind:  func(_ *testing.T, shard int, to bus.ID) { b.Rewind(shard, to) },
		}
	}
}

func TestContract(t *testing.T) { bustest.Run(t, harness(memory.Config{})) }

func TestContractWithoutCompareAndSet(t *testing.T) {
	bustest.Run(t, harness(memory.Config{NoCompareAndSet: true}))
}

// What others do meanwhile, feeds that lag, and batches from before.
func TestContractWithFaults(t *testing.T) {
	bustest.Run(t, harness(memory.Config{Faults: memory.Faults{
		Hit: memory.Seeded(1, 3, memory.Between, memory.Lag, memory.Stale), Meanwhile: runtime.Gosched,
	}}))
}

func TestContractWithHoles(t *testing.T) {
	bustest.Run(t, harness(memory.Config{Holes: true, Faults: memory.Faults{
		Hit: memory.Seeded(1, 3, memory.Between, memory.Lag, memory.Stale, memory.Hole), Meanwhile: runtime.Gosched,
	}}))
}
