package conclave

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/conclave-chat/conclave/actors"
	"github.com/conclave-chat/conclave/group"
)

// Conversations are the groups of one installation.
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
// of every one of them is added by one commit and gets a welcome. It returns
// when the group is formed. No address at all is a group of one's own
// installations.
//
// Nothing is published where an address cannot be messaged
// (*MemberNotReachableError) or the group would be too large (*GroupFullError).
func (v Conversations) NewGroup(ctx context.Context, addresses []string, o GroupOptions) (*Group, error) {
	inboxes, err := v.reachable(ctx, addresses)
	if err != nil {
		return nil, err
	}
	return v.newGroup(ctx, inboxes, o)
}

// NewGroupWithInboxIDs is NewGroup by inbox id.
func (v Conversations) NewGroupWithInboxIDs(ctx context.Context, inboxes []string, o GroupOptions) (*Group, error) {
	return v.newGroup(ctx, slices.Clone(inboxes), o)
}

func (v Conversations) newGroup(ctx context.Context, inboxes []string, o GroupOptions) (*Group, error) {
	c := v.client
	system := c.host.system
	members := slices.DeleteFunc(inboxes, func(id string) bool { return id == c.info.Inbox })
	slices.Sort(members)
	members = slices.Compact(members)
	if limit := system.GroupSize(); len(members)+1 > limit {
		return nil, &GroupFullError{Limit: limit}
	}
	id, err := system.CreateGroup(ctx, c.info.ID, group.CreateConfig{
		Name: o.Name, ImageURL: o.ImageURL, Description: o.Description, Permissions: o.Permissions, Now: system.Now(),
	})
	if err != nil {
		return nil, fmt.Errorf("conclave: new group: %w", err)
	}
	g := &Group{c, id}
	if len(members) == 0 {
		state, err := system.State(ctx, c.info.Inbox)
		if err != nil || state == nil || len(state.Installations()) < 2 {
			return g, err
		}
		members = []string{c.info.Inbox} // brings the own other installations in
	}
	if err := g.add(ctx, members); err != nil {
		return nil, errors.Join(fmt.Errorf("conclave: new group: %w", err), system.Forget(ctx, c.info.ID, id))
	}
	return g, nil
}

// reachable turns addresses into inboxes that have an installation.
func (v Conversations) reachable(ctx context.Context, addresses []string) ([]string, error) {
	inboxes, err := v.client.host.lookUp(ctx, addresses)
	if err != nil {
		return nil, err
	}
	var missing []string
	for i, inbox := range inboxes {
		state := v.client.host.system.KnownState(inbox)
		if state == nil || len(state.Installations()) == 0 {
			missing = append(missing, addresses[i])
		}
	}
	if len(missing) > 0 {
		return nil, &MemberNotReachableError{missing}
	}
	return inboxes, nil
}

// List returns this installation's groups, from its local database.
func (v Conversations) List(ctx context.Context) ([]*Group, error) {
	ids, err := v.client.host.system.Groups(ctx, v.client.info.ID)
	if err != nil {
		return nil, fmt.Errorf("conclave: list groups: %w", err)
	}
	groups := make([]*Group, len(ids))
	for i, id := range ids {
		groups[i] = &Group{v.client, id}
	}
	return groups, nil
}

// Get returns one group, or ErrNoGroup.
func (v Conversations) Get(ctx context.Context, id GroupID) (*Group, error) {
	if _, err := v.client.host.system.Rows(ctx, v.client.info.ID, id); err != nil {
		return nil, err
	}
	return &Group{v.client, id}, nil
}

// Sync checks for welcomes and creates the groups that they bring. It reads no
// group's messages.
func (v Conversations) Sync(ctx context.Context) error {
	return v.client.host.system.SyncWelcomes(ctx, v.client.info.ID)
}

// SyncAll is Sync, and then Sync of every group.
func (v Conversations) SyncAll(ctx context.Context) error {
	if err := v.Sync(ctx); err != nil {
		return err
	}
	groups, err := v.List(ctx)
	if err != nil {
		return err
	}
	for _, g := range groups {
		err = errors.Join(err, g.Sync(ctx))
	}
	return err
}

// SyncEvery calls SyncAll about every d, a tenth more or less, until ctx ends. A
// round that takes longer delays the next. report, where not nil, hears of each
// round's error.
func (v Conversations) SyncEvery(ctx context.Context, d time.Duration, report func(error)) {
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
// ends or the loop is left.
func (v Conversations) Stream(ctx context.Context) iter.Seq2[*Group, error] {
	return stream(ctx, v.client, nil, actors.StreamConversations, func(it actors.Item) (*Group, error) {
		return &Group{v.client, it.Group}, nil
	})
}

// StreamAllMessages yields the messages of all groups, those joined later
// included: see Group.Stream.
func (v Conversations) StreamAllMessages(ctx context.Context) iter.Seq2[*Message, error] {
	return stream(ctx, v.client, nil, actors.StreamMessages, func(it actors.Item) (*Message, error) {
		return v.client.host.message(it.Group, it.Message)
	})
}

// stream begins at once, so that nothing is missed between the call and the
// loop; the sequence may be ranged over once.
func stream[T any](ctx context.Context, c *Client, id *GroupID, kind actors.StreamKind, show func(actors.Item) (T, error)) iter.Seq2[T, error] {
	st, err := c.host.system.Stream(ctx, c.info.ID, id, kind)
	if err != nil {
		return func(yield func(T, error) bool) {
			var none T
			yield(none, fmt.Errorf("conclave: start stream: %w", err))
		}
	}
	release := context.AfterFunc(ctx, func() { _ = st.Close() })
	return func(yield func(T, error) bool) {
		defer release()
		defer func() { _ = st.Close() }()
		for {
			items, err := st.Next(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, it := range items {
				if ctx.Err() != nil {
					return
				}
				if v, err := show(it); !yield(v, err) {
					return
				}
			}
		}
	}
}
