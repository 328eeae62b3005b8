package conclave_test

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave"
	membus "github.com/conclave-chat/conclave/bus/memory"
	memstore "github.com/conclave-chat/conclave/persistence/memory"
)

var rewriteErrors = flag.Bool("rewrite-errors", false, "write docs/errors.md anew")

// sentinels are the names of the errors that this package exports, by what its files
// declare, with the comment of each.
func sentinels(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			for _, name := range v.Names {
				if strings.HasPrefix(name.Name, "Err") {
					found[name.Name] = strings.TrimSpace(v.Comment.Text())
				}
			}
		}
		return true
	})
	return found
}

// named are the names of the table's errors by their codes, as errors.go writes them.
func named(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		row, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		var name, code string
		for _, e := range row.Elts {
			field, ok := e.(*ast.KeyValueExpr)
			if !ok {
				return true
			}
			switch value := field.Value.(type) {
			case *ast.Ident:
				if field.Key.(*ast.Ident).Name == "err" {
					name = value.Name
				}
			case *ast.SelectorExpr:
				name = value.X.(*ast.Ident).Name + "." + value.Sel.Name
			case *ast.BasicLit:
				if field.Key.(*ast.Ident).Name == "code" {
					code = strings.Trim(value.Value, `"`)
				}
			}
		}
		found[code] = name
		return true
	})
	return found
}

