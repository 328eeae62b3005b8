package conclave

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/conclave-chat/conclave/actors"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
)

// A GroupID is a group's 16 random bytes.
type GroupID = actors.GroupID

// ParseGroupID reads what GroupID.String returns: 32 hex digits.
func ParseGroupID(s string) (id GroupID, err error) {
	defer failing("parse group id", &err)
	return id, id.UnmarshalText([]byte(s))
}

// A Group is one installation's handle on a group. It holds no state: copies
// are equal, and all methods are safe for concurrent use. What changes the
// group is durable when the method returns, and done unless it says otherwise;
// a context bounds the wait and takes nothing back.
type Group struct {
	client *Client
	id     GroupID
}

// ID is the group's id, equal for all members.
func (g *Group) ID() GroupID {
	if g == nil {
		return GroupID{}
	}
	return g.id
}

// A Role says what a member may do where the permissions ask for an admin.
type Role = group.Role

const (
	RoleMember     Role = group.Member
	RoleAdmin      Role = group.Admin
	RoleSuperAdmin Role = group.SuperAdmin
)

// A Member is an inbox in a group.
type Member struct {
	InboxID       string
	Addresses     []string // of its wallets, where their identity log is known here
	Role          Role
	Installations []InstallationID // those in the group
}

// A Standing says how an installation stands to a group's log.
type Standing = group.Standing

const (
	StandingFollowing Standing = group.Following // it has what the log has
	StandingWaiting   Standing = group.Waiting   // something has to be looked up before it goes on
	StandingApart     Standing = group.Apart     // by what the log holds the others are elsewhere; it goes on as before
	StandingLost      Standing = group.Lost      // the log lost what it had read, and may have it again
	StandingPaused    Standing = group.Paused    // the group asks for a newer client
	StandingRevoked   Standing = group.Revoked   // its inbox has taken this installation back
	StandingStranded  Standing = group.Stranded  // the others went on without it: the super admins are asked to add it again
	StandingInactive  Standing = group.Inactive  // it is no member any more
)

// Info is what a group is like at one moment.
type Info struct {
	Name        string
	ImageURL    string
	Description string
	Creator     string // inbox id
	AddedBy     string // the inbox that added this installation; empty for a group made here
	CreatedAt   time.Time
	Epoch       uint64
	Active      bool     // this installation is a member
	Standing    Standing // how this installation stands to the group's log
	Stalled     string   // why it does not simply follow it; empty: it does, or is no member
	Forked      bool     // the group's commit log says that the others are in another epoch
}

// Info reads the group's metadata and state, from the local database.
func (g *Group) Info(ctx context.Context) (Info, error) {
	return look(ctx, g, func(r *group.Replica) Info {
		m := r.Metadata()
		standing, reason := r.Standing()
		return Info{
			Name:        m.Attributes[group.AttributeName],
			ImageURL:    m.Attributes[group.AttributeImageURL],
			Description: m.Attributes[group.AttributeDescription],
			Creator:     m.Creator,
			AddedBy:     r.AddedBy(),
			CreatedAt:   r.Created(),
			Epoch:       r.Epoch(),
			Active:      r.Active(),
			Standing:    standing,
			Stalled:     reason,
			Forked:      r.Forked(),
		}
	})
}

// IsActive reports whether this installation is still a member.
func (g *Group) IsActive(ctx context.Context) (bool, error) {
	return look(ctx, g, (*group.Replica).Active)
}

func look[T any](ctx context.Context, g *Group, read func(*group.Replica) T) (_ T, err error) {
	defer failing("read group", &err)
	if err := g.check(ctx); err != nil {
		var none T
		return none, err
	}
	return actors.Look(ctx, g.client.host.system, g.client.info.ID, g.id, read)
}

// Members lists the members by inbox id, from the local database.
func (g *Group) Members(ctx context.Context) (_ []Member, err error) {
	defer failing("list members", &err)
	members, err := look(ctx, g, func(r *group.Replica) []Member {
		m := r.Metadata()
		at := make(map[string]int, len(m.Members))
		var out []Member
		for inbox := range m.Members {
			at[inbox] = len(out)
			out = append(out, Member{InboxID: inbox, Role: m.RoleOf(inbox)})
		}
		for key, inbox := range r.Installations {
			if i, ok := at[inbox]; ok && len(key) == len(InstallationID{}) {
				out[i].Installations = append(out[i].Installations, InstallationID(key))
			}
		}
		return out
	})
	if err != nil {
		return nil, err
	}
	for i := range members {
		members[i].Addresses = addressesOf(g.client.host.system.KnownState(members[i].InboxID))
	}
	slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.InboxID, b.InboxID) })
	return members, nil
}

