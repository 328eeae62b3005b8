package node_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/identityapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// Key packages and identity updates come out of the caller's budget, and of
// nobody's group. What is over it is not stored.
func TestIdentitiesCostBudget(t *testing.T) {
	n, _ := metered(t, node.Limits{CallerMessages: node.Budget{PerMinute: 1, Burst: 3}, GroupMessages: node.Budget{PerMinute: 1}})
	ada, bob := node.WithCaller(t.Context(), "ada"), node.WithCaller(t.Context(), "bob")
	p := newPerson(t)
	register := &identityapi.PublishIdentityUpdateRequest{IdentityUpdate: p.registration(t)}
	upload := &mlsapi.UploadKeyPackageRequest{KeyPackage: &mlsapi.KeyPackageUpload{KeyPackageTlsSerialized: p.keyPackage(t, now)}}
	for range 3 {
		if _, err := n.node.UploadKeyPackage(ada, upload); err != nil {
			t.Fatal(err)
		}
	}
	_, err := n.node.PublishIdentityUpdate(ada, register)
	wantCode(t, err, bus.CodeExhausted)
	_, err = n.node.UploadKeyPackage(ada, upload)
	wantCode(t, err, bus.CodeExhausted)
	_, err = n.node.RegisterInstallation(ada, &mlsapi.RegisterInstallationRequest{KeyPackage: upload.KeyPackage})
	wantCode(t, err, bus.CodeExhausted)
	if log := n.updates(t, p.inbox, 0); len(log) != 0 {
		t.Errorf("%d updates are stored", len(log))
	}
	if _, err := n.node.PublishIdentityUpdate(bob, register); err != nil {
		t.Errorf("another caller: %v", err)
	}
}

// I1, I7: what others signed and published once does not enter a log again: not
// replayed, not in another order, not in somebody else's inbox.
func TestReplayedUpdatesAreRefused(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	p, q := newPerson(t), newPerson(t)
	n.publish(t, p.registration(t))
	n.publish(t, q.registration(t))
	app, id := newApp(t)
	link := sign(t, p.draft().Add(id, p.id()), p.wallet, app)
	early, later := newApp(t)
	n.publish(t, link)
	n.publish(t, sign(t, p.draft().Revoke(id, p.id()), p.wallet))
	n.publish(t, sign(t, p.draft().Add(later, p.id()), p.wallet, early))

	respelled := proto.CloneOf(link)
	signature := respelled.Actions[0].GetAdd().GetExistingMemberSignature().GetErc_191()
	signature.Bytes = slices.Clone(signature.Bytes)
	signature.Bytes[64] ^= 27 // the other way to write V
	elsewhere := proto.CloneOf(link)
	elsewhere.InboxId = q.inbox
	foreign := sign(t, identity.NewDraft(q.inbox, now.Add(time.Second)).Add(id, p.id()), p.wallet, app)
	unborn := newPerson(t)
	for name, u := range map[string]*associations.IdentityUpdate{
		"replayed after its revocation, in another spelling": respelled,
		"somebody's update in another's inbox":               elsewhere,
		"a stranger adds to another's inbox":                 foreign,
		"before the inbox is made":                           sign(t, unborn.draft().Add(unborn.appID, unborn.id()), unborn.wallet, unborn.app),
	} {
		t.Run(name, func(t *testing.T) {
			wantCode(t, n.PublishIdentityUpdate(t.Context(), u), bus.CodeInvalid)
		})
	}
	n.publish(t, link) // the very bytes: answered like the first time
	if got := len(n.updates(t, p.inbox, 0)); got != 4 {
		t.Errorf("%d updates in the log, want 4", got)
	}
	for _, inbox := range []string{q.inbox, unborn.inbox} {
		for _, e := range n.updates(t, inbox, 0)[min(1, len(n.updates(t, inbox, 0))):] {
			t.Errorf("an update at %d is in another's log", e.SequenceId)
		}
	}
}

// A forgery is a key package that is well signed, and wrong in one respect.
func (p *person) forgery(t testing.TB, change func(*mls.KeyPackageConfig)) []byte {
	t.Helper()
	good, err := group.ParseKeyPackage(nil, p.keyPackage(t, now))
	if err != nil {
		t.Fatal(err)
	}
	leaf := good.MLS.LeafNode
	c := mls.KeyPackageConfig{
		Rand: rand.Reader, Suite: good.MLS.CipherSuite, Credential: leaf.Credential, Capabilities: leaf.Capabilities,
		Lifetime: leaf.Lifetime, LeafExtensions: leaf.Extensions, Extensions: good.MLS.Extensions,
	}
	change(&c)
	if c.Signer, err = mls.NewSigner(c.Suite, p.app.Seed()); err != nil {
		t.Fatal(err)
	}
	kp, _, err := mls.NewKeyPackage(c)
	if err != nil {
		t.Fatal(err)
	}
	return kp.Bytes()
}

// sameKeys is randomness that a key package has the same keys of each time.
func sameKeys(c *mls.KeyPackageConfig) { c.Rand = mathrand.NewChaCha8([32]byte{}) }

