package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/conclave-chat/conclave/gateway"
)

// reloadEvery is how soon a file that was replaced is read again without SIGHUP.
const reloadEvery = 2 * time.Second

// A reload reads files again while they are in use.
type reload struct {
	what  string
	files []string
	load  func() error // takes all of them, or leaves everything as it was
}

// watch reads the files again on SIGHUP, and when one has changed, until stop.
// Where they cannot be meant, what was read before goes on to count.
func (c *console) watch(all ...reload) (stop func()) {
	all = slices.DeleteFunc(all, func(r reload) bool { return len(r.files) == 0 })
	ctx, cancel := context.WithCancel(context.Background())
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	seen := make([][]byte, len(all))
	for i, r := range all {
		seen[i] = contents(r.files)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		look := time.NewTicker(reloadEvery)
		defer look.Stop()
		for {
			asked := false
			select {
			case <-hangup:
				asked = true
			case <-look.C:
			case <-ctx.Done():
				return
			}
			for i, r := range all {
				now := contents(r.files)
				if !asked && bytes.Equal(now, seen[i]) {
					continue
				}
				seen[i] = now
				if err := r.load(); err != nil {
					c.log.Error("files not taken, the former ones go on to count", "of", r.what, "error", err)
				} else {
					c.log.Warn("files read again", "of", r.what)
				}
			}
		}
	}()
	return func() {
		signal.Stop(hangup)
		cancel()
		<-ended
	}
}

// contents is a hash of what files hold.
func contents(files []string) []byte {
	all := sha256.New()
	for _, name := range files {
		b, err := os.ReadFile(name)
		fmt.Fprintf(all, "%d %v\n", len(b), err)
		all.Write(b)
	}
	return all.Sum(nil)
}

// keys are what closes XMTP's API: a certificate, the authorities of its callers'
// certificates, and tokens.
type keys struct {
	o      gatewayOptions
	tokens atomic.Pointer[gateway.Tokens]
	tls    atomic.Pointer[tls.Config]
}

func (k *keys) reload() reload {
	var files []string
	for _, name := range []string{k.o.tlsCert, k.o.tlsKey, k.o.clientCA, k.o.tokensFile} {
		if name != "" {
			files = append(files, name)
		}
	}
	return reload{"XMTP's API", files, k.load}
}

func (k *keys) load() error {
	tokens, err := k.loadTokens()
	if err != nil {
		return fmt.Errorf("--tokens-file: %w", err)
	}
	config, err := k.loadTLS()
	if err != nil {
		return err
	}
	k.tokens.Store(tokens)
	k.tls.Store(config)
	return nil
}

func (k *keys) loadTokens() (*gateway.Tokens, error) {
	if k.o.tokensFile == "" {
		return nil, nil
	}
	f, err := os.Open(k.o.tokensFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	tokens, err := gateway.ParseTokens(f)
	return &tokens, err
}

func (k *keys) loadTLS() (*tls.Config, error) {
	if k.o.tlsCert == "" {
		return nil, nil
	}
	certificate, err := tls.LoadX509KeyPair(k.o.tlsCert, k.o.tlsKey)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert: %w", err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"}}
	if k.o.clientCA == "" {
		return config, nil
	}
	pem, err := os.ReadFile(k.o.clientCA)
	if err != nil {
		return nil, fmt.Errorf("--client-ca: %w", err)
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--client-ca: there is no certificate in %s", k.o.clientCA)
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	if k.o.tokensFile != "" { // either will do
		config.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return config, nil
}

// use makes a gateway ask for the keys as they are at the time.
func (k *keys) use(config *gateway.Config) {
	if k.tokens.Load() != nil {
		config.Authenticate = func(token string) (string, bool) { return k.tokens.Load().Authenticate(token) }
	}
	if now := k.tls.Load(); now != nil {
		config.TLS = now.Clone()
		config.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return k.tls.Load(), nil }
	}
}
