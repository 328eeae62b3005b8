package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/internal/listen"
	"github.com/conclave-chat/conclave/internal/telemetry"
	"github.com/conclave-chat/conclave/node"
)

// serveOptions are the flags of serve.
type serveOptions struct {
	dir, listen      string
	nats             string
	hosts            []string // users that --listen asks for, or the one that --nats does
	passwordFiles    []string // of each
	nodes, operators otherUser
	replicas, shards int
	acceptLoss       bool
	http             string
	rpc              []string
	rpcPrivate       bool
	node             nodeOptions
	gateway          gatewayOptions
}

const defaultListen = "127.0.0.1:4222"

func serveCommand(c *console) *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the log, the identity log and key packages to other processes",
		Long: `Serve is a backend that other processes use: an ordered log on NATS JetStream,
and the network's identity log and key packages on it. It sees no message in the
clear. Either it runs the NATS server itself, with the log under --dir, or it
works on servers that are there, with --nats.

With --xmtp it is an XMTP network too, which XMTP's own SDKs use: gRPC, gRPC-web
for browsers, and JSON for curl, on one port. What they publish, and what others
publish on NATS, is one log.

Beyond the loopback interface a user and a password are required for NATS. They
are those of hosts, which write messages and ask the node; only --node-user may
do what this node does, and only --operator-user may delete, with conclave purge. XMTP's
API is open to anybody, as XMTP's own is, but for --tokens-file or --client-ca.
Certificates, tokens and passwords are read again when their files change, and on
SIGHUP; who is connected with a former password is cut off.
On SIGTERM it finishes the requests at work, and stops.`,
		Example: `  conclave serve --dir /var/lib/conclave
  conclave serve --dir /var/lib/conclave --listen 0.0.0.0:4222 --user host --password-file /etc/conclave/password
  conclave serve --dir /var/lib/conclave --xmtp
  conclave serve --dir /var/lib/conclave --xmtp 0.0.0.0:443 --tls-cert cert.pem --tls-key key.pem --rpc 1=https://rpc.example
  conclave serve --nats nats://n1:4222,nats://n2:4222,nats://n3:4222 --replicas 3 --http 127.0.0.1:8080`,
		Args: o.gateway.args,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.listen == "" && o.nats == "" {
				o.listen = defaultListen
			}
			return c.serve(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", "", "directory of the log; one process uses it at a time")
	f.StringVar(&o.listen, "listen", "", "where others reach the NATS server, host:port (default "+defaultListen+")")
	f.StringVar(&o.nats, "nats", "", "URLs of NATS servers to work on, separated by commas, in place of --dir")
	f.StringArrayVar(&o.hosts, "user", nil, "user that hosts present, again for each that is to be shut out by itself, or that --nats asks for")
	f.StringArrayVar(&o.passwordFiles, "password-file", nil, "file with the user's password, again for each")
	f.StringVar(&o.nodes.name, "node-user", "", "user of other nodes that work on this server with --nats (default: none may)")
	f.StringVar(&o.nodes.passwordFile, "node-password-file", "", "file with that user's password")
	f.StringVar(&o.operators.name, "operator-user", "", "user of conclave purge on this server (default: nobody deletes while it is served)")
	f.StringVar(&o.operators.passwordFile, "operator-password-file", "", "file with that user's password")
	f.IntVar(&o.replicas, "replicas", 0, "copies of the log on a cluster, when it is created (default 1)")
	f.IntVar(&o.shards, "shards", 0, "shards of the log, when it is created, 1 to 64 (default 1)")
	f.BoolVar(&o.acceptLoss, "accept-loss", false, "open a damaged log under --dir with what is left of it; every host is told: see conclave log check")
	f.StringVar(&o.http, "http", "", "host:port for /livez, /readyz and /metrics (default: none)")
	f.StringArrayVar(&o.rpc, "rpc", nil, "CHAIN=URL of a JSON-RPC endpoint to ask smart contract wallets of that chain, again for each")
	f.BoolVar(&o.rpcPrivate, "rpc-private", false, "let a name in --rpc lead to an address that is not public, as a container's does")
	o.node.flags(cmd)
	o.gateway.flags(cmd)
	return cmd
}