// W13: an installation's own signature makes no key package of another suite, a
// foreign credential or an endless life acceptable. A new one has new keys; the
// same one again is no error.
func TestSignedKeyPackagesAreJudged(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	p := newPerson(t)
	for name, change := range map[string]func(*mls.KeyPackageConfig){
		"another suite": func(c *mls.KeyPackageConfig) {
			c.Suite = mls.MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519
			c.Capabilities.CipherSuites = append(c.Capabilities.CipherSuites, c.Suite)
		},
		"certificates": func(c *mls.KeyPackageConfig) {
			c.Credential = mls.Credential{Type: mls.CredentialX509, Certificates: [][]byte{{1}}}
			c.Capabilities.Credentials = append(c.Capabilities.Credentials, mls.CredentialX509)
		},
		"foreign credential": func(c *mls.KeyPackageConfig) { c.Credential.Identity = []byte("ada@example.org") },
		"expired":            func(c *mls.KeyPackageConfig) { c.Lifetime.NotAfter = uint64(now.Unix()) },
		"endless":            func(c *mls.KeyPackageConfig) { c.Lifetime.NotAfter = 1<<64 - 1 },
		"without a wrapper":  func(c *mls.KeyPackageConfig) { c.Extensions[2].Data = []byte{0xff} },
	} {
		t.Run(name, func(t *testing.T) {
			wantCode(t, n.UploadKeyPackage(t.Context(), p.forgery(t, change)), bus.CodeInvalid)
		})
	}
	nothingStored(t, n.Bus)

	first := p.forgery(t, sameKeys)
	for range 2 {
		if err := n.UploadKeyPackage(t.Context(), first); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, n.UploadKeyPackage(t.Context(), p.forgery(t, func(c *mls.KeyPackageConfig) {
		sameKeys(c)
		c.Lifetime.NotAfter--
	})), bus.CodeInvalid)
	if err := n.UploadKeyPackage(t.Context(), p.forgery(t, func(*mls.KeyPackageConfig) {})); err != nil {
		t.Errorf("with new keys: %v", err)
	}
}

