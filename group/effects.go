package group

import "time"

// Effects are what a step asks of its host, to be carried out in the order of
// the fields: Save before Send before Emit. A host that cannot save drops the
// replica and loads it again; it never goes on with a replica that is ahead of
// its store.
type Effects struct {
	// Save is one transaction.
	Save []Row
	// Durable asks that Save survives a power cut before anything is sent.
	Durable bool

	// Send is published in its order. Every outbound is answered by one of
	// Published, Refused, Unknown and Conflict; welcomes of one intent by one
	// WelcomesSent together, however long that takes.
	Send []Outbound

	// Read, where not zero, asks for a read of the log: deliver everything
	// above ReadFrom to its end as of now, in order, then answer CaughtUp with
	// this mark. What was queued before is delivered first or not at all.
	Read uint64

	// Back, where not nil, asks for Rewound with that End and the replica's rows:
	// the log does not hold what was read of it, or it is to be read again.
	Back *uint64

	// Resolve asks for identity states that a delivery cannot be judged
	// without; it waits for Resolved.
	Resolve []IdentityAt

	// Fetch asks for the newest identities and key packages.
	Fetch []Fetch

	// Emit is for whoever listens.
	Emit []Event

	// Intent is the number of the intent that a command became, and Message the
	// id of the message that Send or Retry was about.
	Intent  uint64
	Message MessageID
}

// An Outbound is one envelope to publish. Its payload is ready for the wire.
type Outbound struct {
	Intent  uint64
	Topic   Topic
	ID      []byte // of the topic: the group's, an installation's, or a welcome pointer's destination
	Payload []byte
	Attempt int    // failed attempts so far: hosts space them
	Try     uint64 // for the answer, which may come when the intent is under way anew
	// ExpectLast makes a commit conditional on Last being the newest entry of
	// its topic, where the bus can do that; it saves work and proves nothing.
	ExpectLast bool
	Last       uint64
}

// A Topic says which of the bus's topics an outbound belongs to.
type Topic uint8

const (
	TopicCommits Topic = iota + 1
	TopicMessages
	TopicWelcomes
)

// An IdentityAt names an inbox's state at one sequence id, for whoever cited it at a
// time. An update that is not there yet may count for that time until
// identity.Settled later, by the log's clock: what is not there then is answered. The
// zero time waits for nothing.
type IdentityAt struct {
	Inbox    string
	Sequence uint64
	By       time.Time
}

// A Fetch asks for the newest state of inboxes, and for key packages of all
// their installations.
type Fetch struct {
	Intent  uint64
	Inboxes []string
	// Identities asks for no key packages. Nothing depends on such a Fetch but
	// how soon changes are noticed: a network that does not answer is answered
	// for with what is known.
	Identities bool
}

// An Event tells a listener what changed. Events are emitted after the rows
// behind them are saved.
type Event interface{ event() }

type (
	// MessageChanged: a message is new or has another status.
	MessageChanged struct{ Message Message }
	// EpochChanged: the group has a new epoch; members or metadata may differ.
	EpochChanged struct{ Epoch uint64 }
	// Activated: this installation became a member.
	Activated struct{ AddedBy string } // inbox; empty: it made the group
	// Deactivated: this installation was removed. History stays readable.
	Deactivated struct{}
	// StandingChanged: the replica stands otherwise to its group's log.
	StandingChanged struct {
		Standing Standing
		Reason   string // empty where it follows or is Inactive
	}
	// Rejected: an envelope was read past without effect.
	Rejected struct {
		ID     uint64
		Reason error
	}
	// ForkChanged: by the group's commit log the others are in another epoch
	// than this replica, or are not after all.
	ForkChanged struct {
		Forked bool
		Commit uint64 // that tells
	}
	// IntentDone: a command has its outcome. Err is nil where it came true or
	// needed nothing; Unreachable lists inboxes that could not be added.
	IntentDone struct {
		Intent      uint64
		Err         error
		Unreachable []string
	}
)

func (MessageChanged) event()  {}
func (EpochChanged) event()    {}
func (Activated) event()       {}
func (Deactivated) event()     {}
func (StandingChanged) event() {}
func (Rejected) event()        {}
func (ForkChanged) event()     {}
func (IntentDone) event()      {}

// A Row is one change of the store. Rows of a table with Shared set belong to
// all co-hosted members of the group: whoever comes first writes one, sealed
// under Secret, and the others find it there. Deleting one gives up this
// member's claim; the row goes with the last claim, or stays.
type Row struct {
	Table  Table
	Key    []byte // unique within group and table; at most 64 bytes
	Value  []byte // nil: delete
	Secret []byte // shared rows: the 32-byte key to seal the value under
}

// A Table names a kind of rows. The numbers are stored.
type Table uint8

const (
	TableMeta     Table = 1  // one row: what the replica is and where it stands
	TableIntent   Table = 2  // by intent: its command and its state
	TableSealed   Table = 3  // by intent: its exact bytes, private part and welcomes
	TableDraft    Table = 4  // by intent: an own message that is not Published
	TableMessage  Table = 5  // by Position: one message of history; points to its body
	TableRejected Table = 6  // by slot: the last envelopes read past
	TableStorage  Table = 7  // by epoch: the secret that bodies of the epoch are sealed under
	TableMember   Table = 8  // MLS: ratchets and private keys of the live epochs
	TableOwn      Table = 9  // MLS: the next own generation
	TableEpoch    Table = 10 // MLS, shared: contexts and secrets all members hold
	TableTree     Table = 11 // MLS, shared: ratchet trees
	TableBody     Table = 12 // shared: by Position, a message's body, as versions before wrote it
	TableSent     Table = 13 // by message id: an own message that is Published
	TableCommit   Table = 14 // by slot: what the last commits did, of members that publish that
	TableText     Table = 15 // shared: by message id and place, a message's body
	TableUsed     Table = 17 // by envelope: a key that was used since the ratchets were saved, and left no message
	TableStray    Table = 16 // by hash: an own message's envelope that no intent sends any more
)

// Shared reports whether co-hosted members share the table's rows.
func (t Table) Shared() bool { return t == TableEpoch || t == TableTree || t.History() }

// History reports whether the table's rows stay for as long as a member of the
// group does. Of the shared tables they have the highest numbers.
func (t Table) History() bool { return t == TableBody || t == TableText }

// A RowReader reads a replica's rows. A row that is not there is nil without
// an error.
type RowReader interface {
	Get(t Table, key, secret []byte) ([]byte, error)
	// Scan yields rows in key order from the given key on; ScanBack in falling
	// order from below it. A nil key stands for the start, or the end. They are
	// asked for private tables only.
	Scan(t Table, from []byte, yield func(key, value []byte) bool) error
	ScanBack(t Table, before []byte, yield func(key, value []byte) bool) error
}
