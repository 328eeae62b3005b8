package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/conclave-chat/conclave/bus/jetstream"
	"github.com/conclave-chat/conclave/gateway"
	"github.com/conclave-chat/conclave/proto/identityapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// Every protocol that XMTP's clients speak, and those for curl, reach the same
// node: somebody registers by one and is found by each.
func TestProtocols(t *testing.T) {
	n := open(t, gateway.Config{})
	h1, h2 := overHTTP1(t, nil), overHTTP2(t, nil)
	for _, p := range []struct {
		name    string
		http    *http.Client
		options []connect.ClientOption
	}{
		{"gRPC", h2, []connect.ClientOption{connect.WithGRPC()}},
		{"gRPC, gzip", h2, []connect.ClientOption{connect.WithGRPC(), connect.WithSendGzip()}},
		{"gRPC-web over HTTP/1.1", h1, []connect.ClientOption{connect.WithGRPCWeb()}},
		{"gRPC-web over HTTP/2", h2, []connect.ClientOption{connect.WithGRPCWeb()}},
		{"Connect", h1, nil},
		{"Connect's JSON", h1, []connect.ClientOption{connect.WithProtoJSON()}},
	} {
		t.Run(p.name, func(t *testing.T) {
			who := newPerson(t)
			ctx := t.Context()
			kp := who.keyPackage(t)
			must[emptypb.Empty](t)(call[emptypb.Empty](ctx, p.http, n.url+mlsPath+"UploadKeyPackage",
				&mlsapi.UploadKeyPackageRequest{KeyPackage: &mlsapi.KeyPackageUpload{KeyPackageTlsSerialized: kp}, IsInboxIdCredential: true}, p.options...))
			must[identityapi.PublishIdentityUpdateResponse](t)(call[identityapi.PublishIdentityUpdateResponse](ctx, p.http, n.url+identityPath+"PublishIdentityUpdate",
				&identityapi.PublishIdentityUpdateRequest{IdentityUpdate: who.registration(t)}, p.options...))

			log := must[identityapi.GetIdentityUpdatesResponse](t)(call[identityapi.GetIdentityUpdatesResponse](ctx, p.http, n.url+identityPath+"GetIdentityUpdates",
				&identityapi.GetIdentityUpdatesRequest{Requests: []*identityapi.GetIdentityUpdatesRequest_Request{{InboxId: who.inbox}}}, p.options...))
			if got := log.GetResponses()[0].GetUpdates(); len(got) != 1 {
				t.Errorf("%d updates right after publishing one", len(got))
			}
			fetched := must[mlsapi.FetchKeyPackagesResponse](t)(call[mlsapi.FetchKeyPackagesResponse](ctx, p.http, n.url+mlsPath+"FetchKeyPackages",
				&mlsapi.FetchKeyPackagesRequest{InstallationKeys: [][]byte{who.appID.Bytes()}}, p.options...))
			if got := fetched.GetKeyPackages()[0].GetKeyPackageTlsSerialized(); !bytes.Equal(got, kp) {
				t.Error("another key package")
			}
			_, err := call[emptypb.Empty](ctx, p.http, n.url+mlsPath+"UploadKeyPackage", &mlsapi.UploadKeyPackageRequest{}, p.options...)
			wantCode(t, err, connect.CodeInvalidArgument)
		})
	}
}

