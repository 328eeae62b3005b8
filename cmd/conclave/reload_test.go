//go:build unix

package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
)

// A logged command's lines on standard error.
type logLines struct {
	*io.PipeWriter
	lines chan string
}

func newLog() logLines {
	r, w := io.Pipe()
	l := logLines{w, make(chan string, 1000)}
	go func() {
		defer close(l.lines)
		for scan := bufio.NewScanner(r); scan.Scan(); {
			l.lines <- scan.Text()
		}
	}()
	return l
}

func (l logLines) sees(t *testing.T, text string) {
	t.Helper()
	for line := range l.lines {
		if strings.Contains(line, text) {
			return
		}
	}
	t.Fatalf("the log ends without %q", text)
}

// certificate writes a self-signed certificate of a serial number, and its key.
func certificate(t *testing.T, cert, key string, serial int64) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	replace(t, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// replace puts a file in the place of another, at once.
func replace(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// TestServeReadsItsKeysAgain proves that certificates and tokens that were
// replaced count without a restart, by themselves and on SIGHUP, and that files
// which cannot be meant change nothing.
func TestServeReadsItsKeysAgain(t *testing.T) {
	dir := t.TempDir()
	cert, key, tokens := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "tokens")
	certificate(t, cert, key, 1)
	let := func(names ...string) {
		var lines strings.Builder
		for _, name := range names {
			fmt.Fprintf(&lines, "%s %x\n", name, sha256.Sum256([]byte(name)))
		}
		replace(t, tokens, []byte(lines.String()))
	}
	let("alice")
	log := newLog()
	s := beginLogged(t, log, "serve", "--dir", filepath.Join(dir, "log"), "--listen", "127.0.0.1:0", "--xmtp=127.0.0.1:0",
		"--tls-cert", cert, "--tls-key", key, "--tokens-file", tokens)
	api := after(s.sees("XMTP API at"), "at ")
	// serial is of the certificate that a new connection is shown; HTTP codes are
	// those that alice and bob get.
	looks := func(serial int64, alice, bob int) error {
		var shown int64
		h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, // the test looks itself
			VerifyConnection: func(c tls.ConnectionState) error {
				shown = c.PeerCertificates[0].SerialNumber.Int64()
				return nil
			},
		}}}
		for name, want := range map[string]int{"alice": alice, "bob": bob} {
			if code, answer := post(t, h, api+askInboxes, name, somebody); code != want || shown != serial {
				return fmt.Errorf("certificate %d, %s: %d %s; want %d and %d", shown, name, code, answer, serial, want)
			}
		}
		return nil
	}
	// Two files cannot be replaced at once: what is read in between is read again.
	becomes := func(line string, serial int64, alice, bob int) {
		t.Helper()
		for err := io.EOF; err != nil; err = looks(serial, alice, bob) {
			log.sees(t, line)
		}
	}
	if err := looks(1, 200, 401); err != nil {
		t.Fatal(err)
	}
	certificate(t, cert, key, 2)
	let("bob")
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	becomes("files read again", 2, 401, 200)

	let("alice", "bob")
	becomes("files read again", 2, 200, 200)

	replace(t, tokens, []byte("alice a-token-by-mistake\n"))
	becomes("files not taken, the former ones go on to count", 2, 200, 200)
	replace(t, key, []byte("no key"))
	becomes("files not taken, the former ones go on to count", 2, 200, 200)
	s.ends()
	log.Close()
}

// TestPasswordsAreReadAgain proves that a serve that runs takes new passwords of
// its hosts and of operators, and lets in nobody with a former one; and that a file
// that cannot be meant changes nothing.
func TestPasswordsAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{}
	let := func(user, password string) {
		t.Helper()
		files[user] = filepath.Join(dir, user)
		replace(t, files[user], []byte(password))
	}
	let("host", "first\n")
	let("other", "other\n")
	let("operator", "boss\n")
	log := newLog()
	s := beginLogged(t, log, "serve", "--dir", filepath.Join(dir, "log"), "--listen", "127.0.0.1:0",
		"--user", "host", "--password-file", files["host"], "--user", "other", "--password-file", files["other"],
		"--operator-user", "operator", "--operator-password-file", files["operator"])
	url := after(s.sees("serving"), "at ")
	lets := func(user, password string, want bool) {
		t.Helper()
		b, err := jetstream.Open(t.Context(), jetstream.Config{URL: url, Credentials: jetstream.Credentials{User: user, Password: password}})
		if (err == nil) != want || err != nil && !errors.Is(err, bus.ErrRefused) {
			t.Errorf("%s with %s: %v", user, password, err)
		}
		if err == nil {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	lets("host", "first", true)
	lets("other", "other", true)
	lets("operator", "boss", true)
	let("host", "second\n")
	log.sees(t, "files read again")
	lets("host", "first", false)
	lets("host", "second", true)
	lets("other", "other", true)
	let("operator", "two\nlines\n")
	log.sees(t, "files not taken, the former ones go on to count")
	lets("operator", "boss", true)
	lets("host", "second", true)
	s.ends()
	log.Close()
}
