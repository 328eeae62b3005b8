package conclave

import (
	"context"
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
	// DatabaseKey encrypts the local database. Zero: taken from Config.Keys, and
	// where that has none, derived from a secret that lies in the host's own store:
	// then whoever has a copy of Config.Dir can read it.
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
//
// Where the host knows that the inbox has taken the installation back, the error is
// ErrRevoked and the client is returned beside it: what is stored can be read, and
// nothing is sent.
func (h *Host) CreateClient(ctx context.Context, wallet Signer, o ClientOptions) (_ *Client, err error) {
	defer failing("create client", &err)
	if err := h.check(ctx); err != nil {
		return nil, err
	}
	owner, err := addressOf(wallet)
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
			default:
				return c, err
			}
		} else if !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		c, err := h.register(ctx, wallet, o, instead)
		if !errors.Is(err, actors.ErrExists) {
			return c, err
		}
		// Somebody else made it meanwhile.
	}
	return nil, actors.ErrExists
}

// createTries is how often CreateClient looks again where somebody else registers
// the same wallet at the same time.
const createTries = 4

func (h *Host) register(ctx context.Context, wallet Signer, o ClientOptions, instead InstallationID) (*Client, error) {
	key := o.DatabaseKey
	info, err := h.system.Register(ctx, actors.Registration{Signer: wallet, Database: o.Database, Instead: instead, Key: func(id InstallationID) (_ Key, err error) {
		if key == (Key{}) {
			key, err = h.system.NewKey(ctx, id)
		}
		return key, err
	}})
	if err != nil {
		return nil, err
	}
	return &Client{h, info, key}, nil
}

// LoadClient opens a local database by its installation, without a wallet. A
// zero key is as in ClientOptions. An installation that was taken back is returned
// together with ErrRevoked, as by CreateClient.
func (h *Host) LoadClient(ctx context.Context, id InstallationID, key Key) (_ *Client, err error) {
	defer failing("load client", &err)
	if err := h.check(ctx); err != nil {
		return nil, err
	}
	if key == (Key{}) {
		key, err = h.system.ProvidedKey(ctx, id)
		if errors.Is(err, ErrNotFound) {
			err = fmt.Errorf("%w: none was given, and the host has none", ErrWrongKey)
		}
		if err != nil {
			return nil, err
		}
	}
	info, err := h.system.Wake(ctx, id, key)
	if err != nil {
		return nil, err
	}
	return &Client{h, info, key}, h.system.KnownRevoked(id)
}

// orZero lets a nil handle answer as the zero value does.
func (c *Client) orZero() *Client {
	if c == nil {
		return new(Client)
	}
	return c
}

// InboxID is the inbox that this installation belongs to: 64 hex digits.
func (c *Client) InboxID() string { return c.orZero().info.Inbox }

// InstallationID is this installation's public key.
func (c *Client) InstallationID() InstallationID { return c.orZero().info.ID }

// Address is that of the wallet which registered this installation.
func (c *Client) Address() string { return c.orZero().info.Address }

// DatabaseKey is the key that the local database is encrypted with: keep it, to
// load the client later.
func (c *Client) DatabaseKey() Key { return c.orZero().key }

// CanMessage is Host.CanMessage.
func (c *Client) CanMessage(ctx context.Context, addresses ...string) (_ map[string]bool, err error) {
	defer failing("look up addresses", &err)
	if err := c.check(ctx); err != nil {
		return nil, err
	}
	return c.host.CanMessage(ctx, addresses...)
}

// Conversations are this installation's groups and direct messages.
func (c *Client) Conversations() Conversations { return Conversations{c} }

// Close puts the installation to sleep: it hears of nothing until it is loaded
// again. What was accepted is on disk.
func (c *Client) Close(ctx context.Context) (err error) {
	defer failing("close client", &err)
	if err := c.check(ctx); err != nil {
		return err
	}
	return c.host.system.Sleep(ctx, c.info.ID)
}

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
func (c *Client) LocalState(ctx context.Context) (s LocalState, err error) {
	defer failing("count what is stored", &err)
	if err := c.check(ctx); err != nil {
		return s, err
	}
	s = LocalState{Dir: c.host.dir, Installation: c.info.ID, Created: c.info.Created, Streams: c.host.system.Streams(c.info.ID)}
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
func (c *Client) DeleteLocalDatabase(ctx context.Context, o DeleteOptions) (err error) {
	defer failing("delete local database", &err)
	if err := c.check(ctx); err != nil {
		return err
	}
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
	return c.host.system.Delete(ctx, c.info.ID, owner, c.info.Database)
}
