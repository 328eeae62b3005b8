package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave/chaos/audit"
	"github.com/conclave-chat/conclave/chaos/ledger"
	"github.com/conclave-chat/conclave/identity/ethereum"
)

// A worldSpec is how large a world is.
type worldSpec struct {
	hosts  int
	people int
	groups int
	guests int  // of the people, who come and go in every group
	deaf   bool // nobody streams
	slow   bool // streams are read only when the world comes to rest

	// Where it is not zero, so many people live on the last host and belong to
	// every group, and everybody else on the first.
	few  int
	size int // members of a group beyond those; most people where zero
}

// homeOf is the host that a person lives on.
func (s worldSpec) homeOf(person int) int {
	switch {
	case s.few == 0:
		return person % s.hosts
	case person < s.few:
		return s.hosts - 1
	}
	return 0
}

// A world is hosts, their log, and everything that was ever sent in it. It lies
// in one directory and lives as long as its scenario.
type world struct {
	dir    string
	tools  tools
	random *rand.Rand // what befalls it
	spec   worldSpec
	people []person
	plans  []audit.Plan
	hosts  []*hostProcess // nil: not running
	lives  []int
	log    logSide
	rolled []bool          // by host: its store was put back
	since  int             // see audit.Evidence
	found  []audit.Finding // what a scenario saw by itself

	forgot map[string]int // see audit.Evidence
	round  int            // counted from 0
	ends   []func() error // what else is to be stopped

	mu     sync.Mutex
	kills  int
	faults int
}

// tools are the programs that a world is made of.
type tools struct {
	self     string // this program
	conclave string // cmd/conclave, just built
}

// A logSide is what carries the log: nothing, where the hosts embed it.
type logSide interface {
	start(ctx context.Context) error // what is not running
	stop() error
	kill()
	point(host int, s *hostSpec) // tells a host where it is
}

// embedded is the log of a host on its own.
type embedded struct{}

func (embedded) start(context.Context) error { return nil }
func (embedded) stop() error                 { return nil }
func (embedded) kill()                       {}
func (embedded) point(int, *hostSpec)        {}

// newWorld makes the people and plans of a world. Nothing runs yet.
func newWorld(dir string, t tools, seed uint64, spec worldSpec) (*world, error) {
	w := &world{dir: dir, tools: t, random: rand.New(rand.NewPCG(seed, 7)), spec: spec, log: embedded{}}
	w.hosts, w.lives, w.forgot, w.rolled = make([]*hostProcess, spec.hosts), make([]int, spec.hosts), map[string]int{}, make([]bool, spec.hosts)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for n := range spec.people {
		wallet, err := ethereum.GenerateKey()
		if err != nil {
			return nil, err
		}
		key := make([]byte, 32)
		for i := range key {
			key[i] = byte(w.random.Uint32())
		}
		w.people = append(w.people, person{
			Number: n, Host: spec.homeOf(n), Address: wallet.Address(),
			Wallet: hex.EncodeToString(wallet.PrivateBytes()), Key: hex.EncodeToString(key),
		})
	}
	w.plan()
	return w, nil
}

// plan puts people into groups: every host has a member in each, and the last
// people of all are guests.
func (w *world) plan() {
	s := w.spec
	members := s.people - s.guests
	for g := range s.groups {
		first := g % members
		if s.few > 0 {
			first = g % s.few
		}
		p := audit.Plan{Members: []int{first}}
		left := s.size
		for _, n := range w.random.Perm(members) {
			always := n < s.few || s.few == 0 && n/s.hosts == first/s.hosts
			switch {
			case n == first:
			case always:
				p.Members = append(p.Members, n)
			case s.size == 0 && w.random.IntN(4) > 0, left > 0:
				left--
				p.Members = append(p.Members, n)
			}
		}
		for n := members; n < s.people; n++ {
			p.Guests = append(p.Guests, n)
		}
		w.plans = append(w.plans, p)
	}
}

