package node_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/associations"
)

// onJetStream starts a node on a connection to a real log.
func onJetStream(t testing.TB, b bus.Bus) *network {
	t.Helper()
	served, err := node.Serve(t.Context(), b, node.Config{Verifier: ethereum.Verifier{}, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(served.Close)
	return &network{Client: node.NewClient(b), node: served}
}

func openJetStream(t testing.TB) *jetstream.Bus {
	t.Helper()
	b, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir(), Shards: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// The same promises on the real log: what was published is read at once, of
// rivals one wins, and a node that starts with nothing gives the same answers.
func TestOnJetStream(t *testing.T) {
	b := openJetStream(t)
	second, err := b.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { second.Close() })
	n := onJetStream(t, b)
	onJetStream(t, second)

	var people []*person
	var packages [][]byte
	var updates []*associations.IdentityUpdate
	for range 20 {
		p := newPerson(t)
		people, packages, updates = append(people, p), append(packages, p.keyPackage(t, now)), append(updates, p.registration(t))
	}
	register(t, n, people, packages, updates)

	p, q := people[0], people[1]
	n.publish(t, sign(t, p.draft().Add(q.id(), p.appID), p.app, q.wallet))
	var won atomic.Int32
	var g errgroup.Group
	for i := range 4 {
		u := sign(t, identity.NewDraft(p.inbox, now.Add(time.Duration(i)*time.Minute)).ChangeRecovery(q.id(), p.id()), p.wallet)
		g.Go(func() error {
			err := n.PublishIdentityUpdate(t.Context(), u)
			var refused *bus.ServiceError
			switch {
			case err == nil:
				won.Add(1)
			case !errors.As(err, &refused) || refused.Code != bus.CodeInvalid:
				return err
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil || won.Load() != 1 {
		t.Errorf("%d rivals won, %v", won.Load(), err)
	}

	check := func(t *testing.T, n *network) {
		t.Helper()
		for i, p := range people {
			want, entries := p.inbox, 1
			switch i {
			case 0:
				entries = 3
			case 1:
				want = people[0].inbox
			}
			if log := n.updates(t, p.inbox, 0); len(log) != entries {
				t.Errorf("person %d: %d updates, want %d", i, len(log), entries)
			}
			if got := n.inboxOf(t, p.id()); got != want {
				t.Errorf("person %d: inbox %q, want %s", i, got, want)
			}
			if got := n.fetch(t, p.appID.Bytes()); string(got[0]) != string(packages[i]) {
				t.Errorf("person %d: another key package", i)
			}
		}
	}
	check(t, n)
	n.node.Close()
	check(t, onJetStream(t, b))
}

func BenchmarkRegister400OnJetStream(b *testing.B) {
	n := onJetStream(b, openJetStream(b))
	for b.Loop() {
		b.StopTimer()
		var people []*person
		var packages [][]byte
		var updates []*associations.IdentityUpdate
		for range 400 {
			p := newPerson(b)
			people, packages, updates = append(people, p), append(packages, p.keyPackage(b, now)), append(updates, p.registration(b))
		}
		b.StartTimer()
		register(b, n, people, packages, updates)
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/400")
}
