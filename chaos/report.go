package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/conclave-chat/conclave/chaos/audit"
)

// A Report is what a whole run found.
type Report struct {
	Machine string    `json:"machine"`
	Commit  string    `json:"commit"`
	Seed    uint64    `json:"seed"`
	Rounds  int       `json:"rounds"`
	Began   time.Time `json:"began"`
	Seconds float64   `json:"seconds"`
	Rows    []Row     `json:"scenarios"`
}

func newReport(o options) *Report {
	return &Report{Machine: machine(), Commit: commit(), Seed: o.seed, Rounds: o.rounds, Began: time.Now()}
}

func machine() string {
	name := runtime.GOARCH
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if field, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(field) == "model name" {
				name = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d cores, %s, %s", name, runtime.NumCPU(), runtime.GOOS, runtime.Version())
}

// commit is the source's revision, with a mark where it was changed since.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty=+changes", "--abbrev=12", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func (r *Report) failed() (n int) {
	for _, row := range r.Rows {
		if row.Verdict == failed {
			n++
		}
	}
	return n
}

// shown is how many findings of each kind the table's notes list.
const shown = 5

func (r *Report) print(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	took := time.Duration(r.Seconds * float64(time.Second)).Round(time.Second)
	fmt.Fprintf(w, "%s, commit %s, seed %d, %d rounds, %v\n\n", r.Machine, r.Commit, r.Seed, r.Rounds, took)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "scenario\trounds\tkills\tfaults\tsends\tacknowledged\tdeliveries\tlost\trepeated\tdisordered\tstuck\tsilent\ttime\tverdict")
	for _, row := range r.Rows {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%.1fs\t%s\n", row.Scenario, row.Rounds, row.Kills, row.Faults,
			comma(row.Sends), comma(row.Acknowledged), comma(row.Deliveries), row.Lost, row.Repeated, row.Disordered, row.Stuck, row.Silent, row.Time, row.Verdict)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, row := range r.Rows {
		if err := row.explain(w); err != nil {
			return err
		}
	}
	return nil
}

// explain says why a scenario did not pass, and how to see it again.
func (row Row) explain(w io.Writer) error {
	switch row.Verdict {
	case notRun:
		_, err := fmt.Fprintf(w, "\n%s: not run: %s\n", row.Scenario, row.Why)
		return err
	case passed:
		return nil
	}
	fmt.Fprintf(w, "\n%s FAILED", row.Scenario)
	if row.Why != "" {
		fmt.Fprintf(w, ": %s", row.Why)
	}
	fmt.Fprintln(w)
	told := map[audit.Kind]int{}
	for _, f := range row.Findings {
		if told[f.Kind]++; told[f.Kind] <= shown {
			fmt.Fprintf(w, "  %s: %s\n", f.Kind, f.What)
		}
	}
	for kind, n := range told {
		if n > shown {
			fmt.Fprintf(w, "  … and %d more %s\n", n-shown, kind)
		}
	}
	_, err := fmt.Fprintf(w, "  kept in %s; again: %s\n", row.Dir, row.Again)
	return err
}

func comma(n int) string { return humanize.Comma(int64(n)) }

// progress shows how far a run is: bars at a terminal, else a line as each
// scenario begins and ends.
type progress struct {
	w    io.Writer
	bars *mpb.Progress // nil: lines
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(30), mpb.WithRefreshRate(200*time.Millisecond))
	}
	return p
}

func (p *progress) close() {
	if p.bars != nil {
		p.bars.Wait()
	}
}

// A bar is one scenario.
type bar struct {
	p   *progress
	bar *mpb.Bar
}

func (p *progress) begin(name string, rounds int) *bar {
	b := &bar{p: p}
	if p.bars != nil {
		b.bar = p.bars.AddBar(int64(rounds),
			mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR), decor.CountersNoUnit("%d/%d", decor.WCSyncSpace)),
			mpb.AppendDecorators(decor.Elapsed(decor.ET_STYLE_GO)))
	}
	return b
}

func (b *bar) step() {
	if b.bar != nil {
		b.bar.Increment()
	}
}

func (b *bar) end(row Row) {
	if b.bar != nil {
		b.bar.Abort(false)
		return
	}
	fmt.Fprintf(b.p.w, "%-16s %3d rounds %6.1fs  %s\n", row.Scenario, row.Rounds, row.Time, row.Verdict)
}

// list prints what there is.
func list(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range scenarios {
		fmt.Fprintf(t, "%s\t%s\n", s.name, s.does)
	}
	return t.Flush()
}
