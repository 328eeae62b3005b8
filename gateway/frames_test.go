package gateway_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/gateway"
)

// A dialogue is one HTTP/2 stream, frame by frame, on a connection of its own.
type dialogue struct {
	t      testing.TB
	conn   net.Conn
	framer *http2.Framer
}

// dial sends a request. Where it is left open its body may go on, as that of a
// bidirectional stream does.
func dial(t testing.TB, address, path string, headers map[string]string, body []byte, leftOpen bool) *dialogue {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	d := &dialogue{t, c, http2.NewFramer(c, c)}
	d.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	encode := hpack.NewEncoder(&block)
	field := func(name, value string) { d.must(encode.WriteField(hpack.HeaderField{Name: name, Value: value})) }
	field(":method", http.MethodPost)
	field(":scheme", "http")
	field(":authority", address)
	field(":path", path)
	for name, value := range headers {
		field(name, value)
	}
	_, err = io.WriteString(c, http2.ClientPreface)
	d.must(err)
	d.must(d.framer.WriteSettings())
	d.must(d.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}))
	d.must(d.framer.WriteData(1, !leftOpen, body))
	return d
}

func (d *dialogue) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// A block is a frame of headers, by their names on the wire.
type block map[string][]string

// An answer is what came back: a block of headers, and where the stream did not
// end with it, a body and perhaps a second block.
type answered struct {
	headers, trailers block
	alone             bool // the headers ended the stream
	body              []byte
}

// next is the next frame of the stream.
func (d *dialogue) next() http2.Frame {
	d.t.Helper()
	for {
		f, err := d.framer.ReadFrame()
		d.must(err)
		if f.Header().StreamID == 1 {
			return f
		}
	}
}

// headers reads the frame that an answer begins with.
func (d *dialogue) headers() (block, bool) {
	d.t.Helper()
	f, ok := d.next().(*http2.MetaHeadersFrame)
	if !ok {
		d.t.Fatal("the answer begins with something else than headers")
	}
	return fields(f), f.StreamEnded()
}

func (d *dialogue) all() answered {
	d.t.Helper()
	var a answered
	a.headers, a.alone = d.headers()
	for ended := a.alone; !ended; {
		switch f := d.next().(type) {
		case *http2.DataFrame:
			a.body, ended = append(a.body, f.Data()...), f.StreamEnded()
		case *http2.MetaHeadersFrame:
			a.trailers, ended = fields(f), f.StreamEnded()
		case *http2.RSTStreamFrame:
			d.t.Fatalf("the stream was reset: %v", f.ErrCode)
		}
	}
	return a
}

func fields(f *http2.MetaHeadersFrame) block {
	h := block{}
	for _, field := range f.Fields {
		h[field.Name] = append(h[field.Name], field.Value)
	}
	return h
}

// A protocol is how a refusal looks in it.
type protocol struct {
	name        string
	contentType func(stream bool) string
	framed      func(stream bool) bool
	refused     func(a answered, stream bool) (code string, err error)
}

var protocols = []protocol{
	{
		"gRPC", constant("application/grpc"), func(bool) bool { return true },
		func(a answered, _ bool) (string, error) {
			// Trailers-Only: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
			if !a.alone {
				return "", fmt.Errorf("headers %v do not end the stream; then come %d bytes and %v", a.headers, len(a.body), a.trailers)
			}
			return status(a.headers, "application/grpc")
		},
	},
	{
		"gRPC-web", constant("application/grpc-web+proto"), func(bool) bool { return true },
		func(a answered, _ bool) (string, error) {
			if len(a.body) > 0 || a.trailers != nil {
				return "", fmt.Errorf("%d bytes and trailers %v behind headers %v", len(a.body), a.trailers, a.headers)
			}
			return status(a.headers, "application/grpc-web+proto")
		},
	},
	{
		"Connect", func(stream bool) string {
			if stream {
				return "application/connect+proto"
			}
			return "application/proto"
		}, func(stream bool) bool { return stream },
		func(a answered, stream bool) (string, error) {
			var refusal struct {
				Code  string
				Error struct{ Code string }
			}
			body := a.body
			if stream {
				if got := a.headers[":status"][0]; got != "200" || len(body) < 5 || body[0] != 2 || int(binary.BigEndian.Uint32(body[1:5])) != len(body)-5 {
					return "", fmt.Errorf("HTTP %s with %q", got, body)
				}
				body = body[5:]
			} else if got := a.headers[":status"][0]; got[0] != '4' && got[0] != '5' {
				return "", fmt.Errorf("a refusal is HTTP %s", got)
			}
			err := json.Unmarshal(body, &refusal)
			return refusal.Code + refusal.Error.Code, err
		},
	},
}

func constant(s string) func(bool) string { return func(bool) string { return s } }

// status is the code of a gRPC status among headers.
func status(h block, contentType string) (string, error) {
	var code connect.Code
	number := h["grpc-status"]
	if h[":status"][0] != "200" || !slices.Equal(h["content-type"], []string{contentType}) || len(number) != 1 || h["trailer"] != nil {
		return "", fmt.Errorf("headers %v", h)
	}
	for _, digit := range number[0] {
		code = 10*code + connect.Code(digit-'0')
	}
	return code.String(), nil
}

// isStream says which procedures answer with a stream.
func isStream(procedure string) bool {
	return strings.Contains(procedure, "/Subscribe") || strings.HasSuffix(procedure, "Watch") || strings.HasSuffix(procedure, "ReflectionInfo")
}

