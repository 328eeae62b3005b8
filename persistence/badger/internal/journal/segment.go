package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// A segment is a file "<number, 8 digits>.log":
//
//	header (112 bytes)
//	  "CNCLJRNL" | format (4) | zero (4) | store id (16) | number (8)
//	  first stamp (8)                    what the first record will have
//	  previous segment: end offset (8), last stamp (8), last tag (16)
//	  zero (16) | tag (16)
//	record, any number of times
//	  payload length (4) | stamps (4) | first stamp (8) | payload | tag (16)
//
// Numbers are big-endian. A tag is the first 16 bytes of SHA-256 over the tag
// before it and all of its record, so that a tag stands for everything from the
// segment's header on, and through the header for the segments before.
const (
	magic          = "CNCLJRNL"
	format         = 1
	headerLen      = 112
	recordStartLen = 16
	tagLen         = 16
)

// Room is what a record buffer leaves free at its front, before the payload.
const Room = recordStartLen

type tag [tagLen]byte

func makeTag(previous tag, record []byte) (t tag) {
	h := sha256.New()
	h.Write(previous[:])
	h.Write(record)
	var sum [sha256.Size]byte
	copy(t[:], h.Sum(sum[:0]))
	return t
}

// A position is a place in the chain: after the record whose last stamp and tag
// it holds, or after a header.
type position struct {
	last uint64
	tag  tag
}

// A header opens a segment.
type header struct {
	store    [16]byte
	number   uint64
	first    uint64   // stamp of the first record
	previous position // where the segment before ends
	end      int64    // and at which offset of its file
}

func (h header) encode() ([]byte, tag) {
	b := make([]byte, 0, headerLen)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint32(b, format)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = append(b, h.store[:]...)
	b = binary.BigEndian.AppendUint64(b, h.number)
	b = binary.BigEndian.AppendUint64(b, h.first)
	b = binary.BigEndian.AppendUint64(b, uint64(h.end))
	b = binary.BigEndian.AppendUint64(b, h.previous.last)
	b = append(b, h.previous.tag[:]...)
	b = append(b, make([]byte, 16)...)
	t := makeTag(tag{}, b)
	return append(b, t[:]...), t
}

var errHeader = errors.New("segment header is not what was written")

func decodeHeader(b []byte) (h header, t tag, err error) {
	if len(b) < headerLen || string(b[:8]) != magic {
		return h, t, errHeader
	}
	h.store = [16]byte(b[16:32])
	h.number = binary.BigEndian.Uint64(b[32:])
	h.first = binary.BigEndian.Uint64(b[40:])
	h.end = int64(binary.BigEndian.Uint64(b[48:]))
	h.previous = position{binary.BigEndian.Uint64(b[56:]), tag(b[64:80])}
	again, t := h.encode()
	if !bytes.Equal(again, b[:headerLen]) {
		return h, t, errHeader
	}
	return h, t, nil
}

// A segment is one that was read: its bytes, and where its records end.
type segment struct {
	header header
	data   []byte
	ends   []int64    // offset after the header and after each record
	places []position // and the place in the chain there
}

// parse reads a segment as far as its chain holds.
func parse(data []byte) (*segment, error) {
	h, t, err := decodeHeader(data)
	if err != nil {
		return nil, err
	}
	s := &segment{header: h, data: data, ends: []int64{headerLen}, places: []position{{h.first - 1, t}}}
	for {
		end, next, ok := s.record(s.end(), s.place())
		if !ok {
			return s, nil
		}
		s.ends, s.places = append(s.ends, end), append(s.places, next)
	}
}

func (s *segment) end() int64      { return s.ends[len(s.ends)-1] }
func (s *segment) place() position { return s.places[len(s.places)-1] }

// torn says that bytes follow the last record which are no record.
func (s *segment) torn() bool { return s.end() != int64(len(s.data)) }

// record checks the record at an offset.
func (s *segment) record(offset int64, before position) (end int64, after position, ok bool) {
	b := s.data[offset:]
	if len(b) < recordStartLen+tagLen {
		return 0, after, false
	}
	length, stamps := int64(binary.BigEndian.Uint32(b)), uint64(binary.BigEndian.Uint32(b[4:]))
	if int64(len(b)) < recordStartLen+length+tagLen || stamps == 0 || binary.BigEndian.Uint64(b[8:]) != before.last+1 {
		return 0, after, false
	}
	body := b[:recordStartLen+length]
	after = position{before.last + stamps, makeTag(before.tag, body)}
	end = offset + int64(len(body)) + tagLen
	return end, after, bytes.Equal(after.tag[:], s.data[end-tagLen:end])
}

// cut drops what lies behind an offset that the next segment names, which is
// where an earlier open found the end.
func (s *segment) cut(end int64, place position) error {
	i, ok := slices.BinarySearch(s.ends, end)
	if !ok || s.places[i] != place {
		return fmt.Errorf("segment %d does not reach the next one", s.header.number)
	}
	s.ends, s.places, s.data = s.ends[:i+1], s.places[:i+1], s.data[:end]
	return nil
}
