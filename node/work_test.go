package node_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/identityapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// wallets asks about 50 wallets of a chain.
func wallets(chain uint64) *identityapi.VerifySmartContractWalletSignaturesRequest {
	request := new(identityapi.VerifySmartContractWalletSignaturesRequest)
	block := uint64(42)
	for i := range 50 {
		a := identity.AddressFrom([20]byte{byte(i), 9})
		request.Signatures = append(request.Signatures, &question{
			AccountId: identity.Account{Chain: chain, Address: a}.String(), BlockNumber: &block, Hash: make([]byte, 32), Signature: a.Bytes(),
		})
	}
	return request
}

// contractRegistration is the registration of an inbox that a contract owns.
func contractRegistration(t *testing.T, i int) *associations.IdentityUpdate {
	owner := identity.AddressFrom([20]byte{77, byte(i), byte(i >> 8)})
	inbox, err := identity.InboxID(owner, identity.DefaultNonce)
	if err != nil {
		t.Fatal(err)
	}
	d := identity.NewDraft(inbox, now).CreateInbox(owner, identity.DefaultNonce)
	if err := d.Attach(owner, contractSignature(owner)); err != nil {
		t.Fatal(err)
	}
	return sign(t, d)
}

// While chains are slow and ever so many ask about wallets on them, whoever asks
// for anything else is answered as if nobody did. faults.md B9.
func TestSlowChainHoldsUpNobody(t *testing.T) {
	crowds := map[string]func(t *testing.T, n *node.Node, i int){
		"questions about wallets": func(t *testing.T, n *node.Node, _ int) {
			_, _ = n.VerifySmartContractWalletSignatures(t.Context(), wallets(1))
		},
		"registrations of wallets": func(t *testing.T, n *node.Node, i int) {
			_, _ = n.PublishIdentityUpdate(t.Context(), publishRequest(contractRegistration(t, i)))
		},
		"look-ups of many wallets' inboxes": func(t *testing.T, n *node.Node, i int) {
			_, _ = n.GetIdentityUpdates(t.Context(), getRequest(contractRegistration(t, i).GetInboxId()))
		},
		"look-ups of one wallet's inbox": func(t *testing.T, n *node.Node, i int) {
			_, _ = n.GetIdentityUpdates(t.Context(), getRequest(contractRegistration(t, 0).GetInboxId()))
		},
	}
	for name, crowd := range crowds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const many = 400
				// What the crowd looks up is in the log, and this node has not read it.
				b, first := withChain(t, scriptedChain{})
				for i := range many {
					if _, err := first.PublishIdentityUpdate(t.Context(), publishRequest(contractRegistration(t, i))); err != nil {
						t.Fatal(err)
					}
				}
				first.Close()
				n, err := node.Serve(t.Context(), b, node.Config{Verifier: ethereum.Verifier{Chain: lateChain{}}, Now: func() time.Time { return now }})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(n.Close)
				var waiting sync.WaitGroup
				defer waiting.Wait()
				for i := range many {
					waiting.Go(func() { crowd(t, n, i) })
				}
				synctest.Wait()
				for what, ask := range everythingElse(t, n) {
					began := time.Now()
					err := ask(t.Context())
					if took := time.Since(began); took > 0 || err != nil {
						t.Errorf("beside %d of them, %s took %v: %v", many, what, took, err)
					}
				}
			})
		})
	}
}

// everythingElse is one request of each kind that no chain is needed for.
func everythingElse(t *testing.T, n *node.Node) map[string]func(context.Context) error {
	p, group := newPerson(t), make([]byte, 16)
	page := &mlsapi.QueryCommitLogRequest{GroupId: group}
	return map[string]func(context.Context) error{
		"a registration": func(ctx context.Context) error {
			_, err := n.PublishIdentityUpdate(ctx, publishRequest(newPerson(t).registration(t)))
			return err
		},
		"a look-up": func(ctx context.Context) error {
			_, err := n.GetInboxIds(ctx, &identityapi.GetInboxIdsRequest{Requests: []*identityapi.GetInboxIdsRequest_Request{{Identifier: p.id().String(), IdentifierKind: p.id().ProtoKind()}}})
			return err
		},
		"a read of an identity log": func(ctx context.Context) error {
			_, err := n.GetIdentityUpdates(ctx, getRequest(p.inbox))
			return err
		},
		"an upload": func(ctx context.Context) error {
			_, err := n.UploadKeyPackage(ctx, &mlsapi.UploadKeyPackageRequest{KeyPackage: &mlsapi.KeyPackageUpload{KeyPackageTlsSerialized: p.keyPackage(t, now)}})
			return err
		},
		"a fetch": func(ctx context.Context) error {
			_, err := n.FetchKeyPackages(ctx, &mlsapi.FetchKeyPackagesRequest{InstallationKeys: [][]byte{p.appID.Bytes()}})
			return err
		},
		"a query": func(ctx context.Context) error {
			_, err := n.QueryGroupMessages(ctx, &mlsapi.QueryGroupMessagesRequest{GroupId: group})
			return err
		},
		"a query of a commit log": func(ctx context.Context) error {
			_, err := n.BatchQueryCommitLog(ctx, &mlsapi.BatchQueryCommitLogRequest{Requests: []*mlsapi.QueryCommitLogRequest{page}})
			return err
		},
		"a subscription": func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			opened := make(chan struct{})
			ctx = node.WithOpened(ctx, func() error { close(opened); return nil })
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = n.SubscribeGroupMessages(ctx, &mlsapi.SubscribeGroupMessagesRequest{Filters: []*mlsapi.SubscribeGroupMessagesRequest_Filter{{GroupId: group}}}, func(*mlsapi.GroupMessage) error { return nil })
			}()
			<-opened
			cancel()
			<-done
			return nil
		},
	}
}

