package gateway

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/conclave-chat/conclave/node"
)

// A call is one request on its way through the gateway.
type call struct {
	caller  *caller
	control *http.ResponseController
	allowed func() error // whether the caller still is who it was
}

type callKey struct{}

func callOf(ctx context.Context) *call { return ctx.Value(callKey{}).(*call) }

// admit gives a request its caller, and a place among the caller's requests.
func (g *Gateway) admit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, err := g.identify(r)
		if err != nil {
			g.refuse(w, r, err)
			return
		}
		c := g.callers.of(name)
		leave, err := c.enter(r.Context(), g.streams[r.URL.Path])
		if err != nil {
			g.refuse(w, r, err)
			return
		}
		defer leave()
		// A message over the limit by a little is refused by its prefix; what is
		// far over it is not even read.
		r.Body = http.MaxBytesReader(w, r.Body, int64(g.config.Limits.RequestBytes)+1<<20)
		allowed := func() error {
			_, err := g.identify(r)
			return err
		}
		ctx := context.WithValue(node.WithCaller(r.Context(), name), callKey{}, &call{c, http.NewResponseController(w), allowed})
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// begin is called when a request has arrived whole: its deadline is over, and it
// is paid for.
func (c *call) begin(of class, tokens int) error {
	// Over HTTP/1 the deadline would go on to watch for the caller's leaving.
	if err := c.control.SetReadDeadline(time.Time{}); err != nil {
		return connect.NewError(connect.CodeInternal, errInternal)
	}
	return c.caller.spend(of, tokens)
}

// subscribed is the header by which a stream says that it is open, before there
// is a message.
const subscribed = "Subscribed"

// serveStream carries what feed sends to the caller until either ends, the
// gateway closes, or the caller no longer reads.
func serveStream[A any](ctx context.Context, g *Gateway, s *connect.ServerStream[A], opened func(), feed func(context.Context, func(*A) error) error) error {
	c := callOf(ctx)
	control := c.control
	if err := control.SetWriteDeadline(time.Time{}); err != nil {
		return connect.NewError(connect.CodeInternal, errInternal)
	}
	open, end := context.WithCancel(ctx)
	defer end()
	defer context.AfterFunc(g.closing, end)()

	var dismissed atomic.Pointer[error]
	g.whileAllowed(open, c, func(why error) {
		dismissed.Store(&why)
		end()
	})

	// The caller is given StallTimeout for each message. A deadline that has
	// passed frees the write that waits: HTTP/2 resets the stream.
	var stalled atomic.Bool
	patience := time.AfterFunc(g.config.Limits.StallTimeout, func() {
		stalled.Store(true)
		control.SetWriteDeadline(time.Now())
		end()
	})
	defer patience.Stop()
	send := func(message *A) error {
		patience.Reset(g.config.Limits.StallTimeout)
		defer patience.Stop()
		return s.Send(message)
	}

	// Clients wait for the headers before they go on, so they leave as soon as
	// nothing that is published can be missed any more.
	patience.Stop() // until then it is the node that is waited for
	err := feed(node.WithOpened(open, func() error {
		opened()
		s.ResponseHeader().Set(subscribed, "true")
		return send(nil)
	}), send)
	switch {
	case stalled.Load():
		g.config.Logger.Info("stream cut off: its caller does not read it", "procedure", s.Conn().Spec().Procedure)
		return connect.NewError(connect.CodeAborted, errStalled)
	case dismissed.Load() != nil:
		return *dismissed.Load()
	case g.closing.Err() != nil:
		return connect.NewError(connect.CodeUnavailable, errClosing)
	case err != nil:
		return refusal(ctx, err)
	}
	return nil
}

// allowedEvery is how soon a stream ends after its caller's credentials do.
const allowedEvery = time.Minute

// whileAllowed calls end when the caller of an open stream is let in no more.
func (g *Gateway) whileAllowed(open context.Context, c *call, end func(why error)) {
	if g.open() {
		return
	}
	time.AfterFunc(allowedEvery, func() {
		if open.Err() != nil {
			return
		}
		if err := c.allowed(); err != nil {
			end(err)
			return
		}
		g.whileAllowed(open, c, end)
	})
}
