package group

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/mls"
)

// What the identity logs say about who belongs in the tree.

// A diff is what identity logs say should happen to the tree.
type diff struct {
	added, removed map[string]bool // by installation key
	err            error
}

// expected compares the installations that the two memberships cite.
func (j *judge) expected() diff {
	d := diff{added: map[string]bool{}, removed: map[string]bool{}}
	var moved, gone []string
	for inbox, seq := range j.after.Members {
		if old, was := j.before.Members[inbox]; !was || old != seq {
			moved = append(moved, inbox)
		}
	}
	for inbox := range j.before.Members {
		if _, is := j.after.Members[inbox]; !is {
			gone = append(gone, inbox)
		}
	}
	slices.Sort(moved) // what is asked for and what is said do not depend on a map's order
	slices.Sort(gone)
	for _, inbox := range moved {
		seq := j.after.Members[inbox]
		old, was := j.before.Members[inbox]
		after, exact := j.citedAt(inbox, seq)
		if !was && !exact && d.err == nil {
			d.err = fmt.Errorf("%w: inbox %s at %d", errMissingIdentity, inbox, seq)
		}
		before, _ := j.citedAt(inbox, old) // 0 where it was no member: nothing
		d.add(before, after)
	}
	for _, inbox := range gone {
		before, _ := j.citedAt(inbox, j.before.Members[inbox])
		d.add(before, nil)
	}
	return d
}

func (d *diff) add(before, after [][]byte) {
	had, has := keySet(before), keySet(after)
	for key := range has {
		if !had[key] {
			d.added[key] = true
		}
	}
	for key := range had {
		if !has[key] {
			d.removed[key] = true
		}
	}
}

func keySet(keys [][]byte) map[string]bool {
	set := make(map[string]bool, len(keys))
	for _, key := range keys {
		set[string(key)] = true
	}
	return set
}

// citedAt lists the installations that an inbox is cited with, and reports whether
// an update has exactly that id.
func (j *judge) citedAt(inbox string, seq uint64) ([][]byte, bool) {
	state, exact := j.stateAt(inbox, seq)
	if exact {
		return installationsOf(state), true
	}
	if j.leaves == nil {
		j.leaves = j.leavesByInbox()
	}
	return j.leaves[inbox], false
}

// leavesByInbox lists the installations that are in the tree. They stand for an inbox
// that is cited at an id which no update had, as real clients let members do. What
// its log holds up to that id depends on when one looks; the tree does not, so all
// come to one verdict, and such a citation changes nothing.
func (r *Replica) leavesByInbox() map[string][][]byte {
	leaves := map[string][][]byte{}
	for key, inbox := range r.Installations {
		leaves[inbox] = append(leaves[inbox], key)
	}
	return leaves
}

// stateAt asks for the identity state that an update has led to which was there when
// the log took the commit: one that came later changes no verdict. One that is not
// there is waited for once.
func (j *judge) stateAt(inbox string, seq uint64) (*identity.State, bool) {
	if seq == 0 {
		return nil, true
	}
	if _, err := identity.ParseInboxID(inbox); err != nil {
		return nil, false // nobody's, whatever is looked up
	}
	state, exact := j.env.Identity(inbox, seq, j.at)
	if !exact {
		j.exact = false
		if !j.lookedUp {
			j.need = append(j.need, IdentityAt{inbox, seq, j.at})
		}
		return nil, false
	}
	return state, true
}

