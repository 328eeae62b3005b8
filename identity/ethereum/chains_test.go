package ethereum_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var wallet = identity.Account{Chain: 1, Address: identity.AddressFrom([20]byte{1})}

// respond answers as a JSON-RPC endpoint of chain 1 whose eth_call has a result.
func respond(call string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var request struct{ Method string }
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		result := map[string]string{"eth_chainId": `"0x1"`, "eth_blockNumber": `"0x10"`, "eth_call": call}[request.Method]
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":1,"result":%s}`, result)
	}
}

func ask(t *testing.T, handler http.HandlerFunc) error {
	t.Helper()
	server := httptest.NewServer(handler)
	defer server.Close()
	return askAt(t, server.URL)
}

func askAt(t *testing.T, url string) error {
	t.Helper()
	chains, err := ethereum.NewChains(map[uint64]string{1: url + "/v3/secret"})
	if err != nil {
		t.Fatal(err)
	}
	defer chains.Close()
	_, err = ethereum.Verifier{Chain: chains}.VerifyContract(wallet, nil, [32]byte{}, []byte("signature"))
	return err
}

// What an endpoint answers is a verdict only where it is one byte of the
// validator's; whatever else happens means that nobody could be asked. No error
// shows the URL, in which providers put their customers' keys.
func TestEndpointsThatFail(t *testing.T) {
	if err := ask(t, respond(`"0x01"`)); err != nil {
		t.Errorf("yes: %v", err)
	}
	if err := ask(t, respond(`"0x00"`)); err == nil || errors.Is(err, identity.ErrNeedChain) {
		t.Errorf("no: %v", err)
	}
	raw := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			w.Write([]byte(body))
		}
	}
	for name, handler := range map[string]http.HandlerFunc{
		"nothing":             respond(`"0x"`),
		"two bytes":           respond(`"0x0101"`),
		"a fourth answer":     respond(`"0x03"`),
		"no hex":              respond(`"yes"`),
		"a number":            respond(`1`),
		"null":                respond(`null`),
		"10 MB":               respond(`"0x` + strings.Repeat("00", 10<<20) + `"`),
		"an error":            raw(200, `{"id":1,"error":{"code":-32000,"message":"missing trie node"}}`),
		"an error with a 429": raw(429, `{"id":1,"error":{"code":-32005,"message":"slow down"}}`),
		"a bare 500":          raw(500, "oops"),
		"HTML":                raw(200, "<html>"),
		"an empty body":       raw(200, ""),
		"an array":            raw(200, "[]"),
		"a hang-up":           func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"redirects for ever": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		},
	} {
		err := ask(t, handler)
		if !errors.Is(err, identity.ErrNeedChain) {
			t.Errorf("%s: %v, want no answer", name, err)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "127.0.0.1") || len(err.Error()) > 400) {
			t.Errorf("%s: the error says %s", name, err)
		}
	}
}

func TestEndpointThatIsDown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	l.Close()
	for _, url := range []string{url, "http://name.invalid"} {
		err := askAt(t, url)
		if !errors.Is(err, identity.ErrNeedChain) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), strings.TrimPrefix(url, "http://")) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// Close does not wait for an endpoint that does not answer.
func TestCloseEndsWhatIsAsked(t *testing.T) {
	asked := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // only then the server notices a hang-up
		close(asked)
		<-r.Context().Done()
	}))
	defer server.Close()
	chains, err := ethereum.NewChains(map[uint64]string{1: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := chains.VerifyContract(wallet, nil, [32]byte{}, nil)
		ended <- err
	}()
	<-asked
	chains.Close()
	if err := <-ended; !errors.Is(err, identity.ErrNeedChain) {
		t.Errorf("err = %v", err)
	}
}

// Without an endpoint the answer is "wait", and how to give one.
func TestChainWithoutEndpoint(t *testing.T) {
	chains, err := ethereum.NewChains(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer chains.Close()
	_, err = chains.VerifyContract(wallet, nil, [32]byte{}, nil)
	if !errors.Is(err, identity.ErrNeedChain) || !strings.Contains(err.Error(), "--rpc 1=URL") {
		t.Errorf("err = %v", err)
	}
	if _, err := (ethereum.Verifier{}).VerifyContract(wallet, nil, [32]byte{}, nil); !errors.Is(err, ethereum.ErrNoChain) || !errors.Is(err, identity.ErrNeedChain) {
		t.Errorf("zero Verifier: %v", err)
	}
}

func TestEndpointURLs(t *testing.T) {
	for chain, url := range map[uint64]string{0: "https://x", 1: "", 2: "wss://secret", 3: "http://", 4: "http://secret\x7f", 5: "secret"} {
		if _, err := ethereum.NewChains(map[uint64]string{chain: url}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("chain %d, %q: %v", chain, url, err)
		}
	}
	chains, err := ethereum.NewChains(map[uint64]string{1: "https://user:secret@host/secret"})
	if err != nil {
		t.Fatal(err)
	}
	defer chains.Close()
	if printed := fmt.Sprintf("%v %+v %#v", chains, ethereum.Verifier{Chain: chains}, chains); strings.Contains(printed, "secret") {
		t.Errorf("printed %s", printed)
	}
}

// An endpoint that is slow gets no more questions than it may: who asks one too
// many is told so at once.
func TestSlowEndpointIsNotCrowded(t *testing.T) {
	released := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-released }))
	defer server.Close()
	chains, err := ethereum.NewChains(map[uint64]string{1: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer chains.Close()
	defer close(released)
	answers := make(chan error, 200)
	for range cap(answers) {
		go func() {
			_, err := chains.VerifyContract(wallet, nil, [32]byte{}, []byte("signature"))
			answers <- err
		}()
	}
	for range cap(answers) - 128 {
		if err := <-answers; !errors.Is(err, identity.ErrNeedChain) || !strings.Contains(err.Error(), "too many questions") {
			t.Fatalf("one question too many: %v", err)
		}
	}
	if n := len(answers); n != 0 {
		t.Errorf("%d more were answered", n)
	}
	chains.Close()
	for range 128 {
		<-answers
	}
}