func (w *world) killed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kills++
}

func (w *world) struck() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults++
}

// see notes a broken promise that the audit of stores would not show.
func (w *world) see(k audit.Kind, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.found = append(w.found, audit.Finding{Kind: k, What: fmt.Sprintf(format, args...)})
}

func (w *world) hostDir(n int) string  { return filepath.Join(w.dir, "host"+strconv.Itoa(n)) }
func (w *world) ledgerOf(n int) string { return filepath.Join(w.dir, fmt.Sprintf("host%d.ledger", n)) }
func (w *world) specFile(n int) string { return filepath.Join(w.dir, fmt.Sprintf("host%d.json", n)) }
func (w *world) hostSpec(n int) hostSpec {
	s := hostSpec{
		Host: n, Life: w.lives[n], Dir: w.hostDir(n), Ledger: w.ledgerOf(n),
		People: w.people, Plans: w.plans, Rolled: w.rolled[n], Deaf: w.spec.deaf, Slow: w.spec.slow,
	}
	w.log.point(n, &s)
	return s
}

// launch starts a host's next life, without waiting until it is open.
func (w *world) launch(n int) (*hostProcess, error) {
	w.lives[n]++
	if err := writeJSON(w.specFile(n), w.hostSpec(n)); err != nil {
		return nil, err
	}
	p, err := start(w.dir, "host"+strconv.Itoa(n), w.tools.self, "host", w.specFile(n))
	if err != nil {
		return nil, err
	}
	w.hosts[n] = &hostProcess{p}
	return w.hosts[n], nil
}

// openHost starts a host that is not running, and waits until it is open.
func (w *world) openHost(ctx context.Context, n int) error {
	if w.hosts[n] != nil {
		return nil
	}
	h, err := w.launch(n)
	if err == nil {
		err = h.open(ctx)
	}
	return err
}

// killHost ends a host as a power cut of the process does.
func (w *world) killHost(n int) {
	if h := w.hosts[n]; h != nil {
		h.kill()
		w.hosts[n] = nil
		w.killed()
	}
}

// eachHost does something with all hosts that run, at once.
func (w *world) eachHost(f func(n int, h *hostProcess) error) error {
	var g errgroup.Group
	for n, h := range w.hosts {
		if h != nil {
			g.Go(func() error { return f(n, h) })
		}
	}
	return g.Wait()
}

// askTime is how long a host may take to answer, where its limit is no other. It
// is for what is small; a burst takes as long as it takes.
const askTime = 90 * time.Second

func (w *world) ask(ctx context.Context, r request) error {
	if r.Do != doBurst {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askTime)
		defer cancel()
	}
	r.Plans = w.plans
	return w.eachHost(func(n int, h *hostProcess) error {
		r := r
		r.Load.Seed += uint64(w.lives[n])<<16 + uint64(n)<<40
		_, err := h.ask(ctx, r)
		return err
	})
}

// open starts whatever does not run.
func (w *world) open(ctx context.Context) error {
	if err := w.log.start(ctx); err != nil {
		return err
	}
	var g errgroup.Group
	for n := range w.hosts {
		g.Go(func() error { return w.openHost(ctx, n) })
	}
	return g.Wait()
}

// form makes the groups, and lets everybody join them.
func (w *world) form(ctx context.Context) error {
	if err := w.open(ctx); err != nil {
		return err
	}
	formed, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	for _, h := range w.hosts {
		a, err := h.ask(formed, request{Do: doForm, Plans: w.plans})
		if err != nil {
			return err
		}
		w.plans = a.Plans
	}
	return w.ask(ctx, request{Do: doJoin})
}

// begin puts load on every host that runs.
func (w *world) begin(ctx context.Context, l loadSpec) error {
	l.Seed = w.random.Uint64()
	return w.ask(ctx, request{Do: doLoad, Load: l})
}

// lightLoad is enough to have something under way at any moment.
var lightLoad = loadSpec{Senders: 4, Pause: 20 * time.Millisecond, Change: 150 * time.Millisecond}

