package node_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/identityapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// What was published is read and looked up at once, by everybody.
func TestReadYourWrites(t *testing.T) {
	n := newNetwork(t, memory.Config{Shards: 4}, node.Limits{})
	other := serveOn(t, n.Connect(), nil, node.Limits{})
	p := newPerson(t)
	update := p.registration(t)
	if got := n.inboxOf(t, p.id()); got != "" {
		t.Fatalf("before registering: inbox %s", got)
	}
	n.publish(t, update)
	for range 4 { // the nodes take turns
		log := other.updates(t, p.inbox, 0)
		if len(log) != 1 || !proto.Equal(log[0].GetUpdate(), update) || log[0].GetServerTimestampNs() != uint64(now.UnixNano()) {
			t.Fatalf("log = %v", log)
		}
		if got := other.inboxOf(t, p.id()); got != p.inbox {
			t.Fatalf("inbox = %q, want %s", got, p.inbox)
		}
		if rest := other.updates(t, p.inbox, log[0].GetSequenceId()); len(rest) != 0 {
			t.Fatalf("after its last id the log goes on: %v", rest)
		}
	}
}

// A client that lost the answer sends the update again.
func TestPublishingAgainIsOneUpdate(t *testing.T) {
	n := newNetwork(t, memory.Config{DedupWindow: time.Nanosecond}, node.Limits{})
	p := newPerson(t)
	registration := p.registration(t)
	second := sign(t, p.draft().Revoke(p.appID, p.id()), p.wallet)
	for range 3 {
		n.publish(t, registration)
	}
	n.publish(t, second)
	n.publish(t, registration)
	n.publish(t, second)
	if log := n.updates(t, p.inbox, 0); len(log) != 2 {
		t.Errorf("%d updates, want 2", len(log))
	}
}

// I1, I7, I8 and whatever else the fold refuses never reaches the log.
func TestInvalidUpdatesAreRefused(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	p, q := newPerson(t), newPerson(t)
	n.publish(t, p.registration(t))
	zero := identity.AddressFrom([20]byte{})
	forged := p.registration(t)
	forged.ClientTimestampNs += 1e9
	large := p.registration(t)
	large.Actions[0].GetCreateInbox().RelyingParty = proto.String(strings.Repeat("x", 25<<10))
	for name, u := range map[string]*associations.IdentityUpdate{
		"nothing":                          nil,
		"no action":                        {InboxId: p.inbox},
		"no inbox id":                      {InboxId: "*"},
		"created twice":                    sign(t, p.draft().CreateInbox(p.id(), 1), p.wallet),
		"a stranger's revocation":          sign(t, p.draft().Revoke(p.appID, q.id()), q.wallet),
		"I7: recovery by an installation":  sign(t, p.draft().ChangeRecovery(q.id(), p.appID), p.app),
		"I8: recovery to the zero address": sign(t, p.draft().ChangeRecovery(zero, p.id()), p.wallet),
		"over the size limit":              large,
		"a forged time":                    forged,
		"an inbox that does not exist":     sign(t, q.draft().Revoke(q.appID, q.id()), q.wallet),
	} {
		t.Run(name, func(t *testing.T) {
			wantCode(t, n.PublishIdentityUpdate(t.Context(), u), bus.CodeInvalid)
		})
	}
	if log := n.updates(t, p.inbox, 0); len(log) != 1 {
		t.Errorf("%d updates in the log, want 1", len(log))
	}
	if got := n.inboxOf(t, q.id()); got != "" {
		t.Errorf("a refused update linked %s", got)
	}
	junk := []string{bus.PublishIdentityUpdate, bus.GetIdentityUpdates, bus.GetInboxIds, bus.UploadKeyPackage, bus.FetchKeyPackages}
	for _, service := range junk {
		_, err := n.Request(t.Context(), service, []byte{0xff})
		wantCode(t, err, bus.CodeInvalid)
	}
}

