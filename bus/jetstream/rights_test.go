package jetstream_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
)

var update = flag.Bool("update", false, "write the table of rights into docs/security.md")

const rightsBegin, rightsEnd = "<!-- rights: made by bus/jetstream TestRights -->\n", "<!-- end of rights -->\n"

// A right is one thing that one may do with one subject, and who may.
type right struct {
	verb, subject string
	who           string // of "h" host, "o" other host, "n" node, "p" operator
}

// rights are all verbs and all places: topics, services, inboxes, and JetStream's
// calls.
func rights() []right {
	group, id := strings.Repeat("0", 32), strings.Repeat("0", 64)
	all := []right{
		{"publish", "CONCLAVE.0.g." + group + ".c", "hon"},
		{"publish", "CONCLAVE.0.g." + group + ".a", "hon"},
		{"publish", "CONCLAVE.0.g." + group + ".l", "n"},
		{"publish", "CONCLAVE.0.g." + group + ".r", "n"},
		{"publish", "CONCLAVE.0.w." + id, "hon"},
		{"publish", "CONCLAVE.0.i." + id, "n"},
		{"publish", "CONCLAVE.0.k." + id, "n"},
		{"publish", "CONCLAVE.0.x", ""},
		{"publish", "OTHER.0.g." + group + ".a", ""},
		{"publish", "CONCLAVE.svc.else", ""},
		{"publish", "CONCLAVE.inbox.host.x", "n"},
		{"publish", "CONCLAVE.inbox.other.x", "n"},
		{"publish", "_INBOX.x", ""},
		{"publish", "$SYS.REQ.SERVER.PING", ""},
		{"subscribe", "CONCLAVE.inbox.host.>", "h"},
		{"subscribe", "CONCLAVE.inbox.node.>", "n"},
		{"subscribe", "CONCLAVE.inbox.operator.>", "p"},
		{"subscribe", "CONCLAVE.inbox.other.>", "o"},
		{"subscribe", "CONCLAVE.inbox.>", ""},
		{"subscribe", "CONCLAVE.0.>", ""},
		{"subscribe", "_INBOX.>", ""},
		{"subscribe", "$JS.EVENT.>", ""},
		{"subscribe", ">", ""},
	}
	for _, service := range []string{
		bus.PublishIdentityUpdate, bus.GetIdentityUpdates, bus.GetInboxIds, bus.VerifySignatures,
		bus.UploadKeyPackage, bus.FetchKeyPackages, bus.PublishCommitLog, bus.QueryCommitLog,
	} {
		all = append(all, right{"publish", "CONCLAVE.svc." + service, "hon"}, right{"subscribe", "CONCLAVE.svc." + service, "n"})
	}
	for call, who := range map[string]string{
		"INFO": "", "ACCOUNT.PURGE.A": "", "STREAM.NAMES": "", "STREAM.LIST": "",
		"STREAM.INFO.CONCLAVE_0": "honp", "STREAM.MSG.GET.CONCLAVE_0": "honp", "DIRECT.GET.CONCLAVE_0": "honp",
		"CONSUMER.CREATE.CONCLAVE_0.c": "honp", "CONSUMER.INFO.CONCLAVE_0.c": "honp", "CONSUMER.MSG.NEXT.CONCLAVE_0.c": "honp", "CONSUMER.DELETE.CONCLAVE_0.c": "honp",
		"CONSUMER.CREATE.CONCLAVE_0": "", "CONSUMER.CREATE.CONCLAVE_0.c.f": "", "CONSUMER.DURABLE.CREATE.CONCLAVE_0.c": "",
		"CONSUMER.NAMES.CONCLAVE_0": "", "CONSUMER.LIST.CONCLAVE_0": "", "CONSUMER.PAUSE.CONCLAVE_0.c": "", "CONSUMER.UNPIN.CONCLAVE_0.c": "",
		"STREAM.CREATE.CONCLAVE_0": "n", "STREAM.UPDATE.CONCLAVE_0": "n",
		"STREAM.DELETE.CONCLAVE_0": "", "STREAM.PURGE.CONCLAVE_0": "p", "STREAM.MSG.DELETE.CONCLAVE_0": "",
		"STREAM.SNAPSHOT.CONCLAVE_0": "", "STREAM.RESTORE.CONCLAVE_0": "", "STREAM.LEADER.STEPDOWN.CONCLAVE_0": "", "STREAM.PEER.REMOVE.CONCLAVE_0": "",
		"STREAM.INFO.OTHER_0": "", "STREAM.CREATE.OTHER_0": "", "STREAM.PURGE.OTHER_0": "", "DIRECT.GET.OTHER_0": "", "CONSUMER.CREATE.OTHER_0.c": "",
	} {
		all = append(all, right{"publish", "$JS.API." + call, who})
	}
	slices.SortStableFunc(all, func(a, b right) int { return cmp.Compare(a.verb+a.subject, b.verb+b.subject) })
	return all
}

