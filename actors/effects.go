package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/persistence"
)

// carryOut does what a step asked for, in the order of the fields: Save before
// Send before Emit.
func (a *groupActor) carryOut(ctx *engine.Context, fx group.Effects) error {
	if err := a.save(ctx.Context(), fx.Save, fx.Durable); err != nil {
		return crash(fmt.Errorf("save: %w", err))
	}
	a.outbox.add(fx.Send)
	if a.log.want(fx.Read) {
		a.read(ctx)
	}
	if len(fx.Resolve) > 0 {
		a.resolve(ctx.Self(), fx.Resolve)
	}
	for _, f := range fx.Fetch {
		if f.Identities {
			a.fetchIdentities(ctx.Self(), f)
			continue
		}
		a.fetch(ctx.Self(), f)
	}
	for _, e := range fx.Emit {
		a.emit(e)
	}
	if fx.Back != nil {
		return a.rewound(ctx, bus.ID(*fx.Back))
	}
	a.answerSyncs() // an intent may be over without an event
	return nil
}

// save writes rows as one transaction. What was received can be fetched again,
// so only what is about to be sent waits for the disk.
func (a *groupActor) save(ctx context.Context, changes []group.Row, durable bool) error {
	if len(changes) == 0 {
		return nil
	}
	if err := a.sys.fault(PointSave); err != nil {
		return err
	}
	d := persistence.Lazy
	if durable {
		d = persistence.Durable
	}
	began := time.Now()
	err := a.sys.commit(ctx, new(persistence.Batch), a.in.vault, a.id, a.replica.Epoch(), changes, d)
	a.sys.cfg.Telemetry.SaveLatency.Observe(time.Since(began))
	return err
}

// rows reads this replica's rows.
func (a *groupActor) rows(ctx context.Context) group.RowReader { return a.sys.rows(ctx, a.in, a.id) }

func (s *System) rows(ctx context.Context, in *installation, id GroupID) group.RowReader {
	return rows{ctx, s.cfg.Store, s.space, in.vault, id}
}

// emit tells whoever listens: first who waits for an intent, then the streams.
func (a *groupActor) emit(e group.Event) {
	switch e := e.(type) {
	case group.IntentDone:
		for _, reply := range a.waiting[e.Intent] {
			reply.Answer(Accepted{Intent: e.Intent, Unreachable: e.Unreachable}, e.Err)
		}
		delete(a.waiting, e.Intent)
		a.answerKnown()
	case group.MessageChanged:
		if e.Message.Status != group.StatusUnpublished {
			for _, reply := range a.senders[e.Message.ID] {
				reply.Answer(e.Message.Status, nil)
			}
			delete(a.senders, e.Message.ID)
		}
	case group.StandingChanged:
		a.askBack()
		switch {
		case e.Reason != "":
			a.stalled = true
			a.sys.log.Error("group stalled", groupAttr(a.id), installationAttr(a.in.id), keyStanding, e.Standing.String(), keyReason, e.Reason)
		case a.stalled:
			a.stalled = false
			a.sys.log.Error("group no longer stalled", groupAttr(a.id), installationAttr(a.in.id), keyStanding, e.Standing.String())
		}
	case group.ForkChanged:
		if e.Forked {
			a.sys.log.Error("group forked: the commit log has another epoch", groupAttr(a.id), installationAttr(a.in.id))
		} else {
			a.sys.log.Error("group no longer forked", groupAttr(a.id), installationAttr(a.in.id))
		}
	case group.Rejected:
		a.sys.log.Debug("envelope rejected", groupAttr(a.id), keyErr, e.Reason)
	}
	a.sys.count(e)
	a.sys.streams.emit(a.in.id, conversationOf(a.id, a.replica.Summary()), e)
}

// answerKnown answers who waits for a message that is a draft no more, and that
// nobody told of: the log had it already, sent by somebody else.
func (a *groupActor) answerKnown() {
	if len(a.senders) == 0 {
		return
	}
	drafts := a.replica.Drafts()
	for id, replies := range a.senders {
		if slices.ContainsFunc(drafts, func(m group.Message) bool { return m.ID == id }) {
			continue
		}
		for _, reply := range replies {
			reply.Answer(group.StatusPublished, nil)
		}
		delete(a.senders, id)
	}
}

