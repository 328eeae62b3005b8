package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/conclave-chat/conclave/bus/jetstream"
)

func logCommand(c *console) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "log",
		Short:   "Look at a log that is not being served",
		Example: "  conclave log check --dir /var/lib/conclave",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var dir string
	var asJSON bool
	check := &cobra.Command{
		Use:   "check",
		Short: "Read every entry of a log, and name what is not as it was written",
		Long: `Check reads the log under --dir, of serve or of a host with a log of its own, and
changes nothing. It tells what each stream holds, and every fault with the stream,
the sequence and the place in its file. Where there is one it ends with exit code
1. Put a backup in the log's place then; without one, "serve --accept-loss" goes on
with what is left.`,
		Example: "  conclave log check --dir /var/lib/conclave\n  conclave log check --dir /var/lib/conclave --json",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.checkLog(cmd.Context(), dir, asJSON) },
	}
	check.Flags().StringVar(&dir, "dir", "", "directory of serve, or of a host")
	check.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.AddCommand(check)
	return cmd
}

func (c *console) checkLog(ctx context.Context, dir string, asJSON bool) error {
	if dir == "" {
		return usagef("give --dir, the directory of serve or of a host")
	}
	if _, err := os.Stat(busDir(dir)); err == nil || filepath.Base(dir) != "bus" {
		dir = busDir(dir)
	}
	report, err := jetstream.CheckLog(ctx, dir)
	if err != nil {
		return err
	}
	if asJSON {
		encoder := json.NewEncoder(c.out)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(report); err != nil {
			return err
		}
		return report.Err()
	}
	for _, s := range report.Streams {
		fmt.Fprintf(c.out, "stream %s: %d entries, from %d to %d, %d sequences between them without one\n", s.Name, s.Entries, s.First, s.Last, s.Missing)
	}
	for _, f := range report.Faults {
		fmt.Fprintf(c.out, "fault: %v\n", f)
	}
	if err := report.Err(); err != nil {
		return err
	}
	fmt.Fprintln(c.out, "every entry is as it was written")
	return nil
}
