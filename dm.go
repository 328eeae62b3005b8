package conclave

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/conclave-chat/conclave/actors"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
)

// A Conversation is a *Group or a *Dm.
type Conversation interface {
	ID() GroupID
	Info(ctx context.Context) (Info, error)
	IsActive(ctx context.Context) (bool, error)
	Members(ctx context.Context) ([]Member, error)
	Sync(ctx context.Context) error
	Send(ctx context.Context, c Content, opts ...SendOption) (MessageID, error)
	Wait(ctx context.Context, id MessageID) (DeliveryStatus, error)
	Retry(ctx context.Context, id MessageID) error
	UpdateKeys(ctx context.Context) error
	Messages(ctx context.Context, q MessageQuery) ([]*Message, error)
	Stream(ctx context.Context) iter.Seq2[*Message, error]
}

// A Dm is one installation's handle on a direct message: a conversation of two
// inboxes that nobody else joins, and where neither is above the other.
//
// Both sides may have begun it at the same time, each with a group of its own.
// They are one conversation nevertheless: it has the messages of all its groups,
// and what is sent goes to the one with the newest message, which in the end is
// the same on both sides. Like a Group it holds no state.
type Dm struct {
	client *Client
	peer   string // inbox id
	id     GroupID
}

// NewDm opens the direct message with the owner of an address: the one there is,
// or a new one, to which all installations of theirs are added.
//
// Nothing is stored or published where the address cannot be messaged
// (*MemberNotReachableError). Where ctx ends first, the conversation is in
// ListDms and goes on being formed.
func (v Conversations) NewDm(ctx context.Context, address string) (_ *Dm, err error) {
	defer failing("new direct message", &err)
	if err := v.check(ctx); err != nil {
		return nil, err
	}
	inboxes, err := v.client.host.lookUp(ctx, []string{address})
	if err != nil {
		return nil, err
	}
	if inboxes[0] == "" {
		return nil, &MemberNotReachableError{[]string{address}}
	}
	return v.openDm(ctx, inboxes[0], address)
}

// NewDmWithInboxID is NewDm by inbox id.
func (v Conversations) NewDmWithInboxID(ctx context.Context, inbox string) (_ *Dm, err error) {
	defer failing("new direct message", &err)
	if err := v.check(ctx); err != nil {
		return nil, err
	}
	return v.openDm(ctx, inbox, inbox)
}

func (v Conversations) openDm(ctx context.Context, inbox, name string) (*Dm, error) {
	c := v.client
	dm, err := v.GetDmByInboxID(ctx, inbox)
	if !errors.Is(err, ErrNoGroup) {
		if err != nil {
			return nil, err
		}
		if formed, err := dm.isFormed(ctx); formed || err != nil {
			return dm, err
		}
	}
	if err := c.host.checkReachable(ctx, []string{inbox}, []string{name}); err != nil {
		return nil, err
	}
	id, err := c.host.system.OpenDM(ctx, c.info.ID, inbox)
	if err != nil {
		return nil, err
	}
	dm = &Dm{c, inbox, id}
	if formed, err := dm.isFormed(ctx); formed || err != nil {
		return dm, err
	}
	formed, err := v.form(ctx, &Group{c, id}, []string{inbox})
	if !formed {
		return nil, err
	}
	return dm, err
}

// isFormed reports whether the other side is in the group. Where a host stopped
// halfway, it is not.
func (d *Dm) isFormed(ctx context.Context) (bool, error) {
	return look(ctx, &Group{d.client, d.id}, func(r *group.Replica) bool {
		_, there := r.Metadata().Members[d.peer]
		return there
	})
}

// GetDmByInboxID returns the direct message with an inbox, or ErrNoGroup.
func (v Conversations) GetDmByInboxID(ctx context.Context, inbox string) (_ *Dm, err error) {
	defer failing("get direct message", &err)
	if err := v.check(ctx); err != nil {
		return nil, err
	}
	if _, err := identity.ParseInboxID(inbox); err != nil {
		return nil, err
	}
	dm := &Dm{client: v.client, peer: inbox}
	groups, err := dm.groups(ctx)
	if err != nil {
		return nil, err
	}
	dm.id = groups[0].id
	return dm, nil
}

// ListDms returns this installation's direct messages, one for each inbox, from
// its local database.
func (v Conversations) ListDms(ctx context.Context) (_ []*Dm, err error) {
	defer failing("list direct messages", &err)
	if err := v.check(ctx); err != nil {
		return nil, err
	}
	all, err := v.client.host.system.Conversations(ctx, v.client.info.ID, actors.Scope{Kind: group.KindDM})
	if err != nil {
		return nil, err
	}
	var dms []*Dm
	for _, c := range oneEach(all) {
		dm, err := v.GetDmByInboxID(ctx, v.client.peerOf(c))
		if err != nil {
			return nil, err
		}
		dms = append(dms, dm)
	}
	return dms, nil
}

