package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
)

// A groupActor owns one replica: one installation's view of one group.
type groupActor struct {
	sys *System
	in  *installation
	id  GroupID

	env     group.Env // the installation's, for this group
	replica *group.Replica
	stalled bool                     // it was logged that the replica is, and not yet that it goes on
	unsaved map[group.MessageID]bool // messages of steps whose rows are not saved yet
	outbox  *outbox
	waiting map[uint64][]*engine.Reply          // by intent: who waits for its outcome
	senders map[group.MessageID][]*engine.Reply // by own message: likewise
	syncs   []pendingSync

	log      catchUp   // when the log is read
	follows  *readMark // the newest Follow; nil where nobody listens
	live     bool      // it came to be
	checking bool      // a timer of checkLive is set

	alarm alarm // wakes what waits for the network to come back
}

// readAgain comes a while after a read that failed.
type readAgain struct{}

// What a group actor is asked, beside news and answers (which are
// group.Inputs).
type (
	// command is a command of the owner. Its answer is Accepted, as soon as the command
	// is durable, or with Outcome once it came true.
	command struct {
		input   group.Input
		outcome bool
	}
	// outcomeOf waits for an intent that was accepted before.
	outcomeOf struct{ intent uint64 }
	// awaitMessage waits until an own message is Published or Failed.
	awaitMessage struct{ message group.MessageID }
	// readNow reads the log to its end.
	readNow struct{}
	// syncNow catches up with the log and waits for what is on its way out.
	syncNow struct{}
	// look runs a function on the replica, which it must not keep.
	look struct{ read func(*group.Replica) any }
	// checkLive makes it follow the log where somebody still wants that.
	checkLive struct{}
	// setLive says that streams began or ended: the actor looks whether it is to
	// hear of news at once.
	setLive struct{}
	// rejoin is a welcome to a group that is known here.
	rejoin struct{ join group.JoinConfig }
	// syncAt is syncNow by somebody who knows the log's newest entry.
	syncAt struct{ last bus.ID }
	// unsaved says that the replica is ahead of its store.
	unsaved struct{ err error }
	// logRead says that a read of the log has come to its end.
	logRead struct {
		of        *groupActor // who began it
		end       bus.ID
		mark      uint64 // of the Effects.Read that it answers
		after     bus.ID // where it had come to
		unchanged bool   // nothing was there to be read, nor asked for
		err       error
	}
)

// Accepted says that a command is durable.
type Accepted struct {
	Intent      uint64          // number of the intent
	Message     group.MessageID // of Send and Retry
	Unreachable []string        // of AddMembers with outcome: inboxes left out
}

// A pendingSync waits until the log was read and the intents it found waiting
// have their outcome.
type pendingSync struct {
	reply   *engine.Reply
	read    uint64   // the read that must have ended
	intents []uint64 // those that must have their outcome
}

func newGroupActor(s *System, in *installation, id GroupID) *groupActor {
	a := &groupActor{sys: s, in: in, id: id, waiting: map[uint64][]*engine.Reply{}, senders: map[group.MessageID][]*engine.Reply{}, unsaved: map[group.MessageID]bool{}}
	a.env = in.env
	a.env.Stored = a.stored
	return a
}

// stored is group.Env.Stored. The store not answering says nothing of a message.
func (a *groupActor) stored(id group.MessageID) (bool, error) {
	if a.unsaved[id] {
		return true, nil
	}
	places, err := a.sys.sightings.of(a.sys.ctx, a.sys, a.id, id)
	if err != nil {
		return false, crash(err)
	}
	known, err := group.Stored(a.rows(a.sys.ctx), id, places)
	if err != nil {
		return false, crash(err)
	}
	return known, nil
}

