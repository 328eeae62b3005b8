package group

import (
	"time"

	"github.com/conclave-chat/conclave/mls"
)

// An Input is one thing that happens to a replica: a command of its owner, news
// from the log, or an answer to one of its effects. Slices in an input belong
// to the replica from then on.
type Input interface{ input() }

// Commands. Each becomes an intent, whose number Step returns in Effects.Intent;
// IntentDone says how it ended. An error of Step means that nothing was begun.
type (
	// Send sends a message. Content is a serialised EncodedContent, and Key its
	// idempotency key: the same key and content twice is one message. An empty
	// Key stands for the time in nanoseconds. The message is stored, and shown
	// as Unpublished, by this very step.
	Send struct {
		Key     string
		Content []byte
		Push    bool
		Now     time.Time
		// Check looks at the members first, as CheckMembers does.
		Check bool
	}

	// Retry starts a Failed message again under the same id.
	Retry struct {
		Message MessageID
		Now     time.Time
	}

	// AddMembers adds inboxes with all their installations. Inboxes that are
	// members already are brought up to date.
	AddMembers struct{ Inboxes []string }

	// RemoveMembers removes inboxes with all their installations.
	RemoveMembers struct{ Inboxes []string }

	// Readd asks for an installation of a member to be taken out and in again by one
	// commit, since it cannot follow: see Ask. Where this member is no super admin, or
	// the installation is not in the group, it changes nothing.
	Readd struct {
		Inbox        string
		Installation []byte
		leafKey      []byte // of the leaf that it has when it asks
	}

	// Refresh brings the installations of members up to date with the identity
	// log; of all members where Inboxes is empty.
	Refresh struct{ Inboxes []string }

	// UpdateMetadata sets one attribute.
	UpdateMetadata struct {
		Field string // an Attribute constant, or any other name
		Value string
	}

	// UpdatePermissions replaces the policy set.
	UpdatePermissions struct{ Permissions Permissions }

	// UpdateAdmins changes the admin lists by one inbox.
	UpdateAdmins struct {
		Inbox  string
		Change AdminChange
	}

	// KeyUpdate gives this member a fresh key pair, which heals a compromise.
	KeyUpdate struct{}

	// CheckMembers compares the members' newest identities with those that the
	// group has them at, and becomes a Refresh of those that moved. What is
	// commanded after it waits for that: a message sent after it is not for an
	// installation that was revoked before. It is not stored, and nothing where
	// the group takes no commands.
	CheckMembers struct{}
)

// An AdminChange is what UpdateAdmins does to its inbox.
type AdminChange uint8

const (
	AddAdmin AdminChange = iota + 1
	RemoveAdmin
	AddSuperAdmin
	RemoveSuperAdmin
)

// News from the log.
type (
	// Delivered is one envelope of the group's topics. Envelopes come in the
	// order of their IDs; one at or below the cursor is compared with what was
	// read before, so delivering twice does no harm.
	Delivered struct {
		ID   uint64
		Time time.Time // the bus's
		// After is the ID of the envelope that the host delivered before this
		// one, or from which it reads: an After above the cursor shows the
		// replica that it missed something, and it asks to Read again. Zero
		// means that the host vouches for it.
		After uint64
		// Commit says which of the group's two topics it was on. It decides
		// only what later commits expect as the topic's last entry.
		Commit bool
		// Data is the MLSMessage, out of the envelope's payload (see
		// DecodeGroupMessage); nil where the payload did not decode.
		Data []byte
		// Message is Data parsed, where the host did that once for all.
		Message *mls.Message
	}

	// CaughtUp says that the log was read to its end after Effects.Read asked
	// for it, and everything found was delivered.
	CaughtUp struct {
		End  uint64    // the newest ID that the log had
		Mark uint64    // the Effects.Read that is answered
		Now  time.Time // messages are kept for a time; zero: they are kept for ever
	}

	// Attested says what the group's commit log has for a commit: see
	// CommitLog.Judge.
	Attested Applied

	// Rewound says that the log went backwards: End is its newest ID now, or the
	// place that Effects.Back named. Rows are the replica's, with all its effects
	// saved: what is beyond the end, and is not there when the log was read, is
	// offered again from them. Nil offers nothing again. Outbounds that the
	// host has not published yet are dropped: the replica sends them anew.
	//
	//
	// Lost says that an operator has accepted losses in the log, all behind LostAfter:
	// see survey.
	Rewound struct {
		End       uint64
		Lost      bool
		LostAfter uint64
		Rows      RowReader
	}
)

// Answers to effects.
type (
	// Published says that the bus has the intent's envelope. Its outcome is
	// known when the log delivers it: a host that does not receive live reads
	// the log next.
	Published struct {
		Intent    uint64
		Try       uint64 // the Outbound's; 0: the newest
		ID        uint64 // 0 where the bus does not tell
		Duplicate bool   // the same bytes were there before
	}

	// Refused says that the bus, or whoever was asked to Fetch, understood and
	// said no. It is one attempt. Final means that asking again is useless.
	Refused struct {
		Intent uint64
		Try    uint64 // the Outbound's; 0: the newest
		Reason string
		Final  bool
	}

	// Unknown says that a publish timed out after its retries: the envelope may
	// or may not be in the log. It is one attempt.
	Unknown struct{ Intent, Try uint64 }

	// Conflict says that a commit's topic had moved on.
	Conflict struct{ Intent, Try uint64 }

	// Fetched answers Effects.Fetch. An inbox that the identity log does not
	// know has sequence 0.
	Fetched struct {
		Intent  uint64
		Inboxes []FetchedInbox
		Now     time.Time // key packages are valid for a time
	}

	// WelcomesSent says that all welcomes of an intent are durable on the bus.
	WelcomesSent struct{ Intent uint64 }

	// Resolved says that what Effects.Resolve asked for was looked up: whatever
	// Env.Identity does not know now does not exist.
	Resolved struct{}
)

// A FetchedInbox is what the network says about an inbox now.
type FetchedInbox struct {
	Inbox    string
	Sequence uint64 // of its newest identity update; Env.Identity must know it
	// KeyPackages are the newest ones of its installations, in any order;
	// an installation without one is left out.
	KeyPackages [][]byte
}

func (Send) input()              {}
func (Retry) input()             {}
func (AddMembers) input()        {}
func (RemoveMembers) input()     {}
func (Refresh) input()           {}
func (Readd) input()             {}
func (UpdateMetadata) input()    {}
func (UpdatePermissions) input() {}
func (UpdateAdmins) input()      {}
func (KeyUpdate) input()         {}
func (CheckMembers) input()      {}
func (Delivered) input()         {}
func (CaughtUp) input()          {}
func (Rewound) input()           {}
func (Attested) input()          {}
func (Published) input()         {}
func (Refused) input()           {}
func (Unknown) input()           {}
func (Conflict) input()          {}
func (Fetched) input()           {}
func (WelcomesSent) input()      {}
func (Resolved) input()          {}
