package gateway_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/conclave-chat/conclave/gateway"
	"github.com/conclave-chat/conclave/proto/identityapi"
	"github.com/conclave-chat/conclave/proto/messageapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

var update = flag.Bool("update", false, "write the table of callers into docs/security.md")

const callersBegin, callersEnd = "<!-- callers: made by gateway TestWhoMayCall -->\n", "<!-- end of callers -->\n"

// A procedure is one that a caller may try.
type procedure struct {
	path  string
	stays bool // it is a stream that stays open
}

// declared are all that XMTP's services declare, and what supervisors and tools ask.
func declared() (all []procedure) {
	for _, file := range []protoreflect.FileDescriptor{mlsapi.File_mlsapi_mlsapi_proto, identityapi.File_identityapi_identityapi_proto, messageapi.File_messageapi_messageapi_proto} {
		for i := range file.Services().Len() {
			s := file.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				all = append(all, procedure{"/" + string(s.FullName()) + "/" + string(m.Name()), m.IsStreamingServer()})
			}
		}
	}
	return append(all, procedure{path: "/grpc.health.v1.Health/Check"}, procedure{path: "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"})
}

// Who may call what, tried procedure by procedure: docs/security.md has the table.
func TestWhoMayCall(t *testing.T) {
	line := func(name string, until time.Time) string {
		return fmt.Sprintf("%s %x %s\n", name, sha256.Sum256([]byte(name)), until.UTC().Format(time.RFC3339))
	}
	tokens, err := gateway.ParseTokens(strings.NewReader(line("alice", time.Now().Add(time.Hour)) + line("bob", time.Now().Add(-time.Second))))
	if err != nil {
		t.Fatal(err)
	}
	closed, public := open(t, gateway.Config{Authenticate: tokens.Authenticate}), open(t, gateway.Config{})
	h := overHTTP2(t, nil)
	// The status of a call without a field: what it asks for does not matter.
	status := func(url, token string, p procedure) string {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+p.path, bytes.NewReader(make([]byte, 5)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/grpc")
		r.Header.Set("Te", "trailers")
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		answer, err := h.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if refused := answer.Header.Get("Grpc-Status"); refused != "" || p.stays {
			return refused // none: it is open
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			t.Fatal(err)
		}
		return answer.Trailer.Get("Grpc-Status")
	}
	const unimplemented, unauthenticated = "12", "16"
	columns := []struct {
		name, url, token string
		in               bool
	}{
		{"without a token", closed.url, "", false},
		{"wrong token", closed.url, "mallory", false},
		{"expired token", closed.url, "bob", false},
		{"token", closed.url, "alice", true},
		{"anybody, where the API is open", public.url, "", true},
	}
	table := "| procedure |"
	for _, c := range columns {
		table += " " + c.name + " |"
	}
	table += "\n|" + strings.Repeat("---|", len(columns)+1) + "\n"
	for _, p := range declared() {
		table += "| `" + p.path + "` |"
		for _, c := range columns {
			got := status(c.url, c.token, p)
			word := map[string]string{unauthenticated: "no", unimplemented: "unknown"}[got]
			if word == "" {
				word = "yes"
			}
			if may := c.in || strings.HasPrefix(p.path, "/grpc.health."); word == "no" == may || !may && word != "no" {
				t.Errorf("%s, %s: %s", p.path, c.name, word)
			}
			table += " " + word + " |"
		}
		table += "\n"
	}

	document := filepath.Join("..", "docs", "security.md")
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(text), callersBegin)
	_, behind, found := strings.Cut(rest, callersEnd)
	made := before + callersBegin + table + callersEnd + behind
	switch {
	case !found:
		t.Errorf("%s has no place for the table", document)
	case *update:
		if err := os.WriteFile(document, []byte(made), 0o644); err != nil {
			t.Fatal(err)
		}
	case made != string(text):
		t.Errorf("%s has another table: go test ./gateway -run TestWhoMayCall -update", document)
	}
}