// installations (G21, G23): the leaves added and removed are those that the inboxes gained
// and lost, except for installations named as failed.
func (j *judge) installations(want diff, superAdmin bool) error {
	failed := map[string]bool{}
	for _, key := range j.after.Failed {
		failed[string(key)] = true
	}
	dropped := map[string]bool{}
	for _, leaf := range j.drops {
		dropped[string(leaf.SignatureKey)] = true
	}
	for _, leaf := range j.adds {
		key := string(leaf.SignatureKey)
		if superAdmin && dropped[key] {
			delete(dropped, key) // taken out and in again, to repair a fork
		} else if _, member := j.group.Find(leaf.SignatureKey); !want.added[key] && !member {
			return fmt.Errorf("%w: %x", errUnexpectedAdd, key)
		}
		if !j.honest(leaf) {
			j.impostors = append(j.impostors, leaf.SignatureKey)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(want.removed)) {
		if !dropped[key] && !failed[key] {
			return fmt.Errorf("%w: %x stayed", errUnexpectedRemove, key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(dropped)) {
		if want.removed[key] && !failed[key] || superAdmin && failed[key] {
			continue
		}
		return fmt.Errorf("%w: %x", errUnexpectedRemove, key)
	}
	return nil
}

// honest reports whether a leaf claims the inbox that owns its installation. Real
// clients do not ask this of a commit: they take it, and the leaf with it, and would
// leave behind whoever refuses it. So it is taken here too, and what the leaf sends
// is not.
func (j *judge) honest(leaf *mls.LeafNode) bool {
	inbox, err := inboxOf(leaf.Credential)
	if err != nil {
		return false
	}
	state, _ := j.stateAt(inbox, j.after.Members[inbox]) // nil, where none is cited exactly
	return ownsInstallation(state, leaf.SignatureKey)
}

// actorIdentity (G24) is the state that must own the committer's new leaf: that of
// the inbox it claims, as the new membership cites it.
func (j *judge) actorIdentity() (string, *identity.State) {
	inbox, err := inboxOf(j.commit.PathLeaf().Credential)
	if err != nil {
		return "", nil
	}
	seq, member := j.after.Members[inbox]
	if !member {
		return inbox, nil
	}
	state, exact := j.stateAt(inbox, seq)
	if !exact {
		return inbox, nil
	}
	return inbox, state
}

// ownsInstallation reports whether an installation is an inbox's; a nil state
// owns nothing.
func ownsInstallation(s *identity.State, key []byte) bool {
	id, err := identity.InstallationFrom(key)
	return err == nil && s.Has(id)
}

// installationsOf lists an inbox's installation keys.
func installationsOf(s *identity.State) (keys [][]byte) {
	if s == nil {
		return nil
	}
	for _, m := range s.Installations() {
		keys = append(keys, m.ID.Bytes())
	}
	return keys
}

// A removal is an installation that a recent commit took out.
type removal struct {
	epoch        uint64 // that the commit led to
	installation []byte
}

// noteRemoved remembers removals for as long as messages from before them open.
func (s *step) noteRemoved(keys [][]byte, epoch uint64) {
	s.removals = slices.DeleteFunc(slices.Clone(s.removals), func(r removal) bool { return r.epoch+pastEpochs <= epoch })
	for _, key := range keys {
		s.removals = append(s.removals, removal{epoch, key})
	}
}

// present counts the inboxes that have a leaf. Real clients take members who have
// none, and whose ids may be no inbox's; they take up no place.
func (r *Replica) present() int {
	inboxes := map[string]bool{}
	for _, inbox := range r.Installations {
		inboxes[inbox] = true
	}
	return len(inboxes)
}

// noteImpostors remembers the leaves that claim an inbox which does not own them,
// until they are removed. That such a leaf commits, and then claims its own inbox,
// changes nothing: what it sealed before may still come.
func (s *step) noteImpostors(v *verdict) {
	if len(s.impostors)+len(v.impostors) == 0 {
		return
	}
	left := slices.DeleteFunc(slices.Clone(s.impostors), func(key []byte) bool {
		return slices.ContainsFunc(v.removed, func(gone []byte) bool { return bytes.Equal(key, gone) })
	})
	s.impostors = append(left, v.impostors...)
}

// isImpostor reports whether an installation's leaf claims an inbox that does not
// own it.
func (r *Replica) isImpostor(installation []byte) bool {
	return slices.ContainsFunc(r.impostors, func(key []byte) bool { return bytes.Equal(key, installation) })
}

// wasRemoved reports whether an installation was taken out after an epoch in
// which it could seal, even if it is a member again.
func (r *Replica) wasRemoved(installation []byte, epoch uint64) bool {
	return (epoch != r.group.Epoch() || r.standing == Inactive) && slices.ContainsFunc(r.removals, func(out removal) bool {
		return out.epoch > epoch && bytes.Equal(out.installation, installation)
	})
}
