package group

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/mls"
)

// Env is what a replica is given: who it is, and values that a pure function
// cannot make.
type Env struct {
	Realm  *mls.Realm  // who shares what is public; nil shares nothing
	Signer *mls.Signer // the installation's key
	Inbox  string      // the installation's inbox
	Rand   io.Reader
	Limits Limits

	// HMACKey marks own messages for push servers; may be nil.
	HMACKey HMACKey

	// PutBack says when the store was last put back to what it once was; zero:
	// never. What this member sent in between is known to nobody here, and no
	// key may be used twice: a replica that finds another time here than the
	// last catches up, and gives itself a fresh key before it sends anything.
	PutBack time.Time

	// Version is what this client presents itself as where a group demands a
	// minimum version; empty means the profile's.
	Version string

	// Identity returns an inbox's state as of the last update at or below the
	// sequence id that the host has verified, and whether an update has exactly
	// that id and was in the identity log at a time: see identity.History.AsOf. Where
	// none has, the replica asks to Resolve, and judges by what Identity says after
	// Resolved. A nil state is an inbox without updates.
	Identity func(inbox string, sequence uint64, by time.Time) (s *identity.State, exact bool)

	// Stored reports whether the rows have a message, with the effects of every
	// step so far: however long ago it came, it is not taken a second time. Its
	// errors are the store's, and Step returns them. Nil: nothing is stored.
	Stored func(MessageID) (bool, error)

	// Shared remembers what is equal for all replicas of a group; nil: nothing.
	Shared Shared

	// Each runs independent work, in parallel where the host likes; nil: in turn.
	Each func(n int, f func(i int))

	recordAll bool // commits also where this member publishes none: for tests
}

// Shared is a bounded memory of pure functions' results, by a hash of their
// input. It only ever saves work. The host makes it safe for the concurrency
// it has; values are immutable.
type Shared interface {
	Get(key [32]byte) any // nil: not remembered
	Put(key [32]byte, value any)
}

func (e Env) withDefaults() Env {
	e.Limits = e.Limits.WithDefaults()
	if e.Version == "" {
		e.Version = v3.version
	}
	if e.Each == nil {
		e.Each = func(n int, f func(int)) {
			for i := range n {
				f(i)
			}
		}
	}
	return e
}

// installation returns the own public key.
func (e *Env) installation() []byte { return e.Signer.Public() }

// A Replica is one installation's view of one group: a deterministic state
// machine over the group's log. It is not safe for concurrent use, performs no
// I/O and reads no clock. The same inputs and the same randomness always give
// the same effects. A Step that fails leaves it as it was.
type Replica struct {
	env Env
	id  []byte // of the group
	facts
	position

	group *mls.Group // the newest state
	saved *mls.Group // the state whose ratchets the store has
	meta  *Metadata  // of the current epoch
	keys  []epochKey // storage secrets of the epochs that messages open in, oldest first

	intents []*intent     // in the order of the commands; never changed in place
	used    []uint64      // the envelopes whose keys TableUsed has; never changed in place
	strays  []stray       // what intents gave up, and the log may have; never changed in place
	known   map[mark]bool // envelopes of messages that the log lost, and may have again
	rejects map[mark]bool // envelopes that were rejected, where that is asked

	turns    uint64     // the turn of the message sealed last
	tries    uint64     // publishes asked for since loading
	caughtUp bool       // the log was read to its end since loading: sealing is safe
	reading  uint64     // the mark of the read that is asked for, 0 when none is
	waiting  *Delivered // the delivery that waits for Resolved
	check    comparison // of the chain with the log
	seeks    int        // how often the log's hole was gone back to
	passed   uint64     // up to here the log was read before, and had lost entries: its commits are known
	ahead    ahead      // what was read of epochs that are not reached
	lookedUp bool       // what the waiting delivery asked for was looked up
}

// facts are what does not change while the installation is a member.
type facts struct {
	created time.Time // when the group was created here, or the welcome was sent
	addedBy string    // inbox; empty where this installation created the group
	welcome uint64    // the welcome's id, so that it is taken once
	kind    Kind
	dm      [2]string // see Metadata.DM
}

