package persistence

import (
	"context"
	"encoding/binary"
	"fmt"
)

// PutShared adds a record that every holder of secret may read, such as the body of a
// message that several installations of one realm received. The first to put it seals
// and writes the row; for the others it costs a look-up. The key of a row depends on
// its secret, so a holder of another secret can neither occupy nor replace it.
//
// The plaintext belongs to the batch from then on.
func PutShared(b *Batch, realm Realm, suffix []byte, secret [32]byte, plaintext []byte) {
	key := sharedKey(realm, suffix, &secret)
	b.PutAbsent(key, func() ([]byte, error) {
		return sharedBox(&secret).seal(key, plaintext), nil
	})
}

// GetShared returns the record that was put under the same realm, suffix and
// secret, or ErrNotFound. The plaintext is the caller's.
func GetShared(ctx context.Context, store Store, realm Realm, suffix []byte, secret [32]byte) (plaintext []byte, err error) {
	err = store.View(ctx, func(r Reader) error {
		plaintext, err = getShared(r, realm, suffix, &secret)
		return err
	})
	return plaintext, err
}

func getShared(r Reader, realm Realm, suffix []byte, secret *[32]byte) ([]byte, error) {
	key := sharedKey(realm, suffix, secret)
	value, err := r.Get(key)
	if err != nil {
		return nil, err
	}
	plaintext, err := sharedBox(secret).open(key, value)
	if err != nil {
		return nil, fmt.Errorf("shared record: %w", err)
	}
	return plaintext, nil
}

// A SharedRow names a shared record without its secret, for the host's sweep.
type SharedRow struct {
	key []byte
}

// Suffix returns the suffix that the record was put under.
func (s SharedRow) Suffix() []byte { return s.key[sharedPrefixLen : len(s.key)-tagLen] }

// Delete adds the removal of the record to the batch.
func (s SharedRow) Delete(b *Batch) { b.Delete(s.key) }

// ScanShared calls yield for each shared record of the realm whose suffix
// starts with prefix and is ≥ from (nil: from the start), in order, until yield
// returns false.
func ScanShared(ctx context.Context, store Store, realm Realm, prefix, from []byte, yield func(SharedRow) bool) error {
	if from != nil {
		from = append(sharedPrefix(realm, len(from)), from...)
	}
	return store.View(ctx, func(r Reader) error {
		return r.Scan(append(sharedPrefix(realm, len(prefix)), prefix...), from, func(key, _ []byte) bool {
			if len(key) < sharedPrefixLen+tagLen {
				return true
			}
			return yield(SharedRow{append([]byte(nil), key...)})
		})
	})
}

// A Pin says that a member needs a group's shared records from an epoch on.
type Pin struct {
	Installation [32]byte
	LowestEpoch  uint64
}

// PutPin adds the installation's pin on a group to the batch. A host may delete
// a shared record of the group that is below every pin.
func (v *Vault) PutPin(b *Batch, group []byte, lowestEpoch uint64) error {
	if len(group) == 0 || len(group) > 255 {
		return errGroupID
	}
	b.Put(pinKey(group, v.installation), binary.BigEndian.AppendUint64(nil, lowestEpoch))
	return nil
}

// DeletePin adds the removal of the installation's pin to the batch.
func (v *Vault) DeletePin(b *Batch, group []byte) error {
	if len(group) == 0 || len(group) > 255 {
		return errGroupID
	}
	b.Delete(pinKey(group, v.installation))
	return nil
}

// Pins returns every member's pin on a group.
func Pins(ctx context.Context, store Store, group []byte) ([]Pin, error) {
	if len(group) == 0 || len(group) > 255 {
		return nil, errGroupID
	}
	var (
		pins    []Pin
		damaged error
	)
	err := store.View(ctx, func(r Reader) error {
		return r.Scan(pinPrefix(group), nil, func(key, value []byte) bool {
			owner, err := pinOwner(key)
			if err == nil && len(value) != 8 {
				err = fmt.Errorf("%w: pin value of %d bytes", ErrDamaged, len(value))
			}
			if err != nil {
				damaged = err
				return false
			}
			pins = append(pins, Pin{owner, binary.BigEndian.Uint64(value)})
			return true
		})
	})
	if err == nil {
		err = damaged
	}
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	return pins, nil
}

// HostPut adds a row of the host itself, in the clear: the bus's incarnation,
// a schema number. Nothing secret and no name of a person goes here.
func HostPut(b *Batch, name string, value []byte) { b.Put(hostKey(name), value) }

// HostGet returns a row of the host, or ErrNotFound.
func HostGet(ctx context.Context, store Store, name string) (value []byte, err error) {
	err = store.View(ctx, func(r Reader) error {
		row, err := r.Get(hostKey(name))
		value = append([]byte(nil), row...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("host row %s: %w", name, err)
	}
	return value, nil
}

// HostDelete adds the removal of a row of the host to the batch.
func HostDelete(b *Batch, name string) { b.Delete(hostKey(name)) }
