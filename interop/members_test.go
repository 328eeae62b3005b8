//go:build interop

package interop

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/identity/ethereum"
)

// A member is somebody in a scenario: an installation of the published SDK's or
// one of Conclave's. A scenario does not care which.
type member interface {
	Name() string
	Inbox() string
	Installation() string // its public key, 64 hex digits
	NewGroup(ctx context.Context, name string, with ...member) (room, error)
	NewDM(ctx context.Context, with member) (room, error)
	// Rooms reads welcomes and lists the groups and DMs that the member has.
	Rooms(ctx context.Context) ([]string, error)
	// Room is the member's handle on a conversation that it has.
	Room(ctx context.Context, id string) (room, error)
}

// A room is one member's handle on a conversation.
type room interface {
	ID() string
	Member() member
	Send(ctx context.Context, text string) error // returns when the network has it
	Rename(ctx context.Context, name string) error
	Add(ctx context.Context, who ...member) error
	Remove(ctx context.Context, who ...member) error
	Promote(ctx context.Context, who member, to role) error
	// Look reads what the network has, and tells what the member sees.
	Look(ctx context.Context) (view, error)
}

// A role is a member's: the numbers are the SDK's.
type role int

const (
	plain role = iota
	admin
	superAdmin
)

// A view is what one member sees of a conversation. All who are in it must see
// the same.
type view struct {
	Name          string
	Epoch         uint64
	Active        bool
	Forked        string // why the member believes that it is on a branch of its own; "" where it does not
	Members       []string
	Roles         map[string]role
	Installations []string
	Lines         []line
}

// A line is one message.
type line struct{ Sender, Type, Text string }

func (v view) equal(o view) bool {
	return v.Name == o.Name && v.Epoch == o.Epoch && v.Active == o.Active && v.Forked == o.Forked &&
		slices.Equal(v.Members, o.Members) && maps.Equal(v.Roles, o.Roles) &&
		slices.Equal(v.Installations, o.Installations) && slices.Equal(v.Lines, o.Lines)
}

func inboxes(of []member) []string {
	ids := make([]string, len(of))
	for i, m := range of {
		ids[i] = m.Inbox()
	}
	return ids
}

// A goMember is an installation of Conclave's.
type goMember struct {
	name   string
	client *conclave.Client
}

// newGoMember registers an installation for a wallet. database tells several of
// one wallet apart.
func newGoMember(ctx context.Context, host *conclave.Host, name string, wallet conclave.Signer, database string) (*goMember, error) {
	client, err := host.CreateClient(ctx, wallet, conclave.ClientOptions{Database: database})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &goMember{name, client}, nil
}

func (m *goMember) Name() string         { return m.name }
func (m *goMember) Inbox() string        { return m.client.InboxID() }
func (m *goMember) Installation() string { return installationHex(m.client.InstallationID()) }

func installationHex(id conclave.InstallationID) string { return hex.EncodeToString(id[:]) }

func (m *goMember) NewGroup(ctx context.Context, name string, with ...member) (room, error) {
	g, err := m.client.Conversations().NewGroupWithInboxIDs(ctx, inboxes(with), conclave.GroupOptions{Name: name})
	if err != nil {
		return nil, err
	}
	return &goRoom{m, g}, nil
}

func (m *goMember) NewDM(ctx context.Context, with member) (room, error) {
	d, err := m.client.Conversations().NewDmWithInboxID(ctx, with.Inbox())
	if err != nil {
		return nil, err
	}
	return &goRoom{m, d}, nil
}

func (m *goMember) Rooms(ctx context.Context) ([]string, error) {
	if err := m.client.Conversations().Sync(ctx); err != nil {
		return nil, err
	}
	all, err := m.client.Conversations().ListAll(ctx)
	ids := make([]string, len(all))
	for i, c := range all {
		ids[i] = c.ID().String()
	}
	return ids, err
}

