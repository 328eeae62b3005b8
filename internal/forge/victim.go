package forge

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/persistence"
)

// A Victim is an installation whose store, database key and inbox somebody has.
type Victim struct {
	Store        persistence.Store
	Installation [32]byte
	Key          persistence.Key
	Inbox        string
}

// Records of an installation, as package actors numbers them.
const (
	recordInstallation = 1
	recordGroupTables  = 16 // and the number of the group's table
)

// Replica returns the victim's replica of a group, as its store has it.
func (v Victim) Replica(ctx context.Context, id [16]byte) (*group.Replica, error) {
	vault, err := persistence.OpenVault(ctx, v.Store, v.Installation, v.Key)
	if err != nil {
		return nil, fmt.Errorf("forge: %w", err)
	}
	row, err := vault.Get(ctx, recordInstallation, nil)
	if err != nil {
		return nil, fmt.Errorf("forge: %w", err)
	}
	var record struct {
		Seed []byte `json:"seed"`
	}
	if err := json.Unmarshal(row, &record); err != nil {
		return nil, fmt.Errorf("forge: %w", err)
	}
	signer, err := mls.NewSigner(mls.MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519, record.Seed)
	if err != nil {
		return nil, fmt.Errorf("forge: %w", err)
	}
	r, _, err := group.Load(group.Env{
		Signer: signer, Inbox: v.Inbox, Rand: rand.Reader,
		Identity: func(string, uint64, time.Time) (*identity.State, bool) { return nil, false },
	}, rows{ctx, v.Store, vault, id})
	if err != nil {
		return nil, fmt.Errorf("forge: %w", err)
	}
	return r, nil
}

// rows are a member's rows of one group, read past all code that has rules.
type rows struct {
	ctx   context.Context
	store persistence.Store
	vault *persistence.Vault
	id    [16]byte
}

func (r rows) at(key []byte) []byte { return append(slices.Clone(r.id[:]), key...) }

func (r rows) Get(table group.Table, key, secret []byte) (value []byte, err error) {
	if table.Shared() {
		value, err = persistence.GetShared(r.ctx, r.store, persistence.Realm{}, append(r.at([]byte{byte(table)}), key...), [32]byte(secret))
	} else {
		value, err = r.vault.Get(r.ctx, typeOf(table), r.at(key))
	}
	if errors.Is(err, persistence.ErrNotFound) {
		return nil, nil
	}
	return value, err
}

func (r rows) Scan(table group.Table, from []byte, yield func(key, value []byte) bool) error {
	return r.vault.Scan(r.ctx, typeOf(table), r.id[:], r.at(from), r.within(yield))
}

func (r rows) ScanBack(table group.Table, before []byte, yield func(key, value []byte) bool) error {
	var below []byte
	if before != nil {
		below = r.at(before)
	}
	return r.vault.ScanBack(r.ctx, typeOf(table), r.id[:], below, r.within(yield))
}

func (r rows) within(yield func(key, value []byte) bool) func(suffix, value []byte) bool {
	return func(suffix, value []byte) bool { return yield(suffix[len(r.id):], value) }
}

func typeOf(t group.Table) persistence.RecordType {
	return persistence.RecordType(recordGroupTables + int(t))
}

// Commit makes a commit that keeps none of the group's rules, and whose path opens for
// all but some: withhold is asked by the place of each encryption, in the order of
// RFC 9420, Section 7.6, and of how many there are. Nil: it opens for all.
func Commit(r *group.Replica, withhold func(i, n int) bool, proposals ...mls.Proposal) ([]byte, error) {
	c := mls.CommitConfig{Rand: rand.Reader, Proposals: proposals}
	if withhold != nil {
		c.Each = func(n int, f func(int)) {
			for i := range n {
				if !withhold(i, n) {
					f(i)
				}
			}
		}
	}
	staged, err := r.Group().Commit(c)
	if err != nil {
		return nil, fmt.Errorf("forge: %w", err)
	}
	return group.EncodeGroupMessage(staged.Message(), make([]byte, 32), false), nil
}
