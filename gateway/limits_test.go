package gateway_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/gateway"
	"github.com/conclave-chat/conclave/proto/identityapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// frame is a message of gRPC.
func frame(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// padded is a request without a meaning of so many bytes: one field that no
// message has.
func padded(size int) []byte {
	head := binary.AppendUvarint(nil, 1000<<3|2)
	rest := size - len(head)
	length := binary.AppendUvarint(nil, uint64(rest))
	length = binary.AppendUvarint(nil, uint64(rest-len(length)))
	return append(append(head, length...), make([]byte, rest-len(length))...)
}

// Messages of 25 MiB are taken, as XMTP's clients send at most; with a byte more
// they are refused, compressed or not, and nothing of them is stored. What has
// no reason to be large may not be.
func TestRequestSize(t *testing.T) {
	n := open(t, gateway.Config{})
	h := overHTTP2(t, nil)
	status := func(procedure string, body []byte) string {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.url+procedure, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/grpc")
		answer, err := h.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		io.Copy(io.Discard, answer.Body)
		return answer.Trailer.Get("Grpc-Status") + answer.Header.Get("Grpc-Status")
	}
	const most, small = 25 << 20, 1 << 20
	const sends, fetches = mlsPath + "SendGroupMessages", mlsPath + "FetchKeyPackages"
	const ok, invalid, exhausted = "0", "3", "8"
	for _, test := range []struct {
		name, procedure string
		body            []byte
		want            string
	}{
		{"25 MiB", sends, frame(padded(most)), invalid}, // it was read: there is no message in it
		{"25 MiB + 1", sends, frame(padded(most + 1)), exhausted},
		{"4 GiB announced", sends, []byte{0, 0xff, 0xff, 0xff, 0xff, 1}, exhausted},
		{"25 MiB of empty messages", sends, frame(bytes.Repeat([]byte{0x0a, 0}, most/2)), invalid},
		{"1 MiB", fetches, frame(padded(small)), ok},
		{"1 MiB + 1", fetches, frame(padded(small + 1)), exhausted},
		{"10^6 filters", mlsPath + "SubscribeGroupMessages", frame(bytes.Repeat([]byte{0x0a, 0}, 1_000_000)), exhausted},
		{"half as many", mlsPath + "SubscribeGroupMessages", frame(bytes.Repeat([]byte{0x0a, 0}, 500_000)), invalid},
	} {
		if got := status(test.procedure, test.body); got != test.want {
			t.Errorf("%s: status %q, want %s", test.name, got, test.want)
		}
	}

	group := groupID(1)
	_, err := call[emptypb.Empty](t.Context(), h, n.url+mlsPath+"SendGroupMessages",
		&mlsapi.SendGroupMessagesRequest{Messages: []*mlsapi.GroupMessageInput{sealed(group, most)}}, connect.WithGRPC())
	wantCode(t, err, connect.CodeResourceExhausted)
	bomb := sealed(group, 10)
	bomb.GetV1().SenderHmac = make([]byte, most)
	for _, options := range [][]connect.ClientOption{{connect.WithGRPC(), connect.WithSendGzip()}, {connect.WithSendGzip()}} {
		_, err = call[emptypb.Empty](t.Context(), h, n.url+mlsPath+"SendGroupMessages",
			&mlsapi.SendGroupMessagesRequest{Messages: []*mlsapi.GroupMessageInput{bomb}}, options...)
		wantCode(t, err, connect.CodeResourceExhausted)
	}
	_, err = call[emptypb.Empty](t.Context(), h, n.url+sends,
		&mlsapi.SendGroupMessagesRequest{Messages: []*mlsapi.GroupMessageInput{sealed(group, small)}}, connect.WithProtoJSON())
	wantCode(t, err, connect.CodeInvalidArgument)
	if stored := queryAll(t, h, n.url, group); len(stored) != 0 {
		t.Errorf("%d messages are stored", len(stored))
	}
}

// A caller that sends its request a byte at a time is cut off, whichever part of
// it is slow, and others are served meanwhile.
func TestSlowLoris(t *testing.T) {
	const post = "POST " + identityPath + "GetInboxIds HTTP/1.1\r\nHost: x\r\n"
	for name, begin := range map[string]string{
		"headers": post + "X-Slow: ",
		"body":    post + "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n",
		"preface": "PRI * HTTP/2.0\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, dial := openPiped(t, gateway.Config{})
				var tr http.Transport
				dial(&tr)
				c, err := tr.DialContext(t.Context(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				began := time.Now()
				go io.Copy(io.Discard, c)
				for _, err = io.WriteString(c, begin); err == nil; _, err = io.WriteString(c, " ") {
					if name == "body" { // it has a place, one of its caller's
						_, err := call[identityapi.GetInboxIdsResponse](t.Context(), overHTTP1(t, dial), n.url+identityPath+"GetInboxIds", new(identityapi.GetInboxIdsRequest))
						if err != nil {
							t.Error(err)
						}
					}
					<-time.After(time.Second)
				}
				if lasted := time.Since(began); lasted > 3*time.Minute {
					t.Errorf("it could go on for %v", lasted)
				}
			})
		})
	}
}

