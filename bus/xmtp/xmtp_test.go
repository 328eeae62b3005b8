package xmtp_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/bustest"
	"github.com/conclave-chat/conclave/bus/jetstream"
	"github.com/conclave-chat/conclave/bus/xmtp"
	"github.com/conclave-chat/conclave/gateway"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/contents"
	"github.com/conclave-chat/conclave/proto/identityapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// The contract, over gRPC, against our own gateway and node on a log of one
// shard and on one of eight.
func TestContract(t *testing.T) {
	for _, shards := range bustest.Shards() {
		t.Run(fmt.Sprintf("a log of %d", shards), func(t *testing.T) {
			bustest.RunOn(t, 1, func(t *testing.T, _ int) bustest.Harness {
				url, _ := serve(t, embedded(t, jetstream.Config{Shards: shards}), "127.0.0.1:0", gateway.Config{})
				return bustest.Harness{
					Bus:     connect(t, xmtp.Config{URL: url}),
					Connect: func(t *testing.T) bus.Bus { return connect(t, xmtp.Config{URL: url}) },
					Full: func(t *testing.T) bus.Bus {
						url, _ := serve(t, embedded(t, jetstream.Config{MaxBytes: 1 << 20}), "127.0.0.1:0", gateway.Config{})
						return connect(t, xmtp.Config{URL: url})
					},
					Payload: payload,
					Whole:   true,
				}
			})
		})
	}
}

// One wire: what a host on gRPC publishes is what a host on NATS reads, with the
// same ID and time and to the byte, and the other way round.
func TestEnvelopesAreThoseOfTheBusBehind(t *testing.T) {
	ctx, log := patient(t), embedded(t, jetstream.Config{Shards: 4})
	url, _ := serve(t, log, "127.0.0.1:0", gateway.Config{})
	b := connect(t, xmtp.Config{URL: url})
	c, m := topics(t, 1)
	w, err := bus.WelcomesFor(bytes.Repeat([]byte{9}, 32))
	if err != nil {
		t.Fatal(err)
	}
	pointer := marshal(&mlsapi.WelcomeMessageInput{Version: &mlsapi.WelcomeMessageInput_WelcomePointer_{WelcomePointer: &mlsapi.WelcomeMessageInput_WelcomePointer{
		InstallationKey: w.ID(), WelcomePointer: []byte("sealed"), HpkePublicKey: make([]byte, 1216),
		WrapperAlgorithm: contents.WelcomePointerWrapperAlgorithm_WELCOME_POINTER_WRAPPER_ALGORITHM_XWING_MLKEM_768_DRAFT_6,
	}}})
	for _, from := range []bus.Bus{log, b} {
		publish(t, from, m, "a message")
		publish(t, from, c, "a commit")
		publish(t, from, w, "a welcome")
		for topic, payload := range map[bus.Topic][]byte{c: groupInput(privateMessage(c.ID(), proposal, "a proposal")), w: pointer} {
			if _, err := from.Publish(ctx, topic, payload); err != nil {
				t.Fatal(err)
			}
		}
		for _, topics := range [][]bus.Topic{{c}, {m}, {c, m}, {w}} {
			want, err := log.Read(ctx, 0, 100, topics...)
			if err != nil {
				t.Fatal(err)
			}
			got, err := b.Read(ctx, 0, 100, topics...)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%v: over gRPC %v, %v; want %v", topics, got, err, want)
			}
		}
	}
}

