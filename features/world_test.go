// Package features goes through what a service can do with package conclave, one
// feature after the other, over its exported names only.
package features

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/conclave-chat/conclave"
	membus "github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity/ethereum"
	memstore "github.com/conclave-chat/conclave/persistence/memory"
)

func TestMain(m *testing.M) {
	childProcess()
	goleak.VerifyTestMain(m)
}

// A world is a host and the people on it.
type world struct {
	t    *testing.T
	ctx  context.Context
	host *conclave.Host
}

// newWorld opens a host over the memory adapters; the embedded default has its
// own tests.
func newWorld(t *testing.T, change ...func(*conclave.Config)) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	b := membus.New(membus.Config{})
	t.Cleanup(func() { b.Close() })
	c := conclave.Config{Bus: b, Store: memstore.New(), ServeNode: true}
	for _, f := range change {
		f(&c)
	}
	host, err := conclave.Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.Close(context.Background()); err != nil {
			t.Errorf("close host: %v", err)
		}
	})
	return &world{t, ctx, host}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (w *world) client() *conclave.Client {
	w.t.Helper()
	wallet := must[*ethereum.Key](w.t)(ethereum.GenerateKey())
	return must[*conclave.Client](w.t)(w.host.CreateClient(w.ctx, wallet, conclave.ClientOptions{}))
}

// sealed makes a client whose database key is its owner's: a hash of a text.
func (w *world) sealed(key string) *conclave.Client {
	w.t.Helper()
	wallet := must[*ethereum.Key](w.t)(ethereum.GenerateKey())
	return must[*conclave.Client](w.t)(w.host.CreateClient(w.ctx, wallet, conclave.ClientOptions{DatabaseKey: sha256.Sum256([]byte(key))}))
}

func (w *world) clients(n int) []*conclave.Client {
	out := make([]*conclave.Client, n)
	for i := range out {
		out[i] = w.client()
	}
	return out
}

func addresses(clients ...*conclave.Client) []string {
	out := make([]string, len(clients))
	for i, c := range clients {
		out[i] = c.Address()
	}
	return out
}

func (w *world) texts(g *conclave.Group) []string {
	w.t.Helper()
	var out []string
	for _, m := range must[[]*conclave.Message](w.t)(g.Messages(w.ctx, conclave.MessageQuery{})) {
		if text, ok := m.Content.(conclave.Text); ok {
			out = append(out, string(text))
		}
	}
	return out
}

// do fails the test where a call did.
func (w *world) do(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// wallet makes a wallet that counts its signatures.
func (w *world) wallet() (wallet conclave.Signer, signatures *atomic.Int64) {
	w.t.Helper()
	key := must[*ethereum.Key](w.t)(ethereum.GenerateKey())
	signatures = new(atomic.Int64)
	return conclave.SignerFunc(key.Address(), func(text string) ([]byte, error) {
		signatures.Add(1)
		return key.SignMessage(text)
	}), signatures
}

// installation opens a wallet's installation of that name, or makes it.
func (w *world) installation(wallet conclave.Signer, name string) *conclave.Client {
	w.t.Helper()
	return must[*conclave.Client](w.t)(w.host.CreateClient(w.ctx, wallet, conclave.ClientOptions{Database: name}))
}

// newGroup makes a group of the clients; the first is its creator.
func (w *world) newGroup(o conclave.GroupOptions, members ...*conclave.Client) *conclave.Group {
	w.t.Helper()
	return must[*conclave.Group](w.t)(members[0].Conversations().NewGroup(w.ctx, addresses(members[1:]...), o))
}

// of returns a member's handle on a group, after everything was synced.
func (w *world) of(c *conclave.Client, g *conclave.Group) *conclave.Group {
	w.t.Helper()
	w.do(c.Conversations().SyncAll(w.ctx))
	return must[*conclave.Group](w.t)(c.Conversations().Get(w.ctx, g.ID()))
}

// send sends a text and waits until it is published.
func (w *world) send(g *conclave.Group, text string) conclave.MessageID {
	w.t.Helper()
	id := must[conclave.MessageID](w.t)(g.Send(w.ctx, conclave.Text(text)))
	if status := must[conclave.DeliveryStatus](w.t)(g.Wait(w.ctx, id)); status != conclave.Published {
		w.t.Fatalf("%q is %v", text, status)
	}
	return id
}

// reads fails the test unless a member reads exactly these texts.
func (w *world) reads(g *conclave.Group, want ...string) {
	w.t.Helper()
	if got := w.texts(g); !slices.Equal(got, want) {
		w.t.Errorf("reads %q, want %q", got, want)
	}
}

// inboxes lists a group's members as one of them sees them.
func (w *world) inboxes(g *conclave.Group) []string {
	w.t.Helper()
	var ids []string
	for _, m := range must[[]conclave.Member](w.t)(g.Members(w.ctx)) {
		ids = append(ids, m.InboxID)
	}
	return ids
}

// inboxesOf are the inboxes of clients, as Members sorts them.
func inboxesOf(clients ...*conclave.Client) []string {
	var ids []string
	for _, c := range clients {
		ids = append(ids, c.InboxID())
	}
	return slices.Compact(slices.Sorted(slices.Values(ids)))
}

// S23 S33 S50 S60 S61: a group is formed, its members see it after Sync, and
// what one says all read.
func TestConversation(t *testing.T) {
	w := newWorld(t)
	c := w.clients(3)
	g := must[*conclave.Group](t)(c[0].Conversations().NewGroup(w.ctx, addresses(c[1:]...), conclave.GroupOptions{Name: "ops", ImageURL: "https://example.org/a.png"}))
	id := must[conclave.MessageID](t)(g.Send(w.ctx, conclave.Text("hello")))
	if status := must[conclave.DeliveryStatus](t)(g.Wait(w.ctx, id)); status != conclave.Published {
		t.Fatalf("status %v", status)
	}
	for _, member := range c[1:] {
		if n := len(must[[]*conclave.Group](t)(member.Conversations().List(w.ctx))); n != 0 {
			t.Fatalf("%d groups before Sync", n)
		}
		if err := member.Conversations().Sync(w.ctx); err != nil {
			t.Fatal(err)
		}
		theirs := must[*conclave.Group](t)(member.Conversations().Get(w.ctx, g.ID()))
		if err := theirs.Sync(w.ctx); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(w.texts(theirs)); got != "[hello]" {
			t.Errorf("member reads %s", got)
		}
		info := must[conclave.Info](t)(theirs.Info(w.ctx))
		if info.Name != "ops" || info.ImageURL != "https://example.org/a.png" || !info.Active {
			t.Errorf("member sees %+v", info)
		}
	}
}
