package features

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/bus"
	membus "github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	memstore "github.com/conclave-chat/conclave/persistence/memory"
)

// S22: who has no inbox, or an inbox without an installation, is named, and
// nothing is made here or on the network.
func TestUnreachableMembersAreNamed(t *testing.T) {
	wire, store := newWire(t, membus.Config{}), memstore.New()
	w := newWorld(t, wire.config, func(c *conclave.Config) { c.Store = store })
	c := w.clients(3)
	nobody := "0x00000000000000000000000000000000000000ff"
	bare := walletOnly(t, wire.Bus).Address()
	group := w.newGroup(conclave.GroupOptions{}, c[0], c[1])
	must[map[string]bool](t)(w.host.CanMessage(w.ctx, append(addresses(c...), bare)...))
	before := hashRows(t, store)
	wire.reset()
	_, err := c[0].Conversations().NewGroup(w.ctx, []string{c[1].Address(), nobody, bare}, conclave.GroupOptions{})
	for _, err := range []error{err, group.AddMembers(w.ctx, nobody, c[2].Address(), bare)} {
		var unreachable *conclave.MemberNotReachableError
		if !errors.As(err, &unreachable) || !errors.Is(err, conclave.ErrMemberNotReachable) || !slices.Equal(unreachable.Addresses, []string{nobody, bare}) {
			t.Errorf("got %v", err)
		}
	}
	if can := must[map[string]bool](t)(w.host.CanMessage(w.ctx, bare, nobody)); can[bare] || can[nobody] {
		t.Errorf("they can be messaged: %v", can)
	}
	if n := wire.tally().published; len(n) != 0 {
		t.Errorf("published %v", n)
	}
	if hashRows(t, store) != before {
		t.Error("the rows changed")
	}
}

// S23: members read the name, image and permissions that a group was made with;
// without any it has none and the default permissions.
func TestGroupOptionsReachMembers(t *testing.T) {
	w := newWorld(t)
	c := w.clients(2)
	o := conclave.GroupOptions{Name: "ops", ImageURL: "https://example.org/a.png", Description: "on call", Permissions: conclave.AdminOnly}
	named, plain := w.newGroup(o, c...), w.newGroup(conclave.GroupOptions{}, c...)
	info := must[conclave.Info](t)(w.of(c[1], named).Info(w.ctx))
	if info.Name != o.Name || info.ImageURL != o.ImageURL || info.Description != o.Description || info.Creator != c[0].InboxID() || info.AddedBy != c[0].InboxID() || info.CreatedAt.IsZero() {
		t.Errorf("a member reads %+v", info)
	}
	if err := w.of(c[1], named).UpdateName(w.ctx, "mine"); !errors.Is(err, conclave.ErrForbidden) {
		t.Errorf("a member of a group of admins renames it: %v", err)
	}
	if info := must[conclave.Info](t)(w.of(c[1], plain).Info(w.ctx)); info.Name != "" || info.ImageURL != "" || info.Description != "" {
		t.Errorf("a group without options has %+v", info)
	}
	w.do(w.of(c[1], plain).UpdateName(w.ctx, "everyone edits"))
}

