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
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/persistence"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/identityapi"
)

// A registration makes an installation. What a host has of one that is not done
// yet is worth nothing but its place in the inbox, so it is never in anybody's way:
//
//	state       | is left when
//	none        | the wallet signed, and what it signed is its own: → unfinished
//	unfinished  | key package and update are on the network: → done
//	            | the network refuses the update for good, or the installation was
//	            | revoked meanwhile: its rows are deleted, → none
//	            | its database key cannot be had: another takes its place, whose
//	            | update takes this one back where the log has it, → unfinished
//	done        | its owner deletes it: → none
//
// An update whose fate is unknown may land in the log after it was replaced. Then
// the inbox has an installation without keys until it is revoked, as it has where
// the wallet is not the inbox's recovery address.

// Registering.
var (
	// ErrTooManyInstallations: the inbox has as many as one may have. Revoke one.
	ErrTooManyInstallations = errors.New("actors: inbox has too many installations")
	// ErrExists: there is an installation of that name on this host.
	ErrExists = errors.New("actors: local database exists")
	// ErrBadSignature: what the wallet answered is not its own signature. Nothing
	// was stored or published.
	ErrBadSignature = identity.ErrBadSignature
)

// maxInstallations is XMTP's limit for one inbox; clients keep it.
const maxInstallations = 10

// Registration says what to register.
type Registration struct {
	Signer   identity.Signer
	Key      func(InstallationID) (persistence.Key, error) // the database key
	Database string                                        // tells several installations of one wallet on a host apart
	// Instead names an unfinished registration whose key cannot be had: this one
	// takes its place.
	Instead InstallationID
}

// nameOf is the part of the host's rows that a wallet and a database name lead to:
// a hash, since the row's key lies in the clear.
func nameOf(owner identity.Identifier, database string) string {
	sum := sha256.Sum256([]byte(owner.String() + "\x00" + database))
	return hex.EncodeToString(sum[:])
}

// indexRow holds the installation of a wallet and a database name.
func indexRow(name string) string { return "database " + name }

// unfinishedRow holds the installations that were registered under a name, the
// newest last, until one is done: those before were replaced.
func unfinishedRow(name string) string { return "registering " + name }

// maxUnfinished bounds that row. The oldest are forgotten first.
const maxUnfinished = 16

// A Found installation is what a host has under a wallet's database name.
type Found struct {
	ID         InstallationID
	Unfinished bool // its registration
}

// Find returns the installation that a wallet registered on this host under a
// database name, or persistence.ErrNotFound.
func (s *System) Find(ctx context.Context, owner identity.Identifier, database string) (f Found, err error) {
	if err := s.open(); err != nil {
		return f, err
	}
	name := nameOf(owner, database)
	row, err := persistence.HostGet(ctx, s.cfg.Store, indexRow(name))
	if err != nil {
		return f, err
	}
	if len(row) != len(f.ID) {
		return f, fmt.Errorf("%w: index of installations", persistence.ErrDamaged)
	}
	f.ID = InstallationID(row)
	// A deletion that was cut off leaves the row and no vault.
	_, err = persistence.OpenVault(ctx, s.cfg.Store, f.ID, persistence.Key{})
	if errors.Is(err, persistence.ErrNotFound) {
		return f, err
	}
	unfinished, err := s.unfinished(ctx, name)
	f.Unfinished = slices.Contains(unfinished, f.ID)
	return f, err
}

