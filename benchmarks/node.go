package benchmarks

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// NodeOptions say how an XMTP node is loaded.
type NodeOptions struct {
	Options
	// Serve makes the command that serves an XMTP network in the directory and
	// prints its address: a process of its own, so that its memory is its own.
	Serve    func(ctx context.Context, dir string) *exec.Cmd
	Rate     int           // messages a second, where latency is measured
	For      time.Duration // for so long
	Writers  int           // concurrent, where the rate of publishes is measured
	Messages int           // published by them together
	Clients  int           // each with a connection and a stream of its own, where memory is measured
	// Flood makes the command that is FloodChild in a process of its own. With it,
	// latency is measured twice more: while another caller floods the node, and
	// while it floods another node on this machine.
	Flood func(ctx context.Context, url string) *exec.Cmd
}

// Node measures an XMTP node by its gRPC API: from publish to stream, durable
// publishes, and what subscribed clients cost it.
func Node(ctx context.Context, o NodeOptions) (_ *Report, err error) {
	out := newReport("node", o.Seed)
	bare, err := barePublishes(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("floor of bus: %w", err)
	}
	s, err := startServer(ctx, o, "node")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	empty := s.resident()

	times, lost, err := s.latency(ctx, o, newGroups(o.Seed, 1)[0])
	if err != nil {
		return nil, fmt.Errorf("publish to stream: %w", err)
	}
	out.Lost = lost
	out.duration("publish_to_stream_p50", Percentile(times, 50), bare.one)
	out.duration("publish_to_stream_p99", Percentile(times, 99), bare.one)

	rate, err := s.publishes(ctx, o, newGroups(o.Seed+1, o.Writers))
	if err != nil {
		return nil, fmt.Errorf("publishes: %w", err)
	}
	out.rate("durable_publishes_per_second", rate, bare.rate)

	before := s.resident()
	lost, repeated, err := s.crowd(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("subscribed clients: %w", err)
	}
	out.Lost += lost
	out.Repeated = repeated
	out.cost("resident_with_clients", "B", float64(s.crowded), float64(empty))
	out.cost("bytes_per_client", "B", float64(s.crowded-before)/float64(o.Clients), 0)
	if o.Flood != nil {
		if err := s.floods(ctx, o, out, times); err != nil {
			return nil, fmt.Errorf("publish to stream in a flood: %w", err)
		}
	}
	return out, nil
}

// bareRates is what a bare JetStream does with the same bytes.
type bareRates struct {
	one  time.Duration // one publish after another
	rate float64       // as many at a time as there are writers, per second
}

func barePublishes(ctx context.Context, o NodeOptions) (r bareRates, err error) {
	if r.one, err = barePublish(ctx, o.Options); err != nil {
		return r, err
	}
	b, err := jetstream.Open(ctx, jetstream.Config{Dir: filepath.Join(o.Dir, "floor", "writers"), Logger: o.logger()})
	if err != nil {
		return r, err
	}
	defer b.Close()
	groups := newGroups(o.Seed, o.Writers)
	r.rate, err = spreadOver(ctx, groups, o.Messages, func(ctx context.Context, group []byte, i int) error {
		topic, err := bus.MessagesOf(group)
		if err == nil {
			_, err = b.Publish(ctx, topic, frame(group, i))
		}
		return err
	})
	return r, err
}

