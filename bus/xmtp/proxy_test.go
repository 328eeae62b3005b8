package xmtp_test

import (
	"errors"
	"net"
	"net/http"
	"testing"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/xmtp"
)

// What a proxy in front of a network answers is no verdict of the network's.
func TestAProxyRefusesNothing(t *testing.T) {
	ctx := patient(t)
	_, m := topics(t, 1)
	for _, status := range []int{400, 401, 403, 404, 429, 502, 503} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		protocols := new(http.Protocols)
		protocols.SetUnencryptedHTTP2(true)
		s := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "default backend", status)
		})}
		go s.Serve(l)
		b := connect(t, xmtp.Config{URL: "http://" + l.Addr().String()})
		_, err = b.Publish(ctx, m, payload(m, "hello"))
		if !errors.Is(err, bus.ErrUnavailable) {
			t.Errorf("%d: a publish: %v", status, err)
		}
		if _, err = b.Request(ctx, bus.GetInboxIds, nil); !errors.Is(err, bus.ErrUnavailable) {
			t.Errorf("%d: a request: %v", status, err)
		}
		b.Close()
		s.Close()
	}
}
