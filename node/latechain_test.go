package node_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/identityapi"
)

// A lateChain answers late, but in time.
type lateChain struct{}

func (lateChain) VerifyContract(a identity.Account, block *uint64, hash [32]byte, sig []byte) (uint64, error) {
	<-time.After(9 * time.Second)
	return scriptedChain{}.VerifyContract(a, block, hash, sig)
}

// contractSignature is what scriptedChain takes for one.
func contractSignature(a identity.Identifier) *associations.Signature {
	return &associations.Signature{Signature: &associations.Signature_Erc_6492{Erc_6492: &associations.SmartContractWalletSignature{
		AccountId: identity.Account{Chain: 1, Address: a}.String(), BlockNumber: 42, Signature: a.Bytes(),
	}}}
}

// manyContracts is a registration that so many more contracts sign.
func manyContracts(t *testing.T, n int) *associations.IdentityUpdate {
	owner := identity.AddressFrom([20]byte{7})
	inbox, err := identity.InboxID(owner, identity.DefaultNonce)
	if err != nil {
		t.Fatal(err)
	}
	d := identity.NewDraft(inbox, now).CreateInbox(owner, identity.DefaultNonce)
	all := []identity.Identifier{owner}
	for i := range n {
		m := identity.AddressFrom([20]byte{8, byte(i), 1})
		d.Add(m, owner)
		all = append(all, m)
	}
	for _, m := range all {
		if err := d.Attach(m, contractSignature(m)); err != nil {
			t.Fatal(err)
		}
	}
	return sign(t, d)
}

// A request is bounded also where a chain is asked.
func TestChainAskedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, n := withChain(t, lateChain{})
		update := manyContracts(t, 60)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		began := time.Now()
		_, err := n.PublishIdentityUpdate(ctx, publishRequest(update))
		if took := time.Since(began); took > time.Minute {
			t.Errorf("a request with a deadline of 15 s kept its slot for %v: %v", took, err)
		}
	})
}

// The same for a read of what others published.
func TestChainAskedForLongByRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, first := withChain(t, scriptedChain{})
		update := manyContracts(t, 60)
		if _, err := first.PublishIdentityUpdate(t.Context(), publishRequest(update)); err != nil {
			t.Fatal(err)
		}
		first.Close()
		second, err := node.Serve(t.Context(), b, node.Config{Verifier: ethereum.Verifier{Chain: lateChain{}}, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(second.Close)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		began := time.Now()
		_, err = second.GetIdentityUpdates(ctx, getRequest(update.GetInboxId()))
		if took := time.Since(began); took > time.Minute {
			t.Errorf("a request with a deadline of 15 s kept its slot for %v: %v", took, err)
		}
	})
}

func publishRequest(u *associations.IdentityUpdate) *identityapi.PublishIdentityUpdateRequest {
	return &identityapi.PublishIdentityUpdateRequest{IdentityUpdate: u}
}

func getRequest(inbox string) *identityapi.GetIdentityUpdatesRequest {
	return &identityapi.GetIdentityUpdatesRequest{Requests: []*identityapi.GetIdentityUpdatesRequest_Request{{InboxId: inbox}}}
}
