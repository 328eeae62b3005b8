package gateway_test

import (
	"bytes"
	"context"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/gateway"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/contents"
	"github.com/conclave-chat/conclave/proto/identityapi"
	"github.com/conclave-chat/conclave/proto/messageapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// Shorter names of what is asked here again and again.
type (
	groupInput   = mlsapi.GroupMessageInput
	welcomeInput = mlsapi.WelcomeMessageInput
	commitEntry  = mlsapi.PublishCommitLogRequest
)

// A hostile request, and the code that it is refused with.
type hostile struct {
	name    string
	code    connect.Code // 0: answered, but nothing is stored
	request proto.Message
}

// A target is one procedure: a request that it accepts, and what it must refuse.
type target struct {
	procedure string
	good      proto.Message
	empty     connect.Code // of a request without a field; 0: answered
	hostile   []hostile
}

func messages(in ...*groupInput) *mlsapi.SendGroupMessagesRequest {
	return &mlsapi.SendGroupMessagesRequest{Messages: in}
}

func raw(data []byte) *groupInput {
	return &groupInput{Version: &mlsapi.GroupMessageInput_V1_{V1: &mlsapi.GroupMessageInput_V1{Data: data}}}
}

func welcomes(in ...*welcomeInput) *mlsapi.SendWelcomeMessagesRequest {
	return &mlsapi.SendWelcomeMessagesRequest{Messages: in}
}

func welcomeTo(key []byte, data, hpke string) *welcomeInput {
	return &welcomeInput{Version: &mlsapi.WelcomeMessageInput_V1_{V1: &mlsapi.WelcomeMessageInput_V1{
		InstallationKey: key, Data: []byte(data), HpkePublicKey: []byte(hpke),
		WrapperAlgorithm: contents.WelcomeWrapperAlgorithm_WELCOME_WRAPPER_ALGORITHM_CURVE25519,
	}}}
}

func pointerTo(key []byte, pointer, hpke string, algorithm contents.WelcomePointerWrapperAlgorithm) *welcomeInput {
	return &welcomeInput{Version: &mlsapi.WelcomeMessageInput_WelcomePointer_{WelcomePointer: &mlsapi.WelcomeMessageInput_WelcomePointer{
		InstallationKey: key, WelcomePointer: []byte(pointer), HpkePublicKey: []byte(hpke), WrapperAlgorithm: algorithm,
	}}}
}

func upload(keyPackage []byte) *mlsapi.UploadKeyPackageRequest {
	return &mlsapi.UploadKeyPackageRequest{KeyPackage: &mlsapi.KeyPackageUpload{KeyPackageTlsSerialized: keyPackage}}
}

func register(keyPackage []byte) *mlsapi.RegisterInstallationRequest {
	return &mlsapi.RegisterInstallationRequest{KeyPackage: upload(keyPackage).KeyPackage}
}

func entryOf(group []byte, size, signature, key int) *commitEntry {
	return &commitEntry{GroupId: group, SerializedCommitLogEntry: make([]byte, size), Signature: &associations.RecoverableEd25519Signature{
		Bytes: make([]byte, signature), PublicKey: make([]byte, key),
	}}
}

func entries(in ...*commitEntry) *mlsapi.BatchPublishCommitLogRequest {
	return &mlsapi.BatchPublishCommitLogRequest{Requests: in}
}

func commitLogs(ids ...[]byte) *mlsapi.BatchQueryCommitLogRequest {
	r := new(mlsapi.BatchQueryCommitLogRequest)
	for _, id := range ids {
		r.Requests = append(r.Requests, &mlsapi.QueryCommitLogRequest{GroupId: id})
	}
	return r
}

func followed(cursor uint64, ids ...[]byte) *mlsapi.SubscribeGroupMessagesRequest {
	r := new(mlsapi.SubscribeGroupMessagesRequest)
	for _, id := range ids {
		r.Filters = append(r.Filters, &mlsapi.SubscribeGroupMessagesRequest_Filter{GroupId: id, IdCursor: cursor})
	}
	return r
}

func awaited(cursor uint64, keys ...[]byte) *mlsapi.SubscribeWelcomeMessagesRequest {
	r := new(mlsapi.SubscribeWelcomeMessagesRequest)
	for _, key := range keys {
		r.Filters = append(r.Filters, &mlsapi.SubscribeWelcomeMessagesRequest_Filter{InstallationKey: key, IdCursor: cursor})
	}
	return r
}

func logsOf(inboxes ...string) *identityapi.GetIdentityUpdatesRequest {
	r := new(identityapi.GetIdentityUpdatesRequest)
	for _, id := range inboxes {
		r.Requests = append(r.Requests, &identityapi.GetIdentityUpdatesRequest_Request{InboxId: id})
	}
	return r
}

func publish(u *associations.IdentityUpdate) *identityapi.PublishIdentityUpdateRequest {
	return &identityapi.PublishIdentityUpdateRequest{IdentityUpdate: u}
}

func verify(n int, account string, hash int) *identityapi.VerifySmartContractWalletSignaturesRequest {
	return &identityapi.VerifySmartContractWalletSignaturesRequest{Signatures: slices.Repeat([]*identityapi.VerifySmartContractWalletSignatureRequestSignature{{
		AccountId: account, Hash: make([]byte, hash), Signature: []byte("x"),
	}}, n)}
}

// changed is a copy of an update with a change.
func changed(u *associations.IdentityUpdate, change func(*associations.IdentityUpdate)) *associations.IdentityUpdate {
	c := proto.CloneOf(u)
	change(c)
	return c
}

// targets are all procedures. Two people are registered already.
func targets(t *testing.T, p, q *person) []target {
	const invalid, beyond = connect.CodeInvalidArgument, uint64(math.MaxUint64)
	const xwing = contents.WelcomePointerWrapperAlgorithm_WELCOME_POINTER_WRAPPER_ALGORITHM_XWING_MLKEM_768_DRAFT_6
	group, key := groupID(1), p.appID.Bytes()
	short, long := group[:15], append(slices.Clone(group), 0)
	good := sealed(group, 10)
	data := good.GetV1().GetData()
	of := func(head ...byte) *groupInput { return raw(append(head, data[len(head):]...)) }
	kp := p.keyPackage(t)
	flipped := slices.Clone(kp)
	flipped[len(kp)-1] ^= 1
	otherSuite := slices.Clone(kp)
	otherSuite[3] ^= 2
	nobody := *p
	nobody.inbox = "nobody"
	packages := func(request func([]byte) proto.Message) []hostile {
		return []hostile{
			{"cut", invalid, request(kp[:len(kp)-1])},
			{"trailing byte", invalid, request(append(slices.Clone(kp), 0))},
			{"wrong suite", invalid, request(otherSuite)},
			{"bad signature", invalid, request(flipped)},
			{"foreign credential", invalid, request(nobody.keyPackage(t))},
			{"a length of 4 GiB", invalid, request([]byte{0, 1, 0, 3, 0xbf, 0xff, 0xff, 0xff})},
			{"17 KiB", invalid, request(make([]byte, 17<<10))},
		}
	}
	uploads := func(b []byte) proto.Message { return upload(b) }
	registers := func(b []byte) proto.Message { return register(b) }
	registration := p.registration(t)
	pages := func(limit uint32, direction int32) *mlsapi.PagingInfo {
		return &mlsapi.PagingInfo{Limit: limit, Direction: mlsapi.SortDirection(direction), IdCursor: beyond}
	}
	return []target{
		{mlsPath + "SendGroupMessages", messages(sealed(groupID(9), 10)), invalid, []hostile{
			{"no version", invalid, messages(new(groupInput))},
			{"no data", invalid, messages(raw(nil))},
			{"cut", invalid, messages(raw(data[:len(data)-1]))},
			{"trailing byte", invalid, messages(raw(append(slices.Clone(data), 0)))},
			{"another version of MLS", invalid, messages(of(0, 2))},
			{"a welcome", invalid, messages(of(0, 1, 0, 3))},
			{"a length of 1 GiB", invalid, messages(raw([]byte{0, 1, 0, 2, 0xbf, 0xff, 0xff, 0xff}))},
			{"15 bytes of group id", invalid, messages(sealed(short, 10))},
			{"17 bytes of group id", invalid, messages(sealed(long, 10))},
			{"a good one, then a bad one", invalid, messages(good, raw(data[:9]))},
			{"257 messages", invalid, messages(slices.Repeat([]*groupInput{good}, 257)...)},
			{"over the bus's limit", invalid, messages(sealed(group, bus.MaxPayload))},
		}},
		{mlsPath + "SendWelcomeMessages", welcomes(welcomeTo(key, "w", "k")), invalid, []hostile{
			{"no version", invalid, welcomes(new(welcomeInput))},
			{"31 bytes of key", invalid, welcomes(welcomeTo(key[:31], "w", "k"))},
			{"no data", invalid, welcomes(welcomeTo(key, "", "k"))},
			{"no HPKE key", invalid, welcomes(welcomeTo(key, "w", ""))},
			{"an empty pointer", invalid, welcomes(pointerTo(key, "", "k", xwing))},
			{"a pointer without an HPKE key", invalid, welcomes(pointerTo(key, "p", "", xwing))},
			{"a pointer to 33 bytes", invalid, welcomes(pointerTo(append(slices.Clone(key), 0), "p", "k", xwing))},
			{"an unknown wrapper", invalid, welcomes(pointerTo(key, "p", "k", 99))},
			{"a good one, then a bad one", invalid, welcomes(welcomeTo(key, "w", "k"), welcomeTo(nil, "w", "k"))},
			{"257 welcomes", invalid, welcomes(slices.Repeat([]*welcomeInput{welcomeTo(key, "w", "k")}, 257)...)},
		}},
		{mlsPath + "RegisterInstallation", register(q.keyPackage(t)), invalid, packages(registers)},
		{mlsPath + "UploadKeyPackage", upload(q.keyPackage(t)), invalid, packages(uploads)},
		{mlsPath + "FetchKeyPackages", &mlsapi.FetchKeyPackagesRequest{InstallationKeys: [][]byte{key}}, 0, []hostile{
			{"31 bytes of key", invalid, &mlsapi.FetchKeyPackagesRequest{InstallationKeys: [][]byte{key, key[:31]}}},
			{"a wildcard", invalid, &mlsapi.FetchKeyPackagesRequest{InstallationKeys: [][]byte{[]byte("*")}}},
			{"2,501 keys", invalid, &mlsapi.FetchKeyPackagesRequest{InstallationKeys: slices.Repeat([][]byte{key}, 2501)}},
		}},
		{mlsPath + "QueryGroupMessages", &mlsapi.QueryGroupMessagesRequest{GroupId: group}, invalid, []hostile{
			{"15 bytes of group id", invalid, &mlsapi.QueryGroupMessagesRequest{GroupId: short}},
			{"17 bytes of group id", invalid, &mlsapi.QueryGroupMessagesRequest{GroupId: long}},
			{"numbers without bounds", 0, &mlsapi.QueryGroupMessagesRequest{GroupId: group, PagingInfo: pages(math.MaxUint32, math.MinInt32)}},
			{"a cursor beyond the log", connect.CodeUnavailable, &mlsapi.QueryGroupMessagesRequest{GroupId: group, PagingInfo: pages(1, 1)}},
		}},
		{mlsPath + "QueryWelcomeMessages", &mlsapi.QueryWelcomeMessagesRequest{InstallationKey: key}, invalid, []hostile{
			{"31 bytes of key", invalid, &mlsapi.QueryWelcomeMessagesRequest{InstallationKey: key[:31]}},
			{"numbers without bounds", 0, &mlsapi.QueryWelcomeMessagesRequest{InstallationKey: key, PagingInfo: pages(math.MaxUint32, math.MaxInt32)}},
			{"a cursor beyond the log", connect.CodeUnavailable, &mlsapi.QueryWelcomeMessagesRequest{InstallationKey: key, PagingInfo: pages(1, 1)}},
		}},
		{mlsPath + "SubscribeGroupMessages", followed(0, group), 0, []hostile{
			{"15 bytes of group id", invalid, followed(0, group, short)},
			{"a cursor beyond the log", connect.CodeUnavailable, followed(beyond, group)},
			{"10,001 filters", invalid, followed(0, slices.Repeat([][]byte{group}, 10_001)...)},
		}},
		{mlsPath + "SubscribeWelcomeMessages", awaited(0, key), invalid, []hostile{
			{"31 bytes of key", invalid, awaited(0, key[:31])},
			{"an empty key", invalid, awaited(0, nil)},
			{"a cursor beyond the log", connect.CodeUnavailable, awaited(beyond, key)},
			{"10,001 filters", invalid, awaited(0, slices.Repeat([][]byte{key}, 10_001)...)},
		}},
		{mlsPath + "BatchPublishCommitLog", entries(entryOf(group, 92, 64, 32)), invalid, []hostile{
			{"15 bytes of group id", invalid, entries(entryOf(short, 92, 64, 32))},
			{"an empty entry", invalid, entries(entryOf(group, 0, 64, 32))},
			{"2 KiB and a byte", invalid, entries(entryOf(group, 2<<10+1, 64, 32))},
			{"63 bytes of signature", invalid, entries(entryOf(group, 92, 63, 32))},
			{"no key", invalid, entries(entryOf(group, 92, 64, 0))},
			{"no signature", invalid, entries(&commitEntry{GroupId: group, SerializedCommitLogEntry: []byte("e")})},
			{"a good one, then a bad one", invalid, entries(entryOf(group, 92, 64, 32), entryOf(nil, 92, 64, 32))},
			{"11 entries", invalid, entries(slices.Repeat([]*commitEntry{entryOf(group, 92, 64, 32)}, 11)...)},
		}},
		{mlsPath + "BatchQueryCommitLog", commitLogs(group), invalid, []hostile{
			{"15 bytes of group id", invalid, commitLogs(group, short)},
			{"21 groups", invalid, commitLogs(slices.Repeat([][]byte{group}, 21)...)},
			{"backwards", invalid, &mlsapi.BatchQueryCommitLogRequest{Requests: []*mlsapi.QueryCommitLogRequest{{GroupId: group, PagingInfo: pages(1, 2)}}}},
			{"a cursor beyond the log", connect.CodeUnavailable, &mlsapi.BatchQueryCommitLogRequest{Requests: []*mlsapi.QueryCommitLogRequest{{GroupId: group, PagingInfo: pages(1, 1)}}}},
		}},
		{mlsPath + "GetNewestGroupMessage", &mlsapi.GetNewestGroupMessageRequest{GroupIds: [][]byte{group}}, invalid, []hostile{
			{"17 bytes of group id", invalid, &mlsapi.GetNewestGroupMessageRequest{GroupIds: [][]byte{group, long}}},
			{"1,001 groups", invalid, &mlsapi.GetNewestGroupMessageRequest{GroupIds: slices.Repeat([][]byte{group}, 1001)}},
		}},
		{identityPath + "PublishIdentityUpdate", publish(newPerson(t).registration(t)), invalid, []hostile{
			{"no action", invalid, publish(&associations.IdentityUpdate{InboxId: p.inbox})},
			{"an action of no kind", invalid, publish(changed(registration, func(u *associations.IdentityUpdate) { u.Actions[0] = new(associations.IdentityAction) }))},
			{"no inbox id", invalid, publish(changed(registration, func(u *associations.IdentityUpdate) { u.InboxId = "" }))},
			{"a wildcard for an inbox id", invalid, publish(changed(registration, func(u *associations.IdentityUpdate) { u.InboxId = "*" }))},
			{"for somebody else's inbox", invalid, publish(changed(registration, func(u *associations.IdentityUpdate) { u.InboxId = q.inbox }))},
			{"another time than was signed", invalid, publish(changed(registration, func(u *associations.IdentityUpdate) { u.ClientTimestampNs += 1e9 }))},
			{"reordered", invalid, publish(changed(registration, func(u *associations.IdentityUpdate) { slices.Reverse(u.Actions) }))},
			{"created again", invalid, publish(p.registration(t))},
			{"a flipped signature", invalid, publish(changed(registration, func(u *associations.IdentityUpdate) {
				u.Actions[0].GetCreateInbox().GetInitialIdentifierSignature().GetErc_191().Bytes[9] ^= 1
			}))},
			{"1 MiB of actions", invalid, publish(&associations.IdentityUpdate{InboxId: p.inbox, Actions: slices.Repeat([]*associations.IdentityAction{{}}, 400_000)})},
		}},
		{identityPath + "GetIdentityUpdates", logsOf(p.inbox), 0, []hostile{
			{"63 digits", invalid, logsOf(p.inbox, p.inbox[:63])},
			{"capital digits", invalid, logsOf(strings.ToUpper(strings.Repeat("ab", 32)))},
			{"a wildcard", invalid, logsOf("*")},
			{"251 inboxes", invalid, logsOf(slices.Repeat([]string{p.inbox}, 251)...)},
		}},
		{identityPath + "GetInboxIds", lookUps(p.wallet.Identifier().String()), 0, []hostile{
			{"what is no address", 0, lookUps("0x", "*", strings.Repeat("0", 1000))},
			{"2,501 identifiers", invalid, lookUps(slices.Repeat([]string{"0x"}, 2501)...)},
		}},
		{identityPath + "VerifySmartContractWalletSignatures", verify(1, "eip155:1:"+p.wallet.Identifier().String(), 32), invalid, []hostile{
			{"51 signatures", invalid, verify(51, "eip155:1:"+p.wallet.Identifier().String(), 32)},
			{"no account", 0, verify(1, "eip155:*", 32)}, // each has a verdict of its own
			{"31 bytes of hash", 0, verify(1, "eip155:1:"+p.wallet.Identifier().String(), 31)},
		}},
		{messagePath + "SubscribeAll", new(messageapi.SubscribeAllRequest), 0, nil},
	}
}

func lookUps(identifiers ...string) *identityapi.GetInboxIdsRequest {
	r := new(identityapi.GetInboxIdsRequest)
	for _, id := range identifiers {
		r.Requests = append(r.Requests, &identityapi.GetInboxIdsRequest_Request{Identifier: id, IdentifierKind: identity.AddressFrom([20]byte{}).ProtoKind()})
	}
	return r
}

// Every procedure, over gRPC on a real port: what is malformed, truncated,
// oversized, of a wrong length or hostile is refused with its code, and the log
// ends where it did before. What is good is answered.
func TestBadInput(t *testing.T) {
	n := open(t, gateway.Config{})
	h := overHTTP2(t, nil)
	p, q := newPerson(t), newPerson(t)
	for _, u := range []*associations.IdentityUpdate{p.registration(t), q.registration(t)} {
		must[identityapi.PublishIdentityUpdateResponse](t)(call[identityapi.PublishIdentityUpdateResponse](t.Context(), h, n.url+identityPath+"PublishIdentityUpdate", publish(u), connect.WithGRPC()))
	}
	send(t, h, n.url, sealed(groupID(1), 10))
	topic, err := bus.MessagesOf(groupID(1))
	if err != nil {
		t.Fatal(err)
	}
	end := func() bus.ID {
		id, err := n.bus.End(t.Context(), topic) // of all topics: there is one shard
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	all := targets(t, p, q)
	for _, to := range all {
		t.Run(strings.TrimPrefix(to.procedure, "/"), func(t *testing.T) {
			before := end()
			try := func(name string, want connect.Code, body []byte) {
				t.Helper()
				if got := ask(t, h, n.url+to.procedure, body); got != want {
					t.Errorf("%s: code %d, want %d", name, got, want)
				}
			}
			good := wire(t, to.good)
			try("not protobuf", connect.CodeInvalidArgument, frame([]byte{0xff, 0xff, 0xff}))
			try("a group that never ends", connect.CodeInvalidArgument, frame(bytes.Repeat([]byte{0x0b}, 100_000)))
			try("20,001 fields", connect.CodeInvalidArgument, frame(bytes.Repeat([]byte{0x98, 0x3f, 0}, 20_001)))
			if len(good) > 0 {
				try("truncated message", connect.CodeInvalidArgument, frame(good[:len(good)-1]))
			}
			// A broken frame is INTERNAL, as gRPC's own servers have it.
			try("truncated frame", connect.CodeInternal, frame(append(good, 0))[:5+len(good)])
			try("compressed in an unknown way", connect.CodeInternal, append([]byte{1}, frame(good)[1:]...))
			most := 1 << 20
			if strings.Contains(to.procedure, "/Send") {
				most = 25 << 20
			}
			try("oversized", connect.CodeResourceExhausted, frame(padded(most+1)))
			if to.empty != 0 {
				try("empty", to.empty, frame(nil))
				try("its first field a number", to.empty, frame([]byte{0x08, 1}))
			}
			for _, bad := range to.hostile {
				try(bad.name, bad.code, frame(wire(t, bad.request)))
			}
			if after := end(); after != before {
				t.Errorf("the log ended at %d and ends at %d", before, after)
			}
			try("a good one", 0, frame(good))
			try("with a field of a newer client", 0, frame(append(good, 0x9a, 0x3f, 1, 'x')))
		})
	}
	for _, procedure := range procedures { // and none is forgotten
		known := slices.ContainsFunc(all, func(to target) bool { return to.procedure == procedure })
		if served := !strings.HasPrefix(procedure, "/grpc.") && procedure != mlsPath+"Subscribe"; served != known {
			t.Errorf("%s is not tried", procedure)
		}
	}
}

func wire(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ask sends one request's bytes over gRPC and returns the code of the answer, 0
// where it is answered. A stream that opened is left.
func ask(t *testing.T, h *http.Client, url string, body []byte) connect.Code {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/grpc")
	answer, err := h.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.Header.Get("Subscribed") != "" {
		return 0
	}
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		t.Fatal(err)
	}
	status := answer.Trailer.Get("Grpc-Status") + answer.Header.Get("Grpc-Status")
	var code connect.Code
	for _, digit := range status {
		code = 10*code + connect.Code(digit-'0')
	}
	return code
}
