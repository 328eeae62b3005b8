package persistence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// A Vault is one installation's sealed part of a store. Its records are sealed
// under a data key that only the installation's database key unwraps, so that
// to destroy the one row which holds it is to destroy them all.
//
// It is safe for concurrent use. One process opens an installation once.
type Vault struct {
	store        Store
	installation [32]byte
	box          box

	mu        sync.RWMutex // Apply shares it, Destroy holds it
	destroyed bool
}

// CreateVault makes an installation's vault, durably, with a data key from
// rand. It returns ErrExists where there is one already.
func CreateVault(ctx context.Context, store Store, installation [32]byte, dbKey Key, rand io.Reader) (*Vault, error) {
	var dataKey [32]byte
	defer clear(dataKey[:])
	if _, err := io.ReadFull(rand, dataKey[:]); err != nil {
		return nil, fmt.Errorf("create vault: read randomness: %w", err)
	}
	key, created := vaultKey(installation), false
	var b Batch
	b.PutAbsent(key, func() ([]byte, error) {
		created = true
		return newBox((*[32]byte)(&dbKey)).seal(key, dataKey[:]), nil
	})
	if err := store.Apply(ctx, &b, Durable); err != nil {
		return nil, fmt.Errorf("create vault: %w", err)
	}
	if !created {
		return nil, fmt.Errorf("create vault: %w", ErrExists)
	}
	return &Vault{store: store, installation: installation, box: newBox(&dataKey)}, nil
}

