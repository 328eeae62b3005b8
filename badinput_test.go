package conclave_test

import (
	"crypto/sha256"
	"encoding/binary"
	"iter"
	"testing"

	"github.com/conclave-chat/conclave/persistence"
)

func childProcess() {}

// hashRows hashes every row of a store.
func hashRows(t *testing.T, store persistence.Store) [32]byte {
	t.Helper()
	h := sha256.New()
	err := store.View(t.Context(), func(r persistence.Reader) error {
		return r.Scan(nil, nil, func(key, value []byte) bool {
			for _, b := range [][]byte{key, value} {
				h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
				h.Write(b)
			}
			return true
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

// pull turns a stream into a function that returns what comes next.
func pull[T any](stream iter.Seq2[T, error]) (next func() (T, error), stop func()) {
	two, stop := iter.Pull2(stream)
	return func() (T, error) {
		v, err, ok := two()
		if !ok {
			panic("the stream ended")
		}
		return v, err
	}, stop
}
