package badger

import (
	"bytes"
	"testing"

	"github.com/conclave-chat/conclave/persistence"
)

func FuzzParseChanges(f *testing.F) {
	var payload []byte
	for _, op := range []persistence.Op{
		{Kind: persistence.Put, Key: []byte("a"), Value: []byte("1")},
		{Kind: persistence.Delete, Key: []byte("b")},
		{Kind: persistence.Put, Key: bytes.Repeat([]byte("k"), 300)},
	} {
		payload = appendChange(payload, op)
	}
	f.Add(payload)
	f.Fuzz(func(t *testing.T, payload []byte) {
		ops, err := parseChanges(payload)
		if err != nil {
			return
		}
		var again []byte
		for _, op := range ops {
			again = appendChange(again, op)
		}
		if reparsed, err := parseChanges(again); err != nil || len(reparsed) != len(ops) {
			t.Fatal("what was parsed does not parse again")
		}
	})
}

// A record comes apart the same way whatever else is configured.
func TestSplitKeepsToItsLimits(t *testing.T) {
	var all []cell
	for i := range 20000 {
		all = append(all, cell{key: []byte{byte(i)}, value: make([]byte, i%500)})
	}
	all = append(all, cell{value: make([]byte, 2*txnBytes)})
	n := 0
	for _, txn := range split(all) {
		size := 0
		for _, c := range txn {
			size += len(c.key) + len(c.value)
		}
		if len(txn) == 0 || len(txn) > txnCells || size > txnBytes && len(txn) > 1 {
			t.Errorf("a transaction of %d cells and %d bytes", len(txn), size)
		}
		n += len(txn)
	}
	if n != len(all) {
		t.Errorf("%d of %d cells", n, len(all))
	}
}
