package ethereum

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/ethereum/go-ethereum/common"
)

// wrapperSuffix ends a signature that ERC-6492 wraps.
var wrapperSuffix = bytes.Repeat([]byte{0x64, 0x92}, 16)

// A deployment is the call that makes a contract, or that prepares it to know
// its signer.
type deployment struct {
	factory common.Address
	call    []byte
}

// unwrap takes ERC-6492's wrapper off: abi.encode(address factory, bytes call,
// bytes signature), and the suffix. A signature without one comes back as it is.
func unwrap(sig []byte) (*deployment, []byte, error) {
	wrapped, ok := bytes.CutSuffix(sig, wrapperSuffix)
	if !ok {
		return nil, sig, nil
	}
	factory, ok := wordAt(wrapped, 0)
	if !ok || !zero(factory[:12]) {
		return nil, nil, fmt.Errorf("%w: ERC-6492 wrapper without a factory", errBadSignature)
	}
	call, ok := bytesAt(wrapped, 32)
	if !ok {
		return nil, nil, fmt.Errorf("%w: ERC-6492 wrapper without a call", errBadSignature)
	}
	inner, ok := bytesAt(wrapped, 64)
	if !ok {
		return nil, nil, fmt.Errorf("%w: ERC-6492 wrapper without a signature", errBadSignature)
	}
	return &deployment{common.BytesToAddress(factory), call}, inner, nil
}

// bytesAt reads a value of type bytes whose offset stands at head.
func bytesAt(b []byte, head int) ([]byte, bool) {
	offset, ok := lengthAt(b, head)
	if !ok {
		return nil, false
	}
	length, ok := lengthAt(b, offset)
	if !ok || length > len(b)-offset-32 {
		return nil, false
	}
	return b[offset+32:][:length:length], true
}

// lengthAt reads a word that counts bytes of b, and so is no more than it has.
func lengthAt(b []byte, at int) (int, bool) {
	w, ok := wordAt(b, at)
	if !ok || !zero(w[:24]) {
		return 0, false
	}
	n := binary.BigEndian.Uint64(w[24:])
	return int(n), n <= uint64(len(b))
}

func wordAt(b []byte, at int) ([]byte, bool) {
	if at > len(b)-32 {
		return nil, false
	}
	return b[at : at+32], true
}

func zero(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }

// magic is isValidSignature's selector, and what it returns for yes (ERC-1271).
var magic = [4]byte{0x16, 0x26, 0xba, 0x7e}

// isValidSignature is the call isValidSignature(bytes32 hash, bytes signature).
func isValidSignature(hash [32]byte, sig []byte) []byte {
	call := slices.Concat(magic[:], hash[:], word(64), word(len(sig)), sig)
	return append(call, make([]byte, -len(sig)&31)...)
}

// word is n as a 32-byte integer.
func word(n int) []byte { return binary.BigEndian.AppendUint64(make([]byte, 24, 32), uint64(n)) }