// document is docs/errors.md as the table of errors has it.
func document(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(`# Errors

Every method of package conclave that fails returns a ` + "`*conclave.Error`" + `: one sentence that says what was asked for, what is wrong and what to do, a ` + "`Code`" + ` that stays
the same from one version to the next, and ` + "`Retryable`" + `: the same call may succeed later with nothing changed by the caller. ` + "`errors.Is`" + ` finds the name of the
code, and ` + "`errors.As`" + ` what is wrapped, such as a ` + "`*conclave.GroupFullError`" + `. Whatever fails leaves the store as it was.

An error that is several has the code that comes first here. This file is made from the code: ` + "`go test . -run TestErrorsDocument -rewrite-errors`" + `.

| code | name | again? | what it means | what to do |
|---|---|---|---|---|
`)
	comments, names := sentinels(t), named(t)
	for _, k := range conclave.Kinds() {
		name := names[k.Code]
		meaning, ours := comments[name]
		switch {
		case ours && meaning == "":
			t.Errorf("%s has no comment", name)
		case ours:
			delete(comments, name)
			name = "conclave." + name
		default:
			meaning = "the caller's context ended before the answer"
		}
		again := "no"
		if k.Retryable {
			again = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s | %s |\n", k.Code, name, again, meaning, k.Advice)
	}
	b.WriteString("| `internal` | | no | nothing of the above | this is a fault of Conclave: please report it |\n")
	for name := range comments {
		t.Errorf("%s has no code", name)
	}
	return b.String()
}

// docs/errors.md says of every error what the code says.
func TestErrorsDocument(t *testing.T) {
	want := document(t)
	if *rewriteErrors {
		if err := os.WriteFile("docs/errors.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("docs/errors.md differs from the code; if that is meant: go test . -run TestErrorsDocument -rewrite-errors\n%s", firstDifference(want, string(got)))
	}
}

// aSentence fails the test unless an error is one: one prefix, no names of packages
// inside, one line, and no advice twice.
func aSentence(t *testing.T, what string, err error) {
	t.Helper()
	var e *conclave.Error
	if !errors.As(err, &e) || err != error(e) {
		t.Errorf("%s: %T is no *conclave.Error: %v", what, err, err)
		return
	}
	text := err.Error()
	rest, found := strings.CutPrefix(text, "conclave: "+e.Op+": ")
	bad := !found || e.Code == "" || e.Code == "internal" || strings.ContainsAny(text, "\n") || strings.Count(text, e.Advice) > 1 && e.Advice != ""
	for _, layer := range conclave.Layers() {
		bad = bad || strings.HasPrefix(rest, layer+": ") || strings.Contains(rest, ": "+layer+": ") || strings.Contains(rest, "; "+layer+": ")
	}
	if bad {
		t.Errorf("%s: code %q: %s", what, e.Code, text)
	}
}

// Every error is one sentence whatever it came through; its name is found in it, and
// names that packages below have for the same thing lead to one code.
func TestErrorTexts(t *testing.T) {
	for _, k := range conclave.Kinds() {
		for _, err := range append([]error{k.Err}, k.Also...) {
			for _, chain := range []error{
				err, fmt.Errorf("actors: open: %w", fmt.Errorf("%w: persistence: details", err)), errors.Join(err, fmt.Errorf("group: other: %w", err)),
			} {
				got := conclave.Failing("try", conclave.Failing("inner", chain))
				aSentence(t, k.Code, got)
				var e *conclave.Error
				if !errors.As(got, &e) || e.Code != k.Code || e.Retryable != k.Retryable || !errors.Is(got, k.Err) || !errors.Is(got, err) || e.Op != "try" {
					t.Errorf("%v is %+v", chain, e)
				}
			}
		}
	}
	if conclave.Failing("try", nil) != nil {
		t.Error("nothing is an error")
	}
	var unknown *conclave.Error
	if !errors.As(conclave.Failing("try", errors.New("odd")), &unknown) || unknown.Code != "internal" || unknown.Retryable {
		t.Errorf("what nobody knows is %+v", unknown)
	}
}

// The names that packages put before their errors are those that are taken out.
func TestLayersAreThePackages(t *testing.T) {
	prefix := regexp.MustCompile(`(?:errors\.New|fmt\.Errorf)\("([a-z]+): `)
	outside := []string{".", "cmd", "chaos", "benchmarks", "interop", "gateway", "internal/sim", "internal/attack", "internal/forge", "tools", "deploy", "docs"} // nothing of them is under this package
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains(outside[1:], path) || strings.HasSuffix(path, "test") || d.Name() == "testdata" || len(path) > 1 && strings.HasPrefix(d.Name(), ".") {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range prefix.FindAllSubmatch(b, -1) {
			if name := string(m[1]); name == filepath.Base(filepath.Dir(path)) && !slices.Contains(conclave.Layers(), name) {
				t.Errorf("%s: the prefix %q is not taken out", path, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What real components say comes out as one sentence too.
func TestErrorsOfRealComponents(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	host, err := conclave.Open(ctx, conclave.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	client := newClients(ctx, host, 1)[0]
	_, locked := conclave.Open(ctx, conclave.Config{Dir: dir})
	_, wrongKey := host.LoadClient(ctx, client.InstallationID(), conclave.Key{1})
	_, noInbox := host.InboxState(ctx, strings.Repeat("0", 64))
	_, noGroup := client.Conversations().Get(ctx, conclave.GroupID{})
	_, badURL := conclave.Open(ctx, conclave.Config{Dir: t.TempDir(), XMTP: "::"})
	log := membus.New(membus.Config{})
	noNode, err := conclave.Open(ctx, conclave.Config{Bus: log, Store: memstore.New()})
	if err != nil {
		t.Fatal(err)
	}
	_, nobody := noNode.CreateClient(ctx, newWallet(), conclave.ClientOptions{})
	closing := errors.Join(noNode.Close(ctx), log.Close(), client.Close(ctx))
	_, asleep := client.Conversations().List(ctx)
	closing = errors.Join(closing, host.Close(ctx))
	_, closed := host.CanMessage(ctx, client.Address())
	if closing != nil {
		t.Error(closing)
	}
	for code, err := range map[string]error{
		"locked": locked, "wrong_key": wrongKey, "not_found": noInbox, "no_group": noGroup, "invalid": badURL, "no_node": nobody, "asleep": asleep, "closed": closed,
	} {
		aSentence(t, code, err)
		var e *conclave.Error
		if errors.As(err, &e) && e.Code != code {
			t.Errorf("%s is %s: %v", code, e.Code, err)
		}
	}
}
