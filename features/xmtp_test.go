package features

import (
	"context"
	"iter"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
	"github.com/conclave-chat/conclave/gateway"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/node"
	memstore "github.com/conclave-chat/conclave/persistence/memory"
)

// A network is a log with a node on it, and XMTP's API in front.
type network struct {
	log bus.Bus
	url string
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	log := must[*jetstream.Bus](t)(jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir()}))
	t.Cleanup(func() { log.Close() })
	n := must[*node.Node](t)(node.Serve(context.Background(), log, node.Config{Verifier: ethereum.Verifier{}}))
	t.Cleanup(n.Close)
	g := must[*gateway.Gateway](t)(gateway.New(gateway.Config{Node: n}))
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := g.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return &network{log, "http://" + l.Addr().String()}
}

// overGRPC makes a host that knows nothing but a URL.
func (n *network) overGRPC(c *conclave.Config) {
	*c = conclave.Config{XMTP: n.url, Store: memstore.New()}
}

// overNATS makes a host that reads the log itself.
func (n *network) overNATS(c *conclave.Config) {
	*c = conclave.Config{Bus: n.log, Store: memstore.New()}
}

// S23 S33 S50 S60 S61: hosts that reach the network by XMTP's gRPC and a host
// on its bus are in one group: all of them register, add, talk and rename, and
// all of them see the same.
func TestHostsOverGRPCAndOverNATSAreInOneGroup(t *testing.T) {
	n := newNetwork(t)
	worlds := []*world{newWorld(t, n.overGRPC), newWorld(t, n.overGRPC), newWorld(t, n.overNATS)}
	var c []*conclave.Client
	for _, w := range worlds {
		c = append(c, w.client())
	}
	al, bo, cy := worlds[0], worlds[1], worlds[2]
	als := al.newGroup(conclave.GroupOptions{Name: "Harbour"}, c[0], c[1])
	al.do(als.AddMembers(al.ctx, c[2].Address()))
	al.send(als, "from al, over gRPC")
	bos := bo.of(c[1], als)
	bo.send(bos, "from bo, over gRPC")
	cys := cy.of(c[2], als)
	cy.send(cys, "from cy, over NATS")
	cy.do(cys.UpdateName(cy.ctx, "Quay"))
	al.do(als.RemoveMembers(al.ctx, c[1].Address()))
	cy.send(cy.of(c[2], als), "without bo")

	for i, w := range worlds {
		g := w.of(c[i], als)
		want := []string{"from al, over gRPC", "from bo, over gRPC", "from cy, over NATS", "without bo"}
		left := w == bo
		if left {
			want = want[:3]
		}
		w.reads(g, want...)
		if info := must[conclave.Info](t)(g.Info(w.ctx)); info.Name != "Quay" || info.Active == left {
			t.Errorf("host %d sees %+v", i, info)
		}
		if got := w.inboxes(g); !left && !slices.Equal(got, inboxesOf(c[0], c[2])) {
			t.Errorf("host %d sees members %v", i, got)
		}
	}
}

// S71: what one says is streamed to all, whichever way they are connected, and to
// each once and in order.
func TestStreamsOverGRPCAndOverNATS(t *testing.T) {
	n := newNetwork(t)
	worlds := []*world{newWorld(t, n.overGRPC), newWorld(t, n.overNATS)}
	c := []*conclave.Client{worlds[0].client(), worlds[1].client()}
	g := worlds[0].newGroup(conclave.GroupOptions{}, c...)
	groups := []*conclave.Group{g, worlds[1].of(c[1], g)}
	var streams []func() (*conclave.Message, error, bool)
	for i, w := range worlds {
		next, stop := iter.Pull2(groups[i].Stream(w.ctx))
		defer stop()
		streams = append(streams, next)
	}
	const rounds = 5
	for i := range 2 * rounds {
		text := conclave.Text(string(rune('a' + i)))
		must[conclave.MessageID](t)(groups[i%2].Send(worlds[i%2].ctx, text))
		for s, next := range streams {
			for {
				m, err, ok := next()
				if err != nil || !ok {
					t.Fatalf("stream %d ends: %v", s, err)
				}
				got, isText := m.Content.(conclave.Text)
				if !isText {
					continue // who joined
				}
				if got != text {
					t.Fatalf("stream %d brings %q, want %q", s, got, text)
				}
				break
			}
		}
	}
}
