package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func demoJSON(t *testing.T, in string, args ...string) demoReport {
	t.Helper()
	out, errw, err := output(t, in, append([]string{"demo", "--json"}, args...)...)
	var r demoReport
	if err == nil {
		err = json.Unmarshal([]byte(out), &r)
	}
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, errw)
	}
	return r
}

// whole reports whether everybody has everything.
func whole(r demoReport, members, messages int) bool {
	return r.Members == members && r.Messages == messages && r.Deliveries == members*messages &&
		r.Lost+r.Repeated+r.Disordered+r.StreamedRepeatedly == 0
}

// TestDemo proves that a demonstration on the embedded server and store delivers
// every line of a pipe to everybody, and says so in its table.
func TestDemo(t *testing.T) {
	out, progress, err := output(t, "one\ntwo\nthree\n", "demo", "--members", "5", "--transcript", "-")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []string{"members 5", "messages 3", "deliveries 15", "lost 0", "repeated 0", "order the same for everyone", "restarts 0"} {
		if !strings.Contains(squeezed(out), row+"\n") {
			t.Errorf("no row %q in\n%s", row, out)
		}
	}
	for _, phase := range []string{phaseRegister, phaseForm, phaseReplay, phaseCheck} {
		if !strings.Contains(progress, phase) {
			t.Errorf("no phase %q in\n%s", phase, progress)
		}
	}
	if strings.Contains(out+progress, "\x1b") {
		t.Error("control codes without a terminal")
	}
}

// squeezed makes one blank of many.
func squeezed(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.Join(strings.Fields(lines[i]), " ")
	}
	return strings.Join(lines, "\n")
}

// TestDemoSurvivesFaults proves that panics in every kind of actor, and failing
// saves, lose and repeat nothing, and are seen as restarts.
func TestDemoSurvivesFaults(t *testing.T) {
	r := demoJSON(t, strings.Repeat("line\n", 40), "--members", "5", "--transcript", "-", "--inject")
	if !whole(r, 5, 40) || r.Restarts < 5 {
		t.Errorf("%+v", r)
	}
}

// TestDemoResumes proves that a run which was killed without warning in the
// middle of its replay goes on where it was.
func TestDemoResumes(t *testing.T) {
	const members, messages = 5, 400
	dir := t.TempDir()
	var text strings.Builder
	for i := range messages {
		fmt.Fprintf(&text, "line %d\n", i+1)
	}
	file := filepath.Join(dir, "lines.txt")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--members", "5", "--transcript", file, "--dir", filepath.Join(dir, "run")}

	child := exec.CommandContext(t.Context(), os.Args[0], append([]string{"demo"}, args...)...)
	child.Env = append(os.Environ(), asChild+"=1")
	progress, err := child.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(progress)
	for said.Scan() && !strings.HasPrefix(said.Text(), phaseForm) {
	}
	if err := child.Process.Kill(); err != nil { // the replay has just begun
		t.Fatal(err)
	}
	if err := child.Wait(); err == nil {
		t.Fatal("the run ended before it was killed")
	}

	if r := demoJSON(t, "", args...); !whole(r, members, messages) || r.SentEarlier == messages {
		t.Errorf("after a kill: %+v", r)
	}
	if r := demoJSON(t, "", args...); !whole(r, members, messages) || r.SentEarlier != messages {
		t.Errorf("after the end: %+v", r)
	}
	_, _, err = output(t, "", "demo", "--members", "6", "--transcript", file, "--dir", filepath.Join(dir, "run"))
	if want := filepath.Join(dir, "run") + " holds a run of 5 members, not 6: give that number, or another directory"; errorText(err) != want {
		t.Errorf("another size: %v", err)
	}
	_, _, err = output(t, "other\n", "demo", "--members", "5", "--transcript", "-", "--dir", filepath.Join(dir, "run"))
	if err == nil || !strings.Contains(err.Error(), "holds a run with another transcript") {
		t.Errorf("another transcript: %v", err)
	}
}
