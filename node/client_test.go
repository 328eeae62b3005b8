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
		gone := make(chan struct{})
		stop, err := b.Serve(bus.GetInboxIds, func(context.Context, []byte) ([]byte, error) {
			<-gone
			return nil, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		defer close(gone)
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
