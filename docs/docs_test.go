// Package docs keeps what the documents say of the source true.
package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The documents that name tests.
var documents = []string{"ARCHITECTURE.md", "README.md", "docs/faults.md", "docs/security.md", "docs/validation.md"}

var (
	span      = regexp.MustCompile("`([^`\n]+)`")
	testSpan  = regexp.MustCompile(`^([\w/]+) ((?:Test|Fuzz|Benchmark|Example)\w*)$`)
	caseSpan  = regexp.MustCompile(`^(\w+(?:/\w+)*/\w+test) (\w+)$`) // of a contract
	simSpan   = regexp.MustCompile(`^internal/sim (fault\w+|I\d+)$`)
	chaosSpan = regexp.MustCompile(`^(chaos) ([\w-]+)$`) // a scenario
	fileSpan  = regexp.MustCompile(`^[\w/-]+\.(?:go|md|txt|json|yaml|service)$`)
	link      = regexp.MustCompile(`\]\(([^)#\s]+)[^)]*\)`)
	fence     = regexp.MustCompile("(?ms)^```.*?^```")
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", path))
	if err != nil {
		t.Fatal(err)
	}
	return fence.ReplaceAllString(string(b), "")
}

// A source knows what packages declare; it reads each when it is asked.
type source map[string]map[string]bool

// declares reports whether a package, by its folder, declares a function or
// constant, or calls fail with a string of that name.
func (s source) declares(t *testing.T, dir, name string) bool {
	t.Helper()
	if s[dir] == nil {
		s[dir] = map[string]bool{}
		paths, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			// Tests are in test files; contracts, the simulation and chaos are not.
			if !strings.HasSuffix(path, "_test.go") && !strings.HasSuffix(dir, "test") && dir != "internal/sim" && dir != "chaos" {
				continue
			}
			for name := range names(t, path) {
				s[dir][name] = true
			}
		}
	}
	return s[dir][name]
}

// names are what a file declares at its top, the invariants that it checks, and
// the scenarios, whose literals have a name.
func names(t *testing.T, path string) map[string]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil {
				found[d.Name.Name] = true
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if v, ok := spec.(*ast.ValueSpec); ok {
					for _, name := range v.Names {
						found[name.Name] = true
					}
				}
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if field, ok := n.(*ast.KeyValueExpr); ok {
			key, isName := field.Key.(*ast.Ident)
			if value, isText := field.Value.(*ast.BasicLit); isName && isText && key.Name == "name" {
				scenario, _ := strconv.Unquote(value.Value)
				found[scenario] = true
			}
		}
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		f, isMethod := call.Fun.(*ast.SelectorExpr)
		s, isText := call.Args[0].(*ast.BasicLit)
		if isMethod && isText && f.Sel.Name == "fail" {
			invariant, _ := strconv.Unquote(s.Value)
			found[invariant] = true
		}
		return true
	})
	return found
}

// named reports whether what stands in backquotes names something of the source
// that shows something: a test, a script, a fault, an invariant or a scenario; and whether
// it, or the file that it names, is missing.
func (s source) named(t *testing.T, document, text string) (shows, missing bool) {
	t.Helper()
	for _, pattern := range []*regexp.Regexp{testSpan, caseSpan, simSpan, chaosSpan} {
		m := pattern.FindStringSubmatch(text)
		if m == nil {
			continue
		}
		dir, name := m[1], m[len(m)-1]
		switch {
		case pattern == simSpan:
			dir = "internal/sim"
		case dir == "conclave":
			dir = "."
		}
		return true, !s.declares(t, dir, name)
	}
	if !fileSpan.MatchString(text) {
		return false, false
	}
	// A name alone may be that of a file beside the document.
	_, err := os.Stat(filepath.Join("..", text))
	_, beside := os.Stat(filepath.Join("..", filepath.Dir(document), text))
	return strings.Contains(text, "testdata/"), err != nil && beside != nil
}

// Whatever test, script, fault, invariant or file the documents name exists.
func TestWhatDocumentsNameExists(t *testing.T) {
	s := source{}
	for _, document := range documents {
		shown := 0
		for _, m := range span.FindAllStringSubmatch(read(t, document), -1) {
			shows, missing := s.named(t, document, m[1])
			if shows {
				shown++
			}
			if missing {
				t.Errorf("%s names %s, which does not exist", document, m[1])
			}
		}
		if shown == 0 && document != "README.md" {
			t.Errorf("%s names no test: the pattern does not fit any more", document)
		}
	}
}