// Where one chain is slow, wallets on another are asked at once. faults.md I4.
func TestSlowChainHoldsUpNoOtherChain(t *testing.T) {
	released := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-released:
		case <-r.Context().Done():
		}
	}))
	defer slow.Close()
	fast := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"jsonrpc":"2.0","id":1,"result":"0x2"}`)
	}))
	defer fast.Close()
	chains, err := ethereum.NewChains(map[uint64]string{1: slow.URL, 2: fast.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer chains.Close()
	_, n := withChain(t, chains)
	crowd, leave := context.WithTimeout(t.Context(), 5*time.Minute)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer leave()
	defer close(released)
	// As many as there may be of the class: those for whom the slow chain has no
	// place are refused, and leave theirs.
	refused := make(chan struct{}, 400)
	for range cap(refused) {
		waiting.Go(func() {
			if r, err := n.VerifySmartContractWalletSignatures(crowd, &identityapi.VerifySmartContractWalletSignaturesRequest{Signatures: wallets(1).Signatures[:1]}); err != nil || r.Responses[0].Error != nil {
				refused <- struct{}{}
			}
		})
	}
	for range 400 - 128 {
		<-refused
	}
	began := time.Now()
	r, err := n.VerifySmartContractWalletSignatures(t.Context(), &identityapi.VerifySmartContractWalletSignaturesRequest{Signatures: wallets(2).Signatures[:1]})
	if err != nil || r.Responses[0].Error == nil || time.Since(began) > 5*time.Second {
		// "0x2" is no verdict; that it came is what counts.
		t.Errorf("beside a slow chain, another was asked in %v: %v, %v", time.Since(began), r, err)
	}
}

// A class that is full says so by name, at once or when the asker's time is over,
// and a caller with a name fills no more than half of it.
func TestFullClassIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Config{Now: func() time.Time { return now }})
		held := &heldLog{Bus: b, open: make(chan struct{})}
		n := serveOn(t, b, func(bus.Bus) bus.Bus { return held }, node.Limits{Concurrent: 4, Waiting: 8})
		query := func(caller string) error {
			ctx := t.Context()
			if caller != "" {
				ctx = node.WithCaller(ctx, caller)
			}
			_, err := n.node.QueryGroupMessages(ctx, &mlsapi.QueryGroupMessagesRequest{GroupId: make([]byte, 16)})
			return err
		}
		var waiting sync.WaitGroup
		ends := func(caller string, count int) chan error {
			out := make(chan error, count)
			for range count {
				waiting.Go(func() { out <- query(caller) })
			}
			synctest.Wait()
			return out
		}
		greedy := ends("greedy", 20)
		if got := len(greedy); got != 20-2-4 {
			t.Errorf("%d of one caller's 20 requests were refused at once", got)
		}
		if held.reading() != 2 {
			t.Errorf("one caller has %d of 4 places", held.reading())
		}
		modest := ends("modest", 1)
		if held.reading() != 3 {
			t.Error("another caller waits behind the first")
		}
		nameless := ends("", 10)
		if got := len(nameless); got != 10-1-4 {
			t.Errorf("%d of 10 were refused at once where 1 has a place and 4 may wait", got)
		}
		for range len(greedy) {
			wantCode(t, <-greedy, bus.CodeExhausted)
		}
		// The others have what they came for, or their time is over.
		time.Sleep(31 * time.Second)
		close(held.open)
		waiting.Wait()
		close(greedy)
		for err := range greedy {
			wantCode(t, err, bus.CodeUnavailable)
		}
		wantCode(t, <-modest, bus.CodeUnavailable)
		if err := query("greedy"); err != nil {
			t.Errorf("when all is over: %v", err)
		}
	})
}

// A heldLog answers no read before it is opened, or the reader's time is over.
type heldLog struct {
	bus.Bus
	open chan struct{}
	mu   sync.Mutex
	held int
}

func (h *heldLog) reading() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.held
}

func (h *heldLog) hold(ctx context.Context) error {
	h.mu.Lock()
	h.held++
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.held--
		h.mu.Unlock()
	}()
	select {
	case <-h.open:
		return nil
	case <-ctx.Done():
		return errors.Join(bus.ErrUnavailable, ctx.Err())
	}
}

func (h *heldLog) Read(ctx context.Context, after bus.ID, limit int, topics ...bus.Topic) ([]bus.Envelope, error) {
	if err := h.hold(ctx); err != nil {
		return nil, err
	}
	return h.Bus.Read(ctx, after, limit, topics...)
}

func (h *heldLog) Last(ctx context.Context, topics ...bus.Topic) ([]bus.ID, error) {
	if err := h.hold(ctx); err != nil {
		return nil, err
	}
	return h.Bus.Last(ctx, topics...)
}
