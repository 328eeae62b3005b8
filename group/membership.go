package group

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/conclave-chat/conclave/identity"
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
	state, exact := j.env.Identity(inbox, seq)
	if !exact {
		j.exact = false
		if !j.settled {
			j.need = append(j.need, IdentityAt{inbox, seq})
		}
	}
	return state, exact
}

// installations: the leaves added and removed are those that the inboxes gained
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
		inbox, err := inboxOf(leaf.Credential)
		if err != nil {
			return fmt.Errorf("%w: %w", errWrongInbox, err)
		}
		if superAdmin && dropped[key] {
			delete(dropped, key) // taken out and in again, to repair a fork
		} else if _, member := j.group.Find(leaf.SignatureKey); !want.added[key] && !member {
			return fmt.Errorf("%w: %x", errUnexpectedAdd, key)
		}
		// Real clients leave this to the joiners; but a leaf that speaks for
		// somebody else's inbox must not come in at all.
		state, _ := j.stateAt(inbox, j.after.Members[inbox])
		if !ownsInstallation(state, leaf.SignatureKey) {
			return fmt.Errorf("%w: inbox %s", errWrongInbox, inbox)
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

// actorIdentity is the state that must own the committer's new leaf: that of
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

// wasRemoved reports whether an installation was taken out after an epoch in
// which it could seal, even if it is a member again.
func (r *Replica) wasRemoved(installation []byte, epoch uint64) bool {
	return (epoch != r.group.Epoch() || r.standing == Inactive) && slices.ContainsFunc(r.removals, func(out removal) bool {
		return out.epoch > epoch && bytes.Equal(out.installation, installation)
	})
}
