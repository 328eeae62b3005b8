package conclave

import (
	"context"
	"fmt"
	"time"

	"github.com/conclave-chat/conclave/content"
	"github.com/conclave-chat/conclave/group"
)

// A MessageID is equal for all members: a hash of group, idempotency key and
// content.
type MessageID = group.MessageID

// A DeliveryStatus says how far a message got.
type DeliveryStatus = group.DeliveryStatus

const (
	Unpublished DeliveryStatus = group.StatusUnpublished // only here so far: show it as not yet sent
	Published   DeliveryStatus = group.StatusPublished   // in the group's log
	Failed      DeliveryStatus = group.StatusFailed      // given up after three attempts; see Group.Retry
)

// A MessageKind tells what a member sent from what the protocol wrote down.
type MessageKind = group.MessageKind

const (
	ApplicationMessage MessageKind = group.ApplicationMessage // sent by Sender
	MembershipChange   MessageKind = group.MembershipChange   // what a commit of Sender's did: Content is a *GroupUpdated
)

// Content is what a message says. Text is the plain kind; Config.Codecs adds
// others.
type Content = content.Content

// A Codec reads and writes a content type: see Config.Codecs.
type Codec = content.Codec

// Text is a message in plain text.
type Text = content.Text

// GroupUpdated is a membership or metadata change, as each member writes it
// down when a commit is applied. It cannot be sent: Send refuses it, and one that
// another client sends is a *content.Unknown.
type GroupUpdated = content.GroupUpdated

// A Message is one entry of a group's history. It is the caller's own.
type Message struct {
	ID           MessageID
	Group        GroupID
	Sender       string // inbox id
	Installation InstallationID
	Kind         MessageKind
	SentAt       time.Time // by the bus's clock once published, by the sender's before
	Status       DeliveryStatus
	Content      Content // Text, a codec's type or *content.Unknown; of a MembershipChange *GroupUpdated
	Fallback     string  // what to show where Content is unknown
	Attempts     int     // of an own message that is not published
	Reason       string  // why it failed
	Position     uint64  // in the log, rising; 0 unless published
}

// Text returns the message's text, or what is to be shown in its place.
func (m *Message) Text() string {
	if m == nil {
		return ""
	}
	if t, ok := m.Content.(Text); ok {
		return string(t)
	}
	return m.Fallback
}

// message turns a stored message into the caller's own value.
func (h *Host) message(id GroupID, m group.Message) (*Message, error) {
	decode := h.codecs.Decode
	if m.Kind == group.MembershipChange {
		decode = content.DecodeTranscript
	}
	d, err := decode(m.Content)
	if err != nil {
		// What is no EncodedContent at all is shown as unknown: it is in the
		// history of every member alike.
		d = content.Decoded{Content: &content.Unknown{Reason: err}}
	}
	out := &Message{
		ID: m.ID, Group: id, Kind: m.Kind, Sender: m.Sender, SentAt: m.Time, Status: m.Status,
		Content: d.Content, Fallback: d.Fallback, Attempts: m.Attempts, Reason: m.Reason, Position: m.Position.ID,
	}
	if len(m.Installation) == len(out.Installation) {
		out.Installation = InstallationID(m.Installation)
	}
	return out, nil
}

// MessageQuery selects messages. The zero value selects all.
type MessageQuery struct {
	Status DeliveryStatus // zero: any
	After  uint64         // of the published ones only those listed after this Position
	Limit  int            // at most so many; zero: all
}

func (q MessageQuery) check() error {
	switch {
	case q.Status != 0 && !q.Status.Valid():
		return fmt.Errorf("%w: MessageQuery.Status is %d: give Unpublished, Published or Failed", ErrInvalid, q.Status)
	case q.Limit < 0:
		return fmt.Errorf("%w: MessageQuery.Limit is %d: give 0 for all", ErrInvalid, q.Limit)
	}
	return nil
}

// Messages lists the group's messages from the local database: the published
// ones in the order of the log, then own ones that are not, in the order in
// which they were sent. It never asks the network.
func (g *Group) Messages(ctx context.Context, q MessageQuery) (_ []*Message, err error) {
	defer failing("read messages", &err)
	if err := g.check(ctx); err != nil {
		return nil, err
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	var stored []group.Message
	if q.Status == 0 || q.Status == Published {
		rows, err := g.client.host.system.Rows(ctx, g.client.info.ID, g.id)
		if err != nil {
			return nil, err
		}
		hq := group.HistoryQuery{Limit: q.Limit}
		if q.After > 0 {
			hq.After = group.Position{ID: q.After, Message: [8]byte{255, 255, 255, 255, 255, 255, 255, 255}}
		}
		if stored, err = group.History(rows, hq); err != nil {
			return nil, err
		}
	}
	if q.Status != Published {
		drafts, err := look(ctx, g, (*group.Replica).Drafts)
		if err != nil {
			return nil, err
		}
		for _, d := range drafts {
			if q.Status == 0 || d.Status == q.Status {
				stored = append(stored, d)
			}
		}
	}
	if q.Limit > 0 && len(stored) > q.Limit {
		stored = stored[:q.Limit]
	}
	out := make([]*Message, len(stored))
	for i, m := range stored {
		var err error
		if out[i], err = g.client.host.message(g.id, m); err != nil {
			return nil, err
		}
	}
	return out, nil
}
