package actors

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/persistence"
)

// What an owner does with an installation's groups. Every method waits for as
// long as its context lets it; what was accepted goes on without it.

// askTries is how often a question is put to an actor that crashes over it.
const askTries = 3

// ask puts a question to a group's actor, waking it where it sleeps. An actor
// that crashes before it answers is asked again once it has started: a message
// is known by its key, and every other command finds itself true already.
func (s *System) ask(ctx context.Context, in InstallationID, id GroupID, msg any) (answer any, err error) {
	if err := s.knows(ctx, in, id); err != nil {
		return nil, err
	}
	return s.askName(ctx, groupName(in, id), msg)
}

// knows checks, without waking anybody, that an installation has a group.
func (s *System) knows(ctx context.Context, in InstallationID, id GroupID) error {
	if _, live := s.names.Live(groupName(in, id)); live {
		return nil
	}
	installation, err := s.installation(in)
	if err != nil {
		return err
	}
	row, err := s.rows(ctx, installation, id).Get(group.TableMeta, nil, nil)
	if err != nil {
		return err
	}
	if row == nil {
		return ErrNoGroup
	}
	return nil
}

// CreateGroup makes a group of which the installation is the only member so
// far. It is stored when CreateGroup returns, and the network knows nothing of
// it until its first commit.
func (s *System) CreateGroup(ctx context.Context, in InstallationID, c group.CreateConfig) (GroupID, error) {
	installation, err := s.installation(in)
	if err != nil {
		return GroupID{}, err
	}
	if err := s.knownRevoked(installation); err != nil {
		return GroupID{}, err
	}
	replica, fx, err := group.Create(installation.env, c)
	if err != nil {
		return GroupID{}, err
	}
	id := GroupID(replica.ID())
	var b persistence.Batch
	if err := s.commit(ctx, &b, installation.vault, id, replica.Epoch(), fx.Save, persistence.Durable); err != nil {
		return GroupID{}, fmt.Errorf("actors: store group: %w", err)
	}
	installation.catalogue.add(conversationOf(id, replica.Summary()))
	if installation.listens() {
		return id, s.names.Tell(groupName(in, id), setLive{})
	}
	return id, nil
}

// Submit hands a command to a group and returns once it is durable. The command comes
// true, or fails, without the caller: see Await.
func (s *System) Submit(ctx context.Context, in InstallationID, id GroupID, w group.Input) (Accepted, error) {
	return s.submit(ctx, in, id, command{input: w})
}

// Do is Submit and Await in one.
func (s *System) Do(ctx context.Context, in InstallationID, id GroupID, w group.Input) (Accepted, error) {
	return s.submit(ctx, in, id, command{input: w, outcome: true})
}

func (s *System) submit(ctx context.Context, in InstallationID, id GroupID, w command) (Accepted, error) {
	answer, err := s.ask(ctx, in, id, w)
	accepted, _ := answer.(Accepted)
	return accepted, err
}

// Await waits for the outcome of a command that was accepted before.
func (s *System) Await(ctx context.Context, in InstallationID, id GroupID, intent uint64) error {
	_, err := s.ask(ctx, in, id, outcomeOf{intent})
	return err
}

// Sync reads a group's log to its end and waits until what was on its way out
// has its outcome.
func (s *System) Sync(ctx context.Context, in InstallationID, id GroupID) error {
	_, err := s.ask(ctx, in, id, syncNow{})
	return err
}

// syncBatch is how many groups one question to the bus is about.
const syncBatch = 1000