// busConfig turns flags into the bus's configuration.
func (o serveOptions) busConfig(c *console) (jetstream.Config, error) {
	switch {
	case o.dir == "" && o.nats == "":
		return jetstream.Config{}, usagef("give --dir for a server in this process, or --nats for one that is there")
	case o.dir != "" && o.nats != "":
		return jetstream.Config{}, usagef("--dir and --nats exclude each other: the log lies in one of them")
	case o.nats != "" && o.listen != "":
		return jetstream.Config{}, usagef("--listen belongs to --dir: servers at --nats listen by themselves")
	case o.nats != "" && o.acceptLoss:
		return jetstream.Config{}, usagef("--accept-loss belongs to --dir: servers at --nats keep the log by themselves")
	case o.nats == "" && o.replicas > 1:
		return jetstream.Config{}, usagef("--replicas belongs to --nats: one server keeps one copy")
	}
	config := jetstream.Config{
		Dir: busDir(o.dir), URL: o.nats, Listen: o.listen, Replicas: o.replicas, Shards: o.shards,
		AcceptLoss: o.acceptLoss,
		Wait:       true,
		Logger:     c.log,
	}
	var err error
	if config.Nodes, err = o.nodes.credentials("node", o.dir != ""); err != nil {
		return config, err
	}
	if config.Operators, err = o.operators.credentials("operator", o.dir != ""); err != nil {
		return config, err
	}
	hosts, err := o.users()
	if err != nil || len(hosts) == 0 {
		return config, err
	}
	config.Credentials, config.Hosts = hosts[0], hosts[1:]
	return config, nil
}