// position is where the replica stands. It is the meta row.
type position struct {
	cursor        uint64 // ID of the last envelope read
	lastCommit    uint64 // ID of the newest envelope on the commits topic
	opened        uint64 // messages opened or sealed since the ratchets were saved
	next          uint64 // number of the next intent
	marks         uint64 // reads asked for
	rewinds       uint64 // times the cursor went backwards
	survey        survey // of a log that has lost entries
	hole          uint64 // all that it has lost lies behind this ID, minus one; 0: it has lost nothing
	rejected      uint64 // envelopes rejected; the next slot of that table
	standing      Standing
	why           string         // it is not Following
	last          mls.Extensions // of a removed member: the group's metadata as the removal left it
	putBack       time.Time      // the Env.PutBack that it knows of
	owesKeyUpdate bool           // it has just learnt of it: a key update comes before anything is sent
	revoked       uint64         // the own inbox's update at which it does not own this installation any more; 0: it does, as far as is known
	lives         []mark         // the epochs that welcomes led to, see lifeOf
	joined        uint64         // ID from which this membership reads the log
	path          []milestone    // the last commits that were applied, oldest first
	root          uint64         // ID of the commit before them; 0: there was none, or it is not known
	uprooted      bool           // the log lost that one as well, and nobody else was heard in this epoch since
	chain         chain          // the last envelopes read
	era           uint64         // times that a welcome led back to an older epoch
	reread        uint64         // 1 + the epoch in which it last read again from its last commit
	appliedAt     time.Time      // when the log had it, or had the welcome
	keysUpdated   time.Time      // when this member last committed a path of its own; zero: its keys are its key package's
	leaving       []string       // inboxes that asked to be removed, sorted
	removals      []removal      // of the last epochs
	former        []mark         // who could add this installation before a stranger did: see formerly
	impostors     [][]byte       // installations whose leaves claim an inbox that does not own them; never changed in place
	heard         []echo         // of the last epochs
	trail         []Applied      // the last commits that were applied or rejected
	forked        bool           // by the group's commit log, the others are elsewhere
	keeps         bool           // this member publishes to that log
}

// ID returns the group's id.
func (r *Replica) ID() []byte { return bytes.Clone(r.id) }

// Epoch returns the current MLS epoch.
func (r *Replica) Epoch() uint64 { return r.group.Epoch() }

// EpochAuthenticator is equal for all members who agree on the whole history.
func (r *Replica) EpochAuthenticator() []byte { return r.group.EpochAuthenticator() }

// Active reports whether this installation is a member.
func (r *Replica) Active() bool { return r.group.Active() }

// Metadata returns the group's metadata. It must not be changed.
func (r *Replica) Metadata() *Metadata { return r.meta }

// Cursor returns the ID of the last envelope read: the log is read after it.
func (r *Replica) Cursor() uint64 { return r.cursor }

// Created returns when the group was created here or the welcome was sent, and
// AddedBy the inbox that sent it, empty for a group created here.
func (r *Replica) Created() time.Time { return r.created }
func (r *Replica) AddedBy() string    { return r.addedBy }

// WelcomeID returns the id under which the welcome was delivered.
func (r *Replica) WelcomeID() uint64 { return r.welcome }

// KeysUpdated returns when this member last committed a path of its own, by the
// log's clock. Zero: its keys are still those of its key package.
func (r *Replica) KeysUpdated() time.Time { return r.keysUpdated }

// Waiting reports whether an envelope waits for Resolved: what lies behind it is
// not read before that.
func (r *Replica) Waiting() bool { return r.waiting != nil }

// Pending reports whether anything waits to be sent or settled: such a replica
// must not be kept from the log.
func (r *Replica) Pending() bool {
	return r.reading != 0 || r.waiting != nil ||
		slices.ContainsFunc(r.intents, func(it *intent) bool { return it.state != stateFailed })
}

// InFlight reports whether an intent's bytes may be in the log unread.
func (r *Replica) InFlight(id uint64) bool {
	return slices.ContainsFunc(r.intents, func(it *intent) bool { return it.id == id && it.inFlight() })
}