// oneEach leaves one group of each direct message, in the order of their ids.
func oneEach(all []actors.Conversation) []actors.Conversation {
	slices.SortFunc(all, func(a, b actors.Conversation) int {
		return cmp.Or(cmp.Compare(a.DM, b.DM), bytes.Compare(a.ID[:], b.ID[:]))
	})
	return slices.CompactFunc(all, func(a, b actors.Conversation) bool { return a.DM != "" && a.DM == b.DM })
}

// peerOf returns the other inbox of a direct message.
func (c *Client) peerOf(dm actors.Conversation) string {
	if dm.Members[0] == c.info.Inbox {
		return dm.Members[1]
	}
	return dm.Members[0]
}

// ListAll returns groups and direct messages together, those with the newest
// message first.
func (v Conversations) ListAll(ctx context.Context) (_ []Conversation, err error) {
	defer failing("list conversations", &err)
	if err := v.check(ctx); err != nil {
		return nil, err
	}
	c := v.client
	all, err := c.host.system.Conversations(ctx, c.info.ID, actors.Scope{})
	if err != nil {
		return nil, err
	}
	newest := map[string]time.Time{} // by the id of the group, or of the direct message
	of := func(conversation actors.Conversation) string {
		return cmp.Or(conversation.DM, conversation.ID.String())
	}
	for _, conversation := range all {
		at, err := (&Group{c, conversation.ID}).lastActivity(ctx)
		if err != nil {
			return nil, err
		}
		if key := of(conversation); at.After(newest[key]) {
			newest[key] = at
		}
	}
	all = oneEach(all)
	slices.SortStableFunc(all, func(a, b actors.Conversation) int { return newest[of(b)].Compare(newest[of(a)]) })
	out := make([]Conversation, len(all))
	for i, conversation := range all {
		if conversation.DM == "" {
			out[i] = &Group{c, conversation.ID}
		} else if out[i], err = v.GetDmByInboxID(ctx, c.peerOf(conversation)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// StreamDms yields each direct message that somebody begins with this
// installation from now on: see Stream.
func (v Conversations) StreamDms(ctx context.Context) iter.Seq2[*Dm, error] {
	return stream(ctx, v.client, actors.Scope{Kind: group.KindDM}, actors.StreamConversations, func(it actors.Item) (*Dm, error) {
		return &Dm{v.client, v.client.peerOf(it.Conversation), it.Group}, nil
	})
}

// lastActivity is when the newest message was published.
func (g *Group) lastActivity(ctx context.Context) (time.Time, error) {
	rows, err := g.client.host.system.Rows(ctx, g.client.info.ID, g.id)
	if err != nil {
		return time.Time{}, err
	}
	newest, err := group.History(rows, group.HistoryQuery{Newest: true, Limit: 1})
	if err != nil || len(newest) == 0 {
		return time.Time{}, err
	}
	return newest[0].Time, nil
}

func (d *Dm) scope() actors.Scope { return actors.Scope{DM: group.DMID(d.client.info.Inbox, d.peer)} }

// groups returns the groups of the conversation, the active one first.
func (d *Dm) groups(ctx context.Context) ([]*Group, error) {
	if err := d.check(ctx); err != nil {
		return nil, err
	}
	all, err := d.client.host.system.Conversations(ctx, d.client.info.ID, d.scope())
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, ErrNoGroup
	}
	groups := make([]*Group, len(all))
	for i, c := range all {
		groups[i] = &Group{d.client, c.ID}
	}
	if len(groups) == 1 {
		return groups, nil
	}
	active := make(map[GroupID]time.Time, len(groups))
	for _, g := range groups {
		if active[g.id], err = g.lastActivity(ctx); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(groups, func(a, b *Group) int {
		return cmp.Or(active[b.id].Compare(active[a.id]), bytes.Compare(a.id[:], b.id[:]))
	})
	return groups, nil
}

// active returns the group that messages are sent to.
func (d *Dm) active(ctx context.Context) (*Group, error) {
	groups, err := d.groups(ctx)
	if err != nil {
		return nil, err
	}
	return groups[0], nil
}

// ID is the id of the group that was active when the handle was made. It is not
// equal for both sides at all times: PeerInboxID is what names a direct message.
func (d *Dm) ID() GroupID {
	if d == nil {
		return GroupID{}
	}
	return d.id
}

// PeerInboxID is the other inbox.
func (d *Dm) PeerInboxID() string {
	if d == nil {
		return ""
	}
	return d.peer
}

// Info is Group.Info of the active group.
func (d *Dm) Info(ctx context.Context) (_ Info, err error) {
	defer failing("read conversation", &err)
	g, err := d.active(ctx)
	if err != nil {
		return Info{}, err
	}
	return g.Info(ctx)
}

// IsActive reports whether this installation is still a member.
func (d *Dm) IsActive(ctx context.Context) (_ bool, err error) {
	defer failing("read conversation", &err)
	g, err := d.active(ctx)
	if err != nil {
		return false, err
	}
	return g.IsActive(ctx)
}

// Members lists the two, from the local database.
func (d *Dm) Members(ctx context.Context) (_ []Member, err error) {
	defer failing("list members", &err)
	g, err := d.active(ctx)
	if err != nil {
		return nil, err
	}
	return g.Members(ctx)
}

// Sync is Group.Sync of all groups of the conversation.
func (d *Dm) Sync(ctx context.Context) (err error) {
	defer failing("sync", &err)
	groups, err := d.groups(ctx)
	for _, g := range groups {
		err = errors.Join(err, g.Sync(ctx))
	}
	return err
}

// Send is Group.Send to the active group.
func (d *Dm) Send(ctx context.Context, c Content, opts ...SendOption) (_ MessageID, err error) {
	defer failing("send", &err)
	g, err := d.active(ctx)
	if err != nil {
		return MessageID{}, err
	}
	return g.Send(ctx, c, opts...)
}

// with returns the group that an own message waits in, or the active one where
// it is no draft.
func (d *Dm) with(ctx context.Context, id MessageID) (*Group, error) {
	groups, err := d.groups(ctx)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		drafts, err := look(ctx, g, (*group.Replica).Drafts)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(drafts, func(m group.Message) bool { return m.ID == id }) {
			return g, nil
		}
	}
	return groups[0], nil
}

// Wait is Group.Wait of whichever group of the conversation has the message.
func (d *Dm) Wait(ctx context.Context, id MessageID) (status DeliveryStatus, err error) {
	defer failing("wait", &err)
	groups, err := d.groups(ctx)
	for _, g := range groups {
		if status, err = g.Wait(ctx, id); !errors.Is(err, ErrNoMessage) {
			break
		}
	}
	return status, err
}

// Retry starts a Failed message again, under the same id.
func (d *Dm) Retry(ctx context.Context, id MessageID) (err error) {
	defer failing("retry", &err)
	g, err := d.with(ctx, id)
	if err != nil {
		return err
	}
	return g.Retry(ctx, id)
}

// UpdateKeys is Group.UpdateKeys of all groups of the conversation.
func (d *Dm) UpdateKeys(ctx context.Context) (err error) {
	defer failing("update keys", &err)
	groups, err := d.groups(ctx)
	for _, g := range groups {
		err = errors.Join(err, g.UpdateKeys(ctx))
	}
	return err
}

// Messages is Group.Messages of all groups of the conversation: the published
// ones by time, then own ones that are not.
func (d *Dm) Messages(ctx context.Context, q MessageQuery) (_ []*Message, err error) {
	defer failing("read messages", &err)
	groups, err := d.groups(ctx)
	if err != nil {
		return nil, err
	}
	if len(groups) == 1 {
		return groups[0].Messages(ctx, q)
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	var all []*Message
	for _, g := range groups {
		messages, err := g.Messages(ctx, MessageQuery{Status: q.Status})
		if err != nil {
			return nil, err
		}
		all = append(all, messages...)
	}
	slices.SortStableFunc(all, func(a, b *Message) int {
		return cmp.Or(-cmp.Compare(min(a.Position, 1), min(b.Position, 1)), a.SentAt.Compare(b.SentAt), cmp.Compare(a.Position, b.Position))
	})
	all = afterPosition(all, q.After)
	if q.Limit > 0 && len(all) > q.Limit {
		all = all[:q.Limit]
	}
	return all, nil
}

// afterPosition leaves out the published messages up to a Position: those that are
// listed up to the message there, or, where none of these is there, those at an
// earlier one. The two differ only where the groups lie in different shards of the
// log, whose positions tell nothing of each other's time.
func afterPosition(all []*Message, after uint64) []*Message {
	if after == 0 {
		return all
	}
	if i := slices.IndexFunc(all, func(m *Message) bool { return m.Position == after }); i >= 0 {
		return all[i+1:]
	}
	return slices.DeleteFunc(all, func(m *Message) bool { return m.Position > 0 && m.Position < after })
}

// Stream is Group.Stream of all groups of the conversation, those that the other
// side may yet begin included.
func (d *Dm) Stream(ctx context.Context) iter.Seq2[*Message, error] {
	if err := d.check(ctx); err != nil {
		return failed[*Message](err)
	}
	return stream(ctx, d.client, d.scope(), actors.StreamMessages, func(it actors.Item) (*Message, error) {
		return d.client.host.message(it.Group, it.Message)
	})
}