// Each caller has a budget: messages count one by one, what comes back comes
// back with time, and another caller has its own. W10.
func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, dial := openPiped(t, gateway.Config{
			Limits:       gateway.Limits{Calls: gateway.Rate{PerMinute: 60, Burst: 10}, Publishes: gateway.Rate{PerMinute: 6, Burst: 5}},
			Authenticate: func(token string) (string, bool) { return token, true },
		})
		h := overHTTP2(t, dial)
		publish := func(who string, messages int) error {
			request := connect.NewRequest(new(mlsapi.SendGroupMessagesRequest))
			for range messages {
				request.Msg.Messages = append(request.Msg.Messages, sealed(groupID(1), 10))
			}
			request.Header().Set("Authorization", "Bearer "+who)
			_, err := connect.NewClient[mlsapi.SendGroupMessagesRequest, emptypb.Empty](h, n.url+mlsPath+"SendGroupMessages", connect.WithGRPC()).CallUnary(t.Context(), request)
			return err
		}
		ask := func(who string) error {
			request := connect.NewRequest(new(identityapi.GetInboxIdsRequest))
			request.Header().Set("Authorization", "Bearer "+who)
			_, err := connect.NewClient[identityapi.GetInboxIdsRequest, identityapi.GetInboxIdsResponse](h, n.url+identityPath+"GetInboxIds", connect.WithGRPC()).CallUnary(t.Context(), request)
			return err
		}
		ok := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		ok(publish("alice", 4))
		wantCode(t, publish("alice", 2), connect.CodeResourceExhausted)
		ok(publish("alice", 1))
		wantCode(t, publish("alice", 1), connect.CodeResourceExhausted)
		ok(publish("bob", 5))
		<-time.After(10 * time.Second)
		ok(publish("alice", 1))
		for range 10 {
			ok(ask("alice"))
		}
		wantCode(t, ask("alice"), connect.CodeResourceExhausted)
		ok(ask("bob"))
	})
}

