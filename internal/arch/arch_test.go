package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/conclave-chat/conclave"

// floors: a package imports lower floors only. The longest matching folder
// decides, and a folder's sub-packages share its floor and may import one
// another.
var floors = map[string]int{
	"bus": 0, "proto": 0, "internal/telemetry": 0, "internal/listen": 0,
	"mls": 1, "identity": 1, "content": 1,
	"group":       2,
	"persistence": 3,
	"bus/bustest": 4, "bus/memory": 4, "bus/jetstream": 4, "bus/xmtp": 4,
	"persistence/persistencetest": 4, "persistence/memory": 4, "persistence/badger": 4,
	"identity/ethereum": 4, "internal/forge": 4,
	"actors/engine": 4,
	"actors":        5, "node": 5, "internal/sim": 5,
	"": 6, "gateway": 6,
	"cmd": 8, "deploy": 8, "docs": 8, "features": 8, "interop": 8, "benchmarks": 7, "chaos": 7, "internal/attack": 7, "mls/peers": 8, "conclavetest": 7, "bot": 7, "examples": 7,
}

// pure packages take time and randomness as values and touch nothing else.
var pure = []string{"mls", "identity", "content", "group"}

var impure = map[string]string{
	"context": "a pure function is not waited for", "log": "it returns errors", "log/slog": "it returns errors",
	"net": "it is told what arrived", "net/http": "it is told what arrived", "os": "it is told what is stored",
	"sync": "parallelism arrives as a function", "sync/atomic": "parallelism arrives as a function",
	"math/rand": "randomness arrives as an io.Reader", "math/rand/v2": "randomness arrives as an io.Reader",
}

// mayLock are the only pure files that may use sync: they hold memories shared
// by co-hosted members, which change no result.
var mayLock = []string{"mls/realm.go"}

// doors: a dependency is imported in these folders and nowhere else. Test files
// and what drives a whole house, benchmarks and chaos, may open any door.
var doors = map[string][]string{
	"github.com/asynkron/protoactor-go":   {"actors/engine"},
	"github.com/nats-io":                  {"bus/jetstream"},
	"github.com/dgraph-io/badger":         {"persistence/badger"},
	"github.com/ethereum/go-ethereum":     {"identity/ethereum"},
	"go.opentelemetry.io":                 {"internal/telemetry"},
	"github.com/prometheus/client_golang": {"internal/telemetry"},
	"connectrpc.com":                      {"gateway", "bus/xmtp"},
	"github.com/minio/highwayhash":        {"bus/jetstream"},
}

// keystore files are a matter of the command line.
const keystore = "github.com/ethereum/go-ethereum/accounts/keystore"

func floorOf(dir string) (room string, floor int, known bool) {
	for room = dir; ; room = path.Dir(room) {
		if room == "." {
			room = ""
		}
		if f, ok := floors[room]; ok && (room != "" || dir == "") {
			return room, f, true
		}
		if room == "" {
			return "", 0, false
		}
	}
}

func within(dir string, rooms []string) bool {
	return slices.ContainsFunc(rooms, func(room string) bool {
		return dir == room || strings.HasPrefix(dir, room+"/")
	})
}

