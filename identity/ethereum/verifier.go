// Package ethereum is the cryptography of Ethereum wallets for package identity:
// EIP-191 signatures, the addresses that made them, and keys that make them.
package ethereum

import (
	"errors"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/conclave-chat/conclave/identity"
)

// ErrNoChain: a smart contract wallet signed, and there is nobody to ask about
// its chain. identity.ErrNeedChain is in its chain: the update may yet be valid.
var ErrNoChain = fmt.Errorf("ethereum: no chain configured: %w", identity.ErrNeedChain)

var errBadSignature = errors.New("ethereum: bad signature")

// A Chain asks smart contract wallets as identity.Verifier says. Chains asks them
// over JSON-RPC; package node's Client lets a node ask.
type Chain interface {
	VerifyContract(account identity.Account, block *uint64, hash [32]byte, sig []byte) (uint64, error)
}

// A Verifier implements identity.Verifier. The zero Verifier verifies everything
// but smart contract wallets. It is safe for concurrent use where its Chain is.
type Verifier struct {
	Chain Chain
}

var _ identity.Verifier = Verifier{}

// RecoverEOA implements identity.Verifier.
func (Verifier) RecoverEOA(message string, sig []byte) (identity.Identifier, []byte, error) {
	canonical, err := Canonical(sig)
	if err != nil {
		return identity.Identifier{}, nil, err
	}
	hash := identity.HashMessage(message)
	key, err := crypto.SigToPub(hash[:], canonical)
	if err != nil {
		return identity.Identifier{}, nil, fmt.Errorf("%w: %w", errBadSignature, err)
	}
	return identity.AddressFrom(crypto.PubkeyToAddress(*key)), canonical, nil
}

// AddressOf implements identity.Verifier.
func (Verifier) AddressOf(publicKey []byte) (identity.Identifier, error) {
	parse := crypto.UnmarshalPubkey
	if len(publicKey) == 33 {
		parse = crypto.DecompressPubkey
	}
	key, err := parse(publicKey)
	if err != nil {
		return identity.Identifier{}, fmt.Errorf("ethereum: read public key: %w", err)
	}
	return identity.AddressFrom(crypto.PubkeyToAddress(*key)), nil
}

// VerifyContract implements identity.Verifier.
func (v Verifier) VerifyContract(account identity.Account, block *uint64, hash [32]byte, sig []byte) (uint64, error) {
	if v.Chain == nil {
		return 0, ErrNoChain
	}
	return v.Chain.VerifyContract(account, block, hash, sig)
}

// order is the order of secp256k1's group, and halfOrder its half, rounded down.
var (
	order     = crypto.S256().Params().N
	halfOrder = new(big.Int).Rsh(order, 1)
)

// Canonical returns the one spelling of a recoverable signature: 65 bytes
// R‖S‖V with S in the lower half and V 0 or 1. Other spellings of the same
// signature, all of which recover the same key, are the twin with n-S and the
// other V (EIP-2), V counted from 27, and ERC-2098's 64 bytes with V in S's
// highest bit.
func Canonical(sig []byte) ([]byte, error) {
	out := make([]byte, 65)
	copy(out, sig)
	switch len(sig) {
	case 64:
		out[64] = out[32] >> 7
		out[32] &= 0x7f
	case 65:
		if out[64] >= 27 {
			out[64] -= 27
		}
		if out[64] > 1 {
			return nil, fmt.Errorf("%w: recovery id %d", errBadSignature, sig[64])
		}
	default:
		return nil, fmt.Errorf("%w: %d bytes, want 64 or 65", errBadSignature, len(sig))
	}
	s := new(big.Int).SetBytes(out[32:64])
	if s.Cmp(order) >= 0 {
		return nil, fmt.Errorf("%w: S is not below the group's order", errBadSignature)
	}
	if s.Cmp(halfOrder) > 0 {
		s.Sub(order, s).FillBytes(out[32:64])
		out[64] ^= 1
	}
	return out, nil
}
