//go:build interop

package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/conclave-chat/conclave"
)

// Options of the SDK's streams. A lost one is opened again after a minute by
// default. Before that the SDK syncs, and then the stream has nothing of the gap
// to yield, because it is stored; without that sync the stream itself must close
// the gap.
var (
	reopen     = args{"retryDelay": 200, "retryAttempts": 100}
	reopenOnly = args{"retryDelay": 200, "retryAttempts": 100, "disableSync": true}
)

// streamed polls until a client's stream has yielded what is wanted in one
// conversation, each text once and in this order.
func (s *scenario) streamed(m *realMember, group string, want []string) (events []string) {
	s.t.Helper()
	s.do(poll(s.ctx, func() error {
		var got struct {
			Messages []realMessage
			Events   []string
		}
		if err := m.call(s.ctx, "streamed", nil, &got); err != nil {
			return err
		}
		events = got.Events
		var texts []string
		for _, message := range got.Messages {
			if message.Group == group && message.Type == "text" {
				texts = append(texts, message.Text)
			}
		}
		if !slices.Equal(texts, want) {
			return fmt.Errorf("%s's stream yielded %q, not %q; it tells of %q", m.name, texts, want, events)
		}
		return nil
	}))
	return events
}

// A goStream collects what Conversations.StreamAllMessages yields.
type goStream struct {
	mu    sync.Mutex
	texts []string
	err   error
}

func (s *scenario) goStream(m *goMember) *goStream {
	g := new(goStream)
	ctx, cancel := context.WithCancel(s.ctx)
	messages := m.client.Conversations().StreamAllMessages(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for message, err := range messages {
			g.mu.Lock()
			if err != nil {
				g.err = err
			} else if _, text := message.Content.(conclave.Text); text {
				g.texts = append(g.texts, message.Text())
			}
			g.mu.Unlock()
		}
	}()
	s.t.Cleanup(func() {
		cancel()
		<-ended
	})
	return g
}

func (g *goStream) yielded(want []string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil || !slices.Equal(g.texts, want) {
		return errors.Join(g.err, fmt.Errorf("Go's stream yielded %q, not %q", g.texts, want))
	}
	return nil
}

// Streams of both kinds yield what both kinds send, live, those of groups joined
// later included.
func TestWalkStreams(t *testing.T) {
	s := begin(t, "streams of both kinds yield what both kinds send")
	real, gus, gil := s.real("ada", "bob"), s.ours(s.nats, "gus")[0], s.ours(s.grpc, "gil")[0]
	s.do(real[0].call(s.ctx, "stream", reopen, nil))
	streams := []*goStream{s.goStream(gus), s.goStream(gil)}
	var want []string
	var room0 room
	for g := range 3 {
		r := must[room](t)(real[1].NewGroup(s.ctx, fmt.Sprint("group ", g), real[0], gus, gil))
		rooms := append([]room{r}, s.enterAll(r.ID(), gus, gil)...)
		for i, r := range rooms {
			text := fmt.Sprintf("group %d, line %d", g, i)
			s.say(r, text)
			want = append(want, text)
		}
		s.streamed(real[0], r.ID(), want[3*g:])
		room0 = r
	}
	for _, stream := range streams {
		s.do(poll(s.ctx, func() error { return stream.yielded(want) }))
	}
	s.agree(append([]room{room0}, s.enterAll(room0.ID(), real[0], gus, gil)...))
}

