package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/persistence"
)

// A Conversation says what one of an installation's groups is for.
type Conversation struct {
	ID   GroupID
	Kind group.Kind
	DM   string // what a direct message's groups have in common: see group.DMID
	// Members are the two inboxes of a direct message.
	Members [2]string
	// AddedBy is the inbox that added this installation; empty where it made the group.
	AddedBy string
}

func conversationOf(id GroupID, s group.Summary) Conversation {
	if s.Kind == 0 {
		s.Kind = group.KindGroup // all that older versions could make
	}
	return Conversation{id, s.Kind, s.DMID(), s.DM, s.AddedBy}
}

// hidden reports whether a group is not for people: an inbox's own installations
// talk there.
func (c Conversation) hidden() bool { return c.Kind == group.KindSync }

// A Scope says which conversations a stream is about. The zero value is all that
// people see.
type Scope struct {
	Group *GroupID   // this one alone
	DM    string     // the groups of this direct message alone, also those to come
	Kind  group.Kind // those of this kind alone
}

func (sc Scope) has(c Conversation) bool {
	return !c.hidden() &&
		(sc.Group == nil || *sc.Group == c.ID) &&
		(sc.DM == "" || sc.DM == c.DM) &&
		(sc.Kind == 0 || sc.Kind == c.Kind)
}

// A catalogue is what the groups of one installation are, read from the store
// once.
type catalogue struct {
	mu   sync.Mutex
	of   map[GroupID]Conversation // nil: not read
	part bool                     // not all could be read: it is read again
	dms  map[string][]GroupID     // by DM
	met  map[string]bool          // inboxes that added this installation, or that it writes to
	open sync.Mutex               // held while a direct message is looked for and made
}

// read fills the catalogue. A group whose rows are damaged hides none of the
// others. Its mutex is held.
func (c *catalogue) read(ctx context.Context, s *System, in *installation) error {
	if c.of != nil && !c.part {
		return nil
	}
	ids, err := groupsOf(ctx, in.vault)
	if err != nil {
		return err
	}
	of, part := make(map[GroupID]Conversation, len(ids)), false
	for _, id := range ids {
		summary, err := group.Summarize(s.rows(ctx, in, id))
		if err != nil && !isDamage(err) { // else the group's own actor says so
			return err
		}
		part = part || errors.Is(err, persistence.ErrDamaged)
		of[id] = conversationOf(id, summary)
	}
	c.of, c.part, c.dms, c.met = map[GroupID]Conversation{}, part, map[string][]GroupID{}, map[string]bool{}
	for _, id := range ids {
		c.put(of[id])
	}
	return nil
}

func (c *catalogue) put(conversation Conversation) {
	if _, known := c.of[conversation.ID]; !known && conversation.DM != "" {
		c.dms[conversation.DM] = append(c.dms[conversation.DM], conversation.ID)
	}
	c.of[conversation.ID] = conversation
	for _, inbox := range []string{conversation.AddedBy, conversation.Members[0], conversation.Members[1]} {
		c.met[inbox] = inbox != ""
	}
}

// hasMet reports whether an inbox is this installation's own, or has added it to a
// group that is here, or is the other one of a direct message.
func (s *System) hasMet(ctx context.Context, in *installation, inbox string) (bool, error) {
	c := &in.catalogue
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.read(ctx, s, in)
	return err == nil && (inbox == in.record.Inbox || c.met[inbox]), err
}

// add notes a group whose rows are stored.
func (c *catalogue) add(conversation Conversation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of != nil {
		c.put(conversation)
	}
}

// remove forgets a group whose rows are gone.
func (c *catalogue) remove(id GroupID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if dm := c.of[id].DM; dm != "" {
		c.dms[dm] = slices.DeleteFunc(slices.Clone(c.dms[dm]), func(o GroupID) bool { return o == id })
	}
	delete(c.of, id)
}

// list returns the conversations that a scope has, in no order.
func (s *System) list(ctx context.Context, in *installation, scope Scope) ([]Conversation, error) {
	c := &in.catalogue
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.read(ctx, s, in); err != nil {
		return nil, err
	}
	var out []Conversation
	switch {
	case scope.Group != nil:
		if one, ok := c.of[*scope.Group]; ok && scope.has(one) {
			out = append(out, one)
		}
	case scope.DM != "":
		for _, id := range c.dms[scope.DM] {
			out = append(out, c.of[id])
		}
	default:
		for _, one := range c.of {
			if scope.has(one) {
				out = append(out, one)
			}
		}
	}
	return out, nil
}

// Conversations lists what people see of an installation's groups, in no order,
// without waking anybody.
func (s *System) Conversations(ctx context.Context, in InstallationID, scope Scope) ([]Conversation, error) {
	installation, err := s.installation(in)
	if err != nil {
		return nil, err
	}
	return s.list(ctx, installation, scope)
}

// Conversation returns one of them, or ErrNoGroup.
func (s *System) Conversation(ctx context.Context, in InstallationID, id GroupID) (Conversation, error) {
	found, err := s.Conversations(ctx, in, Scope{Group: &id})
	if err == nil && len(found) == 0 {
		err = ErrNoGroup
	}
	if err != nil {
		return Conversation{}, err
	}
	return found[0], nil
}

// hasTwin reports whether the direct message that a group is part of has
// another: both sides made one, and people see one.
func (s *System) hasTwin(ctx context.Context, in *installation, c Conversation) bool {
	if c.DM == "" {
		return false
	}
	all, err := s.list(ctx, in, Scope{DM: c.DM})
	return err == nil && len(all) > 1
}

// OpenDM returns a group of the direct message with an inbox, and makes one
// where there is none. Whom it is with is added next: see AddMembers.
func (s *System) OpenDM(ctx context.Context, in InstallationID, peer string) (id GroupID, err error) {
	installation, err := s.installation(in)
	if err != nil {
		return id, err
	}
	if peer == installation.record.Inbox {
		return id, fmt.Errorf("%w: a direct message with oneself", group.ErrInvalid)
	}
	installation.catalogue.open.Lock()
	defer installation.catalogue.open.Unlock()
	there, err := s.Conversations(ctx, in, Scope{DM: group.DMID(installation.record.Inbox, peer)})
	if err != nil {
		return id, err
	}
	if len(there) > 0 {
		return there[0].ID, nil
	}
	return s.CreateGroup(ctx, in, group.CreateConfig{Kind: group.KindDM, Peer: peer, Now: s.cfg.Now()})
}

// HMACKeys derives, for each conversation, the keys that mark own messages for
// push servers: in the 30 days before now's, in now's, and in those after.
func (s *System) HMACKeys(ctx context.Context, in InstallationID) (map[GroupID][]group.PushKey, error) {
	installation, err := s.installation(in)
	if err != nil {
		return nil, err
	}
	all, err := s.list(ctx, installation, Scope{})
	if err != nil {
		return nil, err
	}
	keys := make(map[GroupID][]group.PushKey, len(all))
	for _, c := range all {
		if keys[c.ID], err = installation.env.HMACKey.Around(c.ID[:], s.cfg.Now()); err != nil {
			return nil, err
		}
	}
	return keys, nil
}