// SyncGroups is Sync of every group of an installation. Those whose log is as
// it was cost a share of one question, and stay asleep. A group that cannot be
// synced keeps none of the others: the error names it.
func (s *System) SyncGroups(ctx context.Context, in InstallationID) error {
	ids, err := s.Groups(ctx, in)
	if err != nil {
		return err
	}
	var failed failures
	for chunk := range slices.Chunk(ids, syncBatch) {
		topics := make([]bus.Topic, 0, 2*len(chunk))
		for _, id := range chunk {
			commits, messages := topicsOf(id)
			topics = append(topics, commits, messages)
		}
		last, err := s.cfg.Bus.Last(ctx, topics...)
		if err != nil {
			failed.add(fmt.Errorf("actors: ask for the newest entries of %d groups: %w", len(chunk), err))
			continue
		}
		var g errgroup.Group
		g.SetLimit(syncsAtOnce)
		for i, id := range chunk {
			g.Go(func() error {
				if err := s.syncAt(ctx, in, id, max(last[2*i], last[2*i+1])); err != nil {
					failed.add(fmt.Errorf("actors: sync group %s: %w", id, err))
				}
				return nil
			})
		}
		_ = g.Wait()
		if ctx.Err() != nil {
			break
		}
	}
	return failed.err()
}

const syncsAtOnce = 16

func (s *System) syncAt(ctx context.Context, in InstallationID, id GroupID, last bus.ID) error {
	name := groupName(in, id)
	_, compared := s.compared.Load(name)
	if _, live := s.names.Live(name); !live && compared {
		rows, err := s.Rows(ctx, in, id)
		if err != nil {
			return err
		}
		if cursor, quiet, err := group.Resting(rows); err != nil || quiet && bus.ID(cursor) == last {
			return err
		}
	}
	_, err := s.try(ctx, name, syncAt{last})
	if err == nil {
		s.compared.Store(name, true)
	}
	return err
}

// SyncWelcomes reads an installation's welcomes to their end and joins.
func (s *System) SyncWelcomes(ctx context.Context, in InstallationID) error {
	_, err := s.try(ctx, installationName(in), syncWelcomes{})
	return err
}

// try puts a question to one of many actors, as ask does, and does not wait for
// one that cannot start.
func (s *System) try(ctx context.Context, name string, msg any) (answer any, err error) {
	for range askTries {
		if answer, err = s.names.Try(ctx, name, msg); !errors.Is(err, engine.ErrRestarted) {
			break
		}
	}
	return answer, s.explain(name, err)
}

// Look calls read with a group's replica, on its actor's turn: it must be quick
// and keep nothing that changes.
func Look[T any](ctx context.Context, s *System, in InstallationID, id GroupID, read func(*group.Replica) T) (T, error) {
	answer, err := s.ask(ctx, in, id, look{func(r *group.Replica) any { return read(r) }})
	if err != nil {
		var none T
		return none, err
	}
	return answer.(T), nil
}

// Groups lists an installation's groups, from its store.
func (s *System) Groups(ctx context.Context, in InstallationID) ([]GroupID, error) {
	installation, err := s.installation(in)
	if err != nil {
		return nil, err
	}
	return groupsOf(ctx, installation.vault)
}

// Rows reads what an installation has stored of a group, without waking it and
// without the network.
func (s *System) Rows(ctx context.Context, in InstallationID, id GroupID) (group.RowReader, error) {
	if err := s.knows(ctx, in, id); err != nil {
		return nil, err
	}
	installation, err := s.installation(in)
	if err != nil {
		return nil, err
	}
	return s.rows(ctx, installation, id), nil
}

// Describe returns an open installation's description.
func (s *System) Describe(in InstallationID) (Installation, error) {
	installation, err := s.installation(in)
	if err != nil {
		return Installation{}, err
	}
	return installation.describe(), nil
}

// Inboxes looks identifiers up on the network.
func (s *System) Inboxes(ctx context.Context, ids []identity.Identifier) (map[identity.Identifier]string, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	return s.cfg.Network.GetInboxIDs(ctx, ids)
}

// State returns an inbox's newest state as the network has it, nil where there
// is no such inbox.
func (s *System) State(ctx context.Context, inbox string) (*identity.State, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	if err := s.inboxes.refresh(ctx, []string{inbox}); err != nil {
		return nil, err
	}
	state, _ := s.inboxes.latest(inbox)
	return state, nil
}