// S24 S25: what a member who is no admin may do under each preset, and that the
// creator may always.
func TestPermissionPresets(t *testing.T) {
	for _, preset := range []struct {
		name                string
		permissions         conclave.Permissions
		add, remove, rename bool
	}{
		{"default", conclave.Default, true, false, true},
		{"admin only", conclave.AdminOnly, false, false, false},
		{"all members", conclave.AllMembers, true, true, true},
	} {
		t.Run(preset.name, func(t *testing.T) {
			w := newWorld(t)
			c := w.clients(4)
			mine := w.newGroup(conclave.GroupOptions{Permissions: preset.permissions}, c[0], c[1], c[2])
			theirs := w.of(c[1], mine)
			check := func(what string, may bool, err error) {
				t.Helper()
				if may && err != nil || !may && !errors.Is(err, conclave.ErrForbidden) {
					t.Errorf("a member wants to %s, may: %v, got %v", what, may, err)
				}
			}
			check("add", preset.add, theirs.AddMembers(w.ctx, c[3].Address()))
			check("rename", preset.rename, theirs.UpdateName(w.ctx, "theirs"))
			check("remove", preset.remove, theirs.RemoveMembers(w.ctx, c[2].Address()))
			check("change permissions", false, theirs.UpdatePermissions(w.ctx, conclave.AllMembers))
			check("make an admin", false, theirs.SetRole(w.ctx, c[1].InboxID(), conclave.RoleAdmin))

			mine = w.of(c[0], mine)
			w.do(mine.AddMembers(w.ctx, c[2].Address(), c[3].Address()))
			w.do(mine.UpdateName(w.ctx, "mine"))
			w.do(mine.RemoveMembers(w.ctx, c[3].Address()))
			w.do(mine.SetRole(w.ctx, c[1].InboxID(), conclave.RoleAdmin))
			if err := mine.SetRole(w.ctx, c[0].InboxID(), conclave.RoleMember); !errors.Is(err, conclave.ErrForbidden) {
				t.Errorf("the last super admin steps down: %v", err)
			}
			theirs = w.of(c[1], mine)
			w.do(theirs.UpdateName(w.ctx, "an admin's"))
			w.do(theirs.RemoveMembers(w.ctx, c[2].Address()))
			want := inboxesOf(c[0], c[1])
			if got := w.inboxes(w.of(c[0], mine)); !slices.Equal(got, want) {
				t.Errorf("at the end the members are %v, want %v", got, want)
			}
		})
	}
}

// S26: one member, two, and the limit less one, the limit and no more than the
// limit, which is configuration; what is too large is refused before anything
// is stored or published.
func TestGroupSize(t *testing.T) {
	wire, store := newWire(t, membus.Config{}), memstore.New()
	w := newWorld(t, wire.config, func(c *conclave.Config) { c.Store, c.GroupSize = store, 5 })
	c := w.clients(6)
	for _, n := range []int{1, 2, 4, 5} {
		if got := len(w.inboxes(w.newGroup(conclave.GroupOptions{}, c[:n]...))); got != n {
			t.Errorf("%d members, want %d", got, n)
		}
	}
	full := w.newGroup(conclave.GroupOptions{}, c[:5]...)
	must[map[string]bool](t)(w.host.CanMessage(w.ctx, addresses(c...)...)) // what was looked up is kept
	before := hashRows(t, store)
	wire.reset()
	_, err := c[0].Conversations().NewGroup(w.ctx, addresses(c...), conclave.GroupOptions{})
	for _, err := range []error{err, full.AddMembers(w.ctx, c[5].Address())} {
		var tooLarge *conclave.GroupFullError
		if !errors.As(err, &tooLarge) || tooLarge.Limit != 5 || !errors.Is(err, conclave.ErrGroupFull) {
			t.Errorf("got %v", err)
		}
	}
	if n := wire.tally().published; len(n) != 0 || hashRows(t, store) != before {
		t.Errorf("published %v, rows unchanged: %v", n, hashRows(t, store) == before)
	}
}

