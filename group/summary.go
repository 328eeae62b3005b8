package group

import "fmt"

// A Summary is what a replica's rows say without loading it.
type Summary struct {
	Kind           Kind // 0: a store of an older version does not tell before the replica is loaded
	DM             [2]string
	Trail          []Applied // the last commits that were applied or rejected, oldest first
	Forked         bool      // see Replica.Forked
	KeepsCommitLog bool      // the member publishes what commits did
	AddedBy        string    // inbox; empty where this installation created the group
}

// DMID names what is between two inboxes: every direct message that they have
// is part of one conversation.
func DMID(one, other string) string { return "dm:" + min(one, other) + ":" + max(one, other) }

// DMID is that of a direct message; of other groups it is empty.
func (s *Summary) DMID() string {
	if s.Kind != KindDM {
		return ""
	}
	return DMID(s.DM[0], s.DM[1])
}

// Summarize reads where a replica stands, from one row.
func Summarize(rows RowReader) (Summary, error) {
	r, err := restingAt(rows)
	if err != nil {
		return Summary{}, fmt.Errorf("group: summarize: %w", err)
	}
	return Summary{Kind: r.kind, DM: r.dm, Trail: r.trail, Forked: r.forked, KeepsCommitLog: r.keeps, AddedBy: r.addedBy}, nil
}

// Summary is what Summarize reads once the rows are saved.
func (r *Replica) Summary() Summary {
	return Summary{Kind: r.kind, DM: r.dm, Trail: r.trail, Forked: r.forked, KeepsCommitLog: r.keepsCommitLog(), AddedBy: r.addedBy}
}
