package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
	"github.com/conclave-chat/conclave/node"
)

// purgeOptions are the flags of purge.
type purgeOptions struct {
	dir, nats          string
	user, passwordFile string
	dryRun, yes        bool
}

func purgeCommand(c *console) *cobra.Command {
	var o purgeOptions
	cmd := &cobra.Command{
		Use:   "purge",
		Short: "Delete what a log holds of groups that nobody reads",
		Long: `Purge lists the groups that nobody has read, and to which nobody has written, for
as long as "serve --keep-unread" says, with what they take up, and deletes them
with --yes: their messages, commits and commit logs. A group counts as read while
somebody asks a node for it, as members do all the time. Nothing is listed before
nodes have noted for so long who reads what.

Who owns the directory may purge a log that is not being served, under --dir; a
log that is served, only its --operator-user.`,
		Example: `  conclave purge --dir /var/lib/conclave
  conclave purge --dir /var/lib/conclave --yes
  conclave purge --nats nats://127.0.0.1:4222 --user operator --password-file /etc/conclave/operator`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.purge(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", "", "directory of serve")
	f.StringVar(&o.nats, "nats", "", "URLs of NATS servers with the log, separated by commas, in place of --dir")
	f.StringVar(&o.user, "user", "", "operator that --nats asks for")
	f.StringVar(&o.passwordFile, "password-file", "", "file with the operator's password")
	f.BoolVar(&o.dryRun, "dry-run", false, "delete nothing, which is the default")
	f.BoolVar(&o.yes, "yes", false, "delete what is listed")
	return cmd
}

func (o purgeOptions) busConfig(c *console) (jetstream.Config, error) {
	switch {
	case (o.dir == "") == (o.nats == ""):
		return jetstream.Config{}, usagef("give --dir, the directory of serve, or --nats, where the log is served")
	case o.dir != "" && o.user != "":
		return jetstream.Config{}, usagef("--user belongs to --nats: who owns --dir is asked for nothing")
	case o.dryRun && o.yes:
		return jetstream.Config{}, usagef("--dry-run and --yes exclude each other")
	}
	presented, err := credentials(o.user, o.passwordFile)
	if err != nil {
		return jetstream.Config{}, err
	}
	if o.dir != "" {
		if _, err := os.Stat(busDir(o.dir)); err != nil {
			return jetstream.Config{}, fmt.Errorf("%s holds no log: %w", o.dir, err)
		}
	}
	return jetstream.Config{Dir: busDir(o.dir), URL: o.nats, Credentials: presented, Logger: c.log}, nil
}

func (c *console) purge(ctx context.Context, o purgeOptions) (err error) {
	config, err := o.busConfig(c)
	if err != nil {
		return err
	}
	b, err := jetstream.Open(ctx, config)
	switch {
	case errors.Is(err, jetstream.ErrLocked):
		return fmt.Errorf("%w: where it is served, give --nats and its operator", err)
	case err != nil:
		return explainBus(ctx, serveOptions{dir: o.dir, nats: o.nats}, err)
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	now := time.Now() // before it is counted
	var census node.Census
	if err := b.Walk(ctx, func(e jetstream.Entry) { census.Add(e.ID, e.Topic, e.Time, e.Size) }); err != nil {
		return err
	}
	unread, kept, err := census.Unread(ctx, b, now)
	if err != nil {
		return err
	}
	if len(unread) == 0 {
		fmt.Fprintf(c.out, "every group was read or written to within %v: there is nothing to delete\n", kept)
		return nil
	}
	fmt.Fprintf(c.out, "nobody has read these groups, or written to them, for %v:\n", kept)
	if err := c.printHoldings(unread); err != nil {
		return err
	}
	if !o.yes {
		fmt.Fprintln(c.out, "nothing is deleted: --yes deletes them")
		return nil
	}
	return c.deleteHoldings(ctx, b, unread)
}

// printHoldings prints a table of groups, and what they have together.
func (c *console) printHoldings(holdings []node.Holding) error {
	t := tabwriter.NewWriter(c.out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "group\tentries\tsize\toldest\tnewest\t\n")
	entries, size := 0, int64(0)
	for _, h := range holdings {
		fmt.Fprintf(t, "%x\t%s\t%s\t%s\t%s\t\n", h.Group, humanize.Comma(int64(h.Entries)), humanize.Bytes(uint64(h.Bytes)),
			h.Oldest.Format(time.DateOnly), h.Newest.Format(time.DateOnly))
		entries, size = entries+h.Entries, size+h.Bytes
	}
	fmt.Fprintf(t, "%s groups\t%s\t%s\t\t\t\n", humanize.Comma(int64(len(holdings))), humanize.Comma(int64(entries)), humanize.Bytes(uint64(size)))
	return t.Flush()
}

func (c *console) deleteHoldings(ctx context.Context, b *jetstream.Bus, holdings []node.Holding) error {
	groups, size := 0, int64(0)
	for _, h := range holdings {
		topics, last, err := h.Topics(ctx, b)
		if errors.Is(err, node.ErrInUse) {
			fmt.Fprintln(c.out, oneLine(err))
			continue
		}
		if err == nil {
			err = b.Purge(ctx, last, topics...)
		}
		if err != nil {
			if errors.Is(err, bus.ErrRefused) && !errors.Is(err, jetstream.ErrKept) {
				err = fmt.Errorf("only an operator deletes, see serve --operator-user: %w", err)
			}
			return fmt.Errorf("%d of %d groups are deleted: %w", groups, len(holdings), err)
		}
		groups, size = groups+1, size+h.Bytes
	}
	fmt.Fprintf(c.out, "deleted %s groups, %s\n", humanize.Comma(int64(groups)), humanize.Bytes(uint64(size)))
	return nil
}
