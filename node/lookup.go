package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/identityapi"
)

// A note in an identifier's topic is the 32 bytes of the inbox that is about to
// link it and 16 of the update's hash, so that linking it again is a new note.
const noteSize = 32 + 16

// notes are the inboxes that an identifier was linked to, the newest last.
type notes []string

// maxNotes bounds them. Each link was signed by the identifier itself.
const maxNotes = 64

func readNote(_ context.Context, l *notes, e bus.Envelope) error {
	if len(e.Payload) != noteSize {
		return nil
	}
	inbox := hex.EncodeToString(e.Payload[:32])
	kept := slices.DeleteFunc(slices.Clone(*l), func(s string) bool { return s == inbox })
	kept = append(kept, inbox)
	*l = kept[max(0, len(kept)-maxNotes):]
	return nil
}

// identifierTopic is the topic of an identifier's notes. It lies among the inbox
// topics, since those are what only the node writes; no inbox id is the hash of
// such a text.
func identifierTopic(id identity.Identifier) (bus.Topic, error) {
	sum := sha256.Sum256([]byte("identifier:" + id.Kind().String() + ":" + id.String()))
	return bus.IdentityOf(sum[:])
}

// note writes down the inbox for each address and passkey that is about to join.
func (n *Node) note(ctx context.Context, c *candidate, before, after *identity.State) error {
	inbox, err := identity.ParseInboxID(c.update.GetInboxId())
	if err != nil {
		return err
	}
	added, _ := identity.Diff(before, after)
	for _, id := range added {
		if id.Kind() == identity.Installation {
			continue // nobody looks an installation up
		}
		topic, err := identifierTopic(id)
		if err != nil {
			return err
		}
		if _, err := n.bus.Publish(ctx, topic, slices.Concat(inbox[:], c.hash[:16])); err != nil {
			return fmt.Errorf("note the inbox of a %s: %w", id.Kind(), err)
		}
	}
	return nil
}

// GetInboxIds answers in the order asked; what is not an identifier has no
// inbox.
func (n *Node) GetInboxIds(ctx context.Context, request *identityapi.GetInboxIdsRequest) (*identityapi.GetInboxIdsResponse, error) {
	return answer(ctx, n, lookUpWork, request, n.getInboxIDs)
}

func (n *Node) getInboxIDs(ctx context.Context, request *identityapi.GetInboxIdsRequest) (*identityapi.GetInboxIdsResponse, error) {
	if err := checkBatch(len(request.GetRequests()), MaxAsked); err != nil {
		return nil, err
	}
	response := new(identityapi.GetInboxIdsResponse)
	var ids []identity.Identifier
	for _, r := range request.GetRequests() {
		response.Responses = append(response.Responses, &identityapi.GetInboxIdsResponse_Response{
			Identifier: r.GetIdentifier(), IdentifierKind: r.GetIdentifierKind(),
		})
		if id, err := identifierOf(r.GetIdentifier(), r.GetIdentifierKind()); err == nil {
			ids = append(ids, id)
		}
	}
	inboxes, err := n.lookUp(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, answer := range response.Responses {
		id, err := identifierOf(answer.GetIdentifier(), answer.GetIdentifierKind())
		if err != nil {
			continue
		}
		answer.IdentifierKind = id.ProtoKind()
		if inbox, ok := inboxes[id]; ok {
			answer.InboxId = &inbox
		}
	}
	return response, nil
}

// identifierOf reads an identifier that is asked about, in upper or lower case: a
// wallet shows its address in mixed case. What is signed has the lower case alone.
func identifierOf(s string, kind associations.IdentifierKind) (identity.Identifier, error) {
	return identity.ParseIdentifier(strings.ToLower(s), kind)
}

// lookUp finds the inbox that each identifier was linked to last, of those that
// still have it.
func (n *Node) lookUp(ctx context.Context, ids []identity.Identifier) (map[identity.Identifier]string, error) {
	topics := make([]bus.Topic, len(ids))
	for i, id := range ids {
		var err error
		if topics[i], err = identifierTopic(id); err != nil {
			return nil, err
		}
	}
	noted, err := n.identifiers.current(ctx, topics)
	if err != nil {
		return nil, err
	}
	open := map[identity.Identifier]notes{} // what is left to try
	for i, id := range ids {
		open[id] = noted[i]
	}
	found := map[identity.Identifier]string{}
	for len(open) > 0 {
		if err := n.tryNewest(ctx, open, found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// tryNewest asks the newest noted inbox of each open identifier whether it has
// it, and takes that inbox off its notes.
func (n *Node) tryNewest(ctx context.Context, open map[identity.Identifier]notes, found map[identity.Identifier]string) error {
	var asked []identity.Identifier
	var topics []bus.Topic
	for id, l := range open {
		if len(l) == 0 {
			delete(open, id)
			continue
		}
		topic, err := inboxTopic(l[len(l)-1])
		if err != nil {
			return err
		}
		asked, topics = append(asked, id), append(topics, topic)
	}
	logs, err := n.inboxes.current(ctx, topics)
	if err != nil {
		return err
	}
	for i, id := range asked {
		l := open[id]
		open[id] = l[:len(l)-1]
		if logs[i].state.Has(id) {
			found[id] = l[len(l)-1]
			delete(open, id)
		}
	}
	return nil
}
