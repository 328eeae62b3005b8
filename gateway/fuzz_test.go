package gateway_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/gateway"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/identityapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

var procedures = []string{
	mlsPath + "SendGroupMessages", mlsPath + "SendWelcomeMessages", mlsPath + "RegisterInstallation", mlsPath + "UploadKeyPackage",
	mlsPath + "FetchKeyPackages", mlsPath + "QueryGroupMessages", mlsPath + "QueryWelcomeMessages", mlsPath + "SubscribeGroupMessages",
	mlsPath + "SubscribeWelcomeMessages", mlsPath + "BatchPublishCommitLog", mlsPath + "BatchQueryCommitLog", mlsPath + "GetNewestGroupMessage",
	identityPath + "PublishIdentityUpdate", identityPath + "GetIdentityUpdates", identityPath + "GetInboxIds", identityPath + "VerifySmartContractWalletSignatures",
	messagePath + "SubscribeAll", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch",
	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", mlsPath + "Subscribe",
}

// A recorder keeps an answer. A stream ends a moment after its headers.
type recorder struct {
	*httptest.ResponseRecorder
	leave func()
}

func (r recorder) SetReadDeadline(time.Time) error  { return nil }
func (r recorder) SetWriteDeadline(time.Time) error { return nil }
func (r recorder) Flush()                           { r.ResponseRecorder.Flush(); r.leave() }

// Whatever bytes a request has, in whichever protocol, the answer is a status of
// that protocol: never INTERNAL, which would be a fault of the node, and never a
// panic.
func FuzzRequest(f *testing.F) {
	b := memory.New(memory.Config{})
	f.Cleanup(func() { b.Close() })
	n, err := node.Serve(f.Context(), b, node.Config{Verifier: ethereum.Verifier{}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(n.Close)
	g, err := gateway.New(gateway.Config{Node: n})
	if err != nil {
		f.Fatal(err)
	}
	for i := range procedures {
		for kind := range byte(4) {
			f.Add(byte(i), kind, []byte{})
			f.Add(byte(i), kind, []byte(`{"requests":[{}]}`))
			f.Add(byte(i), kind, bytes.Repeat([]byte{0x0a, 0x02, 0x0a, 0x00}, 40))
		}
	}
	for i, m := range map[byte]proto.Message{
		0:  &mlsapi.SendGroupMessagesRequest{Messages: []*mlsapi.GroupMessageInput{sealed(groupID(1), 100)}},
		3:  &mlsapi.UploadKeyPackageRequest{KeyPackage: &mlsapi.KeyPackageUpload{KeyPackageTlsSerialized: make([]byte, 300)}},
		5:  &mlsapi.QueryGroupMessagesRequest{GroupId: groupID(1), PagingInfo: &mlsapi.PagingInfo{IdCursor: 1 << 63, Limit: 1 << 31, Direction: 9}},
		7:  &mlsapi.SubscribeGroupMessagesRequest{Filters: []*mlsapi.SubscribeGroupMessagesRequest_Filter{{GroupId: groupID(1), IdCursor: 1 << 63}}},
		13: &identityapi.GetIdentityUpdatesRequest{Requests: []*identityapi.GetIdentityUpdatesRequest_Request{{InboxId: strings.Repeat("0", 64), SequenceId: 1 << 63}}},
	} {
		seed, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(i, byte(0), seed)
	}
	f.Fuzz(func(t *testing.T, procedure, kind byte, body []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		contentType := []string{"application/grpc", "application/grpc-web+proto", "application/proto", "application/json"}[kind%4]
		raw := kind >= 128 // the frame too is the fuzzer's
		if kind%4 < 2 && !raw {
			body = frame(body)
		}
		path := procedures[int(procedure)%len(procedures)]
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, path, bytes.NewReader(body))
		r.ProtoMajor, r.ProtoMinor, r.Proto = 2, 0, "HTTP/2.0"
		r.Header.Set("Content-Type", contentType)
		w := recorder{httptest.NewRecorder(), cancel}
		g.ServeHTTP(w, r)
		answer := w.Result()
		status := answer.Trailer.Get("Grpc-Status") + answer.Header.Get("Grpc-Status")
		switch kind % 4 {
		case 1:
			if _, last, found := strings.Cut(strings.ToLower(w.Body.String()), "grpc-status: "); found {
				status, _, _ = strings.Cut(last, "\r\n")
			}
			fallthrough
		case 0:
			// A broken frame is connect's to call INTERNAL, as gRPC does.
			if answer.StatusCode != 200 || status == "" || status == "13" && !raw {
				t.Errorf("%s: HTTP %d, status %q: %s", path, answer.StatusCode, status, w.Body)
			}
		default:
			if answer.StatusCode == 500 {
				t.Errorf("%s: HTTP %d: %s", path, answer.StatusCode, w.Body)
			}
		}
	})
}
