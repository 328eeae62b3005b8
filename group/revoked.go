package group

import "time"

// An inbox may take an installation back (identity.Draft.Revoke). The installation
// learns that from what is fetched of its own inbox. From then on it sends nothing:
// others refuse what it commits and remove it, which nobody can do to itself. It
// goes on reading, so that it sees its removal.
//
// The fact is the number of the update that showed it. It ends where a commit cites
// that update or a later one, and the inbox owns the installation there: its wallet
// has added it once more.

// revokedAt reports whether the own inbox, as of an update, has taken this
// installation back. At what the group cites it owned it, and before that it may
// not have.
func (s *step) revokedAt(sequence uint64) bool {
	state, exact := s.env.Identity(s.env.Inbox, sequence, time.Time{})
	return exact && sequence > s.meta.Members[s.env.Inbox] && !ownsInstallation(state, s.env.installation())
}

// revoke: what was fetched for an intent shows at an update of the own inbox that
// it has taken this installation back. The intent fails, and so does all that waits.
func (s *step) revoke(it *intent, sequence uint64) {
	if s.revoked == 0 {
		s.revoked, s.dirt = sequence, true
	}
	s.met(takenBack, ErrRevoked.Error())
	if it.isCheck() {
		s.done(it, ErrRevoked)
		return
	}
	s.fail(it, ErrRevoked)
}

// failRevoked gives up what a revoked installation has not sent. What is on its way
// is settled by the log.
func (s *step) failRevoked() {
	if s.revoked == 0 {
		return
	}
	s.failEach(func(it *intent) bool { return it.state == statePlanned || it.state == stateFetching }, ErrRevoked)
}

// reinstate ends the revocation where the group cites the own inbox at an update
// from then on, and the inbox owns this installation there.
func (s *step) reinstate(m *Metadata) {
	at := m.Members[s.env.Inbox]
	if s.revoked == 0 || at < s.revoked {
		return
	}
	if state, exact := s.env.Identity(s.env.Inbox, at, s.appliedAt); exact && ownsInstallation(state, s.env.installation()) {
		s.revoked, s.dirt = 0, true
		s.met(takenIn, "")
	}
}
