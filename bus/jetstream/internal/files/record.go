package files

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/minio/highwayhash"
)

// A block is a file of records, one behind the other. In little-endian order a
// record is
//
//	length uint32    of the whole record; its highest bit says that it has headers
//	sequence uint64  its highest bits mark an erased record and a tombstone
//	time uint64
//	subject uint16   length of the subject
//	subject
//	headers uint32   their length, where there are some
//	headers, payload
//	hash [8]byte     HighwayHash-64 of sequence, time, subject, headers and payload
//
// The hash covers no length, so those are judged by what they delimit.
const (
	headBytes   = 22
	hashBytes   = 8
	longest     = 32 << 20 // of one record
	withHeaders = 1 << 31
	erased      = 1 << 63
	tombstone   = 1 << 62
)

// hashOf is the hash of a stream's block, whose key is made of both their names.
func hashOf(stream string, block int) *highwayhash.Digest64 {
	key := sha256.Sum256(fmt.Appendf(nil, "%s-%d", stream, block))
	h, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		panic(err) // the key has the right length
	}
	return h
}

// A record is one of a block's, whole and as it was written.
type record struct {
	size     int
	sequence uint64
	gone     bool // a tombstone of sequence, or what was erased there
}

// parse reads the record that b begins with. announced is the length that it
// says of itself, where that can be.
func parse(h *highwayhash.Digest64, b []byte) (r record, announced int, ok bool) {
	if len(b) < headBytes+hashBytes {
		return record{}, 0, false
	}
	length := binary.LittleEndian.Uint32(b)
	size := int(length &^ withHeaders)
	if size < headBytes+hashBytes || size > longest {
		return record{}, 0, false
	}
	if size > len(b) {
		return record{}, size, false
	}
	sequence := binary.LittleEndian.Uint64(b[4:])
	return record{
		size:     size,
		sequence: sequence &^ (erased | tombstone),
		gone:     sequence&(erased|tombstone) != 0,
	}, size, check(h, b[:size], length&withHeaders != 0)
}

// check says whether b is one whole record.
func check(h *highwayhash.Digest64, b []byte, headers bool) bool {
	subject := int(binary.LittleEndian.Uint16(b[20:]))
	body := b[headBytes : len(b)-hashBytes]
	if subject > len(body) || headers && subject+4 > len(body) {
		return false
	}
	h.Reset()
	h.Write(b[4:20])
	h.Write(body[:subject])
	rest := body[subject:]
	if headers {
		size := binary.LittleEndian.Uint32(rest)
		if rest = rest[4:]; int64(size) > int64(len(rest)) || !endsHeaders(rest, int(size)) {
			return false
		}
	}
	h.Write(rest)
	var sum [hashBytes]byte
	return bytes.Equal(h.Sum(sum[:0]), b[len(b)-hashBytes:])
}

// endsHeaders says whether the headers that b begins with are size bytes long.
func endsHeaders(b []byte, size int) bool {
	const end = "\r\n\r\n"
	return bytes.Index(b[:size], []byte(end)) == size-len(end)
}
