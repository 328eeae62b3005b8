package actors

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// Every few minutes a host reads the commit logs of its groups, tells members
// that are elsewhere than the others, and publishes what one of its members has
// written down beyond them. One member of a group does that for all on the host,
// nobody sleeping is woken for reading, and nothing is kept: the logs can be
// read again.

// commitLogs are what a host has read.
type commitLogs struct {
	round sync.Mutex // held by a round
	of    map[GroupID]*commitLog
}

type commitLog struct {
	group.CommitLog
	offered uint64 // the last commit that this host has published
}

// A standing is where one member of a group is.
type standing struct {
	in *installation
	group.Summary
}

// newest is the last commit that the member has applied or rejected.
func (m standing) newest() uint64 {
	if len(m.Trail) == 0 {
		return 0
	}
	return m.Trail[len(m.Trail)-1].Commit
}

const (
	commitLogPage  = 100 // entries that a node answers with at most
	commitLogPages = 20  // of one group in one round: junk there takes no longer
	commitLogEvery = 5 * time.Minute
)

type (
	// tendCommitLogs begins a round, and commitLogsTended ends it.
	tendCommitLogs   struct{ of *hostActor }
	commitLogsTended struct{ of *hostActor }
)

// tendLater sets the time of the next round, a tenth more or less, so that hosts
// that started together do not ask together.
func (a *hostActor) tendLater(ctx *engine.Context) {
	if d := a.sys.cfg.CommitLogEvery; d > 0 {
		ctx.After(d-d/10+rand.N(max(d/5, 1)), tendCommitLogs{a})
	}
}

func (a *hostActor) tendCommitLogs(ctx *engine.Context) {
	self := ctx.Self()
	a.sys.beside(func(c context.Context) {
		if err := a.sys.SyncCommitLogs(c); err != nil && c.Err() == nil {
			a.sys.log.Warn("commit logs not synced", keyErr, err)
		}
		_ = a.sys.engine.Tell(self, commitLogsTended{a}) // a host that closes needs none
	})
}