// may tries a verb on a connection, and says whether the server let it pass.
func may(t *testing.T, nc *nats.Conn, r right) bool {
	t.Helper()
	word, sub, err := "Publish", (*nats.Subscription)(nil), error(nil)
	if r.verb == "publish" {
		err = nc.PublishRequest(r.subject, "nobody.hears", []byte("{"))
	} else {
		word = "Subscription"
		sub, err = nc.SubscribeSync(r.subject)
	}
	if err := errors.Join(err, nc.FlushTimeout(10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if sub != nil {
		sub.Unsubscribe()
	}
	// What the server forbids it has said before it answers the flush.
	last := nc.LastError()
	return !(errors.Is(last, nats.ErrPermissionViolation) && strings.Contains(last.Error(), fmt.Sprintf("%s to %q", word, r.subject)))
}

// Who may do what, tried verb by verb on a server that is embedded and listens:
// docs/security.md has the table.
func TestRights(t *testing.T) {
	password := filepath.Join(t.TempDir(), "password")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(password, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("r")
	b := open(t, jetstream.Config{
		Dir: t.TempDir(), Listen: "127.0.0.1:0",
		Credentials: jetstream.Credentials{User: "host", Password: "h"},
		Hosts:       []jetstream.Credentials{{User: "other", Password: "o"}, {User: "revoked", PasswordFile: password}},
		Nodes:       jetstream.Credentials{User: "node", Password: "n"},
		Operators:   jetstream.Credentials{User: "operator", Password: "p"},
	})
	closed := b.ClientURL()
	onLoopback := open(t, jetstream.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}).ClientURL()

	// The revoked host is connected when its password is replaced, which cuts it off,
	// and nobody else.
	cut := make(chan error, 1)
	revoked, err := nats.Connect(closed, nats.UserInfo("revoked", "r"), nats.NoReconnect(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { cut <- err }), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	defer revoked.Close()
	stays, err := nats.Connect(closed, nats.UserInfo("host", "h"), nats.NoReconnect())
	if err != nil {
		t.Fatal(err)
	}
	defer stays.Close()
	write("another")
	if err := b.ReadPasswords(); err != nil {
		t.Fatal(err)
	}
	<-cut
	if err := stays.FlushTimeout(10 * time.Second); err != nil {
		t.Errorf("a host whose password is what it was: %v", err)
	}

	columns := []struct {
		name, key, url string
		options        []nats.Option
	}{
		{"stranger", "-", closed, nil},
		{"wrong password", "-", closed, []nats.Option{nats.UserInfo("host", "n")}},
		{"another user of the machine, where no password is set", "-", onLoopback, nil},
		{"revoked host", "-", closed, []nats.Option{nats.UserInfo("revoked", "r")}},
		{"host", "h", closed, []nats.Option{nats.UserInfo("host", "h")}},
		{"other host", "o", closed, []nats.Option{nats.UserInfo("other", "o")}},
		{"node", "n", closed, []nats.Option{nats.UserInfo("node", "n")}},
		{"operator", "p", closed, []nats.Option{nats.UserInfo("operator", "p")}},
	}
	table := "| verb | subject |"
	for _, c := range columns {
		table += " " + c.name + " |"
	}
	table += "\n|" + strings.Repeat("---|", len(columns)+2) + "\n"
	connections := make([]*nats.Conn, len(columns))
	for i, c := range columns {
		nc, err := nats.Connect(c.url, append(c.options, nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
		if in := c.key != "-"; in != (err == nil) || !in && !errors.Is(err, nats.ErrAuthorization) {
			t.Fatalf("%s: %v", c.name, err)
		}
		if err == nil {
			defer nc.Close()
			connections[i] = nc
		}
	}
	cells := 0
	for _, r := range rights() {
		table += fmt.Sprintf("| %s | `%s` |", r.verb, r.subject)
		for i, c := range columns {
			got := connections[i] != nil && may(t, connections[i], r)
			if want := strings.Contains(r.who, c.key); got != want {
				t.Errorf("%s may %s %s: %v, want %v", c.name, r.verb, r.subject, got, want)
			}
			word := map[bool]string{true: "yes", false: "no"}[got]
			table += " " + word + " |"
			cells++
		}
		table += "\n"
	}
	if cells < 216 {
		t.Errorf("%d cells", cells)
	}

	document := filepath.Join("..", "..", "docs", "security.md")
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(text), rightsBegin)
	_, behind, found := strings.Cut(rest, rightsEnd)
	made := before + rightsBegin + table + rightsEnd + behind
	switch {
	case !found:
		t.Errorf("%s has no place for the table", document)
	case *update:
		if err := os.WriteFile(document, []byte(made), 0o644); err != nil {
			t.Fatal(err)
		}
	case made != string(text):
		t.Errorf("%s has another table: go test ./bus/jetstream -run TestRights -update", document)
	}
}

// A host with a host's rights, and a node with a node's, do all that they do: what
// is listed is enough, for several shards, and after a gap.
func TestRightsAreEnough(t *testing.T) {
	config := jetstream.Config{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", Shards: 3,
		Credentials: jetstream.Credentials{User: "host", Password: "h"},
		Nodes:       jetstream.Credentials{User: "node", Password: "n"},
	}
	url := open(t, config).ClientURL()
	as := func(user, password string) *jetstream.Bus {
		return open(t, jetstream.Config{URL: url, Credentials: jetstream.Credentials{User: user, Password: password}})
	}
	host, node := as("host", "h"), as("node", "n")
	ctx := t.Context()
	stop, err := node.Serve(bus.GetInboxIds, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if got, err := host.Request(ctx, bus.GetInboxIds, []byte("who")); err != nil || string(got) != "who" {
		t.Errorf("a host asks: %q, %v", got, err)
	}
	if _, err := host.Serve(bus.GetIdentityUpdates, func(context.Context, []byte) ([]byte, error) { return nil, nil }); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("a host answers as the node: %v", err)
	}
	identity, err := bus.IdentityOf(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := node.Publish(ctx, identity, []byte("update"), bus.ExpectLast(0)); err != nil {
		t.Errorf("a node writes: %v", err)
	}
	if _, err := host.Publish(ctx, identity, []byte("forged")); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("a host writes what only a node may: %v", err)
	}
	for _, b := range []*jetstream.Bus{host, node} {
		f, err := b.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 9 {
			m := messagesOf(t, n)
			if err := f.Follow(ctx, 0, m); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Publish(ctx, m, fmt.Appendf(nil, "%p", b)); err != nil {
				t.Fatal(err)
			}
			if got, err := b.Read(ctx, 0, 10, m); err != nil || len(got) == 0 {
				t.Errorf("read: %v, %v", got, err)
			}
			if got, err := b.Last(ctx, m); err != nil || got[0] == 0 {
				t.Errorf("last: %v, %v", got, err)
			}
			if _, err := f.Next(ctx); err != nil {
				t.Errorf("next: %v", err)
			}
		}
		if err := b.Ready(ctx); err != nil {
			t.Errorf("ready: %v", err)
		}
	}
}
