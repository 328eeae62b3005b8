package gateway_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/conclave-chat/conclave/gateway"
	"github.com/conclave-chat/conclave/proto/identityapi"
)

// An authority makes certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	c := a.issue(t, "authority", true)
	a.key, a.cert = c.PrivateKey.(*ecdsa.PrivateKey), c.Leaf
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) issue(t testing.TB, name string, ca bool) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: ca, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func getInboxes(ctx context.Context, h connect.HTTPClient, url, token string, options ...connect.ClientOption) error {
	request := connect.NewRequest(new(identityapi.GetInboxIdsRequest))
	if token != "" {
		request.Header().Set("Authorization", token)
	}
	_, err := connect.NewClient[identityapi.GetInboxIdsRequest, identityapi.GetInboxIdsResponse](h, url+identityPath+"GetInboxIds", options...).CallUnary(ctx, request)
	return err
}

// A deployment that is not open answers those with a token it knows, in every
// protocol, and tells the log neither their tokens nor their names.
func TestBearerTokens(t *testing.T) {
	hash := sha256.Sum256([]byte("open sesame"))
	tokens, err := gateway.ParseTokens(strings.NewReader(fmt.Sprintf("# callers\n\nalice %x\n", hash)))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	n := open(t, gateway.Config{Authenticate: tokens.Authenticate, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	h := overHTTP2(t, nil)
	for _, options := range [][]connect.ClientOption{{connect.WithGRPC()}, {connect.WithGRPCWeb()}, nil} {
		if err := getInboxes(t.Context(), h, n.url, "Bearer open sesame", options...); err != nil {
			t.Error(err)
		}
		for _, token := range []string{"", "open sesame", "Basic open sesame", "Bearer", "Bearer open sesam", "Bearer " + fmt.Sprintf("%x", hash)} {
			wantCode(t, getInboxes(t.Context(), h, n.url, token, options...), connect.CodeUnauthenticated)
		}
	}
	s := subscribe(t, t.Context(), h, n.url, groupID(1), 0, connect.WithGRPC())
	s.Receive()
	wantCode(t, s.Err(), connect.CodeUnauthenticated)
	_, err = call[emptypb.Empty](t.Context(), h, n.url+"/grpc.health.v1.Health/Check", new(emptypb.Empty), connect.WithGRPC())
	if err != nil {
		t.Errorf("a supervisor has no token: %v", err)
	}
	if strings.Contains(log.String(), "sesam") || strings.Contains(log.String(), "alice") {
		t.Errorf("the log says %s", log.String())
	}
}

// A tokens file that cannot be meant is refused, without showing what is in it.
func TestTokensFile(t *testing.T) {
	for name, file := range map[string]string{
		"empty": "\n# nobody\n", "no hash": "alice\n", "a token": "alice secret-token\n",
		"not hex": "alice " + strings.Repeat("zz", 32), "three words": "alice bob " + strings.Repeat("00", 32),
		"no time": "alice " + strings.Repeat("00", 32) + " tomorrow",
	} {
		if _, err := gateway.ParseTokens(strings.NewReader(file)); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Over TLS, a client certificate of the deployment's authority is a credential,
// beside a token where both are accepted.
func TestClientCertificates(t *testing.T) {
	a, foreign := newAuthority(t), newAuthority(t)
	server := &tls.Config{
		Certificates: []tls.Certificate{a.issue(t, "server", false)},
		ClientCAs:    a.pool, ClientAuth: tls.VerifyClientCertIfGiven,
	}
	n := open(t, gateway.Config{TLS: server, Authenticate: func(token string) (string, bool) { return "bob", token == "bob" }})
	with := func(certificates ...tls.Certificate) connect.HTTPClient {
		return overTLS(t, &tls.Config{RootCAs: a.pool, Certificates: certificates})
	}
	alice, nameless := a.issue(t, "alice", false), a.issue(t, "", false)
	if err := getInboxes(t.Context(), with(alice), n.url, "", connect.WithGRPC()); err != nil {
		t.Error(err)
	}
	if err := getInboxes(t.Context(), with(), n.url, "Bearer bob", connect.WithGRPC()); err != nil {
		t.Error(err)
	}
	wantCode(t, getInboxes(t.Context(), with(), n.url, "", connect.WithGRPC()), connect.CodeUnauthenticated)
	wantCode(t, getInboxes(t.Context(), with(nameless), n.url, "", connect.WithGRPC()), connect.CodeUnauthenticated)
	if err := getInboxes(t.Context(), with(foreign.issue(t, "alice", false)), n.url, "", connect.WithGRPC()); err == nil {
		t.Error("a foreign certificate is accepted")
	}
	if err := getInboxes(t.Context(), overHTTP2(t, nil), strings.Replace(n.url, "https", "http", 1), "Bearer bob", connect.WithGRPC()); err == nil {
		t.Error("the port of TLS answers in the clear")
	}
}

// TLS without credentials is open to anybody, as XMTP's own network is.
func TestOpenOverTLS(t *testing.T) {
	a := newAuthority(t)
	n := open(t, gateway.Config{TLS: &tls.Config{Certificates: []tls.Certificate{a.issue(t, "server", false)}}})
	if err := getInboxes(t.Context(), overTLS(t, &tls.Config{RootCAs: a.pool}), n.url, "", connect.WithGRPC()); err != nil {
		t.Error(err)
	}
}