// SyncCommitLogs is one round: it reads, compares and publishes.
func (s *System) SyncCommitLogs(ctx context.Context) error {
	s.commitLogs.round.Lock()
	defer s.commitLogs.round.Unlock()
	members, err := s.standings(ctx)
	if err != nil {
		return fmt.Errorf("actors: read standings: %w", err)
	}
	logs := make(map[GroupID]*commitLog, len(members))
	for id := range members {
		if logs[id] = s.commitLogs.of[id]; logs[id] == nil {
			logs[id] = new(commitLog)
		}
	}
	s.commitLogs.of = logs
	if err := s.readCommitLogs(ctx); err != nil {
		return fmt.Errorf("actors: read commit logs: %w", err)
	}
	var failed error
	var entries []*mlsapi.PublishCommitLogRequest
	newest := map[*commitLog]uint64{}
	for id, log := range logs {
		s.compare(id, log, members[id])
		more, last, err := s.unpublished(ctx, id, log, members[id])
		if len(more) > 0 {
			entries, newest[log] = append(entries, more...), last
		}
		failed = errors.Join(failed, err)
	}
	if len(entries) > 0 {
		err := s.cfg.Network.PublishCommitLog(ctx, entries)
		for log, last := range newest {
			if err == nil {
				log.offered = last
			}
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

// standings reads, from their rows, where the members of all groups are.
func (s *System) standings(ctx context.Context) (map[GroupID][]standing, error) {
	s.mu.RLock()
	open := slices.Collect(maps.Values(s.installations))
	s.mu.RUnlock()
	members := map[GroupID][]standing{}
	for _, in := range open {
		all, failed := s.list(ctx, in, Scope{})
		for _, c := range all {
			summary, err := group.Summarize(s.rows(ctx, in, c.ID))
			failed = errors.Join(failed, err)
			if err == nil {
				members[c.ID] = append(members[c.ID], standing{in, summary})
			}
		}
		if failed != nil && ctx.Err() == nil { // deleted meanwhile, or damaged: the others count
			s.log.Warn("standings not read", installationAttr(in.id), keyErr, failed)
		}
	}
	return members, ctx.Err()
}

// readCommitLogs reads what the logs have beyond what was read: a page of each,
// then the next of those that have more.
func (s *System) readCommitLogs(ctx context.Context) error {
	ids := slices.Collect(maps.Keys(s.commitLogs.of))
	for range commitLogPages {
		if len(ids) == 0 {
			return nil
		}
		queries := make([]*mlsapi.QueryCommitLogRequest, len(ids))
		for i, id := range ids {
			queries[i] = &mlsapi.QueryCommitLogRequest{GroupId: id[:], PagingInfo: &mlsapi.PagingInfo{
				Direction: mlsapi.SortDirection_SORT_DIRECTION_ASCENDING, Limit: commitLogPage, IdCursor: s.commitLogs.of[id].Cursor,
			}}
		}
		responses, err := s.cfg.Network.QueryCommitLog(ctx, queries)
		if err != nil {
			return err
		}
		if len(responses) != len(ids) {
			return fmt.Errorf("asked for %d commit logs, got %d", len(ids), len(responses))
		}
		var more []GroupID
		for i, r := range responses {
			s.commitLogs.of[ids[i]].Read(ids[i][:], r.GetCommitLogEntries())
			if len(r.GetCommitLogEntries()) >= commitLogPage {
				more = append(more, ids[i])
			}
		}
		ids = more
	}
	return nil
}

// compare tells the members of a group for which the log changes something.
func (s *System) compare(id GroupID, log *commitLog, members []standing) {
	for _, m := range members {
		at, forked, known := log.Judge(m.Trail)
		if known && forked != m.Forked {
			// One that cannot be woken hears of it in the next round.
			if err := s.names.Tell(groupName(m.in.id, id), group.Input(group.Attested(at))); err != nil {
				s.log.Warn("member not told of the commit log", groupAttr(id), installationAttr(m.in.id), keyErr, err)
			}
		}
	}
}

// maxPublishers is how many members of a group are considered for publishing.
const maxPublishers = 8

// unpublished returns what a member of this host can say of a group's commits
// beyond the log: of those who have read most, the one who has written down
// most, since a super admin has nothing from before it was one. A member of whom
// the log says that it is elsewhere says nothing.
func (s *System) unpublished(ctx context.Context, id GroupID, log *commitLog, members []standing) ([]*mlsapi.PublishCommitLogRequest, uint64, error) {
	after := max(log.Newest(), log.offered)
	members = slices.DeleteFunc(slices.Clone(members), func(m standing) bool {
		_, forked, _ := log.Judge(m.Trail)
		return !m.KeepsCommitLog || forked || m.newest() <= after
	})
	if len(members) == 0 {
		return nil, 0, nil
	}
	slices.SortFunc(members, func(a, b standing) int { return cmp.Compare(b.newest(), a.newest()) })
	var by *installation
	var records []group.CommitRecord
	for _, m := range members[:min(len(members), maxPublishers)] {
		more, err := group.CommitRecords(s.rows(ctx, m.in, id), after)
		if err != nil {
			return nil, 0, fmt.Errorf("read commits of group %s: %w", id, err)
		}
		if m.newest() == members[0].newest() && len(more) > len(records) {
			by, records = m.in, more
		}
	}
	if by == nil {
		return nil, 0, nil
	}
	key := slices.Clone(log.Key)
	// The round goes on with the other groups where this one's actor cannot start.
	answer, err := s.try(ctx, groupName(by.id, id), look{func(r *group.Replica) any { return r.SignCommits(records, key) }})
	if err != nil {
		return nil, 0, fmt.Errorf("sign commits of group %s: %w", id, err)
	}
	signed, _ := answer.([]*mlsapi.PublishCommitLogRequest)
	return signed, records[len(records)-1].Commit, nil
}