// S26 S28: 400 members, which is the limit where none is configured; what a
// member who is no admin commits all the same every receiver refuses.
func TestLargeModeratedGroup(t *testing.T) {
	wire, store := newWire(t, membus.Config{}), memstore.New()
	provider, seen := meter(t)
	w := newWorld(t, wire.config, func(c *conclave.Config) { c.Store, c.MeterProvider = store, provider })
	c := w.clients(401)
	if _, err := c[0].Conversations().NewGroup(w.ctx, addresses(c...), conclave.GroupOptions{}); !errors.Is(err, conclave.ErrGroupFull) {
		t.Fatalf("401 members: %v", err)
	}
	g := w.newGroup(conclave.GroupOptions{Name: "moderated", Permissions: conclave.AdminOnly}, c[:399]...)
	w.do(g.AddMembers(w.ctx, c[399].Address()))
	members := make([]*conclave.Group, 400)
	for i := range members {
		members[i] = w.of(c[i], g)
	}

	renames(t, wire, store, c[200], g.ID(), "taken over")
	w.send(members[7], "still here")
	for i, m := range members {
		if i == 200 {
			continue // has used a generation that its host does not know of
		}
		w.do(m.Sync(w.ctx))
		if info := must[conclave.Info](t)(m.Info(w.ctx)); info.Name != "moderated" || !info.Active || info.Stalled != "" {
			t.Fatalf("member %d sees %+v", i, info)
		}
		w.reads(m, "still here")
	}
	if n := seen("conclave.receive.rejected", "forbidden"); n < 399 {
		t.Errorf("%d members refused the commit, want at least 399", n)
	}
}

// S27: ten people with two installations each all read what one sends.
func TestSmallGroup(t *testing.T) {
	w := newWorld(t)
	var firsts, all []*conclave.Client
	for range 10 {
		wallet, _ := w.wallet()
		one, two := w.installation(wallet, "one"), w.installation(wallet, "two")
		firsts, all = append(firsts, one), append(all, one, two)
	}
	g := w.newGroup(conclave.GroupOptions{}, firsts...)
	w.send(g, "hello")
	for _, c := range all {
		w.reads(w.of(c, g), "hello")
	}
}

// S29: a group of one's own installations: all of them read, nobody else hears.
func TestGroupOfOne(t *testing.T) {
	wire := newWire(t, membus.Config{})
	w := newWorld(t, wire.config)
	wallet, _ := w.wallet()
	own := []*conclave.Client{w.installation(wallet, "1"), w.installation(wallet, "2"), w.installation(wallet, "3")}
	w.client()
	wire.reset()
	g := w.newGroup(conclave.GroupOptions{}, own[0])
	w.send(g, "note to self")
	for _, c := range own[1:] {
		w.reads(w.of(c, g), "note to self")
	}
	welcomes := wire.welcomes()
	for _, c := range own[1:] {
		id := c.InstallationID()
		delete(welcomes, must[bus.Topic](t)(bus.WelcomesFor(id[:])))
	}
	if len(welcomes) != 0 {
		t.Errorf("welcomes for somebody else: %v", welcomes)
	}
}

// welcomes counts the welcomes published since the last reset, by topic.
func (w *wire) welcomes() map[bus.Topic]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := map[bus.Topic]int{}
	for _, e := range w.sent {
		if e.Topic.Kind() == bus.Welcomes {
			n[e.Topic]++
		}
	}
	return n
}

// S30: every installation of every member gets one welcome of its own.
func TestEveryInstallationIsWelcomed(t *testing.T) {
	wire := newWire(t, membus.Config{})
	w := newWorld(t, wire.config)
	bo, _ := w.wallet()
	caro, _ := w.wallet()
	alix := w.client()
	invited := []*conclave.Client{w.installation(bo, "1"), w.installation(bo, "2"), w.installation(bo, "3"), w.installation(caro, "1"), w.installation(caro, "2")}
	wire.reset()
	g := must[*conclave.Group](t)(alix.Conversations().NewGroup(w.ctx, []string{bo.Address(), caro.Address()}, conclave.GroupOptions{}))
	different := map[string]bool{}
	for _, e := range wire.sent {
		if e.Topic.Kind() == bus.Welcomes {
			different[string(e.Payload)] = true
		}
	}
	welcomes := wire.welcomes()
	for _, c := range invited {
		id := c.InstallationID()
		if n := welcomes[must[bus.Topic](t)(bus.WelcomesFor(id[:]))]; n != 1 {
			t.Errorf("an installation got %d welcomes", n)
		}
		w.do(w.of(c, g).Sync(w.ctx))
	}
	// The sixth is the Welcome itself, which the five small ones lead to.
	if len(welcomes) != 6 || len(different) != 6 {
		t.Errorf("%d topics, %d ciphertexts, want 6 of each", len(welcomes), len(different))
	}
}

