package conclave

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/conclave-chat/conclave/actors"
	"github.com/conclave-chat/conclave/group"
)

// Conversations are the groups and direct messages of one installation.
type Conversations struct{ client *Client }

// Permissions are a group's permission preset.
type Permissions = group.Preset

const (
	Default    Permissions = group.PresetDefault    // everyone adds and edits, removing stays with admins: XMTP's today
	AdminOnly  Permissions = group.PresetAdminOnly  // only admins change anything; at first that is the creator
	AllMembers Permissions = group.PresetAllMembers // everyone adds, removes and edits
)

// GroupOptions are a new group's.
type GroupOptions struct {
	Name        string
	ImageURL    string
	Description string
	Permissions Permissions
}

// NewGroup makes a group with the owners of the addresses: every installation
// of every one of them is added and gets a welcome. It returns when the group is
// formed. No address at all is a group of one's own installations.
//
// Nothing is stored or published where an address cannot be messaged
// (*MemberNotReachableError) or the group would be too large (*GroupFullError).
// Where ctx ends first, the group is in List and goes on being formed.
func (v Conversations) NewGroup(ctx context.Context, addresses []string, o GroupOptions) (_ *Group, err error) {
	defer failing("new group", &err)
	if err := v.check(ctx); err != nil {
		return nil, err
	}
	inboxes, err := v.client.host.inboxes(ctx, addresses)
	if err != nil {
		return nil, err
	}
	return v.newGroup(ctx, inboxes, o)
}

// NewGroupWithInboxIDs is NewGroup by inbox id.
func (v Conversations) NewGroupWithInboxIDs(ctx context.Context, inboxes []string, o GroupOptions) (_ *Group, err error) {
	defer failing("new group", &err)
	if err := v.check(ctx); err != nil {
		return nil, err
	}
	if err := v.client.host.checkReachable(ctx, inboxes, inboxes); err != nil {
		return nil, err
	}
	return v.newGroup(ctx, slices.Clone(inboxes), o)
}

func (v Conversations) newGroup(ctx context.Context, inboxes []string, o GroupOptions) (*Group, error) {
	c := v.client
	system := c.host.system
	if !o.Permissions.Valid() {
		return nil, fmt.Errorf("%w: GroupOptions.Permissions is %d: give Default, AdminOnly or AllMembers", ErrInvalid, o.Permissions)
	}
	members := slices.DeleteFunc(inboxes, func(id string) bool { return id == c.info.Inbox })
	slices.Sort(members)
	members = slices.Compact(members)
	if limit := system.GroupSize(); len(members)+1 > limit {
		return nil, &GroupFullError{Limit: limit}
	}
	if len(members) == 0 { // else whoever is added shows it
		if err := system.Revoked(ctx, c.info.ID); err != nil {
			return nil, err
		}
	}
	id, err := system.CreateGroup(ctx, c.info.ID, group.CreateConfig{
		Name: o.Name, ImageURL: o.ImageURL, Description: o.Description, Permissions: o.Permissions, Now: system.Now(),
	})
	if err != nil {
		return nil, err
	}
	g := &Group{c, id}
	if len(members) == 0 {
		state, err := system.State(ctx, c.info.Inbox)
		if err != nil || state == nil || len(state.Installations()) < 2 {
			return g, err
		}
		members = []string{c.info.Inbox} // brings the own other installations in
	}
	formed, err := v.form(ctx, g, members)
	if !formed {
		return nil, err
	}
	return g, err
}

// form adds the first members to a new group. One that is not formed for good
// is forgotten.
func (v Conversations) form(ctx context.Context, g *Group, members []string) (formed bool, err error) {
	err = g.add(ctx, members)
	if err == nil || ctx.Err() != nil {
		return true, err
	}
	if info, infoErr := g.Info(ctx); infoErr == nil && info.Epoch > 0 {
		return true, err // formed, without those whom the error names
	}
	return false, errors.Join(err, v.client.host.system.Forget(ctx, v.client.info.ID, g.id))
}

// inboxes turns addresses into inboxes that can be added to a group.
func (h *Host) inboxes(ctx context.Context, addresses []string) ([]string, error) {
	inboxes, err := h.lookUp(ctx, addresses)
	if err != nil {
		return nil, err
	}
	return inboxes, h.checkReachable(ctx, inboxes, addresses)
}

// checkReachable names those of the inboxes that cannot be added to a group, by
// the names that the caller has for them.
func (h *Host) checkReachable(ctx context.Context, inboxes, names []string) error {
	can, err := h.system.Reachable(ctx, inboxes)
	if err != nil {
		return err
	}
	var missing []string
	for i, inbox := range inboxes {
		if !can[inbox] {
			missing = append(missing, names[i])
		}
	}
	if len(missing) > 0 {
		return &MemberNotReachableError{missing}
	}
	return nil
}

// List returns this installation's groups, from its local database. Direct
// messages are in ListDms, and both in ListAll.
func (v Conversations) List(ctx context.Context) (_ []*Group, err error) {
	defer failing("list groups", &err)
	if err := v.check(ctx); err != nil {
		return nil, err
	}
	all, err := v.client.host.system.Conversations(ctx, v.client.info.ID, actors.Scope{Kind: group.KindGroup})
	if err != nil {
		return nil, err
	}
	groups := make([]*Group, len(all))
	for i, c := range oneEach(all) {
		groups[i] = &Group{v.client, c.ID}
	}
	return groups, nil
}

