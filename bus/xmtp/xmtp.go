// Package xmtp is the bus on an XMTP network: ours, by its gateway, or anyone's.
// Each method of the bus is XMTP's own call over gRPC, so that a host joins an
// existing deployment by its URL.
//
// The network is foreign (bus.Info.Foreign). It takes MLS messages in
// GroupMessageInput on a group's topics and WelcomeMessageInput on an
// installation's, and hands out the same bytes that a host reads on NATS. Its
// ids are passed on as they are: welcomes and identity updates name them. Which
// of a group's two topics an envelope lies in is read from the message itself,
// by its cleartext content type; a node's own flag is not asked. Identity updates
// and key packages are reached by Request only.
//
// A feed is not gapless, since XMTP's own node looks for what is new by the highest
// id that it has seen, in one table for all groups: an entry that is committed after
// one of another group with a higher id is not streamed, ever. Within a group, and
// within an installation's welcomes, ids are given and committed in one order, under
// a lock: a Read passes over nothing. It costs a call for each 100 entries, and one
// where there is nothing.
//
// Anybody may send entries of up to 50 MiB there. One over 25 MiB, which XMTP's own
// clients cannot read either, comes with an empty payload.
//
// A log that went backwards cannot be told from one that forgot what expired:
// bus.ErrLogRolledBack comes where the network says so itself, as our own nodes
// do, and then from Next or Read, not from Follow.
package xmtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/conclave-chat/conclave/bus"
)

// LibraryVersion is the release of XMTP's library whose wire this package speaks;
// a network may turn older ones away.
const LibraryVersion = "1.10.0"

// Config says which network.
type Config struct {
	// URL of the network's gRPC port. http:// is HTTP/2 without TLS, https://
	// with it. XMTP's own are https://grpc.production.xmtp.network:443 and
	// https://grpc.dev.xmtp.network:443.
	URL string
	// Network names the log: IDs mean nothing in a network of another name, and
	// a store that was written on one is not opened on another. The URL where
	// empty; give a name to reach one network by several URLs.
	Network string
	// AppVersion is told to the network, such as "harbour/1.2"; it may be empty.
	AppVersion string

	// Token is presented with each call, as a bearer, where it is not empty.
	Token Token
	// TLS is for https:// URLs; the system's roots where nil.
	TLS *tls.Config

	// MaxPayload is the limit of one envelope in bytes; bus.MaxPayload when zero.
	MaxPayload int

	// Logger hears about streams that broke; silent when nil.
	Logger *slog.Logger
}

// A Token proves who the host is. It prints as [redacted].
type Token string

// String hides the token, as do the other ways to print one.
func (Token) String() string       { return "[redacted]" }
func (Token) GoString() string     { return "[redacted]" }
func (Token) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// MarshalJSON implements json.Marshaler.
func (Token) MarshalJSON() ([]byte, error) { return []byte(`"[redacted]"`), nil }

// ErrConfig: a Config that cannot be meant.
var ErrConfig = errors.New("xmtp: invalid configuration")

func (c Config) withDefaults() (Config, error) {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil:
		return c, fmt.Errorf("%w: URL: %w", ErrConfig, err)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return c, fmt.Errorf("%w: URL %q: want http://host:port or https://host:port", ErrConfig, u.Redacted())
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return c, fmt.Errorf("%w: URL %q has more than a host and a path", ErrConfig, u.Redacted())
	case u.Scheme == "http" && (c.Token != "" || c.TLS != nil):
		return c, fmt.Errorf("%w: a token or certificates need an https:// URL", ErrConfig)
	case c.MaxPayload < 0 || c.MaxPayload > bus.MaxRequest:
		return c, fmt.Errorf("%w: MaxPayload %d, at most %d", ErrConfig, c.MaxPayload, bus.MaxRequest)
	}
	c.URL = strings.TrimRight(c.URL, "/")
	if c.Network == "" {
		c.Network = c.URL
	}
	if c.MaxPayload == 0 {
		c.MaxPayload = bus.MaxPayload
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Bus is a connection to a network. All its calls, and a few streams for each
// feed, go over one HTTP/2 connection, or as many as the network wants for them.
type Bus struct {
	cfg    Config
	calls  calls
	ctx    context.Context // ends with the bus
	cancel context.CancelFunc
	room   chan struct{} // held while an answer over maxMessage is read

	mu    sync.Mutex
	feeds map[*feed]struct{}
}

var _ bus.Bus = (*Bus)(nil)

// Open returns a bus on the network. It asks the network nothing: a host starts
// where it cannot be reached, and what needs it answers bus.ErrUnavailable.
func Open(c Config) (*Bus, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Bus{cfg: c, room: make(chan struct{}, 1), feeds: make(map[*feed]struct{})}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.calls = newCalls(&http.Client{Transport: b.newTransport()}, c.URL)
	return b, nil
}

// How long a network may be silent: a connection that answers no ping is given
// up, and its streams are opened again.
const (
	connectTimeout = 10 * time.Second
	pingAfter      = 16 * time.Second
	pingTimeout    = 10 * time.Second
	callTimeout    = 2 * time.Minute // of one call, where its caller has more patience
)

func (b *Bus) newTransport() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         b.dial,
		TLSClientConfig:     b.cfg.TLS.Clone(),
		TLSHandshakeTimeout: connectTimeout,
		Protocols:           protocols,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
}

// dial makes a connection that ends with the bus. A transport finishes what it
// has begun to dial though nobody waits for it any more, and keeps it.
func (b *Bus) dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: connectTimeout, KeepAlive: pingAfter}
	c, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(b.ctx, func() { c.Close() })
	return connection{c, stop}, nil
}

type connection struct {
	net.Conn
	stop func() bool
}

func (c connection) Close() error {
	c.stop()
	return c.Conn.Close()
}

// Info implements bus.Bus.
func (b *Bus) Info() bus.Info {
	return bus.Info{
		Incarnation: "xmtp " + b.cfg.Network, Shards: 1, MaxPayload: b.cfg.MaxPayload, Foreign: true,
		Gapless: false, // see the package's comment
	}
}

// Close implements bus.Bus.
func (b *Bus) Close() error {
	b.mu.Lock()
	b.cancel()
	feeds := make([]*feed, 0, len(b.feeds))
	for f := range b.feeds {
		feeds = append(feeds, f)
	}
	b.mu.Unlock()
	for _, f := range feeds {
		f.Close()
	}
	return nil
}

// ready says whether a call may go ahead.
func (b *Bus) ready(ctx context.Context) error {
	if b.ctx.Err() != nil {
		return bus.ErrClosed
	}
	return ctx.Err()
}

// bounded is ctx until the bus closes, and no longer than a call takes.
func (b *Bus) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	stop := context.AfterFunc(b.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}