// Start loads the replica from its rows: after a crash, a restart or a sleep.
func (a *groupActor) Start(ctx *engine.Context) error {
	replica, fx, err := group.Load(a.env, a.rows(ctx.Context()))
	if err != nil {
		return crash(fmt.Errorf("load replica: %w", err))
	}
	a.replica = replica
	a.outbox = newOutbox(a.sys, ctx.Self(), &a.alarm)
	live := a.in.listens()
	if !live && len(replica.Outstanding()) == 0 {
		a.log.want(fx.Read)
		a.log.hold()
		fx.Read = 0
	}
	if err := a.carryOut(ctx, fx); err != nil {
		return err
	}
	a.setLive(ctx, live)
	a.askBack()
	return nil
}

// Stop releases what Start took. It saves nothing: see Idle.
func (a *groupActor) Stop() {
	if a.outbox != nil {
		a.outbox.close()
	}
}

// Idle lets the actor be put to sleep once nothing waits, after saving the
// ratchets that the store is behind with.
func (a *groupActor) Idle() bool {
	if len(a.syncs) > 0 || !a.outbox.empty() || a.log.state != resting && (a.log.state != still || a.wanted()) {
		return false
	}
	if err := a.save(a.sys.ctx, a.replica.Passivate(), false); err != nil {
		_ = a.sys.engine.Tell(a.outbox.to, unsaved{err})
		return false
	}
	return true
}

// Receive takes one message.
func (a *groupActor) Receive(ctx *engine.Context, msg any) error {
	if err := a.sys.fault(PointGroup); err != nil {
		return err
	}
	switch m := msg.(type) {
	case groupNews:
		return a.news(ctx, m.items)
	case command:
		return a.submit(ctx, m)
	case group.Input: // the answer to an effect
		return a.answer(ctx, m)
	case outcomeOf:
		a.outcome(ctx, m.intent)
		return nil
	case awaitMessage:
		return a.awaitMessage(ctx, m.message)
	case readNow:
		a.read(ctx)
		a.syncs = append(a.syncs, pendingSync{reply: ctx.Later(), read: a.log.covering()})
		return nil
	case syncNow:
		return a.sync(ctx)
	case syncAt:
		if bus.ID(a.replica.Cursor()) != m.last || a.replica.ReadFrom() != a.replica.Cursor() || a.log.running() || a.wanted() {
			return a.sync(ctx)
		}
		return nil
	case look:
		ctx.Reply(m.read(a.replica))
		return nil
	case setLive:
		a.setLive(ctx, a.in.listens()) // as it is now: the messages of two callers may come in either order
		return nil
	case checkLive:
		a.checking = false
		if a.follows == nil && a.in.listens() {
			a.setLive(ctx, true)
		}
		return nil
	case isFollowed:
		a.isFollowed(ctx, m)
		return nil
	case notFollowed:
		a.notFollowed(ctx, m)
		return nil
	case readAgain:
		if a.log.timer() {
			a.begin(ctx)
		}
		return nil
	case fallenBehind:
		if a.log.ask(m.since, true) {
			a.begin(ctx)
		}
		return nil
	case unsaved:
		return crash(fmt.Errorf("save: %w", m.err))
	case logRead:
		return a.logRead(ctx, m)
	case logRewound:
		if err := a.rewound(ctx, m.end); err != nil {
			return err
		}
		a.read(ctx) // also where it was told before: what came since was not handed out
		ctx.Reply(nil)
		return nil
	case rejoin:
		return a.rejoin(ctx, m)
	}
	return fmt.Errorf("actors: group actor was told %T", msg)
}

// step is the one place where the replica moves.
func (a *groupActor) step(ctx *engine.Context, in group.Input) error {
	fx, err := a.replica.Step(in)
	if err != nil {
		return err
	}
	return a.carryOut(ctx, fx)
}

// answer takes the answer to an effect. What was published is settled when the
// log delivers it, so an actor that does not hear of news at once reads it.
func (a *groupActor) answer(ctx *engine.Context, in group.Input) error {
	p, published := in.(group.Published)
	if published && !p.Duplicate && p.ID != 0 && p.ID <= a.replica.Cursor() && a.replica.InFlight(p.Intent) {
		// What is new has an ID at which something else was read: the log went
		// backwards, and nobody had noticed.
		if err := a.rewound(ctx, bus.ID(p.ID-bus.MaxShards)); err != nil {
			return err
		}
	}
	if err := a.step(ctx, in); err != nil {
		return err
	}
	if published && !a.live {
		a.read(ctx)
	}
	return nil
}

