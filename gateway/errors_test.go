package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/bus/xmtp"
	"github.com/conclave-chat/conclave/gateway"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/associations"
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

// The longest identity logs, asked for again and again in one request, are told
// from what a caller has to wait for: a host on the network asks for fewer at a
// time, and has them all.
func TestLongAnswersAreAskedInParts(t *testing.T) {
	n := open(t, gateway.Config{})
	h := overHTTP2(t, nil)
	p := newPerson(t)
	updates := []*associations.IdentityUpdate{p.registration(t)}
	for range 16 {
		other := newPerson(t)
		d := identity.NewDraft(p.inbox, time.Now()).Add(other.appID, p.wallet.Identifier())
		if err := errors.Join(d.Sign(p.wallet), d.SignInstallation(other.app)); err != nil {
			t.Fatal(err)
		}
		u, err := d.Update()
		if err != nil {
			t.Fatal(err)
		}
		u.Actions[0].GetAdd().RelyingParty = proto.String(strings.Repeat("x", 23<<10))
		updates = append(updates, u)
	}
	for _, u := range updates {
		must[identityapi.PublishIdentityUpdateResponse](t)(call[identityapi.PublishIdentityUpdateResponse](t.Context(), h, n.url+identityPath+"PublishIdentityUpdate", publish(u), connect.WithGRPC()))
	}
	request := logsOf(slices.Repeat([]string{p.inbox}, 50)...)
	_, err := call[identityapi.GetIdentityUpdatesResponse](t.Context(), h, n.url+identityPath+"GetIdentityUpdates", request, connect.WithGRPC())
	wantCode(t, err, connect.CodeOutOfRange)

	b, err := xmtp.Open(xmtp.Config{URL: n.url})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	all, err := node.NewClient(b).GetIdentityUpdates(t.Context(), request)
	if err != nil || len(all.GetResponses()) != 50 || len(all.GetResponses()[49].GetUpdates()) != 17 {
		t.Errorf("a host gets %d answers, %v", len(all.GetResponses()), err)
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
