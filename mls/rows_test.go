package mls

import (
	"bytes"
	"errors"
	"testing"
)

// A rowStore keeps one member's rows as a store would, each shared one with the
// secret that it was sealed under.
type rowStore struct{ rows map[RowKind]map[string]Row }

func newRowStore() *rowStore { return &rowStore{rows: map[RowKind]map[string]Row{}} }

func (s *rowStore) apply(t testing.TB, rows []Row) {
	t.Helper()
	for _, r := range rows {
		of := s.rows[r.Kind]
		if of == nil {
			of = map[string]Row{}
			s.rows[r.Kind] = of
		}
		if shared := r.Kind == RowTree || r.Kind == RowEpoch; r.Value != nil && shared != (len(r.Secret) == 32) {
			t.Fatalf("row of kind %d with a secret of %d bytes", r.Kind, len(r.Secret))
		}
		if r.Value == nil {
			if _, ok := of[string(r.Key)]; !ok {
				t.Fatalf("deletes a row of kind %d that is not there: %x", r.Kind, r.Key)
			}
			delete(of, string(r.Key))
		} else {
			of[string(r.Key)] = r
		}
	}
}

var errNoRow = errors.New("no such row, or not under this secret")

func (s *rowStore) get(kind RowKind, key, secret []byte) ([]byte, error) {
	r, ok := s.rows[kind][string(key)]
	if !ok || !bytes.Equal(r.Secret, secret) {
		return nil, errNoRow
	}
	return r.Value, nil
}

func (s *rowStore) list(kind RowKind) (keys [][]byte, err error) {
	for key := range s.rows[kind] {
		keys = append(keys, []byte(key))
	}
	return keys, nil
}

func (s *rowStore) restore(t testing.TB, realm *Realm, signer *Signer) *Group {
	t.Helper()
	g, err := Restore(realm, signer, s.get, s.list)
	if err != nil {
		t.Fatal("restore:", err)
	}
	return g
}
