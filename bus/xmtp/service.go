package xmtp

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
)

// How much one call asks a network for. XMTP's clients ask for no more, so no
// network need answer more.
const (
	maxInboxes       = 50
	maxCommitLogs    = 20
	maxCommitEntries = 10
	unsplit          = 0 // one thing, or as many as our own nodes let be asked
)

// Request implements bus.Bus, for the services of a node: each is a method of the
// network, asked several times where that takes less at a time.
func (b *Bus) Request(ctx context.Context, service string, payload []byte) ([]byte, error) {
	if err := bus.CheckService(service); err != nil {
		return nil, err
	}
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	if len(payload) > bus.MaxRequest {
		return nil, fmt.Errorf("%w: request of %d bytes, at most %d", bus.ErrTooLarge, len(payload), bus.MaxRequest)
	}
	c := &b.calls
	switch service {
	case bus.PublishIdentityUpdate:
		return relay(ctx, b, c.publishIdentity, unsplit, payload)
	case bus.GetIdentityUpdates:
		return relay(ctx, b, c.identityUpdates, maxInboxes, payload)
	case bus.GetInboxIds:
		return relay(ctx, b, c.inboxIDs, unsplit, payload)
	case bus.VerifySignatures:
		return relay(ctx, b, c.verifySignatures, unsplit, payload)
	case bus.UploadKeyPackage:
		return relay(ctx, b, c.uploadKeyPackage, unsplit, payload)
	case bus.FetchKeyPackages:
		return relay(ctx, b, c.fetchKeyPackages, unsplit, payload)
	case bus.PublishCommitLog:
		return relay(ctx, b, c.publishCommitLog, maxCommitEntries, payload)
	case bus.QueryCommitLog:
		return relay(ctx, b, c.queryCommitLog, maxCommitLogs, payload)
	}
	return nil, fmt.Errorf("%w: an XMTP network has no %s", bus.ErrNoService, service)
}

// Serve implements bus.Bus: it refuses.
func (b *Bus) Serve(service string, _ bus.Handler) (stop func(), err error) {
	if err := bus.CheckService(service); err != nil {
		return nil, err
	}
	if err := b.ready(b.ctx); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%w: a client of an XMTP network serves nothing", bus.ErrRefused)
}

// relay passes a request on, in parts of at most so many questions, and returns
// the answers as one.
func relay[Q, A any, PQ message[Q], PA message[A]](ctx context.Context, b *Bus, c *connect.Client[Q, A], most int, payload []byte) ([]byte, error) {
	question := PQ(new(Q))
	if err := proto.Unmarshal(payload, question); err != nil {
		return nil, &bus.ServiceError{Code: bus.CodeInvalid, Message: err.Error()}
	}
	whole := PA(new(A))
	for {
		rest := split(question, most)
		answer, err := call(ctx, b, c, (*Q)(question))
		if err != nil {
			return nil, serviceError(err)
		}
		proto.Merge(whole, PA(answer))
		if size := proto.Size(whole); size > bus.MaxRequest {
			return nil, &bus.ServiceError{Code: bus.CodeTooLarge, Message: fmt.Sprintf("the answer has %d bytes or more, the limit is %d", size, bus.MaxRequest)}
		}
		if rest == nil {
			break
		}
		question = rest.(PQ)
	}
	answer, err := proto.Marshal(whole)
	if err != nil {
		return nil, fmt.Errorf("xmtp: write answer: %w", err)
	}
	return answer, nil
}

type message[M any] interface {
	*M
	proto.Message
}

// split shortens a request to its first questions and returns one with the rest,
// nil where there is none. Questions are the request's first field.
func split(m proto.Message, most int) (rest proto.Message) {
	if most == unsplit {
		return nil
	}
	r := m.ProtoReflect()
	questions := r.Descriptor().Fields().ByNumber(1)
	list := r.Mutable(questions).List()
	if list.Len() <= most {
		return nil
	}
	left := r.New()
	others := left.Mutable(questions).List()
	for i := most; i < list.Len(); i++ {
		others.Append(list.Get(i))
	}
	list.Truncate(most)
	return left.Interface()
}

// serviceError makes what a service answers of a call's error. Where the network
// was not reached, the error is the bus's.
func serviceError(err error) error {
	var failed *connect.Error
	if !errors.As(err, &failed) {
		return err
	}
	if !connect.IsWireError(err) && !tooLarge(err) {
		return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
	}
	answer := &bus.ServiceError{Code: bus.CodeInternal, Message: failed.Message()}
	switch failed.Code() {
	case connect.CodeOutOfRange: // our own nodes say so
		answer.Code = bus.CodeTooLarge
	case connect.CodeInvalidArgument, connect.CodeFailedPrecondition, connect.CodeAlreadyExists,
		connect.CodeNotFound, connect.CodePermissionDenied, connect.CodeUnauthenticated:
		answer.Code = bus.CodeInvalid
	case connect.CodeUnimplemented:
		return fmt.Errorf("%w: %w", bus.ErrNoService, err)
	case connect.CodeResourceExhausted:
		answer.Code = bus.CodeExhausted
		if tooLarge(err) {
			answer.Code = bus.CodeTooLarge
		}
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeAborted, connect.CodeCanceled:
		answer.Code = bus.CodeUnavailable
	}
	return answer
}
