package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/proto/identityapi"
)

const (
	maxSignatures = 50 // of one request
	verifiers     = 8  // that verify one request's signatures at a time
)

// VerifySmartContractWalletSignatures asks contracts about signatures, for those
// who have no chain to ask, and answers in the order asked. A signature that is
// not the contract's is not valid; one about which there is no answer, since it
// is not well formed or no chain could be asked, is not valid and has an error.
func (n *Node) VerifySmartContractWalletSignatures(ctx context.Context, request *identityapi.VerifySmartContractWalletSignaturesRequest) (*identityapi.VerifySmartContractWalletSignaturesResponse, error) {
	return answer(ctx, n, chainWork, request, n.verifySignatures)
}

func (n *Node) verifySignatures(ctx context.Context, request *identityapi.VerifySmartContractWalletSignaturesRequest) (*identityapi.VerifySmartContractWalletSignaturesResponse, error) {
	signatures := request.GetSignatures()
	// Real clients panic on an empty answer.
	if len(signatures) == 0 || len(signatures) > maxSignatures {
		return nil, fmt.Errorf("%w: asks for %d signatures, want 1 to %d", errInvalid, len(signatures), maxSignatures)
	}
	// Each signature is a question, and costs as one.
	if err := n.budgets.ask(n.config.Now(), callerOf(ctx), len(signatures)); err != nil {
		return nil, err
	}
	response := &identityapi.VerifySmartContractWalletSignaturesResponse{
		Responses: make([]*identityapi.VerifySmartContractWalletSignaturesResponse_ValidationResponse, len(signatures)),
	}
	var g errgroup.Group
	g.SetLimit(verifiers)
	for i, s := range signatures {
		g.Go(func() error {
			response.Responses[i] = n.verifyContract(ctx, s)
			return nil
		})
	}
	return response, g.Wait()
}

func (n *Node) verifyContract(ctx context.Context, s *identityapi.VerifySmartContractWalletSignatureRequestSignature) *identityapi.VerifySmartContractWalletSignaturesResponse_ValidationResponse {
	failed := func(err error) *identityapi.VerifySmartContractWalletSignaturesResponse_ValidationResponse {
		text := err.Error()
		return &identityapi.VerifySmartContractWalletSignaturesResponse_ValidationResponse{Error: &text}
	}
	account, err := identity.ParseAccount(s.GetAccountId())
	if err != nil {
		return failed(err)
	}
	if len(s.GetHash()) != 32 {
		return failed(fmt.Errorf("%w: hash of %d bytes, want 32", errInvalid, len(s.GetHash())))
	}
	at, err := n.inTime(ctx).VerifyContract(account, s.BlockNumber, [32]byte(s.GetHash()), s.GetSignature())
	if errors.Is(err, identity.ErrNeedChain) {
		return failed(err)
	}
	return &identityapi.VerifySmartContractWalletSignaturesResponse_ValidationResponse{IsValid: err == nil, BlockNumber: &at}
}

// verifyTimeout bounds how long a host waits for a node's verdict on a contract's
// signature.
const verifyTimeout = 20 * time.Second

var errNotSigned = errors.New("node: the contract did not sign this")

// VerifyContract asks a node whether a smart contract wallet signed, as a host
// does that has no chain of its own: it believes the node. With
// ethereum.Verifier{Chain: client} it verifies whole updates so.
func (c *Client) VerifyContract(account identity.Account, block *uint64, hash [32]byte, sig []byte) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), verifyTimeout)
	defer cancel()
	answer := new(identityapi.VerifySmartContractWalletSignaturesResponse)
	err := c.ask(ctx, bus.VerifySignatures, &identityapi.VerifySmartContractWalletSignaturesRequest{
		Signatures: []*identityapi.VerifySmartContractWalletSignatureRequestSignature{
			{AccountId: account.String(), BlockNumber: block, Signature: sig, Hash: hash[:]},
		},
	}, answer)
	if err == nil && len(answer.GetResponses()) != 1 {
		err = errShortAnswer
	}
	if err != nil {
		return 0, fmt.Errorf("node: verify contract signature: %w: %w", err, identity.ErrNeedChain)
	}
	switch verdict := answer.GetResponses()[0]; {
	case verdict.GetIsValid():
		return verdict.GetBlockNumber(), nil
	case verdict.Error != nil:
		return 0, fmt.Errorf("node: verify contract signature: %.300s: %w", verdict.GetError(), identity.ErrNeedChain)
	default:
		return verdict.GetBlockNumber(), errNotSigned
	}
}
