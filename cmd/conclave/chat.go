package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
	"github.com/conclave-chat/conclave/bus/xmtp"
)

// chatOptions are the flags of chat.
type chatOptions struct {
	dir, nats, xmtp    string
	user, passwordFile string
	passphraseFile     string
	light              bool
	newGroup           string
	with               []string
	group              string
}

func chatCommand(c *console) *cobra.Command {
	var o chatOptions
	cmd := &cobra.Command{
		Use:   "chat",
		Short: "Chat at the terminal, on a backend that is served",
		Long: `Chat opens your installation in a directory, or makes one with a new wallet, and
talks on a backend that "conclave serve" serves. Type to send. At a terminal the
prompt shows … while something that you typed is on its way, and ✗ begins the line
of what failed. In a pipe each line comes back with its mark: … waits, ✓ is in the
group's log, ✗ failed; the exit code is 1 where a line was not sent. /help lists
what else there is. At a terminal, warnings go to chat.log in --dir.`,
		Example: `  conclave chat --dir ~/.conclave --nats nats://127.0.0.1:4222
  conclave chat --dir ~/.conclave --new-group Harbour --with 0x2c7536e3605d9c16a7a3d7b1898e529396a65c23`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.chat(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", "", "directory of your wallet and messages")
	f.StringVar(&o.nats, "nats", "nats://"+defaultListen, "URL of the backend")
	f.StringVar(&o.xmtp, "xmtp", "", "URL of an XMTP network to talk on instead, such as http://127.0.0.1:5556")
	f.StringVar(&o.user, "user", "", "user that the backend asks for")
	f.StringVar(&o.passwordFile, "password-file", "", "file with that user's password")
	f.StringVar(&o.passphraseFile, "passphrase-file", "", "file with the passphrase of your wallet (default: ask)")
	f.BoolVar(&o.light, "insecure-light", false, "protect a new wallet's file weakly and fast: for tests only")
	f.StringVar(&o.newGroup, "new-group", "", "make a group of this name and open it")
	f.StringSliceVar(&o.with, "with", nil, "addresses of the new group's members, separated by commas")
	f.StringVar(&o.group, "group", "", "id of the group to open")
	return cmd
}

func (c *console) chat(ctx context.Context, o chatOptions) (err error) {
	switch {
	case o.dir == "":
		return usagef("give --dir, the directory of your wallet and messages")
	case o.xmtp != "" && o.user != "":
		return usagef("--user belongs to --nats: an XMTP network asks for none")
	case o.newGroup == "" && len(o.with) > 0:
		return usagef("--with belongs to --new-group: give the group a name")
	case o.newGroup != "" && o.group != "":
		return usagef("--new-group and --group exclude each other")
	}
	presented, err := credentials(o.user, o.passwordFile)
	if err != nil {
		return err
	}
	var open conclave.GroupID
	if o.group != "" {
		if open, err = conclave.ParseGroupID(o.group); err != nil {
			return usageError{err}
		}
	}
	passphrase, err := c.passphrase(ctx, o.dir, o.passphraseFile)
	if err != nil {
		return err
	}
	closeLog, err := c.logTo(o.dir)
	if err != nil {
		return err
	}
	defer closeLog()
	wallet, made, err := loadWallet(o.dir, passphrase, o.light)
	if err != nil {
		return err
	}
	key, err := databaseKey(wallet)
	if err != nil {
		return err
	}
	b, err := c.backend(ctx, o, presented)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	host, err := openHost(ctx, conclave.Config{Dir: o.dir, Bus: b, Logger: c.log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeHost(ctx, host)) }()
	client, err := host.CreateClient(ctx, wallet, conclave.ClientOptions{DatabaseKey: key})
	if err != nil {
		return err
	}
	t := newTalk(ctx, c, client)
	defer t.close()
	if made {
		t.say("made a wallet in %s", o.dir)
	}
	t.say("you are %s", client.Address())
	if err := client.Conversations().Sync(ctx); err != nil {
		t.say("the backend does not answer yet: %s", oneLine(err))
	}
	switch {
	case o.newGroup != "":
		err = t.make(ctx, o.newGroup, o.with)
	case o.group != "":
		err = t.open(ctx, open)
	default:
		err = t.openOnly(ctx)
	}
	switch {
	case ctx.Err() != nil:
		return nil // left before it began
	case err != nil:
		return err
	}
	return t.run()
}

// logTo sends the log to a file in the directory where standard error is the
// terminal on which one talks.
func (c *console) logTo(dir string) (closeLog func(), err error) {
	if !isTerminal(c.out) || !isTerminal(c.err) {
		return func() {}, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make --dir: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "chat.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	c.log = c.newLog(f)
	return func() { _ = f.Close() }, nil
}

// backend connects to what the flags name.
func (c *console) backend(ctx context.Context, o chatOptions, presented jetstream.Credentials) (bus.Bus, error) {
	if o.xmtp != "" {
		return xmtp.Open(xmtp.Config{URL: o.xmtp, Logger: c.log})
	}
	b, err := jetstream.Open(ctx, jetstream.Config{URL: o.nats, Credentials: presented, Logger: c.log})
	switch at := jetstream.RedactURLs(o.nats); {
	case errors.Is(err, bus.ErrUnavailable):
		return nil, fmt.Errorf("no backend answers at %s: start one with conclave serve (%w)", at, err)
	case errors.Is(err, bus.ErrRefused):
		return nil, fmt.Errorf("the backend at %s does not let you in: give its --user and --password-file, or chat as the user who serves it on this machine (%w)", at, err)
	}
	return b, err
}

// short shows an address, or an inbox id, by its ends.
func shortName(s string) string {
	if len(s) <= 12 {
		return s
	}
	return s[:6] + "…" + s[len(s)-4:]
}

// harmless shows text from others: what would move the cursor or ring the bell
// is replaced, and a message is one line.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069:
			return '�'
		}
		return r
	}, s)
}
