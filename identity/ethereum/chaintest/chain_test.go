package chaintest_test

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/eth/ethconfig"
	"github.com/ethereum/go-ethereum/ethclient/simulated"
	gethnode "github.com/ethereum/go-ethereum/node"
	"github.com/ethereum/go-ethereum/params"
	"github.com/ethereum/go-ethereum/rpc"

	"github.com/conclave-chat/conclave/identity"
	conclave "github.com/conclave-chat/conclave/identity/ethereum"
)

// chainID is that of every simulated chain.
const chainID = 1337

//go:embed testdata/wallets.json
var walletsJSON []byte

// initCode returns what makes a contract of testdata/wallets.sol, with its
// constructor's arguments.
func initCode(t testing.TB, name string, args ...[]byte) []byte {
	t.Helper()
	var contracts map[string]string
	if err := json.Unmarshal(walletsJSON, &contracts); err != nil {
		t.Fatal(err)
	}
	code, err := hex.DecodeString(contracts[name])
	if err != nil || len(code) == 0 {
		t.Fatalf("contract %s: %d bytes, %v", name, len(code), err)
	}
	return bytes.Join(append([][]byte{code}, args...), nil)
}

// A chain is a simulated one behind a JSON-RPC endpoint over HTTP, and an account
// with money on it.
type chain struct {
	*simulated.Backend
	t     testing.TB
	rich  *conclave.Key
	calls atomic.Int64 // eth_calls that came in
	url   string
}

func newChain(t testing.TB) *chain {
	t.Helper()
	rich, err := conclave.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "chain") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "rpc")
	c := &chain{t: t, rich: rich}
	c.Backend = simulated.NewBackend(types.GenesisAlloc{
		addressOf(rich): {Balance: new(big.Int).Lsh(big.NewInt(1), 100)},
	}, func(node *gethnode.Config, _ *ethconfig.Config) { node.IPCPath = socket })
	t.Cleanup(func() { c.Backend.Close() })
	inside, err := rpc.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(inside.Close)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.serve(inside, w, r) }))
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

// serve hands a request on to the chain's own RPC server.
func (c *chain) serve(inside *rpc.Client, w http.ResponseWriter, r *http.Request) {
	var request struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
		Params []any           `json:"params"`
	}
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if request.Method == "eth_call" {
		c.calls.Add(1)
	}
	reply := map[string]any{"jsonrpc": "2.0", "id": request.ID}
	var result json.RawMessage
	if err := inside.CallContext(r.Context(), &result, request.Method, request.Params...); err != nil {
		reply["error"] = map[string]any{"code": -32000, "message": err.Error()}
	} else {
		reply["result"] = result
	}
	json.NewEncoder(w).Encode(reply)
}

// chains returns a verifier that asks this chain.
func (c *chain) chains() *conclave.Chains {
	c.t.Helper()
	chains, err := conclave.NewChains(map[uint64]string{chainID: c.url})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(chains.Close)
	return chains
}

// send puts one transaction into a block of its own; a nil address makes a
// contract. It returns the contract's address and the block's number.
func (c *chain) send(from *conclave.Key, to *common.Address, value int64, data []byte) (common.Address, uint64) {
	c.t.Helper()
	ctx := context.Background()
	key, err := crypto.ToECDSA(from.PrivateBytes())
	if err != nil {
		c.t.Fatal(err)
	}
	nonce, err := c.Client().PendingNonceAt(ctx, addressOf(from))
	if err != nil {
		c.t.Fatal(err)
	}
	tx, err := types.SignNewTx(key, types.LatestSignerForChainID(big.NewInt(chainID)), &types.DynamicFeeTx{
		ChainID: big.NewInt(chainID), Nonce: nonce, To: to, Value: big.NewInt(value), Data: data, Gas: 3_000_000,
		GasTipCap: big.NewInt(params.GWei), GasFeeCap: big.NewInt(100 * params.GWei),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.Client().SendTransaction(ctx, tx); err != nil {
		c.t.Fatal(err)
	}
	c.Commit()
	receipt, err := c.Client().TransactionReceipt(ctx, tx.Hash())
	if err != nil || receipt.Status != types.ReceiptStatusSuccessful {
		c.t.Fatalf("transaction failed: %v %v", receipt, err)
	}
	return receipt.ContractAddress, receipt.BlockNumber.Uint64()
}

// deploy makes a contract.
func (c *chain) deploy(name string, args ...[]byte) (common.Address, uint64) {
	c.t.Helper()
	return c.send(c.rich, nil, 0, initCode(c.t, name, args...))
}

// newest is the number of the newest block.
func (c *chain) newest() uint64 {
	c.t.Helper()
	n, err := c.Client().BlockNumber(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// A future wallet is one that a factory can make.
type future struct {
	owner   *conclave.Key
	address common.Address
	factory common.Address
	deploy  []byte // the call that makes it
}

func (c *chain) future(factory common.Address, owner *conclave.Key) future {
	c.t.Helper()
	salt := crypto.Keccak256([]byte("salt"))
	ask := call("addressOf(address,bytes32)", word(addressOf(owner)), salt)
	b, err := c.Client().CallContract(context.Background(), ethereum.CallMsg{To: &factory, Data: ask}, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return future{owner, common.BytesToAddress(b), factory, call("deploy(address,bytes32)", word(addressOf(owner)), salt)}
}

func (f future) wrap(t testing.TB, sig []byte) []byte { return wrap(t, f.factory, f.deploy, sig) }

// wrap makes a signature of ERC-6492, with go-ethereum's own ABI encoder.
func wrap(t testing.TB, factory common.Address, deploy, sig []byte) []byte {
	t.Helper()
	kind := func(name string) abi.Argument {
		typ, err := abi.NewType(name, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		return abi.Argument{Type: typ}
	}
	b, err := abi.Arguments{kind("address"), kind("bytes"), kind("bytes")}.Pack(factory, deploy, sig)
	if err != nil {
		t.Fatal(err)
	}
	return append(b, bytes.Repeat([]byte{0x64, 0x92}, 16)...)
}

// call encodes a call whose arguments are words.
func call(signature string, words ...[]byte) []byte {
	return bytes.Join(append([][]byte{crypto.Keccak256([]byte(signature))[:4]}, words...), nil)
}

func word(a common.Address) []byte { return common.LeftPadBytes(a[:], 32) }

func addressOf(k *conclave.Key) common.Address { return common.HexToAddress(k.Address()) }

func account(a common.Address) identity.Account {
	return identity.Account{Chain: chainID, Address: identity.AddressFrom(a)}
}

func newKey(t testing.TB) *conclave.Key {
	t.Helper()
	k, err := conclave.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func signed(t testing.TB, k *conclave.Key, text string) []byte {
	t.Helper()
	sig, err := k.SignMessage(text)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}
