package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/chaos/ledger"
)

// listen opens a stream of everything on each installation, and notes what was
// stored before.
func (h *host) listen(ctx context.Context) error {
	ctx, h.stop = context.WithCancel(ctx)
	for n, c := range h.clients {
		if err := h.ledger.Note(ledger.Entry{Event: ledger.Streaming, Life: h.spec.Life, Person: n}); err != nil {
			return err
		}
		last, err := stored(ctx, c)
		if err != nil {
			return err
		}
		for id, position := range last {
			e := ledger.Entry{Event: ledger.Streaming, Life: h.spec.Life, Person: n, Group: id, Position: position}
			if err := h.ledger.Note(e); err != nil {
				return err
			}
			h.tails.at(n, id, position)
		}
		news := c.Conversations().StreamAllMessages(ctx)
		h.streams.Go(func() {
			select {
			case <-h.gate:
			case <-ctx.Done():
				return
			}
			for m, err := range news {
				if err != nil {
					h.tails.fail(fmt.Errorf("stream of person %d: %w", n, err))
					return
				}
				e := ledger.Entry{
					Event: ledger.Received, Life: h.spec.Life, Person: n,
					Group: m.Group.String(), ID: m.ID.String(), Position: m.Position, At: m.SentAt,
				}
				if err := h.ledger.Note(e); err != nil {
					h.tails.fail(err)
				}
				h.tails.at(n, e.Group, e.Position)
			}
		})
	}
	return nil
}

// stored is the last position of each group of an installation.
func stored(ctx context.Context, c *conclave.Client) (map[string]uint64, error) {
	groups, err := c.Conversations().List(ctx)
	if err != nil {
		return nil, err
	}
	last := map[string]uint64{}
	for _, g := range groups {
		messages, err := g.Messages(ctx, conclave.MessageQuery{Status: conclave.Published})
		if err != nil {
			return nil, err
		}
		last[g.ID().String()] = 0
		if n := len(messages); n > 0 {
			last[g.ID().String()] = messages[n-1].Position
		}
	}
	return last, nil
}

// positions is how far the streams came.
type positions struct {
	mu     sync.Mutex
	last   map[string]uint64 // by person and group
	failed error
}

func newPositions() *positions { return &positions{last: map[string]uint64{}} }

func positionKey(person int, group string) string { return fmt.Sprint(person, "/", group) }

func (t *positions) at(person int, group string, position uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := positionKey(person, group)
	t.last[k] = max(t.last[k], position)
}

func (t *positions) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed = errors.Join(t.failed, err)
}

func (t *positions) of(person int, group string) (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last[positionKey(person, group)], t.failed
}

// quiesce brings everything to its end: the load rests, every installation is
// synced, every own message is Published or Failed, and every stream has yielded
// what is stored. What takes longer than the limit is a problem, by name.
func (h *host) quiesce(ctx context.Context, limit time.Duration) []string {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	l := h.load
	h.load = nil
	for _, step := range []func(context.Context) error{
		func(context.Context) error { return l.rest() },
		h.sendAgain, h.join, h.awaitAll, h.join, h.drainAll,
	} {
		if err := step(ctx); err != nil {
			return strings.Split(err.Error(), "\n")
		}
	}
	return nil
}

// awaitAll waits for the end of every message that was acknowledged. Of those
// that find none it names the first.
func (h *host) awaitAll(ctx context.Context) error {
	open := h.pending.unsettled()
	if err := each(ctx, open, h.await); err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return fmt.Errorf("%d of %d messages find no end: %s", len(h.pending.unsettled()), len(open), first)
	}
	return nil
}

// drainAll waits until every stream has yielded what is stored.
func (h *host) drainAll(ctx context.Context) error {
	if h.spec.Deaf {
		return nil
	}
	if h.spec.Slow {
		close(h.gate)
		h.spec.Slow = false
	}
	return each(ctx, h.spec.mine(), h.drain)
}

// await waits for the end of one message.
func (h *host) await(ctx context.Context, e ledger.Entry) error {
	g, err := h.groupOf(ctx, e.Person, e.Group)
	if err != nil {
		return err
	}
	var id conclave.MessageID
	if _, err := hex.Decode(id[:], []byte(e.ID)); err != nil {
		return err
	}
	status, err := g.Wait(ctx, id)
	if err != nil {
		return fmt.Errorf("person %d: wait for %q: %w", e.Person, e.Token, err)
	}
	e.Event, e.Life = ledger.Published, h.spec.Life
	if status == conclave.Failed {
		e.Event = ledger.Failed
	}
	if err := h.ledger.Append(e); err != nil {
		return err
	}
	h.pending.settled(e.ID)
	return nil
}

// drain waits until a person's stream has yielded what is stored.
func (h *host) drain(ctx context.Context, p person) error {
	last, err := stored(ctx, h.clients[p.Number])
	if err != nil {
		return err
	}
	for id, position := range last {
		for {
			at, failed := h.tails.of(p.Number, id)
			if failed != nil {
				return failed
			}
			if at >= position {
				break
			}
			if !pause(ctx, 10*time.Millisecond) {
				return fmt.Errorf("the stream of person %d is at %d of %d in %.8s", p.Number, at, position, id)
			}
		}
		e := ledger.Entry{Event: ledger.Drained, Life: h.spec.Life, Person: p.Number, Group: id, Position: position}
		if err := h.ledger.Append(e); err != nil {
			return err
		}
	}
	return nil
}
