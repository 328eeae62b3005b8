package ethereum

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/conclave-chat/conclave/identity"
)

// Which address a name may lead to: public ones, and what the URL itself names.
func TestAddressesOfEndpoints(t *testing.T) {
	for _, tt := range []struct {
		host, address string
		want          bool
	}{
		{"rpc.example", "93.184.216.34:443", true},
		{"rpc.example", "[2606:2800:220:1::1]:443", true},
		{"rpc.example", "127.0.0.1:8545", false},
		{"rpc.example", "[::1]:8545", false},
		{"rpc.example", "10.1.2.3:8545", false},
		{"rpc.example", "172.16.0.9:8545", false},
		{"rpc.example", "192.168.1.1:8545", false},
		{"rpc.example", "100.64.0.1:8545", false},
		{"rpc.example", "169.254.169.254:80", false},
		{"rpc.example", "[fe80::1%eth0]:80", false},
		{"rpc.example", "[fd00:ec2::254]:80", false},
		{"rpc.example", "[::ffff:10.0.0.1]:80", false},
		{"rpc.example", "[64:ff9b::a9fe:a9fe]:80", false},
		{"rpc.example", "0.0.0.0:80", false},
		{"rpc.example", "[::]:80", false},
		{"rpc.example", "224.0.0.1:80", false},
		{"127.0.0.1", "127.0.0.1:8545", true},
		{"10.1.2.3", "10.1.2.3:8545", true},
		{"10.1.2.3", "10.1.2.4:8545", false},
		{"::1", "[::1]:8545", true},
		{"localhost", "127.0.0.1:8545", true},
		{"localhost", "10.0.0.1:8545", false},
		{"169.254.169.254", "169.254.169.254:80", false},
		{"rpc.example", "no address", false},
	} {
		if got := mayDial(tt.host, tt.address); got != tt.want {
			t.Errorf("%s at %s: %v", tt.host, tt.address, got)
		}
	}
}

// A name of the private network is not asked, and the error says what to do; where
// the operator allows it, it is.
func TestANameThatLeadsInside(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = w.Write([]byte(`{"jsonrpc":"2.0","id":1,"result":"0x1"}`))
	}))
	defer server.Close()
	for _, private := range []bool{false, true} {
		c := clientFor("rpc.example", private)
		request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := c.Do(request)
		if err == nil {
			response.Body.Close()
		}
		if c.CloseIdleConnections(); (err == nil) != private || (asked.Load() > 0) != private {
			t.Errorf("private allowed %v: asked %d times, %v", private, asked.Load(), err)
		}
		if !private && !strings.Contains(reason(err).Error(), "--rpc-private") {
			t.Errorf("the reason is %v", reason(err))
		}
	}
}

// An endpoint that answers with a redirect is not followed anywhere.
func TestNoRedirectIsFollowed(t *testing.T) {
	var reached atomic.Int64
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	defer target.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		server := httptest.NewServer(http.RedirectHandler(target.URL, status))
		chains, err := NewChains(map[uint64]string{1: server.URL}, AllowPrivate())
		if err != nil {
			t.Fatal(err)
		}
		_, err = chains.VerifyContract(identity.Account{Chain: 1, Address: identity.AddressFrom([20]byte{1})}, nil, [32]byte{}, []byte("signature"))
		if chains.Close(); err == nil || reached.Load() != 0 {
			t.Errorf("status %d: followed %d times, %v", status, reached.Load(), err)
		}
		server.Close()
	}
}
