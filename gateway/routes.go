package gateway

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"sync"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/conclave-chat/conclave/proto/identityapi"
	"github.com/conclave-chat/conclave/proto/messageapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// A class says what a procedure costs: which budget it draws on, how large its
// request may be, and whether it takes turns with others.
type class int

const (
	calls     class = iota
	verifies        // calls that may wait seconds for a blockchain's node, and so take no turn
	publishes       // key packages and entries of commit logs
	registers       // identity updates, which may wait for one too
	sends           // messages: one by one, and as large as they come
)

func (c class) isPublish() bool { return c >= publishes }
func (c class) takesTurn() bool { return c != verifies && c != registers }

// A route is one procedure of a service.
type route struct {
	service protoreflect.FullName
	method  protoreflect.Name
	class   class
	handler func(g *Gateway, procedure string, options ...connect.HandlerOption) *connect.Handler
}

// routes is what a node answers, in the order of XMTP's service definitions.
func (g *Gateway) routes() []route {
	const (
		mls      = "xmtp.mls.api.v1.MlsApi"
		identity = "xmtp.identity.api.v1.IdentityApi"
		message  = "xmtp.message_api.v1.MessageApi"
	)
	n := g.config.Node
	return []route{
		unary(mls, "SendGroupMessages", sends, n.SendGroupMessages),
		unary(mls, "SendWelcomeMessages", sends, n.SendWelcomeMessages),
		unary(mls, "RegisterInstallation", publishes, n.RegisterInstallation),
		unary(mls, "UploadKeyPackage", publishes, n.UploadKeyPackage),
		unary(mls, "FetchKeyPackages", calls, n.FetchKeyPackages),
		unary(mls, "QueryGroupMessages", calls, n.QueryGroupMessages),
		unary(mls, "QueryWelcomeMessages", calls, n.QueryWelcomeMessages),
		stream(mls, "SubscribeGroupMessages", n.SubscribeGroupMessages),
		stream(mls, "SubscribeWelcomeMessages", n.SubscribeWelcomeMessages),
		unary(mls, "BatchPublishCommitLog", publishes, n.BatchPublishCommitLog),
		unary(mls, "BatchQueryCommitLog", calls, n.BatchQueryCommitLog),
		unary(mls, "GetNewestGroupMessage", calls, n.GetNewestGroupMessage),

		unary(identity, "PublishIdentityUpdate", registers, n.PublishIdentityUpdate),
		unary(identity, "GetIdentityUpdates", calls, n.GetIdentityUpdates),
		unary(identity, "GetInboxIds", calls, n.GetInboxIds),
		unary(identity, "VerifySmartContractWalletSignatures", verifies, n.VerifySmartContractWalletSignatures),

		stream(message, "SubscribeAll", n.SubscribeAll),
	}
}

// files declare the services of the table.
var files = []protoreflect.FileDescriptor{
	mlsapi.File_mlsapi_mlsapi_proto,
	identityapi.File_identityapi_identityapi_proto,
	messageapi.File_messageapi_messageapi_proto,
}

func unary[Q, A any](service protoreflect.FullName, method protoreflect.Name, of class, answer func(context.Context, *Q) (*A, error)) route {
	handler := func(g *Gateway, procedure string, options ...connect.HandlerOption) *connect.Handler {
		return connect.NewUnaryHandlerSimple(procedure, func(ctx context.Context, request *Q) (*A, error) {
			c := callOf(ctx)
			if err := c.begin(of, cost(request)); err != nil {
				return nil, err
			}
			if of.takesTurn() {
				if err := g.turns.take(ctx, c.caller); err != nil {
					return nil, err
				}
				defer g.turns.give(c.caller)
			}
			a, err := answer(ctx, request)
			if err != nil {
				return nil, refusal(ctx, err)
			}
			return a, nil
		}, options...)
	}
	return route{service, method, of, handler}
}

func stream[Q, A any](service protoreflect.FullName, method protoreflect.Name, subscribe func(context.Context, *Q, func(*A) error) error) route {
	handler := func(g *Gateway, procedure string, options ...connect.HandlerOption) *connect.Handler {
		g.streams[procedure] = true
		return connect.NewServerStreamHandlerSimple(procedure, func(ctx context.Context, request *Q, s *connect.ServerStream[A]) error {
			if err := callOf(ctx).begin(calls, 1); err != nil {
				return err
			}
			// To open one is work like any other request's; to keep it open is not.
			c := callOf(ctx).caller
			if err := g.turns.take(ctx, c); err != nil {
				return err
			}
			give := sync.OnceFunc(func() { g.turns.give(c) })
			defer give()
			return serveStream(ctx, g, s, give, func(ctx context.Context, send func(*A) error) error {
				return subscribe(ctx, request, send)
			})
		}, options...)
	}
	return route{service, method, calls, handler}
}

// cost is how many tokens a request takes: one for each entry that it publishes.
func cost(request any) int {
	switch r := request.(type) {
	case *mlsapi.SendGroupMessagesRequest:
		return max(1, len(r.GetMessages()))
	case *mlsapi.SendWelcomeMessagesRequest:
		return max(1, len(r.GetMessages()))
	case *mlsapi.BatchPublishCommitLogRequest:
		return max(1, len(r.GetRequests()))
	}
	return 1
}

// procedures puts the table, health and reflection behind their paths.
func (g *Gateway) procedures() (*http.ServeMux, error) {
	methods := map[string]protoreflect.MethodDescriptor{}
	var services []string
	for _, file := range files {
		for i := range file.Services().Len() {
			s := file.Services().Get(i)
			services = append(services, string(s.FullName()))
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				methods[pathOf(s.FullName(), m.Name())] = m
			}
		}
	}
	options := []connect.HandlerOption{
		codecs(),
		connect.WithReadMaxBytes(maxSmallRequest),
		connect.WithCompressMinBytes(math.MaxInt), // answers are ciphertext, which does not get smaller
		connect.WithRecover(g.panicked),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", g.unimplemented)
	for _, r := range g.routes() {
		procedure := pathOf(r.service, r.method)
		m, declared := methods[procedure]
		if !declared {
			return nil, fmt.Errorf("%s is in no service definition", procedure)
		}
		with := append(slices.Clip(options), connect.WithSchema(m))
		if r.class == sends {
			with = append(with, connect.WithReadMaxBytes(g.config.Limits.RequestBytes))
		}
		mux.Handle(procedure, r.handler(g, procedure, with...))
	}
	if err := g.supervision(mux, services, options...); err != nil {
		return nil, err
	}
	return mux, nil
}

func pathOf(service protoreflect.FullName, method protoreflect.Name) string {
	return "/" + string(service) + "/" + string(method)
}
