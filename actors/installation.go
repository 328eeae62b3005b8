package actors

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/persistence"
)

// An installation is what a host holds of one that is open: its sealed store
// and what a replica is given.
type installation struct {
	id     InstallationID
	record *record
	vault  *persistence.Vault
	env    group.Env
	keys   keeper

	catalogue catalogue

	mu   sync.Mutex
	live int // streams and handlers that want to hear at once
}

// listens reports whether somebody wants to hear of news at once.
func (in *installation) listens() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.live > 0
}

// Installation describes an installation to its owner.
type Installation struct {
	ID       InstallationID
	Inbox    string
	Address  string
	Database string
	Created  time.Time
}

func (in *installation) describe() Installation {
	return Installation{in.id, in.record.Inbox, in.record.Address, in.record.Database, in.record.Created}
}

// Registering.
var (
	// ErrTooManyInstallations: the inbox has as many as one may have. Revoke one.
	ErrTooManyInstallations = errors.New("actors: inbox has too many installations")
	// ErrExists: there is an installation of that name on this host.
	ErrExists = errors.New("actors: local database exists")
)

// cipherSuite is that of XMTP's installation keys.
const cipherSuite = mls.MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519

// maxInstallations is XMTP's limit for one inbox; clients keep it.
const maxInstallations = 10

// Registration says what to register.
type Registration struct {
	Signer   identity.Signer
	Key      func(InstallationID) (persistence.Key, error) // the database key
	Database string                                        // tells several installations of one wallet on a host apart
}

// indexRow is the host's row that leads from a wallet and a database name to an
// installation, under a hash: the row's key lies in the clear.
func indexRow(owner identity.Identifier, database string) string {
	sum := sha256.Sum256([]byte(owner.String() + "\x00" + database))
	return "database " + hex.EncodeToString(sum[:])
}

// Find returns the installation that a wallet registered on this host under a
// database name, or persistence.ErrNotFound.
func (s *System) Find(ctx context.Context, owner identity.Identifier, database string) (id InstallationID, err error) {
	row, err := persistence.HostGet(ctx, s.cfg.Store, indexRow(owner, database))
	if err != nil {
		return id, err
	}
	if len(row) != len(id) {
		return id, fmt.Errorf("%w: index of installations", persistence.ErrDamaged)
	}
	// A deletion that was cut off leaves the row and no vault.
	_, err = persistence.OpenVault(ctx, s.cfg.Store, InstallationID(row), persistence.Key{})
	if errors.Is(err, persistence.ErrNotFound) {
		return id, err
	}
	return InstallationID(row), nil
}

// Register makes a new installation: its key, its sealed store, its key
// package, and the identity update that the wallet signs. The wallet signs
// before anything is stored; once stored, a registration that was cut off is
// finished by the next Wake.
func (s *System) Register(ctx context.Context, r Registration) (Installation, error) {
	owner, err := identity.ParseAddress(r.Signer.Address())
	if err != nil {
		return Installation{}, err
	}
	if _, err := s.Find(ctx, owner, r.Database); err == nil {
		return Installation{}, ErrExists
	} else if !errors.Is(err, persistence.ErrNotFound) {
		return Installation{}, err
	}
	rec := &record{Seed: make([]byte, ed25519.SeedSize), HMACKey: make([]byte, 42), Address: owner.String(), Database: r.Database, Created: s.cfg.Now()}
	for _, secret := range [][]byte{rec.Seed, rec.HMACKey} {
		if _, err := io.ReadFull(s.cfg.Rand, secret); err != nil {
			return Installation{}, fmt.Errorf("actors: read randomness: %w", err)
		}
	}
	draft, err := s.draft(ctx, owner, rec)
	if err != nil {
		return Installation{}, err
	}
	if err := draft.SignInstallation(ed25519.NewKeyFromSeed(rec.Seed)); err != nil {
		return Installation{}, err
	}
	if err := draft.Sign(r.Signer); err != nil {
		return Installation{}, err
	}
	update, err := draft.Update()
	if err != nil {
		return Installation{}, err
	}
	if rec.Update, err = identity.Encode(update); err != nil {
		return Installation{}, err
	}
	in, err := s.create(ctx, owner, rec, r.Key)
	if err != nil {
		return Installation{}, err
	}
	if err := s.announce(ctx, in); err != nil {
		return Installation{}, err
	}
	s.keep(in)
	return in.describe(), nil
}