// One caller has at most so many requests and streams at a time. What is over
// waits for a place while there are few, and is refused when there are many.
func TestPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, dial := openPiped(t, gateway.Config{Limits: gateway.Limits{Requests: 2, Waiting: 1, Streams: 2}})
		h := overHTTP2(t, dial)
		// Requests that have not arrived whole hold their places.
		answers := make(chan error, 3)
		var bodies []*io.PipeWriter
		begin := func() {
			body, half := io.Pipe()
			bodies = append(bodies, half)
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.url+identityPath+"GetInboxIds", body)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/grpc")
			go func() {
				answer, err := h.Do(r)
				if err == nil {
					io.Copy(io.Discard, answer.Body)
					answer.Body.Close()
					if s := answer.Trailer.Get("Grpc-Status"); s != "0" {
						err = fmt.Errorf("status %s", s)
					}
				}
				answers <- err
			}()
			synctest.Wait()
		}
		ask := func() error {
			_, err := call[identityapi.GetInboxIdsResponse](t.Context(), h, n.url+identityPath+"GetInboxIds", new(identityapi.GetInboxIdsRequest), connect.WithGRPC())
			return err
		}
		begin()
		begin()
		begin() // waits
		wantCode(t, ask(), connect.CodeResourceExhausted)
		begin() // is refused before anything of it is read
		if err := <-answers; err == nil {
			t.Error("there was a place for a fourth")
		}
		bodies = bodies[:3]
		for _, body := range bodies {
			body.Write(frame(nil))
			body.Close()
		}
		for range 3 {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
		if err := ask(); err != nil {
			t.Error(err)
		}

		first, cancel := context.WithCancel(t.Context())
		subscribe(t, first, h, n.url, groupID(1), 0, connect.WithGRPC())
		subscribe(t, t.Context(), h, n.url, groupID(1), 0, connect.WithGRPC())
		third := subscribe(t, t.Context(), h, n.url, groupID(1), 0, connect.WithGRPC())
		if third.Receive() {
			t.Error("a message out of nowhere")
		}
		wantCode(t, third.Err(), connect.CodeResourceExhausted)
		cancel()
		synctest.Wait()
		fourth := subscribe(t, t.Context(), h, n.url, groupID(1), 0, connect.WithGRPC())
		send(t, h, n.url, sealed(groupID(1), 10))
		if !fourth.Receive() {
			t.Error(fourth.Err())
		}
	})
}

// A busy bus takes a while for each question, and answers one after another.
type busy struct {
	bus.Bus
	one chan struct{}
}

func (b busy) Last(ctx context.Context, topics ...bus.Topic) ([]bus.ID, error) {
	b.one <- struct{}{}
	defer func() { <-b.one }()
	<-time.After(10 * time.Millisecond)
	return b.Bus.Last(ctx, topics...)
}

// A flood from one caller leaves another's slowest answer within twice what it
// was: before it are the few requests that are worked on, never those that wait.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Config{})
		t.Cleanup(func() { b.Close() })
		n, dial := openPipedOn(t, busy{b, make(chan struct{}, 1)}, gateway.Config{
			Limits:       gateway.Limits{Working: 1},
			Authenticate: func(token string) (string, bool) { return token, true },
		})
		ask := func(h *http.Client, who string) error {
			request := connect.NewRequest(&identityapi.GetInboxIdsRequest{Requests: []*identityapi.GetInboxIdsRequest_Request{{Identifier: "0x" + strings.Repeat("0", 40)}}})
			request.Header().Set("Authorization", "Bearer "+who)
			_, err := connect.NewClient[identityapi.GetInboxIdsRequest, identityapi.GetInboxIdsResponse](h, n.url+identityPath+"GetInboxIds", connect.WithGRPC()).CallUnary(t.Context(), request)
			return err
		}
		victim := overHTTP2(t, dial)
		slowest := func() (most time.Duration) {
			for range 50 {
				began := time.Now()
				if err := ask(victim, "victim"); err != nil {
					t.Fatal(err)
				}
				most = max(most, time.Since(began))
			}
			return most
		}
		calm := slowest()
		var stop atomic.Bool
		var flood sync.WaitGroup
		h := overHTTP2(t, dial)
		for range 200 {
			flood.Go(func() {
				for !stop.Load() {
					if err := ask(h, "flooder"); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		synctest.Wait()
		flooded := slowest()
		stop.Store(true)
		flood.Wait()
		if flooded > 2*calm {
			t.Errorf("an answer took %v, in the flood %v", calm, flooded)
		}
	})
}
