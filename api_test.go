package conclave_test

import (
	"bytes"
	"flag"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"
)

var rewriteAPI = flag.Bool("rewrite-api", false, "write api.txt anew")

// TestAPI keeps the exported names of this package in api.txt, so that a change
// of what embedding services see is always a change somebody read.
func TestAPI(t *testing.T) {
	got := exported(t)
	if *rewriteAPI {
		if err := os.WriteFile("api.txt", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("api.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the exported API differs from api.txt; if that is meant: go test . -run TestAPI -rewrite-api\n%s", firstDifference(got, string(want)))
	}
}

// exported prints every exported declaration of the root package, one line
// each, sorted.
func exported(t *testing.T) string {
	t.Helper()
	fset := token.NewFileSet()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	show := func(prefix string, node any) {
		var b bytes.Buffer
		if err := printer.Fprint(&b, fset, node); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, prefix+strings.Join(strings.Fields(b.String()), " "))
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, e.Name(), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.FileExports(file)
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv != nil && !ast.IsExported(receiver(d)) {
					continue
				}
				d.Body = nil
				show("", d)
			case *ast.GenDecl:
				if d.Tok == token.IMPORT {
					continue
				}
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.ValueSpec:
						for _, name := range s.Names {
							lines = append(lines, d.Tok.String()+" "+name.Name)
						}
					case *ast.TypeSpec:
						if st, ok := s.Type.(*ast.StructType); ok {
							lines = append(lines, "type "+s.Name.Name+" struct")
							for _, f := range st.Fields.List {
								for _, name := range f.Names {
									show("type "+s.Name.Name+" struct, "+name.Name+" ", f.Type)
								}
							}
							continue
						}
						show("type ", s)
					}
				}
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

func receiver(d *ast.FuncDecl) string {
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if id, ok := typ.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			return "is:  " + a + "\nwas: " + b
		}
	}
	return ""
}