// draft drafts the update that makes the inbox, or adds to the one there is.
func (s *System) draft(ctx context.Context, owner identity.Identifier, rec *record) (*identity.Draft, error) {
	key, err := identity.InstallationFrom(ed25519.NewKeyFromSeed(rec.Seed).Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	known, err := s.cfg.Network.GetInboxIDs(ctx, []identity.Identifier{owner})
	if err != nil {
		return nil, fmt.Errorf("actors: look up inbox: %w", err)
	}
	inbox, exists := known[owner]
	if !exists {
		if rec.Inbox, err = identity.InboxID(owner, identity.DefaultNonce); err != nil {
			return nil, err
		}
		return identity.Register(owner, identity.DefaultNonce, key, rec.Created)
	}
	if err := s.inboxes.refresh(ctx, []string{inbox}); err != nil {
		return nil, err
	}
	if state, _ := s.inboxes.latest(inbox); state != nil && len(state.Installations()) >= maxInstallations {
		return nil, fmt.Errorf("%w: %d", ErrTooManyInstallations, maxInstallations)
	}
	rec.Inbox = inbox
	return identity.NewDraft(inbox, rec.Created).Add(key, owner), nil
}

// create stores a new installation, whole or not at all.
func (s *System) create(ctx context.Context, owner identity.Identifier, rec *record, keyOf func(InstallationID) (persistence.Key, error)) (*installation, error) {
	signer, err := mls.NewSigner(cipherSuite, rec.Seed)
	if err != nil {
		return nil, err
	}
	id := InstallationID(signer.Public())
	key, err := keyOf(id)
	if err != nil {
		return nil, fmt.Errorf("actors: database key: %w", err)
	}
	keyPackage, secrets, err := group.NewKeyPackage(group.KeyPackageConfig{Rand: s.cfg.Rand, Signer: signer, Inbox: rec.Inbox, Now: s.cfg.Now()})
	if err != nil {
		return nil, err
	}
	rec.KeyPackage = keyPackage.MLS.Bytes()
	sealed, err := secrets.MarshalBinary()
	if err != nil {
		return nil, err
	}
	vault, err := persistence.CreateVault(ctx, s.cfg.Store, id, key, s.cfg.Rand)
	if err != nil {
		return nil, err
	}
	var b persistence.Batch
	vault.Put(&b, typeInstallation, nil, rec.encode())
	for _, public := range secrets.PublicKeys() {
		vault.Put(&b, typeKeyPackage, keyPackageSuffix(public), sealed)
	}
	persistence.HostPut(&b, indexRow(owner, rec.Database), id[:])
	if err := vault.Apply(ctx, &b, persistence.Durable); err != nil {
		return nil, errors.Join(fmt.Errorf("actors: store installation: %w", err), vault.Destroy(ctx))
	}
	return s.assemble(rec, vault, signer), nil
}

// announce brings a stored registration to the network: the key package first,
// so that nobody finds an installation that cannot be added. Both calls may be
// repeated.
func (s *System) announce(ctx context.Context, in *installation) error {
	update, err := identity.Decode(in.record.Update)
	if err != nil {
		return fmt.Errorf("%w: stored registration: %w", persistence.ErrDamaged, err)
	}
	if err := s.cfg.Network.UploadKeyPackage(ctx, in.record.KeyPackage); err != nil {
		return fmt.Errorf("actors: upload key package: %w", err)
	}
	if err := s.cfg.Network.PublishIdentityUpdate(ctx, update); err != nil {
		return fmt.Errorf("actors: publish registration: %w", err)
	}
	done := *in.record
	done.Update = nil
	var b persistence.Batch
	in.vault.Put(&b, typeInstallation, nil, done.encode())
	if err := in.vault.Apply(ctx, &b, persistence.Lazy); err != nil {
		return fmt.Errorf("actors: store registration: %w", err)
	}
	in.record = &done
	in.keys.set(done.Created.Add(keyPackageAge))
	return nil
}

// Wake opens an installation with its database key. It is idempotent.
func (s *System) Wake(ctx context.Context, id InstallationID, key persistence.Key) (Installation, error) {
	vault, err := persistence.OpenVault(ctx, s.cfg.Store, id, key)
	if err != nil {
		return Installation{}, err
	}
	row, err := vault.Get(ctx, typeInstallation, nil)
	if err != nil {
		return Installation{}, fmt.Errorf("actors: open installation: %w", err)
	}
	rec, err := decodeRecord(row)
	if err != nil {
		return Installation{}, err
	}
	s.mu.RLock()
	open := s.installations[id]
	s.mu.RUnlock()
	if open != nil {
		return open.describe(), nil
	}
	signer, err := mls.NewSigner(cipherSuite, rec.Seed)
	if err != nil {
		return Installation{}, err
	}
	in := s.assemble(rec, vault, signer)
	if rec.Update != nil {
		if err := s.announce(ctx, in); err != nil {
			return Installation{}, err
		}
	}
	ring, err := s.keyRing(ctx, in)
	if err != nil {
		return Installation{}, err
	}
	in.keys.set(ring.due())
	kept := s.keep(in)
	if kept == in && in.keys.isDue(s.cfg.Now()) {
		s.tellHost(keysDue{in, keyPackageSoon})
	}
	return kept.describe(), nil
}

func (s *System) assemble(rec *record, vault *persistence.Vault, signer *mls.Signer) *installation {
	in := &installation{id: vault.Installation(), record: rec, vault: vault}
	in.env = group.Env{
		Realm:    s.realm,
		Signer:   signer,
		Inbox:    rec.Inbox,
		Rand:     s.cfg.Rand,
		Limits:   s.cfg.Limits,
		HMACKey:  rec.HMACKey,
		PutBack:  s.cfg.PutBack,
		Identity: s.inboxes.asOf,
		Shared:   s.shared,
		Each:     each,
	}
	return in
}

// keep makes an installation reachable; whoever came first counts.
func (s *System) keep(in *installation) *installation {
	s.mu.Lock()
	defer s.mu.Unlock()
	if first := s.installations[in.id]; first != nil {
		return first
	}
	s.installations[in.id] = in
	return in
}

// Sleep closes an installation: its actors finish what they have and stop.
// What is on disk goes on when it wakes.
func (s *System) Sleep(ctx context.Context, id InstallationID) error {
	in, err := s.installation(id)
	if err != nil {
		return nil
	}
	ids, err := groupsOf(ctx, in.vault)
	if err != nil {
		return err
	}
	names := []string{installationName(id)}
	for _, g := range ids {
		names = append(names, groupName(id, g))
		commits, messages := topicsOf(g)
		s.feed.unfollow(groupName(id, g), commits, messages)
	}
	s.feed.unfollow(installationName(id), welcomeTopic(id))
	s.mu.Lock()
	delete(s.installations, id)
	s.mu.Unlock()
	for _, st := range s.streams.ofInstallation(id) {
		err = errors.Join(err, st.Close())
	}
	for _, name := range names {
		if ref, ok := s.names.Live(name); ok {
			s.engine.Stop(ref)
			err = errors.Join(err, s.engine.Wait(ctx, ref))
		}
	}
	return err
}

// Delete destroys an installation's local database: its data key first, so
// that no copy of the rows can be read again. It is idempotent.
func (s *System) Delete(ctx context.Context, id InstallationID, owner identity.Identifier, database string) error {
	destroy := func(ctx context.Context) error { return persistence.DestroyVault(ctx, s.cfg.Store, id) }
	if in, err := s.installation(id); err == nil {
		destroy = in.vault.Destroy // what still runs with it writes nothing more
	}
	if err := s.Sleep(ctx, id); err != nil {
		return err
	}
	if err := destroy(ctx); err != nil {
		return err
	}
	if err := s.sweepOrphans(ctx); err != nil {
		return err
	}
	// The wallet may have a newer installation under that name.
	row, err := persistence.HostGet(ctx, s.cfg.Store, indexRow(owner, database))
	if errors.Is(err, persistence.ErrNotFound) || err == nil && !bytes.Equal(row, id[:]) {
		return nil
	}
	if err != nil {
		return err
	}
	var b persistence.Batch
	persistence.HostDelete(&b, indexRow(owner, database))
	return s.cfg.Store.Apply(ctx, &b, persistence.Lazy)
}
