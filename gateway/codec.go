package gateway

import (
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// A repeated field of empty messages is a hundred times larger in memory than
// its two bytes are on the wire: 25 MiB of them would take all of it. So only
// messages and welcomes may be long, whose contents do not repeat, and there are
// to be few of them.
const (
	maxSmallRequest = 1 << 20 // bytes of a request that sends no messages, or is JSON
	maxFields       = 20_000  // of a request, its nested messages apart
)

var (
	errFields = fmt.Errorf("more than %d fields", maxFields)
	errJSON   = fmt.Errorf("more than %d bytes of JSON: send it as protobuf", maxSmallRequest)
	errWire   = errors.New("not protobuf")
)

// codecs read what callers send.
func codecs() connect.HandlerOption {
	return connect.WithHandlerOptions(
		connect.WithCodec(binary{}), connect.WithCodec(text{"json"}), connect.WithCodec(text{"json; charset=utf-8"}))
}

type binary struct{}

func (binary) Name() string                  { return "proto" }
func (binary) Marshal(m any) ([]byte, error) { return proto.Marshal(m.(proto.Message)) }
func (binary) MarshalAppend(b []byte, m any) ([]byte, error) {
	return proto.MarshalOptions{}.MarshalAppend(b, m.(proto.Message))
}

func (binary) Unmarshal(b []byte, m any) error {
	fields := 0
	for rest := b; len(rest) > 0; fields++ {
		_, _, n := protowire.ConsumeField(rest)
		switch {
		case n < 0:
			return errWire
		case fields == maxFields:
			return errFields
		}
		rest = rest[n:]
	}
	return proto.Unmarshal(b, m.(proto.Message))
}

type text struct{ name string }

func (t text) Name() string                { return t.name }
func (text) Marshal(m any) ([]byte, error) { return protojson.Marshal(m.(proto.Message)) }

func (text) Unmarshal(b []byte, m any) error {
	if len(b) > maxSmallRequest {
		return errJSON
	}
	// Of a newer client's fields, what is not known does no harm.
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, m.(proto.Message))
}