// Sync reads the group's log to its end and pushes what was not sent yet. It
// returns when both are done. Where there is nothing new it reads nothing.
func (g *Group) Sync(ctx context.Context) (err error) {
	defer failing("sync", &err)
	if err := g.check(ctx); err != nil {
		return err
	}
	return g.client.host.system.Sync(ctx, g.client.info.ID, g.id)
}

// A SendOption changes one Send.
type SendOption func(*group.Send)

// IdempotencyKey makes a send repeatable: the same key and content twice is one
// message.
func IdempotencyKey(key string) SendOption { return func(s *group.Send) { s.Key = key } }

// Send stores a message and returns its id when that is durable, also while the
// network is down: from then on it is shown as Unpublished, and it ends as
// Published or Failed without the caller. See Wait.
func (g *Group) Send(ctx context.Context, c Content, opts ...SendOption) (id MessageID, err error) {
	defer failing("send", &err)
	if err := g.check(ctx); err != nil {
		return id, err
	}
	if err := checkGiven("content", c); err != nil {
		return id, err
	}
	encoded, err := g.client.host.codecs.Encode(c)
	if err != nil {
		return id, err
	}
	in := group.Send{Content: encoded.Bytes, Push: encoded.ShouldPush, Now: g.client.host.system.Now()}
	for _, o := range opts {
		if err := checkGiven("option", o); err != nil {
			return id, err
		}
		o(&in)
	}
	if in.Key == "" {
		in.Key = g.client.host.uniqueKey(in.Now)
	}
	accepted, err := g.client.host.system.Submit(ctx, g.client.info.ID, g.id, in)
	return accepted.Message, err
}

// uniqueKey is the time in nanoseconds, made later where that was given out
// before: a send that is repeated inside the host stays one message, and two
// sends of equal content are two.
func (h *Host) uniqueKey(now time.Time) string {
	for {
		last := h.stamp.Load()
		next := max(last+1, now.UnixNano())
		if h.stamp.CompareAndSwap(last, next) {
			return strconv.FormatInt(next, 10)
		}
	}
}

// Wait waits until a message of this installation is Published or Failed. Others'
// messages are Published, and one that is not here is ErrNoMessage.
func (g *Group) Wait(ctx context.Context, id MessageID) (_ DeliveryStatus, err error) {
	defer failing("wait", &err)
	if err := g.check(ctx); err != nil {
		return 0, err
	}
	return g.client.host.system.AwaitMessage(ctx, g.client.info.ID, g.id, id)
}

// Retry starts a Failed message again, under the same id.
func (g *Group) Retry(ctx context.Context, id MessageID) (err error) {
	defer failing("retry", &err)
	if err := g.check(ctx); err != nil {
		return err
	}
	_, err = g.client.host.system.Submit(ctx, g.client.info.ID, g.id, group.Retry{Message: id, Now: g.client.host.system.Now()})
	return err
}

// AddMembers adds the owners of the addresses with all their installations, and
// returns when they have their welcomes. Members gain the installations that
// they lack. Nobody is added where one of them cannot be
// (*MemberNotReachableError) or the group would be too large (*GroupFullError).
func (g *Group) AddMembers(ctx context.Context, addresses ...string) (err error) {
	defer failing("add members", &err)
	if err := g.check(ctx); err != nil {
		return err
	}
	inboxes, err := g.client.host.inboxes(ctx, addresses)
	if err != nil {
		return err
	}
	return g.add(ctx, inboxes)
}

// AddMembersByInboxID is AddMembers by inbox id, with the ids in the error. Where
// the network is down it waits for it, like every change.
func (g *Group) AddMembersByInboxID(ctx context.Context, inboxes ...string) (err error) {
	defer failing("add members", &err)
	if err := g.check(ctx); err != nil {
		return err
	}
	return g.add(ctx, inboxes)
}

func (g *Group) add(ctx context.Context, inboxes []string) error {
	done, err := g.client.host.system.Do(ctx, g.client.info.ID, g.id, group.AddMembers{Inboxes: inboxes})
	if len(done.Unreachable) > 0 {
		return &MemberNotReachableError{done.Unreachable}
	}
	return err
}

// RemoveMembers removes the owners of the addresses with all their
// installations. Whoever is removed reads nothing that is sent afterwards.
func (g *Group) RemoveMembers(ctx context.Context, addresses ...string) (err error) {
	defer failing("remove members", &err)
	if err := g.check(ctx); err != nil {
		return err
	}
	inboxes, err := g.client.host.lookUp(ctx, addresses)
	if err != nil {
		return err
	}
	for i, inbox := range inboxes {
		if inbox == "" {
			return fmt.Errorf("%w: %s", ErrNotMember, addresses[i])
		}
	}
	return g.do(ctx, "remove members", group.RemoveMembers{Inboxes: inboxes})
}

