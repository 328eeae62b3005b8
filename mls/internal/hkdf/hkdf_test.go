package hkdf

import (
	"bytes"
	stdhkdf "crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"math/rand/v2"
	"testing"
)

// The standard library is the oracle, over every length around the block and
// stack-buffer boundaries.
func TestAgreesWithTheStandardLibrary(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	bytesOf := func(n int) []byte {
		b := make([]byte, n)
		random.Read(b)
		return b
	}
	for _, keySize := range []int{0, 1, 32, 63, 64, 65, 200} {
		for _, size := range []int{0, 1, 55, 64, 300, 447, 448, 449, 600, 5000} {
			key, data := bytesOf(keySize), bytesOf(size)
			h := hmac.New(sha256.New, key)
			h.Write(data)
			want := h.Sum(nil)
			got := MAC(key, data[:size/3], data[size/3:])
			if !bytes.Equal(got[:], want) {
				t.Fatalf("MAC: key of %d bytes, message of %d", keySize, size)
			}
			for _, n := range []int{0, 1, 12, 32, 33, 64, 1000, 255 * Size} {
				want, err := stdhkdf.Expand(sha256.New, key, string(data), n)
				if err != nil {
					t.Fatal(err)
				}
				out := make([]byte, n)
				Expand(out, key, data)
				if !bytes.Equal(out, want) {
					t.Fatalf("Expand: key of %d bytes, info of %d, output of %d", keySize, size, n)
				}
			}
		}
	}
}

func TestShortExpansionsDoNotAllocate(t *testing.T) {
	prk, info, out := make([]byte, 32), make([]byte, 100), make([]byte, 32)
	if n := testing.AllocsPerRun(100, func() { Expand(out, prk, info) }); n != 0 {
		t.Errorf("Expand allocates %v times", n)
	}
}

func BenchmarkExpand(b *testing.B) {
	prk, info, out := make([]byte, 32), make([]byte, 40), make([]byte, 32)
	b.ReportAllocs()
	for b.Loop() {
		Expand(out, prk, info)
	}
}
