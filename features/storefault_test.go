package features

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/persistence"
	memstore "github.com/conclave-chat/conclave/persistence/memory"
)

var errDisk = errors.New("the disk is on fire")

// A frailStore fails every operation from the n-th on, until it is mended.
type frailStore struct {
	persistence.Store
	mu    sync.Mutex
	left  int // operations that still work; negative: all do
	burnt int // operations that failed
}

func (f *frailStore) failAfter(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left, f.burnt = n, 0
}

// mend makes the store work, and reports how often it did not.
func (f *frailStore) mend() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = -1
	return f.burnt
}

func (f *frailStore) fails() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.left < 0:
		return nil
	case f.left == 0:
		f.burnt++
		return errDisk
	}
	f.left--
	return nil
}

func (f *frailStore) View(ctx context.Context, read func(persistence.Reader) error) error {
	if err := f.fails(); err != nil {
		return err
	}
	return f.Store.View(ctx, read)
}

func (f *frailStore) Apply(ctx context.Context, b *persistence.Batch, d persistence.Durability) error {
	if err := f.fails(); err != nil {
		return err
	}
	return f.Store.Apply(ctx, b, d)
}

// Whatever the store does at whatever operation of whatever call: the caller has
// the cause, named ErrStore, and nothing of how the host is made inside. When the
// store works again, so does the call. faults.md D18.
func TestFailingStoreIsNamed(t *testing.T) {
	for name, call := range publicCalls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := &frailStore{Store: memstore.New(), left: -1}
			w := newWorld(t, func(c *conclave.Config) { c.Store = store })
			c := w.clients(3)
			g := w.newGroup(conclave.GroupOptions{}, c[:2]...)
			dm := must[*conclave.Dm](t)(c[0].Conversations().NewDm(w.ctx, c[1].Address()))
			id := w.send(g, "before")
			e := &everything{w, c, g, dm, id}
			failed := false
			for n := range 6 {
				store.failAfter(n)
				ctx, cancel := context.WithTimeout(w.ctx, 120*time.Millisecond)
				err := call(ctx, e)
				cancel()
				burnt := store.mend()
				if err == nil {
					continue // it had what it needed, or the host tried again
				}
				failed = true
				if burnt > 0 && !errors.Is(err, conclave.ErrStore) || burnt > 0 && !errors.Is(err, errDisk) {
					t.Errorf("operation %d: %v", n, err)
				}
				if text := err.Error(); strings.Contains(text, "engine") || strings.Contains(text, "crash") {
					t.Errorf("operation %d: the caller reads %q", n, text)
				}
			}
			err := call(w.ctx, e)
			for errors.Is(err, conclave.ErrStore) && w.ctx.Err() == nil {
				err = call(w.ctx, e) // what could not start is tried again after a while
			}
			if err != nil {
				t.Errorf("with a store that works: %v", err)
			}
			if !failed && !needsNoStore[name] {
				t.Error("it never failed: nothing was tested")
			}
		})
	}
}

// needsNoStore are calls that have what they need in memory.
var needsNoStore = map[string]bool{
	"CanMessage": true, "InboxState": true, "Info": true, "Members": true, "IsActive": true,
	"Sync of conversations": true, "List": true, "ListDms": true, "Get": true, "Wait": true,
}

// everything is what the public calls are tried on.
type everything struct {
	*world
	c  []*conclave.Client
	g  *conclave.Group
	dm *conclave.Dm
	id conclave.MessageID
}

func (e *everything) v() conclave.Conversations { return e.c[0].Conversations() }

func second[T any](_ T, err error) error { return err }

// publicCalls are those that read or write.
var publicCalls = map[string]func(ctx context.Context, e *everything) error{
	"CreateClient": func(ctx context.Context, e *everything) error {
		key, err := ethereum.GenerateKey()
		if err != nil {
			return err
		}
		return second(e.host.CreateClient(ctx, key, conclave.ClientOptions{}))
	},
	"LoadClient": func(ctx context.Context, e *everything) error {
		return second(e.host.LoadClient(ctx, e.c[2].InstallationID(), e.c[2].DatabaseKey()))
	},
	"CanMessage": func(ctx context.Context, e *everything) error {
		return second(e.host.CanMessage(ctx, e.c[1].Address()))
	},
	"InboxState": func(ctx context.Context, e *everything) error {
		return second(e.host.InboxState(ctx, e.c[1].InboxID()))
	},
	"LocalState": func(ctx context.Context, e *everything) error { return second(e.c[0].LocalState(ctx)) },
	"NewGroup": func(ctx context.Context, e *everything) error {
		return second(e.v().NewGroup(ctx, []string{e.c[1].Address()}, conclave.GroupOptions{}))
	},
	"NewDm":                 func(ctx context.Context, e *everything) error { return second(e.v().NewDm(ctx, e.c[2].Address())) },
	"List":                  func(ctx context.Context, e *everything) error { return second(e.v().List(ctx)) },
	"ListAll":               func(ctx context.Context, e *everything) error { return second(e.v().ListAll(ctx)) },
	"ListDms":               func(ctx context.Context, e *everything) error { return second(e.v().ListDms(ctx)) },
	"Get":                   func(ctx context.Context, e *everything) error { return second(e.v().Get(ctx, e.g.ID())) },
	"Sync of conversations": func(ctx context.Context, e *everything) error { return e.v().Sync(ctx) },
	"SyncAll":               func(ctx context.Context, e *everything) error { return e.v().SyncAll(ctx) },
	"Info":                  func(ctx context.Context, e *everything) error { return second(e.g.Info(ctx)) },
	"IsActive":              func(ctx context.Context, e *everything) error { return second(e.g.IsActive(ctx)) },
	"Members":               func(ctx context.Context, e *everything) error { return second(e.g.Members(ctx)) },
	"Messages": func(ctx context.Context, e *everything) error {
		return second(e.g.Messages(ctx, conclave.MessageQuery{}))
	},
	"Send": func(ctx context.Context, e *everything) error { return second(e.g.Send(ctx, conclave.Text("more"))) },
	"Send to a direct message": func(ctx context.Context, e *everything) error {
		return second(e.dm.Send(ctx, conclave.Text("more")))
	},
	"Wait":       func(ctx context.Context, e *everything) error { return second(e.g.Wait(ctx, e.id)) },
	"UpdateName": func(ctx context.Context, e *everything) error { return e.g.UpdateName(ctx, time.Now().String()) },
	"UpdateKeys": func(ctx context.Context, e *everything) error { return e.g.UpdateKeys(ctx) },
	"AddMembers": func(ctx context.Context, e *everything) error {
		if err := e.g.AddMembers(ctx, e.c[2].Address()); err != nil {
			return err
		}
		return e.g.RemoveMembers(ctx, e.c[2].Address())
	},
	"DeleteLocalDatabase": func(ctx context.Context, e *everything) error {
		return e.c[2].DeleteLocalDatabase(ctx, conclave.DeleteOptions{Confirm: true})
	},
}

// Every call on a host that is closed says that it is.
func TestClosedHostIsNamed(t *testing.T) {
	w := newWorld(t)
	c := w.clients(3)
	g := w.newGroup(conclave.GroupOptions{}, c[:2]...)
	dm := must[*conclave.Dm](t)(c[0].Conversations().NewDm(w.ctx, c[1].Address()))
	e := &everything{w, c, g, dm, w.send(g, "before")}
	w.do(w.host.Close(w.ctx))
	for name, call := range publicCalls {
		if err := call(w.ctx, e); !errors.Is(err, conclave.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
