package group

import "fmt"

// A Standing says how a replica stands to its group's log. It is one value: what
// it is in, and what each event makes of it, is in the table below and nowhere
// else. Its numbers are stored.
//
// Four facts are beside it, since they hold in any standing: that a fresh key
// is owed before anything is sent (owesKeyUpdate), that the own inbox has taken this
// installation back (revoked), what the group's commit log says (forked), and
// which delivery is parked (waiting). That the log lost commits is read from the
// commits themselves: see milestone.
type Standing uint8

const (
	// Following: it has read the log as far as it knows of it, and goes on.
	Following Standing = 1
	// Waiting: an envelope cannot be judged before something was looked up.
	Waiting Standing = 2
	// Apart: by what the log holds the others may be in another epoch. It has
	// read again from its last commit, which did not help; it goes on as before,
	// until it hears another member in its epoch.
	Apart Standing = 3
	// Lost: the log lost commits that it has applied. It is alone in its epoch
	// until the log has them again, or the others turn up there.
	Lost Standing = 4
	// Paused: the group asks for a newer client than this one.
	Paused Standing = 5
	// Revoked: its own inbox has taken this installation back. It follows, and
	// sends nothing, until it is removed or its inbox takes it in again.
	Revoked Standing = 6
	// Stranded: the others went on to where it cannot follow. Only a new welcome
	// brings it back: see admission.
	Stranded Standing = 7
	// Inactive: this installation was removed. Only a new welcome brings it back.
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
