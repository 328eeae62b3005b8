package gateway_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/gateway"
	"github.com/conclave-chat/conclave/proto/messageapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

type groupStream = connect.ServerStreamForClient[mlsapi.GroupMessage]

// subscribe opens a stream of one group from a cursor. It returns when the
// server's headers are there, as real clients do.
func subscribe(t testing.TB, ctx context.Context, h *http.Client, url string, group []byte, cursor uint64, options ...connect.ClientOption) *groupStream {
	t.Helper()
	s, err := connect.NewClient[mlsapi.SubscribeGroupMessagesRequest, mlsapi.GroupMessage](h, url+mlsPath+"SubscribeGroupMessages", options...).
		CallServerStream(ctx, connect.NewRequest(&mlsapi.SubscribeGroupMessagesRequest{
			Filters: []*mlsapi.SubscribeGroupMessagesRequest_Filter{{GroupId: group, IdCursor: cursor}},
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func send(t testing.TB, h *http.Client, url string, messages ...*mlsapi.GroupMessageInput) {
	t.Helper()
	must[emptypb.Empty](t)(call[emptypb.Empty](t.Context(), h, url+mlsPath+"SendGroupMessages",
		&mlsapi.SendGroupMessagesRequest{Messages: messages}, connect.WithGRPC()))
}

func queryAll(t testing.TB, h *http.Client, url string, group []byte) []*mlsapi.GroupMessage {
	t.Helper()
	return must[mlsapi.QueryGroupMessagesResponse](t)(call[mlsapi.QueryGroupMessagesResponse](t.Context(), h, url+mlsPath+"QueryGroupMessages",
		&mlsapi.QueryGroupMessagesRequest{GroupId: group, PagingInfo: &mlsapi.PagingInfo{Direction: mlsapi.SortDirection_SORT_DIRECTION_ASCENDING}}, connect.WithGRPC())).GetMessages()
}

// On a real log: what is sent is stored byte for byte, queried, replayed to a
// stream from its cursor and then streamed live, once and in order.
func TestMessages(t *testing.T) {
	b, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	n := openOn(t, b, gateway.Config{})
	h := overHTTP2(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	group := groupID(1)

	var sent []*mlsapi.GroupMessageInput
	for i := range 6 {
		sent = append(sent, sealed(group, 100+i))
	}
	send(t, h, n.url, sent[0])
	send(t, h, n.url, sent[1:3]...)
	send(t, h, n.url, sent[1:3]...) // a retry
	stored := queryAll(t, h, n.url, group)
	if len(stored) != 3 {
		t.Fatalf("%d messages stored, want 3", len(stored))
	}
	first := stored[0].GetV1()
	if !bytes.Equal(first.GetData(), sent[0].GetV1().GetData()) || !bytes.Equal(first.GetGroupId(), group) || !first.GetShouldPush() || first.GetCreatedNs() == 0 {
		t.Errorf("stored as %v", first)
	}

	for name, options := range map[string][]connect.ClientOption{"gRPC": {connect.WithGRPC()}, "gRPC-web": {connect.WithGRPCWeb()}, "JSON": {connect.WithProtoJSON()}} {
		t.Run(name, func(t *testing.T) {
			s := subscribe(t, ctx, h, n.url, group, first.GetId(), options...)
			if s.ResponseHeader().Get("subscribed") != "true" {
				t.Errorf("headers %v", s.ResponseHeader())
			}
			before := len(queryAll(t, h, n.url, group))
			live := sealed(group, 50)
			send(t, h, n.url, live)
			last := first.GetId()
			for i := 1; i <= before; i++ {
				if !s.Receive() {
					t.Fatalf("message %d: %v", i, s.Err())
				}
				m := s.Msg().GetV1()
				if m.GetId() <= last {
					t.Errorf("id %d after %d", m.GetId(), last)
				}
				last = m.GetId()
				if i == before && !bytes.Equal(m.GetData(), live.GetV1().GetData()) {
					t.Error("the last one is not what was sent live")
				}
			}
		})
	}

	// A server of push notifications sees every topic, from its headers on.
	all := subscribeAll(t, ctx, h, n.url)
	send(t, h, n.url, sealed(groupID(2), 10))
	if !all.Receive() {
		t.Fatalf("a push server is shown nothing: %v", all.Err())
	}
	var m mlsapi.GroupMessage
	if e := all.Msg(); e.GetContentTopic() != "/xmtp/mls/1/g-00000000000000000000000000000002/proto" || proto.Unmarshal(e.GetMessage(), &m) != nil || m.GetV1().GetId() == 0 {
		t.Errorf("a push server is shown %v", e)
	}
}

// subscribeAll opens a push server's stream. It returns with the headers.
func subscribeAll(t testing.TB, ctx context.Context, h *http.Client, url string) *connect.ServerStreamForClient[messageapi.Envelope] {
	t.Helper()
	s, err := connect.NewClient[messageapi.SubscribeAllRequest, messageapi.Envelope](h, url+messagePath+"SubscribeAll", connect.WithGRPC()).
		CallServerStream(ctx, connect.NewRequest(new(messageapi.SubscribeAllRequest)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// A hesitant bus takes its time to follow everything.
type hesitant struct {
	bus.Bus
	follow chan struct{}
}

type hesitantFeed struct {
	bus.Feed
	follow chan struct{}
}

func (h hesitant) Open(ctx context.Context) (bus.Feed, error) {
	f, err := h.Bus.Open(ctx)
	return hesitantFeed{f, h.follow}, err
}

func (f hesitantFeed) FollowAll(ctx context.Context) error {
	<-f.follow
	return f.Feed.FollowAll(ctx)
}

// A stream without cursors says that it is open when it is: what is sent once
// the headers are there is shown.
func TestHeadersPromiseWhatFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Config{})
		t.Cleanup(func() { b.Close() })
		slow := hesitant{b, make(chan struct{})}
		n, dial := openPipedOn(t, slow, gateway.Config{})
		h := overHTTP2(t, dial)
		opened := make(chan *connect.ServerStreamForClient[messageapi.Envelope], 1)
		go func() { opened <- subscribeAll(t, t.Context(), h, n.url) }()
		<-time.After(20 * time.Second)
		select {
		case <-opened:
			t.Error("the headers are there before the stream is")
		default:
		}
		close(slow.follow)
		all := <-opened
		send(t, h, n.url, sealed(groupID(1), 10))
		if !all.Receive() {
			t.Errorf("what was sent after the headers is not shown: %v", all.Err())
		}
		all.Close()
	})
}

// XMTP's client waits for a stream's headers before it goes on, with no message
// to come: on the wire they are there at once.
func TestHeadersAtOnce(t *testing.T) {
	n := open(t, gateway.Config{})
	h1, h2 := overHTTP1(t, nil), overHTTP2(t, nil)
	for _, test := range []struct {
		http        *http.Client
		contentType string
	}{{h2, "application/grpc"}, {h2, "application/grpc-web+proto"}, {h1, "application/grpc-web+proto"}, {h1, "application/connect+proto"}} {
		for _, procedure := range []string{mlsPath + "SubscribeGroupMessages", messagePath + "SubscribeAll"} {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, n.url+procedure, bytes.NewReader([]byte{0, 0, 0, 0, 0}))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", test.contentType)
			answer, err := test.http.Do(r) // returns with the headers, while the stream stays silent
			if err != nil {
				t.Fatalf("%s, %s: no headers: %v", procedure, test.contentType, err)
			}
			if answer.StatusCode != 200 || answer.Header.Get("Subscribed") != "true" {
				t.Errorf("%s, %s: %d %v", procedure, test.contentType, answer.StatusCode, answer.Header)
			}
			cancel()
			answer.Body.Close()
		}
	}
}

// Whoever leaves a stream unread is cut off, holds up nobody, and gets the rest
// from its cursor on.
func TestStalledReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, dial := openPiped(t, gateway.Config{})
		h := overHTTP2(t, dial)
		narrow := overHTTP2(t, func(tr *http.Transport) {
			dial(tr)
			tr.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}
		})
		group := groupID(1)
		stalled := subscribe(t, t.Context(), narrow, n.url, group, 0, connect.WithGRPC())
		reading := subscribe(t, t.Context(), h, n.url, group, 0, connect.WithGRPC())
		const messages = 12
		for range messages {
			send(t, h, n.url, sealed(group, 32<<10))
		}
		for i := range messages {
			if !reading.Receive() {
				t.Fatalf("the other reader, after %d: %v", i, reading.Err())
			}
		}
		<-time.After(40 * time.Second)

		var got []uint64
		for stalled.Receive() {
			got = append(got, stalled.Msg().GetV1().GetId())
		}
		if stalled.Err() == nil || len(got) == 0 || len(got) >= messages {
			t.Fatalf("it got %d messages and %v", len(got), stalled.Err())
		}
		again := subscribe(t, t.Context(), narrow, n.url, group, got[len(got)-1], connect.WithGRPC())
		for len(got) < messages {
			if !again.Receive() {
				t.Fatal(again.Err())
			}
			got = append(got, again.Msg().GetV1().GetId())
		}
		var stored []uint64
		for _, m := range queryAll(t, h, n.url, group) {
			stored = append(stored, m.GetV1().GetId())
		}
		if !slices.Equal(got, stored) {
			t.Errorf("it got %v, stored are %v", got, stored)
		}
	})
}