// curl and a few lines of JSON ask the network.
func TestCurl(t *testing.T) {
	n := open(t, gateway.Config{})
	h := overHTTP1(t, nil)
	for _, test := range []struct {
		path, body string
		status     int
		want       string
	}{
		{identityPath + "GetInboxIds", `{"requests":[{"identifier":"0x0000000000000000000000000000000000000001","identifierKind":"IDENTIFIER_KIND_ETHEREUM"}]}`, 200,
			`{"responses":[{"identifier":"0x0000000000000000000000000000000000000001","identifierKind":"IDENTIFIER_KIND_ETHEREUM"}]}`},
		{identityPath + "GetInboxIds", `{"requests":`, 400, `"code":"invalid_argument"`},
		{identityPath + "GetIdentityUpdates", `{"requests":[{"inboxId":"nobody"}]}`, 400, `"code":"invalid_argument"`},
		{"/grpc.health.v1.Health/Check", `{}`, 200, `{"status":"SERVING"}`},
		{"/grpc.health.v1.Health/Check", `{"service":"xmtp.mls.api.v1.MlsApi"}`, 200, `{"status":"SERVING"}`},
		{"/grpc.health.v1.Health/Check", `{"service":"xmtp.mls.api.v9.MlsApi"}`, 404, `"code":"not_found"`},
		{mlsPath + "RevokeInstallation", `{}`, 501, `"code":"unimplemented"`},
	} {
		r, err := h.Post(n.url+test.path, "application/json", strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, b); err != nil {
			t.Fatalf("%s: %v: %s", test.path, err, b)
		}
		if r.StatusCode != test.status || !strings.Contains(compact.String(), test.want) {
			t.Errorf("%s %s: %d %s, want %d %s", test.path, test.body, r.StatusCode, compact.String(), test.status, test.want)
		}
	}
	r, err := h.Get(n.url + "/")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusNotFound {
		t.Errorf("GET /: %d", r.StatusCode)
	}
}

// What XMTP's nodes do not implement either is a status of gRPC, not an HTTP
// error that a client would have to interpret.
func TestUnknownProcedures(t *testing.T) {
	n := open(t, gateway.Config{})
	h2, h1 := overHTTP2(t, nil), overHTTP1(t, nil)
	for _, procedure := range []string{
		mlsPath + "RevokeInstallation", mlsPath + "GetIdentityUpdates", mlsPath + "Subscribe",
		messagePath + "Publish", "/xmtp.migration.api.v1.D14nMigrationApi/FetchD14nCutover", "/", "/no/such/path",
	} {
		_, err := call[emptypb.Empty](t.Context(), h2, n.url+procedure, new(emptypb.Empty), connect.WithGRPC())
		wantCode(t, err, connect.CodeUnimplemented)
		_, err = call[emptypb.Empty](t.Context(), h1, n.url+procedure, new(emptypb.Empty), connect.WithGRPCWeb())
		wantCode(t, err, connect.CodeUnimplemented)
		_, err = call[emptypb.Empty](t.Context(), h1, n.url+procedure, new(emptypb.Empty))
		wantCode(t, err, connect.CodeUnimplemented)
	}
	both := connect.NewClient[emptypb.Empty, emptypb.Empty](h2, n.url+mlsPath+"Subscribe", connect.WithGRPC()).CallBidiStream(t.Context())
	if err := both.Send(nil); err != nil {
		t.Fatal(err)
	}
	_, err := both.Receive()
	wantCode(t, err, connect.CodeUnimplemented)
	both.CloseRequest()
	both.CloseResponse()
}

