package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/chaos/audit"
	"github.com/conclave-chat/conclave/chaos/ledger"
)

// A loadSpec is what a host sends and changes. All of it follows from the seed,
// but for what the machine's speed decides.
type loadSpec struct {
	Seed    uint64        `json:"seed"`
	Senders int           `json:"senders,omitempty"` // at a time
	Pause   time.Duration `json:"pause,omitempty"`   // of a sender after each message, at most
	Change  time.Duration `json:"change,omitempty"`  // between two changes of a group; none where zero
	Brave   bool          `json:"brave,omitempty"`   // an error is no reason to stop
	Sends   int           `json:"sends,omitempty"`   // of a burst
	Changes int           `json:"changes,omitempty"` // of a burst
}

// A load runs until it is told to rest.
type load struct {
	cancel context.CancelFunc
	work   *errgroup.Group
}

func startLoad(ctx context.Context, h *host, spec loadSpec) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel, work: new(errgroup.Group)}
	for n := range spec.Senders {
		random := rand.New(rand.NewPCG(spec.Seed, uint64(n)))
		l.work.Go(func() error {
			if n == 0 { // what the last life left open
				if err := h.sendAgain(ctx); err != nil {
					return err
				}
			}
			for i := 0; pause(ctx, time.Duration(random.Int64N(int64(spec.Pause)+1))); i++ {
				token := fmt.Sprintf("%d/%d/%d/%d", h.spec.Host, h.spec.Life, n, i)
				if err := h.send(ctx, random, token); err != nil && !spec.Brave {
					return err
				}
			}
			return nil
		})
	}
	if spec.Change > 0 {
		random := rand.New(rand.NewPCG(spec.Seed, 1<<32))
		l.work.Go(func() error {
			for i := 0; pause(ctx, spec.Change/2+time.Duration(random.Int64N(int64(spec.Change)))); i++ {
				if err := h.change(ctx, random, i); err != nil && !spec.Brave {
					return err
				}
			}
			return nil
		})
	}
	return l
}

// pause reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// rest stops a load. What was acknowledged goes on by itself.
func (l *load) rest() error {
	if l == nil {
		return nil
	}
	l.cancel()
	return l.work.Wait()
}

