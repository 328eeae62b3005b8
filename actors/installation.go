package actors

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
	keys   keySchedule

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

// cipherSuite is that of XMTP's installation keys.
const cipherSuite = mls.MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519

// Wake opens an installation with its database key. It is idempotent.
func (s *System) Wake(ctx context.Context, id InstallationID, key persistence.Key) (Installation, error) {
	if err := s.open(); err != nil {
		return Installation{}, err
	}
	vault, err := persistence.OpenVault(ctx, s.cfg.Store, id, key)
	if err != nil {
		return Installation{}, err
	}
	row, err := vault.Get(ctx, typeInstallation, nil)
	if errors.Is(err, persistence.ErrNotFound) {
		err = errors.Join(err, destroyEmpty(ctx, vault))
	}
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
		if err := s.finish(ctx, in); err != nil {
			return Installation{}, err
		}
	}
	ring, err := s.keyRing(ctx, in)
	if err != nil {
		return Installation{}, err
	}
	in.keys.set(ring.due())
	kept := s.addInstallation(in)
	if kept == in && in.keys.isDue(s.cfg.Now()) {
		s.tellHost(keysDue{in, keyPackageSoon})
	}
	if kept == in {
		s.tellLossesSoon(in)
	}
	return kept.describe(), nil
}

// destroyEmpty destroys a vault that nothing was put into: the host stopped while
// it made it.
func destroyEmpty(ctx context.Context, vault *persistence.Vault) error {
	if ids, err := groupsOf(ctx, vault); err != nil || len(ids) > 0 {
		return err
	}
	return vault.Destroy(ctx)
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

// addInstallation makes an installation reachable; whoever came first counts.
func (s *System) addInstallation(in *installation) *installation {
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
	if err := s.open(); err != nil {
		return err
	}
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
	row, err := persistence.HostGet(ctx, s.cfg.Store, indexRow(nameOf(owner, database)))
	if errors.Is(err, persistence.ErrNotFound) || err == nil && !bytes.Equal(row, id[:]) {
		return nil
	}
	if err != nil {
		return err
	}
	var b persistence.Batch
	persistence.HostDelete(&b, indexRow(nameOf(owner, database)))
	return s.cfg.Store.Apply(ctx, &b, persistence.Lazy)
}
