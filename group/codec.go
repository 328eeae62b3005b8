package group

import (
	"encoding/binary"
	"fmt"
	"time"
)

// Rows begin with a format number and consist of unsigned varints and byte
// strings with a varint length. Times are nanoseconds since 1970.

// rowWriter appends to a row.
type rowWriter struct{ b []byte }

func newRow(format byte, size int) *rowWriter {
	return &rowWriter{append(make([]byte, 0, size+8), format)}
}

func (w *rowWriter) uint(v uint64)    { w.b = binary.AppendUvarint(w.b, v) }
func (w *rowWriter) raw(v []byte)     { w.b = append(w.b, v...) }
func (w *rowWriter) bytes(v []byte)   { w.uint(uint64(len(v))); w.raw(v) }
func (w *rowWriter) string(v string)  { w.uint(uint64(len(v))); w.b = append(w.b, v...) }
func (w *rowWriter) time(t time.Time) { w.b = binary.BigEndian.AppendUint64(w.b, uint64(nanos(t))) }
func (w *rowWriter) bool(v bool) {
	if v {
		w.b = append(w.b, 1)
	} else {
		w.b = append(w.b, 0)
	}
}
func (w *rowWriter) strings(list []string) {
	w.uint(uint64(len(list)))
	for _, s := range list {
		w.string(s)
	}
}

// nanos is t in nanoseconds; the zero Time is 0.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// A rowDecoder reads a row. After its first error everything reads as zero.
// Byte strings are views into the row.
type rowDecoder struct {
	b   []byte
	err error
}

func rowReader(b []byte, format byte) *rowDecoder {
	r, got := rowReaderUpTo(b, format)
	if r.err == nil && got != format {
		r.fail(fmt.Sprintf("format %d, want %d", got, format))
	}
	return r
}

// rowReaderUpTo reads a row that older versions wrote in other formats.
func rowReaderUpTo(b []byte, newest byte) (r *rowDecoder, format byte) {
	r = &rowDecoder{b: b}
	if first := r.take(1); r.err == nil {
		format = first[0]
	}
	if r.err == nil && (format == 0 || format > newest) {
		r.fail(fmt.Sprintf("format %d, want at most %d", format, newest))
	}
	return r, format
}

func (r *rowDecoder) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrCorrupt, what)
	}
	r.b = nil
}

func (r *rowDecoder) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail("truncated")
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *rowDecoder) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail("bad number")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *rowDecoder) bytes() []byte  { return r.take(r.uint()) }
func (r *rowDecoder) string() string { return string(r.bytes()) }
func (r *rowDecoder) bool() bool     { b := r.take(1); return len(b) == 1 && b[0] != 0 }

func (r *rowDecoder) time() time.Time {
	b := r.take(8)
	if r.err != nil {
		return time.Time{}
	}
	if n := int64(binary.BigEndian.Uint64(b)); n != 0 {
		return time.Unix(0, n).UTC()
	}
	return time.Time{}
}

func (r *rowDecoder) fixed(dst []byte) { copy(dst, r.take(uint64(len(dst)))) }

func (r *rowDecoder) strings() (list []string) {
	for n := r.uint(); n > 0 && r.err == nil; n-- {
		list = append(list, r.string())
	}
	return list
}

// end returns the first error, and an error where something is left.
func (r *rowDecoder) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail("bytes after the end")
	}
	return r.err
}

// keyOf is the key of rows that are numbered.
func keyOf(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func (w *rowWriter) marks(list []mark) {
	w.uint(uint64(len(list)))
	for _, m := range list {
		w.raw(m[:])
	}
}

func (d *rowDecoder) marks() (list []mark) {
	for n := d.uint(); n > 0 && d.err == nil; n-- {
		var m mark
		d.fixed(m[:])
		list = append(list, m)
	}
	return list
}
