package group

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/conclave-chat/conclave/mls"
)

// The ratchets are saved now and then, and a replica that comes back has those of
// up to checkpointEvery messages ago. Which messages open is a function of the log
// for all members alike: so the keys of what was opened since are used once more,
// by what the rows tell. A message that was stored has its key in its own row; one
// that was opened and left no message, a later copy or a refused one, in TableUsed.

// A usedKey names the key of a message that another member sent.
type usedKey struct {
	epoch      uint64
	sender     mls.LeafIndex
	generation uint32
}

// checkpointKey is the row of TableUsed with the ID at which the ratchets were
// saved; the others lie by their envelope's ID.
var checkpointKey = keyOf(0)

// use notes the key of an envelope that was opened and is not stored.
func (s *step) use(d Delivered, k usedKey) {
	w := newRow(usedFormat, 16)
	w.uint(k.epoch)
	w.uint(uint64(k.sender))
	w.uint(uint64(k.generation))
	s.put(TableUsed, keyOf(d.ID), w.b)
	s.used = append(s.used[:len(s.used):len(s.used)], d.ID)
}

// savedRatchets notes that the ratchets are saved as of the cursor.
func (s *step) savedRatchets() {
	for _, id := range s.used {
		s.delete(TableUsed, keyOf(id))
	}
	s.used = nil
	w := newRow(usedFormat, 16)
	w.uint(s.cursor)
	s.put(TableUsed, checkpointKey, w.b)
}

// useAgain takes the keys that were used since the ratchets were saved. Rows of a
// version that noted none leave the ratchets as they were saved.
func (s *step) useAgain(rows RowReader) error {
	row, err := rows.Get(TableUsed, checkpointKey, nil)
	if err != nil || row == nil {
		return err
	}
	d := rowReader(row, usedFormat)
	since := d.uint()
	if err := d.end(); err != nil {
		return err
	}
	var keys []placedKey
	scan := rows.Scan(TableMessage, Position{ID: since + 1}.key(), func(key, value []byte) bool {
		var m index
		if m, err = decodeIndex(key, value); err == nil && m.Kind == ApplicationMessage && m.keyed {
			keys = append(keys, placedKey{m.Position.ID, m.key})
		}
		return err == nil
	})
	if err := errors.Join(scan, err); err != nil {
		return err
	}
	scan = rows.Scan(TableUsed, keyOf(1), func(key, value []byte) bool {
		d := rowReader(value, usedFormat)
		k := placedKey{rowNumber(key, d), usedKey{d.uint(), mls.LeafIndex(d.uint()), uint32(d.uint())}}
		if err = d.end(); err == nil {
			keys = append(keys, k)
			s.used = append(s.used, k.at)
		}
		return err == nil
	})
	if err := errors.Join(scan, err); err != nil {
		return fmt.Errorf("used keys: %w", err)
	}
	slices.SortFunc(keys, func(a, b placedKey) int { return cmp.Compare(a.at, b.at) })
	for _, k := range keys {
		s.group = s.group.Used(k.epoch, k.sender, k.generation)
	}
	s.opened = max(s.opened, uint64(len(keys)))
	return nil
}

// A placedKey is a used key with the place of its envelope in the log.
type placedKey struct {
	at uint64
	usedKey
}