// MessageOf returns the message that an intent sends, for the first time or again.
func (r *Replica) MessageOf(id uint64) (m MessageID, ok bool) {
	for _, it := range r.intents {
		if it.id == id && it.isSend() {
			return it.message, true
		}
	}
	return m, false
}

// Outstanding returns the numbers of the intents that have no outcome yet, in
// the order of the commands.
func (r *Replica) Outstanding() []uint64 {
	var ids []uint64
	for _, it := range r.intents {
		if it.state != stateFailed {
			ids = append(ids, it.id)
		}
	}
	return ids
}

// Installations yields the members' installation keys with the inboxes they
// claim.
func (r *Replica) Installations(yield func(installation []byte, inbox string) bool) {
	for _, leaf := range r.group.Members() {
		if r.standing == Inactive && r.wasRemoved(leaf.SignatureKey, r.group.Epoch()) {
			continue // the tree is that from before the removal
		}
		if r.isImpostor(leaf.SignatureKey) {
			continue // it is nobody's
		}
		inbox, err := inboxOf(leaf.Credential)
		if err != nil {
			continue // an impostor's, which claims nothing
		}
		if !yield(leaf.SignatureKey, inbox) {
			return
		}
	}
}

// Group returns the MLS state, for tests and inspection.
func (r *Replica) Group() *mls.Group { return r.group }

// A step is one Step in progress: a copy of the replica that becomes the
// replica if all goes well, and the effects so far.
type step struct {
	Replica
	fx   Effects
	hash [32]byte // of the envelope that is read
	dirt bool     // the meta row differs from the store's
}

// Step advances the replica by one input. The host carries the effects out and
// feeds the answers back in.
func (r *Replica) Step(in Input) (Effects, error) {
	s := &step{Replica: *r}
	if err := s.apply(in); err != nil {
		return Effects{}, err
	}
	s.pump()
	s.finish()
	*r = s.Replica
	return s.fx, nil
}

func (s *step) apply(in Input) error {
	switch in := in.(type) {
	case Send:
		return s.send(in)
	case Retry:
		return s.retry(in)
	case AddMembers:
		return s.addMembers(in)
	case RemoveMembers:
		return s.removeMembers(in)
	case Readd:
		return s.readd(in)
	case Refresh:
		return s.refresh(in)
	case UpdateMetadata:
		return s.updateMetadata(in)
	case UpdatePermissions:
		return s.updatePermissions(in)
	case UpdateAdmins:
		return s.updateAdmins(in)
	case KeyUpdate:
		return s.keyUpdate(in)
	case CheckMembers:
		return s.checkMembers(in)
	case Delivered:
		return s.delivered(in)
	case CaughtUp:
		return s.caughtUpTo(in)
	case Rewound:
		return s.rewound(in)
	case Published:
		return s.published(in)
	case Refused:
		return s.refused(in)
	case Unknown:
		return s.unknown(in)
	case Conflict:
		return s.conflict(in)
	case Fetched:
		return s.fetched(in)
	case WelcomesSent:
		return s.welcomesSent(in)
	case Resolved:
		return s.resolved()
	case Attested:
		return s.attested(in)
	}
	return fmt.Errorf("%w: input %T", ErrInvalid, in)
}

// finish saves what the step left to be saved.
func (s *step) finish() {
	if s.opened >= checkpointEvery {
		s.checkpoint()
	}
	if s.dirt {
		s.put(TableMeta, nil, s.encodeMeta())
	}
}

// Passivate returns the rows that the store still lacks. A host that drops an
// idle replica saves them first; without them a reload reads some messages
// again, which costs work but loses nothing.
func (r *Replica) Passivate() []Row {
	s := &step{Replica: *r}
	s.checkpoint()
	s.finish()
	*r = s.Replica
	return s.fx.Save
}

func (s *step) emit(e Event) { s.fx.Emit = append(s.fx.Emit, e) }
func (s *step) put(t Table, key, value []byte) {
	s.fx.Save = append(s.fx.Save, Row{Table: t, Key: key, Value: value})
}
func (s *step) delete(t Table, key []byte) { s.put(t, key, nil) }