// spreadOver calls do n times, from one goroutine for each group, and returns
// how often a second it was done.
func spreadOver(ctx context.Context, groups [][]byte, n int, do func(context.Context, []byte, int) error) (float64, error) {
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for w, group := range groups {
		g.Go(func() error {
			for i := w; i < n; i += len(groups) {
				if err := do(ctx, group, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return float64(n) / time.Since(began).Seconds(), err
}

func newGroups(seed uint64, n int) [][]byte {
	r := rand.NewChaCha8([32]byte(binary.BigEndian.AppendUint64(make([]byte, 24), seed)))
	groups := make([][]byte, n)
	for i := range groups {
		groups[i] = make([]byte, 16)
		r.Read(groups[i])
	}
	return groups
}

// frame is an application message as a node sees one: RFC 9420's PrivateMessage,
// Section 6.3, whose number stands where the ciphertext would.
func frame(group []byte, number int) []byte {
	b := []byte{0, 1, 0, 2} // mls10, mls_private_message
	b = append(append(b, byte(len(group))), group...)
	b = binary.BigEndian.AppendUint64(b, 1) // epoch
	b = append(b, 1, 0)                     // application, no authenticated data
	b = append(append(b, 28), make([]byte, 28)...)
	b = append(b, 0x40|bodySize>>8, bodySize&0xff)
	b = binary.BigEndian.AppendUint64(b, uint64(number))
	return append(b, make([]byte, bodySize-8)...)
}

// numberOf reads a frame's number.
func numberOf(data []byte) int {
	if len(data) < bodySize {
		return -1
	}
	return int(binary.BigEndian.Uint64(data[len(data)-bodySize:]))
}

// A server is a node in a process of its own.
type server struct {
	cmd     *exec.Cmd
	url     string
	crowded int64 // resident while all clients were subscribed
}

var apiLine = regexp.MustCompile(`XMTP API at (http://\S+)`)

func startServer(ctx context.Context, o NodeOptions, dir string) (*server, error) {
	s := &server{cmd: o.Serve(ctx, filepath.Join(o.Dir, dir))}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the node: %w", err)
	}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if m := apiLine.FindStringSubmatch(lines.Text()); m != nil {
			s.url = m[1]
			go func() { // its pipe must not fill
				for lines.Scan() {
				}
			}()
			return s, nil
		}
	}
	return nil, errors.Join(errors.New("the node ended without an address"), s.stop())
}

func (s *server) stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	return s.cmd.Wait()
}

func (s *server) resident() int64 {
	return residentOf(strconv.Itoa(s.cmd.Process.Pid))
}

// connection makes an HTTP client with a connection of its own, as each real
// client has one, from an address of this machine, or from any where it is nil.
func connection(from net.Addr) *http.Client {
	t := &http.Transport{MaxConnsPerHost: 1, DialContext: (&net.Dialer{LocalAddr: from}).DialContext}
	t.Protocols = new(http.Protocols)
	t.Protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: t}
}

const mlsService = "/xmtp.mls.api.v1.MlsApi/"

func (s *server) sender() func(ctx context.Context, group []byte, number int) error {
	return s.senderFrom(nil)
}

func (s *server) senderFrom(from net.Addr) func(ctx context.Context, group []byte, number int) error {
	c := connect.NewClient[mlsapi.SendGroupMessagesRequest, emptypb.Empty](connection(from), s.url+mlsService+"SendGroupMessages", connect.WithGRPC())
	return func(ctx context.Context, group []byte, number int) error {
		_, err := c.CallUnary(ctx, connect.NewRequest(&mlsapi.SendGroupMessagesRequest{Messages: []*mlsapi.GroupMessageInput{
			{Version: &mlsapi.GroupMessageInput_V1_{V1: &mlsapi.GroupMessageInput_V1{Data: frame(group, number)}}},
		}}))
		return err
	}
}

// subscribe opens a stream of one group and calls got for each message until ctx
// ends. It returns once the server has answered.
func (s *server) subscribe(ctx context.Context, group []byte, got func(number int)) (wait func() error, err error) {
	c := connect.NewClient[mlsapi.SubscribeGroupMessagesRequest, mlsapi.GroupMessage](connection(nil), s.url+mlsService+"SubscribeGroupMessages", connect.WithGRPC())
	stream, err := c.CallServerStream(ctx, connect.NewRequest(&mlsapi.SubscribeGroupMessagesRequest{
		Filters: []*mlsapi.SubscribeGroupMessagesRequest_Filter{{GroupId: group}},
	}))
	if err != nil {
		return nil, err
	}
	stream.ResponseHeader() // waits for it
	done := make(chan error, 1)
	go func() {
		for stream.Receive() {
			got(numberOf(stream.Msg().GetV1().GetData()))
		}
		err := stream.Err()
		if ctx.Err() != nil {
			err = nil
		}
		done <- errors.Join(err, stream.Close())
	}()
	return func() error { return <-done }, nil
}

// drainTime is how long the last messages of a load may take.
const drainTime = 10 * time.Second

// latency publishes at a fixed rate and returns, sorted, how long each message
// took from its publish to the stream of another client.
func (s *server) latency(ctx context.Context, o NodeOptions, group []byte) (times []time.Duration, lost int, err error) {
	n := int(float64(o.Rate) * o.For.Seconds())
	sent, took := make([]time.Time, n), make([]time.Duration, n)
	var arrived sync.WaitGroup
	arrived.Add(n)
	streaming, stop := context.WithCancel(ctx)
	defer stop()
	var mu sync.Mutex
	wait, err := s.subscribe(streaming, group, func(number int) {
		now := time.Now()
		mu.Lock()
		defer mu.Unlock()
		if number >= 0 && number < n && took[number] == 0 {
			took[number] = now.Sub(sent[number])
			arrived.Done()
		}
	})
	if err != nil {
		return nil, 0, err
	}
	send := s.sender()
	var g errgroup.Group
	pace := time.NewTicker(time.Second / time.Duration(o.Rate))
	defer pace.Stop()
	for i := range n {
		<-pace.C
		mu.Lock()
		sent[i] = time.Now()
		mu.Unlock()
		g.Go(func() error { return send(ctx, group, i) })
	}
	if err := g.Wait(); err != nil {
		return nil, 0, err
	}
	all := make(chan struct{})
	go func() { arrived.Wait(); close(all) }()
	select {
	case <-all:
	case <-time.After(drainTime):
	}
	stop()
	if err := wait(); err != nil {
		return nil, 0, err
	}
	for _, d := range took {
		if d == 0 {
			lost++
			continue
		}
		times = append(times, d)
	}
	slices.Sort(times)
	return times, lost, nil
}

// publishes returns how many messages a second concurrent writers bring in.
func (s *server) publishes(ctx context.Context, o NodeOptions, groups [][]byte) (float64, error) {
	senders := make(map[string]func(context.Context, []byte, int) error, len(groups))
	for _, group := range groups {
		senders[string(group)] = s.sender()
	}
	return spreadOver(ctx, groups, o.Messages, func(ctx context.Context, group []byte, i int) error {
		return senders[string(group)](ctx, group, i)
	})
}

// crowdGroup is how many of the subscribed clients are in one group.
const crowdGroup = 20

// crowd subscribes all clients and sends one message to each group.
func (s *server) crowd(ctx context.Context, o NodeOptions) (lost, repeated int, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	groups := newGroups(o.Seed+2, (o.Clients+crowdGroup-1)/crowdGroup)
	got := make([]atomic.Int64, o.Clients)
	var arrived atomic.Int64
	all := make(chan struct{})
	waits := make([]func() error, o.Clients)
	var g errgroup.Group
	g.SetLimit(64)
	for i := range o.Clients {
		g.Go(func() (err error) {
			waits[i], err = s.subscribe(ctx, groups[i/crowdGroup], func(int) {
				got[i].Add(1)
				if arrived.Add(1) == int64(o.Clients) {
					close(all)
				}
			})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, 0, err
	}
	send := s.sender()
	for i, group := range groups {
		if err := send(ctx, group, i); err != nil {
			return 0, 0, err
		}
	}
	select {
	case <-all:
	case <-time.After(drainTime):
	}
	for i := range got {
		switch n := got[i].Load(); {
		case n == 0:
			lost++
		case n > 1:
			repeated++
		}
	}
	s.crowded = s.resident()
	stop()
	for _, wait := range waits {
		err = errors.Join(err, wait())
	}
	return lost, repeated, err
}
