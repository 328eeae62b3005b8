package group

import "fmt"

// A Standing says how a replica relates to its group's log. A replica has exactly
// one. The tables below hold what is allowed in each standing and which occurrence
// leads from one to another; no other code decides that. The numbers are stored.
//
// Four facts are kept beside the standing, because each can hold in any of them: a
// key update is due before anything is sent (owesKeyUpdate); the own inbox has revoked
// this installation (revoked); the group's commit log disagrees (forked); a delivery
// waits for input (waiting). Whether the log lost commits is read from the commits
// themselves: see milestone.
type Standing uint8

const (
	// Following: the replica reads the log and applies what it reads.
	Following Standing = 1
	// Waiting: the next envelope cannot be judged until something is looked up. It
	// ends with the answer.
	Waiting Standing = 2
	// Apart: the log has messages of an epoch to which it does not lead, and reading
	// again from the last commit did not explain them. The others may be in another
	// epoch. The replica goes on as when Following. It ends when a message or a commit
	// of another member is opened in this epoch.
	Apart Standing = 3
	// Lost: the log no longer holds commits that this replica has applied. It sends
	// nothing. It ends when the log holds those commits again, or when another member's
	// commit is applied in this epoch.
	Lost Standing = 4
	// Paused: the group demands a newer version of the client. It reads nothing. It
	// ends when a new enough client loads it.
	Paused Standing = 5
	// Revoked: the own inbox has revoked this installation. It follows the log and
	// sends nothing. It ends when the installation is removed, or linked again.
	Revoked Standing = 6
	// Stranded: the others follow a commit that this replica cannot apply. It reads
	// the log and applies nothing. It ends with a new welcome: see admission.
	Stranded Standing = 7
	// Inactive: this installation was removed. It ends with a new welcome.
	Inactive Standing = 8
)

var standingWords = []string{"", "following", "waiting", "apart", "lost", "paused", "revoked", "stranded", "inactive"}

// An occurrence is what may change a standing.
type occurrence uint8

const (
	needsInput    occurrence = iota // an envelope cannot be judged yet
	inputCame                       // what it needed was looked up, or the envelope is gone
	commitsLost                     // the log does not hold a commit that led here
	commitsFound                    // it holds all of them again
	outrun                          // reading again did not explain what the others do
	companyHeard                    // another member's message of this epoch was opened
	epochEntered                    // a commit was applied
	leftBehind                      // the others follow a commit that cannot be followed from here
	newerDemanded                   // the next epoch, or this one, asks for a newer client
	takenBack                       // the own inbox has revoked this installation
	takenIn                         // the group knows it as an installation of its inbox again
	wasTakenOut                     // a commit was applied that removed this installation
	welcomedBack                    // a welcome was taken: see admission
	wasLoaded                       // the replica comes from its rows
	occurrences
)

// standings is the table: the standing that each occurrence leads to. One that
// is not named changes nothing, or cannot be met there. Where the inbox has taken
// this installation back, what leads to one that sends leads to Revoked.
var standings = [Inactive + 1]map[occurrence]Standing{
	Following: {
		needsInput: Waiting, commitsLost: Lost, outrun: Apart, leftBehind: Stranded,
		newerDemanded: Paused, takenBack: Revoked, wasTakenOut: Inactive,
	},
	Waiting: {
		inputCame: Following, wasLoaded: Following, epochEntered: Following, commitsLost: Lost,
		leftBehind: Stranded, newerDemanded: Paused, wasTakenOut: Inactive,
	},
	Apart: {
		companyHeard: Following, welcomedBack: Following, needsInput: Waiting, commitsLost: Lost,
		leftBehind: Stranded, newerDemanded: Paused, takenBack: Revoked, wasTakenOut: Inactive,
	},
	Lost: {
		commitsFound: Following, epochEntered: Following, welcomedBack: Following, outrun: Apart,
		leftBehind: Stranded, newerDemanded: Paused, wasTakenOut: Inactive,
	},
	Paused: {wasLoaded: Following}, // by a newer client it may be
	Revoked: {
		takenIn: Following, commitsLost: Lost,
		leftBehind: Stranded, newerDemanded: Paused, wasTakenOut: Inactive,
	},
	Stranded: {welcomedBack: Following},
	Inactive: {welcomedBack: Following},
}

// A permit says what a standing allows.
type permit struct {
	reads   bool  // envelopes of the log
	applies bool  // commits
	sends   bool  // messages and commits are sealed, and what is not in the log goes again
	refuses error // why it takes no commands; nil: it takes them, and they wait
	welcome admission
}

var permits = [Inactive + 1]permit{
	Following: {reads: true, applies: true, sends: true},
	Waiting:   {reads: true, applies: true},
	Apart:     {reads: true, applies: true, sends: true, welcome: admitsKnown},
	Lost:      {reads: true, applies: true, welcome: admitsKnown},
	Paused:    {refuses: ErrPaused, welcome: admitsLater},
	Revoked:   {reads: true, applies: true, refuses: ErrRevoked},
	Stranded:  {reads: true, welcome: admitsKnown},
	Inactive:  {refuses: ErrInactive, welcome: admitsAnyone},
}

// Standing returns how the replica stands to its group's log, and why it is not
// Following: empty where it is, or was removed.
func (r *Replica) Standing() (st Standing, reason string) { return r.standing, r.why }

// Stalled returns why the replica does not simply follow; empty where it does,
// or was removed.
func (r *Replica) Stalled() string { return r.why }

// Sends reports whether accepted commands are sent, as far as nothing else is in its
// way: what is outstanding has no outcome before that.
func (r *Replica) Sends() bool { return r.may().sends }

func (r *Replica) may() permit { return permits[r.standing] }

// met moves the standing by the table, and tells of it.
func (s *step) met(o occurrence, reason string, args ...any) {
	next := standings[s.standing][o]
	if permits[next].sends && s.revoked != 0 {
		next, reason, args = Revoked, ErrRevoked.Error(), nil
	}
	if next == 0 || next == s.standing {
		return
	}
	if next == Following || next == Inactive {
		reason = ""
	} else {
		reason = brief(fmt.Sprintf(reason, args...))
	}
	s.standing, s.why, s.dirt = next, reason, true
	s.emit(StandingChanged{Standing: next, Reason: reason})
}
