package actors

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/persistence"
)

// What an installation keeps, beside its replicas' rows. The numbers are part
// of the format.
const (
	typeInstallation persistence.RecordType = 1 // (empty): the record below
	typeKeyPackage   persistence.RecordType = 2 // hash of a public key: the secrets behind it
	typeWelcomes     persistence.RecordType = 3 // (empty): how far the welcomes were read
	typeAside        persistence.RecordType = 4 // id: a welcome that was set aside, after its time; without it where the log has it
	typeKeyRing      persistence.RecordType = 5 // (empty): which key packages are due, replaced, and to be deleted
	typeWelcomed     persistence.RecordType = 6 // (empty): a welcome was taken since the key package was replaced
	typeTaken        persistence.RecordType = 7 // id: a welcome behind the cursor that was joined already
	typeRequest      persistence.RecordType = 8 // group and id: a welcome that waits for its owner
	typeLosses       persistence.RecordType = 9 // (empty): how many accepted losses of the log it was told of
	typeGroupTables  persistence.RecordType = 16
)

// recordType is where a replica's table lies.
func recordType(t group.Table) persistence.RecordType {
	return typeGroupTables + persistence.RecordType(t)
}

// rowSuffix is a row's key below its type: the group, then the table's key.
func rowSuffix(id GroupID, key []byte) []byte {
	return append(append(make([]byte, 0, len(id)+len(key)), id[:]...), key...)
}

// sharedSuffix is a shared row's key below its realm.
func sharedSuffix(id GroupID, t group.Table, key []byte) []byte {
	return append(append(append(make([]byte, 0, len(id)+1+len(key)), id[:]...), byte(t)), key...)
}

// A record is an installation's own row.
type record struct {
	Seed       []byte    `json:"seed"` // of the Ed25519 installation key
	Inbox      string    `json:"inbox"`
	Address    string    `json:"address"` // of the wallet that registered it
	Database   string    `json:"database"`
	HMACKey    []byte    `json:"hmac_key"`
	Created    time.Time `json:"created"`
	KeyPackage []byte    `json:"key_package"`      // that of the registration
	Update     []byte    `json:"update,omitempty"` // the signed registration, until the network has it
}

func (r *record) encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic("actors: encode installation record: " + err.Error()) // strings and bytes only
	}
	return b
}

func decodeRecord(b []byte) (*record, error) {
	r := new(record)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%w: installation record: %w", persistence.ErrDamaged, err)
	}
	return r, nil
}

func keyPackageSuffix(publicKey []byte) []byte {
	sum := sha256.Sum256(publicKey)
	return sum[:]
}

// addRows adds a replica's rows to a batch. Of rows with one key only the last
// is written, since several steps may share a batch.
func (s *System) addRows(b *persistence.Batch, v *persistence.Vault, id GroupID, rows []group.Row) error {
	last := make(map[string]int, len(rows))
	for i, r := range rows {
		last[string(append(append(make([]byte, 0, 1+len(r.Key)), byte(r.Table)), r.Key...))] = i
	}
	for i, r := range rows {
		if last[string(append(append(make([]byte, 0, 1+len(r.Key)), byte(r.Table)), r.Key...))] != i {
			continue
		}
		switch {
		case r.Table.Shared() && r.Value == nil:
			// A claim that is given up: the pin moves, and the sweep does the rest.
		case r.Table.Shared() && len(r.Secret) == 32:
			persistence.PutShared(b, s.space, sharedSuffix(id, r.Table, r.Key), [32]byte(r.Secret), r.Value)
		case r.Table.Shared():
			return fmt.Errorf("actors: shared row of table %d with a secret of %d bytes", r.Table, len(r.Secret))
		case r.Value == nil:
			v.Delete(b, recordType(r.Table), rowSuffix(id, r.Key))
		default:
			v.Put(b, recordType(r.Table), rowSuffix(id, r.Key), r.Value)
		}
	}
	return nil
}

// rows reads one replica's rows; it is group.RowReader over a vault.
type rows struct {
	ctx   context.Context
	store persistence.Store
	space persistence.Realm
	vault *persistence.Vault
	id    GroupID
}

func (r rows) Get(t group.Table, key, secret []byte) (value []byte, err error) {
	if t.Shared() {
		if len(secret) != 32 {
			return nil, fmt.Errorf("%w: secret of %d bytes", group.ErrCorrupt, len(secret))
		}
		value, err = persistence.GetShared(r.ctx, r.store, r.space, sharedSuffix(r.id, t, key), [32]byte(secret))
	} else {
		value, err = r.vault.Get(r.ctx, recordType(t), rowSuffix(r.id, key))
	}
	if errors.Is(err, persistence.ErrNotFound) {
		return nil, nil
	}
	return value, err
}

func (r rows) Scan(t group.Table, from []byte, yield func(key, value []byte) bool) error {
	return r.vault.Scan(r.ctx, recordType(t), r.id[:], rowSuffix(r.id, from), func(suffix, value []byte) bool {
		return yield(suffix[len(r.id):], value)
	})
}

func (r rows) ScanBack(t group.Table, before []byte, yield func(key, value []byte) bool) error {
	var below []byte
	if before != nil {
		below = rowSuffix(r.id, before)
	}
	return r.vault.ScanBack(r.ctx, recordType(t), r.id[:], below, func(suffix, value []byte) bool {
		return yield(suffix[len(r.id):], value)
	})
}

// groupsOf lists an installation's groups, from its store alone.
func groupsOf(ctx context.Context, v *persistence.Vault) (ids []GroupID, err error) {
	err = v.Scan(ctx, recordType(group.TableMeta), nil, nil, func(suffix, _ []byte) bool {
		if len(suffix) == len(GroupID{}) {
			ids = append(ids, GroupID(suffix))
		}
		return true
	})
	return ids, err
}

func encodeCursor(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

func decodeCursor(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
