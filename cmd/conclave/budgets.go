package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/conclave-chat/conclave/node"
)

// nodeOptions are the flags of serve that bound what a node stores.
type nodeOptions struct {
	limits       node.Limits
	keepMessages time.Duration
	keepWelcomes time.Duration
	keepUnread   time.Duration
}

func (o *nodeOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	const day = 24 * time.Hour
	f.DurationVar(&o.keepMessages, "keep-messages", 30*day, "how long a group's messages are kept, commits but always; 0 for ever")
	f.DurationVar(&o.keepWelcomes, "keep-welcomes", 90*day, "how long welcomes are kept; 0 for ever")
	f.DurationVar(&o.keepUnread, "keep-unread", 180*day, "how long a group is kept that nobody reads, before conclave purge may delete it; 0 for ever")
	f.IntVar(&o.limits.Updates, "identity-updates", 256, "identity updates of one inbox")
	f.IntVar(&o.limits.CallerWallets, "caller-wallets", 0, "signatures of wallets on chains that one caller may have verified a day, -1 for any number (default 10,000)")
	f.Var(budget{&o.limits.GroupMessages, "count"}, "group-messages", "messages to one group a minute, as 600, or with a burst, as 600:3000 (default any number)")
	f.Var(budget{&o.limits.GroupBytes, "size"}, "group-bytes", "bytes to one group a minute, as 16MB, or with a burst, as 16MB:64MB, or none for any number (default "+sizes(node.DefaultGroupBytes)+")")
	f.Var(budget{&o.limits.CallerMessages, "count"}, "caller-messages", "messages, welcomes and updates of one caller a minute, likewise (default any number)")
	f.Var(budget{&o.limits.CallerBytes, "size"}, "caller-bytes", "bytes of one caller a minute, likewise; behind a proxy all callers may be one (default "+sizes(node.DefaultCallerBytes)+")")
}

// config is what the flags say.
func (o nodeOptions) config() (node.Config, error) {
	if o.keepMessages < 0 || o.keepWelcomes < 0 || o.keepUnread < 0 {
		return node.Config{}, usagef("--keep-messages, --keep-welcomes and --keep-unread are 0, for ever, or a time like 720h")
	}
	if o.limits.Updates < 17 {
		return node.Config{}, usagef("--identity-updates is at least 17: the last 16 are for revocations")
	}
	return node.Config{Limits: o.limits, Retention: node.Retention{
		Messages: forEver(o.keepMessages), Welcomes: forEver(o.keepWelcomes), Unread: o.keepUnread,
	}}, nil
}

// forEver is a time as node.Retention has it, where 0 is the default.
func forEver(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// sizes is a budget of bytes as its flag has it.
func sizes(b node.Budget) string {
	size := func(n int) string { return strings.ReplaceAll(humanize.IBytes(uint64(n)), " ", "") }
	return size(b.PerMinute) + ":" + size(b.Burst)
}

// A budget is a flag like 600, 600:3000 or 16MB:64MB, or none.
type budget struct {
	*node.Budget
	unit string // count or size
}

var _ pflag.Value = budget{}

func (b budget) Type() string { return b.unit }

func (b budget) String() string {
	switch {
	case b.Budget == nil || b.PerMinute == 0:
		return ""
	case b.PerMinute < 0:
		return unlimited
	}
	return fmt.Sprintf("%d:%d", b.PerMinute, b.Burst)
}

// unlimited is the value of a budget without a limit.
const unlimited = "none"

func (b budget) Set(s string) error {
	if s == unlimited {
		*b.Budget = node.Budget{PerMinute: -1}
		return nil
	}
	perMinute, burst, both := strings.Cut(s, ":")
	var err error
	if b.PerMinute, err = b.parse(perMinute); err == nil && both {
		b.Burst, err = b.parse(burst)
	}
	return err
}

func (b budget) parse(s string) (int, error) {
	n, err := humanize.ParseBytes(s)
	if plain := strings.Trim(s, "0123456789") == ""; err != nil || n < 1 || n > 1<<40 || b.unit == "count" && !plain {
		example := "600 or 600:3000"
		if b.unit == "size" {
			example = "16MB or 16MB:64MB"
		}
		return 0, fmt.Errorf("give a number like %s, or %s", example, unlimited)
	}
	return int(n), nil
}
