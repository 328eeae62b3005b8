package deploy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
)

// A password of digits is the hardest for nats.conf, whose parser takes it for
// a number unless compose.yaml quotes it.
const password = "1234567890"

var passwords = map[string]string{"PASSWORD": password, "NODE_PASSWORD": password + "1", "HOST_PASSWORD": password + "2", "OPERATOR_PASSWORD": password + "3"}

// startNATS starts the three nodes of compose.yaml from nats.conf, on loopback.
// The result replaces the names that compose.yaml gives them.
func startNATS(t *testing.T, c composeFile) *strings.Replacer {
	t.Helper()
	names := []string{"${PASSWORD}", password}
	for _, name := range []string{"PASSWORD", "NODE_PASSWORD", "HOST_PASSWORD", "OPERATOR_PASSWORD"} {
		names = append(names, "${"+name+":?choose a password of letters and digits}", passwords[name])
	}
	var routes [3]int
	for n := range routes {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		routes[n] = l.Addr().(*net.TCPAddr).Port
		names = append(names, fmt.Sprintf("nats-%d:6222", n+1), l.Addr().String())
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var servers []*server.Server
	for n := range 3 {
		name := fmt.Sprintf("nats-%d", n+1)
		for key, value := range c.Services[name].Environment {
			t.Setenv(key, strings.NewReplacer(names...).Replace(value))
		}
		t.Setenv("STORE", t.TempDir())
		opts, err := server.ProcessConfigFile("nats.conf")
		if err != nil {
			t.Fatal(err)
		}
		if opts.ServerName != name || !opts.JetStream || !opts.SyncAlways || opts.MaxPayload != 8<<20 || opts.Port != 4222 ||
			opts.Cluster.Port != 6222 || opts.Cluster.Password != password || len(opts.Users) != 3 {
			t.Fatalf("nats.conf says %+v", opts)
		}
		opts.Host, opts.Port, opts.HTTPPort = "127.0.0.1", server.RANDOM_PORT, 0
		opts.Cluster.Host, opts.Cluster.Port = "127.0.0.1", routes[n]
		opts.NoLog, opts.NoSigs = true, true
		s, err := server.NewServer(opts)
		if err != nil {
			t.Fatal(err)
		}
		go s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		servers = append(servers, s)
	}
	for n, s := range servers {
		if !s.ReadyForConnections(10 * time.Second) {
			t.Fatal("a node does not start")
		}
		names = append(names, fmt.Sprintf("nats-%d:4222", n+1), strings.TrimPrefix(s.ClientURL(), "nats://"))
	}
	return strings.NewReplacer(names...)
}

// compose.yaml without containers: three nodes from nats.conf, and the binary
// with the flags it is given there. The log is made with three replicas, takes
// an envelope, and SIGTERM ends the process in order.
func TestComposeRuns(t *testing.T) {
	var c composeFile
	parse(t, "compose.yaml", &c)
	path := binary(t)
	hosts := startNATS(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	defer cancel()

	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte(passwords["NODE_PASSWORD"]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := slices.Clone(c.Services["conclave"].Command)
	var urls string
	for i, a := range args {
		switch {
		case a == "/run/secrets/password":
			args[i] = secret
		case a == "0.0.0.0:9090":
			args[i] = "127.0.0.1:0"
		case strings.HasPrefix(a, "nats://"):
			urls = hosts.Replace(a)
			args[i] = urls
		}
	}
	cmd := exec.CommandContext(ctx, path, args...)
	var failures strings.Builder
	cmd.Stderr = &failures
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(out)
	until := func(word string) (all string) {
		for said.Scan() {
			all += said.Text() + "\n"
			if strings.Contains(said.Text(), word) {
				return all
			}
		}
		t.Fatalf("it never says %q: %v\n%s%s", word, cmd.Wait(), all, &failures)
		return ""
	}
	shown := until("serving at")

	b, err := jetstream.Open(ctx, jetstream.Config{URL: urls, Credentials: jetstream.Credentials{User: "host", Password: passwords["HOST_PASSWORD"]}})
	if err != nil {
		t.Fatal(err)
	}
	topic, err := bus.MessagesOf(make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Publish(ctx, topic, []byte("written on two of three")); err != nil {
		t.Errorf("the log is not writable: %v", err)
	}
	if err := b.Purge(ctx, bus.MakeID(1, 0), topic); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("a host deletes: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	operator, err := jetstream.Open(ctx, jetstream.Config{URL: urls, Credentials: jetstream.Credentials{User: "operator", Password: passwords["OPERATOR_PASSWORD"]}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := operator.Publish(ctx, topic, []byte("x")); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("an operator writes: %v", err)
	}
	counted := 0
	if err := operator.Walk(ctx, func(e jetstream.Entry) {
		if e.Topic == topic && e.Size == int64(len("written on two of three")) {
			counted++
		}
	}); err != nil || counted != 1 {
		t.Errorf("an operator counts %d, %v", counted, err)
	}
	if err := operator.Purge(ctx, bus.MakeID(1, 0), topic); err != nil {
		t.Errorf("an operator deletes: %v", err)
	}
	if err := operator.Close(); err != nil {
		t.Error(err)
	}
	if _, err := jetstream.Open(ctx, jetstream.Config{URL: urls}); err == nil {
		t.Error("the nodes let in who has no password")
	}

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	shown += until("draining")
	if err := cmd.Wait(); err != nil {
		t.Errorf("SIGTERM: %v\n%s", err, &failures)
	}
	if strings.Contains(shown+failures.String(), password) {
		t.Error("the password is shown")
	}
}
