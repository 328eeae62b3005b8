package jetstream_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
)

// A deployment is opened again: its constants are learnt, its log is there.
func TestDeploymentOutlivesItsServer(t *testing.T) {
	dir := t.TempDir()
	b := open(t, jetstream.Config{Dir: dir, Shards: 3})
	info := b.Info()
	for n := range 10 {
		if _, err := b.Publish(t.Context(), messagesOf(t, n), fmt.Append(nil, n)); err != nil {
			t.Fatal(err)
		}
	}
	b.Close()
	b = open(t, jetstream.Config{Dir: dir})
	if b.Info() != info {
		t.Fatalf("was %+v, is %+v", info, b.Info())
	}
	for n := range 10 {
		got, err := b.Read(t.Context(), 0, 10, messagesOf(t, n))
		if err != nil || len(got) != 1 || string(got[0].Payload) != fmt.Sprint(n) {
			t.Fatalf("group %d: %v, %v", n, got, err)
		}
	}
	b.Close()
	if _, err := jetstream.Open(t.Context(), jetstream.Config{Dir: dir, Shards: 4}); !errors.Is(err, jetstream.ErrConfig) {
		t.Errorf("another number of shards: %v", err)
	}
}

func TestFolderBelongsToOneBus(t *testing.T) {
	dir := t.TempDir()
	b := open(t, jetstream.Config{Dir: dir})
	if _, err := jetstream.Open(t.Context(), jetstream.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("opened twice: %v", err)
	}
	b.Close()
	open(t, jetstream.Config{Dir: dir})
}

// B7: no port unless asked; then only who has the credentials comes in.
func TestEmbeddedServerOpensToThoseWithCredentials(t *testing.T) {
	closed := open(t, jetstream.Config{Dir: t.TempDir()})
	if url := closed.ClientURL(); url != "" {
		t.Errorf("listens on %s unasked", url)
	}
	secret := jetstream.Credentials{User: "host", Password: "correct horse"}
	b := open(t, jetstream.Config{Dir: t.TempDir(), Listen: "0.0.0.0:0", Credentials: secret})
	m := messagesOf(t, 1)
	if _, err := b.Publish(t.Context(), m, []byte("from within")); err != nil {
		t.Fatal(err)
	}
	other := open(t, jetstream.Config{URL: b.ClientURL(), Credentials: secret})
	if got, err := other.Read(t.Context(), 0, 10, m); err != nil || len(got) != 1 {
		t.Errorf("with credentials: %v, %v", got, err)
	}
	for _, c := range []jetstream.Credentials{{}, {User: "host", Password: "wrong"}, {User: "inside", Password: ""}} {
		if _, err := jetstream.Open(t.Context(), jetstream.Config{URL: b.ClientURL(), Credentials: c}); !errors.Is(err, bus.ErrRefused) {
			t.Errorf("without them: %v", err)
		}
	}
	if got := fmt.Sprintf("%v %+v %#v", secret, secret, secret); strings.Contains(got, "horse") {
		t.Errorf("printed as %s", got)
	}
}

// Connections share one server, which the last of them stops.
func TestLastConnectionStopsTheServer(t *testing.T) {
	dir := t.TempDir()
	a := open(t, jetstream.Config{Dir: dir})
	b := connect(t, a)
	a.Close()
	if _, err := b.Publish(t.Context(), messagesOf(t, 1), []byte("x")); err != nil {
		t.Errorf("after the other one closed: %v", err)
	}
	if _, err := a.Connect(t.Context()); !errors.Is(err, bus.ErrClosed) {
		t.Errorf("connect of a closed bus: %v", err)
	}
	b.Close()
	open(t, jetstream.Config{Dir: dir})
}

// Off loopback the wire can be TLS; the connection from within needs none.
func TestEmbeddedServerSpeaksTLS(t *testing.T) {
	server, client := selfSigned(t)
	secret := jetstream.Credentials{User: "host", Password: "correct horse", TLS: server}
	b := open(t, jetstream.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", Credentials: secret})
	m := messagesOf(t, 1)
	if _, err := b.Publish(t.Context(), m, []byte("x")); err != nil {
		t.Fatal(err)
	}
	secret.TLS = client
	other := open(t, jetstream.Config{URL: b.ClientURL(), Credentials: secret})
	if got, err := other.Read(t.Context(), 0, 10, m); err != nil || len(got) != 1 {
		t.Errorf("over TLS: %v, %v", got, err)
	}
	secret.TLS = nil
	if _, err := jetstream.Open(t.Context(), jetstream.Config{URL: "nats://" + strings.TrimPrefix(b.ClientURL(), "tls://"), Credentials: secret}); err == nil {
		t.Error("a client that trusts nobody in particular was content")
	}
}

// selfSigned returns the TLS configurations of a server and of a client that
// trusts it alone.
func selfSigned(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}},
		&tls.Config{RootCAs: pool}
}
