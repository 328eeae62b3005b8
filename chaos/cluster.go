package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave/chaos/wire"
)

// A cluster is three NATS servers, joined through a proxy for each direction,
// and a `conclave serve` on them.
type cluster struct {
	w      *world
	nodes  []*node
	routes map[[2]int]*wire.Proxy // from node to node
	doors  []*wire.Proxy          // for clients, by node
	serve  *serve
}

func clusterLog(w *world) (logSide, error) {
	const size = 3
	c := &cluster{w: w, routes: map[[2]int]*wire.Proxy{}}
	proxy := func(to string) (*wire.Proxy, error) {
		p, err := wire.NewProxy(to)
		if err == nil {
			w.ends = append(w.ends, p.Close)
		}
		return p, err
	}
	for i := range size {
		n := &node{dir: w.dir, self: w.tools.self}
		n.spec = natsSpec{Name: fmt.Sprint("nats", i), Dir: filepath.Join(w.dir, fmt.Sprint("nats", i))}
		var err error
		if n.spec.Client, err = freePort(); err != nil {
			return nil, err
		}
		if n.spec.Cluster, err = freePort(); err != nil {
			return nil, err
		}
		door, err := proxy(n.spec.Client)
		if err != nil {
			return nil, err
		}
		c.nodes, c.doors = append(c.nodes, n), append(c.doors, door)
	}
	for i, n := range c.nodes {
		for j, other := range c.nodes {
			if i == j {
				continue
			}
			p, err := proxy(other.spec.Cluster)
			if err != nil {
				return nil, err
			}
			c.routes[[2]int{i, j}] = p
			n.spec.Routes = append(n.spec.Routes, p.Address())
		}
		n.file = filepath.Join(w.dir, n.spec.Name+".json")
		if err := writeJSON(n.file, n.spec); err != nil {
			return nil, err
		}
	}
	c.serve = &serve{w: w, instead: []string{"--nats", c.url(), "--replicas", "3"}}
	return c, nil
}

func (c *cluster) url() string {
	urls := make([]string, len(c.doors))
	for i, d := range c.doors {
		urls[i] = "nats://" + d.Address()
	}
	return strings.Join(urls, ",")
}

func (c *cluster) point(_ int, h *hostSpec) { h.NATS = c.url() }

// start makes the cluster whole again.
func (c *cluster) start(ctx context.Context) error {
	c.heal()
	if err := c.eachNode(func(n *node) error { return n.start(ctx) }); err != nil {
		return err
	}
	return c.serve.start(ctx)
}

func (c *cluster) heal() {
	for _, p := range c.routes {
		p.Heal()
	}
	for _, p := range c.doors {
		p.Heal()
	}
}

func (c *cluster) eachNode(f func(*node) error) error {
	var g errgroup.Group
	for _, n := range c.nodes {
		g.Go(func() error { return f(n) })
	}
	return g.Wait()
}

func (c *cluster) stop() error {
	return errors.Join(c.serve.stop(), c.eachNode((*node).stop))
}

func (c *cluster) kill() {
	for _, n := range c.nodes {
		n.kill()
	}
}

// cut takes one node off the network: no other node and no client reaches it,
// and it reaches nobody.
func (c *cluster) cut(i int) {
	for way, p := range c.routes {
		if way[0] == i || way[1] == i {
			p.Cut()
		}
	}
	c.doors[i].Cut()
}

// leader is the node that leads the log, as soon as one does.
func (c *cluster) leader(ctx context.Context) (int, error) {
	for range 100 {
		for i, n := range c.nodes {
			leads, err := n.leads(ctx)
			if err != nil || leads {
				return i, err
			}
		}
		if !pause(ctx, 100*time.Millisecond) {
			break
		}
	}
	return 0, errors.New("no node leads the log")
}

