package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// asChild makes the test binary the program itself, for tests that kill it.
const asChild = "CONCLAVE_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asChild) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m,
		// Opened once for the process by a dependency, and never closed.
		goleak.IgnoreAnyFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
		goleak.IgnoreAnyFunction("go.opencensus.io/stats/view.(*worker).start"))
}

// output runs a command line to its end.
func output(t *testing.T, in string, args ...string) (out, errw string, err error) {
	t.Helper()
	var o, e shared
	err = run(t.Context(), args, strings.NewReader(in), &o, &e)
	return o.String(), e.String(), err
}

// shared is what several processes write to.
type shared struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestCommandLine proves that what cannot be meant is refused in one clear line,
// with exit code 2, and that what fails has exit code 1.
func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	empty, binary, latin := write("empty", ""), write("binary", "a\x00b\n"), write("latin", "gr\xfc\xdf\n")
	secret := write("secret", "one\ntwo\n")
	tests := []struct {
		args string
		in   string
		want string
		code int
	}{
		{args: "dance", want: `there is no command "dance": see conclave --help`, code: 2},
		{args: "demo --frobnicate", want: "unknown flag: --frobnicate: see conclave demo --help", code: 2},
		{args: "demo now", want: `"now" is not a flag: see conclave demo --help`, code: 2},
		{args: "demo --log-level loud", want: `--log-level is "loud": give debug, info, warn or error`, code: 2},
		{args: "demo --members 0", want: `--members is "0": give a number from 2 to 400`, code: 2},
		{args: "demo --members 1", want: `--members is "1": give a number from 2 to 400`, code: 2},
		{args: "demo --members 401", want: `--members is "401": give a number from 2 to 400`, code: 2},
		{args: "demo --members abc", want: `--members is "abc": give a number from 2 to 400`, code: 2},
		{args: "demo --transcript " + dir + "/none", want: "transcript " + dir + "/none does not exist: give a text file, or - for standard input", code: 1},
		{args: "demo --transcript " + dir, want: "transcript " + dir + " is a directory: give a text file, or - for standard input", code: 1},
		{args: "demo --transcript " + empty, want: "transcript " + empty + " is empty: every line of it is to be one message", code: 1},
		{args: "demo --transcript " + binary, want: "transcript " + binary + ": line 1 is not UTF-8 text: give a text file", code: 1},
		{args: "demo --transcript " + latin, want: "transcript " + latin + ": line 1 is not UTF-8 text: give a text file", code: 1},
		{args: "demo --transcript -", want: "transcript standard input is empty: every line of it is to be one message", code: 1},
		{args: "serve", want: "give --dir for a server in this process, or --nats for one that is there", code: 2},
		{args: "serve --dir x --nats nats://y", want: "--dir and --nats exclude each other: the log lies in one of them", code: 2},
		{args: "serve --nats nats://y --listen :1", want: "--listen belongs to --dir: servers at --nats listen by themselves", code: 2},
		{args: "serve --dir x --replicas 3", want: "--replicas belongs to --nats: one server keeps one copy", code: 2},
		{args: "serve --dir x --user me", want: "--user and --password-file belong together", code: 2},
		{args: "serve --dir x --user me --password-file " + secret, want: secret + " is to hold one line, with the secret", code: 1},
		{args: "serve --dir " + dir + " --listen 0.0.0.0:4222", want: "invalid configuration: Listen on 0.0.0.0:4222 is reachable from other machines: set Credentials.User and Password", code: 2},
		{args: "serve --dir x --operator-user me", want: "--operator-user and --operator-password-file belong together", code: 2},
		{args: "serve --nats nats://y --operator-user me --operator-password-file z", want: "--operator-user belongs to --dir: servers at --nats know their users by themselves", code: 2},
		{args: "purge", want: "give --dir, the directory of serve, or --nats, where the log is served", code: 2},
		{args: "purge --dir x --nats nats://y", want: "give --dir, the directory of serve, or --nats, where the log is served", code: 2},
		{args: "purge --dir x --user me --password-file y", want: "--user belongs to --nats: who owns --dir is asked for nothing", code: 2},
		{args: "purge --dir x --yes --dry-run", want: "--dry-run and --yes exclude each other", code: 2},
		{args: "chat", want: "give --dir, the directory of your wallet and messages", code: 2},
		{args: "chat --dir x --with 0x1", want: "--with belongs to --new-group: give the group a name", code: 2},
		{args: "chat --dir x --group *", want: `parse group id: invalid input: "*" is not 32 lower-case hex digits`, code: 2},
		{args: "chat --dir x", want: "standard input is no terminal to ask for the passphrase at: give --passphrase-file", code: 2},
		{args: "bench fanout --members 1", want: "--members is 1: give at least 2", code: 2},
		{args: "bench idle --installations 2", want: "--installations is 2: give at least 3", code: 2},
	}
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			out, _, err := output(t, test.in, strings.Fields(test.args)...)
			if err == nil || oneLine(err) != test.want {
				t.Errorf("says\n%v, not\n%v", err, test.want)
			}
			if err != nil && exitCode(err) != test.code {
				t.Errorf("exit code %d, not %d", exitCode(err), test.code)
			}
			if out != "" {
				t.Errorf("prints %q", out)
			}
		})
	}
}

// TestHelp proves that the help of every command shows an example.
func TestHelp(t *testing.T) {
	for _, command := range []string{"", "demo", "serve", "chat", "bench", "bench fanout", "bench form", "bench commit", "bench idle", "bench mixed", "log", "log check", "purge"} {
		out, _, err := output(t, "", append(strings.Fields(command), "--help")...)
		if err != nil || !strings.Contains(out, "Examples:\n  conclave "+command) {
			t.Errorf("%q --help: %v\n%s", command, err, out)
		}
	}
}

// TestInterrupt proves that a command ends when its context does.
func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := run(ctx, []string{"demo", "--members", "3"}, strings.NewReader(""), io.Discard, io.Discard)
	if err == nil || err.Error() != "interrupted: with --dir a run can go on later" {
		t.Errorf("says %v", err)
	}
}
