package mls

import "errors"

// ErrInvalid is in the chain of every error that says: these bytes, or this
// message, are not valid under RFC 9420. The group is unchanged.
var ErrInvalid = errors.New("mls: invalid")

// invalid makes a rule of RFC 9420 an error that satisfies
// errors.Is(err, ErrInvalid).
type invalid string

func (e invalid) Error() string        { return "mls: " + string(e) }
func (e invalid) Is(target error) bool { return target == ErrInvalid }

// Decoding (Section 2.1).
const (
	errTruncated   = invalid("truncated input")
	errTrailing    = invalid("bytes after the end of the structure")
	errBadLength   = invalid("vector length with the reserved prefix")
	errNotMinimal  = invalid("vector length is not minimally encoded")
	errBadOptional = invalid("optional<T> presence octet is neither 0 nor 1")
)
