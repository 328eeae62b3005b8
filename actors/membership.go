package actors

import (
	"context"
	"sync"
	"time"

	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/group"
)

// Before a message is sent the host looks whether the members' inboxes have
// gained or lost installations: one question for a group and host, however many
// members it has here, and not at every message. XMTP's clients keep the same
// times.
const (
	checkOnSend = 5 * time.Second
	checkOnSync = 30 * time.Minute
	// checkTime bounds how long a message is held up by a network that does not
	// answer.
	checkTime = 2 * time.Second
	// maxChecks bounds the memory; beyond it the host looks once more.
	maxChecks = 65536
)

// checks remembers when a host last looked at a group's members.
type checks struct {
	mu sync.Mutex
	at map[GroupID]time.Time
}

// due reports whether it is time to look, and takes it as done if so: what fails
// is done again at the next time. A group that was never looked at is as new as
// the welcome or the host: first says whether to look at it, and where not the
// next message does.
func (c *checks) due(id GroupID, now time.Time, every time.Duration, first bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	last, known := c.at[id]
	if known && now.Sub(last) < every {
		return false
	}
	if !known && len(c.at) >= maxChecks {
		clear(c.at)
	}
	if !known && !first {
		now = now.Add(-checkOnSend)
	}
	c.at[id] = now
	return known || first
}

// check looks at the members from time to time while nothing is sent.
func (a *groupActor) check(ctx *engine.Context) error {
	if !a.replica.Sends() || !a.sys.checks.due(a.id, a.sys.cfg.Now(), checkOnSync, false) {
		return nil
	}
	return a.step(ctx, group.CheckMembers{})
}

// fetchIdentities looks at the members' newest identities, once. A network that
// does not answer changes nothing: messages do not depend on it.
func (a *groupActor) fetchIdentities(self engine.Ref, f group.Fetch) {
	a.sys.beside(func(ctx context.Context) {
		c, cancel := context.WithTimeout(ctx, checkTime)
		defer cancel()
		if err := a.sys.inboxes.refresh(c, f.Inboxes); err != nil {
			if ctx.Err() != nil {
				return
			}
			a.sys.log.Warn("members not looked at", groupAttr(a.id), keyErr, err)
		}
		answer := group.Fetched{Intent: f.Intent, Now: a.sys.cfg.Now()}
		for _, id := range f.Inboxes {
			_, sequence := a.sys.inboxes.latest(id)
			answer.Inboxes = append(answer.Inboxes, group.FetchedInbox{Inbox: id, Sequence: sequence})
		}
		_ = a.sys.engine.Tell(self, group.Input(answer))
	})
}