// news takes deliveries in one go: their rows are one transaction. An error is
// not the envelope's fault, which is judged inside the replica.
func (a *groupActor) news(ctx *engine.Context, items []group.Delivered) error {
	span := a.sys.cfg.Telemetry.Receive(len(items))
	defer span.End()
	var all group.Effects
	for i := range items {
		fx, err := a.replica.Step(items[i])
		if err != nil {
			return crash(err)
		}
		all = merge(all, fx)
		for _, e := range fx.Emit {
			if c, ok := e.(group.MessageChanged); ok && c.Message.Status == group.StatusPublished {
				a.unsaved[c.Message.ID] = true
			}
		}
	}
	clear(a.unsaved) // they are saved before the next step, or there is none
	return a.carryOut(ctx, all)
}

// merge puts the effects of a later step behind those of an earlier one.
func merge(a, b group.Effects) group.Effects {
	a.Save = append(a.Save, b.Save...)
	a.Durable = a.Durable || b.Durable
	a.Send = append(a.Send, b.Send...)
	a.Resolve = append(a.Resolve, b.Resolve...)
	a.Fetch = append(a.Fetch, b.Fetch...)
	a.Emit = append(a.Emit, b.Emit...)
	a.Read = max(a.Read, b.Read)
	if b.Back != nil {
		a.Back = b.Back
	}
	return a
}

func (a *groupActor) submit(ctx *engine.Context, w command) error {
	if a.sys.knownRevoked(a.in) != nil { // the replica looks before anything is sent
		if err := a.step(ctx, group.CheckMembers{}); err != nil {
			return err
		}
	}
	if send, ok := w.input.(group.Send); ok {
		send.Check = a.sys.checks.due(a.id, a.sys.cfg.Now(), checkOnSend, true)
		w.input = send
	}
	fx, err := a.replica.Step(w.input)
	if err != nil {
		return err
	}
	accepted := Accepted{Intent: fx.Intent, Message: fx.Message}
	// The asker is registered first: the outcome may be among these effects.
	waits := w.outcome && fx.Intent != 0
	if waits {
		a.await(ctx, fx.Intent)
	}
	if err := a.carryOut(ctx, fx); err != nil {
		return err
	}
	if a.log.state == resting {
		a.read(ctx)
	}
	if !waits {
		ctx.Reply(accepted)
	}
	return nil
}

// await answers once an intent has its outcome.
func (a *groupActor) await(ctx *engine.Context, intent uint64) {
	if reply := ctx.Later(); reply != nil {
		a.waiting[intent] = append(a.waiting[intent], reply)
	}
}

// outcome answers who waits for an intent that is not outstanding any more.
func (a *groupActor) outcome(ctx *engine.Context, intent uint64) {
	if slices.Contains(a.replica.Outstanding(), intent) {
		a.await(ctx, intent)
		return
	}
	ctx.Reply(Accepted{Intent: intent})
}

// awaitMessage answers once an own message is Published or Failed.
func (a *groupActor) awaitMessage(ctx *engine.Context, id group.MessageID) error {
	for _, d := range a.replica.Drafts() {
		switch {
		case d.ID != id:
		case d.Status == group.StatusUnpublished:
			a.senders[id] = append(a.senders[id], ctx.Later())
			return nil
		default:
			ctx.Reply(d.Status)
			return nil
		}
	}
	// No draft any more: it was published, or was never here.
	known, err := a.stored(id)
	if err != nil {
		return err
	}
	if !known {
		return group.ErrNoMessage
	}
	ctx.Reply(group.StatusPublished)
	return nil
}