func (s *System) unfinished(ctx context.Context, name string) (ids []InstallationID, err error) {
	row, err := persistence.HostGet(ctx, s.cfg.Store, unfinishedRow(name))
	if errors.Is(err, persistence.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for part := range slices.Chunk(row, len(InstallationID{})) {
		if len(part) == len(InstallationID{}) {
			ids = append(ids, InstallationID(part))
		}
	}
	return ids, nil
}

// putUnfinished writes the row, or deletes it where it would be empty.
func putUnfinished(b *persistence.Batch, name string, ids []InstallationID) {
	if len(ids) == 0 {
		persistence.HostDelete(b, unfinishedRow(name))
		return
	}
	var row []byte
	for _, id := range ids[max(0, len(ids)-maxUnfinished):] {
		row = append(row, id[:]...)
	}
	persistence.HostPut(b, unfinishedRow(name), row)
}

// Register makes a new installation: its key, its sealed store, its key
// package, and the identity update that the wallet signs. The wallet signs
// before anything is stored; once stored, a registration that was cut off is
// finished by the next Wake. One that the network refuses for good leaves
// nothing behind, and is group.ErrRefused.
func (s *System) Register(ctx context.Context, r Registration) (Installation, error) {
	owner, err := identity.ParseAddress(r.Signer.Address())
	if err != nil {
		return Installation{}, err
	}
	name := nameOf(owner, r.Database)
	leave, err := s.registering.enter(ctx, name)
	if err != nil {
		return Installation{}, err
	}
	defer leave()
	switch found, err := s.Find(ctx, owner, r.Database); {
	case err == nil && !(found.Unfinished && found.ID == r.Instead):
		return Installation{}, ErrExists
	case err != nil && !errors.Is(err, persistence.ErrNotFound):
		return Installation{}, err
	}
	in, err := s.register(ctx, owner, name, r)
	if errors.Is(err, group.ErrRefused) && !in.joined {
		// Somebody else may have made the inbox at the same time.
		if known, lookErr := s.lookUp(ctx, owner); lookErr == nil && known != "" {
			in, err = s.register(ctx, owner, name, r)
		}
	}
	if err != nil {
		return Installation{}, err
	}
	return s.addInstallation(in.installation).describe(), nil
}

// A registered installation is one with its place in an inbox.
type registered struct {
	*installation
	joined bool // an inbox that was there, or that it was to join
}

func (s *System) register(ctx context.Context, owner identity.Identifier, name string, r Registration) (registered, error) {
	rec := &record{Seed: make([]byte, ed25519.SeedSize), HMACKey: make([]byte, 42), Address: owner.String(), Database: r.Database, Created: s.cfg.Now()}
	for _, secret := range [][]byte{rec.Seed, rec.HMACKey} {
		if _, err := io.ReadFull(s.cfg.Rand, secret); err != nil {
			return registered{}, fmt.Errorf("actors: read randomness: %w", err)
		}
	}
	before, err := s.unfinished(ctx, name)
	if err != nil {
		return registered{}, err
	}
	draft, joined, err := s.draft(ctx, owner, rec, before)
	if err != nil {
		return registered{}, err
	}
	if err := draft.SignInstallation(ed25519.NewKeyFromSeed(rec.Seed)); err != nil {
		return registered{}, err
	}
	if err := s.sign(draft, r.Signer); err != nil {
		return registered{}, err
	}
	update, err := draft.Update()
	if err != nil {
		return registered{}, err
	}
	if rec.Update, err = identity.Encode(update); err != nil {
		return registered{}, err
	}
	// What is replaced must not be finished by anybody any more.
	for _, id := range before {
		if err := persistence.DestroyVault(ctx, s.cfg.Store, [32]byte(id)); err != nil {
			return registered{}, err
		}
	}
	in, err := s.create(ctx, name, rec, before, r.Key)
	if err != nil {
		return registered{}, err
	}
	return registered{in, joined}, s.announce(ctx, in)
}

// sign lets a wallet sign, and takes its own signature only.
func (s *System) sign(d *identity.Draft, w identity.Signer) error {
	return d.Sign(identity.Checked(w, s.cfg.Verifier))
}

// lookUp returns the inbox of an identifier, "" where there is none.
func (s *System) lookUp(ctx context.Context, id identity.Identifier) (string, error) {
	known, err := s.cfg.Network.GetInboxIDs(ctx, []identity.Identifier{id})
	if err != nil {
		return "", fmt.Errorf("actors: look up inbox: %w", err)
	}
	return known[id], nil
}

// draft drafts the update that makes the inbox, or adds to the one there is. The
// same signature takes back what was registered here before and not finished.
func (s *System) draft(ctx context.Context, owner identity.Identifier, rec *record, before []InstallationID) (_ *identity.Draft, joins bool, err error) {
	key, err := identity.InstallationFrom(ed25519.NewKeyFromSeed(rec.Seed).Public().(ed25519.PublicKey))
	if err != nil {
		return nil, false, err
	}
	inbox, err := s.lookUp(ctx, owner)
	if err != nil {
		return nil, false, err
	}
	if inbox == "" {
		if rec.Inbox, err = identity.InboxID(owner, identity.DefaultNonce); err != nil {
			return nil, false, err
		}
		draft, err := identity.Register(owner, identity.DefaultNonce, key, rec.Created)
		return draft, false, err
	}
	state, err := s.State(ctx, inbox)
	if err != nil {
		return nil, false, err
	}
	rec.Inbox = inbox
	draft, room := identity.NewDraft(inbox, rec.Created), maxInstallations
	for _, id := range before {
		if m, err := identity.InstallationFrom(id[:]); err == nil && state.Has(m) && state.Recovery() == owner {
			draft.Revoke(m, owner)
			room++
		}
	}
	if state != nil && len(state.Installations()) >= room {
		return nil, false, fmt.Errorf("%w: %d", ErrTooManyInstallations, maxInstallations)
	}
	return draft.Add(key, owner), true, nil
}

// create stores a new installation, whole or not at all.
func (s *System) create(ctx context.Context, name string, rec *record, before []InstallationID, keyOf func(InstallationID) (persistence.Key, error)) (*installation, error) {
	signer, err := mls.NewSigner(cipherSuite, rec.Seed)
	if err != nil {
		return nil, err
	}
	id := InstallationID(signer.Public())
	key, err := keyOf(id)
	if err != nil {
		return nil, fmt.Errorf("actors: database key: %w", err)
	}
	vault, err := persistence.CreateVault(ctx, s.cfg.Store, id, key, s.cfg.Rand)
	if err != nil {
		return nil, err
	}
	in := s.assemble(rec, vault, signer)
	var b persistence.Batch
	if err = s.firstKeyPackage(in, &b); err == nil {
		persistence.HostPut(&b, indexRow(name), id[:])
		putUnfinished(&b, name, append(before, id))
		err = vault.Apply(ctx, &b, persistence.Durable)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("actors: store installation: %w", err), vault.Destroy(ctx))
	}
	return in, nil
}