// breaches checks one file. dir is the package's folder below the module root.
func breaches(dir, name string, file *ast.File) []string {
	var out []string
	complain := func(format string, args ...any) {
		out = append(out, fmt.Sprintf("%s/%s: ", dir, name)+fmt.Sprintf(format, args...))
	}
	test := strings.HasSuffix(name, "_test.go")
	room, floor, known := floorOf(dir)
	if !known {
		complain("no floor for this folder: give it a line in internal/arch and in ARCHITECTURE.md")
	}
	// identity/ethereum and the like stand on their own floor, outside the pure room.
	isPure := !test && slices.Contains(pure, room)
	for _, spec := range file.Imports {
		imported, _ := strconv.Unquote(spec.Path.Value)
		if rest, ours := strings.CutPrefix(imported, module); ours && !test {
			target := strings.TrimPrefix(rest, "/")
			troom, tfloor, _ := floorOf(target)
			if troom != room && tfloor >= floor {
				complain("on floor %d imports %s on floor %d: a package imports lower floors only", floor, imported, tfloor)
			}
		}
		if reason, bad := impure[imported]; bad && isPure {
			if !(strings.HasPrefix(imported, "sync") && slices.Contains(mayLock, dir+"/"+name)) {
				complain("%s is pure and imports %s: %s", room, imported, reason)
			}
		}
		for dependency, rooms := range doors {
			if imported != dependency && !strings.HasPrefix(imported, dependency+"/") {
				continue
			}
			if test || within(dir, rooms) || within(dir, []string{"benchmarks", "chaos"}) || imported == keystore && within(dir, []string{"cmd"}) {
				continue
			}
			complain("imports %s: only %s may (one door per dependency)", imported, strings.Join(rooms, ", "))
		}
	}
	if isPure {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				complain("%s is pure and starts a goroutine: parallelism arrives as a function", room)
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && x.Obj == nil && slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "Tick"}, n.Sel.Name) {
					complain("%s is pure and calls time.%s: time arrives as a value", room, n.Sel.Name)
				}
			}
			return true
		})
	}
	return out
}

func TestHouse(t *testing.T) {
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if rel != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules") || rel == "tools" || rel == "internal/arch" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		src, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), rel, src, 0)
		if err != nil {
			return err
		}
		files++
		dir := path.Dir(rel)
		if dir == "." {
			dir = ""
		}
		for _, b := range breaches(dir, path.Base(rel), file) {
			t.Error(b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files == 0 {
		t.Fatal("no Go files found: the test looks in the wrong place")
	}
}

// TestBreaches plants one breach of each kind, so that the rules are known to
// bite.
func TestBreaches(t *testing.T) {
	for _, c := range []struct{ dir, src, want string }{
		{"group", `package group; import _ "github.com/conclave-chat/conclave/persistence"`, "lower floors only"},
		{"mls", `package mls; import _ "github.com/conclave-chat/conclave/identity"`, "lower floors only"},
		{"actors", `package actors; import _ "github.com/conclave-chat/conclave/node"`, "lower floors only"},
		{"bus", `package bus; import _ "github.com/conclave-chat/conclave/bus/memory"`, "lower floors only"},
		{"mls", `package mls; import _ "sync"`, "parallelism arrives"},
		{"group", `package group; import _ "context"`, "not waited for"},
		{"identity", `package identity; import "time"; var _ = time.Now()`, "time arrives as a value"},
		{"content", `package content; func f() { go f() }`, "starts a goroutine"},
		{"actors", `package actors; import _ "github.com/nats-io/nats.go"`, "one door"},
		{"", `package conclave; import _ "github.com/dgraph-io/badger/v4"`, "one door"},
		{"cmd/conclave", `package main; import _ "github.com/ethereum/go-ethereum/crypto"`, "one door"},
		{"utils", `package utils`, "no floor"},
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", c.src, 0)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(breaches(c.dir, "x.go", file), "\n")
		if !strings.Contains(got, c.want) {
			t.Errorf("%s in %q: got %q, want a complaint with %q", c.src, c.dir, got, c.want)
		}
	}
	for _, c := range []struct{ dir, name, src string }{
		{"mls", "realm.go", `package mls; import _ "sync"`},
		{"cmd/conclave", "x.go", `package main; import _ "github.com/ethereum/go-ethereum/accounts/keystore"`},
		{"persistence/badger", "x.go", `package badger; import _ "github.com/dgraph-io/badger/v4"`},
		{"group", "x_test.go", `package group; import _ "os"`},
	} {
		file, err := parser.ParseFile(token.NewFileSet(), c.name, c.src, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := breaches(c.dir, c.name, file); len(got) > 0 {
			t.Errorf("allowed, yet: %v", got)
		}
	}
}
