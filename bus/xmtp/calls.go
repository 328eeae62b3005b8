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

// Sizes of what travels. XMTP's own clients send and read no more than maxMessage,
// but its network takes requests of up to 50 MiB from anybody, so a single entry may
// be as large as maxEntry: what the network says of it comes on top.
const (
	maxMessage = 25 << 20
	maxEntry   = 50<<20 + 64<<10
)

// The services of an XMTP network.
const (
	mlsService      = "/xmtp.mls.api.v1.MlsApi/"
	identityService = "/xmtp.identity.api.v1.IdentityApi/"
)

// calls are the network's methods that a host needs.
type calls struct {
	sendGroup        *connect.Client[mlsapi.SendGroupMessagesRequest, emptypb.Empty]
	sendWelcomes     *connect.Client[mlsapi.SendWelcomeMessagesRequest, emptypb.Empty]
	pages            queries // of up to maxMessage
	large            queries // of up to maxEntry
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
		pages:            newQueries(h, mls),
		large:            newQueries(h, mls, roomForOne),
		newest:           method[mlsapi.GetNewestGroupMessageRequest, mlsapi.GetNewestGroupMessageResponse](h, mls+"GetNewestGroupMessage"),
		followGroups:     method[mlsapi.SubscribeGroupMessagesRequest, mlsapi.GroupMessage](h, mls+"SubscribeGroupMessages", roomForOne),
		followWelcomes:   method[mlsapi.SubscribeWelcomeMessagesRequest, mlsapi.WelcomeMessage](h, mls+"SubscribeWelcomeMessages", roomForOne),
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

// queries read one log each.
type queries struct {
	group    *connect.Client[mlsapi.QueryGroupMessagesRequest, mlsapi.QueryGroupMessagesResponse]
	welcomes *connect.Client[mlsapi.QueryWelcomeMessagesRequest, mlsapi.QueryWelcomeMessagesResponse]
}

func newQueries(h connect.HTTPClient, mls string, more ...connect.ClientOption) queries {
	return queries{
		group:    method[mlsapi.QueryGroupMessagesRequest, mlsapi.QueryGroupMessagesResponse](h, mls+"QueryGroupMessages", more...),
		welcomes: method[mlsapi.QueryWelcomeMessagesRequest, mlsapi.QueryWelcomeMessagesResponse](h, mls+"QueryWelcomeMessages", more...),
	}
}

// roomForOne makes room for any one entry.
var roomForOne = connect.WithReadMaxBytes(maxEntry)

// method is a client of one method. What travels is ciphertext, so nothing is
// compressed.
func method[Q, A any](h connect.HTTPClient, url string, more ...connect.ClientOption) *connect.Client[Q, A] {
	return connect.NewClient[Q, A](h, url, connect.WithGRPC(), connect.WithAcceptCompression("gzip", nil, nil),
		connect.WithReadMaxBytes(maxMessage), connect.WithSendMaxBytes(maxMessage), connect.WithClientOptions(more...))
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

// tooLarge tells an answer over the limit, which is refused on this side, from a
// network that is out of something.
func tooLarge(err error) bool {
	return connect.CodeOf(err) == connect.CodeResourceExhausted && !connect.IsWireError(err)
}
