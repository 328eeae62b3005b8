package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/bustest"
	"github.com/conclave-chat/conclave/bus/jetstream"
)

// binary builds the NATS server of the version that go.mod names, once; TestMain
// removes it.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binaryDir, "nats-server")
	out, err := exec.Command("go", "build", "-o", path, "github.com/nats-io/nats-server/v2").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("build nats-server: %w: %s", err, out)
	}
	return path, err
})

// process is a NATS server in a process of its own, on a port that it keeps.
type process struct {
	dir, config string
	port        int
	cmd         *exec.Cmd
}

func startProcess(t *testing.T, extra string) *process {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	p := &process{dir: t.TempDir(), port: port}
	p.config = filepath.Join(p.dir, "nats.conf")
	config := fmt.Sprintf("listen: 127.0.0.1:%d\nmax_payload: 8MB\njetstream { store_dir: %q, sync_interval: always }\n%s",
		port, p.store(), extra)
	if err := os.WriteFile(p.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p.start(t)
	t.Cleanup(func() { p.kill() })
	return p
}

func (p *process) store() string { return filepath.Join(p.dir, "store") }
func (p *process) url() string   { return fmt.Sprintf("nats://127.0.0.1:%d", p.port) }

func (p *process) start(t *testing.T) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(path, "-c", p.config)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.port))
		if err == nil {
			c.Close()
			return
		}
		<-tick.C
	}
	t.Fatal("nats-server does not listen")
}

// kill ends the process as a crash does.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// The contract on a NATS server in its own process.
func TestContractExternal(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "")
	var made atomic.Int32
	next := func() string { return fmt.Sprintf("D%d", made.Add(1)) }
	bustest.Run(t, func(t *testing.T, shards int) bustest.Harness {
		cfg := jetstream.Config{URL: p.url(), Shards: shards, Deployment: next()}
		return bustest.Harness{
			Bus:     open(t, cfg),
			Connect: func(t *testing.T) bus.Bus { return open(t, cfg) },
			Full: func(t *testing.T) bus.Bus {
				cfg := cfg
				cfg.Deployment, cfg.MaxBytes = next(), 1<<20
				return open(t, cfg)
			},
		}
	})
}

func messagesOf(t testing.TB, n int) bus.Topic {
	t.Helper()
	topic, err := bus.MessagesOf(fmt.Appendf(nil, "%016d", n))
	if err != nil {
		t.Fatal(err)
	}
	return topic
}