// firstKeyPackage makes the key package of the registration, and adds it and the
// record that names it to a batch.
func (s *System) firstKeyPackage(in *installation, b *persistence.Batch) error {
	keyPackage, secrets, err := group.NewKeyPackage(group.KeyPackageConfig{Rand: s.cfg.Rand, Signer: in.env.Signer, Inbox: in.record.Inbox, Now: s.cfg.Now()})
	if err != nil {
		return err
	}
	sealed, err := secrets.MarshalBinary()
	if err != nil {
		return err
	}
	with := *in.record
	with.KeyPackage = keyPackage.MLS.Bytes()
	in.record = &with
	in.vault.Put(b, typeInstallation, nil, with.encode())
	for _, public := range secrets.PublicKeys() {
		in.vault.Put(b, typeKeyPackage, keyPackageSuffix(public), sealed)
	}
	return nil
}

// announce brings a stored registration to the network: the key package first,
// so that nobody finds an installation that cannot be added. Both calls may be
// repeated. What the network refuses for good is dropped.
func (s *System) announce(ctx context.Context, in *installation) error {
	update, err := identity.Decode(in.record.Update)
	if err != nil {
		return fmt.Errorf("%w: stored registration: %w", persistence.ErrDamaged, err)
	}
	if err := s.cfg.Network.UploadKeyPackage(ctx, in.record.KeyPackage); err != nil {
		return s.notAnnounced(ctx, in, update, fmt.Errorf("actors: upload key package: %w", err))
	}
	if err := s.cfg.Network.PublishIdentityUpdate(ctx, update); err != nil {
		return s.notAnnounced(ctx, in, update, fmt.Errorf("actors: publish registration: %w", err))
	}
	return s.announced(ctx, in)
}

// renewKeyPackage replaces a stored key package that is outside its lifetime: the
// clock was wrong when it was made, or the network was gone for long. The secrets
// of the other stay until the next replacement, since the network may have given
// it out in its time.
func (s *System) renewKeyPackage(ctx context.Context, in *installation) error {
	if k, err := group.ParseKeyPackage(nil, in.record.KeyPackage); err == nil && k.ValidAt(s.cfg.Now()) {
		return nil
	}
	var b persistence.Batch
	err := s.firstKeyPackage(in, &b)
	if err == nil {
		err = in.vault.Apply(ctx, &b, persistence.Durable)
	}
	if err != nil {
		return fmt.Errorf("actors: replace key package: %w", err)
	}
	return nil
}

// announced notes that a registration is done. From now on its age counts.
func (s *System) announced(ctx context.Context, in *installation) error {
	done := *in.record
	done.Update, done.Created = nil, s.cfg.Now()
	var b persistence.Batch
	in.vault.Put(&b, typeInstallation, nil, done.encode())
	if name, ok := in.name(); ok {
		putUnfinished(&b, name, nil)
	}
	if err := in.vault.Apply(ctx, &b, persistence.Lazy); err != nil {
		return fmt.Errorf("actors: store registration: %w", err)
	}
	in.record = &done
	in.keys.set(done.Created.Add(keyPackageAge))
	return nil
}

