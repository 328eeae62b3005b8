package engine_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/actors/engine/enginetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) { enginetest.Run(t, engine.New) }

func BenchmarkEngine(b *testing.B) { enginetest.Bench(b, engine.New) }

func TestConfigIsChecked(t *testing.T) {
	for _, c := range []engine.Config{
		{IdleTick: 1},
		{Backoff: engine.Backoff{Initial: -1}},
		{Backoff: engine.Backoff{Initial: 2, Max: 1}},
		{Backoff: engine.Backoff{Quiet: -1}},
		{Backoff: engine.Backoff{StallAfter: -1}},
	} {
		if _, err := engine.New(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}
