package memory_test

import (
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
