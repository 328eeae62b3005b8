package gateway_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/gateway"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	mlsPath      = "/xmtp.mls.api.v1.MlsApi/"
	identityPath = "/xmtp.identity.api.v1.IdentityApi/"
	messagePath  = "/xmtp.message_api.v1.MessageApi/"
)

// A network is a gateway on a real port, before a node on a bus.
type network struct {
	gateway *gateway.Gateway
	bus     bus.Bus
	address string
	url     string
}

// open starts a gateway on a bus of its own in memory.
func open(t testing.TB, c gateway.Config) *network {
	t.Helper()
	b := memory.New(memory.Config{})
	t.Cleanup(func() { b.Close() })
	return openOn(t, b, c)
}

func openOn(t testing.TB, b bus.Bus, c gateway.Config) *network {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, b, c, l)
}

// openPiped starts a gateway that is reached over pipes, so that a bubble of
// synctest can hold all of it.
func openPiped(t testing.TB, c gateway.Config) (*network, func(*http.Transport)) {
	t.Helper()
	b := memory.New(memory.Config{})
	t.Cleanup(func() { b.Close() })
	return openPipedOn(t, b, c)
}

func openPipedOn(t testing.TB, b bus.Bus, c gateway.Config) (*network, func(*http.Transport)) {
	t.Helper()
	l := &pipes{accepted: make(chan net.Conn), closed: make(chan struct{})}
	return serve(t, b, c, l), func(tr *http.Transport) {
		tr.DialContext = func(context.Context, string, string) (net.Conn, error) { return l.dial() }
	}
}

// A listener on nothing but memory.
type pipes struct {
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func (p *pipes) dial() (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.accepted <- there:
		return here, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accepted:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// serve starts a node and a gateway before it.
func serve(t testing.TB, b bus.Bus, c gateway.Config, l net.Listener) *network {
	t.Helper()
	n, err := node.Serve(t.Context(), b, node.Config{Verifier: ethereum.Verifier{}, Logger: c.Logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	c.Node = n
	g, err := gateway.New(c)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := errors.Join(g.Shutdown(ctx), <-served); err != nil {
			t.Error(err)
		}
	})
	scheme := "http://"
	if c.TLS != nil {
		scheme = "https://"
	}
	return &network{g, b, l.Addr().String(), scheme + l.Addr().String()}
}

// overHTTP2 is a client of gRPC in the clear; adjust may change its transport.
func overHTTP2(t testing.TB, adjust func(*http.Transport)) *http.Client {
	t.Helper()
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: p}
	if adjust != nil {
		adjust(transport)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func overHTTP1(t testing.TB, adjust func(*http.Transport)) *http.Client {
	t.Helper()
	transport := &http.Transport{}
	if adjust != nil {
		adjust(transport)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func overTLS(t testing.TB, c *tls.Config) *http.Client {
	t.Helper()
	p := new(http.Protocols)
	p.SetHTTP2(true)
	transport := &http.Transport{Protocols: p, TLSClientConfig: c}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// call makes one unary request.
func call[A, Q any](ctx context.Context, h *http.Client, url string, request *Q, options ...connect.ClientOption) (*A, error) {
	r, err := connect.NewClient[Q, A](h, url, options...).CallUnary(ctx, connect.NewRequest(request))
	if err != nil {
		return nil, err
	}
	return r.Msg, nil
}

// must ends the test when a call failed.
func must[A any](t testing.TB) func(*A, error) *A {
	return func(a *A, err error) *A {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
}

func wantCode(t testing.TB, err error, code connect.Code) {
	t.Helper()
	if connect.CodeOf(err) != code || err == nil {
		t.Errorf("err = %v, want %v", err, code)
	}
}

// A person has a wallet, one installation and an inbox.
type person struct {
	wallet *ethereum.Key
	app    ed25519.PrivateKey
	appID  identity.Identifier
	inbox  string
}

func newPerson(t testing.TB) *person {
	t.Helper()
	w, err := ethereum.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &person{wallet: w, app: private}
	if p.appID, err = identity.InstallationFrom(public); err != nil {
		t.Fatal(err)
	}
	if p.inbox, err = identity.InboxID(w.Identifier(), identity.DefaultNonce); err != nil {
		t.Fatal(err)
	}
	return p
}

// registration is the update that makes the inbox.
func (p *person) registration(t testing.TB) *associations.IdentityUpdate {
	t.Helper()
	d, err := identity.Register(p.wallet.Identifier(), identity.DefaultNonce, p.appID, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Sign(p.wallet), d.SignInstallation(p.app)); err != nil {
		t.Fatal(err)
	}
	u, err := d.Update()
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (p *person) keyPackage(t testing.TB) []byte {
	t.Helper()
	signer, err := mls.NewSigner(mls.MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519, p.app.Seed())
	if err != nil {
		t.Fatal(err)
	}
	kp, _, err := group.NewKeyPackage(group.KeyPackageConfig{Rand: rand.Reader, Signer: signer, Inbox: p.inbox, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return kp.MLS.Bytes()
}

// groupID is a group's id as real clients make them.
func groupID(n byte) []byte { return append(make([]byte, 15), n) }

// sealed is a message of a group as the network sees it: RFC 9420 6.3, a
// PrivateMessage's cleartext framing around what only members read.
func sealed(group []byte, size int) *mlsapi.GroupMessageInput {
	bytes := func(out, b []byte) []byte {
		switch { // RFC 9420 2.1.2
		case len(b) < 1<<6:
			out = append(out, byte(len(b)))
		case len(b) < 1<<14:
			out = binary.BigEndian.AppendUint16(out, uint16(len(b))|0x4000)
		default:
			out = binary.BigEndian.AppendUint32(out, uint32(len(b))|0x8000_0000)
		}
		return append(out, b...)
	}
	data := bytes([]byte{0, 1, 0, 2}, group)             // mls10, PrivateMessage, its group
	data = append(data, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0) // epoch 1, application, no authenticated and sender data
	body := make([]byte, size)
	rand.Read(body)
	return &mlsapi.GroupMessageInput{Version: &mlsapi.GroupMessageInput_V1_{V1: &mlsapi.GroupMessageInput_V1{Data: bytes(data, body), ShouldPush: true}}}
}
