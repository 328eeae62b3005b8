package goroutines_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/conclave-chat/conclave/actors/engine/enginetest"
	"github.com/conclave-chat/conclave/actors/engine/goroutines"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) { enginetest.Run(t, goroutines.New) }

func BenchmarkEngine(b *testing.B) { enginetest.Bench(b, goroutines.New) }
