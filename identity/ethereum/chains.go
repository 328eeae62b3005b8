package ethereum

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/conclave-chat/conclave/identity"
)

const (
	// askTimeout bounds one verification, with all its requests.
	askTimeout = 10 * time.Second
	// maxInitCode is the most bytes of init code that a chain takes (EIP-3860). A
	// validator is longer than a signature by less than a KiB.
	maxInitCode = 48 << 10
	// keepAnswer is how long an answer is remembered. At its block it would hold
	// for ever, had chains not been known to take their newest blocks back.
	keepAnswer = 10 * time.Minute
	// maxAnswers is how many are remembered, about 100 bytes each.
	maxAnswers = 10_000
)

// Chains asks smart contract wallets over the JSON-RPC endpoint of each chain
// (ERC-1271), also those that are not deployed yet (ERC-6492), and takes the
// signature of a key where the account turns out to be no contract. Every
// question is one eth_call that runs a program of this package, see validator;
// the chain's state at the block must still be there, which for blocks older
// than some minutes takes an archive node.
//
// It implements Chain, is safe for concurrent use, and prints no URL.
type Chains struct {
	endpoints map[uint64]*endpoint
	ctx       context.Context // ends with Close
	cancel    context.CancelFunc

	mu      sync.Mutex
	answers map[[32]byte]answered
}

type answered struct {
	yes   bool
	until time.Time
}

var _ Chain = (*Chains)(nil)

// NewChains takes the http or https URL of a JSON-RPC endpoint for each chain id.
// None is asked yet: one that is down does not keep a node from starting. Of a
// chain that is not there, Chains has no answer.
//
// An endpoint is asked at an address that is public, or that its URL names as a
// number or as localhost: a name that leads into the private network is refused, so
// that whoever rules the name chooses no target there. See AllowPrivate.
func NewChains(urls map[uint64]string, opts ...ChainsOption) (*Chains, error) {
	c := &Chains{endpoints: make(map[uint64]*endpoint, len(urls)), answers: map[[32]byte]answered{}}
	var o chainsOptions
	for _, f := range opts {
		f(&o)
	}
	for chain, url := range urls {
		if chain == 0 {
			return nil, errors.New("ethereum: there is no chain 0")
		}
		var err error
		if c.endpoints[chain], err = newEndpoint(chain, url, o.private); err != nil {
			return nil, err
		}
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// Close ends what is being asked, and the connections.
func (c *Chains) Close() {
	c.cancel()
	for _, e := range c.endpoints {
		e.client.CloseIdleConnections()
	}
}

// VerifyContract implements Chain.
func (c *Chains) VerifyContract(account identity.Account, block *uint64, hash [32]byte, sig []byte) (uint64, error) {
	e := c.endpoints[account.Chain]
	if e == nil {
		return 0, fmt.Errorf("ethereum: chain %d has no RPC endpoint here: name one in Config.Chains, or with serve --rpc %d=URL: %w",
			account.Chain, account.Chain, identity.ErrNeedChain)
	}
	d, inner, err := unwrap(sig)
	if err != nil {
		return 0, err
	}
	code := validator(common.BytesToAddress(account.Address.Bytes()), d, isValidSignature(hash, inner))
	if len(code) > maxInitCode {
		return 0, fmt.Errorf("%w: %d bytes are too many to ask about", errBadSignature, len(sig))
	}
	ctx, cancel := context.WithTimeout(c.ctx, askTimeout)
	defer cancel()
	at, yes, err := c.ask(ctx, e, account, block, hash, sig, code)
	switch {
	case err != nil:
		return 0, fmt.Errorf("ethereum: ask chain %d: %w: %w", account.Chain, err, identity.ErrNeedChain)
	case !yes:
		return at, fmt.Errorf("%w: account %s says no at block %d", errBadSignature, account, at)
	}
	return at, nil
}

// ask finds the answer in memory or at the endpoint.
func (c *Chains) ask(ctx context.Context, e *endpoint, account identity.Account, block *uint64, hash [32]byte, sig, code []byte) (at uint64, yes bool, err error) {
	if err := e.check(ctx); err != nil {
		return 0, false, err
	}
	if block != nil {
		at = *block
	} else if at, err = e.newest(ctx); err != nil {
		return 0, false, err
	}
	key := answerKey(account, at, hash, sig)
	if yes, known := c.recall(key); known {
		return at, yes, nil
	}
	returned, err := e.run(ctx, code, at)
	if err != nil {
		return 0, false, err
	}
	if len(returned) != 1 || returned[0] > answerNoCode {
		return 0, false, errors.New("its reply is not what was asked for")
	}
	yes = returned[0] == answerYes || returned[0] == answerNoCode && signedByKey(account.Address, hash, sig)
	c.remember(key, yes)
	return at, yes, nil
}

// signedByKey reports whether sig is that of the key whose address this is, in its
// one canonical spelling with V counted from 27.
func signedByKey(address identity.Identifier, hash [32]byte, sig []byte) bool {
	canonical, err := Canonical(sig)
	if err != nil {
		return false
	}
	key, err := crypto.SigToPub(hash[:], canonical)
	if err != nil {
		return false
	}
	canonical[64] += 27
	return bytes.Equal(canonical, sig) && identity.AddressFrom(crypto.PubkeyToAddress(*key)) == address
}

func answerKey(account identity.Account, block uint64, hash [32]byte, sig []byte) (key [32]byte) {
	h := sha256.New()
	var fixed [16]byte
	binary.BigEndian.PutUint64(fixed[:8], account.Chain)
	binary.BigEndian.PutUint64(fixed[8:], block)
	h.Write(fixed[:])
	h.Write(account.Address.Bytes())
	h.Write(hash[:])
	h.Write(sig)
	h.Sum(key[:0])
	return key
}

func (c *Chains) recall(key [32]byte) (yes, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, known := c.answers[key]
	return a.yes, known && time.Now().Before(a.until)
}

func (c *Chains) remember(key [32]byte, yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for victim := range c.answers { // any: the map's order is random
		if len(c.answers) < maxAnswers {
			break
		}
		delete(c.answers, victim)
	}
	c.answers[key] = answered{yes, time.Now().Add(keepAnswer)}
}
