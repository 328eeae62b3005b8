package main

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave/bus/jetstream"
)

// TestSecretsAreNotShown proves that no secret of a command line, or of a file
// that it names, is in what a command prints, logs or fails with, also where it is
// mistaken for something else.
func TestSecretsAreNotShown(t *testing.T) {
	const canary = "CANARY7"
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	b, err := jetstream.Open(t.Context(), jetstream.Config{Dir: filepath.Join(dir, "log"), Listen: "127.0.0.1:0",
		Credentials: jetstream.Credentials{User: "another", Password: "p"}, Nodes: jetstream.Credentials{User: "host", Password: canary}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	at := strings.TrimPrefix(b.ClientURL(), "nats://")
	passphrase := file("passphrase", canary+"\n")

	for _, line := range []string{
		"serve --nats nats://host:x" + canary + "@" + at,
		"serve --nats nats://host:x/" + canary + "@" + at,
		"serve --nats nats://host:" + canary + "@" + at + " --user host --password-file " + passphrase,
		"serve nats://host:" + canary + "@" + at,
		"serve --dir " + dir + " --xmtp nats://host:" + canary + "@" + at,
		"serve --dir " + dir + " --listen host:" + canary + "@127.0.0.1:0",
		"serve --dir " + dir + " --listen 127.0.0.1:0 --http host:" + canary + "@127.0.0.1:0",
		"serve --dir " + dir + " --listen 127.0.0.1:0 --rpc 1=ftp://rpc.example/" + canary,
		"serve --dir " + dir + " --listen 127.0.0.1:0 --rpc https://rpc.example/" + canary,
		"serve --dir " + dir + " --listen 127.0.0.1:0 --user host --password-file " + file("two", canary+"\n"+canary),
		"serve --dir " + dir + " --listen 127.0.0.1:0 --xmtp=127.0.0.1:0 --tokens-file " + file("tokens", "alice "+canary),
		"serve --dir " + dir + " --listen 127.0.0.1:0 --xmtp=127.0.0.1:0 --tls-cert " + file("cert", canary) + " --tls-key " + file("key", canary),
		"serve --natss nats://host:" + canary + "@" + at,
		"nats://host:" + canary + "@" + at,
		"chat --insecure-light --dir " + filepath.Join(dir, "chat") + " --passphrase-file " + passphrase + " --nats nats://host:x" + canary + "@" + at,
		"chat --insecure-light --dir " + filepath.Join(dir, "chat") + " --passphrase-file " + passphrase + " --nats nats://host:" + canary + "@127.0.0.1:1",
		"chat --insecure-light --dir " + filepath.Join(dir, "chat") + " --passphrase-file " + passphrase + " --xmtp http://host:" + canary + "@:::",
	} {
		out, errw, err := output(t, "", append([]string{"--log-level", "debug"}, strings.Fields(line)...)...)
		if err == nil {
			t.Errorf("%s: no error", line)
			continue
		}
		if text := out + errw + oneLine(err); strings.Contains(text, canary) {
			t.Errorf("%s\n%s", line, text)
		}
	}

	// What works, and a caller's token.
	log := new(shared)
	s := beginLogged(t, log, "--log-level", "debug", "serve", "--nats", "nats://host:"+canary+"@"+at, "--xmtp=127.0.0.1:0", "--http", "127.0.0.1:0",
		"--rpc", "1=http://127.0.0.1:1/"+canary, "--tokens-file", file("tokens", fmt.Sprintf("alice %x\n", sha256.Sum256([]byte(canary)))))
	var said []string
	saw := func(text string) string {
		line := s.sees(text)
		said = append(said, line)
		return line
	}
	saw("health")
	api := after(saw("XMTP API at"), "at ")
	if line := saw("serving at"); !strings.HasPrefix(line, "serving at nats://"+at+",") {
		t.Errorf("says %s", line)
	}
	h := &http.Client{Transport: new(http.Transport)}
	defer h.CloseIdleConnections()
	const wallet = `{"signatures":[{"accountId":"eip155:1:0x0000000000000000000000000000000000000001","blockNumber":"1","signature":"AA==","hash":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}]}`
	for _, token := range []string{canary, "x" + canary} {
		_, answer := post(t, h, api+"/xmtp.identity.api.v1.IdentityApi/VerifySmartContractWalletSignatures", token, wallet)
		said = append(said, answer)
	}
	s.ends()
	if text := strings.Join(said, "\n") + log.String(); strings.Contains(text, canary) {
		t.Error(text)
	}
}
