package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

const (
	healthService = "grpc.health.v1.Health"
	healthCheck   = "/" + healthService + "/Check"
	healthWatch   = "/" + healthService + "/Watch"
)

// Values of grpc.health.v1.HealthCheckResponse.ServingStatus.
const (
	serving        protoreflect.EnumNumber = 1
	notServing     protoreflect.EnumNumber = 2
	serviceUnknown protoreflect.EnumNumber = 3
)

// healthFile describes grpc.health.v1. It is built here and stays out of the
// process's registry, where a program that also links gRPC has it already.
func healthFile() (protoreflect.FileDescriptor, error) {
	field := func(name string, of descriptorpb.FieldDescriptorProto_Type, typeName *string) []*descriptorpb.FieldDescriptorProto {
		return []*descriptorpb.FieldDescriptorProto{{
			Name: &name, JsonName: &name, Number: proto.Int32(1), Type: of.Enum(), TypeName: typeName,
			Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
		}}
	}
	status := &descriptorpb.EnumDescriptorProto{Name: proto.String("ServingStatus")}
	for i, name := range []string{"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"} {
		status.Value = append(status.Value, &descriptorpb.EnumValueDescriptorProto{Name: proto.String(name), Number: proto.Int32(int32(i))})
	}
	method := func(name string, streams bool) *descriptorpb.MethodDescriptorProto {
		return &descriptorpb.MethodDescriptorProto{
			Name: &name, ServerStreaming: &streams,
			InputType: proto.String(".grpc.health.v1.HealthCheckRequest"), OutputType: proto.String(".grpc.health.v1.HealthCheckResponse"),
		}
	}
	return protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("grpc/health/v1/health.proto"), Package: proto.String("grpc.health.v1"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{
			{Name: proto.String("HealthCheckRequest"), Field: field("service", descriptorpb.FieldDescriptorProto_TYPE_STRING, nil)},
			{
				Name:     proto.String("HealthCheckResponse"),
				Field:    field("status", descriptorpb.FieldDescriptorProto_TYPE_ENUM, proto.String(".grpc.health.v1.HealthCheckResponse.ServingStatus")),
				EnumType: []*descriptorpb.EnumDescriptorProto{status},
			},
		},
		Service: []*descriptorpb.ServiceDescriptorProto{{
			Name: proto.String("Health"), Method: []*descriptorpb.MethodDescriptorProto{method("Check", false), method("Watch", true)},
		}},
	}, nil)
}

// health is what the node can do now.
func (g *Gateway) health(ctx context.Context) protoreflect.EnumNumber {
	if g.closing.Err() != nil {
		return notServing
	}
	if g.config.Ready != nil {
		if err := g.config.Ready(ctx); err != nil {
			return notServing
		}
	}
	return serving
}

// healthEvery is how soon who watches is told of a change.
const healthEvery = 5 * time.Second

// watchHealth sends the health as it is, and whenever it has changed.
func (g *Gateway) watchHealth(ctx context.Context, known bool, send func(protoreflect.EnumNumber) error) error {
	look := time.NewTicker(healthEvery)
	defer look.Stop()
	for sent := protoreflect.EnumNumber(-1); ; {
		current := serviceUnknown
		if known {
			current = g.health(ctx)
		}
		if current != sent {
			if err := send(current); err != nil {
				return err
			}
			sent = current
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// supervision adds grpc.health.v1 and reflection to the services.
func (g *Gateway) supervision(mux *http.ServeMux, services []string, options ...connect.HandlerOption) error {
	file, err := healthFile()
	if err != nil {
		return fmt.Errorf("describe %s: %w", healthService, err)
	}
	request, response := file.Messages().ByName("HealthCheckRequest"), file.Messages().ByName("HealthCheckResponse")
	known := append([]string{"", healthService}, services...)
	asked := func(m *dynamicpb.Message) bool {
		return slices.Contains(known, m.Get(request.Fields().ByNumber(1)).String())
	}
	status := func(s protoreflect.EnumNumber) *dynamicpb.Message {
		m := dynamicpb.NewMessage(response)
		m.Set(response.Fields().ByNumber(1), protoreflect.ValueOfEnum(s))
		return m
	}
	methods := file.Services().Get(0).Methods()
	with := func(method protoreflect.Name) connect.HandlerOption {
		return connect.WithHandlerOptions(append(slices.Clip(options),
			connect.WithSchema(methods.ByName(method)),
			connect.WithRequestInitializer(func(_ connect.Spec, m any) error {
				*m.(*dynamicpb.Message) = *dynamicpb.NewMessage(request)
				return nil
			}))...)
	}

	mux.Handle(healthCheck, connect.NewUnaryHandlerSimple(healthCheck, func(ctx context.Context, m *dynamicpb.Message) (*dynamicpb.Message, error) {
		switch {
		case !asked(m):
			return nil, connect.NewError(connect.CodeNotFound, errors.New("unknown service"))
		}
		return status(g.health(ctx)), nil
	}, with("Check")))

	g.streams[healthWatch] = true
	mux.Handle(healthWatch, connect.NewServerStreamHandlerSimple(healthWatch, func(ctx context.Context, m *dynamicpb.Message, s *connect.ServerStream[dynamicpb.Message]) error {
		if err := callOf(ctx).begin(calls, 1); err != nil {
			return err
		}
		return serveStream(ctx, g, s, func() {}, func(ctx context.Context, send func(*dynamicpb.Message) error) error {
			return g.watchHealth(ctx, asked(m), func(s protoreflect.EnumNumber) error { return send(status(s)) })
		})
	}, with("Watch")))

	own := new(protoregistry.Files)
	if err := own.RegisterFile(file); err != nil {
		return fmt.Errorf("describe %s: %w", healthService, err)
	}
	reflector := grpcreflect.NewReflector(
		grpcreflect.NamerFunc(func() []string { return append(services, healthService) }),
		grpcreflect.WithDescriptorResolver(resolver{own}),
	)
	for _, handler := range []func(*grpcreflect.Reflector, ...connect.HandlerOption) (string, http.Handler){
		grpcreflect.NewHandlerV1, grpcreflect.NewHandlerV1Alpha,
	} {
		path, h := handler(reflector, options...)
		g.streams[path+"ServerReflectionInfo"] = true
		mux.Handle(path, g.reflect(h))
	}
	return nil
}

// reflect bounds how long a conversation of reflection lasts: one is a few
// questions.
func (g *Gateway) reflect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, end := context.WithTimeout(r.Context(), g.config.Limits.ReadTimeout)
		defer end()
		defer context.AfterFunc(g.closing, end)()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// A resolver finds what the process has registered, and our own files first.
type resolver struct{ own *protoregistry.Files }

func (r resolver) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	if d, err := r.own.FindFileByPath(path); err == nil {
		return d, nil
	}
	return protoregistry.GlobalFiles.FindFileByPath(path)
}

func (r resolver) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	if d, err := r.own.FindDescriptorByName(name); err == nil {
		return d, nil
	}
	return protoregistry.GlobalFiles.FindDescriptorByName(name)
}
