package xmtp_test

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
	"github.com/conclave-chat/conclave/bus/xmtp"
	"github.com/conclave-chat/conclave/gateway"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/contents"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// embedded starts a log on a NATS server in this process.
func embedded(t testing.TB, cfg jetstream.Config) *jetstream.Bus {
	t.Helper()
	cfg.Dir, cfg.Logger = t.TempDir(), logger(t)
	b, err := jetstream.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// serve starts a node on a log, with a gateway in front, and returns its URL and
// a way to stop both early.
func serve(t testing.TB, log bus.Bus, address string, c gateway.Config) (url string, stop func()) {
	t.Helper()
	n, err := node.Serve(context.Background(), log, node.Config{Verifier: ethereum.Verifier{}, Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	c.Node, c.Logger = n, logger(t)
	g, err := gateway.New(c)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := g.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		n.Close()
	}
	t.Cleanup(stop)
	return "http://" + l.Addr().String(), stop
}

// connect opens a bus on a network.
func connect(t testing.TB, cfg xmtp.Config) *xmtp.Bus {
	t.Helper()
	cfg.Logger = logger(t)
	b, err := xmtp.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// vector is a byte string as MLS writes it. See RFC 9420, Section 2.1.2.
func vector(b, content []byte) []byte {
	switch n := len(content); {
	case n < 1<<6:
		b = append(b, byte(n))
	case n < 1<<14:
		b = binary.BigEndian.AppendUint16(b, 1<<14|uint16(n))
	default:
		b = binary.BigEndian.AppendUint32(b, 2<<30|uint32(n))
	}
	return append(b, content...)
}

// privateMessage has a text where the ciphertext belongs: nobody but a member
// could tell.
func privateMessage(group []byte, contentType byte, text string) []byte {
	b := []byte{0, 1, 0, 2} // mls10, mls_private_message
	b = vector(b, group)
	b = binary.BigEndian.AppendUint64(b, 7) // epoch
	b = append(b, contentType)
	b = vector(b, nil)                             // authenticated_data
	b = vector(b, []byte("sender data"))           // encrypted_sender_data
	return vector(b, append([]byte("c"), text...)) // ciphertext
}

const (
	application = 1
	proposal    = 2
	commit      = 3
)

func marshal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func groupInput(data []byte) []byte {
	return marshal(&mlsapi.GroupMessageInput{Version: &mlsapi.GroupMessageInput_V1_{V1: &mlsapi.GroupMessageInput_V1{
		Data: data, SenderHmac: make([]byte, 32), ShouldPush: true,
	}}})
}

// payload is what a network takes for a topic.
func payload(topic bus.Topic, text string) []byte {
	switch topic.Kind() {
	case bus.GroupCommits:
		return groupInput(privateMessage(topic.ID(), commit, text))
	case bus.GroupMessages:
		return groupInput(privateMessage(topic.ID(), application, text))
	}
	return marshal(&mlsapi.WelcomeMessageInput{Version: &mlsapi.WelcomeMessageInput_V1_{V1: &mlsapi.WelcomeMessageInput_V1{
		InstallationKey: topic.ID(), Data: append([]byte("w"), text...), HpkePublicKey: make([]byte, 32),
		WrapperAlgorithm: contents.WelcomeWrapperAlgorithm_WELCOME_WRAPPER_ALGORITHM_CURVE25519,
		WelcomeMetadata:  []byte("sealed"),
	}}})
}
