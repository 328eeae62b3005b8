package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// The program in README.md is whole: it compiles as printed, runs, and runs again on
// the directory that it left.
func TestReadmeProgram(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	programs := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(readme, -1)
	if len(programs) != 1 {
		t.Fatalf("README.md has %d programs", len(programs))
	}
	dir := t.TempDir()
	source, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "program")
	if err := os.WriteFile(source, programs[0][1], 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, source)
	build.Dir = ".." // the module that it imports
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("it does not compile: %v\n%s", err, out)
	}
	for _, start := range []string{"first", "second"} {
		run := exec.CommandContext(t.Context(), binary)
		run.Dir = dir
		out, err := run.CombinedOutput()
		if want := "alice: published\nbob reads: hello\n"; err != nil || string(out) != want {
			t.Errorf("the %s start: %v, prints\n%s, want\n%s", start, err, out, want)
		}
	}
}
