package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"time"

	"github.com/conclave-chat/conclave/chaos/audit"
)

// A scenario is one kind of disaster, again and again in one world. After each
// round everything is stopped, started in peace and brought to its end, and
// every store is held against what was promised.
type scenario struct {
	name  string
	does  string // to the world
	holds string // afterwards, beyond what holds always
	once  bool   // one round, however many are asked for: a full run makes it larger
	world worldSpec
	full  worldSpec                       // of a full run, where it is another
	log   func(w *world) (logSide, error) // embedded where nil
	round func(ctx context.Context, w *world, full bool) error
}

// scenarios are all there are, in the order in which they run.
var scenarios = []scenario{
	killHost, killServe, freezeServe, cutOff, holes, killCluster, twoGateways,
	fullLog, fullStore, flipStore, flipLog, putBackLog, putBackStore, putBackHost, putBackAll,
	offline, slowStream, wakeAll, mixed,
}

// errNotRun is why a scenario could not run on this machine. It has not passed.
type errNotRun struct{ why string }

func (e errNotRun) Error() string { return "not run: " + e.why }

// Verdicts of a Row.
const (
	passed = "ok"
	failed = "FAILED"
	notRun = "not run"
)

// A Row is one line of the table.
type Row struct {
	Scenario     string          `json:"scenario"`
	Rounds       int             `json:"rounds"`
	Kills        int             `json:"kills"`  // kill -9
	Faults       int             `json:"faults"` // freezes, cuts, flips, full disks and whatever else is no kill
	Sends        int             `json:"sends"`
	Acknowledged int             `json:"acknowledged"`
	Failed       int             `json:"failed"` // sends that ended as Failed, which is allowed
	Deliveries   int             `json:"deliveries"`
	Lost         int             `json:"lost"`
	Repeated     int             `json:"repeated"`
	Disordered   int             `json:"disordered"`
	Stuck        int             `json:"stuck"`
	Silent       int             `json:"silent"`
	Time         float64         `json:"seconds"`
	Verdict      string          `json:"verdict"`
	Why          string          `json:"why,omitempty"` // it failed or did not run, where that is no finding
	Findings     []audit.Finding `json:"findings,omitempty"`
	Dir          string          `json:"dir,omitempty"` // what is kept of a failure
	Again        string          `json:"again,omitempty"`
}

func (r *Row) take(v audit.Verdict) {
	r.Sends, r.Acknowledged, r.Failed, r.Deliveries = v.Sends, v.Acknowledged, v.Failed, v.Deliveries
	r.Findings = v.Findings
	columns := map[audit.Kind]*int{
		audit.Lost: &r.Lost, audit.Repeated: &r.Repeated, audit.Disordered: &r.Disordered,
		audit.Stuck: &r.Stuck, audit.Silent: &r.Silent,
	}
	for _, n := range columns {
		*n = 0
	}
	for _, f := range v.Findings {
		*columns[f.Kind]++
	}
}

// runScenario runs the rounds of one scenario in a world of its own, up to the
// first that fails.
func runScenario(ctx context.Context, s scenario, o options, t tools, step func()) (row Row) {
	began := time.Now()
	rounds := o.rounds
	if s.once {
		rounds = 1
	}
	row = Row{Scenario: s.name, Verdict: passed}
	dir := filepath.Join(o.dir, s.name)
	spec := s.world
	if o.rounds > 1 && s.full != (worldSpec{}) {
		spec = s.full
	}
	w, err := newWorld(dir, t, seedOf(o.seed, s.name), spec)
	if err == nil && s.log != nil {
		w.log, err = s.log(w)
	}
	for n := 0; err == nil && n < rounds && len(row.Findings) == 0; n++ {
		var v audit.Verdict
		v, err = w.live(ctx, s, n, o.rounds > 1)
		row.take(v)
		row.Rounds++
		step()
	}
	if w != nil {
		err = errors.Join(err, w.end())
		row.Kills, row.Faults = w.kills, w.faults
	}
	row.Time = time.Since(began).Seconds()
	row.conclude(err, o, dir)
	return row
}

// conclude says how it went, and keeps what is needed to see why.
func (row *Row) conclude(err error, o options, dir string) {
	var cannot errNotRun
	switch {
	case errors.As(err, &cannot):
		row.Verdict, row.Why = notRun, cannot.why
	case err != nil:
		row.Verdict, row.Why = failed, err.Error()
	case len(row.Findings) > 0:
		row.Verdict = failed
	}
	if row.Verdict == failed {
		row.Dir = dir
		row.Again = fmt.Sprintf("make chaos ONLY=%s SEED=%d ROUNDS=%d", row.Scenario, o.seed, o.rounds)
		return
	}
	if err := os.RemoveAll(dir); err != nil {
		row.Verdict, row.Why = failed, err.Error()
	}
}

// live is one round: begin, disaster, peace, verdict.
func (w *world) live(ctx context.Context, s scenario, n int, full bool) (audit.Verdict, error) {
	w.round = n
	begin := w.open
	if n == 0 {
		begin = w.form
	}
	if err := begin(ctx); err != nil {
		return audit.Verdict{}, err
	}
	if err := s.round(ctx, w, full); err != nil {
		return audit.Verdict{}, err
	}
	v, err := w.verdict(ctx)
	v.Findings = append(v.Findings, w.found...)
	return v, err
}

// seedOf gives each scenario a seed of its own, whichever others run.
func seedOf(seed uint64, name string) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, seed, name)
	return h.Sum64()
}

func runAll(ctx context.Context, o options, t tools, chosen []scenario, p *progress) *Report {
	r := newReport(o)
	for _, s := range chosen {
		if ctx.Err() != nil {
			break
		}
		rounds := o.rounds
		if s.once {
			rounds = 1
		}
		bar := p.begin(s.name, rounds)
		row := runScenario(ctx, s, o, t, bar.step)
		bar.end(row)
		r.Rows = append(r.Rows, row)
	}
	p.close()
	r.Seconds = time.Since(r.Began).Seconds()
	return r
}