// quiesceTime is how long everything may take to come to its end in a calm world:
// what takes longer is stuck.
const quiesceTime = 30 * time.Second

// calm starts what does not run, brings all to its end and stops it. What did
// not come to its end is returned.
func (w *world) calm(ctx context.Context) (stuck []audit.Finding, err error) {
	if err := w.open(ctx); err != nil {
		return nil, err
	}
	// Twice: what one host sends in the first pass, the others read in the second.
	var problems []string
	for range 2 {
		problems = nil
		var mu sync.Mutex
		err := w.eachHost(func(n int, h *hostProcess) error {
			ctx, cancel := context.WithTimeout(ctx, 2*quiesceTime)
			defer cancel()
			a, err := h.ask(ctx, request{Do: doQuiesce, Limit: quiesceTime, Plans: w.plans})
			mu.Lock()
			defer mu.Unlock()
			for _, p := range a.Problems {
				problems = append(problems, fmt.Sprintf("host %d: %s", n, p))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	for _, p := range problems {
		stuck = append(stuck, audit.Finding{Kind: audit.Stuck, What: p})
	}
	return stuck, w.closeHosts(ctx)
}

func (w *world) closeHosts(ctx context.Context) error {
	return w.eachHost(func(n int, h *hostProcess) error {
		ctx, cancel := context.WithTimeout(ctx, 2*restTime)
		defer cancel()
		_, err := h.ask(ctx, request{Do: doClose})
		if err != nil {
			return err
		}
		h.wait()
		w.hosts[n] = nil
		return nil
	})
}

// look reads the store of one host alone.
func (w *world) look(ctx context.Context, n int) (sight, error) {
	if err := writeJSON(w.specFile(n), w.hostSpec(n)); err != nil {
		return sight{}, err
	}
	return lookAt(ctx, w.tools, w.specFile(n))
}

func lookAt(ctx context.Context, t tools, specFile string) (s sight, err error) {
	cmd := exec.CommandContext(ctx, t.self, "look", specFile)
	var out, says bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &says
	if err := cmd.Run(); err != nil {
		return s, fmt.Errorf("look: %w: %.2000s", err, says.String())
	}
	return s, json.Unmarshal(out.Bytes(), &s)
}

// judge reads every store alone and holds it against the ledgers. No host runs,
// and the log does.
func (w *world) judge(ctx context.Context) (audit.Verdict, error) {
	e := audit.Evidence{Plans: w.plans, Since: w.since, Forgot: w.forgot}
	for n := range w.hosts {
		s, err := w.look(ctx, n)
		if err != nil {
			return audit.Verdict{}, err
		}
		if s.Error != "" {
			return audit.Verdict{}, fmt.Errorf("the store of host %d, alone: %s", n, s.Error)
		}
		e.Views = append(e.Views, s.Views...)
		entries, err := ledger.Read(w.ledgerOf(n))
		if err != nil {
			return audit.Verdict{}, err
		}
		e.Entries = append(e.Entries, entries)
	}
	slices.SortFunc(e.Views, func(a, b audit.View) int { return a.Person - b.Person })
	return audit.Judge(e), nil
}

// end stops whatever runs, in whatever state it is.
func (w *world) end() error {
	for n, h := range w.hosts {
		if h != nil {
			h.kill()
			w.hosts[n] = nil
		}
	}
	err := w.log.stop()
	for _, end := range w.ends {
		err = errors.Join(err, end())
	}
	return err
}

// verdict is the end of a round: all is calm, and every promise is looked at.
func (w *world) verdict(ctx context.Context) (audit.Verdict, error) {
	stuck, err := w.calm(ctx)
	if err != nil {
		return audit.Verdict{Findings: stuck}, err
	}
	v, err := w.judge(ctx)
	v.Findings = append(stuck, v.Findings...)
	return v, errors.Join(err, w.log.stop())
}
