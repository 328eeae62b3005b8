package xmtp

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/proto/identityapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// maxMessage is the most bytes of one request or answer, as XMTP's own clients
// have it.
const maxMessage = 25 << 20

// The services of an XMTP network.
const (
	mlsService      = "/xmtp.mls.api.v1.MlsApi/"
	identityService = "/xmtp.identity.api.v1.IdentityApi/"
)

// calls are the network's methods that a host needs.
type calls struct {
	sendGroup        *connect.Client[mlsapi.SendGroupMessagesRequest, emptypb.Empty]
	sendWelcomes     *connect.Client[mlsapi.SendWelcomeMessagesRequest, emptypb.Empty]
	queryGroup       *connect.Client[mlsapi.QueryGroupMessagesRequest, mlsapi.QueryGroupMessagesResponse]
	queryWelcomes    *connect.Client[mlsapi.QueryWelcomeMessagesRequest, mlsapi.QueryWelcomeMessagesResponse]
	newest           *connect.Client[mlsapi.GetNewestGroupMessageRequest, mlsapi.GetNewestGroupMessageResponse]
	followGroups     *connect.Client[mlsapi.SubscribeGroupMessagesRequest, mlsapi.GroupMessage]
	followWelcomes   *connect.Client[mlsapi.SubscribeWelcomeMessagesRequest, mlsapi.WelcomeMessage]
	uploadKeyPackage *connect.Client[mlsapi.UploadKeyPackageRequest, emptypb.Empty]
	fetchKeyPackages *connect.Client[mlsapi.FetchKeyPackagesRequest, mlsapi.FetchKeyPackagesResponse]
	publishCommitLog *connect.Client[mlsapi.BatchPublishCommitLogRequest, emptypb.Empty]
	queryCommitLog   *connect.Client[mlsapi.BatchQueryCommitLogRequest, mlsapi.BatchQueryCommitLogResponse]
	publishIdentity  *connect.Client[identityapi.PublishIdentityUpdateRequest, identityapi.PublishIdentityUpdateResponse]
	identityUpdates  *connect.Client[identityapi.GetIdentityUpdatesRequest, identityapi.GetIdentityUpdatesResponse]
	inboxIDs         *connect.Client[identityapi.GetInboxIdsRequest, identityapi.GetInboxIdsResponse]
	verifySignatures *connect.Client[identityapi.VerifySmartContractWalletSignaturesRequest, identityapi.VerifySmartContractWalletSignaturesResponse]
}

func newCalls(h connect.HTTPClient, url string) calls {
	mls, identity := url+mlsService, url+identityService
	return calls{
		sendGroup:        method[mlsapi.SendGroupMessagesRequest, emptypb.Empty](h, mls+"SendGroupMessages"),
		sendWelcomes:     method[mlsapi.SendWelcomeMessagesRequest, emptypb.Empty](h, mls+"SendWelcomeMessages"),
		queryGroup:       method[mlsapi.QueryGroupMessagesRequest, mlsapi.QueryGroupMessagesResponse](h, mls+"QueryGroupMessages"),
		queryWelcomes:    method[mlsapi.QueryWelcomeMessagesRequest, mlsapi.QueryWelcomeMessagesResponse](h, mls+"QueryWelcomeMessages"),
		newest:           method[mlsapi.GetNewestGroupMessageRequest, mlsapi.GetNewestGroupMessageResponse](h, mls+"GetNewestGroupMessage"),
		followGroups:     method[mlsapi.SubscribeGroupMessagesRequest, mlsapi.GroupMessage](h, mls+"SubscribeGroupMessages"),
		followWelcomes:   method[mlsapi.SubscribeWelcomeMessagesRequest, mlsapi.WelcomeMessage](h, mls+"SubscribeWelcomeMessages"),
		uploadKeyPackage: method[mlsapi.UploadKeyPackageRequest, emptypb.Empty](h, mls+"UploadKeyPackage"),
		fetchKeyPackages: method[mlsapi.FetchKeyPackagesRequest, mlsapi.FetchKeyPackagesResponse](h, mls+"FetchKeyPackages"),
		publishCommitLog: method[mlsapi.BatchPublishCommitLogRequest, emptypb.Empty](h, mls+"BatchPublishCommitLog"),
		queryCommitLog:   method[mlsapi.BatchQueryCommitLogRequest, mlsapi.BatchQueryCommitLogResponse](h, mls+"BatchQueryCommitLog"),
		publishIdentity:  method[identityapi.PublishIdentityUpdateRequest, identityapi.PublishIdentityUpdateResponse](h, identity+"PublishIdentityUpdate"),
		identityUpdates:  method[identityapi.GetIdentityUpdatesRequest, identityapi.GetIdentityUpdatesResponse](h, identity+"GetIdentityUpdates"),
		inboxIDs:         method[identityapi.GetInboxIdsRequest, identityapi.GetInboxIdsResponse](h, identity+"GetInboxIds"),
		verifySignatures: method[identityapi.VerifySmartContractWalletSignaturesRequest, identityapi.VerifySmartContractWalletSignaturesResponse](h, identity+"VerifySmartContractWalletSignatures"),
	}
}

