package conclave

import (
	"context"

	"github.com/conclave-chat/conclave/identity"
)

// RevokeInstallations takes installations of an inbox back: of a phone that was
// lost, or to make room for a new one where ErrTooManyInstallations says that
// there is none. The wallet is the inbox's recovery address, which is the one
// that made it unless that was changed; it signs once. Groups drop the
// installations when a member next sends. Idempotent.
func (h *Host) RevokeInstallations(ctx context.Context, wallet Signer, inbox string, ids ...InstallationID) (err error) {
	defer failing("revoke installations", &err)
	if err := h.check(ctx); err != nil {
		return err
	}
	if _, err := addressOf(wallet); err != nil {
		return err
	}
	if _, err := identity.ParseInboxID(inbox); err != nil {
		return err
	}
	members := make([]identity.Identifier, len(ids))
	for i, id := range ids {
		var err error
		if members[i], err = identity.InstallationFrom(id[:]); err != nil {
			return err
		}
	}
	return h.system.Revoke(ctx, wallet, inbox, members...)
}

// RevokeInstallations is Host.RevokeInstallations of this client's inbox.
func (c *Client) RevokeInstallations(ctx context.Context, wallet Signer, ids ...InstallationID) (err error) {
	defer failing("revoke installations", &err)
	if err := c.check(ctx); err != nil {
		return err
	}
	return c.host.RevokeInstallations(ctx, wallet, c.info.Inbox, ids...)
}

// RevokeAllOtherInstallations takes back every installation of this inbox but
// this one.
func (c *Client) RevokeAllOtherInstallations(ctx context.Context, wallet Signer) (err error) {
	defer failing("revoke installations", &err)
	if err := c.check(ctx); err != nil {
		return err
	}
	state, err := c.host.InboxState(ctx, c.info.Inbox)
	if err != nil {
		return err
	}
	var others []InstallationID
	for _, id := range state.Installations {
		if id != c.info.ID {
			others = append(others, id)
		}
	}
	return c.RevokeInstallations(ctx, wallet, others...)
}

// AddAccount adds a wallet to this inbox: it signs, and so does this
// installation. A wallet that belongs to another inbox is ErrAddressTaken.
func (c *Client) AddAccount(ctx context.Context, wallet Signer) (err error) {
	defer failing("add account", &err)
	if err := c.check(ctx); err != nil {
		return err
	}
	if _, err := addressOf(wallet); err != nil {
		return err
	}
	return c.host.system.AddAccount(ctx, c.info.ID, wallet)
}

// RemoveAccount takes a wallet out of this inbox, with the installations that it
// registered. The inbox's recovery address signs.
func (c *Client) RemoveAccount(ctx context.Context, wallet Signer, address string) (err error) {
	defer failing("remove account", &err)
	if err := c.check(ctx); err != nil {
		return err
	}
	if _, err := addressOf(wallet); err != nil {
		return err
	}
	who, err := identity.ParseAddress(address)
	if err != nil {
		return err
	}
	return c.host.system.Revoke(ctx, wallet, c.info.Inbox, who)
}