// The node is restarted in the middle of streams: they go on, and nothing is
// lost, doubled or out of order.
func TestNodeRestart(t *testing.T) {
	s := beginAlone(t, "the node is restarted in the middle of a stream")
	real, gus, gil := s.real("ada", "bob"), s.ours(s.nats, "gus")[0], s.ours(s.grpc, "gil")[0]
	ours := must[room](t)(gus.NewGroup(s.ctx, "restart", real[0], real[1], gil))
	ada, bob, grpc := s.enter(ours.ID(), real[0]), s.enter(ours.ID(), real[1]), s.enter(ours.ID(), gil)
	s.do(real[0].call(s.ctx, "stream", reopenOnly, nil))
	streams := []*goStream{s.goStream(gus), s.goStream(gil)}
	var want []string
	// ada speaks last: whoever syncs while a stream of the SDK's is down has read
	// what the stream would have yielded.
	talk := func(when string) (events []string) {
		for _, r := range []room{ours, bob, grpc} {
			s.say(r, when+", "+r.Member().Name())
			want = append(want, when+", "+r.Member().Name())
		}
		events = s.streamed(real[0], ours.ID(), want)
		s.say(ada, when+", ada")
		want = append(want, when+", ada")
		return events
	}
	for round, end := range []func(){s.network.stop, s.network.kill} {
		talk(fmt.Sprintf("round %d, before", round))
		end()
		s.do(s.network.start(s.ctx))
		if events := talk(fmt.Sprintf("round %d, after", round)); !slices.Contains(events, "restart") {
			t.Errorf("the stream did not notice: %q", events)
		}
		s.streamed(real[0], ours.ID(), want)
	}
	for _, stream := range streams {
		s.do(poll(s.ctx, func() error { return stream.yielded(want) }))
	}
	s.agree([]room{ours, ada, bob, grpc})
}

// A real client's stream over a lost connection loses nothing: what was sent in
// the meantime comes first when it is open again; and a client that syncs first,
// as it does by default, has it stored.
func TestWalkDisconnect(t *testing.T) {
	s := begin(t, "a real client's stream over a disconnect loses nothing")
	line := must[*wire](t)(newWire(s.network.xmtp))
	t.Cleanup(line.close)
	ada := must[*realMember](t)(newRealMember(s.ctx, s.driver, "ada", newKey(), args{"url": "http://" + line.address()}))
	s.met(ada)
	s.row.real++
	gus := s.ours(s.nats, "gus")[0]
	bob := must[*realMember](t)(newRealMember(s.ctx, s.driver, "bob", newKey(), args{"url": "http://" + line.address()}))
	s.met(bob)
	s.row.real++
	ours := must[room](t)(gus.NewGroup(s.ctx, "wire", ada, bob))
	theirs, synced := s.enter(ours.ID(), ada), s.enter(ours.ID(), bob).(*realRoom)
	s.do(ada.call(s.ctx, "stream", reopenOnly, nil))
	s.do(bob.call(s.ctx, "stream", reopen, nil))
	var want []string
	talk := func(n int) {
		for i := range n {
			text := fmt.Sprint("line ", len(want), " ", i)
			s.say(ours, text)
			want = append(want, text)
		}
	}
	for range 2 {
		talk(5)
		s.streamed(ada, ours.ID(), want)
		line.cut()
		talk(120) // more than a page
		line.mend()
		s.streamed(ada, ours.ID(), want)
		s.do(poll(s.ctx, func() error { // bob's client has them without being asked to sync
			v, err := synced.stored(s.ctx)
			if err == nil && len(v.Lines) != len(want) {
				err = fmt.Errorf("bob's client stored %d of %d", len(v.Lines), len(want))
			}
			return err
		}))
	}
	s.agree([]room{ours, theirs, synced})
}

// A wire is a TCP proxy that can be cut.
type wire struct {
	l    net.Listener
	to   string
	mu   sync.Mutex
	down bool
	open map[net.Conn]bool
	wait sync.WaitGroup
}

func newWire(to string) (*wire, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &wire{l: l, to: to, open: map[net.Conn]bool{}}
	w.wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.wait.Go(func() { w.carry(c) })
		}
	})
	return w, nil
}

func (w *wire) address() string { return w.l.Addr().String() }

// carry copies both ways until either end is done.
func (w *wire) carry(near net.Conn) {
	defer near.Close()
	far, err := net.DialTimeout("tcp", w.to, 5*time.Second)
	if err != nil {
		return
	}
	defer far.Close()
	w.mu.Lock()
	if w.down {
		w.mu.Unlock()
		return
	}
	w.open[near], w.open[far] = true, true
	w.mu.Unlock()
	var both sync.WaitGroup
	for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
		both.Go(func() {
			io.Copy(pair[0], pair[1])
			pair[0].Close()
		})
	}
	both.Wait()
	w.mu.Lock()
	delete(w.open, near)
	delete(w.open, far)
	w.mu.Unlock()
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = true
	for c := range w.open {
		c.Close()
	}
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = false
}

func (w *wire) close() {
	w.l.Close()
	w.cut()
	w.wait.Wait()
}
