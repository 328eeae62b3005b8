package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave/gateway"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/internal/listen"
	"github.com/conclave-chat/conclave/node"
)

// Where XMTP's SDKs look for a network with env: 'local', browsers for the second.
const (
	defaultXMTP    = "127.0.0.1:5556"
	defaultXMTPWeb = "127.0.0.1:5557"
)

// gatewayOptions are the flags of serve that are about XMTP's network API.
type gatewayOptions struct {
	listen, web       string
	tlsCert, tlsKey   string
	clientCA          string
	tokensFile        string
	origins           []string
	rateLimits        bool
	webSet, limitsSet bool // the flags were given
}

func (o *gatewayOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.listen, "xmtp", "", "serve XMTP's network API at host:port ("+defaultXMTP+" where none is given)")
	f.Lookup("xmtp").NoOptDefVal = defaultXMTP
	f.StringVar(&o.web, "xmtp-web", "", "one more host:port of the same API, for browsers (default "+defaultXMTPWeb+" beside "+defaultXMTP+")")
	f.StringVar(&o.tlsCert, "tls-cert", "", "PEM file with the certificate of XMTP's API")
	f.StringVar(&o.tlsKey, "tls-key", "", "PEM file with the certificate's key")
	f.StringVar(&o.clientCA, "client-ca", "", "PEM file with the authorities whose client certificates may call")
	f.StringVar(&o.tokensFile, "tokens-file", "", "file of bearer tokens that may call, in lines of a name, the token's SHA-256 in hex and perhaps the time of its end")
	f.StringArrayVar(&o.origins, "origin", nil, "origin whose web pages may call, again for each (default every one)")
	f.BoolVar(&o.rateLimits, "rate-limits", false, "limit each caller to XMTP's own rates (default beyond the loopback interface)")
}

// args takes what follows --xmtp: its value may be left out, so that the flags'
// parser leaves it there.
func (o *gatewayOptions) args(cmd *cobra.Command, args []string) error {
	f := cmd.Flags()
	o.webSet, o.limitsSet = f.Changed("xmtp-web"), f.Changed("rate-limits")
	if len(args) == 1 && o.listen == defaultXMTP && strings.Contains(args[0], ":") {
		o.listen, args = args[0], nil
	}
	return noArgs(cmd, args)
}

// check refuses what cannot be meant.
func (o *gatewayOptions) check() error {
	switch {
	case o.listen == "" && (o.webSet || o.tlsCert != "" || o.tlsKey != "" || o.clientCA != "" || o.tokensFile != "" || len(o.origins) > 0 || o.limitsSet):
		return usagef("--xmtp-web, --tls-cert, --tls-key, --client-ca, --tokens-file, --origin and --rate-limits belong to --xmtp")
	case (o.tlsCert == "") != (o.tlsKey == ""):
		return usagef("--tls-cert and --tls-key belong together")
	case o.clientCA != "" && o.tlsCert == "":
		return usagef("--client-ca belongs to --tls-cert: certificates are shown over TLS")
	}
	if !o.webSet && o.listen == defaultXMTP {
		o.web = defaultXMTPWeb
	}
	if !o.limitsSet {
		o.rateLimits = !loopback(o.listen) || o.web != "" && !loopback(o.web)
	}
	return nil
}

// loopback says whether only this machine reaches an address.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// config turns flags into the gateway's configuration, all but its node.
func (o *gatewayOptions) config(c *console, k *keys) gateway.Config {
	config := gateway.Config{Origins: o.origins, Logger: c.log}
	if o.rateLimits {
		config.Limits.Calls, config.Limits.Publishes = gateway.XMTPCalls, gateway.XMTPPublishes
	}
	k.use(&config)
	return config
}

// A front is where XMTP's API is served: ports that are open, before there is a
// node to serve. Without --xmtp there are none.
type front struct {
	config    gateway.Config
	keys      keys
	listeners []net.Listener
	says      []string // where each is
}

// openXMTP opens the ports of XMTP's API.
func (c *console) openXMTP(o gatewayOptions) (_ *front, err error) {
	f := &front{}
	if o.listen == "" {
		return f, nil
	}
	f.keys.o = o
	if err := f.keys.load(); err != nil {
		return nil, err
	}
	f.config = o.config(c, &f.keys)
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	scheme := "http"
	if f.config.TLS != nil {
		scheme = "https"
	}
	for _, at := range []struct{ flag, address, what string }{
		{"--xmtp", o.listen, "XMTP API at"}, {"--xmtp-web", o.web, "XMTP API for browsers at"},
	} {
		if at.address == "" {
			continue
		}
		l, err := listen.TCP(at.address)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at.flag, err)
		}
		f.listeners = append(f.listeners, l)
		f.says = append(f.says, fmt.Sprintf("%s %s://%s", at.what, scheme, l.Addr()))
		if !loopback(at.address) && o.clientCA == "" && o.tokensFile == "" {
			clear := ""
			if f.config.TLS == nil {
				clear = ", and who watches the wire sees who talks to whom: give --tls-cert and --tls-key, or put a proxy before it"
			}
			fmt.Fprintf(c.err, "warning: whoever reaches %s may read and publish, as on XMTP's own network: --tokens-file or --client-ca close it%s\n", l.Addr(), clear)
		}
	}
	return f, nil
}

// close closes the ports. Those that were served are closed already.
func (f *front) close() {
	for _, l := range f.listeners {
		l.Close()
	}
}

// serve serves XMTP's API before a node, until stop.
func (f *front) serve(c *console, n *node.Node, ready func(context.Context) error) (stop func() error, err error) {
	if len(f.listeners) == 0 {
		return func() error { return nil }, nil
	}
	f.config.Node, f.config.Ready = n, ready
	g, err := gateway.New(f.config)
	if err != nil {
		return nil, err
	}
	var serving errgroup.Group
	for i, l := range f.listeners {
		serving.Go(func() error {
			err := g.Serve(l)
			if err != nil {
				c.log.Error("XMTP API ended", "error", err)
			}
			return err
		})
		fmt.Fprintln(c.out, f.says[i])
	}
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		return errors.Join(g.Shutdown(ctx), serving.Wait())
	}, nil
}

// chains are where smart contract wallets are asked, from flags of the form
// CHAIN=URL.
func chains(flags []string, private bool) (*ethereum.Chains, error) {
	urls := map[uint64]string{}
	for _, f := range flags {
		// What is wrong is not shown: a URL may hold an API key.
		name, url, found := strings.Cut(f, "=")
		id, err := strconv.ParseUint(strings.TrimPrefix(name, "eip155:"), 10, 64)
		if !found || err != nil {
			return nil, usagef("--rpc is to be CHAIN=URL, such as 1=https://rpc.example")
		}
		if _, twice := urls[id]; twice {
			return nil, usagef("--rpc names chain %d twice", id)
		}
		urls[id] = url
	}
	var opts []ethereum.ChainsOption
	if private {
		opts = append(opts, ethereum.AllowPrivate())
	}
	c, err := ethereum.NewChains(urls, opts...)
	if err != nil {
		return nil, usageError{fmt.Errorf("--rpc: %w", err)}
	}
	return c, nil
}
