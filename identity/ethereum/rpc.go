package ethereum

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"

	"github.com/ethereum/go-ethereum/common/hexutil"
)

// maxReply is the most bytes of an endpoint's reply that are read. What is asked
// here is answered in a hundred.
const maxReply = 64 << 10

const (
	// maxConcurrent is how many requests one endpoint gets at a time.
	maxConcurrent = 16
	// maxQuestions is how many are put to one chain at a time, those that wait
	// for their turn included. More are refused at once, so that whoever asks
	// about several chains is held up by the slow one no more than that.
	maxQuestions = 128
)

var errCrowded = errors.New("too many questions at a time: ask again")

// An endpoint is one chain's JSON-RPC server. Its URL often holds a secret, so no
// error repeats it.
type endpoint struct {
	chain  uint64
	url    string
	client *http.Client
	places chan struct{} // one for each question
	slots  chan struct{} // one for each that the server has

	mu      sync.Mutex
	checked bool // it does serve this chain
}

func newEndpoint(chain uint64, rawURL string, private bool) (*endpoint, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("ethereum: the RPC endpoint of chain %d is not an http or https URL", chain)
	}
	return &endpoint{chain: chain, url: rawURL, client: clientFor(u.Hostname(), private), places: make(chan struct{}, maxQuestions), slots: make(chan struct{}, maxConcurrent)}, nil
}

// check makes sure, once, that the endpoint serves its chain: another would answer
// for other contracts.
func (e *endpoint) check(ctx context.Context) error {
	e.mu.Lock()
	checked := e.checked
	e.mu.Unlock()
	if checked {
		return nil
	}
	var serves hexutil.Uint64
	if err := e.ask(ctx, &serves, "eth_chainId"); err != nil {
		return err
	}
	if uint64(serves) != e.chain {
		return fmt.Errorf("it serves chain %d", uint64(serves))
	}
	e.mu.Lock()
	e.checked = true
	e.mu.Unlock()
	return nil
}

// newest returns the number of the newest block.
func (e *endpoint) newest(ctx context.Context) (uint64, error) {
	var number hexutil.Uint64
	err := e.ask(ctx, &number, "eth_blockNumber")
	return uint64(number), err
}

// caller is whom calls seem to come from. It has no key and no money; the default,
// the zero address, is one that some contracts trust as a simulation's.
const caller = "0x636f6e636c6176652e76616c696461746f720000" // "conclave.validator"

// run carries out init code as the chain stood at block, and returns what it
// returns.
func (e *endpoint) run(ctx context.Context, code []byte, block uint64) ([]byte, error) {
	type transaction struct {
		From string         `json:"from"`
		Gas  hexutil.Uint64 `json:"gas"`
		Data hexutil.Bytes  `json:"data"`
	}
	var returned hexutil.Bytes
	err := e.ask(ctx, &returned, "eth_call", transaction{caller, totalGas, code}, hexutil.Uint64(block))
	return returned, err
}

// ask makes one JSON-RPC request over HTTP.
func (e *endpoint) ask(ctx context.Context, result any, method string, params ...any) error {
	select {
	case e.places <- struct{}{}:
		defer func() { <-e.places }()
	default:
		return errCrowded
	}
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	case <-ctx.Done():
		return errCrowded
	}
	if params == nil {
		params = []any{}
	}
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return reason(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := e.client.Do(request)
	if err != nil {
		return reason(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(io.LimitReader(response.Body, maxReply+1))
	if err != nil {
		return reason(err)
	}
	return readReply(response.StatusCode, b, result)
}

func readReply(status int, body []byte, result any) error {
	var reply struct {
		Result json.RawMessage `json:"result"`
		Error  *struct {
			Code    int64  `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	if len(body) > maxReply {
		return fmt.Errorf("its reply is over %d bytes", maxReply)
	}
	err := json.Unmarshal(body, &reply)
	switch {
	case err == nil && reply.Error != nil:
		return fmt.Errorf("error %d: %.200s", reply.Error.Code, reply.Error.Message)
	case status != http.StatusOK:
		return fmt.Errorf("HTTP status %d", status)
	case err != nil || json.Unmarshal(reply.Result, result) != nil:
		return errors.New("its reply is not what was asked for")
	}
	return nil
}

// reason is why a request failed, without the URL or a part of it.
func reason(err error) error {
	var timeout interface{ Timeout() bool }
	var name *net.DNSError
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return errors.New("it did not answer in time")
	case errors.As(err, &name):
		return errors.New("its name does not resolve")
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return err
}