// S31: a welcome opens with the key it was made for, and with no other.
func TestSwappedWelcomesDoNotOpen(t *testing.T) {
	wire := newWire(t, membus.Config{})
	provider, seen := meter(t)
	w := newWorld(t, wire.config, func(c *conclave.Config) { c.MeterProvider = provider })
	c := w.clients(3)
	bo, caro := c[1].InstallationID(), c[2].InstallationID()
	boTopic, caroTopic := must[bus.Topic](t)(bus.WelcomesFor(bo[:])), must[bus.Topic](t)(bus.WelcomesFor(caro[:]))
	wire.redirect = func(topic bus.Topic) bus.Topic {
		switch topic {
		case boTopic:
			return caroTopic
		case caroTopic:
			return boTopic
		}
		return topic
	}
	w.newGroup(conclave.GroupOptions{}, c...)
	for _, member := range c[1:] {
		w.do(member.Conversations().Sync(w.ctx))
		if n := len(must[[]*conclave.Group](t)(member.Conversations().List(w.ctx))); n != 0 {
			t.Errorf("a foreign welcome made %d groups", n)
		}
	}
	if n := seen("conclave.receive.welcomes.rejected", ""); n != 2 {
		t.Errorf("%d welcomes were rejected, want 2", n)
	}
}

// S32 S33 S40: the creator sees the group at once; the others after Sync, or on
// a stream without any; a list never asks the network.
func TestWhoSeesANewGroup(t *testing.T) {
	wire := newWire(t, membus.Config{})
	w := newWorld(t, wire.config)
	listening := newWorld(t, func(c *conclave.Config) { c.Bus, c.ServeNode = wire.Bus, false })
	c := append(w.clients(2), listening.client())
	ctx, stop := context.WithCancel(w.ctx)
	defer stop()
	joined := c[2].Conversations().Stream(ctx)
	groups := []*conclave.Group{w.newGroup(conclave.GroupOptions{}, c...), w.newGroup(conclave.GroupOptions{}, c...)}
	lists := func(c *conclave.Client, want int) {
		t.Helper()
		if n := len(must[[]*conclave.Group](t)(c.Conversations().List(w.ctx))); n != want {
			t.Errorf("it lists %d groups, want %d", n, want)
		}
	}
	lists(c[0], 2)
	lists(c[1], 0)
	w.do(c[1].Conversations().Sync(w.ctx))
	lists(c[1], 2)
	for _, g := range groups {
		w.do(g.Sync(w.ctx)) // whatever its creator still had to do is done
	}
	wire.reset()
	lists(c[0], 2)
	lists(c[1], 2)
	if n := wire.tally().calls(); n != 0 {
		t.Errorf("the lists asked the network %d times", n)
	}
	var streamed []conclave.GroupID
	for g, err := range joined {
		w.do(err)
		if streamed = append(streamed, g.ID()); len(streamed) == len(groups) {
			break
		}
	}
	if !slices.Equal(streamed, []conclave.GroupID{groups[0].ID(), groups[1].ID()}) {
		t.Errorf("streamed %v", streamed)
	}
}

