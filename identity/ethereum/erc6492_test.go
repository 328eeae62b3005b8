package ethereum

import (
	"bytes"
	"slices"
	"testing"

	"github.com/ethereum/go-ethereum/common"
)

// wrapped is a wrapper as an ABI encoder writes it, with its parts in order.
func wrapped(factory common.Address, call, sig []byte) []byte {
	pad := func(b []byte) []byte { return append(slices.Concat(word(len(b)), b), make([]byte, -len(b)&31)...) }
	head := slices.Concat(make([]byte, 12), factory[:], word(96), word(96+len(pad(call))))
	return slices.Concat(head, pad(call), pad(sig), wrapperSuffix)
}

func TestUnwrap(t *testing.T) {
	factory := common.Address{1, 2, 3}
	d, sig, err := unwrap(wrapped(factory, []byte("call"), []byte("signature")))
	if err != nil || d.factory != factory || string(d.call) != "call" || string(sig) != "signature" {
		t.Errorf("unwrapped %v, %q, %v", d, sig, err)
	}
	if d, sig, err := unwrap([]byte("bare")); err != nil || d != nil || string(sig) != "bare" {
		t.Errorf("bare: %v, %q, %v", d, sig, err)
	}
	whole := wrapped(factory, []byte("call"), []byte("signature"))
	body := whole[:len(whole)-32]
	change := func(at int, to byte) []byte {
		b := bytes.Clone(whole)
		b[at] = to
		return b
	}
	for name, bad := range map[string][]byte{
		"nothing in it":             wrapperSuffix,
		"a factory alone":           slices.Concat(body[:32], wrapperSuffix),
		"no signature":              slices.Concat(body[:64], wrapperSuffix),
		"cut off in the signature":  slices.Concat(body[:len(body)-32], wrapperSuffix),
		"a factory of 32 bytes":     change(0, 1),
		"an offset beyond the end":  change(62, 0xff),
		"an offset over 64 bits":    change(32, 1),
		"a negative offset":         change(56, 0x80),
		"a length beyond the end":   change(96+30, 0xff),
		"a length beyond all":       change(96+24, 0xff),
		"a length that just passes": change(96+31, 200),
	} {
		if d, sig, err := unwrap(bad); err == nil {
			t.Errorf("%s: unwrapped %v, %q", name, d, sig)
		}
	}
}

// No bytes panic, what comes out was in them, and the validator that is made of
// it is not much longer.
func FuzzUnwrap(f *testing.F) {
	f.Add([]byte("bare"))
	f.Add(wrapperSuffix)
	f.Add(wrapped(common.Address{1}, []byte("call"), []byte("signature")))
	f.Add(wrapped(common.Address{1}, nil, wrapped(common.Address{2}, nil, nil)))
	f.Fuzz(func(t *testing.T, sig []byte) {
		d, inner, err := unwrap(sig)
		if err != nil {
			return
		}
		if !bytes.Contains(sig, inner) || d != nil && !bytes.Contains(sig, d.call) {
			t.Fatal("made something up")
		}
		if d != nil { // written again, it reads the same
			again, same, err := unwrap(wrapped(d.factory, d.call, inner))
			if err != nil || again.factory != d.factory || !bytes.Equal(again.call, d.call) || !bytes.Equal(same, inner) {
				t.Fatalf("read again: %v, %v", again, err)
			}
		}
		if code := validator(common.Address{9}, d, isValidSignature([32]byte{}, inner)); d == nil && len(code) > len(sig)+1<<10 {
			t.Fatalf("%d bytes for a signature of %d", len(code), len(sig))
		}
	})
}