// sync answers once the log was read to its end and what was on its way out has
// its outcome. Who is no member any more has nothing to read.
func (a *groupActor) sync(ctx *engine.Context) error {
	if !a.replica.Active() && !a.wanted() {
		ctx.Reply(nil)
		return nil
	}
	if err := a.check(ctx); err != nil {
		return err
	}
	a.alarm.ring()
	a.read(ctx)
	a.syncs = append(a.syncs, pendingSync{ctx.Later(), a.log.covering(), a.replica.Outstanding()})
	return nil
}

// wanted reports whether the replica waits for a read of the log, or for
// anything else.
func (a *groupActor) wanted() bool { return a.log.wants() || a.replica.Pending() }

// answerSyncs answers the syncs that have what they waited for.
func (a *groupActor) answerSyncs() {
	if len(a.syncs) == 0 {
		return
	}
	if a.replica.Waiting() {
		for i := range a.syncs {
			a.syncs[i].read = a.log.number + 1 // once it goes on
		}
		return
	}
	outstanding := a.replica.Outstanding()
	a.syncs = slices.DeleteFunc(a.syncs, func(s pendingSync) bool {
		if !a.log.through(s.read) || a.replica.Sends() && slices.ContainsFunc(s.intents, func(id uint64) bool { return slices.Contains(outstanding, id) }) {
			return false
		}
		s.reply.Answer(nil, nil)
		return true
	})
}

// setLive follows the log, or stops following it. The network is asked beside the
// mailbox: see isFollowed and notFollowed.
func (a *groupActor) setLive(ctx *engine.Context, live bool) {
	commits, messages := topicsOf(a.id)
	name := ctx.Self().Name()
	a.live = false
	if !live {
		a.follows = nil
		a.sys.feed.unfollow(name, commits, messages) // also what a life before a sleep followed
		return
	}
	a.follows = a.sys.feed.follow(name, bus.ID(a.replica.Cursor()), commits, messages)
}

func (a *groupActor) isFollowed(ctx *engine.Context, m isFollowed) {
	if m.mark != a.follows {
		return // of a life before, or of a stream before
	}
	a.live = true
	if m.behind {
		a.read(ctx)
	}
}

// notFollowed: while the bus is out of reach it tries again, and everything that
// needs no network goes on meanwhile.
func (a *groupActor) notFollowed(ctx *engine.Context, m notFollowed) {
	if m.mark != a.follows {
		return
	}
	a.follows = nil
	a.sys.log.Warn("group log not followed", groupAttr(a.id), keyErr, m.err)
	if errors.Is(m.err, bus.ErrLogRolledBack) {
		a.read(ctx) // and so learn where it ends
	}
	if !a.checking {
		a.checking = true
		ctx.After(retryRead, checkLive{})
	}
}

// read reads the log from the cursor to its end as of now.
func (a *groupActor) read(ctx *engine.Context) {
	if a.log.ask(a.sys.reader.now(), false) {
		a.begin(ctx)
	}
}

// begin begins a read, beside the mailbox. The pages come back as news, then
// logRead. Unless it is known that there is news, it first asks whether there is.
func (a *groupActor) begin(ctx *engine.Context) {
	r := logReader{a.sys, a, ctx.Self(), a.id, bus.ID(a.replica.ReadFrom()), a.log.since, a.log.wanted}
	ask := !a.log.news && !a.wanted() && r.after == bus.ID(a.replica.Cursor()) // what was read is compared once
	a.log.news = false
	a.sys.beside(func(c context.Context) {
		if ask && r.unchanged(c) {
			_ = r.sys.engine.Tell(r.to, logRead{of: a, end: r.after, mark: r.mark, unchanged: true})
			return
		}
		r.run(c)
	})
}

// A logReader is one read of a group's log.
type logReader struct {
	sys   *System
	of    *groupActor // not to be touched: it has its own turns
	to    engine.Ref
	id    GroupID
	after bus.ID
	since moment
	mark  uint64
}

// unchanged reports whether the log's newest entry is the one read last: one
// question, whose answer holds no envelope.
func (r logReader) unchanged(ctx context.Context) bool {
	commits, messages := topicsOf(r.id)
	last, err := r.sys.cfg.Bus.Last(ctx, commits, messages)
	return err == nil && max(last[0], last[1]) == r.after
}