// S44 S45: who is removed learns it once, reads its history and cannot send;
// added again it can.
func TestRemovedAndAddedAgain(t *testing.T) {
	w := newWorld(t)
	c := w.clients(3)
	g := w.newGroup(conclave.GroupOptions{}, c...)
	ctx, stop := context.WithCancel(w.ctx)
	defer stop()
	changes, quit := pull(c[1].Conversations().StreamActive(ctx))
	defer quit()
	w.send(g, "while a member")
	theirs := w.of(c[1], g)
	if change := must[conclave.ActiveChange](t)(changes()); !change.Active || change.Group.ID() != g.ID() || change.AddedBy != c[0].InboxID() {
		t.Errorf("joining is told as %+v", change)
	}

	w.do(g.RemoveMembers(w.ctx, c[1].Address()))
	w.send(g, "after the removal")
	if change := must[conclave.ActiveChange](t)(changes()); change.Active || change.Group.ID() != g.ID() {
		t.Errorf("the removal is told as %+v", change)
	}
	w.do(theirs.Sync(w.ctx))
	if must[bool](t)(theirs.IsActive(w.ctx)) {
		t.Error("it is active after its removal")
	}
	w.reads(theirs, "while a member")
	history := must[[]*conclave.Message](t)(theirs.Messages(w.ctx, conclave.MessageQuery{}))
	last, ok := history[len(history)-1].Content.(*conclave.GroupUpdated)
	if !ok || !slices.Equal(last.Removed, []string{c[1].InboxID()}) {
		t.Errorf("its history ends with %+v", history[len(history)-1].Content)
	}
	if _, err := theirs.Send(w.ctx, conclave.Text("let me")); !errors.Is(err, conclave.ErrInactive) {
		t.Errorf("it sends: %v", err)
	}
	if err := theirs.UpdateName(w.ctx, "mine"); !errors.Is(err, conclave.ErrInactive) {
		t.Errorf("it renames: %v", err)
	}

	w.do(g.AddMembers(w.ctx, c[1].Address()))
	if change := must[conclave.ActiveChange](t)(changes()); !change.Active || change.AddedBy != c[0].InboxID() { // and not a second removal
		t.Errorf("being added again is told as %+v", change)
	}
	w.do(c[1].Conversations().SyncAll(w.ctx))
	if !must[bool](t)(theirs.IsActive(w.ctx)) {
		t.Error("it is not active after it was added again")
	}
	w.send(theirs, "back")
	w.reads(theirs, "while a member", "back")
	w.reads(w.of(c[2], g), "while a member", "after the removal", "back")
}

// S46: every member sees the same members, with all wallets of each.
func TestMembers(t *testing.T) {
	wire := newWire(t, membus.Config{})
	w := newWorld(t, wire.config)
	first, second := must[*ethereum.Key](t)(ethereum.GenerateKey()), must[*ethereum.Key](t)(ethereum.GenerateKey())
	two := w.installation(first, "")
	publish(t, wire.Bus, identity.NewDraft(two.InboxID(), time.Now()).Add(second.Identifier(), first.Identifier()), first, second)
	c := append([]*conclave.Client{two}, w.clients(3)...)
	g := w.newGroup(conclave.GroupOptions{}, c[1], c[0], c[2])
	w.do(g.AddMembers(w.ctx, c[3].Address()))
	w.do(g.RemoveMembers(w.ctx, c[2].Address()))
	want := inboxesOf(c[0], c[1], c[3])
	for _, member := range []*conclave.Client{c[0], c[1], c[3]} {
		theirs := w.of(member, g)
		if got := w.inboxes(theirs); !slices.Equal(got, want) {
			t.Errorf("members are %v, want %v", got, want)
		}
		for _, m := range must[[]conclave.Member](t)(theirs.Members(w.ctx)) {
			switch {
			case m.InboxID == two.InboxID():
				if len(m.Addresses) != 2 || !slices.Contains(m.Addresses, second.Address()) || !slices.Contains(m.Addresses, first.Address()) {
					t.Errorf("wallets of the member with two: %v", m.Addresses)
				}
			case len(m.Addresses) != 1 || len(m.Installations) != 1:
				t.Errorf("a member is %+v", m)
			}
			if role := m.Role; (role == conclave.RoleSuperAdmin) != (m.InboxID == c[1].InboxID()) {
				t.Errorf("%s is %v", m.InboxID, role)
			}
		}
	}
	// Either wallet leads to the same inbox.
	if err := g.RemoveMembers(w.ctx, second.Address()); err != nil || slices.Contains(w.inboxes(g), two.InboxID()) {
		t.Errorf("removing by the second wallet: %v", err)
	}
}

