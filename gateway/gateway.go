// Package gateway is XMTP's network API in front of a node: what XMTP's own
// clients call, browsers among them, and curl.
//
// One port speaks gRPC over HTTP/2, in the clear or under TLS, gRPC-web, also
// over HTTP/1.1, and Connect's JSON. The table of procedures is in routes.go;
// every other procedure answers UNIMPLEMENTED, as XMTP's own node does.
//
// The gateway trusts nothing. It bounds what a caller sends, how long it may
// take, how much it has at work and how long it may leave a stream unread; all
// that a request says is for the node to judge. It decrypts nothing and keeps
// nothing: everything is in the log.
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect"
	connectcors "connectrpc.com/cors"
	"github.com/rs/cors"

	"github.com/conclave-chat/conclave/node"
)

// Config says what a gateway serves and to whom.
type Config struct {
	Node *node.Node // required
	// TLS makes the gateway speak TLS only. Of a client certificate that it
	// verifies against ClientCAs, the subject's common name is the caller.
	TLS *tls.Config
	// Authenticate names the caller whose bearer token this is. With it, or with
	// TLS.ClientCAs, a caller without credentials is UNAUTHENTICATED; with
	// neither, anybody may call, as on XMTP's own network.
	Authenticate func(token string) (caller string, ok bool)
	Origins      []string // of the web pages that may call; every one when nil
	// Ready says why requests cannot be answered now. Health is NOT_SERVING then;
	// it is always SERVING when nil. Anybody may ask, as often as they like.
	Ready  func(context.Context) error
	Limits Limits
	Logger *slog.Logger // silent when nil
}

// A Gateway serves until Shutdown.
type Gateway struct {
	config  Config
	server  *http.Server
	callers *callers
	turns   turns
	writer  *connect.ErrorWriter
	streams map[string]bool // the paths of procedures that stay open
	closing context.Context
	close   context.CancelFunc
}

// New makes a gateway. It opens no port: Serve does.
func New(c Config) (*Gateway, error) {
	if c.Node == nil {
		return nil, errors.New("gateway: Config.Node is required")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Origins == nil {
		c.Origins = []string{"*"}
	}
	c.Limits = c.Limits.withDefaults()
	g := &Gateway{config: c, callers: newCallers(c.Limits), writer: connect.NewErrorWriter(), streams: map[string]bool{}}
	g.turns.size, g.turns.most = c.Limits.Working, max(1, c.Limits.Working/2)
	g.closing, g.close = context.WithCancel(context.Background())

	mux, err := g.procedures()
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	l := c.Limits
	g.server = &http.Server{
		Handler:           crossOrigin(c.Origins, trailersOnly(g.admit(mux))),
		Protocols:         protocols,
		TLSConfig:         c.TLS.Clone(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       l.ReadTimeout,
		// From the header of a request to the last byte of its answer. Streams
		// lift it, see openStream.
		WriteTimeout:   l.ReadTimeout + longestAnswer + l.StallTimeout,
		IdleTimeout:    5 * time.Minute,
		MaxHeaderBytes: 64 << 10,
		HTTP2: &http.HTTP2Config{
			// A connection carries all of a process: 400 installations with two
			// streams each.
			MaxConcurrentStreams: 1000,
			// Clients ping every 16 s themselves, and any frame counts.
			SendPingTimeout:  time.Minute,
			PingTimeout:      20 * time.Second,
			WriteByteTimeout: l.StallTimeout,
		},
		ErrorLog: slog.NewLogLogger(c.Logger.Handler(), slog.LevelDebug),
	}
	return g, nil
}

// longestAnswer is more than a node takes for a request.
const longestAnswer = 40 * time.Second

// Serve answers on a listener until Shutdown, and then returns nil. Several
// listeners may be served at a time.
func (g *Gateway) Serve(l net.Listener) error {
	serve := g.server.Serve
	if g.config.TLS != nil {
		serve = func(l net.Listener) error { return g.server.ServeTLS(l, "", "") }
	}
	if err := serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("gateway: serve: %w", err)
	}
	return nil
}

// ServeHTTP answers one request, for a server of the embedder's own. That server
// is to bound how long a request may take to arrive.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.server.Handler.ServeHTTP(w, r) }

// Shutdown ends the streams with UNAVAILABLE, lets the requests at work finish
// until ctx ends, and closes the listeners. The node stays open.
func (g *Gateway) Shutdown(ctx context.Context) error {
	g.close()
	if err := g.server.Shutdown(ctx); err != nil {
		return fmt.Errorf("gateway: requests cut off: %w", errors.Join(err, g.server.Close()))
	}
	return nil
}

// open says that callers need no credentials.
func (g *Gateway) open() bool {
	return g.config.Authenticate == nil && (g.config.TLS == nil || g.config.TLS.ClientCAs == nil)
}

// crossOrigin lets web pages of some origins call.
func crossOrigin(origins []string, next http.Handler) http.Handler {
	return cors.New(cors.Options{
		AllowedOrigins: origins,
		AllowedMethods: connectcors.AllowedMethods(),
		AllowedHeaders: append(connectcors.AllowedHeaders(), "Accept", "Authorization", "X-App-Version", "X-Libxmtp-Version"),
		ExposedHeaders: append(slices.Clone(connectcors.ExposedHeaders()), subscribed),
		MaxAge:         int((2 * time.Hour).Seconds()),
	}).Handler(next)
}
