package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
)

// A Sieve is a proxy before an XMTP network whose live streams have holes: of
// the messages that a subscription yields, some never come. Queries are whole.
type Sieve struct {
	server  *http.Server
	address string
	served  chan struct{}
	dropped atomic.Int64

	mu     sync.Mutex
	random *rand.Rand
	share  float64
}

// streams are the calls that a Sieve makes holes in.
var streams = []string{"/SubscribeGroupMessages", "/SubscribeWelcomeMessages"}

// NewSieve stands before the network at target, host:port, and drops that share
// of what its streams yield.
func NewSieve(target string, seed uint64, share float64) (*Sieve, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("sieve: %w", err)
	}
	s := &Sieve{address: l.Addr().String(), random: rand.New(rand.NewPCG(seed, 11)), share: share, served: make(chan struct{})}
	clear := new(http.Protocols)
	clear.SetUnencryptedHTTP2(true)
	clear.SetHTTP1(true)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: target})
	onlyHTTP2 := new(http.Protocols)
	onlyHTTP2.SetUnencryptedHTTP2(true)
	proxy.Transport = &http.Transport{Protocols: onlyHTTP2, DisableCompression: true}
	proxy.FlushInterval = -1
	proxy.ModifyResponse = s.sift
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	s.server = &http.Server{Handler: proxy, Protocols: clear}
	go func() {
		defer close(s.served)
		_ = s.server.Serve(l)
	}()
	return s, nil
}

// Address is where the Sieve listens.
func (s *Sieve) Address() string { return s.address }

// Dropped is how many messages never came.
func (s *Sieve) Dropped() int { return int(s.dropped.Load()) }

// Close ends the Sieve and what goes through it.
func (s *Sieve) Close() error {
	err := s.server.Close()
	<-s.served
	return err
}

func (s *Sieve) sift(r *http.Response) error {
	for _, name := range streams {
		if strings.HasSuffix(r.Request.URL.Path, name) {
			r.Body = &frames{body: r.Body, drop: s.drop}
			r.Header.Del("Content-Length") // of what came, not of what is passed on
			r.ContentLength = -1
		}
	}
	return nil
}

// drop decides about one message.
func (s *Sieve) drop() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.random.Float64() >= s.share {
		return false
	}
	s.dropped.Add(1)
	return true
}

// frames is a gRPC body: each message has a byte of flags and four of length
// before it.
type frames struct {
	body  io.ReadCloser
	drop  func() bool
	ready []byte // of a frame that is let through
}

// maxFrame is more than any network of ours sends at once.
const maxFrame = 64 << 20

func (f *frames) Read(p []byte) (int, error) {
	for len(f.ready) == 0 {
		head := make([]byte, 5)
		if _, err := io.ReadFull(f.body, head); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = io.EOF
			}
			return 0, err
		}
		n := binary.BigEndian.Uint32(head[1:])
		if n > maxFrame {
			return 0, fmt.Errorf("sieve: a frame of %d bytes", n)
		}
		frame := append(head, make([]byte, n)...)
		if _, err := io.ReadFull(f.body, frame[5:]); err != nil {
			return 0, err
		}
		// An empty one says only that the stream stands.
		if n == 0 || !f.drop() {
			f.ready = frame
		}
	}
	n := copy(p, f.ready)
	f.ready = f.ready[n:]
	return n, nil
}

func (f *frames) Close() error { return f.body.Close() }