// RemoveMembersByInboxID is RemoveMembers by inbox id.
func (g *Group) RemoveMembersByInboxID(ctx context.Context, inboxes ...string) error {
	return g.do(ctx, "remove members", group.RemoveMembers{Inboxes: inboxes})
}

// UpdateName changes the group's name, at most 100 bytes.
func (g *Group) UpdateName(ctx context.Context, name string) error {
	return g.do(ctx, "update name", group.UpdateMetadata{Field: group.AttributeName, Value: name})
}

// UpdateImageURL changes the group's image, a URL of at most 2,048 bytes.
func (g *Group) UpdateImageURL(ctx context.Context, url string) error {
	return g.do(ctx, "update image URL", group.UpdateMetadata{Field: group.AttributeImageURL, Value: url})
}

// UpdateDescription changes the group's description, at most 1,000 bytes.
func (g *Group) UpdateDescription(ctx context.Context, text string) error {
	return g.do(ctx, "update description", group.UpdateMetadata{Field: group.AttributeDescription, Value: text})
}

// UpdatePermissions replaces the group's permissions by a preset's.
func (g *Group) UpdatePermissions(ctx context.Context, p Permissions) (err error) {
	defer failing("update permissions", &err)
	if !p.Valid() {
		return fmt.Errorf("%w: permissions are %d: give Default, AdminOnly or AllMembers", ErrInvalid, p)
	}
	return g.do(ctx, "update permissions", group.UpdatePermissions{Permissions: p.Permissions()})
}

// SetRole makes a member an admin, a super admin, or neither.
func (g *Group) SetRole(ctx context.Context, inbox string, to Role) (err error) {
	defer failing("set role", &err)
	if !to.Valid() {
		return fmt.Errorf("%w: role is %d: give RoleMember, RoleAdmin or RoleSuperAdmin", ErrInvalid, to)
	}
	if _, err := identity.ParseInboxID(inbox); err != nil {
		return err
	}
	var member bool
	now, err := look(ctx, g, func(r *group.Replica) Role {
		m := r.Metadata()
		_, member = m.Members[inbox]
		return m.RoleOf(inbox)
	})
	switch {
	case err != nil:
		return err
	case !member && now == RoleMember:
		return fmt.Errorf("%w: inbox %s", ErrNotMember, inbox)
	}
	for _, change := range roleChanges(now, to) {
		if err := g.do(ctx, "set role", group.UpdateAdmins{Inbox: inbox, Change: change}); err != nil {
			return err
		}
	}
	return nil
}

// roleChanges are the steps from one role to another: first what is gained, so
// that nobody is left with less than both.
func roleChanges(from, to Role) []group.AdminChange {
	gain := map[Role]group.AdminChange{RoleAdmin: group.AddAdmin, RoleSuperAdmin: group.AddSuperAdmin}
	lose := map[Role]group.AdminChange{RoleAdmin: group.RemoveAdmin, RoleSuperAdmin: group.RemoveSuperAdmin}
	if from == to {
		return nil
	}
	var steps []group.AdminChange
	if c, ok := gain[to]; ok {
		steps = append(steps, c)
	}
	if c, ok := lose[from]; ok {
		steps = append(steps, c)
	}
	return steps
}

// UpdateKeys gives this member fresh keys: whoever had stolen the old ones reads
// nothing that is sent afterwards.
func (g *Group) UpdateKeys(ctx context.Context) error {
	return g.do(ctx, "update keys", group.KeyUpdate{})
}

func (g *Group) do(ctx context.Context, op string, command group.Input) (err error) {
	defer failing(op, &err)
	if err := g.check(ctx); err != nil {
		return err
	}
	_, err = g.client.host.system.Do(ctx, g.client.info.ID, g.id, command)
	return err
}

// Stream yields the group's messages and membership changes from now on, each
// once, in the order of the log, until ctx ends or the loop is left. What came
// while this installation was not listening comes first. Own messages appear
// when they are published. A loop that is slow costs bounded memory and loses
// nothing.
func (g *Group) Stream(ctx context.Context) iter.Seq2[*Message, error] {
	if err := g.check(ctx); err != nil {
		return failed[*Message](err)
	}
	return stream(ctx, g.client, actors.Scope{Group: &g.id}, actors.StreamMessages, func(it actors.Item) (*Message, error) {
		return g.client.host.message(it.Group, it.Message)
	})
}
