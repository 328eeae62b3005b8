package conclave

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/conclave-chat/conclave/actors"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
	"github.com/conclave-chat/conclave/bus/xmtp"
	"github.com/conclave-chat/conclave/content"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/internal/telemetry"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/persistence"
	"github.com/conclave-chat/conclave/persistence/badger"
)

// A Host runs installations: thousands of them in one process, over one bus and
// one store. It is safe for concurrent use.
type Host struct {
	dir    string // Config.Dir
	system *actors.System
	codecs *content.Registry
	closes []func(context.Context) error // in the order of opening
	once   sync.Once
	closed error
	stamp  atomic.Int64 // see uniqueKey
}

// Open starts a host. With a zero Config but for Dir it is the embedded default:
// a NATS server in this process that listens on no port, and a Badger store,
// both under Dir; everything that was acknowledged survives a power cut.
//
// While the server at Config.NATS cannot be reached Open waits, until ctx ends,
// and logs that it does. Credentials that it refuses are an error at once.
//
// The errors of a store or an embedded log that does not open are ErrLocked,
// ErrDamaged, ErrRolledBack, ErrFormatTooNew, ErrWrongKey, ErrFull and
// ErrReadOnly; each leaves it unchanged.
func Open(ctx context.Context, c Config) (_ *Host, err error) {
	defer failing("open", &err)
	if err := checkContext(ctx); err != nil {
		return nil, err
	}
	if c, err = c.validate(); err != nil {
		return nil, err
	}
	h := &Host{dir: c.Dir, codecs: content.NewRegistry(c.Codecs...)}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close(context.WithoutCancel(ctx)))
		}
	}()
	counted, err := telemetry.New(telemetry.Config{TracerProvider: c.TracerProvider, MeterProvider: c.MeterProvider})
	if err != nil {
		return nil, err
	}
	h.onClose(func(context.Context) error { return counted.Close() })
	var putBack time.Time
	if c.Store == nil {
		store, err := badger.Open(ctx, badger.Config{
			Dir: filepath.Join(c.Dir, "store"),
			// Beside the store, so that an older copy of the store is noticed.
			MarkFile:        filepath.Join(c.Dir, "store.mark"),
			AllowRolledBack: c.AllowRolledBack,
			Logger:          c.Logger,
		})
		if err != nil {
			return nil, err
		}
		h.onClose(func(context.Context) error { return store.Close() })
		c.Store, putBack = store, store.PutBack()
	}
	embedded := c.embedded()
	if c.Bus == nil {
		if c.Bus, err = openBus(ctx, c); err != nil {
			return nil, fmt.Errorf("open log: %w", err)
		}
		h.onClose(func(context.Context) error { return c.Bus.Close() })
	}
	network := node.NewClient(c.Bus)
	var opts []ethereum.ChainsOption
	if c.ChainsPrivate {
		opts = append(opts, ethereum.AllowPrivate())
	}
	chains, err := ethereum.NewChains(c.Chains, opts...)
	if err != nil {
		return nil, fmt.Errorf("%w: Config.Chains: %w", ErrInvalid, err)
	}
	verifier := ethereum.Verifier{Chain: chains}
	if embedded || c.ServeNode {
		n, err := node.Serve(ctx, c.Bus, node.Config{Verifier: verifier, Now: c.Now, Logger: c.Logger, Telemetry: counted})
		if err != nil {
			return nil, fmt.Errorf("serve node: %w", err)
		}
		h.onClose(func(context.Context) error { n.Close(); return nil })
	}
	// Before the node, which waits for what it asks the chains.
	h.onClose(func(context.Context) error { chains.Close(); return nil })
	if len(c.Chains) == 0 {
		verifier.Chain = network // the node may have some
	}
	h.system, err = actors.Open(ctx, actors.Config{
		Bus:            c.Bus,
		Store:          c.Store,
		Network:        network,
		Verifier:       verifier,
		Keys:           c.Keys,
		Logger:         c.Logger,
		Telemetry:      counted,
		Limits:         c.groupLimits(),
		Sharing:        c.Sharing.level(),
		PutBack:        putBack,
		IdleAfter:      c.IdleAfter,
		CommitLogEvery: c.CommitLogEvery,
		Admit:          c.Admit,
		Now:            c.Now,
		Fault:          c.Fault,
	})
	if err != nil {
		return nil, err
	}
	h.onClose(h.system.Close)
	if _, err := h.system.WakeAll(ctx); err != nil {
		return nil, fmt.Errorf("wake installations: %w", err)
	}
	return h, nil
}

// openBus connects to what the configuration names, or starts a server.
func openBus(ctx context.Context, c Config) (bus.Bus, error) {
	if c.XMTP != "" {
		return xmtp.Open(xmtp.Config{URL: c.XMTP, Logger: c.Logger})
	}
	config := jetstream.Config{URL: c.NATS, Wait: true, Logger: c.Logger}
	if c.embedded() {
		config.Dir, config.AcceptLoss = filepath.Join(c.Dir, "bus"), c.AcceptLoss
	}
	return jetstream.Open(ctx, config)
}

func (h *Host) onClose(f func(context.Context) error) { h.closes = append(h.closes, f) }

