package mls

import "math"

// The TLS presentation language with RFC 9420's variable-size vectors
// (Section 2.1.2): a reader that never allocates beyond its input and keeps
// the first error, and append-style writing.

// maxVector bounds one vector; RFC 9420's own limit is 2^30-1 bytes.
const maxVector = 1<<30 - 1

// A reader decodes one structure. After the first error every further read
// returns zero values, so a decoder is a straight list of reads with one check
// of err at its end. Byte slices it returns are views into the input.
type reader struct {
	in  []byte
	err error
}

func newReader(b []byte) *reader { return &reader{in: b} }

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.in = nil
}

// take returns the next n bytes.
func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.in) {
		r.fail(errTruncated)
		return nil
	}
	b := r.in[:n:n]
	r.in = r.in[n:]
	return b
}

func (r *reader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return uint16(b[0])<<8 | uint16(b[1])
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	}
	return 0
}

func (r *reader) u64() uint64 {
	hi := r.u32()
	return uint64(hi)<<32 | uint64(r.u32())
}

// length reads a variable-size length header. See RFC 9420, Section 2.1.2: the
// minimal encoding is the only valid one, and the prefix 0b11 is invalid.
func (r *reader) length() int {
	first := r.u8()
	v := uint32(first & 0x3f)
	switch first >> 6 {
	case 0:
	case 1:
		v = v<<8 | uint32(r.u8())
		if r.err == nil && v < 1<<6 {
			r.fail(errNotMinimal)
		}
	case 2:
		v = v<<8 | uint32(r.u8())
		v = v<<16 | uint32(r.u16())
		if r.err == nil && v < 1<<14 {
			r.fail(errNotMinimal)
		}
	default:
		r.fail(errBadLength)
	}
	if r.err != nil {
		return 0
	}
	return int(v)
}

// vector reads opaque data<V>.
func (r *reader) vector() []byte { return r.take(r.length()) }

// sub reads a vector and returns a reader over it. The caller reads it to its
// end; an error inside is passed on by done.
func (r *reader) sub() *reader {
	b := r.vector()
	return &reader{in: b, err: r.err}
}

// list reads T items<V>, one call of item per element, until the vector ends.
func (r *reader) list(item func(*reader)) {
	s := r.sub()
	for len(s.in) > 0 && s.err == nil {
		item(s)
	}
	if s.err != nil {
		r.fail(s.err)
	}
}

// optional reads the presence octet of optional<T>.
func (r *reader) optional() bool {
	switch r.u8() {
	case 0:
		return false
	case 1:
		return r.err == nil
	}
	r.fail(errBadOptional)
	return false
}

// end checks that all of the input was read, and returns the first error.
func (r *reader) end() error {
	if r.err == nil && len(r.in) > 0 {
		return errTrailing
	}
	return r.err
}

func appendU8(b []byte, v uint8) []byte   { return append(b, v) }
func appendU16(b []byte, v uint16) []byte { return append(b, byte(v>>8), byte(v)) }
func appendU32(b []byte, v uint32) []byte {
	return append(b, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}
func appendU64(b []byte, v uint64) []byte {
	return appendU32(appendU32(b, uint32(v>>32)), uint32(v))
}

// appendLength writes the minimal variable-size length header.
func appendLength(b []byte, n int) []byte {
	switch {
	case n < 1<<6:
		return append(b, byte(n))
	case n < 1<<14:
		return appendU16(b, uint16(n)|0x4000)
	case n <= maxVector && n <= math.MaxInt32:
		return appendU32(b, uint32(n)|0x80000000)
	}
	panic("mls: vector longer than 2^30-1 bytes")
}

func appendVector(b, v []byte) []byte { return append(appendLength(b, len(v)), v...) }

func appendOptional(b []byte, present bool) []byte {
	if present {
		return append(b, 1)
	}
	return append(b, 0)
}

// appendList writes T items<V>: body appends the items.
func appendList(b []byte, body func([]byte) []byte) []byte {
	// Written in place after a one-byte guess of the header; moved if longer.
	start := len(b)
	b = append(b, 0)
	b = body(b)
	n := len(b) - start - 1
	if n < 1<<6 {
		b[start] = byte(n)
		return b
	}
	var head [4]byte
	h := appendLength(head[:0], n)
	b = append(b, h[1:]...)
	copy(b[start+len(h):], b[start+1:start+1+n])
	copy(b[start:], h)
	return b
}