// B1, B4: the server is killed while hosts publish and read: every publish
// succeeds in the end, and every envelope arrives once, in order.
func TestServerKilledInTheMiddleLosesNothing(t *testing.T) {
	const writers, each, kills = 8, 250, 3
	t.Parallel()
	p := startProcess(t, "")
	cfg := jetstream.Config{URL: p.url(), Shards: 2, RetryFor: 25 * time.Second}
	writer, reader := open(t, cfg), open(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	f, err := reader.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for w := range writers {
		if err := f.Follow(ctx, 0, messagesOf(t, w)); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	acked := make([]map[bus.ID]string, writers)
	for w := range writers {
		acked[w] = make(map[bus.ID]string)
		wg.Go(func() {
			for i := range each {
				payload := fmt.Sprintf("%d/%d", w, i)
				ack, err := writer.Publish(ctx, messagesOf(t, w), []byte(payload))
				if err != nil {
					t.Errorf("publish %s: %v", payload, err)
					return
				}
				acked[w][ack.ID] = payload
			}
		})
	}
	got := make(map[bus.ID]string)
	newest := make(map[bus.Topic]bus.ID)
	killed := 0
	for len(got) < writers*each {
		if killed < kills && len(got) > (killed+1)*writers*each/(kills+1) {
			p.kill()
			p.start(t)
			killed++
		}
		batch, err := f.Next(ctx)
		if errors.Is(err, bus.ErrUnavailable) {
			continue
		}
		if err != nil {
			t.Fatalf("next, with %d of %d: %v", len(got), writers*each, err)
		}
		for _, e := range batch {
			if e.ID <= newest[e.Topic] {
				t.Fatalf("%d delivered after %d", e.ID, newest[e.Topic])
			}
			newest[e.Topic] = e.ID
			got[e.ID] = string(e.Payload)
		}
	}
	wg.Wait()
	if killed != kills {
		t.Fatalf("killed %d times", killed)
	}
	for w := range writers {
		if len(acked[w]) != each {
			t.Errorf("writer %d has %d acknowledgements for %d envelopes", w, len(acked[w]), each)
		}
		for id, payload := range acked[w] {
			if got[id] != payload {
				t.Fatalf("%q acknowledged as %d, delivered %q", payload, id, got[id])
			}
		}
	}
}

// rolledBack runs a server, lets grow publish more after a copy of its store
// was taken, puts the copy back, and hands over to check, with a feed of one
// topic and one of everything.
func rolledBack(t *testing.T, check func(ctx context.Context, p *process, b *jetstream.Bus, f, all bus.Feed, last bus.ID)) {
	p := startProcess(t, "")
	b := open(t, jetstream.Config{URL: p.url()})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	m := messagesOf(t, 1)
	f, err := b.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Follow(ctx, 0, m); err != nil {
		t.Fatal(err)
	}
	all, err := b.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := all.FollowAll(ctx); err != nil {
		t.Fatal(err)
	}
	publish := func(payloads ...string) (last bus.ID) {
		for _, payload := range payloads {
			ack, err := b.Publish(ctx, m, []byte(payload))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range []bus.Feed{f, all} {
				if _, err := f.Next(ctx); err != nil {
					t.Fatal(err)
				}
			}
			last = ack.ID
		}
		return last
	}
	publish("1", "2")
	p.kill()
	backup := filepath.Join(p.dir, "backup")
	if err := os.CopyFS(backup, os.DirFS(p.store())); err != nil {
		t.Fatal(err)
	}
	p.start(t)
	last := publish("3", "4")
	p.kill()
	if err := os.RemoveAll(p.store()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(backup, p.store()); err != nil {
		t.Fatal(err)
	}
	check(ctx, p, b, f, all, last)
}

// A backup is restored under a connected host.
func TestRestoredBackupIsSaid(t *testing.T) {
	rolledBack(t, func(ctx context.Context, p *process, b *jetstream.Bus, f, all bus.Feed, last bus.ID) {
		m := messagesOf(t, 1)
		incarnation := b.Info().Incarnation
		p.start(t)
		if _, err := f.Next(ctx); !errors.Is(err, bus.ErrLogRolledBack) {
			t.Fatalf("next: %v", err)
		}
		if _, err := b.Read(ctx, last, 10, m); !errors.Is(err, bus.ErrLogRolledBack) {
			t.Fatalf("read: %v", err)
		}
		if err := f.Follow(ctx, last, m); !errors.Is(err, bus.ErrLogRolledBack) {
			t.Fatalf("follow: %v", err)
		}
		if got := b.Info().Incarnation; got != incarnation {
			t.Errorf("a restored backup is the same incarnation %q, not %q", incarnation, got)
		}
		if err := f.Follow(ctx, 0, m); err != nil {
			t.Fatal(err)
		}
		if got, err := f.Next(ctx); err != nil || len(got) != 2 || string(got[1].Payload) != "2" {
			t.Fatalf("followed anew: %v, %v", got, err)
		}
		if _, err := all.Next(ctx); !errors.Is(err, bus.ErrLogRolledBack) {
			t.Fatalf("next of everything: %v", err)
		}
		if err := all.FollowAll(ctx); err != nil {
			t.Fatal(err)
		}
		ack, err := b.Publish(ctx, m, []byte("4"))
		if err != nil || ack.Duplicate {
			t.Fatalf("offered again: %+v, %v", ack, err)
		}
		for _, f := range []bus.Feed{f, all} {
			if got, err := f.Next(ctx); err != nil || len(got) != 1 || got[0].ID != ack.ID {
				t.Fatalf("live again: %v, %v", got, err)
			}
		}
	})
}

// growElsewhere has others write to a stopped server's log, at a port where only
// they look.
func (p *process) growElsewhere(t *testing.T, topic bus.Topic) {
	t.Helper()
	away := *p
	away.port++
	config, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	away.config += ".away"
	moved := fmt.Appendf(nil, "listen: 127.0.0.1:%d\n%s", away.port, config[len(fmt.Sprintf("listen: 127.0.0.1:%d\n", p.port)):])
	if err := os.WriteFile(away.config, moved, 0o600); err != nil {
		t.Fatal(err)
	}
	away.start(t)
	other := open(t, jetstream.Config{URL: away.url()})
	for _, payload := range []string{"a", "b", "c"} {
		if _, err := other.Publish(t.Context(), topic, []byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	other.Close()
	away.kill()
}

// Others write to the restored log before this host is back, so that it ends
// no earlier than before: that is noticed all the same.
func TestRestoredBackupThatHasGrownIsSaid(t *testing.T) {
	rolledBack(t, func(ctx context.Context, p *process, b *jetstream.Bus, f, all bus.Feed, last bus.ID) {
		m := messagesOf(t, 1)
		p.growElsewhere(t, m)
		p.start(t)
		if _, err := f.Next(ctx); !errors.Is(err, bus.ErrLogRolledBack) {
			t.Fatalf("next: %v", err)
		}
	})
}

// The store is lost whole, and another host creates the deployment anew.
func TestAnotherIncarnationIsSaid(t *testing.T) {
	rolledBack(t, func(ctx context.Context, p *process, b *jetstream.Bus, f, all bus.Feed, last bus.ID) {
		before := b.Info().Incarnation
		if err := os.RemoveAll(p.store()); err != nil {
			t.Fatal(err)
		}
		p.start(t)
		if _, err := f.Next(ctx); !errors.Is(err, bus.ErrLogRolledBack) {
			t.Fatalf("next: %v", err)
		}
		other := open(t, jetstream.Config{URL: p.url()})
		if other.Info().Incarnation == before {
			t.Fatal("a log made anew has the incarnation of the old one")
		}
		if err := f.Follow(ctx, 0, messagesOf(t, 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Next(ctx); !errors.Is(err, bus.ErrLogRolledBack) {
			t.Fatalf("next, in the new log: %v", err)
		}
		if b.Info() != other.Info() {
			t.Fatalf("the host knows %+v, the deployment is %+v", b.Info(), other.Info())
		}
		if _, err := b.Read(ctx, last, 10, messagesOf(t, 1)); !errors.Is(err, bus.ErrLogRolledBack) {
			t.Fatalf("read: %v", err)
		}
	})
}

// As TestRestoredBackupThatHasGrownIsSaid, for a host that has followed from the
// log's end and received nothing since.
func TestRestoredBackupThatHasGrownIsSaidToAnIdleHost(t *testing.T) {
	p := startProcess(t, "")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	m := messagesOf(t, 1)
	writer := open(t, jetstream.Config{URL: p.url()})
	publish := func(b bus.Bus, payloads ...string) (last bus.ID) {
		for _, payload := range payloads {
			ack, err := b.Publish(ctx, m, []byte(payload))
			if err != nil {
				t.Fatal(err)
			}
			last = ack.ID
		}
		return last
	}
	publish(writer, "1", "2")
	p.kill()
	backup := filepath.Join(p.dir, "backup")
	if err := os.CopyFS(backup, os.DirFS(p.store())); err != nil {
		t.Fatal(err)
	}
	p.start(t)
	last := publish(writer, "3", "4")
	writer.Close()

	b := open(t, jetstream.Config{URL: p.url()})
	f, err := b.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Follow(ctx, last, m); err != nil {
		t.Fatal(err)
	}
	p.kill()
	if err := os.RemoveAll(p.store()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(backup, p.store()); err != nil {
		t.Fatal(err)
	}
	p.growElsewhere(t, m)
	p.start(t)
	got, err := f.Next(ctx)
	if !errors.Is(err, bus.ErrLogRolledBack) {
		t.Fatalf("next: %d envelopes, %v", len(got), err)
	}
}

// A host that may write to no identity log has the node write there: it names
// the log as the place for the answer.
func TestAnswerGoesToNoTopic(t *testing.T) {
	p := startProcess(t, `authorization { users: [
		{ user: node, password: n }
		{ user: host, password: h, permissions: {
			publish: ["CONCLAVE.*.g.>", "CONCLAVE.*.w.>", "CONCLAVE.svc.>", "CONCLAVE.inbox.host.>", "$JS.API.>"]
			subscribe: ["CONCLAVE.inbox.host.>"]
		} }
	] }`)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	node := open(t, jetstream.Config{URL: p.url(), Credentials: jetstream.Credentials{User: "node", Password: "n"}})
	stop, err := node.Serve("echo", func(_ context.Context, payload []byte) ([]byte, error) { return payload, nil })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	identity, err := bus.IdentityOf(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	host, err := nats.Connect(p.url(), nats.UserInfo("host", "h"), nats.CustomInboxPrefix("CONCLAVE.inbox.host"))
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	if err := host.PublishRequest("CONCLAVE.svc.echo", "CONCLAVE.0."+identity.String(), []byte("forged")); err != nil {
		t.Fatal(err)
	}
	for range 20 { // what comes behind it is answered later
		if _, err := host.RequestWithContext(ctx, "CONCLAVE.svc.echo", []byte("honest")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := node.Publish(ctx, identity, []byte("true")); err != nil {
		t.Fatal(err)
	}
	if got, err := node.Read(ctx, 0, 10, identity); err != nil || len(got) != 1 {
		t.Fatalf("the identity log holds %d entries: %v", len(got), err)
	}
}

// B7, B10: what the server's permissions forbid is refused, at once and by name.
func TestForbiddenTopicsAreRefused(t *testing.T) {
	p := startProcess(t, `authorization { users: [
		{ user: node, password: n }
		{ user: host, password: h, permissions: {
			publish: ["CONCLAVE.*.g.>", "CONCLAVE.*.w.>", "CONCLAVE.svc.>", "CONCLAVE.inbox.host.>", "$JS.API.>"]
			subscribe: ["CONCLAVE.inbox.host.>"]
		} }
	] }`)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	as := func(user, password string) jetstream.Config {
		return jetstream.Config{URL: p.url(), Credentials: jetstream.Credentials{User: user, Password: password}}
	}
	node, host := open(t, as("node", "n")), open(t, as("host", "h"))
	identity, err := bus.IdentityOf(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	m := messagesOf(t, 1)
	if _, err := node.Publish(ctx, identity, []byte("update")); err != nil {
		t.Errorf("the node writes identity updates: %v", err)
	}
	if _, err := host.Publish(ctx, identity, []byte("forged")); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("a host writes identity updates: %v", err)
	}
	if _, err := host.Publish(ctx, m, []byte("hello")); err != nil {
		t.Errorf("a host writes messages: %v", err)
	}
	f, err := host.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Follow(ctx, 0, m, identity); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Next(ctx); err != nil || len(got) != 2 {
		t.Errorf("a host reads: %v, %v", got, err)
	}
	if _, err := jetstream.Open(ctx, as("host", "wrong")); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("a wrong password: %v", err)
	}
	if _, err := jetstream.Open(ctx, jetstream.Config{URL: p.url()}); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("no password: %v", err)
	}
}

// An unreachable server is said on opening, and stops nobody for long.
func TestUnreachableServerIsUnavailable(t *testing.T) {
	if _, err := jetstream.Open(t.Context(), jetstream.Config{URL: "nats://127.0.0.1:1"}); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("open: %v", err)
	}
	p := startProcess(t, "")
	b := open(t, jetstream.Config{URL: p.url(), RetryFor: 300 * time.Millisecond})
	p.kill()
	m := messagesOf(t, 1)
	if _, err := b.Publish(t.Context(), m, []byte("x")); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("publish: %v", err)
	}
	if _, err := b.Read(t.Context(), 0, 10, m); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("read: %v", err)
	}
	if _, err := b.Request(t.Context(), "any", nil); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("request: %v", err)
	}
}

// What others put into the streams, under subjects that no topic has, is in
// nobody's way.
func TestForeignSubjectsAreInNobodysWay(t *testing.T) {
	p := startProcess(t, "")
	b := open(t, jetstream.Config{URL: p.url()})
	nc, err := nats.Connect(p.url())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	m := messagesOf(t, 1)
	f, err := b.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Follow(ctx, 0, m); err != nil {
		t.Fatal(err)
	}
	all, err := b.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := all.FollowAll(ctx); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"CONCLAVE.0.g.*.a", "CONCLAVE.0.>", "CONCLAVE.0.x", "CONCLAVE.0.g.\x00.a"} {
		if err := nc.Publish(subject, []byte("junk")); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	ack, err := b.Publish(ctx, m, []byte("sense"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []bus.Feed{f, all} {
		if got, err := f.Next(ctx); err != nil || len(got) != 1 || got[0].ID != ack.ID {
			t.Fatalf("feed: %v, %v", got, err)
		}
	}
	if got, err := b.Read(ctx, 0, 10, m); err != nil || len(got) != 1 || got[0].ID != ack.ID {
		t.Fatalf("read: %v, %v", got, err)
	}
}
