package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/benchmarks"
)

// demoOptions are the flags of demo.
type demoOptions struct {
	members    string
	transcript string
	dir        string
	inject     bool
	json       bool
}

const maxMembers = 400

func demoCommand(c *console) *cobra.Command {
	var o demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Host a whole group in this process, replay a transcript and check every store",
		Long: `Demo hosts installations in this process, each with its own wallet, keys and
sealed store, forms one group of all of them and replays a transcript through
it: every line is one message, from the members in turn. Then it opens every
store again and checks that everybody has every message exactly once, in the
same order.

With --dir the run is kept: killed half-way and started again with the same
flags, it goes on where it was.`,
		Example: `  conclave demo
  conclave demo --members 50 --transcript minutes.txt
  conclave demo --dir /tmp/demo --inject`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.demo(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.members, "members", strconv.Itoa(maxMembers), "installations in the group, 2 to 400")
	f.StringVar(&o.transcript, "transcript", "", "text file to replay, - for standard input (default: one of our own)")
	f.StringVar(&o.dir, "dir", "", "directory to keep the run in (default: a temporary one)")
	f.BoolVar(&o.inject, "inject", false, "let every kind of actor crash, and saves fail, on the way")
	f.BoolVar(&o.json, "json", false, "print one JSON object instead of a table")
	return cmd
}

// demoReport is what a demonstration found. Times are in seconds.
type demoReport struct {
	Members            int     `json:"members"`
	Messages           int     `json:"messages"`
	Deliveries         int     `json:"deliveries"`
	Lost               int     `json:"lost"`
	Repeated           int     `json:"repeated"`
	Disordered         int     `json:"disordered"`
	P50                float64 `json:"send_to_all_stored_p50"`
	P99                float64 `json:"send_to_all_stored_p99"`
	DeliveriesPerSec   float64 `json:"deliveries_per_second"`
	Register           float64 `json:"register"`
	Form               float64 `json:"form"`
	PeakMemory         int64   `json:"peak_memory_bytes"`
	Restarts           uint64  `json:"restarts"`
	SentEarlier        int     `json:"sent_earlier"` // messages that an earlier run in the directory sent
	StreamedRepeatedly int     `json:"streamed_repeatedly"`
}

func (c *console) demo(ctx context.Context, o demoOptions) (err error) {
	members, err := strconv.Atoi(o.members)
	if err != nil || members < 2 || members > maxMembers {
		return usagef("--members is %q: give a number from 2 to %d", o.members, maxMembers)
	}
	lines, err := loadTranscript(o.transcript, c.in)
	if err != nil {
		return err
	}
	dir := o.dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "conclave-demo-"); err != nil {
			return fmt.Errorf("make a directory for the run: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	} else {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make --dir: %w", err)
		}
		if err := keepTranscript(dir, lines); err != nil {
			return err
		}
	}
	report, err := c.replay(ctx, dir, members, lines, o.inject)
	if ctx.Err() != nil {
		if o.dir != "" {
			return fmt.Errorf("interrupted: the same command goes on where this run was, from %s", o.dir)
		}
		return errors.New("interrupted: with --dir a run can go on later")
	}
	if err != nil {
		return err
	}
	if o.json {
		err = printJSON(c.out, report)
	} else {
		err = printTable(c.out, report.rows())
	}
	if err != nil {
		return err
	}
	if report.Lost+report.Repeated+report.Disordered+report.StreamedRepeatedly > 0 {
		return errors.New("not every member has every message exactly once and in order: this is a bug, please report it")
	}
	return nil
}

// keepTranscript notes what a directory's run replays: its lines are known by
// their numbers, so another text cannot go on in it.
func keepTranscript(dir string, lines []string) error {
	path := filepath.Join(dir, "transcript.txt")
	text := strings.Join(lines, "\n") + "\n"
	switch kept, err := os.ReadFile(path); {
	case errors.Is(err, os.ErrNotExist):
		// Written before anything is sent, whole or not at all.
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			return fmt.Errorf("keep transcript: %w", err)
		}
		return os.Rename(path+".new", path)
	case err != nil:
		return fmt.Errorf("read kept transcript: %w", err)
	case string(kept) != text:
		return fmt.Errorf("%s holds a run with another transcript: give --transcript %s, or another directory", dir, path)
	}
	return nil
}

// Names of the phases.
const (
	phaseRegister = "register"
	phaseForm     = "form the group"
	phaseReplay   = "replay"
	phaseCheck    = "check the stores"
)

// inFlight is how many messages are on their way to everybody at a time.
const inFlight = 4

// drainTime is how long a host may take to come to rest.
const drainTime = 30 * time.Second

