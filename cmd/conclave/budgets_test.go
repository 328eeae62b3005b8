package main

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/conclave-chat/conclave/node"
)

// What serve's flags say about limits is what the node is told.
func TestServeLimits(t *testing.T) {
	parse := func(line string) (c node.Config, err error) {
		var o nodeOptions
		cmd := &cobra.Command{RunE: func(*cobra.Command, []string) (err error) { c, err = o.config(); return err }, SilenceErrors: true, SilenceUsage: true}
		o.flags(cmd)
		cmd.SetArgs(strings.Fields(line))
		err = cmd.Execute()
		return c, err
	}
	const day = 24 * time.Hour
	for line, want := range map[string]node.Config{
		"": {Limits: node.Limits{Updates: 256}, Retention: node.Retention{Messages: 30 * day, Welcomes: 90 * day, Unread: 180 * day}},
		"--keep-messages 0 --keep-welcomes 48h --keep-unread 0 --identity-updates 300": {
			Limits: node.Limits{Updates: 300}, Retention: node.Retention{Messages: -1, Welcomes: 2 * day},
		},
		"--group-messages 60 --group-bytes 1MB:25MiB --caller-messages 600:3000 --caller-bytes 1000": {
			Limits: node.Limits{
				Updates:       256,
				GroupMessages: node.Budget{PerMinute: 60}, GroupBytes: node.Budget{PerMinute: 1_000_000, Burst: 25 << 20},
				CallerMessages: node.Budget{PerMinute: 600, Burst: 3000}, CallerBytes: node.Budget{PerMinute: 1000},
			},
			Retention: node.Retention{Messages: 30 * day, Welcomes: 90 * day, Unread: 180 * day},
		},
		"--group-bytes none --caller-bytes none": {
			Limits:    node.Limits{Updates: 256, GroupBytes: node.Budget{PerMinute: -1}, CallerBytes: node.Budget{PerMinute: -1}},
			Retention: node.Retention{Messages: 30 * day, Welcomes: 90 * day, Unread: 180 * day},
		},
	} {
		if got, err := parse(line); err != nil || got.Limits != want.Limits || got.Retention != want.Retention {
			t.Errorf("%s: %+v, %v", line, got, err)
		}
	}
	for line, want := range map[string]string{
		"--group-messages 0":     "give a number like 600 or 600:3000",
		"--group-messages 10MB":  "give a number like 600 or 600:3000",
		"--caller-messages 1:":   "give a number like 600 or 600:3000",
		"--caller-bytes -1":      "give a number like 16MB or 16MB:64MB",
		"--caller-bytes 16x":     "give a number like 16MB or 16MB:64MB",
		"--group-bytes 9999PB":   "give a number like 16MB or 16MB:64MB",
		"--keep-messages -1h":    "0, for ever, or a time like 720h",
		"--keep-welcomes soon":   "invalid duration",
		"--identity-updates 16":  "at least 17",
		"--identity-updates two": "invalid",
	} {
		if _, err := parse(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
}
