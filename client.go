package conclave

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/conclave-chat/conclave/actors"
	"github.com/conclave-chat/conclave/identity"
)

// A Client is one installation of an inbox: an app on a device, a bot, a
// custodial user. It is a handle: any number may exist for one installation,
// and they hold no state.
type Client struct {
	host *Host
	info actors.Installation
	key  Key
}

// ClientOptions says how to open a local database.
type ClientOptions struct {
	// DatabaseKey encrypts the local database. Zero: taken from Config.Keys
	// where the host has that, otherwise made, and had from Client.DatabaseKey.
	DatabaseKey Key
	// Database tells several installations of one wallet on one host apart.
	Database string
}

// CreateClient opens the installation that a wallet has on this host, or makes
// one: a key, a local database, a key package, and an entry in the inbox's
// identity log that the wallet signs once. Opening an existing one asks the
// wallet for nothing and writes nothing to the network.
//
// Where it fails, the same call may be repeated: what was registered by half is
// finished, or, where it was refused for good or its key cannot be had, made anew.
func (h *Host) CreateClient(ctx context.Context, wallet Signer, o ClientOptions) (*Client, error) {
	owner, err := identity.ParseAddress(wallet.Address())
	if err != nil {
		return nil, err
	}
	var instead InstallationID
	for range createTries {
		found, err := h.system.Find(ctx, owner, o.Database)
		if err == nil {
			c, err := h.LoadClient(ctx, found.ID, o.DatabaseKey)
			switch {
			case found.Unfinished && errors.Is(err, ErrWrongKey):
				instead = found.ID // nobody ever had it: another takes its place
			case found.Unfinished && errors.Is(err, ErrRefused):
				continue // and is gone
			case errors.Is(err, ErrWrongKey):
				return nil, fmt.Errorf("%w: give the key that it was made with, or another ClientOptions.Database", err)
			default:
				return c, err
			}
		} else if !errors.Is(err, ErrNotFound) {
			return nil, fmt.Errorf("conclave: create client: %w", err)
		}
		c, err := h.register(ctx, wallet, o, instead)
		if !errors.Is(err, actors.ErrExists) {
			return c, err
		}
		// Somebody else made it meanwhile.
	}
	return nil, fmt.Errorf("conclave: create client: %w", actors.ErrExists)
}

// createTries is how often CreateClient looks again where somebody else registers
// the same wallet at the same time.
const createTries = 4

func (h *Host) register(ctx context.Context, wallet Signer, o ClientOptions, instead InstallationID) (*Client, error) {
	key := o.DatabaseKey
	info, err := h.system.Register(ctx, actors.Registration{Signer: wallet, Database: o.Database, Instead: instead, Key: func(id InstallationID) (_ Key, err error) {
		if key == (Key{}) {
			key, err = h.system.ProvidedKey(ctx, id)
			if errors.Is(err, ErrNotFound) {
				_, err = rand.Read(key[:])
			}
		}
		return key, err
	}})
	if err != nil {
		return nil, fmt.Errorf("conclave: create client: %w", err)
	}
	return &Client{h, info, key}, nil
}

// LoadClient opens a local database by its installation, without a wallet. A
// zero key is taken from Config.Keys.
func (h *Host) LoadClient(ctx context.Context, id InstallationID, key Key) (*Client, error) {
	if key == (Key{}) {
		var err error
		key, err = h.system.ProvidedKey(ctx, id)
		if errors.Is(err, ErrNotFound) {
			err = fmt.Errorf("%w: none was given, and Config.Keys has none", ErrWrongKey)
		}
		if err != nil {
			return nil, fmt.Errorf("conclave: load client: %w", err)
		}
	}
	info, err := h.system.Wake(ctx, id, key)
	if err != nil {
		return nil, fmt.Errorf("conclave: load client: %w", err)
	}
	return &Client{h, info, key}, nil
}

// InboxID is the inbox that this installation belongs to: 64 hex digits.
func (c *Client) InboxID() string { return c.info.Inbox }

// InstallationID is this installation's public key.
func (c *Client) InstallationID() InstallationID { return c.info.ID }

// Address is that of the wallet which registered this installation.
func (c *Client) Address() string { return c.info.Address }

// DatabaseKey is the key that the local database is encrypted with: keep it, to
// load the client later.
func (c *Client) DatabaseKey() Key { return c.key }

// CanMessage is Host.CanMessage.
func (c *Client) CanMessage(ctx context.Context, addresses ...string) (map[string]bool, error) {
	return c.host.CanMessage(ctx, addresses...)
}

// Conversations are this installation's groups and direct messages.
func (c *Client) Conversations() Conversations { return Conversations{c} }

// Close puts the installation to sleep: it hears of nothing until it is loaded
// again. What was accepted is on disk.
func (c *Client) Close(ctx context.Context) error { return c.host.system.Sleep(ctx, c.info.ID) }

// LocalState says what deleting a local database would lose.
type LocalState struct {
	Dir          string // Config.Dir of its host; empty where the host was given a Store
	Installation InstallationID
	Created      time.Time
	Groups       int // and direct messages
	Messages     int
	Streams      int
}

// LocalState counts what the local database holds.
func (c *Client) LocalState(ctx context.Context) (LocalState, error) {
	s := LocalState{Dir: c.host.dir, Installation: c.info.ID, Created: c.info.Created, Streams: c.host.system.Streams(c.info.ID)}
	groups, err := c.Conversations().ListAll(ctx)
	if err != nil {
		return s, err
	}
	for _, g := range groups {
		n, err := g.Messages(ctx, MessageQuery{})
		if err != nil {
			return s, err
		}
		s.Groups, s.Messages = s.Groups+1, s.Messages+len(n)
	}
	return s, nil
}

// DeleteOptions are the answer to "really?".
type DeleteOptions struct {
	Confirm bool // required: the messages are lost for good
	Force   bool // also while streams are open
}

// DeleteLocalDatabase destroys this installation's key and rows, and no other's.
// It stays listed in its inbox until it is revoked, and in its groups until it
// is removed. Idempotent.
func (c *Client) DeleteLocalDatabase(ctx context.Context, o DeleteOptions) error {
	if !o.Confirm {
		return ErrNotConfirmed
	}
	if n := c.host.system.Streams(c.info.ID); n > 0 && !o.Force {
		return fmt.Errorf("%w: %d", ErrStreamsOpen, n)
	}
	owner, err := identity.ParseAddress(c.info.Address)
	if err != nil {
		return err
	}
	if err := c.host.system.Delete(ctx, c.info.ID, owner, c.info.Database); err != nil {
		return fmt.Errorf("conclave: delete local database: %w", err)
	}
	return nil
}