// burst sends and changes as much as it is told, as fast as it goes.
func (h *host) burst(ctx context.Context, spec loadSpec) error {
	random := rand.New(rand.NewPCG(spec.Seed, 0))
	senders := max(spec.Senders, 1)
	var work errgroup.Group
	for n := range senders {
		random := rand.New(rand.NewPCG(spec.Seed, uint64(n)+1))
		work.Go(func() error {
			for i := n; i < spec.Sends; i += senders {
				if err := h.send(ctx, random, fmt.Sprintf("%d/%d/burst/%d/%d", h.spec.Host, h.spec.Life, spec.Seed, i)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for i := range spec.Changes {
		if err := h.change(ctx, random, i); err != nil {
			return errors.Join(err, work.Wait())
		}
	}
	return work.Wait()
}

// seat is one of this host's people in one group.
type seat struct {
	person int
	plan   audit.Plan
	group  *conclave.Group
}

// pick chooses a permanent member of some group who lives here.
func (h *host) pick(ctx context.Context, random *rand.Rand) (seat, error) {
	for range 100 {
		plan := h.spec.Plans[random.IntN(len(h.spec.Plans))]
		person := plan.Members[random.IntN(len(plan.Members))]
		if _, here := h.clients[person]; here && plan.ID != "" {
			g, err := h.groupOf(ctx, person, plan.ID)
			return seat{person, plan, g}, err
		}
	}
	return seat{}, errors.New("nobody of this host is in a group")
}

func (h *host) groupOf(ctx context.Context, person int, id string) (*conclave.Group, error) {
	gid, err := conclave.ParseGroupID(id)
	if err != nil {
		return nil, err
	}
	g, err := h.clients[person].Conversations().Get(ctx, gid)
	if err != nil {
		return nil, fmt.Errorf("person %d, group %.8s: %w", person, id, err)
	}
	return g, nil
}

// send asks for one message. A send that ends with an error was not
// acknowledged: it is known as tried, and tried again by the next life.
func (h *host) send(ctx context.Context, random *rand.Rand, token string) error {
	s, err := h.pick(ctx, random)
	if err != nil {
		return unless(ctx, err)
	}
	e := ledger.Entry{Event: ledger.Tried, Life: h.spec.Life, Person: s.person, Group: s.plan.ID, Token: token}
	if err := h.ledger.Append(e); err != nil {
		return err
	}
	return h.sendAs(ctx, s.group, e)
}

// sendAs sends what the ledger has as tried. The token is its idempotency key,
// so that trying again is one message.
func (h *host) sendAs(ctx context.Context, g *conclave.Group, e ledger.Entry) error {
	id, err := g.Send(ctx, conclave.Text(e.Token), conclave.IdempotencyKey(e.Token))
	if err != nil {
		h.pending.tried(e)
		return unless(ctx, fmt.Errorf("send: %w", err))
	}
	e.Event, e.Life, e.ID = ledger.Acknowledged, h.spec.Life, id.String()
	if err := h.ledger.Append(e); err != nil {
		return err
	}
	h.pending.acknowledged(e)
	return nil
}

// sendAgain tries again what was tried and not acknowledged.
func (h *host) sendAgain(ctx context.Context) error {
	for _, e := range h.pending.takeTried() {
		g, err := h.groupOf(ctx, e.Person, e.Group)
		if err == nil {
			err = h.sendAs(ctx, g, e)
		}
		if err != nil {
			return unless(ctx, err)
		}
	}
	return nil
}

// unless is err, or nothing where ctx ended and may be the cause.
func unless(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// change asks for the next change of some group: a name or description by
// anybody, fresh keys, or that a guest comes or goes, by the creator.
func (h *host) change(ctx context.Context, random *rand.Rand, n int) error {
	s, err := h.pick(ctx, random)
	if err != nil {
		return unless(ctx, err)
	}
	e := ledger.Entry{Event: ledger.Changing, Life: h.spec.Life, Person: s.person, Group: s.plan.ID}
	value := fmt.Sprintf("%d/%d/%d", h.spec.Host, h.spec.Life, n)
	var act func() error
	switch kind := random.IntN(4); {
	case kind == 0 && s.person == s.plan.Members[0] && len(s.plan.Guests) > 0:
		guest := s.plan.Guests[random.IntN(len(s.plan.Guests))]
		act = func() error { return h.toggle(ctx, s.group, guest) }
	case kind == 1:
		act = func() error { return s.group.UpdateKeys(ctx) }
	case kind == 2:
		e.Token = "description=" + value
		act = func() error { return s.group.UpdateDescription(ctx, value) }
	default:
		e.Token = "group_name=" + value
		act = func() error { return s.group.UpdateName(ctx, value) }
	}
	if err := h.ledger.Append(e); err != nil {
		return err
	}
	if err := act(); err != nil {
		return unless(ctx, fmt.Errorf("change: %w", err))
	}
	e.Event = ledger.Changed
	return h.ledger.Append(e)
}

// toggle adds a guest who is out, and removes one who is in.
func (h *host) toggle(ctx context.Context, g *conclave.Group, guest int) error {
	address := h.spec.People[guest].Address
	members, err := g.Members(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(members, func(m conclave.Member) bool { return slices.Contains(m.Addresses, address) }) {
		err = g.RemoveMembers(ctx, address)
	} else {
		err = g.AddMembers(ctx, address)
	}
	if errors.Is(err, conclave.ErrNotMember) {
		return nil // a change that a killed life had asked for was first
	}
	return err
}

// pending is what this host's ledger has open.
type pending struct {
	mu   sync.Mutex
	open map[string]ledger.Entry // tried, by token
	wait map[string]ledger.Entry // acknowledged and not settled, by id
}

func newPending(entries []ledger.Entry) *pending {
	p := &pending{open: map[string]ledger.Entry{}, wait: map[string]ledger.Entry{}}
	for _, e := range entries {
		switch e.Event {
		case ledger.Tried:
			p.tried(e)
		case ledger.Acknowledged:
			delete(p.open, e.Token)
			p.wait[e.ID] = e
		case ledger.Published, ledger.Failed:
			delete(p.wait, e.ID)
		}
	}
	return p
}

func (p *pending) tried(e ledger.Entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.Event, p.open[e.Token] = ledger.Tried, e
}

// takeTried are the sends that were tried and not acknowledged: whoever takes them
// tries them again.
func (p *pending) takeTried() (all []ledger.Entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.open {
		all = append(all, e)
	}
	clear(p.open)
	slices.SortFunc(all, func(a, b ledger.Entry) int {
		if a.Token < b.Token {
			return -1
		}
		return 1
	})
	return all
}

func (p *pending) acknowledged(e ledger.Entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wait[e.ID] = e
}

// unsettled are the messages that were acknowledged and have no end yet.
func (p *pending) unsettled() (all []ledger.Entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.wait {
		all = append(all, e)
	}
	return all
}

func (p *pending) settled(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.wait, id)
}