func (c *console) replay(ctx context.Context, dir string, members int, lines []string, inject bool) (_ demoReport, err error) {
	report := demoReport{Members: members, Messages: len(lines)}
	crowd, err := benchmarks.OpenCrowd(dir, members)
	if err != nil {
		return report, err
	}
	bars := newProgress(c.err)
	defer bars.close()

	config := conclave.Config{Dir: dir, Logger: c.log}
	if inject {
		faults := newFaults()
		config.Fault, config.Keys = faults.at, noKeys{}
	}
	host, err := openHost(ctx, config)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, closeHost(ctx, host)) }()

	ph := bars.phase(phaseRegister, members)
	err = crowd.Register(ctx, host, ph.step)
	report.Register = ph.end().Seconds()
	if err != nil {
		return report, fmt.Errorf("register: %w", err)
	}

	replay := benchmarks.NewReplay(crowd)
	if err := replay.Recall(ctx); err != nil {
		return report, fmt.Errorf("read what is stored: %w", err)
	}
	replay.Follow(ctx)
	defer replay.Stop()

	ph = bars.phase(phaseForm, members)
	groups := []benchmarks.Group{crowd.Everybody()}
	err = crowd.Form(ctx, "Skarn Head", &groups[0])
	if err == nil {
		err = crowd.Join(ctx, groups, ph.step)
	}
	report.Form = ph.end().Seconds()
	if err != nil {
		return report, fmt.Errorf("form the group: %w", err)
	}

	ph = bars.phase(phaseReplay, len(lines))
	script := benchmarks.Turns(0, groups[0], lines)
	sent, err := replay.Send(ctx, groups, script, inFlight, ph.step)
	ph.end()
	if err != nil {
		return report, fmt.Errorf("replay: %w", err)
	}
	replay.Stop()
	report.Restarts = host.Restarts()
	if err := closeHost(ctx, host); err != nil {
		return report, fmt.Errorf("close: %w", err)
	}
	report.P50 = benchmarks.Percentile(sent.Latency, 50).Seconds()
	report.P99 = benchmarks.Percentile(sent.Latency, 99).Seconds()
	if sent.Took > 0 {
		report.DeliveriesPerSec = float64(sent.Fresh*members) / sent.Took.Seconds()
	}
	report.SentEarlier = len(lines) - sent.Fresh
	report.StreamedRepeatedly = sent.Repeated

	// Another host, which saw nothing of the replay, reads what is stored.
	reader, err := openHost(ctx, conclave.Config{Dir: dir, Logger: c.log})
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, closeHost(ctx, reader)) }()
	ph = bars.phase(phaseCheck, members)
	verdict, err := crowd.Check(ctx, reader, groups, script, sent.IDs, ph.step)
	ph.end()
	if err != nil {
		return report, fmt.Errorf("check the stores: %w", err)
	}
	report.Deliveries, report.Lost, report.Repeated, report.Disordered = verdict.Deliveries, verdict.Lost, verdict.Repeated, verdict.Disordered
	report.PeakMemory = benchmarks.PeakMemory()
	return report, nil
}

// lockPatience is how long a directory may stay locked: a process that was
// killed takes a moment to be gone.
const lockPatience = 3 * time.Second

// openHost opens a host, and waits for a directory that is about to be free.
func openHost(ctx context.Context, config conclave.Config) (*conclave.Host, error) {
	for began := time.Now(); ; {
		h, err := conclave.Open(ctx, config)
		if !errors.Is(err, conclave.ErrLocked) || time.Since(began) > lockPatience {
			return h, err
		}
		select {
		case <-time.After(lockPatience / 20):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// closeHost drains a host, also after an interrupt. It is idempotent.
func closeHost(ctx context.Context, h *conclave.Host) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	return h.Close(ctx)
}

func (r demoReport) rows() [][2]string {
	rows := [][2]string{
		{"members", humanize.Comma(int64(r.Members))},
		{"messages", humanize.Comma(int64(r.Messages))},
		{"deliveries", humanize.Comma(int64(r.Deliveries))},
		{"lost", humanize.Comma(int64(r.Lost))},
		{"repeated", humanize.Comma(int64(r.Repeated + r.StreamedRepeatedly))},
		{"order", cmp.Or(map[bool]string{true: "the same for everyone"}[r.Disordered == 0], fmt.Sprintf("differs for %d members", r.Disordered))},
		{"send → all stored, p50", short(seconds(r.P50))},
		{"send → all stored, p99", short(seconds(r.P99))},
		{"deliveries per second", humanize.Comma(int64(r.DeliveriesPerSec))},
		{"time to register", short(seconds(r.Register))},
		{"time to form the group", short(seconds(r.Form))},
		{"peak memory", cmp.Or(map[bool]string{true: "unknown"}[r.PeakMemory == 0], humanize.IBytes(uint64(r.PeakMemory)))},
		{"restarts", strconv.FormatUint(r.Restarts, 10)},
	}
	if r.SentEarlier > 0 {
		rows = append(rows, [2]string{"sent by an earlier run", humanize.Comma(int64(r.SentEarlier))})
	}
	return rows
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
