package group

import (
	"encoding/binary"
	"fmt"
)

// A message that comes a second time is recognised by the store, however long ago
// it came first. Bodies, which co-hosted members share, lie under the id first and
// the place in the log after it: the keys of TableText below an id's Text prefix
// are the places at which any of them has such a message. Each decides by its own
// row whether it has the message itself: who joined between two copies has the
// second one only.

// TextPrefix is what the keys of a message's bodies in TableText begin with.
func TextPrefix(id MessageID) []byte { return id[:len(Position{}.Message)] }

// textKey is the key of the body of the message at a position.
func (p Position) textKey() []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, 16), p.Message[:]...), p.ID)
}

// TextAt returns the position that a key of TableText is for.
func TextAt(key []byte) (p Position, ok bool) {
	if len(key) != 16 {
		return p, false
	}
	copy(p.Message[:], key)
	p.ID = binary.BigEndian.Uint64(key[8:])
	return p, true
}

// TextKey returns the key in TableText of a message whose body a version before
// wrote by its position, in TableBody: see TableBody.
func TextKey(bodyKey []byte) (key []byte, ok bool) {
	p, ok := parsePosition(bodyKey)
	return p.textKey(), ok
}

// Stored reports whether a replica's rows have a message; at are the places at
// which a member that shares the store has one whose id begins alike.
func Stored(rows RowReader, id MessageID, at []Position) (bool, error) {
	for _, p := range at {
		row, err := rows.Get(TableMessage, p.key(), nil)
		if err != nil {
			return false, fmt.Errorf("group: look up message: %w", err)
		}
		if row == nil {
			continue
		}
		index, err := decodeIndex(p.key(), row)
		if err != nil {
			return false, fmt.Errorf("group: look up message: %w", err)
		}
		if index.ID == id {
			return true, nil
		}
	}
	return false, nil
}

// stored reports whether this member has a message. An error is the store's.
func (s *step) stored(id MessageID) (bool, error) {
	if s.env.Stored == nil {
		return false, nil
	}
	return s.env.Stored(id)
}
