package group

import (
	"fmt"
	"slices"
)

// HistoryQuery selects published messages.
type HistoryQuery struct {
	After  Position // zero: from the oldest
	Before Position // zero: to the newest
	Limit  int      // 0: all
	Newest bool     // falling order, newest first
}

// History reads published messages from a replica's rows, in the log's order.
func History(rows RowReader, q HistoryQuery) ([]Message, error) {
	var out []Message
	var failed error
	secrets := map[uint64][]byte{}
	visit := func(key, value []byte) bool {
		var m Message
		m, failed = readMessage(rows, secrets, key, value)
		if failed == nil {
			out = append(out, m)
		}
		return failed == nil && (q.Limit == 0 || len(out) < q.Limit)
	}
	var after, before []byte
	if q.After != (Position{}) {
		after = q.After.key()
	}
	if q.Before != (Position{}) {
		before = q.Before.key()
	}
	var err error
	if q.Newest {
		err = rows.ScanBack(TableMessage, before, func(key, value []byte) bool {
			return (after == nil || slices.Compare(key, after) > 0) && visit(key, value)
		})
	} else {
		err = rows.Scan(TableMessage, after, func(key, value []byte) bool {
			if after != nil && slices.Equal(key, after) {
				return true
			}
			return (before == nil || slices.Compare(key, before) < 0) && visit(key, value)
		})
	}
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, fmt.Errorf("group: read history: %w", err)
	}
	return out, nil
}

// readMessage puts a message together from its index row and its body.
func readMessage(rows RowReader, secrets map[uint64][]byte, key, value []byte) (Message, error) {
	index, err := decodeIndex(key, value)
	m, body := index.Message, index.inline
	if err != nil {
		return m, err
	}
	if body == nil {
		epoch := storageEpoch(index.era, index.key.epoch)
		secret, ok := secrets[epoch]
		if !ok {
			row, err := rows.Get(TableStorage, keyOf(epoch), nil)
			if err != nil {
				return m, err
			}
			d := rowReader(row, storageFormat)
			secret = slices.Clone(d.take(32))
			if err := d.end(); err != nil {
				return m, err
			}
			secrets[epoch] = secret
		}
		table, at := index.body()
		if body, err = rows.Get(table, at, secret); err != nil {
			return m, err
		}
		if body == nil {
			return m, fmt.Errorf("%w: message %v has no body", ErrCorrupt, m.ID)
		}
	}
	return m, m.decodeBody(slices.Clone(body))
}

// Drafts returns the own messages that are not Published, in the order in which
// they were sent.
func (r *Replica) Drafts() []Message {
	s := &step{Replica: *r}
	var out []Message
	for _, it := range r.intents {
		if it.isSend() && !it.again {
			out = append(out, s.draft(it))
		}
	}
	return out
}