// I3, W13: what a host wrote to an installation's topic itself, where the bus let
// it, keeps nobody from fetching the key package that the node accepted.
func TestJunkAmongKeyPackagesIsPassedOver(t *testing.T) {
	n := newNetwork(t, memory.Config{Shards: 4}, node.Limits{})
	p, q := newPerson(t), newPerson(t)
	topic, err := bus.KeyPackagesOf(p.appID.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	junk := func() {
		for _, b := range [][]byte{[]byte("junk"), nil, q.keyPackage(t, now)} {
			if _, err := n.Bus.Publish(t.Context(), topic, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	first, second := p.keyPackage(t, now.Add(-time.Minute)), p.keyPackage(t, now)
	junk()
	if got := n.fetch(t, p.appID.Bytes()); got[0] != nil {
		t.Error("junk is served")
	}
	for _, kp := range [][]byte{first, second} {
		if err := n.UploadKeyPackage(t.Context(), kp); err != nil {
			t.Fatal(err)
		}
		junk()
		other := serveOn(t, n.Connect(), nil, node.Limits{})
		for _, node := range []*network{n, other, n} {
			if got := node.fetch(t, p.appID.Bytes()); !bytes.Equal(got[0], kp) {
				t.Error("another than the newest key package is served")
			}
		}
		other.node.Close()
	}
}

// A broken bus fails to read while a test wants it to.
type broken struct {
	bus.Bus
	down *atomic.Bool
}

func (b broken) Read(ctx context.Context, after bus.ID, limit int, topics ...bus.Topic) ([]bus.Envelope, error) {
	if b.down.Load() {
		return nil, bus.ErrUnavailable
	}
	return b.Bus.Read(ctx, after, limit, topics...)
}

// A read that fails on the way to junk forgets nothing of what was read before.
func TestKeyPackageSurvivesAFailedRead(t *testing.T) {
	var down atomic.Bool
	n := serveOn(t, memory.New(memory.Config{Now: func() time.Time { return now }}), func(b bus.Bus) bus.Bus { return broken{b, &down} }, node.Limits{})
	p := newPerson(t)
	kp := p.keyPackage(t, now)
	if err := n.UploadKeyPackage(t.Context(), kp); err != nil {
		t.Fatal(err)
	}
	n.fetch(t, p.appID.Bytes())
	topic, err := bus.KeyPackagesOf(p.appID.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := n.Bus.Publish(t.Context(), topic, fmt.Append(nil, "junk", time.Now())); err != nil {
			t.Fatal(err)
		}
		down.Store(true)
		_, err = n.FetchKeyPackages(t.Context(), [][]byte{p.appID.Bytes()})
		wantCode(t, err, bus.CodeUnavailable)
		down.Store(false)
		if got := n.fetch(t, p.appID.Bytes()); !bytes.Equal(got[0], kp) {
			t.Error("the key package is forgotten")
		}
	}
}

// I4: junk in an inbox's topic that names a chain which nobody can ask does not
// keep the log from being read: its contract has nothing to say there.
func TestJunkOfAnUnknownChainIsPassedOver(t *testing.T) {
	b, served := withChain(t, nil)
	n := &network{b, node.NewClient(b), served}
	p := newPerson(t)
	n.publish(t, p.registration(t))
	stranger := identity.AddressFrom([20]byte{7})
	d := p.draft().Revoke(p.appID, stranger)
	if err := d.Attach(stranger, &associations.Signature{Signature: &associations.Signature_Erc_6492{Erc_6492: &associations.SmartContractWalletSignature{
		AccountId: identity.Account{Chain: 5, Address: stranger}.String(), BlockNumber: 42, Signature: []byte("x"),
	}}}); err != nil {
		t.Fatal(err)
	}
	update, err := d.Update()
	if err != nil {
		t.Fatal(err)
	}
	junk, err := identity.Encode(update)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := identity.ParseInboxID(p.inbox)
	if err != nil {
		t.Fatal(err)
	}
	topic, err := bus.IdentityOf(raw[:])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Publish(t.Context(), topic, junk); err != nil {
		t.Fatal(err)
	}
	if got := len(n.updates(t, p.inbox, 0)); got != 1 {
		t.Errorf("%d updates, want 1", got)
	}
	n.publish(t, sign(t, p.draft().Revoke(p.appID, p.id()), p.wallet))
}

// An answer is bounded, however often the longest logs are asked for. A client
// asks for fewer at a time.
func TestIdentityLogsOfManyAreBounded(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	p := newPerson(t)
	n.publish(t, p.registration(t))
	for i := range 4 {
		app, id := newApp(t)
		u := sign(t, identity.NewDraft(p.inbox, now.Add(time.Duration(i)*time.Minute)).Add(id, p.id()), p.wallet, app)
		padding := make([]byte, 10<<10)
		rand.Read(padding)
		u.Actions[0].GetAdd().RelyingParty = proto.String(fmt.Sprintf("%x", padding))
		n.publish(t, u)
	}
	request := new(identityapi.GetIdentityUpdatesRequest)
	for range node.MaxBatch {
		request.Requests = append(request.Requests, &identityapi.GetIdentityUpdatesRequest_Request{InboxId: p.inbox})
	}
	_, err := n.node.GetIdentityUpdates(t.Context(), request)
	wantCode(t, err, bus.CodeTooLarge)
	all, err := n.GetIdentityUpdates(t.Context(), request)
	if err != nil || len(all.GetResponses()) != node.MaxBatch || len(all.GetResponses()[node.MaxBatch-1].GetUpdates()) != 5 {
		t.Errorf("a client gets %d answers, %v", len(all.GetResponses()), err)
	}
}

// B9, D11: a request over the bus is refused by its size before it is unpacked,
// whichever service it is to.
func TestLongRequestsAreRefused(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	for _, service := range []string{
		bus.PublishIdentityUpdate, bus.GetIdentityUpdates, bus.GetInboxIds, bus.VerifySignatures,
		bus.UploadKeyPackage, bus.FetchKeyPackages, bus.PublishCommitLog, bus.QueryCommitLog,
	} {
		_, err := n.Request(t.Context(), service, bytes.Repeat([]byte{0x0a, 0}, 200_000))
		wantCode(t, err, bus.CodeInvalid)
		_, err = n.Request(t.Context(), service, []byte{0xff})
		wantCode(t, err, bus.CodeInvalid)
	}
	nothingStored(t, n.Bus)
}

// B9, D11: what all subscriptions follow is bounded, and one caller's part of it;
// what a subscription that has ended followed is free again.
func TestFollowedTopicsAreBounded(t *testing.T) {
	c := inMemory(t, node.Limits{Followed: 20})
	open := func(caller string, filters int) (*listener[*mlsapi.GroupMessage], error) {
		request := new(mlsapi.SubscribeGroupMessagesRequest)
		for i := range filters {
			request.Filters = append(request.Filters, after(i, 0))
		}
		there := make(chan struct{})
		l := listen(t, 0, func(ctx context.Context, send func(*mlsapi.GroupMessage) error) error {
			return c.node.SubscribeGroupMessages(node.WithCaller(node.WithOpened(ctx, func() error {
				close(there)
				return nil
			}), caller), request, send)
		})
		select {
		case <-there:
			return l, nil
		case err := <-l.ended:
			return nil, err
		}
	}
	must := func(caller string, filters int) *listener[*mlsapi.GroupMessage] {
		t.Helper()
		l, err := open(caller, filters)
		if err != nil {
			t.Fatalf("%s follows %d: %v", caller, filters, err)
		}
		return l
	}
	refused := func(caller string, filters int) {
		t.Helper()
		_, err := open(caller, filters)
		wantCode(t, err, bus.CodeExhausted)
	}
	must("ada", 4)
	first := must("ada", 6)
	refused("ada", 1)
	must("bob", 10)
	refused("eve", 1)
	first.leave()
	if err := first.end(t); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	must("eve", 6)
	refused("", 1)
}
