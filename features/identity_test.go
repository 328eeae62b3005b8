package features

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus"
	membus "github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/persistence"
	memstore "github.com/conclave-chat/conclave/persistence/memory"
)

// S01: an inbox lists exactly the installations that its wallet signed for, one
// signature each.
func TestInboxListsItsInstallations(t *testing.T) {
	w := newWorld(t)
	wallet, signatures := w.wallet()
	a1, a2 := w.installation(wallet, "one"), w.installation(wallet, "two")
	state := must[conclave.InboxState](t)(w.host.InboxState(w.ctx, a1.InboxID()))
	want := []conclave.InstallationID{a1.InstallationID(), a2.InstallationID()}
	compare := func(a, b conclave.InstallationID) int { return bytes.Compare(a[:], b[:]) }
	slices.SortFunc(want, compare)
	slices.SortFunc(state.Installations, compare)
	if !slices.Equal(state.Installations, want) || a1.InboxID() != a2.InboxID() {
		t.Errorf("the inbox lists %v, want %v", state.Installations, want)
	}
	if !slices.Equal(state.Addresses, []string{wallet.Address()}) {
		t.Errorf("the inbox belongs to %v", state.Addresses)
	}
	if n := signatures.Load(); n != 2 {
		t.Errorf("the wallet signed %d times", n)
	}
	if _, err := w.host.InboxState(w.ctx, strings.Repeat("0", 64)); !errors.Is(err, conclave.ErrNotFound) {
		t.Errorf("an inbox that nobody made: %v", err)
	}
}

// private returns the private keys that an installation's store holds: the seed
// of its signature key and the secrets of its key packages.
func private(t *testing.T, store persistence.Store, c *conclave.Client) (seed []byte, keyPackages [][]byte) {
	t.Helper()
	vault := must[*persistence.Vault](t)(persistence.OpenVault(t.Context(), store, c.InstallationID(), c.DatabaseKey()))
	row := must[[]byte](t)(vault.Get(t.Context(), 1, nil))
	var record struct {
		Seed []byte `json:"seed"`
	}
	if err := json.Unmarshal(row, &record); err != nil {
		t.Fatal(err)
	}
	err := vault.Scan(t.Context(), 2, nil, nil, func(_, secrets []byte) bool {
		keyPackages = append(keyPackages, bytes.Clone(secrets))
		return true
	})
	if err != nil || len(record.Seed) != ed25519.SeedSize || len(keyPackages) == 0 {
		t.Fatalf("the store holds a seed of %d bytes and %d key packages: %v", len(record.Seed), len(keyPackages), err)
	}
	return record.Seed, keyPackages
}

