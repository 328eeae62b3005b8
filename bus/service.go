package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
)

// MaxRequest is the most bytes of a request or of an answer.
const MaxRequest = 8<<20 - 64<<10

// The network's own services, which a host reaches over whatever bus it has.
// Requests and answers are XMTP's protobuf messages of the method named.
const (
	PublishIdentityUpdate = "node.identity.publish"
	GetIdentityUpdates    = "node.identity.updates"
	GetInboxIds           = "node.identity.inboxes"
	VerifySignatures      = "node.identity.verify" // VerifySmartContractWalletSignatures
	UploadKeyPackage      = "node.keypackages.upload"
	FetchKeyPackages      = "node.keypackages.fetch"
	PublishCommitLog      = "node.commitlog.publish" // BatchPublishCommitLog
	QueryCommitLog        = "node.commitlog.query"   // BatchQueryCommitLog
)

// Codes of a *ServiceError by which those services refuse.
const (
	CodeInvalid     = "invalid"     // it will never be accepted as it is
	CodeExhausted   = "exhausted"   // a budget, a log or the bus is full
	CodeUnavailable = "unavailable" // no verdict now: ask again
	CodeAborted     = "aborted"     // a stream was cut off: open it again from where it stood
)

// Codes that the bus itself answers with; services add their own.
const (
	CodeInternal = "internal"  // the handler failed or panicked
	CodeTooLarge = "too_large" // the answer is over the limit
)

// ErrBadService: a name that CheckService refuses.
var ErrBadService = errors.New("bus: not a service name")

// CheckService accepts names of 1 to 64 lower-case letters, digits, '-' and
// '_', in tokens separated by single dots. Every adapter applies it before a
// name becomes part of a subject.
func CheckService(name string) error {
	dot := true // so that neither the start nor a dot is followed by a dot
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
			dot = false
		case c == '.' && !dot:
			dot = true
		default:
			return fmt.Errorf("%w: %.80q", ErrBadService, name)
		}
	}
	if dot || len(name) > 64 {
		return fmt.Errorf("%w: %.80q", ErrBadService, name)
	}
	return nil
}

// Answer runs handle as every adapter must: a panic is caught and logged, any
// error becomes a *ServiceError, and an answer over MaxRequest is refused.
func Answer(ctx context.Context, log *slog.Logger, handle Handler, payload []byte) (answer []byte, failed *ServiceError) {
	defer func() {
		if p := recover(); p != nil {
			log.Error("service handler panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			answer, failed = nil, &ServiceError{Code: CodeInternal, Message: "the handler panicked"}
		}
	}()
	answer, err := handle(ctx, payload)
	switch {
	case err == nil && len(answer) > MaxRequest:
		return nil, &ServiceError{Code: CodeTooLarge, Message: fmt.Sprintf("the answer has %d bytes, the limit is %d", len(answer), MaxRequest)}
	case err == nil:
		return answer, nil
	case errors.As(err, &failed):
		return nil, failed
	default:
		return nil, &ServiceError{Code: CodeInternal, Message: err.Error()}
	}
}