func (m *goMember) Room(ctx context.Context, id string) (room, error) {
	all, err := m.client.Conversations().ListAll(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if c.ID().String() == id {
			return &goRoom{m, c}, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", m.name, conclave.ErrNoGroup)
}

// A goRoom is a group or a DM that one of Conclave's installations has.
type goRoom struct {
	member *goMember
	conclave.Conversation
}

// group is the conversation as the group that it is in the scenarios that change
// it: nobody renames a DM.
func (r *goRoom) group() *conclave.Group { return r.Conversation.(*conclave.Group) }

func (r *goRoom) ID() string     { return r.Conversation.ID().String() }
func (r *goRoom) Member() member { return r.member }

func (r *goRoom) Send(ctx context.Context, text string) error {
	return r.SendContent(ctx, conclave.Text(text))
}

// SendContent sends any content, and waits until it is published.
func (r *goRoom) SendContent(ctx context.Context, c conclave.Content) error {
	id, err := r.Conversation.Send(ctx, c)
	if err != nil {
		return err
	}
	status, err := r.Wait(ctx, id)
	if err == nil && status != conclave.Published {
		err = fmt.Errorf("%s's message is %s", r.member.name, status)
	}
	return err
}

func (r *goRoom) Rename(ctx context.Context, name string) error {
	return r.group().UpdateName(ctx, name)
}

func (r *goRoom) Add(ctx context.Context, who ...member) error {
	return r.group().AddMembersByInboxID(ctx, inboxes(who)...)
}

func (r *goRoom) Remove(ctx context.Context, who ...member) error {
	return r.group().RemoveMembersByInboxID(ctx, inboxes(who)...)
}

func (r *goRoom) Promote(ctx context.Context, who member, to role) error {
	roles := map[role]conclave.Role{plain: conclave.RoleMember, admin: conclave.RoleAdmin, superAdmin: conclave.RoleSuperAdmin}
	return r.group().SetRole(ctx, who.Inbox(), roles[to])
}

func (r *goRoom) Look(ctx context.Context) (view, error) {
	if err := r.Sync(ctx); err != nil {
		return view{}, err
	}
	info, err := r.Info(ctx)
	if err != nil {
		return view{}, err
	}
	members, err := r.Members(ctx)
	if err != nil {
		return view{}, err
	}
	messages, err := r.Messages(ctx, conclave.MessageQuery{Status: conclave.Published})
	if err != nil {
		return view{}, err
	}
	v := view{Name: info.Name, Epoch: info.Epoch, Active: info.Active, Forked: info.Stalled, Roles: map[string]role{}}
	roles := map[conclave.Role]role{conclave.RoleMember: plain, conclave.RoleAdmin: admin, conclave.RoleSuperAdmin: superAdmin}
	for _, m := range members {
		v.Members = append(v.Members, m.InboxID)
		v.Roles[m.InboxID] = roles[m.Role]
		for _, i := range m.Installations {
			v.Installations = append(v.Installations, installationHex(i))
		}
	}
	for _, m := range messages {
		if _, change := m.Content.(*conclave.GroupUpdated); !change {
			v.Lines = append(v.Lines, line{m.Sender, m.Content.Type().Name, m.Text()})
		}
	}
	slices.Sort(v.Members)
	slices.Sort(v.Installations)
	return v, nil
}

// A realMember is a client of the published SDK.
type realMember struct {
	name, key, address string
	inbox, id          string
	driver             *driver
}

// newRealMember creates a client for the wallet of a key of 32 bytes in hex.
func newRealMember(ctx context.Context, d *driver, name, key string, options args) (*realMember, error) {
	m := &realMember{name: name, key: key, driver: d}
	var made struct{ Inbox, Installation, Address string }
	with := args{"client": name, "key": key}
	maps.Copy(with, options)
	if err := d.call(ctx, "create", with, &made); err != nil {
		return nil, err
	}
	m.inbox, m.id, m.address = made.Inbox, made.Installation, made.Address
	return m, nil
}

// newKey makes the key of a wallet.
func newKey() string {
	var key [32]byte
	rand.Read(key[:])
	return hex.EncodeToString(key[:])
}

func newWallet() conclave.Signer {
	wallet, err := ethereum.GenerateKey()
	if err != nil {
		panic(err)
	}
	return wallet
}

func (m *realMember) Name() string         { return m.name }
func (m *realMember) Inbox() string        { return m.inbox }
func (m *realMember) Installation() string { return m.id }

// call does an operation of driver.mjs as this client.
func (m *realMember) call(ctx context.Context, op string, with args, out any) error {
	all := args{"client": m.name}
	maps.Copy(all, with)
	if err := m.driver.call(ctx, op, all, out); err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	return nil
}

func (m *realMember) NewGroup(ctx context.Context, name string, with ...member) (room, error) {
	var id string
	err := m.call(ctx, "newGroup", args{"name": name, "inboxes": inboxes(with)}, &id)
	return &realRoom{m, id}, err
}

func (m *realMember) NewDM(ctx context.Context, with member) (room, error) {
	var id string
	err := m.call(ctx, "newDM", args{"inbox": with.Inbox()}, &id)
	return &realRoom{m, id}, err
}

func (m *realMember) Rooms(ctx context.Context) (ids []string, err error) {
	return ids, m.call(ctx, "conversations", nil, &ids)
}

func (m *realMember) Room(_ context.Context, id string) (room, error) { return &realRoom{m, id}, nil }

// A realRoom is a real client's handle on a group or DM.
type realRoom struct {
	member *realMember
	id     string
}

func (r *realRoom) ID() string     { return r.id }
func (r *realRoom) Member() member { return r.member }

func (r *realRoom) call(ctx context.Context, op string, with args, out any) error {
	all := args{"group": r.id}
	maps.Copy(all, with)
	return r.member.call(ctx, op, all, out)
}

func (r *realRoom) Send(ctx context.Context, text string) error {
	return r.call(ctx, "send", args{"text": text}, nil)
}

func (r *realRoom) Rename(ctx context.Context, name string) error {
	return r.call(ctx, "rename", args{"name": name}, nil)
}

func (r *realRoom) Add(ctx context.Context, who ...member) error {
	return r.call(ctx, "add", args{"inboxes": inboxes(who)}, nil)
}

func (r *realRoom) Remove(ctx context.Context, who ...member) error {
	return r.call(ctx, "remove", args{"inboxes": inboxes(who)}, nil)
}

func (r *realRoom) Promote(ctx context.Context, who member, to role) error {
	return r.call(ctx, "promote", args{"inbox": who.Inbox(), "super": to == superAdmin}, nil)
}

// A realMessage is a message as the SDK decodes it.
type realMessage struct{ ID, Sender, Type, Text, Fallback, Group string }

func (m realMessage) line() line {
	if m.Type == "text" {
		return line{m.Sender, m.Type, m.Text}
	}
	return line{m.Sender, m.Type, m.Fallback}
}

func (r *realRoom) Look(ctx context.Context) (view, error) { return r.look(ctx, true) }

// stored is Look at what the client has, with nothing read from the network.
func (r *realRoom) stored(ctx context.Context) (view, error) { return r.look(ctx, false) }

func (r *realRoom) look(ctx context.Context, sync bool) (view, error) {
	var seen struct {
		Name          string
		Epoch         uint64
		Active        bool
		Forked        bool
		Details       string
		Members       []string
		Roles         map[string]role
		Installations []string
		Messages      []realMessage
	}
	if err := r.call(ctx, "look", args{"sync": sync}, &seen); err != nil {
		return view{}, err
	}
	v := view{
		Name: seen.Name, Epoch: seen.Epoch, Active: seen.Active,
		Members: seen.Members, Roles: seen.Roles, Installations: seen.Installations,
	}
	if seen.Forked {
		v.Forked = "forked: " + seen.Details
	}
	for _, m := range seen.Messages {
		if m.Type != "group_updated" {
			v.Lines = append(v.Lines, m.line())
		}
	}
	slices.Sort(v.Members)
	slices.Sort(v.Installations)
	return v, nil
}
