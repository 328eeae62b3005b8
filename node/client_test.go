package node_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/node"
)

// Who took a request may be gone before it answers: nobody waits for ever, even
// who set no deadline.
func TestNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Config{})
		defer b.Close()
		stop, err := b.Serve(bus.GetInboxIds, func(ctx context.Context, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		client := node.NewClient(b)
		if _, err := client.GetInboxIDs(context.Background(), make([]identity.Identifier, 1)); !errors.Is(err, bus.ErrUnavailable) {
			t.Errorf("without a deadline: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := client.GetInboxIDs(ctx, make([]identity.Identifier, 1)); !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
	})
}