// rows are the cells of a document's table rows, without heads and rules.
func rows(text string) (all [][]string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|--") || strings.HasPrefix(line, "| # |") || strings.HasPrefix(line, "| rule |") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		all = append(all, cells)
	}
	return all
}

// namesAny reports whether a cell names anything that shows something.
func (s source) namesAny(t *testing.T, document, cell string) bool {
	t.Helper()
	return slices.ContainsFunc(span.FindAllStringSubmatch(cell, -1), func(m []string) bool {
		shows, _ := s.named(t, document, m[1])
		return shows
	})
}

// Every fault is there once, and says what shows it, or that nothing does yet.
func TestEveryFaultHasItsRow(t *testing.T) {
	const document = "docs/faults.md"
	s, got := source{}, map[string]int{}
	for _, row := range rows(read(t, document)) {
		got[row[0]]++
		if len(row) != 3 {
			t.Errorf("%s has %d cells", row[0], len(row))
		} else if !strings.HasPrefix(row[2], "later: ") && !s.namesAny(t, document, row[2]) {
			t.Errorf("%s: neither a test nor \"later\"", row[0])
		}
	}
	for letter, n := range map[string]int{"S": 17, "R": 18, "C": 20, "W": 13, "I": 10, "D": 18, "B": 15} {
		for i := range n {
			id := fmt.Sprint(letter, i+1)
			if got[id] != 1 {
				t.Errorf("%s is there %d times", id, got[id])
			}
			delete(got, id)
		}
	}
	for id := range got {
		t.Errorf("%s is no fault of the list", id)
	}
}

// rules are a file's errors that say which rule was broken: constants made by
// invalid or rejection, with the number that stands behind each, and variables of
// errors.New, which have none, where there are neither.
func rules(t *testing.T, path string) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", path), nil, parser.SkipObjectResolution|parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	made := map[string]map[string]string{"invalid": {}, "rejection": {}, "New": {}} // by what makes them
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, value := range v.Values {
			call, ok := value.(*ast.CallExpr)
			if !ok {
				continue
			}
			var by string
			switch f := call.Fun.(type) {
			case *ast.Ident:
				by = f.Name
			case *ast.SelectorExpr:
				by = f.Sel.Name
			}
			if made[by] != nil {
				made[by][v.Names[i].Name] = strings.TrimSpace(v.Comment.Text())
			}
		}
		return true
	})
	maps.Copy(made["invalid"], made["rejection"])
	if len(made["invalid"]) > 0 {
		return made["invalid"]
	}
	clear := maps.Clone(made["New"])
	for name := range clear {
		clear[name] = ""
	}
	return clear
}

// Every rule that is checked on receive is in the table once, under the number that
// its error has in the source, and what is said of peers is said of rules.
func TestEveryRuleHasItsRow(t *testing.T) {
	const document = "docs/validation.md"
	_, sections, _ := strings.Cut(read(t, document), "\n## ")
	s, numbers := source{}, map[string]bool{"": true}
	var peers string
	for section := range strings.SplitSeq(sections, "\n## ") {
		heading, _, _ := strings.Cut(section, "\n")
		file := span.FindStringSubmatch(heading)
		if file == nil {
			peers += section
			continue
		}
		path := file[1]
		got, listed := rules(t, path), map[string]bool{}
		for _, row := range rows(section) {
			if len(row) != 4 {
				t.Fatalf("%s: %d cells: %s", path, len(row), row)
			}
			number, rule := row[0], strings.Trim(row[2], "`")
			want, known := got[rule]
			switch {
			case !known:
				t.Errorf("%s: %s is no rule of that file", path, rule)
			case listed[rule]:
				t.Errorf("%s: %s is there twice", path, rule)
			case want != "" && want != number:
				t.Errorf("%s: %s is %s here and %s in the source", path, rule, number, want)
			case numbers[number]:
				t.Errorf("%s: there are two rules %s, or one without a number", path, number)
			}
			numbers[number], listed[rule] = true, true
			if row[3] != "no test of its own" && !s.namesAny(t, document, row[3]) {
				t.Errorf("%s: %s has no test and does not say so", path, rule)
			}
		}
		for _, rule := range slices.Sorted(maps.Keys(got)) {
			if !listed[rule] {
				t.Errorf("%s: %s is not there", path, rule)
			}
		}
	}
	for _, row := range rows(peers) {
		if len(row) != 6 || !numbers[row[0]] {
			t.Errorf("no rule of the lists is compared: %s", row)
		}
	}
}

// Links inside the repository lead somewhere.
func TestLinksResolve(t *testing.T) {
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != ".." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		rel, err := filepath.Rel("..", path)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllStringSubmatch(read(t, rel), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", rel, m[1], err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