// method is a client of one method. What travels is ciphertext, so nothing is
// compressed.
func method[Q, A any](h connect.HTTPClient, url string) *connect.Client[Q, A] {
	return connect.NewClient[Q, A](h, url, connect.WithGRPC(), connect.WithAcceptCompression("gzip", nil, nil),
		connect.WithReadMaxBytes(maxMessage), connect.WithSendMaxBytes(maxMessage))
}

// request adds to a message what the network wants to know of its sender.
func request[Q any](b *Bus, message *Q) *connect.Request[Q] {
	r := connect.NewRequest(message)
	r.Header().Set("X-App-Version", b.cfg.AppVersion)
	r.Header().Set("X-Libxmtp-Version", LibraryVersion)
	if b.cfg.Token != "" {
		r.Header().Set("Authorization", "Bearer "+string(b.cfg.Token))
	}
	return r
}

// call makes one unary call. Its error is ctx's, bus.ErrClosed, or connect's.
func call[Q, A any](ctx context.Context, b *Bus, c *connect.Client[Q, A], message *Q) (*A, error) {
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	bounded, done := b.bounded(ctx)
	defer done()
	answer, err := c.CallUnary(bounded, request(b, message))
	if err != nil {
		if ended := b.ready(ctx); ended != nil {
			return nil, ended
		}
		return nil, err
	}
	return answer.Msg, nil
}

// errEnded: a stream ended and the network gave no reason.
var errEnded = errors.New("xmtp: the network ended the stream")

// subscribe calls each with what a stream brings, until the stream ends, which is
// an error in any case, or each fails.
func subscribe[Q, A any](ctx context.Context, b *Bus, c *connect.Client[Q, A], message *Q, each func(*A) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.CallServerStream(ctx, request(b, message))
	if err != nil {
		return err
	}
	defer stream.Close()
	defer cancel() // before Close, which else reads what is left
	for stream.Receive() {
		if err := each(stream.Msg()); err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		return err
	}
	return errEnded
}

// busError makes an error of the bus of a call's error. Where it names none of
// the bus's, nobody knows what became of the call. gRPC has no code for a log
// that went backwards; our own nodes say it in the bus's words.
func busError(err error) error {
	var failed *connect.Error
	if !errors.As(err, &failed) {
		return err
	}
	if !connect.IsWireError(err) && !tooLarge(err) {
		// A connection or stream that broke, or somebody else's answer: that of
		// a proxy, say. The network gave no verdict.
		return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
	}
	switch failed.Code() {
	case connect.CodeInvalidArgument, connect.CodeFailedPrecondition, connect.CodeOutOfRange, connect.CodeNotFound,
		connect.CodeAlreadyExists, connect.CodePermissionDenied, connect.CodeUnauthenticated, connect.CodeUnimplemented:
		return fmt.Errorf("%w: the network answers %w", bus.ErrRefused, err)
	case connect.CodeResourceExhausted:
		if tooLarge(err) {
			return fmt.Errorf("%w: %w", bus.ErrTooLarge, err)
		}
		return fmt.Errorf("%w: the network answers %w", bus.ErrFull, err)
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeAborted, connect.CodeCanceled:
		if strings.Contains(failed.Message(), bus.ErrLogRolledBack.Error()) {
			return fmt.Errorf("%w: %w", bus.ErrLogRolledBack, err)
		}
		return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
	}
	return fmt.Errorf("xmtp: the network answers %w", err)
}

// tooLarge tells an answer over maxMessage, which is refused on this side, from a
// network that is out of something.
func tooLarge(err error) bool {
	return connect.CodeOf(err) == connect.CodeResourceExhausted && !connect.IsWireError(err)
}