// Every log of a real client goes through the node, but for the one update that
// a node must refuse.
func TestRealLogs(t *testing.T) {
	dir := os.Getenv("CONCLAVE_VECTORS")
	if dir == "" {
		t.Skip("CONCLAVE_VECTORS is not set (official files: github.com/mlswg/mls-implementations test-vectors; these lie beside them in xmtp/)")
	}
	b, err := os.ReadFile(filepath.Join(dir, "xmtp", "identity.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Scenarios []struct {
			Name    string `json:"name"`
			InboxID string `json:"inbox_id"`
			Updates []struct {
				Update  string `json:"update"`
				Invalid bool   `json:"invalid"`
			} `json:"updates"`
		} `json:"scenarios"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	n := newNetwork(t, memory.Config{}, node.Limits{})
	for _, sc := range file.Scenarios {
		t.Run(sc.Name, func(t *testing.T) {
			var sent [][]byte
			for _, u := range sc.Updates {
				raw, err := hex.DecodeString(u.Update)
				if err != nil {
					t.Fatal(err)
				}
				update, err := identity.Decode(raw)
				if err != nil {
					t.Fatal(err)
				}
				err = n.PublishIdentityUpdate(t.Context(), update)
				if u.Invalid {
					wantCode(t, err, bus.CodeInvalid)
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				sent = append(sent, raw)
			}
			log := n.updates(t, sc.InboxID, 0)
			if len(log) != len(sent) {
				t.Fatalf("%d updates served, %d sent", len(log), len(sent))
			}
			for i, l := range log {
				if raw, err := identity.Encode(l.GetUpdate()); err != nil || !bytes.Equal(raw, sent[i]) {
					t.Errorf("update %d is served in other bytes (%v)", i, err)
				}
			}
		})
	}
}

// I5: of updates that contradict each other one wins, on every node alike,
// whether or not the bus compares and sets.
func TestRacingUpdates(t *testing.T) {
	for name, c := range map[string]memory.Config{
		"compare and set":        {},
		"order of the log alone": {NoCompareAndSet: true},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, c, node.Limits{})
			for range 3 {
				serveOn(t, n.Connect(), nil, node.Limits{})
			}
			p, q := newPerson(t), newPerson(t)
			n.publish(t, p.registration(t))
			var rivals []*associations.IdentityUpdate
			for i := range 8 {
				d := identity.NewDraft(p.inbox, now.Add(time.Duration(i)*time.Minute)).ChangeRecovery(q.id(), p.id())
				rivals = append(rivals, sign(t, d, p.wallet))
			}
			var won atomic.Int32
			var wg sync.WaitGroup
			for _, u := range rivals {
				wg.Go(func() {
					err := n.PublishIdentityUpdate(t.Context(), u)
					if err == nil {
						won.Add(1)
						return
					}
					wantCode(t, err, bus.CodeInvalid)
				})
			}
			wg.Wait()
			if won.Load() != 1 {
				t.Errorf("%d updates won", won.Load())
			}
			for range 4 {
				if log := n.updates(t, p.inbox, 0); len(log) != 2 {
					t.Errorf("%d updates served, want 2", len(log))
				}
			}
		})
	}
}

// Independent updates of one inbox all enter, however many nodes take them.
func TestConcurrentInstallations(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	serveOn(t, n.Connect(), nil, node.Limits{})
	p := newPerson(t)
	n.publish(t, p.registration(t))
	var g errgroup.Group
	for i := range 6 {
		app, id := newApp(t)
		u := sign(t, identity.NewDraft(p.inbox, now.Add(time.Duration(i)*time.Minute)).Add(id, p.id()), p.wallet, app)
		g.Go(func() error { return n.PublishIdentityUpdate(t.Context(), u) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if log := n.updates(t, p.inbox, 0); len(log) != 7 {
		t.Errorf("%d updates, want 7", len(log))
	}
}

// I9: the log is capped, and what is left at the end is for taking rights away.
func TestFullLog(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{Updates: 6, Reserved: 2})
	p := newPerson(t)
	n.publish(t, p.registration(t))
	next := func(i int, f func(*identity.Draft) *identity.Draft, signers ...any) error {
		d := f(identity.NewDraft(p.inbox, now.Add(time.Duration(i)*time.Minute)))
		return n.PublishIdentityUpdate(t.Context(), sign(t, d, signers...))
	}
	add := func(i int) error {
		app, id := newApp(t)
		return next(i, func(d *identity.Draft) *identity.Draft { return d.Add(id, p.id()) }, p.wallet, app)
	}
	revoke := func(i int) error {
		return next(i, func(d *identity.Draft) *identity.Draft { return d.Revoke(p.appID, p.id()) }, p.wallet)
	}
	for i := range 3 {
		if err := add(i); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, add(10), bus.CodeExhausted)
	for i := range 2 {
		if err := revoke(20 + i); err != nil {
			t.Errorf("revocation %d: %v", i, err)
		}
	}
	wantCode(t, revoke(30), bus.CodeExhausted)
}

// What should not be in a log is passed over, and does not stop it.
func TestJunkInALogIsPassedOver(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	p, q := newPerson(t), newPerson(t)
	raw, err := identity.ParseInboxID(p.inbox)
	if err != nil {
		t.Fatal(err)
	}
	topic, err := bus.IdentityOf(raw[:])
	if err != nil {
		t.Fatal(err)
	}
	put := func(b []byte) {
		if _, err := n.Bus.Publish(t.Context(), topic, b); err != nil {
			t.Fatal(err)
		}
	}
	foreign, err := identity.Encode(q.registration(t))
	if err != nil {
		t.Fatal(err)
	}
	put([]byte("junk"))
	put(foreign)
	put(nil)
	n.publish(t, p.registration(t))
	put([]byte("more junk"))
	n.publish(t, sign(t, p.draft().Revoke(p.appID, p.id()), p.wallet))
	if log := n.updates(t, p.inbox, 0); len(log) != 2 {
		t.Errorf("%d updates served, want 2", len(log))
	}
	if got := n.inboxOf(t, p.id()); got != p.inbox {
		t.Errorf("inbox = %q", got)
	}
}

// A publish whose fate is unknown is settled by reading the log.
func TestUnknownOutcome(t *testing.T) {
	lost := errors.New("no answer")
	for name, stored := range map[string]bool{"it was stored": true, "it was not": false} {
		t.Run(name, func(t *testing.T) {
			failures := 2
			n := serveOn(t, memory.New(memory.Config{}), func(b bus.Bus) bus.Bus {
				return &faulty{b, func(ctx context.Context, topic bus.Topic, payload []byte, opts ...bus.PublishOption) (bus.Ack, error) {
					if len(payload) < 100 || failures == 0 {
						return b.Publish(ctx, topic, payload, opts...)
					}
					failures--
					if stored {
						if _, err := b.Publish(ctx, topic, payload, opts...); err != nil {
							t.Error(err)
						}
					}
					return bus.Ack{}, lost
				}}
			}, node.Limits{})
			p := newPerson(t)
			n.publish(t, p.registration(t))
			if log := n.updates(t, p.inbox, 0); len(log) != 1 {
				t.Errorf("%d updates, want 1", len(log))
			}
		})
	}
}

// A node that dies between the note and the update leaves no trace for others.
func TestNoteWithoutUpdateMisleadsNobody(t *testing.T) {
	down := true
	n := serveOn(t, memory.New(memory.Config{}), func(b bus.Bus) bus.Bus {
		return &faulty{b, func(ctx context.Context, topic bus.Topic, payload []byte, opts ...bus.PublishOption) (bus.Ack, error) {
			if down && len(payload) > 100 {
				return bus.Ack{}, bus.ErrFull
			}
			return b.Publish(ctx, topic, payload, opts...)
		}}
	}, node.Limits{})
	p := newPerson(t)
	u := p.registration(t)
	wantCode(t, n.PublishIdentityUpdate(t.Context(), u), bus.CodeExhausted)
	if got := n.inboxOf(t, p.id()); got != "" {
		t.Errorf("linked to %s, which does not exist", got)
	}
	down = false
	n.publish(t, u)
	if got := n.inboxOf(t, p.id()); got != p.inbox {
		t.Errorf("inbox = %q", got)
	}
}

// S15: a second wallet resolves to the same inbox, the newest link wins, and
// unlinking gives the older one back.
func TestLinkedWallets(t *testing.T) {
	n := newNetwork(t, memory.Config{Shards: 3}, node.Limits{})
	p, q := newPerson(t), newPerson(t)
	n.publish(t, p.registration(t))
	n.publish(t, q.registration(t))
	n.publish(t, sign(t, p.draft().Add(q.id(), p.appID), p.app, q.wallet))
	if a, b := n.inboxOf(t, p.id()), n.inboxOf(t, q.id()); a != p.inbox || b != p.inbox {
		t.Errorf("after linking: %s and %s, want both %s", a, b, p.inbox)
	}
	n.publish(t, sign(t, p.draft().Revoke(q.id(), p.id()), p.wallet))
	if got := n.inboxOf(t, q.id()); got != q.inbox {
		t.Errorf("after unlinking: %s, want %s", got, q.inbox)
	}
	n.publish(t, sign(t, identity.NewDraft(p.inbox, now.Add(time.Hour)).Add(q.id(), p.appID), p.app, q.wallet))
	if got := n.inboxOf(t, q.id()); got != p.inbox {
		t.Errorf("linked again: %s, want %s", got, p.inbox)
	}
}

// S20: one request tells of 250 identifiers who has an inbox; more are split,
// and the answers stay with their questions.
func TestLookUpOfMany(t *testing.T) {
	var requests atomic.Int32
	n := newNetwork(t, memory.Config{}, node.Limits{})
	counting := node.NewClient(countRequests{n.Bus, &requests})
	var ids []identity.Identifier
	want := map[identity.Identifier]string{}
	for i := range 600 {
		id := identity.AddressFrom([20]byte{1, byte(i), byte(i >> 8)})
		if i%100 == 0 {
			p := newPerson(t)
			n.publish(t, p.registration(t))
			id = p.id()
			want[id] = p.inbox
		}
		ids = append(ids, id)
	}
	for _, test := range []struct{ ids, requests int }{{0, 0}, {1, 1}, {250, 1}, {251, 2}, {600, 3}} {
		requests.Store(0)
		got, err := counting.GetInboxIDs(t.Context(), ids[:test.ids])
		if err != nil || int(requests.Load()) != test.requests {
			t.Errorf("%d identifiers: %d requests, %v", test.ids, requests.Load(), err)
		}
		for i, id := range ids[:test.ids] {
			if got[id] != want[id] {
				t.Errorf("identifier %d: %q, want %q", i, got[id], want[id])
			}
		}
	}
}

type countRequests struct {
	bus.Bus
	n *atomic.Int32
}

func (c countRequests) Request(ctx context.Context, service string, payload []byte) ([]byte, error) {
	c.n.Add(1)
	return c.Bus.Request(ctx, service, payload)
}

// An answer that is too large for the bus is asked for in parts.
func TestLargeAnswersAreAskedInParts(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	request := new(identityapi.GetIdentityUpdatesRequest)
	for range 11 {
		p := newPerson(t)
		n.publish(t, p.registration(t))
		request.Requests = append(request.Requests, &identityapi.GetIdentityUpdatesRequest_Request{InboxId: p.inbox})
	}
	for limit, want := range map[int]string{1 << 20: "", 2000: "", 100: bus.CodeTooLarge} {
		got, err := node.NewClient(smallAnswers{n.Bus, limit}).GetIdentityUpdates(t.Context(), request)
		if want != "" {
			wantCode(t, err, want)
			continue
		}
		if err != nil || len(got.GetResponses()) != 11 {
			t.Fatalf("%d answers, %v", len(got.GetResponses()), err)
		}
		for i, r := range got.GetResponses() {
			if r.GetInboxId() != request.Requests[i].GetInboxId() || len(r.GetUpdates()) != 1 {
				t.Errorf("answers of at most %d bytes: answer %d is another's", limit, i)
			}
		}
	}
}

// smallAnswers is a bus that carries no answer over a limit.
type smallAnswers struct {
	bus.Bus
	limit int
}

func (s smallAnswers) Request(ctx context.Context, service string, payload []byte) ([]byte, error) {
	b, err := s.Bus.Request(ctx, service, payload)
	if len(b) > s.limit {
		return nil, &bus.ServiceError{Code: bus.CodeTooLarge}
	}
	return b, err
}

// The wire's own form: answers in order, the kind always told, addresses in either
// case, what is no identifier without an inbox, and more than 250 refused.
func TestLookUpOnTheWire(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	p := newPerson(t)
	n.publish(t, p.registration(t))
	ask := func(r *identityapi.GetInboxIdsRequest) (*identityapi.GetInboxIdsResponse, error) {
		b, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		b, err = n.Request(t.Context(), bus.GetInboxIds, b)
		answer := new(identityapi.GetInboxIdsResponse)
		if err == nil {
			err = proto.Unmarshal(b, answer)
		}
		return answer, err
	}
	passkey := associations.IdentifierKind_IDENTIFIER_KIND_PASSKEY
	got, err := ask(&identityapi.GetInboxIdsRequest{Requests: []*identityapi.GetInboxIdsRequest_Request{
		{Identifier: "*.>"}, {Identifier: p.wallet.Address()}, {Identifier: "02", IdentifierKind: passkey}, {Identifier: p.wallet.Address()},
		{Identifier: strings.ToUpper(p.wallet.Address())}, {Identifier: "0x" + strings.ToUpper(p.wallet.Address()[2:])},
	}})
	if err != nil || len(got.Responses) != 6 {
		t.Fatalf("%v, %v", got, err)
	}
	for i, r := range got.Responses {
		if known := i != 0 && i != 2; (r.InboxId != nil) != known || known && r.GetIdentifierKind() != associations.IdentifierKind_IDENTIFIER_KIND_ETHEREUM {
			t.Errorf("answer %d: %v", i, r)
		}
	}
	_, err = ask(&identityapi.GetInboxIdsRequest{Requests: make([]*identityapi.GetInboxIdsRequest_Request, node.MaxAsked+1)})
	wantCode(t, err, bus.CodeInvalid)
}

// A memory that is far too small, and a log that went backwards, change no answer.
func TestMemoryIsOnlyACopy(t *testing.T) {
	t.Run("small", func(t *testing.T) { memoryIsOnlyACopy(t, node.Limits{CachedInboxes: 2, CachedIdentifiers: 2}) })
	t.Run("large", func(t *testing.T) { memoryIsOnlyACopy(t, node.Limits{}) })
}

func memoryIsOnlyACopy(t *testing.T, limits node.Limits) {
	n := newNetwork(t, memory.Config{}, limits)
	var people []*person
	var end bus.ID
	for i := range 10 {
		p := newPerson(t)
		n.publish(t, p.registration(t))
		people = append(people, p)
		if i == 4 {
			raw, err := identity.ParseInboxID(p.inbox)
			if err != nil {
				t.Fatal(err)
			}
			topic, err := bus.IdentityOf(raw[:])
			if err != nil {
				t.Fatal(err)
			}
			if end, err = n.End(t.Context(), topic); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(known int) {
		t.Helper()
		for i, p := range people {
			log, inbox := n.updates(t, p.inbox, 0), n.inboxOf(t, p.id())
			if has := i < known; (len(log) == 1) != has || (inbox == p.inbox) != has {
				t.Errorf("person %d: %d updates, inbox %q", i, len(log), inbox)
			}
		}
	}
	check(10)
	n.Rewind(0, end)
	check(5)
	n.publish(t, people[7].registration(t))
	if got := n.inboxOf(t, people[7].id()); got != people[7].inbox {
		t.Errorf("registered again after the log went backwards: %q", got)
	}
}

// I4: a smart contract wallet without a chain to ask is no verdict.
func TestNoChainIsUnavailable(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	p := newPerson(t)
	u := p.registration(t)
	u.Actions[0].GetCreateInbox().InitialIdentifierSignature = &associations.Signature{Signature: &associations.Signature_Erc_6492{
		Erc_6492: &associations.SmartContractWalletSignature{AccountId: "eip155:1:" + p.wallet.Address(), Signature: []byte{1}},
	}}
	wantCode(t, n.PublishIdentityUpdate(t.Context(), u), bus.CodeUnavailable)
}

func TestServeNeedsAVerifierAndFreeNames(t *testing.T) {
	b := memory.New(memory.Config{})
	defer b.Close()
	if _, err := node.Serve(t.Context(), b, node.Config{}); err == nil {
		t.Error("served without a verifier")
	}
	ctx, cancel := context.WithCancel(t.Context())
	n, err := node.Serve(ctx, b, node.Config{Verifier: ethereum.Verifier{}})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	n.Close()
	n.Close()
	if _, err := node.NewClient(b).GetInboxIDs(t.Context(), []identity.Identifier{newPerson(t).id()}); !errors.Is(err, bus.ErrNoService) {
		t.Errorf("after Close: %v", err)
	}
}

// Bytes from outside never panic, and never get an answer that blames the node.
func FuzzRequests(f *testing.F) {
	n := newNetwork(f, memory.Config{}, node.Limits{})
	p := newPerson(f)
	n.publish(f, p.registration(f))
	services := []string{bus.PublishIdentityUpdate, bus.GetIdentityUpdates, bus.GetInboxIds, bus.UploadKeyPackage, bus.FetchKeyPackages}
	for i, m := range []proto.Message{
		&identityapi.PublishIdentityUpdateRequest{IdentityUpdate: p.registration(f)},
		&identityapi.GetIdentityUpdatesRequest{Requests: []*identityapi.GetIdentityUpdatesRequest_Request{{InboxId: p.inbox}}},
		&identityapi.GetInboxIdsRequest{Requests: []*identityapi.GetInboxIdsRequest_Request{{Identifier: p.wallet.Address()}}},
		&mlsapi.UploadKeyPackageRequest{KeyPackage: &mlsapi.KeyPackageUpload{KeyPackageTlsSerialized: p.keyPackage(f, now)}},
		&mlsapi.FetchKeyPackagesRequest{InstallationKeys: [][]byte{p.appID.Bytes()}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(i, b)
	}
	f.Fuzz(func(t *testing.T, service int, payload []byte) {
		_, err := n.Request(t.Context(), services[uint(service)%uint(len(services))], payload)
		var refused *bus.ServiceError
		if err != nil && (!errors.As(err, &refused) || refused.Code == bus.CodeInternal) {
			t.Errorf("err = %v", err)
		}
	})
}

// register publishes a key package and a registration for each person.
func register(tb testing.TB, n *network, people []*person, packages [][]byte, updates []*associations.IdentityUpdate) {
	g, ctx := errgroup.WithContext(tb.Context())
	g.SetLimit(16)
	for i := range people {
		g.Go(func() error {
			if err := n.UploadKeyPackage(ctx, packages[i]); err != nil {
				return err
			}
			return n.PublishIdentityUpdate(ctx, updates[i])
		})
	}
	if err := g.Wait(); err != nil {
		tb.Fatal(err)
	}
}

// 400 registrations, what `demo` begins with.
func BenchmarkRegister400(b *testing.B) {
	var people []*person
	var packages [][]byte
	var updates []*associations.IdentityUpdate
	for range 400 {
		p := newPerson(b)
		people, packages, updates = append(people, p), append(packages, p.keyPackage(b, now)), append(updates, p.registration(b))
	}
	for b.Loop() {
		n := newNetwork(b, memory.Config{}, node.Limits{})
		register(b, n, people, packages, updates)
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/400")
}

func ExampleClient() {
	log := memory.New(memory.Config{})
	defer log.Close()
	n, err := node.Serve(context.Background(), log, node.Config{Verifier: ethereum.Verifier{}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer n.Close()
	wallet, _ := identity.ParseAddress("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed")
	inboxes, err := node.NewClient(log).GetInboxIDs(context.Background(), []identity.Identifier{wallet})
	fmt.Println(inboxes, err)
	// Output: map[] <nil>
}