// blows are what befalls a node, or all of them.
var blows = []struct {
	name string
	all  bool
	do   func(c *cluster, i int) error
}{
	{name: "kill", do: func(c *cluster, i int) error { c.nodes[i].kill(); c.w.killed(); return nil }},
	{name: "cut", do: func(c *cluster, i int) error { c.cut(i); c.w.struck(); return nil }},
	{name: "kill all", all: true, do: func(c *cluster, i int) error { c.nodes[i].kill(); c.w.killed(); return nil }},
	{name: "freeze", do: func(c *cluster, i int) error {
		c.w.struck()
		c.nodes[i].frozen = true
		return c.nodes[i].p.freeze()
	}},
	{name: "stop", do: func(c *cluster, i int) error { c.w.struck(); return c.nodes[i].stop() }},
}

// killCluster: the log is three servers, and what befalls one machine befalls
// each of them, the leader first.
var killCluster = scenario{
	name:  "cluster",
	does:  "a three-node NATS cluster whose leader, followers or all are killed, stopped, frozen and cut off in turn",
	world: worldSpec{hosts: 2, people: 6, groups: 2, guests: 1},
	log:   clusterLog,
	round: func(ctx context.Context, w *world, full bool) error {
		c := w.log.(*cluster)
		if err := w.begin(ctx, steadyLoad); err != nil {
			return err
		}
		return w.times(3, 5, full, func(n int) error {
			blow := blows[(n+w.round)%len(blows)]
			leader, err := c.leader(ctx)
			if err != nil {
				return err
			}
			// The leader every other time, else one of the others.
			victim := leader
			if (n+w.round/len(blows))%2 == 1 {
				victim = (leader + 1 + w.random.IntN(2)) % len(c.nodes)
			}
			for i := range c.nodes {
				if i == victim || blow.all {
					if err := blow.do(c, i); err != nil {
						return err
					}
				}
			}
			w.sleep(ctx, 500*time.Millisecond, 3*time.Second)
			return c.start(ctx)
		})
	},
}

// A pair is a log and two gateways on it.
type pair struct {
	*serve
	gateways [2]*serve
	xmtp     [2]string
}

func pairLog(w *world) (logSide, error) {
	s, err := newServe(w)
	if err != nil {
		return nil, err
	}
	// The gateways are nodes on the log of another.
	secret := filepath.Join(w.dir, "node-password")
	if err := os.WriteFile(secret, []byte("chaos\n"), 0o600); err != nil {
		return nil, err
	}
	s.args = append(s.args, "--node-user", "node", "--node-password-file", secret)
	l := &pair{serve: s}
	for i := range l.gateways {
		if l.xmtp[i], err = freePort(); err != nil {
			return nil, err
		}
		l.gateways[i] = &serve{w: w, instead: []string{"--nats", "nats://" + s.address, "--user", "node", "--password-file", secret, "--xmtp", l.xmtp[i]}}
	}
	return l, nil
}

func (l *pair) start(ctx context.Context) error {
	if err := l.serve.start(ctx); err != nil {
		return err
	}
	for _, g := range l.gateways {
		if err := g.start(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (l *pair) stop() error {
	return errors.Join(l.gateways[0].stop(), l.gateways[1].stop(), l.serve.stop())
}

// point: two hosts have a gateway each, the third is on NATS.
func (l *pair) point(n int, h *hostSpec) {
	if n < len(l.xmtp) {
		h.XMTP = "http://" + l.xmtp[n]
	} else {
		l.serve.point(n, h)
	}
}

// twoGateways: XMTP's API is two processes on one log, each of which dies.
var twoGateways = scenario{
	name:  "gateways",
	does:  "two gateways on one log, with a host on each and one on NATS: the gateways and the log are killed in turn",
	world: worldSpec{hosts: 3, people: 9, groups: 2, guests: 1},
	log:   pairLog,
	round: func(ctx context.Context, w *world, full bool) error {
		l := w.log.(*pair)
		if err := w.begin(ctx, steadyLoad); err != nil {
			return err
		}
		return w.times(3, 6, full, func(n int) error {
			w.sleep(ctx, 300*time.Millisecond, 800*time.Millisecond)
			switch n % 3 {
			case 2:
				l.serve.kill()
			default:
				l.gateways[n%3].kill()
			}
			w.sleep(ctx, 0, 500*time.Millisecond)
			return l.start(ctx)
		})
	},
}
