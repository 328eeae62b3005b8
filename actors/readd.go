package actors

import (
	"context"
	"errors"
	"fmt"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/persistence"
)

// askBack has a stranded installation ask the super admins of its group, beside the
// mailbox: once for each time that it is stranded, and once more after the host was
// opened again, where nobody has answered until then.
func (a *groupActor) askBack() {
	name := groupName(a.in.id, a.id)
	ask, stranded := a.replica.Ask()
	if !stranded {
		a.sys.asked.Delete(name)
		return
	}
	if _, done := a.sys.asked.LoadOrStore(name, true); done {
		return
	}
	a.sys.beside(func(ctx context.Context) {
		a.sys.persist(ctx, &a.alarm, "super admins not asked to add this installation again", func() error {
			got, err := a.sys.fetchInboxes(ctx, group.Fetch{Inboxes: ask.Inboxes})
			if err != nil {
				return err
			}
			welcomes, err := ask.Welcomes(got)
			if errors.Is(err, group.ErrInvalid) || errors.Is(err, group.ErrNotReachable) {
				a.sys.log.Warn("no super admin can be asked to add this installation again", groupAttr(a.id), installationAttr(a.in.id), keyErr, err)
				return nil
			}
			for _, out := range welcomes {
				if err == nil {
					err = a.sys.publishWelcome(ctx, out)
				}
			}
			return err
		})
	})
}

func (s *System) publishWelcome(ctx context.Context, out group.Outbound) error {
	topic, err := topicOf(out)
	if err == nil {
		_, err = s.cfg.Bus.Publish(ctx, topic, out.Payload, sameAs(out)...)
	}
	return err
}

// answerTo hands the request that a welcome holds to the replica of its group, where
// this installation has that. The replica judges it.
func (a *installationActor) answerTo(ctx context.Context, request *group.ReaddError) error {
	if len(request.Group) != len(GroupID{}) {
		return nil
	}
	id := GroupID(request.Group)
	known, err := a.sys.rows(ctx, a.in, id).Get(group.TableMeta, nil, nil)
	if err != nil && !errors.Is(err, persistence.ErrNotFound) {
		return crash(fmt.Errorf("look for group: %w", err))
	}
	if known == nil {
		return nil
	}
	return a.sys.names.Tell(groupName(a.in.id, id), group.Input(request.Readd))
}
