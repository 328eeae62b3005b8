package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// post asks XMTP's API as curl does.
func post(t *testing.T, h *http.Client, url, token, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := h.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(b)
}

const (
	askInboxes = "/xmtp.identity.api.v1.IdentityApi/GetInboxIds"
	askHealth  = "/grpc.health.v1.Health/Check"
	somebody   = `{"requests":[{"identifier":"0x0000000000000000000000000000000000000001","identifierKind":"IDENTIFIER_KIND_ETHEREUM"}]}`
)

// TestServeXMTP proves that serve --xmtp is an XMTP network at the addresses that
// it prints, one more of them for browsers, until it is stopped.
func TestServeXMTP(t *testing.T) {
	s := begin(t, "serve", "--dir", t.TempDir(), "--listen", "127.0.0.1:0", "--xmtp", "127.0.0.1:0", "--xmtp-web", "127.0.0.1:0")
	api := after(s.sees("XMTP API at"), "at ")
	web := after(s.sees("XMTP API for browsers"), "at ")
	h := &http.Client{Transport: new(http.Transport)}
	defer h.CloseIdleConnections()
	for _, url := range []string{api, web} {
		if code, answer := post(t, h, url+askInboxes, "", somebody); code != 200 || !strings.Contains(answer, `"identifier":"0x0000000000000000000000000000000000000001"`) {
			t.Errorf("%s answers %d %s", url, code, answer)
		}
	}
	s.ends()
}

// TestServeXMTPBudget proves that a budget of serve's flags holds at the API.
func TestServeXMTPBudget(t *testing.T) {
	s := begin(t, "serve", "--dir", t.TempDir(), "--listen", "127.0.0.1:0", "--xmtp=127.0.0.1:0", "--group-messages", "1:2")
	api := after(s.sees("XMTP API at"), "at ")
	h := &http.Client{Transport: new(http.Transport)}
	defer h.CloseIdleConnections()
	message := []byte{0, 1, 0, 2} // mls10, mls_private_message: RFC 9420, Section 6.3
	message = append(append(message, 16), make([]byte, 16)...)
	message = append(message, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1, 0, 1, 0) // epoch, application, nothing sealed
	body := fmt.Sprintf(`{"messages":[{"v1":{"data":%q}}]}`, base64.StdEncoding.EncodeToString(message))
	for i, want := range []int{200, 200, 429} {
		if code, answer := post(t, h, api+"/xmtp.mls.api.v1.MlsApi/SendGroupMessages", "", body); code != want {
			t.Errorf("message %d: %d %s", i, code, answer)
		}
	}
	s.ends()
}

// TestServeXMTPClosed proves that with --tls-cert the API is under TLS, and that
// with --tokens-file only those with a token are answered.
func TestServeXMTPClosed(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert := write("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	s := begin(t, "serve", "--dir", filepath.Join(dir, "log"), "--listen", "127.0.0.1:0", "--xmtp=127.0.0.1:0",
		"--tls-cert", cert, "--tls-key", write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		"--tokens-file", write("tokens", fmt.Appendf(nil, "alice %x\n", sha256.Sum256([]byte("open sesame")))))
	api := after(s.sees("XMTP API at"), "at ")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(read(t, cert)))
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer h.CloseIdleConnections()
	for token, want := range map[string]int{"open sesame": 200, "open barley": 401, "": 401} {
		if code, answer := post(t, h, api+askInboxes, token, somebody); code != want {
			t.Errorf("with token %q: %d %s", token, code, answer)
		}
	}
	if code, answer := post(t, h, api+askHealth, "", "{}"); code != 200 || !strings.Contains(answer, "SERVING") {
		t.Errorf("health: %d %s", code, answer)
	}
	s.ends()
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestServeXMTPFlags proves what the flags mean where they leave something out,
// and that what cannot be meant is refused.
func TestServeXMTPFlags(t *testing.T) {
	parse := func(line string) (o gatewayOptions, err error) {
		cmd := &cobra.Command{Args: o.args, RunE: func(*cobra.Command, []string) error { return o.check() }, SilenceErrors: true, SilenceUsage: true}
		o.flags(cmd)
		cmd.SetArgs(strings.Fields(line))
		err = cmd.Execute()
		return o, err
	}
	for _, test := range []struct {
		line, listen, web string
		limited           bool
	}{
		{line: ""},
		{"--xmtp", "127.0.0.1:5556", "127.0.0.1:5557", false},
		{"--xmtp --xmtp-web=", "127.0.0.1:5556", "", false},
		{"--xmtp 127.0.0.1:1", "127.0.0.1:1", "", false},
		{"--xmtp=127.0.0.1:1 --xmtp-web localhost:2", "127.0.0.1:1", "localhost:2", false},
		{"--xmtp [::1]:1", "[::1]:1", "", false},
		{"--xmtp 0.0.0.0:1", "0.0.0.0:1", "", true},
		{"--xmtp :1", ":1", "", true},
		{"--xmtp 127.0.0.1:1 --xmtp-web :2", "127.0.0.1:1", ":2", true},
		{"--xmtp 0.0.0.0:1 --rate-limits=false", "0.0.0.0:1", "", false},
		{"--xmtp --rate-limits", "127.0.0.1:5556", "127.0.0.1:5557", true},
	} {
		o, err := parse(test.line)
		if err != nil || o.listen != test.listen || o.web != test.web || o.listen != "" && o.rateLimits != test.limited {
			t.Errorf("%s: at %q and %q, limited %v, %v", test.line, o.listen, o.web, o.rateLimits, err)
		}
	}
	dir := t.TempDir()
	none := filepath.Join(dir, "none")
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"--xmtp here":                              `"here" is not a flag: see conclave serve --help`,
		"--xmtp :1 :2":                             `":1" is not a flag: see conclave serve --help`,
		"--xmtp-web :1":                            "belong to --xmtp",
		"--tokens-file x":                          "belong to --xmtp",
		"--xmtp :1 --tls-cert x":                   "--tls-cert and --tls-key belong together",
		"--xmtp :1 --client-ca x":                  "--client-ca belongs to --tls-cert",
		"--rpc https://rpc.example/key":            "--rpc is to be CHAIN=URL, such as 1=https://rpc.example",
		"--rpc 1=https://a --rpc eip155:1=http:b":  "--rpc names chain 1 twice",
		"--xmtp=127.0.0.1:0 --tokens-file " + none: "--tokens-file: gateway: there is no token: nobody could call",
	} {
		// One directory for all: what is refused late has given its log back.
		_, _, err := output(t, "", append(strings.Fields("serve --dir "+dir+" --listen 127.0.0.1:0"), strings.Fields(line)...)...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", line, err, want)
		}
	}
}