// A stream that is only silent is no stalled one, for as long as it lasts.
func TestSilentStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, dial := openPiped(t, gateway.Config{})
		h1, h2 := overHTTP1(t, dial), overHTTP2(t, dial)
		group := groupID(1)
		web := subscribe(t, t.Context(), h1, n.url, group, 0, connect.WithGRPCWeb())
		grpc := subscribe(t, t.Context(), h2, n.url, group, 0, connect.WithGRPC())
		<-time.After(24 * time.Hour)
		send(t, h2, n.url, sealed(group, 10))
		for _, s := range []*groupStream{web, grpc} {
			if !s.Receive() {
				t.Errorf("ended: %v", s.Err())
			}
		}
	})
}

// At its end a gateway tells its streams to come again, and lets requests
// finish.
func TestShutdown(t *testing.T) {
	arrived := make(chan struct{}, 2)
	n := open(t, gateway.Config{Authenticate: func(string) (string, bool) {
		arrived <- struct{}{}
		return "somebody", true
	}})
	h := overHTTP2(t, nil)
	h.Transport = somebody{h.Transport}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	s := subscribe(t, ctx, h, n.url, groupID(1), 0, connect.WithGRPC())
	<-arrived

	// A request that is half sent while the gateway goes down.
	body, half := io.Pipe()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, n.url+mlsPath+"SendGroupMessages", body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/grpc")
	message, err := proto.Marshal(&mlsapi.SendGroupMessagesRequest{Messages: []*mlsapi.GroupMessageInput{sealed(groupID(1), 10)}})
	if err != nil {
		t.Fatal(err)
	}
	status := make(chan string, 1)
	go func() {
		answer, err := h.Do(r)
		if err != nil {
			status <- err.Error()
			return
		}
		defer answer.Body.Close()
		io.Copy(io.Discard, answer.Body)
		status <- answer.Trailer.Get("Grpc-Status") + answer.Header.Get("Grpc-Status")
	}()
	if _, err := half.Write([]byte{0, 0, 0, 0, byte(len(message))}); err != nil {
		t.Fatal(err)
	}
	<-arrived
	down := make(chan error, 1)
	go func() { down <- n.gateway.Shutdown(ctx) }()
	if s.Receive() {
		t.Error("a message out of nowhere")
	}
	wantCode(t, s.Err(), connect.CodeUnavailable)
	if _, err := half.Write(message); err != nil {
		t.Fatal(err)
	}
	half.Close()
	if got := <-status; got != "0" {
		t.Errorf("the request at work ended with status %s", got)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}

// somebody presents a token with every request.
type somebody struct{ http.RoundTripper }

func (s somebody) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("Authorization", "Bearer x")
	return s.RoundTripper.RoundTrip(r)
}
