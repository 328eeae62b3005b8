package features

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus"
	membus "github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/persistence"
	memstore "github.com/conclave-chat/conclave/persistence/memory"
)

// A registrar is a host whose network, wallet, clock and store a test lets fail.
type registrar struct {
	*world
	wire   *wire
	store  *memstore.Store
	key    *ethereum.Key
	wallet conclave.Signer
	off    atomic.Int64 // how wrong the clock is

	mu      sync.Mutex
	request func(service string, ask func() ([]byte, error)) ([]byte, error)
	sign    func(text string) ([]byte, error)
}

// Request lets a test answer in the network's place.
func (r *registrar) Request(ctx context.Context, service string, payload []byte) ([]byte, error) {
	r.mu.Lock()
	f := r.request
	r.mu.Unlock()
	ask := func() ([]byte, error) { return r.wire.Request(ctx, service, payload) }
	if f == nil {
		return ask()
	}
	return f(service, ask)
}

type asking struct {
	*wire
	*registrar
}

func (a asking) Request(ctx context.Context, service string, payload []byte) ([]byte, error) {
	return a.registrar.Request(ctx, service, payload)
}

func (r *registrar) onRequest(f func(service string, ask func() ([]byte, error)) ([]byte, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.request = f
}

// answering answers a service's requests, before or after it did what was asked.
func (r *registrar) answering(service string, does bool, err error) {
	r.onRequest(func(s string, ask func() ([]byte, error)) ([]byte, error) {
		if s != service {
			return ask()
		}
		if does {
			if _, err := ask(); err != nil {
				return nil, err
			}
		}
		return nil, err
	})
}

func (r *registrar) signing(f func(text string) ([]byte, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sign = f
}

func (r *registrar) right() {
	r.onRequest(nil)
	r.signing(r.key.SignMessage)
	r.off.Store(0)
	r.wire.setCut(false)
}

func newRegistrar(t *testing.T) *registrar {
	t.Helper()
	r := &registrar{wire: newWire(t, membus.Config{}), store: memstore.New(), key: must[*ethereum.Key](t)(ethereum.GenerateKey())}
	r.right()
	r.wallet = conclave.SignerFunc(r.key.Address(), func(text string) ([]byte, error) {
		r.mu.Lock()
		f := r.sign
		r.mu.Unlock()
		return f(text)
	})
	r.world = newWorld(t, func(c *conclave.Config) {
		c.Bus, c.ServeNode, c.Store = bus.Bus(asking{r.wire, r}), false, r.store
		c.Now = func() time.Time { return time.Now().Add(time.Duration(r.off.Load())) }
	})
	return r
}

// restart opens another host over the store, as after a crash.
func (r *registrar) restart() {
	r.t.Helper()
	r.do(r.host.Close(r.ctx))
	r.world = newWorld(r.t, func(c *conclave.Config) {
		c.Bus, c.ServeNode, c.Store = bus.Bus(asking{r.wire, r}), false, r.store
	})
}

// elsewhere registers the wallet on another host of the network.
func (r *registrar) elsewhere() *conclave.Client {
	r.t.Helper()
	w := newWorld(r.t, r.wire.config)
	return must[*conclave.Client](r.t)(w.host.CreateClient(r.ctx, r.key, conclave.ClientOptions{}))
}

var errNo = errors.New("the user said no")

// failures are what may go wrong at each step of a registration.
var failures = []struct {
	name string
	goes func(r *registrar)
	want error // nil: any
}{
	{"the wallet says no", func(r *registrar) { r.signing(func(string) ([]byte, error) { return nil, errNo }) }, errNo},
	{"another wallet signs", func(r *registrar) {
		other, _ := ethereum.GenerateKey()
		r.signing(other.SignMessage)
	}, conclave.ErrBadSignature},
	{"the wallet answers with junk", func(r *registrar) {
		r.signing(func(string) ([]byte, error) { return make([]byte, 65), nil })
	}, conclave.ErrBadSignature},
	{"the wallet answers with an older signature", func(r *registrar) {
		r.signing(func(text string) ([]byte, error) { return r.key.SignMessage("an older text") })
	}, conclave.ErrBadSignature},
	{"the network goes away while the wallet signs", func(r *registrar) {
		r.signing(func(text string) ([]byte, error) { r.wire.setCut(true); return r.key.SignMessage(text) })
	}, bus.ErrUnavailable},
	{"the network is not there", func(r *registrar) { r.wire.setCut(true) }, bus.ErrUnavailable},
	{"the clock is fast by hours", func(r *registrar) { r.off.Store(int64(3 * time.Hour)) }, conclave.ErrRefused},
	{"the clock is fast by a year", func(r *registrar) { r.off.Store(int64(400 * 24 * time.Hour)) }, conclave.ErrRefused},
	{"the clock is slow by a year", func(r *registrar) { r.off.Store(int64(-400 * 24 * time.Hour)) }, conclave.ErrRefused},
	{"the clock was fast, and the network away", func(r *registrar) {
		r.off.Store(int64(400 * 24 * time.Hour))
		r.answering(bus.UploadKeyPackage, false, bus.ErrUnavailable)
	}, bus.ErrUnavailable},
	{"the key package is over budget", func(r *registrar) {
		r.answering(bus.UploadKeyPackage, false, &bus.ServiceError{Code: bus.CodeExhausted, Message: "over budget"})
	}, nil},
	{"the key package is refused", func(r *registrar) {
		r.answering(bus.UploadKeyPackage, false, &bus.ServiceError{Code: bus.CodeInvalid, Message: "no"})
	}, conclave.ErrRefused},
	{"the key package is stored, and its answer lost", func(r *registrar) { r.answering(bus.UploadKeyPackage, true, bus.ErrUnavailable) }, bus.ErrUnavailable},
	{"the update gets no answer", func(r *registrar) { r.answering(bus.PublishIdentityUpdate, false, bus.ErrUnavailable) }, bus.ErrUnavailable},
	{"the update is over budget", func(r *registrar) {
		r.answering(bus.PublishIdentityUpdate, false, &bus.ServiceError{Code: bus.CodeExhausted, Message: "over budget"})
	}, nil},
	{"the update needs a chain that is away", func(r *registrar) {
		r.answering(bus.PublishIdentityUpdate, false, &bus.ServiceError{Code: bus.CodeUnavailable, Message: "no chain"})
	}, nil},
	{"the update is refused", func(r *registrar) {
		r.answering(bus.PublishIdentityUpdate, false, &bus.ServiceError{Code: bus.CodeInvalid, Message: "no"})
	}, conclave.ErrRefused},
	{"the update is stored, and its answer lost", func(r *registrar) { r.answering(bus.PublishIdentityUpdate, true, bus.ErrUnavailable) }, bus.ErrUnavailable},
	{"the store fails before anything", func(r *registrar) { r.store.FailNext(persistence.ErrFull) }, persistence.ErrFull},
	{"the store fails after the wallet signed", func(r *registrar) {
		r.signing(func(text string) ([]byte, error) {
			r.store.FailNext(persistence.ErrFull)
			return r.key.SignMessage(text)
		})
	}, persistence.ErrFull},
	{"the store fails after the key package", func(r *registrar) {
		r.onRequest(func(service string, ask func() ([]byte, error)) ([]byte, error) {
			if service == bus.PublishIdentityUpdate {
				r.store.FailNext(persistence.ErrFull)
			}
			return ask()
		})
	}, persistence.ErrFull},
}

// between is what may happen between two tries.
var between = []struct {
	name string
	does func(r *registrar)
}{
	{"at once", func(*registrar) {}},
	{"after a restart", (*registrar).restart},
	{"after another host registered the wallet", func(r *registrar) { r.elsewhere() }},
}

// Whatever fails at whatever step of a registration: the same call, once all is
// well, ends in a client that works, with and without a key of the caller's, and
// the inbox has no installation that nobody has the keys of.
func TestRegistrationThatFailedIsRepeated(t *testing.T) {
	for keyName, key := range map[string]conclave.Key{"own key": {7}, "key is made": {}} {
		for _, f := range failures {
			for _, b := range between {
				t.Run(keyName+"/"+f.name+"/"+b.name, func(t *testing.T) {
					r := newRegistrar(t)
					o := conclave.ClientOptions{DatabaseKey: key}
					f.goes(r)
					ctx, cancel := context.WithTimeout(r.ctx, 5*time.Minute)
					defer cancel()
					_, err := r.host.CreateClient(ctx, r.wallet, o)
					if err == nil {
						t.Fatal("registered all the same")
					}
					if f.want != nil && !errors.Is(err, f.want) {
						t.Errorf("refused with %v, want %v", err, f.want)
					}
					r.right()
					b.does(r)
					c, err := r.host.CreateClient(r.ctx, r.wallet, o)
					if err != nil {
						t.Fatalf("the same call, when all is well: %v", err)
					}
					r.works(c, b.name)
				})
			}
		}
	}
}

// works checks that a client is what its inbox says, and can be messaged.
func (r *registrar) works(c *conclave.Client, between string) {
	r.t.Helper()
	state := must[conclave.InboxState](r.t)(r.host.InboxState(r.ctx, c.InboxID()))
	want := 1
	if between == "after another host registered the wallet" {
		want = 2
	}
	if len(state.Installations) != want {
		r.t.Errorf("the inbox has %d installations, want %d", len(state.Installations), want)
	}
	if status := must[map[conclave.InstallationID]conclave.KeyPackageStatus](r.t)(r.host.KeyPackageStatuses(r.ctx, c.InstallationID()))[c.InstallationID()]; status.Err != nil {
		r.t.Errorf("its key package: %v", status.Err)
	}
	if vaults := must[[][32]byte](r.t)(persistence.Vaults(r.ctx, r.store)); len(vaults) != 1 {
		r.t.Errorf("the store has %d installations, want 1", len(vaults))
	}
	bo := r.client()
	g := r.newGroup(conclave.GroupOptions{}, bo, c)
	r.send(g, "welcome")
	r.reads(r.of(c, g), "welcome")
	// It is done for good: it opens without the wallet.
	r.signing(func(string) ([]byte, error) { return nil, errNo })
	r.restart()
	again := must[*conclave.Client](r.t)(r.host.CreateClient(r.ctx, r.wallet, conclave.ClientOptions{DatabaseKey: c.DatabaseKey()}))
	r.reads(r.of(again, g), "welcome")
}

// Nothing is published of a registration that its own wallet did not sign.
func TestNothingLeavesBeforeTheSignatureIsRight(t *testing.T) {
	r := newRegistrar(t)
	other := must[*ethereum.Key](t)(ethereum.GenerateKey())
	r.signing(other.SignMessage)
	if _, err := r.host.CreateClient(r.ctx, r.wallet, conclave.ClientOptions{}); !errors.Is(err, conclave.ErrBadSignature) {
		t.Errorf("another wallet's signature: %v", err)
	}
	if n := r.wire.tally().requests; n[bus.UploadKeyPackage]+n[bus.PublishIdentityUpdate] != 0 {
		t.Errorf("the network was told: %v", n)
	}
	if vaults := must[[][32]byte](t)(persistence.Vaults(r.ctx, r.store)); len(vaults) != 0 {
		t.Errorf("the store has %d installations", len(vaults))
	}
	// The same holds for who is taken back, and for another wallet of the inbox.
	r.right()
	c := must[*conclave.Client](t)(r.host.CreateClient(r.ctx, r.wallet, conclave.ClientOptions{}))
	r.signing(other.SignMessage)
	if err := c.RevokeInstallations(r.ctx, r.wallet, c.InstallationID()); !errors.Is(err, conclave.ErrBadSignature) {
		t.Errorf("revoked with another wallet's signature: %v", err)
	}
	if err := c.AddAccount(r.ctx, conclave.SignerFunc(other.Address(), r.key.SignMessage)); !errors.Is(err, conclave.ErrBadSignature) {
		t.Errorf("added with another wallet's signature: %v", err)
	}
}

// half leaves a registration unfinished: its update is on the network or not, and
// the host does not know.
func (r *registrar) half(key conclave.Key, landed bool) {
	r.t.Helper()
	r.answering(bus.PublishIdentityUpdate, landed, bus.ErrUnavailable)
	if _, err := r.host.CreateClient(r.ctx, r.wallet, conclave.ClientOptions{DatabaseKey: key}); !errors.Is(err, bus.ErrUnavailable) {
		r.t.Fatalf("registered by half: %v", err)
	}
	r.right()
}

// A registration by half whose database key is gone is replaced, and its place in
// the inbox with it: the wallet signs once for both.
func TestHalfRegistrationWhoseKeyIsGone(t *testing.T) {
	for name, landed := range map[string]bool{"landed": true, "not landed": false} {
		t.Run(name, func(t *testing.T) {
			r := newRegistrar(t)
			for i := range 3 {
				r.half(conclave.Key{byte(i + 1)}, landed)
			}
			r.restart()
			signatures := 0
			r.signing(func(text string) ([]byte, error) { signatures++; return r.key.SignMessage(text) })
			c, err := r.host.CreateClient(r.ctx, r.wallet, conclave.ClientOptions{DatabaseKey: conclave.Key{9}})
			if err != nil {
				t.Fatal(err)
			}
			if signatures != 1 {
				t.Errorf("the wallet signed %d times", signatures)
			}
			r.works(c, "")
		})
	}
}

// A registration by half whose installation was revoked meanwhile is of no use:
// the next one is made anew.
func TestHalfRegistrationThatWasRevoked(t *testing.T) {
	r := newRegistrar(t)
	o := conclave.ClientOptions{DatabaseKey: conclave.Key{7}}
	r.half(o.DatabaseKey, true)
	other := r.elsewhere()
	state := must[conclave.InboxState](t)(r.host.InboxState(r.ctx, other.InboxID()))
	r.do(r.host.RevokeInstallations(r.ctx, r.wallet, other.InboxID(), state.Installations...))
	c, err := r.host.CreateClient(r.ctx, r.wallet, o)
	if err != nil {
		t.Fatal(err)
	}
	r.works(c, "")
}

// A registration by half in an inbox that is full by now says so, and is finished
// once there is room.
func TestHalfRegistrationInAFullInbox(t *testing.T) {
	r := newRegistrar(t)
	first := r.elsewhere()
	o := conclave.ClientOptions{DatabaseKey: conclave.Key{7}}
	r.half(o.DatabaseKey, false)
	for range 9 {
		r.elsewhere()
	}
	if _, err := r.host.CreateClient(r.ctx, r.wallet, o); !errors.Is(err, conclave.ErrTooManyInstallations) {
		t.Errorf("an eleventh installation: %v", err)
	}
	r.do(r.host.RevokeInstallations(r.ctx, r.wallet, first.InboxID(), first.InstallationID()))
	if _, err := r.host.CreateClient(r.ctx, r.wallet, o); err != nil {
		t.Errorf("with room: %v", err)
	}
}

// A finished installation whose key is gone stays what it is, and another one can
// be made beside it.
func TestFinishedInstallationWhoseKeyIsGone(t *testing.T) {
	r := newRegistrar(t)
	c := must[*conclave.Client](t)(r.host.CreateClient(r.ctx, r.wallet, conclave.ClientOptions{DatabaseKey: conclave.Key{7}}))
	r.restart()
	for _, key := range []conclave.Key{{}, {1}} {
		if _, err := r.host.CreateClient(r.ctx, r.wallet, conclave.ClientOptions{DatabaseKey: key}); !errors.Is(err, conclave.ErrWrongKey) {
			t.Errorf("without its key: %v", err)
		}
	}
	if _, err := r.host.CreateClient(r.ctx, r.wallet, conclave.ClientOptions{Database: "second"}); err != nil {
		t.Errorf("another one: %v", err)
	}
	if _, err := r.host.CreateClient(r.ctx, r.wallet, conclave.ClientOptions{DatabaseKey: c.DatabaseKey()}); err != nil {
		t.Errorf("with its key: %v", err)
	}
}

// Two hosts that register a new wallet at the same time are two installations of
// one inbox, and two calls on one host are one.
func TestRegisteringTwiceAtOnce(t *testing.T) {
	t.Run("two hosts", func(t *testing.T) {
		r := newRegistrar(t)
		var raced sync.Once
		r.signing(func(text string) ([]byte, error) {
			raced.Do(func() { r.elsewhere() })
			return r.key.SignMessage(text)
		})
		c, err := r.host.CreateClient(r.ctx, r.wallet, conclave.ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		r.works(c, "after another host registered the wallet")
	})
	t.Run("one host", func(t *testing.T) {
		r := newRegistrar(t)
		var calls sync.WaitGroup
		ids := make([]conclave.InstallationID, 8)
		for i := range ids {
			calls.Go(func() {
				c, err := r.host.CreateClient(r.ctx, r.wallet, conclave.ClientOptions{DatabaseKey: conclave.Key{7}})
				if err != nil {
					t.Error(err)
					return
				}
				ids[i] = c.InstallationID()
			})
		}
		calls.Wait()
		for _, id := range ids {
			if id != ids[0] {
				t.Fatal("one wallet has several installations under one name")
			}
		}
	})
}

// A host that stopped while it made an installation leaves nothing that is in the
// way, or that it tries to open for ever.
func TestInstallationThatWasNeverStored(t *testing.T) {
	r := newRegistrar(t)
	id, key := conclave.InstallationID{1, 2, 3}, conclave.Key{7}
	if _, err := persistence.CreateVault(r.ctx, r.store, id, key, zeros{}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.host.LoadClient(r.ctx, id, key); !errors.Is(err, conclave.ErrNotFound) {
		t.Errorf("an installation that was never stored: %v", err)
	}
	if vaults := must[[][32]byte](t)(persistence.Vaults(r.ctx, r.store)); len(vaults) != 0 {
		t.Errorf("%d of them are left", len(vaults))
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