// run asks the actor to take one page after another, so that it never has more
// than one waiting.
func (r logReader) run(ctx context.Context) {
	after, limit := r.after, firstPage
	for {
		p, err := r.sys.reader.page(ctx, pageKey{r.id, after}, limit, r.since)
		if err == nil && len(p.items) > 0 {
			if _, err = r.sys.engine.Ask(ctx, r.to, groupNews{p.items}); err == nil {
				after = bus.ID(p.items[len(p.items)-1].ID)
			}
		}
		if err != nil || !p.full {
			_ = r.sys.engine.Tell(r.to, logRead{of: r.of, end: p.end, after: after, mark: r.mark, err: err}) // a stopped actor needs no answer
			return
		}
		limit = p.next()
	}
}

// retryRead is how long an actor waits after a read that failed.
const retryRead = time.Second

func (a *groupActor) logRead(ctx *engine.Context, m logRead) error {
	if m.of != a {
		return nil // of a life before a crash
	}
	if a.log.isVoid() {
		a.log.ended(0)
		a.read(ctx)
		for i := range a.syncs {
			a.syncs[i].read = a.log.covering()
		}
		return nil
	}
	if m.err != nil {
		return a.notRead(ctx, m)
	}
	more := a.log.ended(m.mark)
	commits, _ := topicsOf(a.id)
	since, beyond := a.sys.feed.caughtUp(ctx.Self().Name(), commits, m.end)
	if !m.unchanged {
		if err := a.step(ctx, group.CaughtUp{End: uint64(m.end), Mark: m.mark, Now: a.sys.cfg.Now()}); err != nil {
			return err
		}
	}
	if (more || beyond || a.log.wants()) && !a.log.running() && a.log.ask(since, beyond) {
		a.begin(ctx)
	}
	a.answerSyncs()
	return nil
}

// notRead: the log could not be read to its end, or goes no longer as far as it
// was read.
func (a *groupActor) notRead(ctx *engine.Context, m logRead) error {
	if errors.Is(m.err, bus.ErrLogRolledBack) && (uint64(m.end) < a.replica.Cursor() || a.replica.Cursor() < uint64(m.after)) {
		a.log.ended(0)
		if err := a.rewound(ctx, m.end); err != nil {
			return err
		}
		a.read(ctx)
		return nil
	}
	a.sys.log.Warn("group log not read", groupAttr(a.id), keyErr, m.err)
	for _, s := range a.syncs {
		s.reply.Answer(nil, m.err)
	}
	a.syncs = nil
	if heard := a.follows != nil || len(a.replica.Outstanding()) > 0; a.log.failed(heard) {
		ctx.After(retryRead, readAgain{})
	}
	return nil
}

// rewound tells the replica where the log ends now. Where that is not before its
// cursor, the log has grown again, or it was told before: it compares.
func (a *groupActor) rewound(ctx *engine.Context, end bus.ID) error {
	commits, _ := topicsOf(a.id)
	after, lost := a.sys.cfg.Bus.Lost(commits)
	in := group.Rewound{End: uint64(end), Lost: lost, LostAfter: uint64(after)}
	if uint64(end) >= a.replica.Cursor() {
		return a.step(ctx, in)
	}
	a.sys.log.Error("group log went backwards", groupAttr(a.id), installationAttr(a.in.id))
	a.sys.streams.rewound(a.in.id, a.id, end)
	a.outbox.drop() // the replica sends it anew
	in.Rows = a.rows(ctx.Context())
	return a.step(ctx, in)
}

// rejoin takes a welcome to a group that was known here: this installation was
// removed and has been added again.
func (a *groupActor) rejoin(ctx *engine.Context, m rejoin) error {
	m.join.Previous = a.replica
	replica, fx, err := group.Join(a.env, m.join)
	if err != nil {
		return err
	}
	// What the old one asked for is void.
	a.replica = replica
	a.log.replaced()
	if err := a.carryOut(ctx, fx); err != nil {
		return err
	}
	ctx.Reply(nil)
	return nil
}
