package forge

import "encoding/binary"

// The presentation language of RFC 9420, Section 2.1.2.

func vector(b, data []byte) []byte { return append(length(b, len(data)), data...) }

func length(b []byte, n int) []byte {
	switch {
	case n < 1<<6:
		return append(b, byte(n))
	case n < 1<<14:
		return append(b, 0x40|byte(n>>8), byte(n))
	}
	return append(b, 0x80|byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

func u16(b []byte, v uint16) []byte { return binary.BigEndian.AppendUint16(b, v) }
func u32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }
func u64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

// A reader reads what this process wrote itself: anything else is a mistake in
// this package, and panics.
type reader struct{ in []byte }

func (r *reader) take(n int) []byte {
	b := r.in[:n:n]
	r.in = r.in[n:]
	return b
}

func (r *reader) u8() byte    { return r.take(1)[0] }
func (r *reader) u16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

func (r *reader) vector() []byte {
	first := r.u8()
	n := int(first & 0x3f)
	for range 1<<(first>>6) - 1 {
		n = n<<8 | int(r.u8())
	}
	return r.take(n)
}

// since returns what was read since the reader stood at start.
func (r *reader) since(start []byte) []byte {
	n := len(start) - len(r.in)
	return start[:n:n]
}