// S02: installations of one wallet share no key, and neither's store holds a
// private key of the other.
func TestInstallationsShareNoKeys(t *testing.T) {
	wire := newWire(t, membus.Config{})
	stores := []*memstore.Store{memstore.New(), memstore.New()}
	w1 := newWorld(t, wire.config, func(c *conclave.Config) { c.Store = stores[0] })
	w2 := newWorld(t, wire.config, func(c *conclave.Config) { c.Store = stores[1] })
	wallet, _ := w1.wallet()
	a1, a2 := w1.installation(wallet, ""), w2.installation(wallet, "")
	g := w1.newGroup(conclave.GroupOptions{}, a1)
	w1.send(g, "hello")
	w2.reads(w2.of(a2, g), "hello")

	seed1, packages1 := private(t, stores[0], a1)
	seed2, packages2 := private(t, stores[1], a2)
	if a1.InstallationID() == a2.InstallationID() || a1.DatabaseKey() == a2.DatabaseKey() || bytes.Equal(seed1, seed2) || bytes.Equal(packages1[0], packages2[0]) {
		t.Error("the installations share a key")
	}
	vault := must[*persistence.Vault](t)(persistence.OpenVault(t.Context(), stores[1], a2.InstallationID(), a2.DatabaseKey()))
	for kind := range 256 {
		err := vault.Scan(t.Context(), persistence.RecordType(kind), nil, nil, func(_, row []byte) bool {
			if bytes.Contains(row, seed1) || bytes.Contains(row, packages1[0]) {
				t.Errorf("a record of type %d holds a private key of the other installation", kind)
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// S03: nothing on the wire shows what a message says, and who is not in the
// group is told so.
func TestOnlyMembersRead(t *testing.T) {
	wire := newWire(t, membus.Config{})
	w := newWorld(t, wire.config)
	c := w.clients(3)
	g := w.newGroup(conclave.GroupOptions{Name: "confidential name"}, c[0], c[1])
	w.send(g, "attack at dawn")
	for _, e := range wire.sent {
		if bytes.Contains(e.Payload, []byte("attack at dawn")) || bytes.Contains(e.Payload, []byte("confidential name")) {
			t.Errorf("%v shows what was said", e.Topic)
		}
	}
	w.do(c[2].Conversations().SyncAll(w.ctx))
	if _, err := c[2].Conversations().Get(w.ctx, g.ID()); !errors.Is(err, conclave.ErrNoGroup) {
		t.Errorf("an outsider gets %v", err)
	}
}

// S04: a new installation starts with an empty history and reads what is sent
// from then on.
func TestNewInstallationReadsNothingOld(t *testing.T) {
	w := newWorld(t)
	wallet, _ := w.wallet()
	a1, bo := w.installation(wallet, "one"), w.client()
	g := w.newGroup(conclave.GroupOptions{}, a1, bo)
	for range 10 {
		w.send(g, "old")
	}
	a2 := w.installation(wallet, "two")
	w.do(g.AddMembers(w.ctx, a1.Address()))
	w.reads(w.of(a2, g))
	w.send(g, "new")
	w.reads(w.of(a2, g), "new")
}

// S05 S06 S11: deleting a local database needs a yes, refuses while somebody
// listens, takes only that installation, may be repeated; the wallet's next
// installation is another one that knows nothing, until a member adds it.
func TestDeleteLocalDatabase(t *testing.T) {
	store := memstore.New()
	w := newWorld(t, func(c *conclave.Config) { c.Store = store })
	wallet, _ := w.wallet()
	alix, bo := w.installation(wallet, ""), w.client()
	g := w.newGroup(conclave.GroupOptions{}, bo, alix)
	w.send(g, "old")
	w.of(alix, g)

	state := must[conclave.LocalState](t)(alix.LocalState(w.ctx))
	if state.Groups != 1 || state.Messages != 2 || state.Installation != alix.InstallationID() || state.Created.IsZero() || state.Streams != 0 {
		t.Errorf("before deleting one is told %+v", state)
	}
	if err := alix.DeleteLocalDatabase(w.ctx, conclave.DeleteOptions{}); !errors.Is(err, conclave.ErrNotConfirmed) {
		t.Errorf("without a yes: %v", err)
	}
	ended := make(chan error, 1)
	listening, stop := context.WithCancel(w.ctx)
	defer stop()
	news := alix.Conversations().StreamAllMessages(listening)
	go func() {
		var last error
		for _, err := range news {
			last = err
		}
		ended <- last
	}()
	if err := alix.DeleteLocalDatabase(w.ctx, conclave.DeleteOptions{Confirm: true}); !errors.Is(err, conclave.ErrStreamsOpen) {
		t.Errorf("with an open stream: %v", err)
	}
	if got := must[conclave.LocalState](t)(alix.LocalState(w.ctx)).Messages; got != 2 {
		t.Errorf("what was refused left %d messages", got)
	}
	others := records(t, store, bo)
	for range 2 {
		w.do(alix.DeleteLocalDatabase(w.ctx, conclave.DeleteOptions{Confirm: true, Force: true}))
	}
	if err := <-ended; !errors.Is(err, conclave.ErrAsleep) {
		t.Errorf("the stream ended with %v", err)
	}
	if n := records(t, store, alix); n != 0 {
		t.Errorf("%d rows of the installation are left", n)
	}
	if n := records(t, store, bo); n != others {
		t.Errorf("another installation has %d rows, had %d", n, others)
	}
	if _, err := alix.Conversations().List(w.ctx); !errors.Is(err, conclave.ErrAsleep) {
		t.Errorf("the deleted client lists groups: %v", err)
	}

	again := w.installation(wallet, "")
	if again.InstallationID() == alix.InstallationID() || again.InboxID() != alix.InboxID() {
		t.Error("the wallet's next installation is not a new one of its inbox")
	}
	// The old handle must not take the new installation with it.
	w.do(alix.DeleteLocalDatabase(w.ctx, conclave.DeleteOptions{Confirm: true}))
	found, err := w.host.CreateClient(w.ctx, wallet, conclave.ClientOptions{DatabaseKey: again.DatabaseKey()})
	if err != nil || found.InstallationID() != again.InstallationID() {
		t.Fatalf("the new installation is not found any more: %v", err)
	}
	w.do(again.Conversations().SyncAll(w.ctx))
	if list := must[[]*conclave.Group](t)(again.Conversations().List(w.ctx)); len(list) != 0 {
		t.Errorf("it is in %d groups before anybody added it", len(list))
	}
	w.do(g.AddMembers(w.ctx, wallet.Address()))
	w.send(g, "new")
	w.reads(w.of(again, g), "new")
}

// records counts an installation's rows in a store.
func records(t *testing.T, store persistence.Store, c *conclave.Client) (n int) {
	t.Helper()
	id := c.InstallationID()
	err := store.View(t.Context(), func(r persistence.Reader) error {
		return r.Scan(nil, nil, func(key, _ []byte) bool {
			if bytes.Contains(key, id[:]) {
				n++
			}
			return true
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// S07 S08: the first call makes a database, later ones open it: the same
// installation, no signature, nothing published.
func TestSecondCreateOpensTheFirst(t *testing.T) {
	wire, store := newWire(t, membus.Config{}), memstore.New()
	w := newWorld(t, wire.config, func(c *conclave.Config) { c.Store = store })
	wallet, signatures := w.wallet()
	first := w.installation(wallet, "")
	w.do(first.Close(w.ctx))
	if _, err := first.Conversations().List(w.ctx); !errors.Is(err, conclave.ErrAsleep) {
		t.Errorf("a closed client: %v", err)
	}
	wire.reset()
	open := conclave.ClientOptions{DatabaseKey: first.DatabaseKey()}
	second := must[*conclave.Client](t)(w.host.CreateClient(w.ctx, wallet, open))
	if second.InstallationID() != first.InstallationID() {
		t.Error("another installation was made")
	}
	if n := wire.tally().calls(); n != 0 || signatures.Load() != 1 {
		t.Errorf("opening asked the network %d times, and the wallet signed %d times", n, signatures.Load())
	}
	// Another host over the same store is the next process.
	w.do(w.host.Close(w.ctx))
	w = newWorld(t, wire.config, func(c *conclave.Config) { c.Store = store })
	third := must[*conclave.Client](t)(w.host.CreateClient(w.ctx, wallet, open))
	if third.InstallationID() != first.InstallationID() || signatures.Load() != 1 {
		t.Error("the next process does not find it")
	}
	// S10: and with its key alone, without a wallet.
	fourth := must[*conclave.Client](t)(w.host.LoadClient(w.ctx, first.InstallationID(), first.DatabaseKey()))
	w.send(w.newGroup(conclave.GroupOptions{}, fourth), "from a saved key")
}

// S07 S09: on disk the database is sealed: no file shows a message, an address
// of a member or a key; another key is refused and changes nothing.
func TestDatabaseIsSealed(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	dir := t.TempDir()
	host := must[*conclave.Host](t)(conclave.Open(ctx, conclave.Config{Dir: dir}))
	w := &world{t, ctx, host}
	c := []*conclave.Client{w.sealed("the first one's key"), w.sealed("the second one's key")}
	g := w.newGroup(conclave.GroupOptions{Name: "a name to look for"}, c...)
	w.send(g, "a marker to look for")
	w.reads(w.of(c[1], g), "a marker to look for")
	if state := must[conclave.LocalState](t)(c[0].LocalState(ctx)); state.Dir != dir {
		t.Errorf("the local state is said to lie in %q", state.Dir)
	}

	wrong := c[1].DatabaseKey()
	w.do(c[0].Close(ctx))
	if _, err := host.LoadClient(ctx, c[0].InstallationID(), wrong); !errors.Is(err, conclave.ErrWrongKey) {
		t.Errorf("another's key: %v", err)
	}
	if _, err := host.LoadClient(ctx, c[0].InstallationID(), conclave.Key{}); !errors.Is(err, conclave.ErrWrongKey) {
		t.Errorf("no key: %v", err)
	}
	w.do(host.Close(ctx))

	needles := map[string][]byte{"message": []byte("a marker to look for"), "name": []byte("a name to look for")}
	for i, client := range c {
		key := client.DatabaseKey()
		needles["database key "+string(rune('1'+i))] = key[:]
	}
	scan := func(dir string, needles map[string][]byte) {
		w.do(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			for what, needle := range needles {
				if bytes.Contains(data, needle) {
					t.Errorf("%s shows the %s", path, what)
				}
			}
			return err
		}))
	}
	scan(dir, needles)
	// The log holds identities for all to see; the store tells nobody's.
	scan(filepath.Join(dir, "store"), map[string][]byte{"address": []byte(c[1].Address()[2:]), "inbox": []byte(c[1].InboxID())})

	host = must[*conclave.Host](t)(conclave.Open(ctx, conclave.Config{Dir: dir}))
	w = &world{t, ctx, host}
	mine := must[*conclave.Client](t)(host.LoadClient(ctx, c[0].InstallationID(), c[0].DatabaseKey()))
	w.reads(must[*conclave.Group](t)(mine.Conversations().Get(ctx, g.ID())), "a marker to look for")
	w.do(host.Close(ctx))
}

// S20 S21: who can be messaged is one question for up to 250 addresses, answered
// in the caller's spelling; a wrong checksum is an error.
func TestCanMessage(t *testing.T) {
	wire := newWire(t, membus.Config{})
	w := newWorld(t, wire.config)
	c := w.clients(3)
	lower := c[1].Address()
	upper := "0x" + strings.ToUpper(lower[2:])
	unknown := "0x00000000000000000000000000000000000000ff"
	ask := []string{lower, upper, c[2].Address(), unknown}
	for range 250 - len(ask) {
		ask = append(ask, must[*ethereum.Key](t)(ethereum.GenerateKey()).Address())
	}
	must[map[string]bool](t)(c[0].CanMessage(w.ctx, ask...)) // now the inboxes are known
	wire.reset()
	can := must[map[string]bool](t)(c[0].CanMessage(w.ctx, ask...))
	if !can[lower] || !can[upper] || !can[c[2].Address()] || can[unknown] || len(can) != len(ask) {
		t.Errorf("got %v %v %v %v of %d", can[lower], can[upper], can[c[2].Address()], can[unknown], len(can))
	}
	if got := wire.tally(); got.calls() != 1 {
		t.Errorf("%d addresses cost %v", len(ask), got)
	}
	// EIP-55's own example, right and with one letter's case changed.
	const right = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
	if can := must[map[string]bool](t)(c[0].CanMessage(w.ctx, right)); len(can) != 1 || can[right] {
		t.Errorf("a checksummed address that nobody registered: %v", can)
	}
	if _, err := c[0].CanMessage(w.ctx, lower, strings.Replace(right, "aA", "AA", 1)); !errors.Is(err, conclave.ErrBadAddress) {
		t.Errorf("a wrong checksum: %v", err)
	}
}

// walletOnly registers an inbox that has no installation, as a wallet may on
// any client.
func walletOnly(t *testing.T, b bus.Bus) *ethereum.Key {
	t.Helper()
	key := must[*ethereum.Key](t)(ethereum.GenerateKey())
	inbox := must[string](t)(identity.InboxID(key.Identifier(), identity.DefaultNonce))
	draft := identity.NewDraft(inbox, time.Now()).CreateInbox(key.Identifier(), identity.DefaultNonce)
	publish(t, b, draft, key)
	return key
}

// publish signs an identity update with wallets and publishes it.
func publish(t *testing.T, b bus.Bus, draft *identity.Draft, wallets ...*ethereum.Key) {
	t.Helper()
	for _, wallet := range wallets {
		if err := draft.Sign(wallet); err != nil {
			t.Fatal(err)
		}
	}
	update, err := draft.Update()
	if err == nil {
		err = node.NewClient(b).PublishIdentityUpdate(t.Context(), update)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// X27: an inbox with as many installations as one may have takes another
// once one was taken back; who was taken back reads nothing that is sent later.
func TestRevokeInstallations(t *testing.T) {
	w := newWorld(t)
	wallet, signatures := w.wallet()
	var all []*conclave.Client
	for i := range 10 {
		all = append(all, w.installation(wallet, string(rune('a'+i))))
	}
	bo := w.client()
	g := w.newGroup(conclave.GroupOptions{}, bo, all[0])
	w.send(g, "to all")
	if _, err := w.host.CreateClient(w.ctx, wallet, conclave.ClientOptions{Database: "one too many"}); !errors.Is(err, conclave.ErrTooManyInstallations) {
		t.Fatalf("an eleventh installation: %v", err)
	}
	stranger, _ := w.wallet()
	if err := all[0].RevokeInstallations(w.ctx, stranger, all[1].InstallationID()); !errors.Is(err, conclave.ErrNotOwner) {
		t.Errorf("revoked by a stranger: %v", err)
	}
	before := signatures.Load()
	w.do(w.host.RevokeInstallations(w.ctx, wallet, all[0].InboxID(), all[1].InstallationID(), all[2].InstallationID()))
	w.do(all[0].RevokeInstallations(w.ctx, wallet, all[1].InstallationID())) // again: nothing
	if n := signatures.Load() - before; n != 1 {
		t.Errorf("the wallet signed %d times", n)
	}
	w.installation(wallet, "one that has room now")
	w.do(all[0].RevokeAllOtherInstallations(w.ctx, wallet))
	state := must[conclave.InboxState](t)(w.host.InboxState(w.ctx, all[0].InboxID()))
	if !slices.Equal(state.Installations, []conclave.InstallationID{all[0].InstallationID()}) {
		t.Errorf("left are %v", state.Installations)
	}
}

// X26: an inbox gains a wallet, which signs as its first one does, and loses it
// again with the installations that it registered.
func TestAddAndRemoveAccount(t *testing.T) {
	w := newWorld(t)
	first, _ := w.wallet()
	second, signatures := w.wallet()
	c := w.installation(first, "")
	w.do(c.AddAccount(w.ctx, second))
	w.do(c.AddAccount(w.ctx, second)) // again: nothing
	if n := signatures.Load(); n != 1 {
		t.Errorf("the wallet signed %d times", n)
	}
	other := w.installation(second, "")
	if other.InboxID() != c.InboxID() {
		t.Error("the second wallet has an inbox of its own")
	}
	if err := c.AddAccount(w.ctx, w.ownerOfAnother()); !errors.Is(err, conclave.ErrAddressTaken) {
		t.Errorf("a wallet of another inbox: %v", err)
	}
	if err := c.RemoveAccount(w.ctx, second, first.Address()); !errors.Is(err, conclave.ErrNotOwner) {
		t.Errorf("removed by a wallet that may not: %v", err)
	}
	w.do(c.RemoveAccount(w.ctx, first, second.Address()))
	state := must[conclave.InboxState](t)(w.host.InboxState(w.ctx, c.InboxID()))
	if !slices.Equal(state.Addresses, []string{first.Address()}) || !slices.Equal(state.Installations, []conclave.InstallationID{c.InstallationID()}) {
		t.Errorf("left are %v and %v", state.Addresses, state.Installations)
	}
}

// ownerOfAnother is a wallet that has an inbox.
func (w *world) ownerOfAnother() conclave.Signer {
	w.t.Helper()
	wallet, _ := w.wallet()
	w.installation(wallet, "")
	return wallet
}
