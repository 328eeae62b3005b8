package content_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/content"
	"github.com/conclave-chat/conclave/proto/contents"
)

func roundTrip(t *testing.T, r *content.Registry, c content.Content) (content.Encoded, content.Decoded) {
	t.Helper()
	e, err := r.Encode(c)
	if err != nil {
		t.Fatal(err)
	}
	d, err := r.Decode(e.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return e, d
}

func TestTextAsRealClientsWriteIt(t *testing.T) {
	e, d := roundTrip(t, content.NewRegistry(), content.Text("hello Z"))
	want := "0a120a08786d74702e6f7267120474657874180112110a08656e636f64696e6712055554462d38220768656c6c6f205a"
	if got := hex.EncodeToString(e.Bytes); got != want || !e.ShouldPush {
		t.Errorf("encoded %s push %v\nwant %s", got, e.ShouldPush, want)
	}
	if d.Content != content.Text("hello Z") || d.Fallback != "" || d.Type.String() != "xmtp.org/text:1.0" {
		t.Errorf("decoded %+v", d)
	}
}

// written is a transcript as a member writes it down.
func written(t testing.TB, u *content.GroupUpdated) []byte {
	t.Helper()
	e, err := content.GroupUpdatedCodec{}.Encode(u)
	if err != nil {
		t.Fatal(err)
	}
	return encoded(t, u.Type(), e)
}

// encoded is a content of a type, past every rule on what is sent.
func encoded(t testing.TB, id content.TypeID, e *contents.EncodedContent) []byte {
	t.Helper()
	e.Type = &contents.ContentTypeId{AuthorityId: id.Authority, TypeId: id.Name, VersionMajor: id.Major, VersionMinor: id.Minor}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestTranscriptsAreNotSent: what the protocol says has no codec on the way of a
// message, in no version, and not by a codec of an app's own either. Only who wrote
// it down reads it.
func TestTranscriptsAreNotSent(t *testing.T) {
	forged := &content.GroupUpdated{InitiatedBy: "a", Removed: []string{"you"}}
	genuine := written(t, forged)
	for _, id := range []content.TypeID{
		forged.Type(),
		{Authority: "xmtp.org", Name: "group_updated", Major: 1, Minor: 3},
		{Authority: "xmtp.org", Name: "group_updated", Major: 2},
		{Authority: "xmtp.org", Name: "group_membership_change", Major: 1},
	} {
		for name, r := range map[string]*content.Registry{
			"own codecs":   content.NewRegistry(),
			"an app's own": content.NewRegistry(content.GroupUpdatedCodec{}, asCodec{id}),
		} {
			if _, err := r.Encode(as{id}); !errors.Is(err, content.ErrReserved) {
				t.Errorf("%s with %s: encoded, %v", id, name, err)
			}
			e, _ := content.GroupUpdatedCodec{}.Encode(forged)
			d, err := r.Decode(encoded(t, id, e))
			u, unknown := d.Content.(*content.Unknown)
			if err != nil || !unknown || !errors.Is(u.Reason, content.ErrReserved) || u.ID != id {
				t.Errorf("%s with %s: decoded to %+v, %v", id, name, d.Content, err)
			}
		}
	}
	if d, err := content.DecodeTranscript(genuine); err != nil || !reflect.DeepEqual(d.Content, forged) {
		t.Errorf("a transcript reads as %+v, %v", d.Content, err)
	}
	d, err := content.DecodeTranscript(encoded(t, content.Text("").Type(), &contents.EncodedContent{Content: []byte("x")}))
	if _, unknown := d.Content.(*content.Unknown); err != nil || !unknown {
		t.Errorf("a text as a transcript reads as %+v, %v", d.Content, err)
	}
}

// as is a content of any type, and asCodec carries it.
type as struct{ id content.TypeID }

func (a as) Type() content.TypeID { return a.id }

type asCodec struct{ id content.TypeID }

func (c asCodec) Type() content.TypeID                                     { return c.id }
func (asCodec) Fallback(content.Content) string                            { return "" }
func (asCodec) ShouldPush(content.Content) bool                            { return false }
func (c asCodec) Decode(*contents.EncodedContent) (content.Content, error) { return as(c), nil }
func (asCodec) Encode(content.Content) (*contents.EncodedContent, error) {
	return &contents.EncodedContent{}, nil
}

func TestGroupUpdatedRoundTrip(t *testing.T) {
	old, now := "", "new"
	u := &content.GroupUpdated{
		InitiatedBy: "a", Added: []string{"c", "b"}, Removed: []string{"d"}, Left: []string{"e"},
		Changes:     []content.FieldChange{{Field: "group_name", Old: &old, New: &now}, {Field: "x"}},
		AddedAdmins: []string{"f"}, RemovedAdmins: []string{"g"}, AddedSuperAdmins: []string{"h"}, RemovedSuperAdmins: []string{"i"},
	}
	d, err := content.DecodeTranscript(written(t, u))
	if err != nil || !reflect.DeepEqual(d.Content, u) || d.Fallback != "" {
		t.Errorf("decoded %+v, %v", d.Content, err)
	}
}

// Every content that real clients sent decodes; the types that have a codec
// encode again byte for byte, and the others keep fallback and bytes.
func TestRealContents(t *testing.T) {
	dir := os.Getenv("CONCLAVE_VECTORS")
	if dir == "" {
		t.Skip("CONCLAVE_VECTORS is not set (official files: github.com/mlswg/mls-implementations test-vectors; these lie beside them in xmtp/)")
	}
	b, err := os.ReadFile(filepath.Join(dir, "xmtp", "passive-join.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file any
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	r, types := content.NewRegistry(), map[string]int{}
	each(file, func(encoded, fallback string) {
		raw, err := hex.DecodeString(encoded)
		if err != nil {
			t.Fatal(err)
		}
		d, err := r.Decode(raw)
		if err == nil && d.Type.Reserved() {
			d, err = content.DecodeTranscript(raw)
		}
		if err != nil {
			t.Errorf("decode %s: %v", encoded, err)
			return
		}
		types[d.Type.String()]++
		if d.Fallback != fallback && fallback != "" {
			t.Errorf("%s: fallback %q, want %q", d.Type, d.Fallback, fallback)
		}
		if u, ok := d.Content.(*content.Unknown); ok {
			if again, err := proto.Marshal(d.Raw); err != nil || len(again) != len(raw) || !errors.Is(u.Reason, content.ErrUnknownType) {
				t.Errorf("%s: %v, %d bytes kept of %d", d.Type, u.Reason, len(again), len(raw))
			}
			return
		}
		if u, ok := d.Content.(*content.GroupUpdated); ok {
			if again := written(t, u); !bytes.Equal(again, raw) {
				t.Errorf("%s is written as\n%x\nwant\n%x", d.Type, again, raw)
			}
			return
		}
		e, err := r.Encode(d.Content)
		if err != nil || !bytes.Equal(e.Bytes, raw) {
			t.Errorf("%s encodes to\n%x\nwant\n%x (%v)", d.Type, e.Bytes, raw, err)
		}
	})
	if len(types) < 15 || types["xmtp.org/text:1.0"] == 0 || types["xmtp.org/group_updated:1.0"] == 0 {
		t.Errorf("types seen: %v", types)
	}
}

// each calls f for every encoded_content anywhere in a JSON value.
func each(v any, f func(encoded, fallback string)) {
	switch v := v.(type) {
	case map[string]any:
		if s, ok := v["encoded_content"].(string); ok {
			fallback, _ := v["fallback"].(string)
			f(s, fallback)
		}
		for _, x := range v {
			each(x, f)
		}
	case []any:
		for _, x := range v {
			each(x, f)
		}
	}
}

// poll is a content type of an app's own.
type poll struct{ question string }

func (poll) Type() content.TypeID {
	return content.TypeID{Authority: "example.org", Name: "poll", Major: 2, Minor: 1}
}

type pollCodec struct{}

func (pollCodec) Type() content.TypeID              { return poll{}.Type() }
func (pollCodec) Fallback(c content.Content) string { return "Asked: " + c.(poll).question }
func (pollCodec) ShouldPush(content.Content) bool   { return false }
func (pollCodec) Decode(e *contents.EncodedContent) (content.Content, error) {
	return poll{string(e.Content)}, nil
}
func (pollCodec) Encode(c content.Content) (*contents.EncodedContent, error) {
	return &contents.EncodedContent{
		Parameters: map[string]string{"z": "1", "a": "2", "m": "3", "b": "4"},
		Content:    []byte(c.(poll).question),
	}, nil
}

func TestOwnContentType(t *testing.T) {
	knows, knowsNot := content.NewRegistry(pollCodec{}), content.NewRegistry()
	e, d := roundTrip(t, knows, poll{"tea?"})
	if d.Content != (poll{"tea?"}) || e.ShouldPush {
		t.Errorf("decoded %+v", d)
	}
	d, err := knowsNot.Decode(e.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	u, ok := d.Content.(*content.Unknown)
	if !ok || u.ID != (poll{}).Type() || d.Fallback != "Asked: tea?" || string(d.Raw.Content) != "tea?" {
		t.Errorf("decoded %+v", d)
	}
	if _, err := knowsNot.Encode(poll{"tea?"}); !errors.Is(err, content.ErrUnknownType) {
		t.Errorf("err = %v", err)
	}
	if _, err := knows.Encode(u); !errors.Is(err, content.ErrUnknownType) {
		t.Error("an unknown content was encoded")
	}
}

func TestMinorVersionsReadEachOtherMajorOnesDoNot(t *testing.T) {
	for version, known := range map[[2]uint32]bool{{1, 0}: true, {1, 7}: true, {2, 0}: false, {0, 9}: false} {
		b, err := proto.Marshal(&contents.EncodedContent{
			Type:    &contents.ContentTypeId{AuthorityId: "xmtp.org", TypeId: "text", VersionMajor: version[0], VersionMinor: version[1]},
			Content: []byte("x"),
		})
		if err != nil {
			t.Fatal(err)
		}
		d, err := content.NewRegistry().Decode(b)
		if err != nil || (d.Content == content.Text("x")) != known {
			t.Errorf("version %v: %+v, %v", version, d.Content, err)
		}
	}
}

// Equal contents give equal bytes, whatever order a map is walked in: the bytes
// are the message's identity.
func TestEncodingIsDeterministic(t *testing.T) {
	r := content.NewRegistry(pollCodec{})
	first, err := r.Encode(poll{"tea?"})
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if again, err := r.Encode(poll{"tea?"}); err != nil || !bytes.Equal(first.Bytes, again.Bytes) {
			t.Fatalf("encodings differ: %v", err)
		}
	}
}

// S11: the limit is checked before anything is sealed; limit and limit+1.
func TestSizeLimit(t *testing.T) {
	r := content.NewRegistry()
	empty, err := r.Encode(content.Text(strings.Repeat("x", 1<<19)))
	if err != nil {
		t.Fatal(err)
	}
	overhead := len(empty.Bytes) - 1<<19
	if _, err := r.Encode(content.Text(strings.Repeat("x", content.MaxSize-overhead))); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if _, err := r.Encode(content.Text(strings.Repeat("x", content.MaxSize-overhead+1))); !errors.Is(err, content.ErrTooLarge) {
		t.Errorf("over the limit: %v", err)
	}
	if _, err := r.Decode(make([]byte, content.MaxSize+1)); !errors.Is(err, content.ErrTooLarge) {
		t.Errorf("received over the limit: %v", err)
	}
}

func TestBadTexts(t *testing.T) {
	r := content.NewRegistry()
	if _, err := r.Encode(content.Text("\xff")); !errors.Is(err, content.ErrMalformed) {
		t.Errorf("sending what is not UTF-8: %v", err)
	}
	if _, err := r.Decode([]byte("\xff\xff")); !errors.Is(err, content.ErrMalformed) {
		t.Errorf("receiving junk: %v", err)
	}
	for name, e := range map[string]*contents.EncodedContent{
		"not UTF-8":        {Content: []byte("\xff")},
		"another encoding": {Content: []byte("x"), Parameters: map[string]string{"encoding": "UTF-16"}},
	} {
		e.Type = &contents.ContentTypeId{AuthorityId: "xmtp.org", TypeId: "text", VersionMajor: 1}
		b, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		d, err := r.Decode(b)
		if u, ok := d.Content.(*content.Unknown); err != nil || !ok || !errors.Is(u.Reason, content.ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, d.Content, err)
		}
	}
}

// A compressed content is read; one that explodes is not.
func TestCompression(t *testing.T) {
	writers := map[contents.Compression]func(io.Writer) io.WriteCloser{
		contents.Compression_COMPRESSION_DEFLATE: func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) },
		contents.Compression_COMPRESSION_GZIP:    func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
	}
	decode := func(kind contents.Compression, body []byte) content.Decoded {
		b, err := proto.Marshal(&contents.EncodedContent{
			Type:    &contents.ContentTypeId{AuthorityId: "xmtp.org", TypeId: "text", VersionMajor: 1},
			Content: body, Compression: &kind,
		})
		if err != nil {
			t.Fatal(err)
		}
		d, err := content.NewRegistry().Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for kind, open := range writers {
		for _, text := range []string{"", "short", strings.Repeat("x", content.MaxSize)} {
			var b bytes.Buffer
			w := open(&b)
			io.WriteString(w, text)
			w.Close()
			d := decode(kind, b.Bytes())
			if d.Content != content.Text(text) || d.Raw.Compression == nil || !bytes.Equal(d.Raw.Content, b.Bytes()) {
				t.Errorf("%s of %d bytes: not read", kind, len(text))
			}
		}
		var bomb bytes.Buffer
		w := open(&bomb)
		w.Write(make([]byte, content.MaxSize+1))
		w.Close()
		if u, ok := decode(kind, bomb.Bytes()).Content.(*content.Unknown); !ok || !errors.Is(u.Reason, content.ErrTooLarge) {
			t.Errorf("%s bomb was read", kind)
		}
		if u, ok := decode(kind, []byte("junk")).Content.(*content.Unknown); !ok || !errors.Is(u.Reason, content.ErrMalformed) {
			t.Errorf("%s junk was read", kind)
		}
	}
	if u, ok := decode(9, nil).Content.(*content.Unknown); !ok || !errors.Is(u.Reason, content.ErrMalformed) {
		t.Error("an unknown compression was read")
	}
}

func FuzzDecode(f *testing.F) {
	r := content.NewRegistry()
	e, err := r.Encode(content.Text("hi"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e.Bytes)
	f.Add(written(f, &content.GroupUpdated{InitiatedBy: "a", Added: []string{"b"}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := r.Decode(b)
		if err != nil {
			return
		}
		if d.Content == nil || d.Raw == nil {
			t.Fatal("decoded to nothing")
		}
		if d.Type.Reserved() {
			if _, unknown := d.Content.(*content.Unknown); !unknown {
				t.Fatalf("somebody sent %+v", d.Content)
			}
			d, err = content.DecodeTranscript(b)
			u, ok := d.Content.(*content.GroupUpdated)
			if err != nil || !ok {
				return
			}
			if again, err := content.DecodeTranscript(written(t, u)); err != nil || !reflect.DeepEqual(again.Content, d.Content) {
				t.Fatalf("%+v became %+v (%v)", d.Content, again.Content, err)
			}
			return
		}
		if _, unknown := d.Content.(*content.Unknown); unknown {
			return
		}
		e, err := r.Encode(d.Content)
		if err != nil {
			t.Fatalf("decoded content does not encode: %v", err)
		}
		if again, err := r.Decode(e.Bytes); err != nil || !reflect.DeepEqual(again.Content, d.Content) {
			t.Fatalf("%+v became %+v (%v)", d.Content, again.Content, err)
		}
	})
}
