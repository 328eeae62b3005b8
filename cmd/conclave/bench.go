package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/conclave-chat/conclave/benchmarks"
)

// benchOptions are the flags that all benchmarks share.
type benchOptions struct {
	json bool
	seed uint64
	dir  string
}

func benchCommand(c *console) *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure this machine, beside the least that it could need",
		Long: `Bench puts load on a real host and prints each figure beside its floor: what the
bare cryptography, the bare bus and the bare store need for the same, measured
in the same run. A ratio says how many times the floor was paid.`,
		Example: `  conclave bench fanout --members 400 --messages 200 --verify
  conclave bench idle --installations 5000 --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := cmd.PersistentFlags()
	f.BoolVar(&o.json, "json", false, "print one JSON object instead of a table")
	f.Uint64Var(&o.seed, "seed", 1, "what messages and groups are made of")
	f.StringVar(&o.dir, "dir", "", "directory to work below (default: the system's for temporary files)")
	cmd.AddCommand(fanoutCommand(c, &o), formCommand(c, &o), commitCommand(c, &o), idleCommand(c, &o), mixedCommand(c, &o), nodeCommand(c, &o))
	return cmd
}

func fanoutCommand(c *console, o *benchOptions) *cobra.Command {
	var f benchmarks.FanoutOptions
	var verify bool
	var child string
	cmd := &cobra.Command{
		Use:     "fanout",
		Short:   "Messages of one group to all its members",
		Example: "  conclave bench fanout --members 400 --messages 200 --verify --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(atLeast("members", f.Members, 2), atLeast("messages", f.Messages, 1), atLeast("window", f.Window, 1)); err != nil {
				return err
			}
			if child != "" {
				f.Options = c.options(*o, child)
				return benchmarks.FanoutChild(cmd.Context(), f, c.out)
			}
			return c.bench(cmd.Context(), *o, func(ctx context.Context, shared benchmarks.Options) (*benchmarks.Report, error) {
				f.Options = shared
				if verify {
					program, err := os.Executable()
					if err != nil {
						return nil, fmt.Errorf("find this program: %w", err)
					}
					f.Child = func(ctx context.Context) *exec.Cmd {
						cmd := exec.CommandContext(ctx, program, "bench", "fanout", "--child", shared.Dir,
							"--members", strconv.Itoa(f.Members), "--messages", strconv.Itoa(f.Messages),
							"--window", strconv.Itoa(f.Window), "--seed", strconv.FormatUint(shared.Seed, 10))
						cmd.Stderr = c.err
						return cmd
					}
				}
				return benchmarks.Fanout(ctx, f)
			})
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&f.Members, "members", maxMembers, "installations in the group")
	flags.IntVar(&f.Messages, "messages", 200, "messages to send, from the members in turn")
	flags.IntVar(&f.Window, "window", inFlight, "messages under way at a time")
	flags.BoolVar(&verify, "verify", false, "kill the loaded process without warning, then read every store alone")
	flags.StringVar(&child, "child", "", "run the load in this directory and wait to be killed")
	_ = flags.MarkHidden("child")
	return cmd
}

func formCommand(c *console, o *benchOptions) *cobra.Command {
	var members int
	cmd := &cobra.Command{
		Use:     "form",
		Short:   "One group, from its first commit to the last join",
		Example: "  conclave bench form --members 400",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := atLeast("members", members, 2); err != nil {
				return err
			}
			return c.bench(cmd.Context(), *o, func(ctx context.Context, shared benchmarks.Options) (*benchmarks.Report, error) {
				return benchmarks.Form(ctx, shared, members)
			})
		},
	}
	cmd.Flags().IntVar(&members, "members", maxMembers, "installations in the group")
	return cmd
}

func commitCommand(c *console, o *benchOptions) *cobra.Command {
	var members int
	cmd := &cobra.Command{
		Use:     "commit",
		Short:   "Key updates in one group, until everybody has applied them",
		Example: "  conclave bench commit --members 400",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := atLeast("members", members, 2); err != nil {
				return err
			}
			return c.bench(cmd.Context(), *o, func(ctx context.Context, shared benchmarks.Options) (*benchmarks.Report, error) {
				return benchmarks.Commit(ctx, shared, members)
			})
		},
	}
	cmd.Flags().IntVar(&members, "members", maxMembers, "installations in the group")
	return cmd
}

func idleCommand(c *console, o *benchOptions) *cobra.Command {
	var installations int
	cmd := &cobra.Command{
		Use:     "idle",
		Short:   "What installations cost that nobody asks anything",
		Example: "  conclave bench idle --installations 5000",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := atLeast("installations", installations, 3); err != nil {
				return err
			}
			return c.bench(cmd.Context(), *o, func(ctx context.Context, shared benchmarks.Options) (*benchmarks.Report, error) {
				return benchmarks.Idle(ctx, shared, installations)
			})
		},
	}
	cmd.Flags().IntVar(&installations, "installations", 5000, "installations, each in three groups")
	return cmd
}

func mixedCommand(c *console, o *benchOptions) *cobra.Command {
	var f benchmarks.MixedOptions
	cmd := &cobra.Command{
		Use:     "mixed",
		Short:   "Many overlapping groups of 2 to 50, and messages in all of them",
		Example: "  conclave bench mixed --installations 2000 --groups 200",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(atLeast("installations", f.Installations, 2), atLeast("groups", f.Groups, 1),
				atLeast("messages", f.Messages, 1), atLeast("window", f.Window, 1)); err != nil {
				return err
			}
			return c.bench(cmd.Context(), *o, func(ctx context.Context, shared benchmarks.Options) (*benchmarks.Report, error) {
				f.Options = shared
				return benchmarks.Mixed(ctx, f)
			})
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&f.Installations, "installations", 2000, "installations on the host")
	flags.IntVar(&f.Groups, "groups", 200, "groups of 2 to 50 of them")
	flags.IntVar(&f.Messages, "messages", 2000, "messages, in groups at random")
	flags.IntVar(&f.Window, "window", 8*inFlight, "messages under way at a time")
	return cmd
}

func nodeCommand(c *console, o *benchOptions) *cobra.Command {
	var f benchmarks.NodeOptions
	var flood bool
	var child string
	cmd := &cobra.Command{
		Use:     "node",
		Short:   "An XMTP node under clients that speak gRPC",
		Example: "  conclave bench node --flood --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(atLeast("rate", f.Rate, 1), atLeast("writers", f.Writers, 1),
				atLeast("messages", f.Messages, 1), atLeast("clients", f.Clients, 1)); err != nil {
				return err
			}
			if child != "" {
				return benchmarks.FloodChild(cmd.Context(), child, c.out)
			}
			program, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			if flood {
				f.Flood = func(ctx context.Context, url string) *exec.Cmd {
					// It stands for another machine, so it gets what this one leaves over.
					cmd := exec.CommandContext(ctx, "nice", "-n", "19", program, "bench", "node", "--child", url)
					cmd.Stderr = c.err
					return cmd
				}
			}
			f.Serve = func(ctx context.Context, dir string) *exec.Cmd {
				cmd := exec.CommandContext(ctx, program, "serve", "--dir", dir, "--listen", "127.0.0.1:0", "--xmtp=127.0.0.1:0", "--xmtp-web=",
					"--caller-bytes", unlimited, "--group-bytes", unlimited)
				cmd.Stderr = c.err
				return cmd
			}
			return c.bench(cmd.Context(), *o, func(ctx context.Context, shared benchmarks.Options) (*benchmarks.Report, error) {
				f.Options = shared
				return benchmarks.Node(ctx, f)
			})
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&f.Rate, "rate", 500, "messages a second, where latency is measured")
	flags.DurationVar(&f.For, "for", 10*time.Second, "how long latency is measured")
	flags.IntVar(&f.Writers, "writers", 64, "concurrent writers, where publishes are counted")
	flags.IntVar(&f.Messages, "messages", 10_000, "messages that they publish")
	flags.IntVar(&f.Clients, "clients", 2000, "subscribed clients, each with a connection of its own")
	flags.BoolVar(&flood, "flood", false, "measure latency also while another caller, at 127.0.0.2, floods the node")
	flags.StringVar(&child, "child", "", "flood the node at this URL until interrupted")
	_ = flags.MarkHidden("child")
	return cmd
}

func atLeast(flag string, n, least int) error {
	if n < least {
		return usagef("--%s is %d: give at least %d", flag, n, least)
	}
	return nil
}

func (c *console) options(o benchOptions, dir string) benchmarks.Options {
	return benchmarks.Options{Dir: dir, Seed: o.seed, Logger: c.log}
}

// bench runs one benchmark in a directory of its own, and prints its report.
func (c *console) bench(ctx context.Context, o benchOptions, run func(context.Context, benchmarks.Options) (*benchmarks.Report, error)) (err error) {
	dir, err := os.MkdirTemp(o.dir, "conclave-bench-")
	if err != nil {
		return fmt.Errorf("make a directory for the benchmark: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	report, err := run(ctx, c.options(o, dir))
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if err != nil {
		return err
	}
	if o.json {
		err = printJSON(c.out, report)
	} else {
		err = printReport(c.out, report)
	}
	if err == nil && !report.OK() {
		err = errors.New("messages were lost, repeated or out of order: this is a bug, please report it")
	}
	return err
}
