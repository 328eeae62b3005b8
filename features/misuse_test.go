package features

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-chat/conclave"
	membus "github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity/ethereum"
	memstore "github.com/conclave-chat/conclave/persistence/memory"
)

var (
	errorType   = reflect.TypeFor[error]()
	contextType = reflect.TypeFor[context.Context]()
)

// calls calls every exported method of a value, each with the zero value of every
// argument but the context, and hands over what came: errors that are returned,
// and those that a stream yields.
func calls(t *testing.T, ctx context.Context, receiver any, except []string, see func(method string, err error)) {
	t.Helper()
	v := reflect.ValueOf(receiver)
	for i := range v.NumMethod() {
		name, m := v.Type().Method(i).Name, v.Method(i)
		if slices.Contains(except, name) {
			continue
		}
		args := make([]reflect.Value, m.Type().NumIn())
		for j := range args {
			in := m.Type().In(j)
			args[j] = reflect.Zero(in)
			if in == contextType && ctx != nil {
				args[j] = reflect.ValueOf(ctx)
			}
		}
		func() {
			defer func() {
				if p := recover(); p != nil {
					t.Errorf("%T.%s panics: %v", receiver, name, p)
				}
			}()
			call := m.Call
			if m.Type().IsVariadic() {
				call = m.CallSlice
			}
			for _, out := range call(args) {
				switch {
				case out.Type() == errorType:
					err, _ := out.Interface().(error)
					see(name, err)
				case out.Kind() == reflect.Func && (ctx == nil || ctx.Err() != nil):
					for _, pair := range reflect.ValueOf(out.Interface()).Seq2() {
						err, _ := pair.Interface().(error)
						see(name, err)
					}
				}
			}
		}()
	}
}

// Handles that nobody made and contexts that are nil are errors that say so, and no
// panic, in every method there is.
func TestZeroHandlesAndNilContexts(t *testing.T) {
	w := newWorld(t)
	c := w.clients(2)
	g, dm := w.newGroup(conclave.GroupOptions{}, c...), w.dm(c[0], c[1])
	invalid := func(what string) func(string, error) {
		return func(method string, err error) {
			var e *conclave.Error
			if !errors.Is(err, conclave.ErrInvalid) || !errors.As(err, &e) || e.Code != "invalid" {
				t.Errorf("%s: %s: %v", what, method, err)
			}
		}
	}
	for _, zero := range []any{
		new(conclave.Host), (*conclave.Host)(nil), new(conclave.Client), (*conclave.Client)(nil), conclave.Conversations{},
		new(conclave.Client).Conversations(), new(conclave.Group), (*conclave.Group)(nil), new(conclave.Dm), (*conclave.Dm)(nil),
	} {
		except := []string{}
		if host, ok := zero.(*conclave.Host); ok && host != nil {
			except = append(except, "Close") // what was never opened is closed
		}
		calls(t, t.Context(), zero, except, invalid(fmt.Sprintf("a zero %T", zero)))
	}
	for _, live := range []any{w.host, c[0], c[0].Conversations(), g, dm} {
		calls(t, nil, live, nil, invalid("a nil context"))
	}
	for _, what := range []any{(*conclave.Message)(nil), new(conclave.Message)} {
		calls(t, t.Context(), what, nil, invalid("a message"))
	}
	var none context.Context
	if _, err := conclave.Open(none, conclave.Config{Dir: t.TempDir()}); !errors.Is(err, conclave.ErrInvalid) {
		t.Errorf("open without a context: %v", err)
	}
}