// OpenVault opens an installation's vault. It returns ErrNotFound where there
// is none, and ErrWrongKey where dbKey is not the key it was created with. It
// changes nothing in the store.
func OpenVault(ctx context.Context, store Store, installation [32]byte, dbKey Key) (*Vault, error) {
	key := vaultKey(installation)
	var dataKey []byte
	err := store.View(ctx, func(r Reader) error {
		wrapped, err := r.Get(key)
		if err != nil {
			return err
		}
		dataKey, err = newBox((*[32]byte)(&dbKey)).open(key, wrapped)
		// The store vouches for its bytes, so a row of the right shape that
		// does not open was wrapped by another key.
		if errors.Is(err, ErrDamaged) && len(wrapped) == 32+sealOverhead && wrapped[0] == formatVersion {
			return ErrWrongKey
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	defer clear(dataKey)
	if len(dataKey) != 32 {
		return nil, fmt.Errorf("open vault: %w: data key of %d bytes", ErrDamaged, len(dataKey))
	}
	return &Vault{store: store, installation: installation, box: newBox((*[32]byte)(dataKey))}, nil
}

// Vaults lists the installations of a store in the order of their ids.
func Vaults(ctx context.Context, store Store) ([][32]byte, error) {
	var installations [][32]byte
	err := store.View(ctx, func(r Reader) error {
		return r.Scan([]byte{spaceKey}, nil, func(key, _ []byte) bool {
			if len(key) == 1+32 {
				installations = append(installations, [32]byte(key[1:]))
			}
			return true
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list vaults: %w", err)
	}
	return installations, nil
}

// Installation returns the installation that the vault belongs to.
func (v *Vault) Installation() [32]byte { return v.installation }

// Put adds a sealed record to the batch. The plaintext stays the caller's.
func (v *Vault) Put(b *Batch, t RecordType, suffix, plaintext []byte) {
	key := recordKey(v.installation, t, suffix)
	if len(key) > MaxKey {
		b.Put(key, nil) // Check refuses it
		return
	}
	b.Put(key, v.box.seal(key, plaintext))
}

// Delete adds the removal of a record to the batch.
func (v *Vault) Delete(b *Batch, t RecordType, suffix []byte) {
	b.Delete(recordKey(v.installation, t, suffix))
}

// Apply applies a batch, as Store.Apply. After Destroy it returns ErrNotFound.
func (v *Vault) Apply(ctx context.Context, b *Batch, d Durability) error {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.destroyed {
		return fmt.Errorf("apply: vault destroyed: %w", ErrNotFound)
	}
	return v.store.Apply(ctx, b, d)
}

// View reads several records of one snapshot.
func (v *Vault) View(ctx context.Context, read func(Records) error) error {
	return v.store.View(ctx, func(r Reader) error { return read(Records{r, v}) })
}

// Get returns one record, or ErrNotFound.
func (v *Vault) Get(ctx context.Context, t RecordType, suffix []byte) (plaintext []byte, err error) {
	err = v.View(ctx, func(r Records) error {
		plaintext, err = r.Get(t, suffix)
		return err
	})
	return plaintext, err
}

// Scan is Records.Scan on a snapshot of its own.
func (v *Vault) Scan(ctx context.Context, t RecordType, prefix, from []byte, yield func(suffix, plaintext []byte) bool) error {
	return v.View(ctx, func(r Records) error { return r.Scan(t, prefix, from, yield) })
}

// ScanBack is Records.ScanBack on a snapshot of its own.
func (v *Vault) ScanBack(ctx context.Context, t RecordType, prefix, before []byte, yield func(suffix, plaintext []byte) bool) error {
	return v.View(ctx, func(r Records) error { return r.ScanBack(t, prefix, before, yield) })
}

// destroyBatch is the number of rows that Destroy deletes at a time, so that
// other writers wait for none of it.
const destroyBatch = 512

// Destroy deletes the installation. Its data key goes first, durably: from then
// on its records are unreadable, and OpenVault says ErrNotFound. Then records
// and pins go in batches; shared records are the host's to sweep. After an
// error, or on another handle, call it again: DestroyVault.
func (v *Vault) Destroy(ctx context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.destroyed = true
	return DestroyVault(ctx, v.store, v.installation)
}

// DestroyVault is Vault.Destroy for an installation whose key is not at hand.
// It is idempotent.
func DestroyVault(ctx context.Context, store Store, installation [32]byte) error {
	var b Batch
	b.Delete(vaultKey(installation))
	if err := store.Apply(ctx, &b, Durable); err != nil {
		return fmt.Errorf("destroy data key: %w", err)
	}
	records := recordKey(installation, 0, nil)[:1+32]
	if err := deleteRows(ctx, store, records, func([]byte) bool { return true }); err != nil {
		return fmt.Errorf("destroy records: %w", err)
	}
	owned := func(key []byte) bool {
		owner, err := pinOwner(key)
		return err == nil && owner == installation
	}
	if err := deleteRows(ctx, store, []byte{spacePin}, owned); err != nil {
		return fmt.Errorf("destroy pins: %w", err)
	}
	if err := store.Sync(ctx); err != nil {
		return fmt.Errorf("destroy records: %w", err)
	}
	return nil
}

// deleteRows deletes the rows under prefix that match, a batch at a time.
func deleteRows(ctx context.Context, store Store, prefix []byte, match func(key []byte) bool) error {
	from := prefix
	for from != nil {
		var b Batch
		next := []byte(nil)
		err := store.View(ctx, func(r Reader) error {
			return r.Scan(prefix, from, func(key, _ []byte) bool {
				if !match(key) {
					return true
				}
				if len(b.Ops) == destroyBatch {
					next = bytes.Clone(key)
					return false
				}
				b.Delete(bytes.Clone(key))
				return true
			})
		})
		if err != nil {
			return err
		}
		if len(b.Ops) > 0 {
			if err := store.Apply(ctx, &b, Lazy); err != nil {
				return err
			}
		}
		from = next
	}
	return nil
}

// Records reads an installation's records in one snapshot.
type Records struct {
	r Reader
	v *Vault
}

// Get returns one record, or ErrNotFound. The plaintext is the caller's.
func (r Records) Get(t RecordType, suffix []byte) ([]byte, error) {
	key := recordKey(r.v.installation, t, suffix)
	value, err := r.r.Get(key)
	if err != nil {
		return nil, err
	}
	return r.open(key, value)
}

// Scan calls yield for each record of the type whose suffix starts with prefix
// and is ≥ from (nil: from the start), in the order of suffixes, until yield
// returns false. The plaintext is the caller's, the suffix until yield returns.
func (r Records) Scan(t RecordType, prefix, from []byte, yield func(suffix, plaintext []byte) bool) error {
	if from != nil {
		from = recordKey(r.v.installation, t, from)
	}
	var failed error
	err := r.r.Scan(recordKey(r.v.installation, t, prefix), from, r.opened(yield, &failed))
	return errors.Join(err, failed)
}

// ScanBack is Scan in falling order, of suffixes < before (nil: from the end).
func (r Records) ScanBack(t RecordType, prefix, before []byte, yield func(suffix, plaintext []byte) bool) error {
	if before != nil {
		before = recordKey(r.v.installation, t, before)
	}
	var failed error
	err := r.r.ScanBack(recordKey(r.v.installation, t, prefix), before, r.opened(yield, &failed))
	return errors.Join(err, failed)
}

func (r Records) opened(yield func(suffix, plaintext []byte) bool, failed *error) func(key, value []byte) bool {
	return func(key, value []byte) bool {
		plaintext, err := r.open(key, value)
		if err != nil {
			*failed = err
			return false
		}
		return yield(key[recordPrefixLen:], plaintext)
	}
}

func (r Records) open(key, value []byte) ([]byte, error) {
	plaintext, err := r.v.box.open(key, value)
	if err != nil {
		return nil, fmt.Errorf("record of type %d: %w", key[recordPrefixLen-1], err)
	}
	return plaintext, nil
}

// GetShared returns a shared record of the same snapshot, as GetShared.
func (r Records) GetShared(realm Realm, suffix []byte, secret [32]byte) ([]byte, error) {
	return getShared(r.r, realm, suffix, &secret)
}