// name is where the host's rows for an installation lie.
func (in *installation) name() (string, bool) {
	owner, err := identity.ParseAddress(in.record.Address)
	return nameOf(owner, in.record.Database), err == nil
}

// notAnnounced says what becomes of a registration that the network did not take:
// it waits, unless it was refused for good. A refusal says nothing of an earlier
// try whose answer was lost, so the log is read.
func (s *System) notAnnounced(ctx context.Context, in *installation, update *associations.IdentityUpdate, err error) error {
	refused := new(bus.ServiceError)
	if !errors.As(err, &refused) || refused.Code != bus.CodeInvalid {
		return err
	}
	landed, member, lookErr := s.landed(ctx, in, update)
	switch {
	case lookErr != nil:
		return errors.Join(err, lookErr)
	case landed && member:
		return s.announced(ctx, in)
	}
	return errors.Join(fmt.Errorf("%w: %w", group.ErrRefused, err), s.drop(ctx, in))
}

// landed reports whether an inbox's log has an update, and whether the inbox has
// its installation now.
func (s *System) landed(ctx context.Context, in *installation, update *associations.IdentityUpdate) (landed, member bool, err error) {
	answer, err := s.cfg.Network.GetIdentityUpdates(ctx, &identityapi.GetIdentityUpdatesRequest{
		Requests: []*identityapi.GetIdentityUpdatesRequest_Request{{InboxId: in.record.Inbox}},
	})
	if err != nil {
		return false, false, fmt.Errorf("actors: read identity log: %w", err)
	}
	for _, r := range answer.GetResponses() {
		for _, u := range r.GetUpdates() {
			landed = landed || proto.Equal(u.GetUpdate(), update)
		}
	}
	state, err := s.State(ctx, in.record.Inbox)
	if err != nil {
		return false, false, err
	}
	key, err := identity.InstallationFrom(in.id[:])
	return landed, state.Has(key), err
}

// finish ends a registration that was cut off. What was revoked meanwhile is
// dropped: it is of no use to anybody.
func (s *System) finish(ctx context.Context, in *installation) error {
	update, err := identity.Decode(in.record.Update)
	if err != nil {
		return fmt.Errorf("%w: stored registration: %w", persistence.ErrDamaged, err)
	}
	landed, member, err := s.landed(ctx, in, update)
	switch state := s.KnownState(in.record.Inbox); {
	case err != nil:
		return err
	case landed && !member:
		return errors.Join(fmt.Errorf("actors: registration: %w: %w", group.ErrRefused, group.ErrRevoked), s.drop(ctx, in))
	case !landed && state != nil && len(state.Installations()) >= maxInstallations:
		return fmt.Errorf("%w: %d", ErrTooManyInstallations, maxInstallations)
	}
	if err := s.renewKeyPackage(ctx, in); err != nil {
		return err
	}
	return s.announce(ctx, in)
}

// gates let one at a time do something about a name.
type gates struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed by whoever leaves
}

func (g *gates) enter(ctx context.Context, name string) (leave func(), err error) {
	for {
		g.mu.Lock()
		before := g.held[name]
		if before == nil {
			if g.held == nil {
				g.held = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			g.held[name] = mine
			g.mu.Unlock()
			return func() {
				g.mu.Lock()
				defer g.mu.Unlock()
				delete(g.held, name)
				close(mine)
			}, nil
		}
		g.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// drop deletes what a host has of an installation that is in no inbox.
func (s *System) drop(ctx context.Context, in *installation) error {
	if err := in.vault.Destroy(ctx); err != nil {
		return err
	}
	name, ok := in.name()
	if !ok {
		return nil
	}
	ids, err := s.unfinished(ctx, name)
	if err != nil {
		return err
	}
	var b persistence.Batch
	putUnfinished(&b, name, slices.DeleteFunc(ids, func(id InstallationID) bool { return id == in.id }))
	row, err := persistence.HostGet(ctx, s.cfg.Store, indexRow(name))
	if err == nil && bytes.Equal(row, in.id[:]) {
		persistence.HostDelete(&b, indexRow(name))
	}
	return s.cfg.Store.Apply(ctx, &b, persistence.Durable)
}