// KeyPackages returns the newest key package of each installation as the network
// has it, in the order asked, nil where there is none.
func (s *System) KeyPackages(ctx context.Context, installations [][]byte) ([][]byte, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	return s.cfg.Network.FetchKeyPackages(ctx, installations)
}

// KnownState is State without the network.
func (s *System) KnownState(inbox string) *identity.State {
	state, _ := s.inboxes.latest(inbox)
	return state
}

// States reads many inboxes at once, so that KnownState has them.
func (s *System) States(ctx context.Context, inboxes []string) error {
	if err := s.open(); err != nil {
		return err
	}
	return s.inboxes.refresh(ctx, inboxes)
}

// Reachable tells which inboxes have an installation that can be added to a
// group now: one with a valid key package.
func (s *System) Reachable(ctx context.Context, inboxes []string) (map[string]bool, error) {
	for _, id := range inboxes {
		if id != "" {
			if _, err := identity.ParseInboxID(id); err != nil {
				return nil, fmt.Errorf("%w: %w", group.ErrInvalid, err)
			}
		}
	}
	known := slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(inboxes))), func(id string) bool { return id == "" })
	if err := s.open(); err != nil {
		return nil, err
	}
	fetched, err := s.fetchInboxes(ctx, group.Fetch{Inboxes: known})
	if err != nil {
		return nil, err
	}
	can := make(map[string]bool, len(known))
	for _, in := range fetched.Inboxes {
		can[in.Inbox] = slices.ContainsFunc(in.KeyPackages, func(b []byte) bool {
			k, err := group.ParseKeyPackage(s.realm, b)
			return err == nil && k.Inbox == in.Inbox && k.ValidAt(fetched.Now)
		})
	}
	return can, nil
}

// GroupSize is the number of inboxes that a group may grow to.
func (s *System) GroupSize() int { return s.cfg.Limits.Members }

// Now is the host's clock.
func (s *System) Now() time.Time { return s.cfg.Now() }

// Streams counts an installation's open streams.
func (s *System) Streams(in InstallationID) int {
	return len(s.streams.ofInstallation(in))
}

// AwaitMessage waits until an own message is Published or Failed.
func (s *System) AwaitMessage(ctx context.Context, in InstallationID, id GroupID, message group.MessageID) (group.DeliveryStatus, error) {
	for {
		answer, err := s.ask(ctx, in, id, awaitMessage{message})
		if errors.Is(err, ErrCrashed) && ctx.Err() == nil {
			continue // what became of it is in the store
		}
		status, _ := answer.(group.DeliveryStatus)
		return status, err
	}
}

// Forget drops a group's rows from an installation's store: for one that nobody
// else ever heard of.
func (s *System) Forget(ctx context.Context, in InstallationID, id GroupID) error {
	installation, err := s.installation(in)
	if err != nil {
		return err
	}
	name := groupName(in, id)
	commits, messages := topicsOf(id)
	s.feed.unfollow(name, commits, messages)
	if ref, ok := s.names.Live(name); ok {
		s.engine.Stop(ref)
		if err := s.engine.Wait(ctx, ref); err != nil {
			return err
		}
	}
	var b persistence.Batch
	for t := group.TableMeta; t <= group.TableCommit; t++ {
		if t.Shared() {
			continue
		}
		err := installation.vault.Scan(ctx, recordType(t), id[:], nil, func(suffix, _ []byte) bool {
			installation.vault.Delete(&b, recordType(t), bytes.Clone(suffix))
			return true
		})
		if err != nil {
			return err
		}
	}
	if err := installation.vault.DeletePin(&b, id[:]); err != nil {
		return err
	}
	if err := installation.vault.Apply(ctx, &b, persistence.Lazy); err != nil {
		return err
	}
	installation.catalogue.remove(id)
	return s.sweep(ctx, id)
}
