package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// A natsSpec is one node of a cluster. Others reach it by its routes only, so
// that whoever sits between them decides who sees whom.
type natsSpec struct {
	Name    string   `json:"name"`
	Dir     string   `json:"dir"`
	Client  string   `json:"client"`  // host:port for clients
	Cluster string   `json:"cluster"` // host:port for the other nodes
	Routes  []string `json:"routes"`  // host:port of each other node
}

// runNATS is the whole of a node's process. On each line of input it says whether
// it leads the log's first shard.
func runNATS(ctx context.Context, path string, in io.Reader, out io.Writer) error {
	var spec natsSpec
	if err := readJSON(path, &spec); err != nil {
		return err
	}
	opts := &server.Options{
		ServerName: spec.Name, NoSigs: true, NoLog: true, NoSystemAccount: false,
		JetStream: true, StoreDir: spec.Dir, SyncAlways: true, MaxPayload: 8 << 20,
		Cluster: server.ClusterOpts{Name: "chaos", NoAdvertise: true, ConnectRetries: 1 << 30},
	}
	var err error
	if opts.Host, opts.Port, err = split(spec.Client); err != nil {
		return err
	}
	if opts.Cluster.Host, opts.Cluster.Port, err = split(spec.Cluster); err != nil {
		return err
	}
	for _, r := range spec.Routes {
		opts.Routes = append(opts.Routes, &url.URL{Scheme: "nats", Host: r})
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(startTime / 2) {
		return errors.New("the server does not start")
	}
	fmt.Fprintln(out, "ready")
	asked := make(chan bool)
	go func() {
		defer close(asked)
		for lines := bufio.NewScanner(in); lines.Scan(); {
			asked <- true
		}
	}()
	for {
		select {
		case _, ok := <-asked:
			if !ok {
				return nil // whoever started it is gone
			}
			fmt.Fprintln(out, s.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, "CONCLAVE_0"))
		case <-ctx.Done():
			return nil
		}
	}
}

func split(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err == nil {
		port, err = strconv.Atoi(text)
	}
	return host, port, err
}

// A node is one NATS server of a cluster, as the driver sees it.
type node struct {
	spec   natsSpec
	dir    string // of the world
	file   string
	self   string
	p      *process // nil: not running
	frozen bool
}

func (n *node) start(ctx context.Context) error {
	if n.frozen {
		n.frozen = false
		return n.p.thaw()
	}
	if n.p != nil {
		return nil
	}
	var err error
	if n.p, err = start(n.dir, n.spec.Name, n.self, "nats", n.file); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	return n.p.until(ctx, "ready")
}

func (n *node) stop() error {
	if n.p == nil {
		return nil
	}
	err := n.start(context.Background()) // a frozen one cannot stop
	err = errors.Join(err, n.p.stop())
	n.p = nil
	return err
}

func (n *node) kill() {
	if n.p != nil {
		n.p.kill()
		n.p, n.frozen = nil, false
	}
}

// leads asks whether it leads the log's first shard.
func (n *node) leads(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := fmt.Fprintln(n.p.in, "leader?"); err != nil {
		return false, err
	}
	line, err := n.p.line(ctx)
	return line == "true", err
}