// What a network would take for something else, or not at all, does not leave the
// host.
func TestPayloadsThatDoNotBelongAreRefused(t *testing.T) {
	ctx, log := patient(t), embedded(t, jetstream.Config{})
	url, _ := serve(t, log, "127.0.0.1:0", gateway.Config{})
	w := newWire(t, url)
	b := connect(t, xmtp.Config{URL: w.url})
	c, m := topics(t, 1)
	_, other := topics(t, 2)
	key := bytes.Repeat([]byte{9}, 32)
	welcomes, _ := bus.WelcomesFor(key)
	identity, _ := bus.IdentityOf(key)
	packages, _ := bus.KeyPackagesOf(key)
	commitLog, _ := bus.CommitLogOf(c.ID())
	for name, of := range map[string]struct {
		topic   bus.Topic
		payload []byte
	}{
		"a commit among the messages":    {m, payload(c, "x")},
		"a message among the commits":    {c, payload(m, "x")},
		"another group's message":        {m, payload(other, "x")},
		"another installation's welcome": {welcomes, payload(bus.Topic{}, "x")},
		"no protobuf":                    {m, []byte{0xff}},
		"a welcome that is no protobuf":  {welcomes, []byte{0xff}},
		"no MLS message":                 {m, groupInput([]byte("x"))},
		"nothing":                        {m, nil},
		"an identity update":             {identity, []byte("x")},
		"a key package":                  {packages, []byte("x")},
		"a commit log":                   {commitLog, []byte("x")},
	} {
		if _, err := b.Publish(ctx, of.topic, of.payload); !errors.Is(err, bus.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(w.calls) != 0 {
		t.Errorf("the network was asked: %v", w.calls)
	}
	if _, err := b.Read(ctx, 0, 1, identity); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("read identity updates: %v", err)
	}
}

// Services are the network's methods, asked for no more at a time than XMTP's own
// clients ask.
func TestServices(t *testing.T) {
	ctx, log := patient(t), embedded(t, jetstream.Config{})
	url, _ := serve(t, log, "127.0.0.1:0", gateway.Config{})
	w := newWire(t, url)
	b := connect(t, xmtp.Config{URL: w.url, AppVersion: "harbour/1.2"})

	question := new(identityapi.GetIdentityUpdatesRequest)
	for n := range 120 {
		question.Requests = append(question.Requests, &identityapi.GetIdentityUpdatesRequest_Request{InboxId: fmt.Sprintf("%064x", n)})
	}
	answer, err := node.NewClient(b).GetIdentityUpdates(ctx, question)
	if err != nil || len(answer.GetResponses()) != 120 {
		t.Fatalf("%d answers, %v", len(answer.GetResponses()), err)
	}
	for n, r := range answer.GetResponses() {
		if r.GetInboxId() != fmt.Sprintf("%064x", n) {
			t.Fatalf("answer %d is about %s", n, r.GetInboxId())
		}
	}
	if calls := w.count("/xmtp.identity.api.v1.IdentityApi/GetIdentityUpdates"); calls != 3 {
		t.Errorf("120 inboxes are %d calls", calls)
	}
	if app, lib := w.headers.Get("X-App-Version"), w.headers.Get("X-Libxmtp-Version"); app != "harbour/1.2" || lib != xmtp.LibraryVersion {
		t.Errorf("the network hears of app %q, library %q", app, lib)
	}

	var refused *bus.ServiceError
	if err := node.NewClient(b).UploadKeyPackage(ctx, []byte("none")); !errors.As(err, &refused) || refused.Code != bus.CodeInvalid {
		t.Errorf("a key package that is none: %v", err)
	}
	if _, err := b.Request(ctx, bus.GetInboxIds, []byte{0xff}); !errors.As(err, &refused) || refused.Code != bus.CodeInvalid {
		t.Errorf("a request that is none: %v", err)
	}
	if _, err := b.Request(ctx, bus.GetInboxIds, make([]byte, bus.MaxRequest+1)); !errors.Is(err, bus.ErrTooLarge) {
		t.Errorf("a request over the limit: %v", err)
	}
	if _, err := b.Request(ctx, "chess", nil); !errors.Is(err, bus.ErrNoService) {
		t.Errorf("a service that no network has: %v", err)
	}
	if _, err := b.Serve("chess", nil); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("serve: %v", err)
	}
	gone := connect(t, xmtp.Config{URL: "http://127.0.0.1:1"})
	if _, err := gone.Request(ctx, bus.GetInboxIds, nil); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("nobody there: %v", err)
	}
}

// A deployment that is not open is joined with a token, over TLS; without one it
// refuses, and the token is shown nowhere.
func TestCredentials(t *testing.T) {
	ctx, log := patient(t), embedded(t, jetstream.Config{})
	server := httptest.NewUnstartedServer(nil) // for its certificate
	server.StartTLS()
	certificate, roots := server.TLS.Certificates[0], x509.NewCertPool()
	roots.AddCert(server.Certificate())
	server.Close()

	url, _ := serve(t, log, "127.0.0.1:0", gateway.Config{
		TLS:          &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}},
		Authenticate: func(token string) (string, bool) { return "harbour", token == "open sesame" },
	})
	url = strings.Replace(url, "http:", "https:", 1)
	_, m := topics(t, 1)
	known := xmtp.Config{URL: url, Token: "open sesame", TLS: &tls.Config{RootCAs: roots}}
	publish(t, connect(t, known), m, "x")
	f := follow(t, connect(t, known))
	if err := f.Follow(ctx, 0, m); err != nil {
		t.Fatal(err)
	}
	receive(ctx, t, f, 1)

	wrong := connect(t, xmtp.Config{URL: url, Token: "friend", TLS: &tls.Config{RootCAs: roots}})
	if _, err := wrong.Publish(ctx, m, payload(m, "y")); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("with a wrong token: %v", err)
	}
	stranger := connect(t, xmtp.Config{URL: url, Token: "open sesame"})
	if _, err := stranger.Publish(ctx, m, payload(m, "y")); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("with a certificate that nobody vouches for: %v", err)
	}
	json, err := json.Marshal(known.Token)
	if shown := fmt.Sprintf("%v %+v %#v %s %s", known, known, known, known.Token, json); err != nil || strings.Contains(shown, "sesame") {
		t.Errorf("shown: %s, %v", shown, err)
	}
}

func TestConfigThatCannotBeMeantIsRefused(t *testing.T) {
	for name, cfg := range map[string]xmtp.Config{
		"no URL":                   {},
		"no host":                  {URL: "http://"},
		"another scheme":           {URL: "nats://localhost:4222"},
		"no scheme":                {URL: "localhost:5556"},
		"a password in the URL":    {URL: "https://a:b@localhost"},
		"a query":                  {URL: "https://localhost?x=1"},
		"a token in the clear":     {URL: "http://localhost", Token: "x"},
		"payloads over MaxRequest": {URL: "http://localhost", MaxPayload: bus.MaxRequest + 1},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := xmtp.Open(cfg); !errors.Is(err, xmtp.ErrConfig) {
				t.Fatalf("got %v", err)
			}
		})
	}
}