// S47 S62: two admins add different people at once; everybody ends with the
// union, and whoever lost the race tried again.
func TestAdminsInParallel(t *testing.T) {
	for _, atomicCommits := range []bool{true, false} {
		t.Run(fmt.Sprintf("compare and set %v", atomicCommits), func(t *testing.T) {
			wire := newWire(t, membus.Config{NoCompareAndSet: !atomicCommits})
			w := newWorld(t, wire.config)
			c := w.clients(8)
			g := w.newGroup(conclave.GroupOptions{}, c[0], c[1])
			w.do(g.SetRole(w.ctx, c[1].InboxID(), conclave.RoleAdmin))
			w.do(g.UpdateName(w.ctx, "named meanwhile"))
			theirs := must[*conclave.Group](t)(func() (*conclave.Group, error) {
				if err := c[1].Conversations().Sync(w.ctx); err != nil {
					return nil, err
				}
				return c[1].Conversations().Get(w.ctx, g.ID())
			}())
			var both sync.WaitGroup
			for i, admin := range []*conclave.Group{g, theirs} {
				both.Go(func() {
					for _, added := range c[2+3*i : 5+3*i] {
						if err := admin.AddMembers(w.ctx, added.Address()); err != nil {
							t.Error(err)
						}
					}
				})
			}
			both.Wait()
			want := inboxesOf(c...)
			for i, member := range c {
				if got := w.inboxes(w.of(member, g)); !slices.Equal(got, want) {
					t.Errorf("client %d sees %d members, want %d", i, len(got), len(want))
				}
			}
			if info := must[conclave.Info](t)(theirs.Info(w.ctx)); info.Name != "named meanwhile" {
				t.Errorf("whoever adds has not read the log: %+v", info)
			}
			w.send(theirs, "all of us")
			for _, member := range c {
				w.reads(w.of(member, g), "all of us")
			}
		})
	}
}

// Commands that make no sense are refused at once and change nothing.
func TestCommandsThatMakeNoSense(t *testing.T) {
	store := memstore.New()
	w := newWorld(t, func(c *conclave.Config) { c.Store = store })
	c := w.clients(3)
	g := w.newGroup(conclave.GroupOptions{}, c[0], c[1])
	must[map[string]bool](t)(w.host.CanMessage(w.ctx, addresses(c...)...))
	before := hashRows(t, store)
	for what, test := range map[string]struct {
		err, want error
	}{
		"remove somebody else":  {g.RemoveMembers(w.ctx, c[2].Address()), conclave.ErrNotMember},
		"remove oneself":        {g.RemoveMembers(w.ctx, c[0].Address()), conclave.ErrInvalid},
		"add nobody":            {g.AddMembersByInboxID(w.ctx), conclave.ErrInvalid},
		"add what is no inbox":  {g.AddMembersByInboxID(w.ctx, "*"), conclave.ErrInvalid},
		"a name that is long":   {g.UpdateName(w.ctx, strings.Repeat("x", 101)), conclave.ErrTooLarge},
		"a name in no encoding": {g.UpdateName(w.ctx, "\xff"), conclave.ErrInvalid},
		"an admin from outside": {g.SetRole(w.ctx, c[2].InboxID(), conclave.RoleAdmin), conclave.ErrNotMember},
		"retry what is not":     {g.Retry(w.ctx, conclave.MessageID{1}), conclave.ErrNoMessage},
	} {
		if !errors.Is(test.err, test.want) {
			t.Errorf("%s: %v, want %v", what, test.err, test.want)
		}
	}
	if hashRows(t, store) != before {
		t.Error("the rows changed")
	}
}
