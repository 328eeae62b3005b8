package gateway_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/conclave-chat/conclave/gateway"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// Health is what the node can do now, and who watches it is told of each change.
func TestHealthFollowsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		n, dial := openPiped(t, gateway.Config{Ready: func(context.Context) error {
			if down.Load() {
				return errors.New("the log does not answer")
			}
			return nil
		}})
		h := overHTTP2(t, dial)
		ask := func(method string) io.ReadCloser {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.url+"/grpc.health.v1.Health/"+method, strings.NewReader(string(frame(nil))))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/grpc")
			answer, err := h.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			return answer.Body
		}
		next := func(body io.Reader) string {
			b := make([]byte, len(frame([]byte{8, 1})))
			if _, err := io.ReadFull(body, b); err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		serving, notServing := string(frame([]byte{8, 1})), string(frame([]byte{8, 2}))
		check := func(want string) {
			t.Helper()
			body := ask("Check")
			defer body.Close()
			if got := next(body); got != want {
				t.Errorf("Check answers %q, want %q", got, want)
			}
		}
		watch := ask("Watch")
		defer watch.Close()
		for i, want := range []string{serving, notServing, serving} {
			down.Store(i == 1)
			check(want)
			if got := next(watch); got != want {
				t.Errorf("Watch tells of %q, want %q", got, want)
			}
		}
	})
}

// A token counts until its time, and what it opened ends soon after it.
func TestExpiredTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		until := time.Now().Add(10 * time.Minute)
		tokens, err := gateway.ParseTokens(strings.NewReader(fmt.Sprintf("alice %x %s\n", sha256.Sum256([]byte("sesame")), until.Format(time.RFC3339))))
		if err != nil {
			t.Fatal(err)
		}
		n, dial := openPiped(t, gateway.Config{Authenticate: tokens.Authenticate})
		h := overHTTP2(t, dial)
		allowed := func() error { return getInboxes(t.Context(), h, n.url, "Bearer sesame", connect.WithGRPC()) }
		if err := allowed(); err != nil {
			t.Fatal(err)
		}
		request := connect.NewRequest(followed(0, groupID(1)))
		request.Header().Set("Authorization", "Bearer sesame")
		s, err := connect.NewClient[mlsapi.SubscribeGroupMessagesRequest, mlsapi.GroupMessage](h, n.url+mlsPath+"SubscribeGroupMessages", connect.WithGRPC()).CallServerStream(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if s.Receive() { // nothing is published
			t.Error("a message")
		}
		wantCode(t, s.Err(), connect.CodeUnauthenticated)
		if late := time.Since(until); late < 0 || late > time.Minute {
			t.Errorf("the stream ends %v after the token", late)
		}
		wantCode(t, allowed(), connect.CodeUnauthenticated)
	})
}
