// Package content is what people send each other: XMTP v3's content types and
// their codecs, as pure functions.
//
// A content travels as an EncodedContent. Its bytes are the message's identity,
// so they are written once, deterministically, and kept as they came. A type
// that nobody here knows still arrives, as its fallback text and its bytes.
package content

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/proto/contents"
)

// MaxSize is the most bytes of an EncodedContent, and of a content that was
// compressed in one: a text of 1 MiB, and what a type puts around it.
const MaxSize = 1<<20 + 4<<10

var (
	// ErrTooLarge: over MaxSize. It will never fit.
	ErrTooLarge = errors.New("content: over the size limit")
	// ErrMalformed: not an EncodedContent, or not what its type promises.
	ErrMalformed = errors.New("content: malformed")
	// ErrUnknownType: no codec is registered for the type.
	ErrUnknownType = errors.New("content: unknown type")
	// ErrReserved: the type tells what the protocol did, and nobody sends it.
	ErrReserved = errors.New("content: type is written by the protocol alone")
)

// A TypeID names a content type. Types that differ in the minor version alone
// can read each other.
type TypeID struct {
	Authority string
	Name      string
	Major     uint32
	Minor     uint32
}

// Reserved reports whether contents of the type tell what the protocol did. Each
// member writes them down for itself; one that somebody sent is a forgery, in
// whichever version it comes.
func (t TypeID) Reserved() bool {
	return t.Authority == "xmtp.org" && (t.Name == groupUpdatedName || t.Name == membershipChangeName)
}

// String returns the form "xmtp.org/text:1.0".
func (t TypeID) String() string {
	return fmt.Sprintf("%s/%s:%d.%d", t.Authority, t.Name, t.Major, t.Minor)
}

// A Content is a value that a codec can carry.
type Content interface {
	Type() TypeID
}

// A Codec carries one content type. It is stateless.
type Codec interface {
	// Type is what Encode writes; Decode must read every minor version of it.
	Type() TypeID

	// Encode fills parameters and content. The registry sets type and fallback.
	Encode(Content) (*contents.EncodedContent, error)

	// Decode reads what Encode or a foreign client wrote. The content is no
	// longer compressed.
	Decode(*contents.EncodedContent) (Content, error)

	// Fallback is what a client shows that does not know the type; "" for none.
	Fallback(Content) string

	// ShouldPush reports whether the message is worth a push notification.
	ShouldPush(Content) bool
}

// Encoded is a content ready to be sent.
type Encoded struct {
	Bytes      []byte // a serialised EncodedContent
	ShouldPush bool
}

// Decoded is a content that was received.
type Decoded struct {
	Type     TypeID
	Fallback string                   // "" where the sender gave none
	Content  Content                  // *Unknown where no codec could read it
	Raw      *contents.EncodedContent // as it came, compressed if it was
}

// Unknown stands for a content that could not be read: its type has no codec
// here (Reason is ErrUnknownType), it is one that nobody sends (ErrReserved), or its
// codec refused it.
type Unknown struct {
	ID     TypeID
	Reason error
}

// Type implements Content.
func (u *Unknown) Type() TypeID { return u.ID }

// A Registry finds the codec of a type. Register before use: it is safe for
// concurrent use once nobody registers any more.
type Registry struct {
	codecs map[TypeID]Codec // by type with minor version 0
}

// NewRegistry returns a registry of TextCodec and of more. A codec of a reserved
// type serves nobody.
func NewRegistry(more ...Codec) *Registry {
	r := &Registry{codecs: map[TypeID]Codec{}}
	for _, c := range append([]Codec{TextCodec{}}, more...) {
		r.Register(c)
	}
	return r
}

// Register adds a codec, in the place of one of the same type and major version.
func (r *Registry) Register(c Codec) { r.codecs[family(c.Type())] = c }

// family leaves out the minor version.
func family(t TypeID) TypeID {
	t.Minor = 0
	return t
}

