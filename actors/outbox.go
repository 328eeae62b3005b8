package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/internal/telemetry"
)

// An outbox publishes one replica's envelopes in order, beside its mailbox, and
// brings the answers back as inputs. What it holds is durable in the store: when
// its actor dies it is dropped, and the next one sends again.
type outbox struct {
	sys   *System
	to    engine.Ref
	alarm *alarm

	mu     sync.Mutex
	queue  []group.Outbound
	busy   bool
	cancel context.CancelFunc
	ctx    context.Context
}

func newOutbox(s *System, to engine.Ref, a *alarm) *outbox {
	o := &outbox{sys: s, to: to, alarm: a}
	o.ctx, o.cancel = context.WithCancel(s.ctx)
	return o
}

func (o *outbox) add(out []group.Outbound) {
	if len(out) == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue = append(o.queue, out...)
	if !o.busy {
		o.busy = true
		o.sys.beside(func(context.Context) { o.run() })
	}
}

func (o *outbox) empty() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.busy && len(o.queue) == 0
}

// drop forgets what has not been begun.
func (o *outbox) drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	// Welcomes stay: their commit was delivered, and nobody else asks for them.
	o.queue = slices.DeleteFunc(slices.Clone(o.queue), func(out group.Outbound) bool { return out.Topic != group.TopicWelcomes })
}

func (o *outbox) close() { o.cancel() }

// run publishes until the queue is empty or the actor is gone.
func (o *outbox) run() {
	for {
		o.mu.Lock()
		if len(o.queue) == 0 || o.ctx.Err() != nil {
			o.queue, o.busy = nil, false
			o.mu.Unlock()
			return
		}
		run := nextRun(o.queue)
		o.queue = o.queue[len(run):]
		o.mu.Unlock()
		if answer := o.send(run); answer != nil {
			_ = o.sys.engine.Tell(o.to, answer) // a stopped actor needs no answer
		}
	}
}

// nextRun is what can be published together: one message or commit, or all the
// welcomes of one intent.
func nextRun(queue []group.Outbound) []group.Outbound {
	n := 1
	for queue[0].Topic == group.TopicWelcomes && n < len(queue) && queue[n].Topic == group.TopicWelcomes && queue[n].Intent == queue[0].Intent {
		n++
	}
	return queue[:n]
}

func (o *outbox) send(run []group.Outbound) group.Input {
	if run[0].Topic == group.TopicWelcomes {
		return o.sendWelcomes(run)
	}
	return o.sendOne(run[0])
}

// attemptTime is how long the same bytes are tried before the attempt counts as
// unanswered: longer than a bus takes to choose a new leader.
const attemptTime = 15 * time.Second

// sendOne publishes a message or commit. Being cut off and a full bus are
// waiting, not attempts.
func (o *outbox) sendOne(out group.Outbound) group.Input {
	topic, err := topicOf(out)
	if err != nil {
		return group.Refused{Intent: out.Intent, Try: out.Try, Reason: err.Error(), Final: true}
	}
	var opts []bus.PublishOption
	if out.ExpectLast {
		opts = append(opts, bus.ExpectLast(bus.ID(out.Last)))
	}
	opts = append(opts, sameAs(out)...)
	if out.Attempt > 0 && !pause(o.ctx, o.alarm, retryFirst<<min(out.Attempt, 4)) {
		return nil
	}
	var answer group.Input
	unanswered := false // an earlier publish of these bytes may be stored, or may yet be
	o.sys.persist(o.ctx, o.alarm, "bus does not take messages", func() error {
		ctx, cancel := context.WithTimeout(o.ctx, attemptTime)
		defer cancel()
		began := time.Now()
		ack, err := o.sys.cfg.Bus.Publish(ctx, topic, out.Payload, opts...)
		switch {
		case err == nil:
			o.sys.cfg.Telemetry.PublishLatency.Observe(time.Since(began))
			answer = group.Published{Intent: out.Intent, Try: out.Try, ID: uint64(ack.ID), Duplicate: ack.Duplicate}
		case errors.Is(err, bus.ErrConflict):
			answer = group.Conflict{Intent: out.Intent, Try: out.Try}
		case errors.Is(err, bus.ErrFull):
			return err
		case unanswered && bus.NotStored(err):
			answer = group.Unknown{Intent: out.Intent, Try: out.Try}
		case errors.Is(err, bus.ErrTooLarge):
			answer = group.Refused{Intent: out.Intent, Try: out.Try, Reason: err.Error(), Final: true}
		case errors.Is(err, bus.ErrRefused):
			answer = group.Refused{Intent: out.Intent, Try: out.Try, Reason: err.Error()}
		case errors.Is(err, bus.ErrUnavailable), errors.Is(err, bus.ErrDamaged), errors.Is(err, bus.ErrClosed):
			unanswered = true
			return err
		default:
			answer = group.Unknown{Intent: out.Intent, Try: out.Try}
		}
		o.count(out, err)
		return nil
	})
	if o.ctx.Err() != nil {
		return nil
	}
	return answer
}

