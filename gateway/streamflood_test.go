package gateway_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/gateway"
	"github.com/conclave-chat/conclave/proto/identityapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// A flood of streams that are opened leaves others as TestFlood's does.
func TestFloodOfStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Config{})
		t.Cleanup(func() { b.Close() })
		n, dial := openPipedOn(t, busy{b, make(chan struct{}, 1)}, gateway.Config{
			Limits:       gateway.Limits{Working: 1},
			Authenticate: func(token string) (string, bool) { return token, true },
		})
		victim, h := overHTTP2(t, dial), overHTTP2(t, dial)
		slowest := func(times int) (most time.Duration) {
			for range times {
				request := connect.NewRequest(&identityapi.GetInboxIdsRequest{Requests: []*identityapi.GetInboxIdsRequest_Request{{Identifier: "0x" + strings.Repeat("0", 40)}}})
				request.Header().Set("Authorization", "Bearer victim")
				began := time.Now()
				_, err := connect.NewClient[identityapi.GetInboxIdsRequest, identityapi.GetInboxIdsResponse](victim, n.url+identityPath+"GetInboxIds", connect.WithGRPC()).CallUnary(t.Context(), request)
				most = max(most, time.Since(began))
				if err != nil {
					t.Errorf("after %v: %v", most, err)
				}
			}
			return most
		}
		calm := slowest(10)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var flood sync.WaitGroup
		var opened atomic.Int64
		for range 800 { // each asks the bus once: 10 ms
			flood.Go(func() { opens(ctx, h, n.url, &opened) })
		}
		synctest.Wait()
		flooded := slowest(1)
		if flooded > 4*calm {
			t.Errorf("an answer took %v, while another caller opens streams %v", calm, flooded)
		}
		// All of them are opened in the end.
		<-time.After(time.Minute)
		if opened.Load() != 800 {
			t.Errorf("%d streams were opened", opened.Load())
		}
		cancel()
		flood.Wait()
	})
}

// opens a stream, and keeps it open until ctx ends.
func opens(ctx context.Context, h *http.Client, url string, opened *atomic.Int64) {
	r := connect.NewRequest(&mlsapi.SubscribeGroupMessagesRequest{Filters: []*mlsapi.SubscribeGroupMessagesRequest_Filter{{GroupId: groupID(1)}}})
	r.Header().Set("Authorization", "Bearer flooder")
	s, err := connect.NewClient[mlsapi.SubscribeGroupMessagesRequest, mlsapi.GroupMessage](h, url+mlsPath+"SubscribeGroupMessages", connect.WithGRPC()).CallServerStream(ctx, r)
	if err != nil {
		return
	}
	if s.ResponseHeader().Get("subscribed") == "true" {
		opened.Add(1)
	}
	s.Receive()
	s.Close()
}

// XMTP's SDKs ask for all key packages and inboxes that they need in one request:
// 250 members with two installations each are 500.
func TestRealClientsAskForMany(t *testing.T) {
	n := open(t, gateway.Config{})
	h := overHTTP2(t, nil)
	packages, inboxes := new(mlsapi.FetchKeyPackagesRequest), new(identityapi.GetInboxIdsRequest)
	for i := range 500 {
		packages.InstallationKeys = append(packages.InstallationKeys, append(make([]byte, 30), byte(i>>8), byte(i)))
		inboxes.Requests = append(inboxes.Requests, &identityapi.GetInboxIdsRequest_Request{Identifier: "0x" + strings.Repeat("0", 40)})
	}
	if _, err := call[mlsapi.FetchKeyPackagesResponse](t.Context(), h, n.url+mlsPath+"FetchKeyPackages", packages, connect.WithGRPC()); err != nil {
		t.Error(err)
	}
	if _, err := call[identityapi.GetInboxIdsResponse](t.Context(), h, n.url+identityPath+"GetInboxIds", inboxes, connect.WithGRPC()); err != nil {
		t.Error(err)
	}
}
