package engine

import (
	"log/slog"

	"github.com/asynkron/protoactor-go/actor"
)

// New returns an engine on protoactor-go's mailboxes.
//
// Of protoactor it uses the lock-free mailbox, the dispatcher, and suspending
// and restarting by system messages. Its supervisors never see a failure of a
// Behavior, since a turn catches them first; its Stop, which drops what is
// queued, is sent only when nothing is; its receive timeouts (a data race),
// metrics and logs (which print messages) are off.
func New(config Config) (*Engine, error) {
	system := actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger {
		return slog.New(slog.DiscardHandler)
	}))
	return NewOn(&protoRuntime{system, system.Root.Copy().WithGuardian(&escalate{})}, config)
}

type protoRuntime struct {
	system *actor.ActorSystem
	root   *actor.RootContext
}

// protoMailbox is both the actor that protoactor runs and the mailbox in front
// of it.
type protoMailbox struct {
	turner  Turner
	pid     *actor.PID
	process actor.Process
}

func (r *protoRuntime) Spawn(t Turner) Mailbox {
	m := &protoMailbox{turner: t}
	m.pid = r.root.Spawn(actor.PropsFromProducer(func() actor.Actor { return m },
		actor.WithMailbox(actor.UnboundedLockfree())))
	m.process, _ = r.system.ProcessRegistry.Get(m.pid)
	return m
}

func (r *protoRuntime) Close() { r.system.Shutdown() }

// Receive implements actor.Actor. Started is the first message, and again the
// first after a restart.
func (m *protoMailbox) Receive(ctx actor.Context) {
	var goOn bool
	switch msg := ctx.Message().(type) {
	case *actor.Started:
		goOn = m.turner.Turn(nil)
	case *envelope:
		goOn = m.turner.Turn(msg)
	default:
		return
	}
	if !goOn {
		// By the context: m.process is not set yet during the first turn.
		self, _ := ctx.ActorSystem().ProcessRegistry.Get(ctx.Self())
		self.SendSystemMessage(ctx.Self(), &actor.SuspendMailbox{})
	}
}

func (m *protoMailbox) Post(msg any) { m.process.SendUserMessage(m.pid, msg) }

// Resume restarts the actor, which ends the suspension. Where it overtakes the
// suspension, the mailbox still handles suspend before resume: protoactor
// queues the latter while it restarts.
func (m *protoMailbox) Resume() { m.process.SendSystemMessage(m.pid, &actor.Restart{}) }

func (m *protoMailbox) Close() { m.process.Stop(m.pid) }

// escalate ends the process on a panic that no turn has caught: one in a hook.
type escalate struct{}

func (*escalate) HandleFailure(_ *actor.ActorSystem, _ actor.Supervisor, _ *actor.PID, _ *actor.RestartStatistics, reason, _ any) {
	panic(reason)
}
