package badger

import (
	"encoding/binary"
	"fmt"
	"slices"

	badgerdb "github.com/dgraph-io/badger/v4"

	"github.com/conclave-chat/conclave/persistence"
)

// Badger's keys:
//
//	'r' | key                               row; user meta 1: its value is in so many pieces (4 bytes)
//	'p' | length of key (2) | key | n (4)   piece n of a large value
//	'c'                                     the stamp of the last group
//
// The stamp is written with every group, so that the tables' highest version
// does not fall when a compaction drops deleted rows.
const (
	spaceRow   = 'r'
	spacePiece = 'p'

	inPieces = 1
	pieceLen = 256 << 10
)

var stampKey = []byte{'c'}

func rowKey(key []byte) []byte {
	return append(append(make([]byte, 0, 1+len(key)), spaceRow), key...)
}

func pieceKey(key []byte, n int) []byte {
	k := make([]byte, 0, 1+2+len(key)+4)
	k = append(k, spacePiece)
	k = binary.BigEndian.AppendUint16(k, uint16(len(key)))
	k = append(k, key...)
	return binary.BigEndian.AppendUint32(k, uint32(n))
}

// A payload is the changes of a group in a journal record:
//
//	1 | key length (varint) | key | value length (varint) | value     put
//	2 | key length (varint) | key                                     delete
const (
	changePut    = 1
	changeDelete = 2
)

func appendChange(b []byte, op persistence.Op) []byte {
	if op.Kind == persistence.Delete {
		b = append(b, changeDelete)
		b = binary.AppendUvarint(b, uint64(len(op.Key)))
		return append(b, op.Key...)
	}
	b = append(b, changePut)
	b = binary.AppendUvarint(b, uint64(len(op.Key)))
	b = append(b, op.Key...)
	b = binary.AppendUvarint(b, uint64(len(op.Value)))
	return append(b, op.Value...)
}

// parseChanges is the inverse of appendChange for a whole payload. The slices
// are the payload's.
func parseChanges(b []byte) (ops []persistence.Op, err error) {
	take := func() (field []byte, ok bool) {
		length, n := binary.Uvarint(b)
		if n <= 0 || length > uint64(len(b)-n) {
			return nil, false
		}
		field, b = b[n:n+int(length)], b[n+int(length):]
		return field, true
	}
	for len(b) > 0 {
		kind := b[0]
		b = b[1:]
		var op persistence.Op
		var ok bool
		if op.Key, ok = take(); ok && kind == changePut {
			op.Kind = persistence.Put
			op.Value, ok = take()
		} else if kind == changeDelete {
			op.Kind = persistence.Delete
		} else {
			ok = false
		}
		if !ok {
			return nil, fmt.Errorf("%w: journal record does not parse", persistence.ErrDamaged)
		}
		ops = append(ops, op)
	}
	return ops, nil
}

// A cell is one key of Badger's and what is written there.
type cell struct {
	key, value []byte
	meta       byte
	gone       bool
}

// large is the number of pieces of each row that is in pieces.
type large map[string]int

// cells turns changes into what Badger stores. changed is what they do to
// large, with 0 for a row that is no longer in pieces; nil for the most part.
func (l large) cells(ops []persistence.Op) (out []cell, changed large) {
	out = make([]cell, 0, len(ops)+1)
	for _, op := range ops {
		row := cell{key: rowKey(op.Key), value: op.Value, gone: op.Kind == persistence.Delete}
		old, pieces := 0, 0
		if len(l)+len(changed) > 0 {
			var again bool
			if old, again = changed[string(op.Key)]; !again {
				old = l[string(op.Key)]
			}
		}
		if len(op.Value) > pieceLen {
			for piece := range slices.Chunk(op.Value, pieceLen) {
				out = append(out, cell{key: pieceKey(op.Key, pieces), value: piece})
				pieces++
			}
			row.value, row.meta = binary.BigEndian.AppendUint32(nil, uint32(pieces)), inPieces
		}
		for n := pieces; n < old; n++ {
			out = append(out, cell{key: pieceKey(op.Key, n), gone: true})
		}
		if pieces+old > 0 {
			if changed == nil {
				changed = large{}
			}
			changed[string(op.Key)] = pieces
		}
		out = append(out, row)
	}
	return out, changed
}

// accept makes what cells said true.
func (l large) accept(changed large) {
	for key, pieces := range changed {
		if pieces > 0 {
			l[key] = pieces
		} else {
			delete(l, key)
		}
	}
}

// A transaction of Badger's takes at most so much, whatever Config.MemTable is:
// a record must come apart in replay as it did at first.
const (
	txnBytes = 1 << 20
	txnCells = 8192
)

// split cuts cells into transactions. Each has a stamp of its own.
func split(all []cell) [][]cell {
	var txns [][]cell
	start, size := 0, 0
	for i := range all {
		n := len(all[i].key) + len(all[i].value)
		if i > start && (size+n > txnBytes || i-start == txnCells) {
			txns = append(txns, all[start:i])
			start, size = i, 0
		}
		size += n
	}
	return append(txns, all[start:])
}

// loadLarge finds the rows that are in pieces.
func loadLarge(db *badgerdb.DB, stamp uint64) large {
	txn := db.NewTransactionAt(stamp, false)
	defer txn.Discard()
	it := txn.NewIterator(badgerdb.IteratorOptions{Prefix: []byte{spacePiece}})
	defer it.Close()
	found := large{}
	for it.Rewind(); it.Valid(); it.Next() {
		k := it.Item().Key()
		key, n := k[3:len(k)-4], int(binary.BigEndian.Uint32(k[len(k)-4:]))
		found[string(key)] = max(found[string(key)], n+1)
	}
	return found
}