// Whatever is refused before there is a message, of every procedure and in every
// protocol, is one refusal on the wire as that protocol has it, also where the
// caller may go on to send. XMTP's clients take headers that do not end the
// stream for a stream that opened.
func TestEveryRefusalOnTheWire(t *testing.T) {
	unknown := []string{
		mlsPath + "RevokeInstallation", mlsPath + "GetIdentityUpdates", mlsPath + "Subscribe", messagePath + "Publish",
		"/xmtp.migration.api.v1.D14nMigrationApi/FetchD14nCutover", "/no.such.Service/Method", "/", "/no/such/path",
	}
	var known []string
	for _, procedure := range procedures {
		if !slices.Contains(unknown, procedure) {
			known = append(known, procedure)
		}
	}
	without := func(all []string, suffix ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(p string) bool {
			return slices.ContainsFunc(suffix, func(s string) bool { return strings.HasSuffix(p, s) })
		})
	}
	plain := open(t, gateway.Config{})
	closed := open(t, gateway.Config{Authenticate: func(string) (string, bool) { return "", false }})
	poor := open(t, gateway.Config{Limits: gateway.Limits{Calls: gateway.Rate{PerMinute: 1}, Publishes: gateway.Rate{PerMinute: 1}}})
	crowded := open(t, gateway.Config{Limits: gateway.Limits{Streams: -1}})
	failing := func(last func(context.Context) error) *network {
		b := memory.New(memory.Config{})
		t.Cleanup(func() { b.Close() })
		return openOn(t, faulty{b, last}, gateway.Config{})
	}
	down := failing(func(context.Context) error { return bus.ErrUnavailable })
	spoilt := failing(func(context.Context) error { panic("spoilt") })
	slow := failing(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	log, asked := []string{identityPath + "GetIdentityUpdates"}, wire(t, logsOf(strings.Repeat("0", 64)))
	hurry := map[string]string{"grpc-timeout": "20m", "connect-timeout-ms": "20"}

	const health, reflection = "Health/Check", "ReflectionInfo"
	for _, test := range []struct {
		name       string
		at         *network
		procedures []string
		headers    map[string]string
		body       []byte
		code       connect.Code
		unread     bool // refused whether or not the request is complete
	}{
		{"unknown", plain, unknown, nil, nil, connect.CodeUnimplemented, true},
		{"not protobuf", plain, known, nil, []byte{0xff, 0xff, 0xff}, connect.CodeInvalidArgument, false},
		{"compressed in an unknown way", plain, known, map[string]string{"grpc-encoding": "zap", "connect-content-encoding": "zap", "content-encoding": "zap"}, nil, connect.CodeUnimplemented, false},
		{"without credentials", closed, without(known, health), nil, nil, connect.CodeUnauthenticated, true},
		{"over its rate", poor, without(known, health, reflection), nil, nil, connect.CodeResourceExhausted, false},
		{"one stream too many", crowded, slices.DeleteFunc(slices.Clone(known), func(p string) bool { return !isStream(p) }), nil, nil, connect.CodeResourceExhausted, true},
		{"the log is down", down, log, nil, asked, connect.CodeUnavailable, false},
		{"a panic", spoilt, log, nil, asked, connect.CodeInternal, false},
		{"out of time", slow, log, hurry, asked, connect.CodeDeadlineExceeded, false},
	} {
		for _, procedure := range test.procedures {
			for _, p := range protocols {
				for _, leftOpen := range []bool{false, true} {
					if leftOpen && !test.unread {
						continue
					}
					stream := isStream(procedure)
					body := test.body
					if p.framed(stream) {
						body = frame(body)
					}
					headers := map[string]string{"content-type": p.contentType(stream)}
					maps.Copy(headers, test.headers) // each protocol reads its own
					a := dial(t, test.at.address, procedure, headers, body, leftOpen).all()
					if code, err := p.refused(a, stream); err != nil || code != test.code.String() {
						t.Errorf("%s: %s, %s, left open %v: %q, %v; want %v", test.name, procedure, p.name, leftOpen, code, err, test.code)
					}
				}
			}
		}
	}
}

// A stream that opened says so by headers that do not end it, and what ends it
// comes in trailers.
func TestOpenStreamOnTheWire(t *testing.T) {
	n := open(t, gateway.Config{})
	send(t, overHTTP2(t, nil), n.url, sealed(groupID(1), 10))
	d := dial(t, n.address, mlsPath+"SubscribeGroupMessages", map[string]string{"content-type": "application/grpc"}, frame(wire(t, followed(0, groupID(1)))), false)
	opened, alone := d.headers()
	if alone || opened["grpc-status"] != nil || !slices.Equal(opened["subscribed"], []string{"true"}) {
		t.Fatalf("the stream opens with %v, ended %v", opened, alone)
	}
	if f, isData := d.next().(*http2.DataFrame); !isData || f.StreamEnded() || len(f.Data()) < 5 {
		t.Fatalf("the message is %v", f)
	}
	go n.gateway.Shutdown(t.Context())
	for {
		switch f := d.next().(type) {
		case *http2.MetaHeadersFrame:
			if got := fields(f); !f.StreamEnded() || !slices.Equal(got["grpc-status"], []string{"14"}) {
				t.Errorf("the stream ends with %v, ended %v", got, f.StreamEnded())
			}
			return
		case *http2.DataFrame:
			if f.StreamEnded() {
				t.Fatal("the stream ends without a status")
			}
		}
	}
}