// count counts a publish that ended.
func (o *outbox) count(out group.Outbound, err error) {
	kind := telemetry.KindApplication
	if out.Topic == group.TopicCommits {
		kind = telemetry.KindCommit
	}
	o.sys.cfg.Telemetry.Attempts.Of(kind).Inc()
	if err == nil {
		o.sys.cfg.Telemetry.Published.Of(kind).Inc()
	}
}

// welcomesAtOnce bounds the publishes that wait for the bus together.
const welcomesAtOnce = 64

// maxRefusals is how often a welcome is refused before it is given up.
const maxRefusals = 3

// sendWelcomes publishes all welcomes of an intent, and does not give up while
// the bus may yet take them. The first goes alone: it may be what the others point
// to. One that is refused for good is of no use to anybody, and must not hold up
// what its sender has to say: who was to join is a member, and can be added again.
func (o *outbox) sendWelcomes(run []group.Outbound) group.Input {
	publish := func(out group.Outbound) bool {
		refusals := 0
		return o.sys.persist(o.ctx, o.alarm, "welcome not published", func() error {
			topic, err := topicOf(out)
			if err == nil {
				ctx, cancel := context.WithTimeout(o.ctx, attemptTime)
				defer cancel()
				_, err = o.sys.cfg.Bus.Publish(ctx, topic, out.Payload, sameAs(out)...)
				if err == nil || !errors.Is(err, bus.ErrTooLarge) && !errors.Is(err, bus.ErrRefused) {
					return err
				}
			}
			if refusals++; refusals < maxRefusals {
				return err
			}
			o.sys.log.Error("welcome given up", keyErr, err)
			return nil
		})
	}
	if !publish(run[0]) {
		return nil
	}
	var g errgroup.Group
	g.SetLimit(welcomesAtOnce)
	for _, out := range run[1:] {
		g.Go(func() error { publish(out); return nil })
	}
	_ = g.Wait()
	if o.ctx.Err() != nil {
		return nil
	}
	return group.WelcomesSent{Intent: run[0].Intent}
}

// sameAs names what repeats of an envelope have in common, as nodes do: its
// ciphertext, whatever else stands beside it.
func sameAs(out group.Outbound) []bus.PublishOption {
	if out.Topic == group.TopicWelcomes {
		if e, err := group.ParseWelcome(out.Payload); err == nil {
			return []bus.PublishOption{bus.SameAs(e.Sealed())}
		}
		return nil
	}
	if data, err := group.DecodeGroupMessage(out.Payload); err == nil {
		return []bus.PublishOption{bus.SameAs(data)}
	}
	return nil
}

func topicOf(out group.Outbound) (bus.Topic, error) {
	switch out.Topic {
	case group.TopicCommits:
		return bus.CommitsOf(out.ID)
	case group.TopicMessages:
		return bus.MessagesOf(out.ID)
	case group.TopicWelcomes:
		return bus.WelcomesFor(out.ID)
	}
	return bus.Topic{}, fmt.Errorf("actors: outbound of topic %d", out.Topic)
}
