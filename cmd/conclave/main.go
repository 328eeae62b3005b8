// Command conclave shows, serves and measures end-to-end encrypted group chat:
// a demonstration of hundreds of installations in one process, a backend for
// other processes, a chat at the terminal, and benchmarks.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus/jetstream"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conclave:", oneLine(err))
		os.Exit(exitCode(err))
	}
}

// A usageError is a command line that cannot be meant.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func exitCode(err error) int {
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitFailed
}

// oneLine is an error as one line, for a person who has flags and no Config. What a
// library shows of a URL shows no credentials.
func oneLine(err error) string { return jetstream.Redact(advised(err)) }

func advised(err error) string {
	e, ok := errors.AsType[*conclave.Error](err)
	if !ok {
		return (&conclave.Error{Err: err}).Detail()
	}
	said := e.Op + ": " + e.Detail()
	if advice := cmp.Or(flagAdvice[e.Code], e.Advice); advice != "" {
		said += ": " + advice
	}
	return strings.ReplaceAll(strings.Replace(err.Error(), e.Error(), said, 1), "\n", "; ")
}

// flagAdvice is what to do about an error by its code, where the library's advice is
// about what a program writes.
var flagAdvice = map[string]string{
	"locked":          "wait for that process, or give another --dir",
	"wrong_key":       "give the passphrase that --dir was made with, or another --dir",
	"rolled_back":     "nothing was changed; restore the newest copy of --dir, or give another",
	"damaged":         "nothing was changed; restore a backup, or give another --dir",
	"read_only":       "let this user write to --dir",
	"log_rolled_back": "give the --nats or --xmtp that --dir was used with, or another --dir",
	"unavailable":     "see that the backend of --nats or --xmtp runs: conclave serve starts one",
	"no_node":         "start conclave serve there",
	"revoked":         "give another --dir, which makes a new installation",
	"no_group":        "see /groups",
	"not_member":      "see /members",
	"no_message":      "see what the group shows",
}

// redacted writes lines of a log without the credentials of URLs in them.
type redacted struct{ io.Writer }

func (r redacted) Write(line []byte) (int, error) {
	if _, err := io.WriteString(r.Writer, jetstream.Redact(string(line))); err != nil {
		return 0, err
	}
	return len(line), nil
}

// A console is what a command talks through.
type console struct {
	in       io.Reader
	out, err io.Writer
	log      *slog.Logger
	newLog   func(io.Writer) *slog.Logger // at the level that was asked for
}

// run is the whole program: nothing outside it reads flags, files or streams.
func run(ctx context.Context, args []string, in io.Reader, out, errw io.Writer) error {
	c := &console{in: in, out: out, err: errw}
	var level string
	root := &cobra.Command{
		Use:           "conclave",
		Short:         "End-to-end encrypted group chat: demo, backend, terminal chat, benchmarks",
		Example:       "  conclave demo --members 50\n  conclave serve --dir /var/lib/conclave --listen 127.0.0.1:4222",
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("log-level") && cmd.Name() == "demo" {
				level = "error" // what a demonstration recovers from is in its table
				if cmd.Flags().Changed("inject") {
					level = "error+1" // it does not report crashes that were asked for
				}
			}
			var l slog.Level
			if err := l.UnmarshalText([]byte(level)); err != nil {
				return usagef("--log-level is %q: give debug, info, warn or error", level)
			}
			c.newLog = func(w io.Writer) *slog.Logger {
				return slog.New(slog.NewTextHandler(redacted{w}, &slog.HandlerOptions{Level: l}))
			}
			c.log = c.newLog(errw)
			return nil
		},
	}
	root.PersistentFlags().StringVar(&level, "log-level", "warn", "what goes to standard error: debug, info, warn or error")
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errw)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w: see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(demoCommand(c), serveCommand(c), chatCommand(c), benchCommand(c), logCommand(c), purgeCommand(c))
	root.RunE = func(cmd *cobra.Command, args []string) error { return cmd.Help() }
	root.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef("there is no command %q: see %s --help", args[0], cmd.CommandPath())
		}
		return nil
	}
	return root.ExecuteContext(ctx)
}

// version is what the program was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return fmt.Sprintf("%s %s %s/%s", cmp.Or(info.Main.Version, "(devel)"), info.GoVersion, runtime.GOOS, runtime.GOARCH)
}

// noArgs refuses what is not a flag.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%q is not a flag: see %s --help", args[0], cmd.CommandPath())
	}
	return nil
}