// Tools such as grpcurl learn the services, and can describe each of them.
func TestReflection(t *testing.T) {
	n := open(t, gateway.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	s := grpcreflect.NewClient(overHTTP2(t, nil), n.url, connect.WithGRPC()).NewStream(ctx)
	defer s.Close()
	services, err := s.ListServices()
	if err != nil {
		t.Fatal(err)
	}
	want := []protoreflect.FullName{"grpc.health.v1.Health", "xmtp.identity.api.v1.IdentityApi", "xmtp.message_api.v1.MessageApi", "xmtp.mls.api.v1.MlsApi"}
	if slices.Sort(services); !slices.Equal(services, want) {
		t.Errorf("services %v", services)
	}
	for _, service := range services {
		if files, err := s.FileContainingSymbol(service); err != nil || len(files) == 0 {
			t.Errorf("%s: %v", service, err)
		}
	}
}

// A page of a browser may call: the preflight allows what XMTP's browser client
// sends, and the answer's status may be read. S89.
func TestCrossOrigin(t *testing.T) {
	h := overHTTP1(t, nil)
	preflight := func(url, origin string) *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, url+identityPath+"GetInboxIds", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Origin", origin)
		r.Header.Set("Access-Control-Request-Method", "POST")
		r.Header.Set("Access-Control-Request-Headers", "accept,authorization,content-type,grpc-timeout,x-app-version,x-grpc-web,x-libxmtp-version,x-user-agent")
		answer, err := h.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer
	}
	anyPage := open(t, gateway.Config{})
	if got := preflight(anyPage.url, "https://app.example").Header; got.Get("Access-Control-Allow-Origin") != "*" || got.Get("Access-Control-Allow-Methods") != "POST" {
		t.Errorf("preflight answered %v", got)
	}
	// A preflight carries no credentials: it passes where callers need some.
	one := open(t, gateway.Config{Origins: []string{"https://app.example"}, Authenticate: func(string) (string, bool) { return "", false }})
	if got := preflight(one.url, "https://app.example").Header.Get("Access-Control-Allow-Origin"); got != "https://app.example" {
		t.Errorf("allowed origin %q", got)
	}
	if got := preflight(one.url, "https://evil.example").Header.Get("Access-Control-Allow-Origin"); got != "" {
		t.Errorf("a foreign page is allowed as %q", got)
	}

	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, anyPage.url+identityPath+"GetInboxIds", bytes.NewReader([]byte{0, 0, 0, 0, 0}))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Origin", "https://app.example")
	r.Header.Set("Content-Type", "application/grpc-web+proto")
	r.Header.Set("X-Grpc-Web", "1")
	answer, err := h.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	exposed := answer.Header.Get("Access-Control-Expose-Headers")
	for _, header := range []string{"Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin"} {
		if !strings.Contains(exposed, header) {
			t.Errorf("%s is not exposed: %q", header, exposed)
		}
	}
	if !bytes.Contains(bytes.ToLower(b), []byte("grpc-status: 0")) {
		t.Errorf("no status in the last frame: %q", b)
	}
}

// XMTP's clients ping every 16 s, also when idle, and leave when nobody answers;
// gRPC's own server takes offence at as many pings. This one answers each.
func TestPings(t *testing.T) {
	n := open(t, gateway.Config{})
	c, err := net.Dial("tcp", n.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	const settings, ping, goAway, ack = 4, 6, 7, 1
	frame := func(kind, flags byte, payload string) string {
		return string([]byte{0, 0, byte(len(payload)), kind, flags, 0, 0, 0, 0}) + payload
	}
	out := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(settings, 0, "")
	for i := range 200 {
		out += frame(ping, 0, fmt.Sprintf("ping%4d", i))
	}
	if _, err := io.WriteString(c, out); err != nil {
		t.Fatal(err)
	}
	for answered := 0; answered < 200; {
		var header [9]byte
		if _, err := io.ReadFull(c, header[:]); err != nil {
			t.Fatalf("after %d answers: %v", answered, err)
		}
		payload := make([]byte, int(header[0])<<16|int(header[1])<<8|int(header[2]))
		if _, err := io.ReadFull(c, payload); err != nil {
			t.Fatal(err)
		}
		switch {
		case header[3] == goAway:
			t.Fatalf("the connection is ended: %q", payload)
		case header[3] == ping && header[4] == ack:
			if string(payload) != fmt.Sprintf("ping%4d", answered) {
				t.Fatalf("answer %d is to %q", answered, payload)
			}
			answered++
		}
	}
}

// B10: what a caller writes beside its request is not passed on: the log's own
// orders, in whose words ever, change nothing of what is stored.
func TestOrdersToTheLogAreNotPassedOn(t *testing.T) {
	b, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	n := openOn(t, b, gateway.Config{})
	h := overHTTP2(t, nil)
	for i := range 3 {
		request := connect.NewRequest(&mlsapi.SendGroupMessagesRequest{Messages: []*mlsapi.GroupMessageInput{sealed(groupID(1), 10+i)}})
		for name, value := range map[string]string{
			"Nats-Rollup": "all", "Nats-Msg-Id": "the same", "Nats-TTL": "1s", "Nats-Expected-Last-Sequence": "99", "Conclave-Timeout": "1ns",
		} {
			request.Header().Set(name, value)
		}
		if _, err := connect.NewClient[mlsapi.SendGroupMessagesRequest, emptypb.Empty](h, n.url+mlsPath+"SendGroupMessages", connect.WithGRPC()).
			CallUnary(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	if stored := queryAll(t, h, n.url, groupID(1)); len(stored) != 3 {
		t.Errorf("%d messages are stored, want 3", len(stored))
	}
}
