package benchmarks

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
)

// A flood is one caller that asks as fast as it is answered.
const (
	floodConnections = 32
	floodWorkers     = 512 // requests under way, spread over the connections
)

// floodAddress is where a flood comes from: to a node, a caller of its own. All
// of 127.0.0.0/8 is there on Linux; other systems may need to be told.
var floodAddress = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}

// FloodChild floods the node at a URL with messages of its own groups, until ctx
// ends. It writes a line when all of its requests are under way, and one with
// how many were answered when it ends.
func FloodChild(ctx context.Context, url string, out io.Writer) error {
	s := &server{url: url}
	var senders []func(context.Context, []byte, int) error
	for range floodConnections {
		senders = append(senders, s.senderFrom(floodAddress))
	}
	var answers atomic.Int64
	var begun sync.WaitGroup
	begun.Add(floodWorkers)
	var g errgroup.Group
	for w, group := range newGroups(0, floodWorkers) {
		g.Go(func() error {
			first := sync.OnceFunc(begun.Done)
			defer first()
			for i := 0; ctx.Err() == nil; i++ {
				err := senders[w%floodConnections](ctx, group, i)
				if err != nil && ctx.Err() == nil && connect.CodeOf(err) != connect.CodeResourceExhausted {
					return err
				}
				first()
				answers.Add(1)
			}
			return nil
		})
	}
	begun.Wait()
	fmt.Fprintln(out, "flooding")
	err := g.Wait()
	fmt.Fprintln(out, answers.Load())
	return err
}

// floods measures latency while the node is flooded. Its floor is the latency
// while the same flood goes to another node on this machine: what the flood costs
// its neighbours on the same cores and disk, whatever a node does.
func (s *server) floods(ctx context.Context, o NodeOptions, out *Report, calm []time.Duration) (err error) {
	other, err := startServer(ctx, o, "flooded")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, other.stop()) }()
	during := func(flooded *server, seed uint64) (times []time.Duration, rate float64, err error) {
		rate, err = flooded.flooded(ctx, o, func() (err error) {
			var lost int
			times, lost, err = s.latency(ctx, o, newGroups(seed, 1)[0])
			out.Lost += lost
			return err
		})
		return times, rate, err
	}
	beside, _, err := during(other, o.Seed+4)
	if err != nil {
		return err
	}
	within, rate, err := during(s, o.Seed+3)
	if err != nil {
		return err
	}
	out.duration("flooded_publish_to_stream_p50", Percentile(within, 50), Percentile(beside, 50))
	out.duration("flooded_publish_to_stream_p99", Percentile(within, 99), Percentile(beside, 99))
	out.cost("flooded_to_calm_p50", "x", Percentile(within, 50).Seconds()/Percentile(calm, 50).Seconds(), 0)
	out.cost("flooded_to_calm_p99", "x", Percentile(within, 99).Seconds()/Percentile(calm, 99).Seconds(), 0)
	out.rate("flood_answers_per_second", rate, 0)
	return nil
}

// flooded does something during a flood, and returns how many requests of the
// flood were answered meanwhile, per second.
func (s *server) flooded(ctx context.Context, o NodeOptions, during func() error) (rate float64, err error) {
	cmd := o.Flood(ctx, s.url)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start the flood: %w", err)
	}
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() {
		return 0, errors.Join(errors.New("the flood ended before it began"), cmd.Wait())
	}
	began := time.Now()
	err = during()
	took := time.Since(began)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	var answers float64
	if lines.Scan() {
		_, scanErr := fmt.Sscan(lines.Text(), &answers)
		err = errors.Join(err, scanErr)
	}
	return answers / took.Seconds(), errors.Join(err, cmd.Wait())
}
