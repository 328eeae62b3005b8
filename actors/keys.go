package actors

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/conclave-chat/conclave/persistence"
)

// hostRowSecret holds what the database keys are derived from that nobody gave. It
// lies in the clear, as every host row does: it makes a host work that was told of
// no keys, and protects nothing from whoever has the whole store.
const hostRowSecret = "database secret"

// ProvidedKey is the database key of an installation whose owner gave none: that of
// Config.Keys, or else one that is derived from the host's own secret and the
// installation's id, and so is the same after a restart. It is
// persistence.ErrNotFound where the host has neither.
func (s *System) ProvidedKey(ctx context.Context, id InstallationID) (persistence.Key, error) {
	if s.cfg.Keys != nil {
		key, err := s.cfg.Keys.DatabaseKey(ctx, id)
		if !errors.Is(err, persistence.ErrNotFound) {
			return key, err
		}
	}
	return s.derivedKey(ctx, id)
}

// NewKey is ProvidedKey for a new installation: the host's secret is made where
// there is none.
func (s *System) NewKey(ctx context.Context, id InstallationID) (persistence.Key, error) {
	key, err := s.ProvidedKey(ctx, id)
	if !errors.Is(err, persistence.ErrNotFound) {
		return key, err
	}
	s.secretMu.Lock()
	defer s.secretMu.Unlock()
	if key, err = s.derivedKey(ctx, id); !errors.Is(err, persistence.ErrNotFound) {
		return key, err // somebody else has made it meanwhile
	}
	secret := make([]byte, sha256.Size)
	if _, err := io.ReadFull(s.cfg.Rand, secret); err != nil {
		return persistence.Key{}, fmt.Errorf("actors: read randomness: %w", err)
	}
	var b persistence.Batch
	persistence.HostPut(&b, hostRowSecret, secret)
	if err := s.cfg.Store.Apply(ctx, &b, persistence.Durable); err != nil {
		return persistence.Key{}, err
	}
	return s.derivedKey(ctx, id)
}

func (s *System) derivedKey(ctx context.Context, id InstallationID) (persistence.Key, error) {
	secret, err := persistence.HostGet(ctx, s.cfg.Store, hostRowSecret)
	if err != nil {
		return persistence.Key{}, err
	}
	if len(secret) != sha256.Size {
		return persistence.Key{}, fmt.Errorf("%w: the host's secret has %d bytes", persistence.ErrDamaged, len(secret))
	}
	key, err := hkdf.Key(sha256.New, secret, id[:], "conclave database key", len(persistence.Key{}))
	if err != nil {
		return persistence.Key{}, err
	}
	return persistence.Key(key), nil
}
