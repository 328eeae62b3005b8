package wire_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/chaos/wire"
)

// echo answers every line with itself.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	return l.Addr().String()
}

type caller struct {
	t *testing.T
	net.Conn
	lines *bufio.Reader
}

func dial(t *testing.T, p *wire.Proxy) caller {
	t.Helper()
	c, err := net.Dial("tcp", p.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return caller{t, c, bufio.NewReader(c)}
}

func (c caller) says(line string) error {
	c.t.Helper()
	if _, err := fmt.Fprintln(c, line); err != nil {
		return err
	}
	got, err := c.lines.ReadString('\n')
	if err == nil && got != line+"\n" {
		c.t.Errorf("%q came back as %q", line, got)
	}
	return err
}

// A proxy passes on, breaks what it is told to break, and passes on again.
func TestProxyCutsAndHeals(t *testing.T) {
	p, err := wire.NewProxy(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	before := dial(t, p)
	if err := before.says("one"); err != nil {
		t.Fatal(err)
	}
	p.Cut()
	if err := before.says("two"); err == nil {
		t.Error("a connection outlived the cut")
	}
	if err := dial(t, p).says("three"); err == nil {
		t.Error("a new connection came through the cut")
	}
	p.Heal()
	if err := dial(t, p).says("four"); err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// What is held comes through late, and whole.
func TestProxyHolds(t *testing.T) {
	p, err := wire.NewProxy(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c := dial(t, p)
	if err := c.says("one"); err != nil {
		t.Fatal(err)
	}
	p.Hold()
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := c.says("two"); err == nil {
		t.Error("it came through while held")
	}
	p.Heal()
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if got, err := c.lines.ReadString('\n'); err != nil || got != "two\n" {
		t.Errorf("after healing: %q, %v", got, err)
	}
}

// Of a stream, a Sieve drops whole messages; of any other call, nothing.
func TestSieveDropsOfStreamsOnly(t *testing.T) {
	const messages = 200
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	clear := new(http.Protocols)
	clear.SetUnencryptedHTTP2(true)
	network := &http.Server{Protocols: clear, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := range messages {
			frame := binary.BigEndian.AppendUint32([]byte{0}, 4)
			_, _ = w.Write(binary.BigEndian.AppendUint32(frame, uint32(i)))
		}
	})}
	go func() { _ = network.Serve(l) }()
	defer network.Close()
	s, err := wire.NewSieve(l.Addr().String(), 1, 0.25)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	client := &http.Client{Transport: &http.Transport{Protocols: clear}}
	count := func(path string) (n int) {
		t.Helper()
		r, err := client.Get("http://" + s.Address() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		last := -1
		for {
			frame := make([]byte, 9)
			if _, err := io.ReadFull(r.Body, frame); err == io.EOF {
				return n
			} else if err != nil {
				t.Fatal(err)
			}
			if i := int(binary.BigEndian.Uint32(frame[5:])); i <= last {
				t.Fatalf("%d after %d", i, last)
			} else {
				last = i
			}
			n++
		}
	}
	if n := count("/xmtp.mls.api.v1.MlsApi/QueryGroupMessages"); n != messages {
		t.Errorf("%d of %d of a query", n, messages)
	}
	n := count("/xmtp.mls.api.v1.MlsApi/SubscribeGroupMessages")
	if n != messages-s.Dropped() || s.Dropped() < messages/8 || s.Dropped() > messages/2 {
		t.Errorf("%d of %d of a stream, %d dropped", n, messages, s.Dropped())
	}
}
