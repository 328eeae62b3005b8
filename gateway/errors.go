package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"

	"connectrpc.com/connect"

	"github.com/conclave-chat/conclave/bus"
)

var (
	errCredentials = errors.New("this deployment wants a bearer token or a client certificate")
	errInternal    = errors.New("internal error")
	errClosing     = errors.New("the node shuts down: open the stream again")
	errStalled     = errors.New("the stream was not read: open it again from its cursor")
	errNoProcedure = errors.New("unknown procedure")
)

// codes are the node's refusals in gRPC's words.
var codes = map[string]connect.Code{
	bus.CodeInvalid:     connect.CodeInvalidArgument,
	bus.CodeExhausted:   connect.CodeResourceExhausted,
	bus.CodeTooLarge:    connect.CodeOutOfRange, // unlike the others: ask for less at a time
	bus.CodeUnavailable: connect.CodeUnavailable,
	bus.CodeAborted:     connect.CodeAborted,
}

// refusal turns a node's error into what the caller sees. What is the node's own
// fault has been logged there, and its text stays there.
func refusal(ctx context.Context, err error) error {
	if err := ctx.Err(); err != nil {
		code := connect.CodeCanceled
		if errors.Is(err, context.DeadlineExceeded) {
			code = connect.CodeDeadlineExceeded
		}
		return connect.NewError(code, err)
	}
	var refused *bus.ServiceError
	if errors.As(err, &refused) {
		if code, known := codes[refused.Code]; known {
			return connect.NewError(code, errors.New(refused.Message))
		}
	}
	return connect.NewError(connect.CodeInternal, errInternal)
}

func exhausted(why string) error {
	return connect.NewError(connect.CodeResourceExhausted, errors.New(why))
}

// panicked answers for a handler that did.
func (g *Gateway) panicked(_ context.Context, spec connect.Spec, _ http.Header, p any) error {
	g.config.Logger.Error("procedure panicked", "procedure", spec.Procedure, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	return connect.NewError(connect.CodeInternal, errInternal)
}

// refuse answers before any handler is asked, in the caller's own protocol.
func (g *Gateway) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if writeErr := g.writer.Write(w, r, err); writeErr != nil {
		g.config.Logger.Debug("refusal not written", "error", writeErr)
	}
}

// unimplemented answers for every procedure that is in no table.
func (g *Gateway) unimplemented(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || !g.writer.IsSupported(r) {
		http.NotFound(w, r)
		return
	}
	g.refuse(w, r, connect.NewError(connect.CodeUnimplemented, errNoProcedure))
}