// Encode serialises a content to be sent; equal contents give equal bytes.
func (r *Registry) Encode(c Content) (Encoded, error) {
	if c.Type().Reserved() {
		return Encoded{}, fmt.Errorf("%w: %s", ErrReserved, c.Type())
	}
	codec := r.codecs[family(c.Type())]
	if _, unread := c.(*Unknown); unread || codec == nil {
		return Encoded{}, fmt.Errorf("%w: %s", ErrUnknownType, c.Type())
	}
	e, err := codec.Encode(c)
	if err != nil {
		return Encoded{}, fmt.Errorf("content: encode %s: %w", codec.Type(), err)
	}
	t := codec.Type()
	e.Type = &contents.ContentTypeId{
		AuthorityId: t.Authority, TypeId: t.Name, VersionMajor: t.Major, VersionMinor: t.Minor,
	}
	if f := codec.Fallback(c); f != "" {
		e.Fallback = &f
	}
	if n := proto.Size(e); n > MaxSize {
		return Encoded{}, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, n, MaxSize)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
	if err != nil {
		return Encoded{}, fmt.Errorf("%w: encode %s: %w", ErrMalformed, t, err)
	}
	return Encoded{b, codec.ShouldPush(c)}, nil
}

// Decode reads a serialised EncodedContent that somebody sent. What is an
// EncodedContent is never refused: what its codec cannot read, and what nobody
// sends, comes back as *Unknown.
func (r *Registry) Decode(b []byte) (Decoded, error) {
	return decode(b, func(t TypeID, e *contents.EncodedContent) (Content, error) {
		if t.Reserved() {
			return nil, fmt.Errorf("%w: %s", ErrReserved, t)
		}
		return readWith(r.codecs[family(t)], t, e)
	})
}

// DecodeTranscript reads a serialised EncodedContent that a member wrote down
// from a commit or a welcome.
func DecodeTranscript(b []byte) (Decoded, error) {
	return decode(b, func(t TypeID, e *contents.EncodedContent) (Content, error) {
		var codec Codec
		if family(t) == family((*GroupUpdated)(nil).Type()) {
			codec = GroupUpdatedCodec{}
		}
		return readWith(codec, t, e)
	})
}

func decode(b []byte, read func(TypeID, *contents.EncodedContent) (Content, error)) (Decoded, error) {
	if len(b) > MaxSize {
		return Decoded{}, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(b), MaxSize)
	}
	e := new(contents.EncodedContent)
	if err := proto.Unmarshal(b, e); err != nil {
		return Decoded{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	t := TypeID{e.GetType().GetAuthorityId(), e.GetType().GetTypeId(), e.GetType().GetVersionMajor(), e.GetType().GetVersionMinor()}
	d := Decoded{Type: t, Fallback: e.GetFallback(), Raw: e}
	c, err := read(t, e)
	if err != nil {
		c = &Unknown{t, err}
	}
	d.Content = c
	return d, nil
}

func readWith(codec Codec, t TypeID, e *contents.EncodedContent) (Content, error) {
	if codec == nil {
		return nil, fmt.Errorf("%w: %s", ErrUnknownType, t)
	}
	plain, err := decompressed(e)
	if err != nil {
		return nil, err
	}
	c, err := codec.Decode(plain)
	if err != nil {
		return nil, fmt.Errorf("content: decode %s: %w", t, err)
	}
	return c, nil
}

// Text is a message in plain text (xmtp.org/text:1.0).
type Text string

// Type implements Content.
func (Text) Type() TypeID { return TypeID{"xmtp.org", "text", 1, 0} }

// TextCodec carries Text.
type TextCodec struct{}

func (TextCodec) Type() TypeID            { return Text("").Type() }
func (TextCodec) Fallback(Content) string { return "" }
func (TextCodec) ShouldPush(Content) bool { return true }

// Encode implements Codec. Text that is not UTF-8 is ErrMalformed.
func (TextCodec) Encode(c Content) (*contents.EncodedContent, error) {
	text, ok := c.(Text)
	if !ok || !utf8.ValidString(string(text)) {
		return nil, fmt.Errorf("%w: not a UTF-8 text", ErrMalformed)
	}
	return &contents.EncodedContent{
		Parameters: map[string]string{"encoding": "UTF-8"},
		Content:    []byte(text),
	}, nil
}

// Decode implements Codec. A text without an encoding is UTF-8.
func (TextCodec) Decode(e *contents.EncodedContent) (Content, error) {
	if enc, ok := e.GetParameters()["encoding"]; ok && enc != "UTF-8" {
		return nil, fmt.Errorf("%w: text encoding %.20q", ErrMalformed, enc)
	}
	if !utf8.Valid(e.GetContent()) {
		return nil, fmt.Errorf("%w: text is not UTF-8", ErrMalformed)
	}
	return Text(e.GetContent()), nil
}
