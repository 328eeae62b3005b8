package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave/chaos/audit"
)

// Every scenario has a name of its own, says what it does, and is in the README.
func TestScenariosAreDescribed(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, s := range scenarios {
		if s.name == "" || s.does == "" || s.round == nil || s.world.hosts == 0 || seen[s.name] {
			t.Errorf("scenario %q is not whole, or not the only one of its name", s.name)
		}
		seen[s.name] = true
		if !strings.Contains(string(readme), "| `"+s.name+"` |") {
			t.Errorf("README.md has no row for %s", s.name)
		}
	}
	if _, err := choose("kill-host,nonsense"); err == nil {
		t.Error("a scenario that is not there was chosen")
	}
}

// One seed is one course of events, whichever other scenarios run.
func TestSeeds(t *testing.T) {
	again := seedOf(1, "a")
	if seedOf(1, "a") != again || seedOf(1, "a") == seedOf(1, "b") || seedOf(1, "a") == seedOf(2, "a") {
		t.Error("seeds do not follow from number and name alone")
	}
	spec := worldSpec{hosts: 2, people: 9, groups: 3, guests: 1}
	var plans [2]string
	for i := range plans {
		w, err := newWorld(t.TempDir(), tools{}, 5, spec)
		if err != nil {
			t.Fatal(err)
		}
		plans[i] = fmt.Sprint(w.plans)
		for _, p := range w.plans {
			homes := map[int]bool{}
			for _, m := range p.Members {
				homes[w.people[m].Host] = true
			}
			if len(homes) != spec.hosts || len(p.Guests) != spec.guests {
				t.Errorf("%+v: a member on every host, and the guests", p)
			}
		}
	}
	if plans[0] != plans[1] {
		t.Errorf("one seed, two plans: %v", plans)
	}
}

// What failed, did not run and passed are told apart, and a failure says how to
// see it again.
func TestReportTellsVerdictsApart(t *testing.T) {
	o := options{seed: 7, rounds: 3}
	r := newReport(o)
	dir := t.TempDir()
	lost := Row{Scenario: "cluster", Verdict: passed}
	lost.take(audit.Verdict{Sends: 2_000, Findings: []audit.Finding{{Kind: audit.Lost, What: "person 1 lacks it"}}})
	lost.conclude(nil, o, dir)
	broken := Row{Scenario: "holes", Verdict: passed}
	broken.conclude(errors.New("host0 ended"), o, dir)
	absent := Row{Scenario: "full-log", Verdict: passed}
	absent.conclude(errors.Join(errNotRun{"no tmpfs"}, nil), o, filepath.Join(dir, "a"))
	fine := Row{Scenario: "kill-host", Verdict: passed}
	fine.conclude(nil, o, filepath.Join(dir, "b"))
	r.Rows = []Row{lost, broken, absent, fine}
	if r.failed() != 2 {
		t.Errorf("%d failed", r.failed())
	}
	var out bytes.Buffer
	if err := r.print(&out, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"cluster FAILED\n  lost: person 1 lacks it\n  kept in " + dir + "; again: make chaos ONLY=cluster SEED=7 ROUNDS=3\n",
		"holes FAILED: host0 ended\n", "full-log: not run: no tmpfs\n", "2,000",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// Damage changes one file of a folder, and nothing in the folder it was copied
// from.
func TestDamageIsDoneToACopy(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	right := map[string]string{
		"a":   "some bytes" + strings.Repeat("\x00", 1<<18), // of which most were only set aside
		"b/c": "others",
	}
	for name, text := range right {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(from, name)), 0o700), os.WriteFile(filepath.Join(from, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	wrong := func(dir string) (names []string) {
		for name, text := range right {
			if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != text {
				names = append(names, name)
			}
		}
		return names
	}
	random := rand.New(rand.NewPCG(1, 1))
	for n := range 50 {
		if err := copyDir(from, to); err != nil {
			t.Fatal(err)
		}
		if names := wrong(to); len(names) > 0 {
			t.Fatalf("the copy differs in %v", names)
		}
		what, err := damage(random, to, n)
		if err != nil {
			t.Fatal(err)
		}
		if names := wrong(to); len(names) != 1 || !strings.Contains(what, names[0]) || len(wrong(from)) > 0 {
			t.Errorf("%s: %v differ", what, names)
		}
	}
}

// Growth is told from warming up.
func TestGrowthIsSeen(t *testing.T) {
	series := func(at func(i int) int) (s []figures) {
		for i := range 20 {
			s = append(s, figures{Descriptors: at(i)})
		}
		return s
	}
	if what := grown(series(func(i int) int { return min(100*i, 300) })); what != "" {
		t.Errorf("warming up is growth: %s", what)
	}
	if what := grown(series(func(i int) int { return 100 * i })); !strings.Contains(what, "descriptors grew") {
		t.Errorf("growth is not seen: %q", what)
	}
}
