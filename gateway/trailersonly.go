package gateway

import (
	"net/http"
	"strings"
)

// trailersOnly sends a gRPC error that comes before any message as Trailers-Only:
// one frame of headers that holds the status and ends the stream. Headers that do
// not end it tell a client that its stream is open, and XMTP's bidirectional one
// then waits for messages instead of for the status.
//
// Only a writer beneath the handlers can do that: they write the status into
// trailers, and do not know whether headers have left.
func trailersOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind := r.Header.Get("Content-Type")
		if !strings.HasPrefix(kind, "application/grpc") || strings.HasPrefix(kind, "application/grpc-web") {
			next.ServeHTTP(w, r)
			return
		}
		held := &heldHeaders{ResponseWriter: w, code: http.StatusOK}
		next.ServeHTTP(held, r)
		held.end()
	})
}

// heldHeaders hold the headers of an answer back until there is a message, or
// they are flushed without a status, or the answer is complete.
type heldHeaders struct {
	http.ResponseWriter
	code int
	sent bool
}

// grpcStatus is the trailer that an answer is complete with, as handlers set it.
const grpcStatus = http.TrailerPrefix + "Grpc-Status"

func (h *heldHeaders) WriteHeader(code int) { h.code = code }

func (h *heldHeaders) Write(b []byte) (int, error) {
	h.send()
	return h.ResponseWriter.Write(b)
}

// Flush is what handlers call when the status is set, too. It has to leave with
// the end of the stream then, and that comes right after.
func (h *heldHeaders) Flush() {
	if _, complete := h.Header()[grpcStatus]; complete && !h.sent {
		return
	}
	h.send()
	_ = http.NewResponseController(h.ResponseWriter).Flush() // a connection that is lost is seen by the next Write
}

// Unwrap lets deadlines through.
func (h *heldHeaders) Unwrap() http.ResponseWriter { return h.ResponseWriter }

func (h *heldHeaders) send() {
	if !h.sent {
		h.sent = true
		h.ResponseWriter.WriteHeader(h.code)
	}
}

// end makes headers of the trailers of an answer without a message.
func (h *heldHeaders) end() {
	if h.sent {
		return
	}
	headers := h.Header()
	headers.Del("Trailer")
	for key, values := range headers {
		if name, isTrailer := strings.CutPrefix(key, http.TrailerPrefix); isTrailer {
			delete(headers, key)
			headers[http.CanonicalHeaderKey(name)] = values
		}
	}
	h.send()
}
