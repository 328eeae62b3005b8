package xmtp_test

import (
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
)

// A wire stands between a host and a gateway and counts what passes.
type wire struct {
	url string

	mu      sync.Mutex
	calls   map[string]int // by method
	open    int
	most    int // streams that were open at a time
	headers http.Header
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     transport,
		FlushInterval: -1,
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) {},
	}
	w := &wire{calls: make(map[string]int)}
	server := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		w.enter(r)
		defer w.leave(r)
		defer func() { _ = recover() }() // how the proxy says that one side went away
		proxy.ServeHTTP(out, r)
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }()
	t.Cleanup(func() {
		server.Close()
		<-served
		transport.CloseIdleConnections()
	})
	w.url = "http://" + l.Addr().String()
	return w
}

func isStream(path string) bool { return path == subscribeGroups || path == subscribeWelcomes }

const (
	subscribeGroups   = "/xmtp.mls.api.v1.MlsApi/SubscribeGroupMessages"
	subscribeWelcomes = "/xmtp.mls.api.v1.MlsApi/SubscribeWelcomeMessages"
)

func (w *wire) enter(r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls[r.URL.Path]++
	w.headers = r.Header.Clone()
	if isStream(r.URL.Path) {
		w.open++
		w.most = max(w.most, w.open)
	}
}

func (w *wire) leave(r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if isStream(r.URL.Path) {
		w.open--
	}
}

func (w *wire) count(path string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls[path]
}