// users are the hosts that --listen asks for, or what --nats is shown.
func (o serveOptions) users() (all []jetstream.Credentials, err error) {
	if len(o.hosts) != len(o.passwordFiles) {
		return nil, usagef("--user and --password-file belong together")
	}
	if o.nats != "" && len(o.hosts) > 1 {
		return nil, usagef("several --user belong to --dir: servers at --nats are shown one")
	}
	for i, user := range o.hosts {
		c, err := credentials(user, o.passwordFiles[i])
		if err == nil {
			_, err = jetstream.ReadSecret(c.PasswordFile) // said before anything is opened
		}
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// passwords are the files of those whom the embedded server lets in, which are read
// again while it runs.
func (o serveOptions) passwords(b *jetstream.Bus) reload {
	r := reload{what: "NATS users", load: b.ReadPasswords}
	if o.dir == "" {
		return r // the client reads them for each connection
	}
	for _, name := range append([]string{o.nodes.passwordFile, o.operators.passwordFile}, o.passwordFiles...) {
		if name != "" {
			r.files = append(r.files, name)
		}
	}
	return r
}

// An otherUser is what serve asks of other nodes, and of operators.
type otherUser struct{ name, passwordFile string }

func (u otherUser) credentials(whose string, embedded bool) (jetstream.Credentials, error) {
	switch {
	case u == otherUser{}:
		return jetstream.Credentials{}, nil
	case u.name == "" || u.passwordFile == "":
		return jetstream.Credentials{}, usagef("--%s-user and --%[1]s-password-file belong together", whose)
	case !embedded:
		return jetstream.Credentials{}, usagef("--%s-user belongs to --dir: servers at --nats know their users by themselves", whose)
	}
	_, err := jetstream.ReadSecret(u.passwordFile)
	return jetstream.Credentials{User: u.name, PasswordFile: u.passwordFile}, err
}

func busDir(dir string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, "bus")
}

// credentials are what a NATS server is shown. The file is read again whenever it
// asks, so that a password can be replaced while this runs.
func credentials(user, passwordFile string) (jetstream.Credentials, error) {
	if (user == "") != (passwordFile == "") {
		return jetstream.Credentials{}, usagef("--user and --password-file belong together")
	}
	return jetstream.Credentials{User: user, PasswordFile: passwordFile}, nil
}

func (c *console) serve(ctx context.Context, o serveOptions) (err error) {
	config, err := o.busConfig(c)
	if err != nil {
		return err
	}
	if err := o.gateway.check(); err != nil {
		return err
	}
	serving, err := o.node.config()
	if err != nil {
		return err
	}
	wallets, err := chains(o.rpc, o.rpcPrivate)
	if err != nil {
		return err
	}
	defer wallets.Close()
	// Ports first: one that is taken is said before a log is opened, and a
	// supervisor sees how far the opening is.
	front, err := c.openXMTP(o.gateway)
	if err != nil {
		return err
	}
	defer front.close()
	defer c.watch(front.keys.reload())()
	var ready readiness
	counted := telemetry.Nop()
	if o.http != "" {
		metrics, err := telemetry.Prometheus()
		if err != nil {
			return err
		}
		if counted, err = telemetry.New(telemetry.Config{MeterProvider: metrics.MeterProvider()}); err != nil {
			return err
		}
		defer counted.BeforeScrape(func() {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			counted.Ready.Set(map[bool]int{true: 1}[ready.now(ctx) == nil])
		})()
		stop, address, err := c.serveHTTP(o.http, metrics, &ready)
		if err != nil {
			return err
		}
		defer stop()
		fmt.Fprintf(c.out, "health and metrics at http://%s/readyz, /livez, /metrics\n", address)
	}
	b, err := jetstream.Open(ctx, config)
	if err != nil {
		return explainBus(ctx, o, err)
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	defer c.watch(o.passwords(b))()
	// Requests at work are finished on SIGTERM: the node outlives ctx.
	serving.Verifier, serving.Logger, serving.Telemetry = ethereum.Verifier{Chain: wallets}, c.log, counted
	n, err := node.Serve(context.WithoutCancel(ctx), b, serving)
	if err != nil {
		return err
	}
	defer n.Close()
	stop, err := front.serve(c, n, ready.now)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	ready.ask(b.Ready)
	at := jetstream.RedactURLs(o.nats)
	if at == "" {
		at = b.ClientURL()
	}
	info := b.Info()
	if info.Losses > 0 {
		fmt.Fprintf(c.err, "warning: entries are missing in the log: a loss was accepted (times: %d)\n", info.Losses)
	}
	fmt.Fprintf(c.out, "serving at %s, %d shards, log %.16s\n", at, info.Shards, info.Incarnation)
	<-ctx.Done()
	ready.ask(func(context.Context) error { return errDraining })
	fmt.Fprintln(c.out, "draining")
	return nil
}

// explainBus says what to do about a log that does not open.
func explainBus(ctx context.Context, o serveOptions, err error) error {
	switch {
	case errors.Is(err, jetstream.ErrConfig):
		return usageError{err}
	case errors.Is(err, bus.ErrDamaged) && o.dir != "":
		return fmt.Errorf("%w: conclave log check tells all, --accept-loss does it", err)
	case errors.Is(err, bus.ErrUnavailable) && o.nats != "":
		return fmt.Errorf("no NATS server answers at %s: start one there, or give --dir: %w", jetstream.RedactURLs(o.nats), err)
	case ctx.Err() != nil:
		return errors.New("interrupted before the log was open: nothing has changed")
	}
	return err
}

// readiness is what /readyz answers: opening, until it is told whom to ask.
type readiness struct {
	why atomic.Pointer[func(context.Context) error]
}

var (
	errOpening  = errors.New("opening")
	errDraining = errors.New("draining")
)

func (r *readiness) ask(why func(context.Context) error) { r.why.Store(&why) }

func (r *readiness) now(ctx context.Context) error {
	if why := r.why.Load(); why != nil {
		return (*why)(ctx)
	}
	return errOpening
}

// serveHTTP answers what a supervisor and Prometheus ask.
func (c *console) serveHTTP(address string, metrics *telemetry.Exporter, ready *readiness) (stop func(), at string, err error) {
	l, err := listen.TCP(address)
	if err != nil {
		return nil, "", fmt.Errorf("--http: %w", err)
	}
	say := func(w http.ResponseWriter, why error) {
		if why != nil {
			http.Error(w, "not ready: "+oneLine(why), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { say(w, nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { say(w, ready.now(r.Context())) })
	mux.Handle("GET /metrics", metrics.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			c.log.Error("health endpoint ended", "error", err)
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		if err := errors.Join(server.Shutdown(ctx), metrics.Shutdown(ctx)); err != nil {
			c.log.Warn("health endpoint not closed", "error", err)
		}
		<-served
	}, l.Addr().String(), nil
}