// Close drains the host: what was accepted is handled and made durable, nothing
// new is taken. ctx bounds the wait. Idempotent.
func (h *Host) Close(ctx context.Context) (err error) {
	defer failing("close host", &err)
	if h == nil {
		return h.check(ctx)
	}
	if err := checkContext(ctx); err != nil {
		return err
	}
	h.once.Do(func() {
		for i := len(h.closes) - 1; i >= 0; i-- {
			h.closed = errors.Join(h.closed, h.closes[i](ctx))
		}
	})
	return h.closed
}

// Restarts is how often a part of the host has started again after a failure of
// its own. Each is in the log with its reason.
func (h *Host) Restarts() uint64 {
	if h == nil || h.system == nil {
		return 0
	}
	return h.system.Restarts()
}

// A Signer is a wallet: it has an address and signs a text as personal_sign
// does. SignerFunc makes one of any function; package identity/ethereum has one
// over a private key.
type Signer = identity.Signer

// SignerFunc makes a Signer of an address and a function that signs.
func SignerFunc(address string, sign func(text string) ([]byte, error)) Signer {
	return identity.SignerFunc(address, sign)
}

// A Key is an installation's 32-byte database key. It prints as [redacted].
type Key = persistence.Key

// A KeyProvider gives a host the database keys of its installations, so that
// they wake with the host.
type KeyProvider = persistence.KeyProvider

// An InstallationID is an installation's public key.
type InstallationID = actors.InstallationID

// CanMessage tells which addresses can be in a group: those with an inbox that
// has an installation. The result has the caller's spelling. An address that is
// none, or whose checksum is wrong, is an error that wraps ErrBadAddress.
//
// Up to 250 addresses are one request, and one more where an inbox is new to
// this host.
func (h *Host) CanMessage(ctx context.Context, addresses ...string) (can map[string]bool, err error) {
	defer failing("look up addresses", &err)
	if err := h.check(ctx); err != nil {
		return nil, err
	}
	inboxes, err := h.lookUp(ctx, addresses)
	if err != nil {
		return nil, err
	}
	unknown := slices.DeleteFunc(slices.Clone(inboxes), func(inbox string) bool { return inbox == "" || h.reachable(inbox) })
	if len(unknown) > 0 {
		if err := h.system.States(ctx, unknown); err != nil {
			return nil, err
		}
	}
	can = make(map[string]bool, len(addresses))
	for i, a := range addresses {
		can[a] = h.reachable(inboxes[i])
	}
	return can, nil
}

// reachable reports whether an inbox is known here to have an installation.
func (h *Host) reachable(inbox string) bool {
	state := h.system.KnownState(inbox)
	return state != nil && len(state.Installations()) > 0
}

// lookUp returns the inbox of each address, "" where there is none. What the
// network says is not enough: the inbox's own log, which its wallets signed, must
// have the address.
func (h *Host) lookUp(ctx context.Context, addresses []string) ([]string, error) {
	ids := make([]identity.Identifier, len(addresses))
	for i, a := range addresses {
		var err error
		if ids[i], err = identity.ParseAddress(a); err != nil {
			return nil, err
		}
	}
	found, err := h.system.Inboxes(ctx, ids)
	if err != nil {
		return nil, err
	}
	var unknown []string
	for id, inbox := range found {
		if !h.system.KnownState(inbox).Has(id) {
			unknown = append(unknown, inbox)
		}
	}
	slices.Sort(unknown)
	if unknown = slices.Compact(unknown); len(unknown) > 0 {
		if err := h.system.States(ctx, unknown); err != nil {
			return nil, err
		}
	}
	inboxes := make([]string, len(ids))
	for i, id := range ids {
		if inbox, ok := found[id]; ok && h.system.KnownState(inbox).Has(id) {
			inboxes[i] = inbox
		}
	}
	return inboxes, nil
}

// An InboxState says who an inbox is: the wallets that own it and the
// installations that they registered.
type InboxState struct {
	InboxID       string
	Addresses     []string
	Installations []InstallationID
}

// InboxState reads an inbox's identity log on the network. Every entry of the
// result was signed for by a wallet of the inbox, which is checked here.
func (h *Host) InboxState(ctx context.Context, inbox string) (_ InboxState, err error) {
	defer failing("read inbox", &err)
	if err := h.check(ctx); err != nil {
		return InboxState{}, err
	}
	if _, err := identity.ParseInboxID(inbox); err != nil {
		return InboxState{}, err
	}
	state, err := h.system.State(ctx, inbox)
	if err != nil {
		return InboxState{}, err
	}
	if state == nil {
		return InboxState{}, fmt.Errorf("%w: inbox %s", ErrNotFound, inbox)
	}
	out := InboxState{InboxID: inbox, Addresses: addressesOf(state)}
	for _, m := range state.Installations() {
		out.Installations = append(out.Installations, InstallationID(m.ID.Bytes()))
	}
	return out, nil
}

// addressesOf lists the wallets of an inbox; of an unknown one there are none.
func addressesOf(state *identity.State) (addresses []string) {
	if state == nil {
		return nil
	}
	for m := range state.Members() {
		if m.ID.Kind() == identity.Ethereum {
			addresses = append(addresses, m.ID.String())
		}
	}
	return addresses
}
