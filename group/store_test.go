package group_test

import (
	"bytes"
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave/group"
)

// rows is an installation's private part of a store.
type rows map[group.Table]map[string][]byte

func (r rows) put(row group.Row) {
	if r[row.Table] == nil {
		r[row.Table] = map[string][]byte{}
	}
	if row.Value == nil {
		delete(r[row.Table], string(row.Key))
	} else {
		r[row.Table][string(row.Key)] = row.Value
	}
}

// sharedRows is what co-hosted members share: written once, and by whoever
// comes first.
type sharedRows map[group.Table]map[string]group.Row

func (s sharedRows) put(t testing.TB, row group.Row) {
	if s[row.Table] == nil {
		s[row.Table] = map[string]group.Row{}
	}
	if row.Value == nil {
		return // one member's claim; this store keeps what others may need
	}
	if len(row.Secret) != 32 {
		t.Fatalf("shared row of table %d without a secret", row.Table)
	}
	if old, ok := s[row.Table][string(row.Key)]; ok {
		if row.Table == group.TableText && (!bytes.Equal(old.Value, row.Value) || !bytes.Equal(old.Secret, row.Secret)) {
			t.Errorf("two members write different bodies of one message")
		}
		return
	}
	s[row.Table][string(row.Key)] = row
}

// reader is the installation's view of the store.
func (h *home) reader() group.RowReader { return reader{h.rows, h.bodies} }

type reader struct {
	rows   rows
	shared sharedRows
}

func (r reader) Get(t group.Table, key, secret []byte) ([]byte, error) {
	if !t.Shared() {
		return r.rows[t][string(key)], nil
	}
	row, ok := r.shared[t][string(key)]
	if !ok {
		return nil, nil
	}
	if !bytes.Equal(row.Secret, secret) {
		return nil, errors.New("wrong secret for a shared row")
	}
	return row.Value, nil
}

// stored is Env.Stored.
func (h *home) stored(id group.MessageID) (bool, error) {
	var at []group.Position
	for key := range h.bodies[group.TableText] {
		if p, ok := group.TextAt([]byte(key)); ok && strings.HasPrefix(key, string(group.TextPrefix(id))) {
			at = append(at, p)
		}
	}
	return group.Stored(h.reader(), id, at)
}

func (r reader) keys(t group.Table) []string {
	var keys []string
	for k := range r.rows[t] {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, cmp.Compare[string])
	return keys
}

func (r reader) Scan(t group.Table, from []byte, yield func(key, value []byte) bool) error {
	for _, k := range r.keys(t) {
		if k >= string(from) && !yield([]byte(k), r.rows[t][k]) {
			return nil
		}
	}
	return nil
}

func (r reader) ScanBack(t group.Table, before []byte, yield func(key, value []byte) bool) error {
	for _, k := range slices.Backward(r.keys(t)) {
		if (before == nil || k < string(before)) && !yield([]byte(k), r.rows[t][k]) {
			return nil
		}
	}
	return nil
}

func (r rows) clone() rows {
	out := rows{}
	for t, m := range r {
		out[t] = maps.Clone(m)
	}
	return out
}