// resolve looks identity states up, beside the mailbox, until the network
// answers; the replica waits for them.
func (a *groupActor) resolve(self engine.Ref, need []group.IdentityAt) {
	a.sys.beside(func(ctx context.Context) {
		if a.sys.persist(ctx, &a.alarm, "identity log not read", func() error { return a.sys.inboxes.resolve(ctx, need) }) {
			_ = a.sys.engine.Tell(self, group.Input(group.Resolved{}))
		}
	})
}

func inboxesOf(need []group.IdentityAt) []string {
	seen := make(map[string]bool, len(need))
	var ids []string
	for _, n := range need {
		if !seen[n.Inbox] {
			seen[n.Inbox] = true
			ids = append(ids, n.Inbox)
		}
	}
	return ids
}

// fetch gets the newest identities and key packages for a plan.
func (a *groupActor) fetch(self engine.Ref, f group.Fetch) {
	a.sys.beside(func(ctx context.Context) {
		var answer group.Input
		a.sys.persist(ctx, &a.alarm, "key packages not fetched", func() error {
			fetched, err := a.sys.fetchInboxes(ctx, f)
			if refused := new(bus.ServiceError); errors.As(err, &refused) && !waits(refused) {
				answer, err = group.Refused{Intent: f.Intent, Reason: refused.Message}, nil
			} else if err == nil {
				answer = fetched
			}
			return err
		})
		if answer != nil {
			_ = a.sys.engine.Tell(self, answer)
		}
	})
}

// waits reports whether a service's refusal says no more than "not now": it is
// asked again, which is no attempt.
func waits(refused *bus.ServiceError) bool {
	return refused.Code == bus.CodeUnavailable || refused.Code == bus.CodeExhausted
}

// fetchChunk is how many key packages one request asks for: they come to about
// two kilobytes each.
const fetchChunk = 250

func (s *System) fetchInboxes(ctx context.Context, f group.Fetch) (group.Fetched, error) {
	if err := s.inboxes.refresh(ctx, f.Inboxes); err != nil {
		return group.Fetched{}, err
	}
	out := group.Fetched{Intent: f.Intent, Now: s.cfg.Now()}
	var keys [][]byte
	var owner []int // of keys, in out.Inboxes
	for i, id := range f.Inboxes {
		state, seq := s.inboxes.latest(id)
		out.Inboxes = append(out.Inboxes, group.FetchedInbox{Inbox: id, Sequence: seq})
		if state == nil {
			continue
		}
		for _, m := range state.Installations() {
			keys, owner = append(keys, m.ID.Bytes()), append(owner, i)
		}
	}
	for from := 0; from < len(keys); from += fetchChunk {
		chunk := keys[from:min(from+fetchChunk, len(keys))]
		packages, err := s.cfg.Network.FetchKeyPackages(ctx, chunk)
		if err != nil {
			return group.Fetched{}, err
		}
		if len(packages) != len(chunk) {
			return group.Fetched{}, fmt.Errorf("actors: asked for %d key packages, got %d", len(chunk), len(packages))
		}
		for i, p := range packages {
			if len(p) > 0 {
				in := &out.Inboxes[owner[from+i]]
				in.KeyPackages = append(in.KeyPackages, p)
			}
		}
	}
	return out, nil
}

// Between tries of something that must come to be, waits double up to a bound.
const (
	retryFirst = 50 * time.Millisecond
	retryMost  = 5 * time.Second
)

// persist tries until it succeeds or ctx ends, and reports which. What it says
// goes to the log once, not at every try. An alarm makes it try at once.
func (s *System) persist(ctx context.Context, a *alarm, what string, try func() error) bool {
	for delay := retryFirst; ; delay = min(2*delay, retryMost) {
		rings := a.rings() // before the try: what rings during it counts
		err := try()
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if delay == retryFirst {
			s.log.Warn(what, keyErr, err)
		}
		select {
		case <-time.After(delay):
		case <-rings:
		case <-ctx.Done():
			return false
		}
	}
}

// pause waits, shorter where the alarm rings, and reports whether ctx goes on.
func pause(ctx context.Context, a *alarm, d time.Duration) bool {
	select {
	case <-time.After(d):
	case <-a.rings():
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// An alarm wakes everybody who waits at the moment: the owner asks for progress
// now. The nil alarm never rings.
type alarm struct {
	mu   sync.Mutex
	next chan struct{}
}

func (a *alarm) rings() <-chan struct{} {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next == nil {
		a.next = make(chan struct{})
	}
	return a.next
}

func (a *alarm) ring() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next != nil {
		close(a.next)
		a.next = nil
	}
}