// Arguments that are missing or that no type has are errors with a code, and no
// panic; nothing is stored and nobody is asked.
func TestArgumentsThatMakeNoSense(t *testing.T) {
	wire, store := newWire(t, membus.Config{}), memstore.New()
	w := newWorld(t, wire.config, func(c *conclave.Config) { c.Store = store })
	c := w.clients(3)
	g, dm := w.newGroup(conclave.GroupOptions{Name: "as it was"}, c[:2]...), w.dm(c[0], c[1])
	must[map[string]bool](t)(w.host.CanMessage(w.ctx, addresses(c...)...)) // so that their identities are stored
	before := hashRows(t, store)
	wire.reset()
	for live, except := range map[any][]string{
		w.host: {"Close"}, c[0]: {"Close", "HmacKeys"}, g: {"UpdateName", "UpdateImageURL", "UpdateDescription", "UpdatePermissions", "UpdateKeys", "Sync", "Stream"},
		dm:                   {"UpdateKeys", "Sync", "Stream"},
		c[0].Conversations(): {"NewGroup", "NewGroupWithInboxIDs", "Sync", "SyncAll", "Stream", "StreamAllMessages", "StreamDms", "StreamActive", "StreamStandings"},
	} {
		calls(t, w.ctx, live, except, func(method string, err error) {
			if err != nil && !errors.As(err, new(*conclave.Error)) {
				t.Errorf("%T.%s with nothing: %T %v", live, method, err, err)
			}
		})
	}
	var noKey *ethereum.Key
	var noUpdate *conclave.GroupUpdated
	var report error
	_, send := g.Send(w.ctx, nil)
	_, sendTyped := g.Send(w.ctx, noUpdate)
	_, option := g.Send(w.ctx, conclave.Text("x"), nil)
	_, dmSend := dm.Send(w.ctx, nil)
	_, create := w.host.CreateClient(w.ctx, nil, conclave.ClientOptions{})
	_, createTyped := w.host.CreateClient(w.ctx, noKey, conclave.ClientOptions{})
	_, newGroup := c[0].Conversations().NewGroup(w.ctx, nil, conclave.GroupOptions{Permissions: 77})
	_, status := g.Messages(w.ctx, conclave.MessageQuery{Status: 9})
	_, dmStatus := dm.Messages(w.ctx, conclave.MessageQuery{Status: 9})
	_, limit := g.Messages(w.ctx, conclave.MessageQuery{Limit: -1})
	_, dmLimit := dm.Messages(w.ctx, conclave.MessageQuery{Limit: -1})
	c[0].Conversations().SyncEvery(w.ctx, 0, func(err error) { report = err })
	_, dmOfNobody := c[0].Conversations().GetDmByInboxID(w.ctx, "nobody")
	for what, err := range map[string]error{
		"nil content": send, "a nil content of some type": sendTyped, "nil option": option, "nil content to a direct message": dmSend,
		"nil wallet": create, "a nil wallet of some type": createTyped, "nil wallet that is added": c[0].AddAccount(w.ctx, nil),
		"nil wallet that revokes": c[0].RevokeAllOtherInstallations(w.ctx, nil), "nil wallet that removes": c[0].RemoveAccount(w.ctx, nil, c[1].Address()),
		"nil wallet of the host": w.host.RevokeInstallations(w.ctx, nil, c[0].InboxID()),
		"role 9":                 g.SetRole(w.ctx, c[1].InboxID(), 9), "role of what is no inbox": g.SetRole(w.ctx, "nobody", conclave.RoleAdmin),
		"permissions 77": g.UpdatePermissions(w.ctx, 77), "permissions 77 of a new group": newGroup,
		"status 9": status, "status 9 of a direct message": dmStatus, "limit -1": limit, "limit -1 of a direct message": dmLimit,
		"every 0": report, "a direct message with what is no inbox": dmOfNobody,
		"no handler": conclave.Handle[*conclave.Message](w.ctx, func(func(*conclave.Message, error) bool) {}, nil, conclave.HandlerOptions{}),
		"no stream":  conclave.Handle(w.ctx, nil, func(context.Context, *conclave.Message) error { return nil }, conclave.HandlerOptions{}),
	} {
		if !errors.Is(err, conclave.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	stranger := c[2]
	for what, err := range map[string]error{
		"remove": g.RemoveMembers(w.ctx, stranger.Address()), "remove an address of nobody": g.RemoveMembers(w.ctx, must[*ethereum.Key](t)(ethereum.GenerateKey()).Address()),
		"role": g.SetRole(w.ctx, stranger.InboxID(), conclave.RoleMember), "higher role": g.SetRole(w.ctx, stranger.InboxID(), conclave.RoleAdmin),
	} {
		if !errors.Is(err, conclave.ErrNotMember) || strings.Contains(err.Error(), "open a client") {
			t.Errorf("%s of who is no member: %v", what, err)
		}
	}
	if n := wire.tally().published; len(n) != 0 || hashRows(t, store) != before {
		t.Errorf("published %v, or the rows changed", n)
	}
	for name, c := range map[string]conclave.Config{
		"Config.Sharing": {Sharing: 7}, "Config.IdleAfter": {IdleAfter: -1}, "Config.GroupSize": {GroupSize: -1}, "Config.Codecs": {Codecs: make([]conclave.Codec, 1)},
		"Config.Chains": {Chains: map[uint64]string{1: "ftp://example.org"}},
	} {
		c.Dir = t.TempDir()
		if _, err := conclave.Open(t.Context(), c); !errors.Is(err, conclave.ErrInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A stream is for one loop, and says so to a second one.
func TestSecondLoopOverAStream(t *testing.T) {
	w := newWorld(t)
	c := w.clients(2)
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	stream := c[1].Conversations().StreamAllMessages(ctx)
	g := w.newGroup(conclave.GroupOptions{}, c...)
	w.send(g, "one")
	for _, err := range stream {
		w.do(err)
		break
	}
	var got error
	for _, err := range stream {
		got = err
	}
	if !errors.Is(got, conclave.ErrStreamUsed) || errors.Is(got, conclave.ErrClosed) {
		t.Errorf("a second loop: %v", got)
	}
	cancel()
	for _, err := range stream {
		t.Errorf("after its context: %v", err)
	}
}

// Ids are hex in JSON, and roles, permissions, statuses and standings are words; all
// can be read back, and what is none of them is refused.
func TestJSON(t *testing.T) {
	type all struct {
		Group        conclave.GroupID
		Installation conclave.InstallationID
		Message      conclave.MessageID
		Role         conclave.Role
		Permissions  conclave.Permissions
		Status       conclave.DeliveryStatus
		Kind         conclave.MessageKind
		Standing     conclave.Standing
		Sharing      conclave.Sharing
		Keys         map[conclave.GroupID]conclave.Key
	}
	in := all{
		conclave.GroupID{1}, conclave.InstallationID{2}, conclave.MessageID{3}, conclave.RoleSuperAdmin, conclave.AdminOnly,
		conclave.Published, conclave.MembershipChange, conclave.StandingFollowing, conclave.ShareNone, nil,
	}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"Group":"01` + strings.Repeat("00", 15) + `","Installation":"02` + strings.Repeat("00", 31) + `","Message":"03` + strings.Repeat("00", 31) +
		`","Role":"super_admin","Permissions":"admin_only","Status":"published","Kind":"membership_change","Standing":"following","Sharing":"none","Keys":null}`
	if string(b) != want {
		t.Errorf("JSON is\n%s, want\n%s", b, want)
	}
	var out all
	if err := json.Unmarshal(b, &out); err != nil || !reflect.DeepEqual(in, out) {
		t.Errorf("reads back as %+v: %v", out, err)
	}
	for _, bad := range []string{
		`{"Group":"01"}`, `{"Group":"` + strings.Repeat("AB", 16) + `"}`, `{"Installation":"zz"}`, `{"Message":""}`, `{"Role":"king"}`, `{"Role":""}`,
		`{"Permissions":"none"}`, `{"Status":"lost"}`, `{"Standing":"tall"}`, `{"Sharing":"all"}`,
	} {
		if err := json.Unmarshal([]byte(bad), new(all)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	for _, bad := range []any{conclave.Role(9), conclave.Permissions(77), conclave.DeliveryStatus(9), conclave.MessageKind(9), conclave.Standing(99), conclave.Sharing(7)} {
		if b, err := json.Marshal(bad); err == nil {
			t.Errorf("%T %v is written as %s", bad, bad, b)
		}
	}
	w := newWorld(t)
	g := w.newGroup(conclave.GroupOptions{}, w.clients(2)...)
	w.send(g, "hello")
	for what, v := range map[string]any{
		"messages": must[[]*conclave.Message](t)(g.Messages(w.ctx, conclave.MessageQuery{})), "info": must[conclave.Info](t)(g.Info(w.ctx)),
		"members": must[[]conclave.Member](t)(g.Members(w.ctx)), "a failure": conclave.HandlerFailure{Err: errors.Join(conclave.ErrClosed)},
	} {
		if b, err := json.Marshal(v); err != nil || strings.Contains(string(b), ",0,") {
			t.Errorf("%s in JSON: %s %v", what, b, err)
		}
	}
}

// A wallet's installation opens again at the next start without any key, and by its
// id as well; another host's store has another secret.
func TestCreateClientWithoutAKeyTwice(t *testing.T) {
	dir, wallet := t.TempDir(), must[*ethereum.Key](t)(ethereum.GenerateKey())
	var first *conclave.Client
	for range 2 {
		w := newWorld(t, func(c *conclave.Config) { *c = conclave.Config{Dir: dir} })
		c := must[*conclave.Client](t)(w.host.CreateClient(w.ctx, wallet, conclave.ClientOptions{}))
		if first == nil {
			first = c
		}
		if c.InstallationID() != first.InstallationID() || c.DatabaseKey() != first.DatabaseKey() {
			t.Error("another installation")
		}
		w.do(c.Close(w.ctx))
		loaded := must[*conclave.Client](t)(w.host.LoadClient(w.ctx, c.InstallationID(), conclave.Key{}))
		if loaded.DatabaseKey() != first.DatabaseKey() {
			t.Error("another key")
		}
		w.do(w.host.Close(w.ctx))
	}
	elsewhere := newWorld(t)
	if c := elsewhere.client(); c.DatabaseKey() == first.DatabaseKey() || c.DatabaseKey() == (conclave.Key{}) {
		t.Error("two hosts have one key")
	}
}
