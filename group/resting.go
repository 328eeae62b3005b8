package group

import (
	"errors"
	"fmt"
)

// Resting reads where a replica stands without loading it: the ID of the last
// envelope that it read, and whether it is quiet, with nothing to be sent or
// settled. A quiet replica whose log ends at that ID needs no waking.
func Resting(rows RowReader) (cursor uint64, quiet bool, err error) {
	r, err := restingAt(rows)
	if err != nil {
		return 0, false, fmt.Errorf("group: read cursor: %w", err)
	}
	quiet = true
	var failed error
	scan := rows.ScanBack(TableMessage, nil, func(key, value []byte) bool {
		m, e := decodeIndex(key, value)
		if failed = e; e == nil {
			r.cursor, quiet = max(r.cursor, m.Position.ID), m.rewinds == r.rewinds
		}
		return false
	})
	if err := errors.Join(scan, failed, r.loadIntents(rows)); err != nil {
		return 0, false, fmt.Errorf("group: read cursor: %w", err)
	}
	return r.cursor, quiet && !r.Pending(), nil
}

// restingAt reads the meta row.
func restingAt(rows RowReader) (*Replica, error) {
	meta, err := rows.Get(TableMeta, nil, nil)
	if err != nil {
		return nil, err
	}
	if meta == nil {
		return nil, fmt.Errorf("%w: no meta row", ErrCorrupt)
	}
	r := new(Replica)
	return r, r.decodeMeta(meta)
}
