package benchmarks

import (
	"context"
	"sync"

	"github.com/conclave-chat/conclave"
)

// A Verdict is what the members' stores really hold.
type Verdict struct {
	Deliveries int // messages found, over all members
	Lost       int // (member, line) pairs that are missing, or hold another text
	Repeated   int // messages that a member has more than once, or that nobody sent
	Disordered int // (member, group) pairs whose messages are not in the lines' order
}

// OK says that everybody has everything, once and in order.
func (v Verdict) OK() bool { return v == Verdict{Deliveries: v.Deliveries} }

// Check opens every member's local database with its own key, on a host that
// did not see the replay, and compares its published messages with what was
// sent. It asks the network for nothing.
func (c *Crowd) Check(ctx context.Context, h *conclave.Host, groups []Group, lines []Line, ids []conclave.MessageID, done func()) (Verdict, error) {
	sent := make([]sending, len(groups))
	for i, line := range lines {
		s := &sent[line.Group]
		s.texts, s.ids = append(s.texts, line.Text), append(s.ids, ids[i])
	}
	of := c.groupsOf(groups)
	var mu sync.Mutex
	var all Verdict
	err := c.each(ctx, done, func(ctx context.Context, i int, m *member) error {
		client, err := h.LoadClient(ctx, m.id, m.key)
		if err != nil {
			return err
		}
		for _, n := range of[i] {
			g, err := client.Conversations().Get(ctx, groups[n].ID)
			if err != nil {
				return err
			}
			messages, err := g.Messages(ctx, conclave.MessageQuery{Status: conclave.Published})
			if err != nil {
				return err
			}
			v := sent[n].judge(messages)
			mu.Lock()
			all.Deliveries += v.Deliveries
			all.Lost += v.Lost
			all.Repeated += v.Repeated
			all.Disordered += v.Disordered
			mu.Unlock()
		}
		return nil
	})
	return all, err
}

// A sending is what went through one group, in order.
type sending struct {
	texts []string
	ids   []conclave.MessageID
}

// judge compares one member's messages with what was sent.
func (s sending) judge(messages []*conclave.Message) Verdict {
	var v Verdict
	at := make(map[conclave.MessageID]int, len(s.ids))
	for i, id := range s.ids {
		at[id] = i
	}
	seen := make([]bool, len(s.ids))
	last := -1
	for _, m := range messages {
		text, ok := m.Content.(conclave.Text)
		if !ok {
			continue // who joined, and the like
		}
		i, known := at[m.ID]
		if !known || seen[i] {
			v.Repeated++
			continue
		}
		if string(text) != s.texts[i] {
			continue // stays unseen: lost
		}
		if seen[i] = true; i < last {
			v.Disordered = 1
		}
		last = i
		v.Deliveries++
	}
	for _, ok := range seen {
		if !ok {
			v.Lost++
		}
	}
	return v
}
