package actors

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"slices"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/persistence"
)

// What befalls the log is told to every replica, those that sleep included:
//
//	event                                what each replica is told
//	the bus says that the log went back  where it ends: a cursor may lie beyond, and
//	                                     will soon look good again
//	the log has more accepted losses     to go on from before the first loss: what it reads
//	than this installation was told of   again it knows, and what is missing of its own it
//	                                     sends again
//
// The number of losses that an installation was told of is a row of its own. It is
// written when every replica has done what it was told, so that an installation that was
// closed when a loss was accepted is told when it opens, and one whose host stops in
// between is told once more.

// logRewound tells all installations that are open that the log went back.
func (s *System) logRewound() {
	s.mu.RLock()
	all := slices.Collect(maps.Values(s.installations))
	s.mu.RUnlock()
	s.beside(func(ctx context.Context) {
		for _, in := range all {
			err := s.eachLog(ctx, in, func(name string, topic bus.Topic) (err error) {
				var end bus.ID
				if s.persist(ctx, nil, "end of the log not read", func() (err error) { end, err = s.cfg.Bus.End(ctx, topic); return err }) {
					err = s.names.Tell(name, logRewound{end})
				}
				return err
			})
			if err == nil {
				err = s.tellLosses(ctx, in)
			}
			if err != nil && ctx.Err() == nil {
				s.log.Error("replica not told that the log went backwards", installationAttr(in.id), keyErr, err)
			}
		}
	})
}

// eachLog calls f for each actor of an installation and a topic of what it reads. It
// goes on where f fails.
func (s *System) eachLog(ctx context.Context, in *installation, f func(name string, topic bus.Topic) error) error {
	ids, err := groupsOf(ctx, in.vault)
	err = errors.Join(err, f(installationName(in.id), welcomeTopic(in.id)))
	for _, id := range ids {
		commits, _ := topicsOf(id)
		err = errors.Join(err, f(groupName(in.id, id), commits))
	}
	return err
}

// tellLosses tells an installation of the losses that it was not told of yet.
func (s *System) tellLosses(ctx context.Context, in *installation) error {
	losses := s.cfg.Bus.Info().Losses
	told, err := toldLosses(ctx, in)
	if err != nil || told == losses {
		return err
	}
	s.log.Warn("log has lost entries", installationAttr(in.id), "losses", losses)
	err = s.eachLog(ctx, in, func(name string, topic bus.Topic) (err error) {
		if after, lost := s.cfg.Bus.Lost(topic); lost {
			_, err = s.askName(ctx, name, logRewound{after})
		}
		return err
	})
	if err != nil {
		return err
	}
	var b persistence.Batch
	in.vault.Put(&b, typeLosses, nil, binary.AppendUvarint(nil, uint64(losses)))
	return in.vault.Apply(ctx, &b, persistence.Durable)
}

// tellLossesSoon does so beside an installation that opens.
func (s *System) tellLossesSoon(in *installation) {
	if s.cfg.Bus.Info().Losses == 0 {
		return
	}
	s.beside(func(ctx context.Context) {
		if err := s.tellLosses(ctx, in); err != nil && ctx.Err() == nil && !errors.Is(err, ErrAsleep) {
			s.log.Error("installation not told that the log has lost entries", installationAttr(in.id), keyErr, err)
		}
	})
}

func toldLosses(ctx context.Context, in *installation) (int, error) {
	row, err := in.vault.Get(ctx, typeLosses, nil)
	if errors.Is(err, persistence.ErrNotFound) {
		return 0, nil
	}
	n, _ := binary.Uvarint(row)
	return int(n), err
}
