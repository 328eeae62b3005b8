package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/gateway"
	"github.com/conclave-chat/conclave/proto/identityapi"
)

// A faulty bus fails as a test says.
type faulty struct {
	bus.Bus
	last func(context.Context) error
}

func (f faulty) Last(ctx context.Context, topics ...bus.Topic) ([]bus.ID, error) {
	if err := f.last(ctx); err != nil {
		return nil, err
	}
	return f.Bus.Last(ctx, topics...)
}

// What a node refuses has gRPC's word for it; what is its own fault goes to its
// log and says nothing to the caller, a panic neither.
func TestErrorCodes(t *testing.T) {
	const inner = "disk /var/lib/conclave is on fire"
	for _, test := range []struct {
		name string
		last func(context.Context) error
		code connect.Code
		says string // all of it, where it is constant
	}{
		{"unavailable", func(context.Context) error { return bus.ErrUnavailable }, connect.CodeUnavailable, ""},
		{"internal", func(context.Context) error { return errors.New(inner) }, connect.CodeInternal, "internal error"},
		{"panic", func(context.Context) error { panic(inner) }, connect.CodeInternal, "internal error"},
		{"exhausted", func(context.Context) error { return fmt.Errorf("append: %w", bus.ErrFull) }, connect.CodeResourceExhausted, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log bytes.Buffer
			b := memory.New(memory.Config{})
			t.Cleanup(func() { b.Close() })
			n := openOn(t, faulty{b, test.last}, gateway.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			_, err := call[identityapi.GetIdentityUpdatesResponse](t.Context(), overHTTP2(t, nil), n.url+identityPath+"GetIdentityUpdates",
				&identityapi.GetIdentityUpdatesRequest{Requests: []*identityapi.GetIdentityUpdatesRequest_Request{{InboxId: strings.Repeat("0", 64)}}}, connect.WithGRPC())
			wantCode(t, err, test.code)
			var refused *connect.Error
			if errors.As(err, &refused) && test.says != "" && refused.Message() != test.says {
				t.Errorf("the caller is told %q", refused.Message())
			}
			if fault := test.code == connect.CodeInternal; fault != strings.Contains(log.String(), inner) {
				t.Errorf("the log says %q", log.String())
			}
		})
	}
}

// A caller that gives up, or whose time is up, is told so.
func TestDeadline(t *testing.T) {
	b := memory.New(memory.Config{})
	t.Cleanup(func() { b.Close() })
	n := openOn(t, faulty{b, func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}}, gateway.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := call[identityapi.GetIdentityUpdatesResponse](ctx, overHTTP2(t, nil), n.url+identityPath+"GetIdentityUpdates",
		&identityapi.GetIdentityUpdatesRequest{Requests: []*identityapi.GetIdentityUpdatesRequest_Request{{InboxId: strings.Repeat("0", 64)}}}, connect.WithGRPC())
	wantCode(t, err, connect.CodeDeadlineExceeded)
}