// Get returns one group, or ErrNoGroup. It takes a group of a direct message as
// well, so that whatever Message.Group names can be answered.
func (v Conversations) Get(ctx context.Context, id GroupID) (_ *Group, err error) {
	defer failing("get group", &err)
	if err := v.check(ctx); err != nil {
		return nil, err
	}
	if _, err := v.client.host.system.Conversation(ctx, v.client.info.ID, id); err != nil {
		return nil, err
	}
	return &Group{v.client, id}, nil
}

// Sync checks for welcomes and creates the groups that they bring. It reads no
// group's messages.
func (v Conversations) Sync(ctx context.Context) (err error) {
	defer failing("sync", &err)
	if err := v.check(ctx); err != nil {
		return err
	}
	return v.client.host.system.SyncWelcomes(ctx, v.client.info.ID)
}

// SyncAll is Sync, and then Sync of every group: one question to the network for
// each thousand groups, and what is new of those that have news. What cannot be
// synced keeps nothing else: the error names each such group and why, up to a bound.
func (v Conversations) SyncAll(ctx context.Context) (err error) {
	defer failing("sync", &err)
	if err := v.check(ctx); err != nil {
		return err
	}
	return errors.Join(v.client.host.system.SyncWelcomes(ctx, v.client.info.ID), v.client.host.system.SyncGroups(ctx, v.client.info.ID))
}

// SyncEvery calls SyncAll about every d, a tenth more or less, until ctx ends. A
// round that takes longer delays the next. report, where not nil, hears of each
// round's error, and of arguments that make no sense, upon which SyncEvery returns.
func (v Conversations) SyncEvery(ctx context.Context, d time.Duration, report func(error)) {
	err := v.check(ctx)
	if err == nil && d <= 0 {
		err = fmt.Errorf("%w: an interval of %v: give more than 0", ErrInvalid, d)
	}
	if failing("sync", &err); err != nil {
		if report != nil {
			report(err)
		}
		return
	}
	for {
		select {
		case <-time.After(d - d/10 + rand.N(max(d/5, 1))):
		case <-ctx.Done():
			return
		}
		if err := v.SyncAll(ctx); report != nil && ctx.Err() == nil {
			report(err)
		}
	}
}

// Stream yields each group that this installation joins from now on, until ctx
// ends or the loop is left. Like every stream it begins with the call, not with
// the loop, and is for one loop: so nothing is missed in between.
func (v Conversations) Stream(ctx context.Context) iter.Seq2[*Group, error] {
	return stream(ctx, v.client, actors.Scope{Kind: group.KindGroup}, actors.StreamConversations, func(it actors.Item) (*Group, error) {
		return &Group{v.client, it.Group}, nil
	})
}

// StreamAllMessages yields the messages of all groups and direct messages, those
// joined later included: see Group.Stream.
func (v Conversations) StreamAllMessages(ctx context.Context) iter.Seq2[*Message, error] {
	return stream(ctx, v.client, actors.Scope{}, actors.StreamMessages, func(it actors.Item) (*Message, error) {
		return v.client.host.message(it.Group, it.Message)
	})
}

// An ActiveChange says that this installation became a member of a group, or
// stopped being one: then nothing can be sent there any more, and the history
// stays.
type ActiveChange struct {
	Group   *Group
	Active  bool
	AddedBy string // the inbox that added it, where it became a member
}

// StreamActive yields each change of Group.IsActive in any group, once, for
// apps that show whether one can write. A removal is also in the group's
// messages, as a *GroupUpdated that names this inbox.
func (v Conversations) StreamActive(ctx context.Context) iter.Seq2[ActiveChange, error] {
	return stream(ctx, v.client, actors.Scope{}, actors.StreamActive, func(it actors.Item) (ActiveChange, error) {
		return ActiveChange{&Group{v.client, it.Group}, it.Active, it.AddedBy}, nil
	})
}

// A StandingChange says that this installation stands otherwise to a group's log,
// and why where it does not simply follow it.
type StandingChange struct {
	Group    *Group
	Standing Standing
	Reason   string
}

// StreamStandings yields each change of Info.Standing in any group, for services
// that raise an alarm where one cannot go on.
func (v Conversations) StreamStandings(ctx context.Context) iter.Seq2[StandingChange, error] {
	return stream(ctx, v.client, actors.Scope{}, actors.StreamStandings, func(it actors.Item) (StandingChange, error) {
		return StandingChange{&Group{v.client, it.Group}, it.Standing, it.Reason}, nil
	})
}

// stream starts a stream of a client's news. Its sequence is for one loop.
func stream[T any](ctx context.Context, c *Client, scope actors.Scope, kind actors.StreamKind, show func(actors.Item) (T, error)) iter.Seq2[T, error] {
	err := c.check(ctx)
	if err != nil {
		return failed[T](err)
	}
	st, err := c.host.system.Stream(ctx, c.info.ID, scope, kind)
	if err != nil {
		return failed[T](err)
	}
	release := context.AfterFunc(ctx, func() { _ = st.Close() })
	var used atomic.Bool
	return func(yield func(T, error) bool) {
		if used.Swap(true) && ctx.Err() == nil {
			failed[T](ErrStreamUsed)(yield)
			return
		}
		defer release()
		defer func() { _ = st.Close() }()
		for {
			items, err := st.Next(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				failed[T](err)(yield)
				return
			}
			for _, it := range items {
				if ctx.Err() != nil {
					return
				}
				v, err := show(it)
				if failing("stream", &err); !yield(v, err) {
					return
				}
			}
		}
	}
}

// failed is a stream that yields an error and nothing else.
func failed[T any](err error) iter.Seq2[T, error] {
	failing("stream", &err)
	return func(yield func(T, error) bool) {
		var none T
		yield(none, err)
	}
}
