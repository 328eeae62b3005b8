// Command chaos runs real hosts and logs, kills, freezes, cuts off, fills and
// damages them, and then looks into every store for what was promised. See
// README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

// children are what this program is when it starts itself.
var children = map[string]func(ctx context.Context, spec string, in io.Reader, out io.Writer) error{
	"host": runHost,
	"look": runLook,
	"nats": runNATS,
}

// options are the flags.
type options struct {
	rounds int
	only   string
	seed   uint64
	json   bool
	dir    string
	list   bool
}

func run(ctx context.Context, args []string, in io.Reader, out, errw io.Writer) error {
	if len(args) == 2 && children[args[0]] != nil {
		return children[args[0]](ctx, args[1], in, out)
	}
	var o options
	f := flag.NewFlagSet("chaos", flag.ContinueOnError)
	f.SetOutput(errw)
	f.IntVar(&o.rounds, "rounds", 1, "rounds of each scenario: 1 is the short run, 10 the long one")
	f.StringVar(&o.only, "only", "", "names of scenarios, separated by commas (default: all)")
	f.Uint64Var(&o.seed, "seed", 0, "seed of everything that is chosen at random (default: of the time)")
	f.BoolVar(&o.json, "json", false, "print one JSON object instead of a table")
	f.StringVar(&o.dir, "dir", "", "where the worlds lie (default: a temporary directory)")
	f.BoolVar(&o.list, "list", false, "print what the scenarios do, and run none")
	if err := f.Parse(args); err != nil {
		return err
	}
	if o.list {
		return list(out)
	}
	chosen, err := choose(o.only)
	if err != nil {
		return err
	}
	if o.rounds < 1 || f.NArg() > 0 {
		return errors.New("give -rounds of 1 or more, and no arguments")
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano()) % 1e9
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "conclave-chaos-"); err != nil {
			return err
		}
	} else if o.dir, err = filepath.Abs(o.dir); err != nil {
		return err
	}
	t, err := buildTools(ctx, o.dir)
	if err != nil {
		return err
	}
	report := runAll(ctx, o, t, chosen, newProgress(errw))
	if err := report.print(out, o.json); err != nil {
		return err
	}
	if failed := report.failed(); failed > 0 {
		return fmt.Errorf("%d of %d scenarios failed", failed, len(report.Rows))
	}
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return os.RemoveAll(o.dir)
}

// choose returns the scenarios of the names.
func choose(only string) ([]scenario, error) {
	if only == "" {
		return scenarios, nil
	}
	var chosen []scenario
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no scenario %q: see -list", name)
		}
		chosen = append(chosen, scenarios[i])
	}
	return chosen, nil
}

// buildTools builds cmd/conclave as it is in the source beside this program.
func buildTools(ctx context.Context, dir string) (t tools, err error) {
	if t.self, err = os.Executable(); err != nil {
		return t, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return t, err
	}
	t.conclave = filepath.Join(dir, "conclave")
	build := exec.CommandContext(ctx, "go", "build", "-o", t.conclave, "github.com/conclave-chat/conclave/cmd/conclave")
	if says, err := build.CombinedOutput(); err != nil {
		return t, fmt.Errorf("build conclave: %w: %s", err, says)
	}
	return t, nil
}
