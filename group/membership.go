package group

import (
	"bytes"
	"fmt"
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

// expected compares the identity states that the two memberships cite.
func (j *judge) expected() diff {
	d := diff{added: map[string]bool{}, removed: map[string]bool{}}
	for inbox, seq := range j.after.Members {
		old, was := j.before.Members[inbox]
		if was && old == seq {
			continue
		}
		after, exact := j.stateAt(inbox, seq)
		if !was && !exact && d.err == nil {
			d.err = fmt.Errorf("%w: inbox %s at %d", errMissingIdentity, inbox, seq)
		}
		before, _ := j.stateAt(inbox, old) // 0 where it was no member: the empty state
		d.add(before, after)
	}
	for inbox, seq := range j.before.Members {
		if _, is := j.after.Members[inbox]; !is {
			before, _ := j.stateAt(inbox, seq)
			d.add(before, nil)
		}
	}
	return d
}

func (d *diff) add(before, after *identity.State) {
	for _, key := range installationsOf(after) {
		if !ownsInstallation(before, key) {
			d.added[string(key)] = true
		}
	}
	for _, key := range installationsOf(before) {
		if !ownsInstallation(after, key) {
			d.removed[string(key)] = true
		}
	}
}

// stateAt asks for an identity state. One that is not there is waited for once;
// after it was looked up, the newest state below it stands in, as real clients
// have it for inboxes that are members already.
func (j *judge) stateAt(inbox string, seq uint64) (*identity.State, bool) {
	if seq == 0 {
		return nil, true
	}
	if _, err := identity.ParseInboxID(inbox); err != nil {
		return nil, false // nobody's, whatever is looked up
	}
	state, exact := j.env.Identity(inbox, seq)
	if !exact {
		j.exact = false
		if !j.settled {
			j.need = append(j.need, IdentityAt{inbox, seq})
		}
	}
	return state, exact
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
	for key := range want.removed {
		if !dropped[key] && !failed[key] {
			return fmt.Errorf("%w: %x stayed", errUnexpectedRemove, key)
		}
	}
	for key := range dropped {
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
	state, _ := j.stateAt(inbox, j.after.Members[inbox])
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
