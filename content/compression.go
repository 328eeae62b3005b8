package content

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/proto/contents"
)

// decompressed returns e with its content as the sender had it. What grows over
// MaxSize is refused before it is held in memory.
func decompressed(e *contents.EncodedContent) (*contents.EncodedContent, error) {
	if e.Compression == nil {
		return e, nil
	}
	var r io.Reader
	var err error
	in := bytes.NewReader(e.GetContent())
	switch e.GetCompression() {
	case contents.Compression_COMPRESSION_DEFLATE: // in zlib's frame, as RFC 9110 means the word
		r, err = zlib.NewReader(in)
	case contents.Compression_COMPRESSION_GZIP:
		r, err = gzip.NewReader(in)
	default:
		err = fmt.Errorf("compression %d", e.GetCompression())
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	b, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%w: more than %d bytes when decompressed", ErrTooLarge, MaxSize)
	}
	plain := proto.CloneOf(e)
	plain.Content, plain.Compression = b, nil
	return plain, nil
}
