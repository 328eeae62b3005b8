package actors

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
)

// Changing who belongs to an inbox: its wallets and installations.
var (
	// ErrAddressTaken: the wallet belongs to another inbox.
	ErrAddressTaken = errors.New("actors: address belongs to another inbox")
	// ErrNotOwner: only the wallet that an inbox names as its recovery address
	// takes members of it back.
	ErrNotOwner = identity.ErrNotRecovery
)

// Revoke takes members of an inbox back: installations, or wallets together with
// the installations that they registered. The signer is the inbox's recovery
// wallet, and signs once. Members that the inbox does not have are passed over.
//
// Groups drop the installations when a member next sends, or looks.
func (s *System) Revoke(ctx context.Context, signer identity.Signer, inbox string, members ...identity.Identifier) error {
	owner, err := identity.ParseAddress(signer.Address())
	if err != nil {
		return err
	}
	state, err := s.State(ctx, inbox)
	if err != nil {
		return err
	}
	if state == nil {
		return fmt.Errorf("actors: inbox %s: %w", inbox, identity.ErrNotCreated)
	}
	if state.Recovery() != owner {
		return fmt.Errorf("%w: %s", ErrNotOwner, owner)
	}
	draft := identity.NewDraft(inbox, s.cfg.Now())
	found := false
	for _, m := range members {
		if state.Has(m) {
			draft.Revoke(m, owner)
			found = true
		}
	}
	if !found {
		return nil
	}
	if err := s.sign(draft, signer); err != nil {
		return err
	}
	return s.publishUpdate(ctx, draft)
}

// KnownRevoked is group.ErrRevoked where the host knows that an installation's inbox
// has taken it back. It asks nobody.
func (s *System) KnownRevoked(id InstallationID) error {
	in, err := s.installation(id)
	if err != nil {
		return err
	}
	return s.knownRevoked(in)
}

// Revoked is KnownRevoked after a look at the network. Where nobody answers within
// checkTime, what is known counts: each group looks before it sends.
func (s *System) Revoked(ctx context.Context, id InstallationID) error {
	in, err := s.installation(id)
	if err != nil {
		return err
	}
	if err := s.knownRevoked(in); err != nil {
		return err
	}
	c, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	if err := s.inboxes.refresh(c, []string{in.record.Inbox}); err != nil {
		s.log.Warn("own inbox not looked at", installationAttr(id), keyErr, err)
		return nil
	}
	return s.knownRevoked(in)
}

// knownRevoked is group.ErrRevoked where it is known here that an installation's
// inbox has taken it back.
func (s *System) knownRevoked(in *installation) error {
	who, err := identity.InstallationFrom(in.id[:])
	if err == nil && s.inboxes.tookBack(in.record.Inbox, who) {
		return group.ErrRevoked
	}
	return err
}

// AddAccount adds a wallet to an installation's inbox: both sign.
func (s *System) AddAccount(ctx context.Context, in InstallationID, wallet identity.Signer) error {
	who, err := identity.ParseAddress(wallet.Address())
	if err != nil {
		return err
	}
	installation, err := s.installation(in)
	if err != nil {
		return err
	}
	inbox := installation.record.Inbox
	switch of, err := s.lookUp(ctx, who); {
	case err != nil:
		return err
	case of == inbox:
		return nil
	case of != "":
		return fmt.Errorf("%w: %s", ErrAddressTaken, who)
	}
	key, err := identity.InstallationFrom(in[:])
	if err != nil {
		return err
	}
	draft := identity.NewDraft(inbox, s.cfg.Now()).Add(who, key)
	if err := draft.SignInstallation(ed25519.NewKeyFromSeed(installation.record.Seed)); err != nil {
		return err
	}
	if err := s.sign(draft, wallet); err != nil {
		return err
	}
	return s.publishUpdate(ctx, draft)
}

// publishUpdate brings a signed update to the network, and reads it back.
func (s *System) publishUpdate(ctx context.Context, draft *identity.Draft) error {
	update, err := draft.Update()
	if err != nil {
		return err
	}
	if err := s.cfg.Network.PublishIdentityUpdate(ctx, update); err != nil {
		return fmt.Errorf("actors: publish identity update: %w", err)
	}
	return s.inboxes.refresh(ctx, []string{update.InboxId})
}
