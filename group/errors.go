package group

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// What a caller asks of an error of Step, Create and Join, or of an intent that
// failed. All leave the replica as it was.
var (
	// ErrForbidden: the group's permissions do not let this member do that.
	ErrForbidden = errors.New("group: not permitted")
	// ErrInactive: this installation is not a member any more.
	ErrInactive = errors.New("group: no longer a member")
	// ErrTooLarge: it does not fit into an envelope, or into the attribute.
	ErrTooLarge = errors.New("group: too large")
	// ErrNotReachable: no installation of the inbox can be added.
	ErrNotReachable = errors.New("group: no installation can be reached")
	// ErrNotMember: the inbox is not in the group.
	ErrNotMember = errors.New("group: not a member")
	// ErrNoMessage: there is no failed message of that id.
	ErrNoMessage = errors.New("group: no such message")
	// ErrInvalid: the command makes no sense, whatever the group is like.
	ErrInvalid = errors.New("group: invalid input")
	// ErrGroupFull: see GroupFullError.
	ErrGroupFull = errors.New("group: full")
	// ErrBehind: the log up to the welcome's cursor is read first, since the
	// installation is a member until it has read that it was removed.
	ErrBehind = errors.New("group: log before the welcome is not read")
	// ErrStaleWelcome: the welcome leads to where this installation was before.
	ErrStaleWelcome = errors.New("group: welcome is not newer than the group")
	// ErrUnknownAdder: see UnknownAdderError.
	ErrUnknownAdder = errors.New("group: added again by somebody who is no member that may add")
	// ErrRefused: whoever was asked said no as often as it was tried.
	ErrRefused = errors.New("group: refused")
	// ErrUnanswered: nobody answered as often as it was tried.
	ErrUnanswered = errors.New("group: no answer")
	// ErrRevoked: this installation's inbox has taken it back.
	ErrRevoked = errors.New("group: this installation was revoked")
	// ErrPaused: the group asks for a newer client than this one.
	ErrPaused = errors.New("group: paused until this client is newer")
	// ErrNewerProfile: the group follows rules of a later XMTP version than the
	// profile has. Nothing of it is read by the old rules.
	ErrNewerProfile = errors.New("group: uses a newer XMTP profile")
	// ErrCorrupt: the rows are not what a replica wrote.
	ErrCorrupt = errors.New("group: stored state is corrupt")
)

// A GroupFullError says that a command would make the group larger than the
// operator allows. It is ErrGroupFull.
type GroupFullError struct{ Limit int }

func (e *GroupFullError) Error() string {
	return fmt.Sprintf("group: full: at most %d members", e.Limit)
}
func (e *GroupFullError) Is(target error) bool { return target == ErrGroupFull }

// An UnresolvedError names the identity states that Join needs before it can
// check a welcome. Resolve them and join again.
type UnresolvedError struct {
	Group []byte // which the welcome leads to
	Need  []IdentityAt
}

func (e *UnresolvedError) Error() string {
	return fmt.Sprintf("group: welcome needs %d identity states that are not known yet", len(e.Need))
}

// An UnknownAdderError says who wants to bring an installation back into a group
// whose log it cannot follow, and is no member, by what is known here, that may add
// it. The owner may accept that. It is ErrUnknownAdder.
type UnknownAdderError struct{ Adder string } // inbox id

func (e *UnknownAdderError) Error() string {
	return fmt.Sprintf("%v: inbox %s", ErrUnknownAdder, e.Adder)
}
func (e *UnknownAdderError) Is(target error) bool { return target == ErrUnknownAdder }

// ErrRejected is in the chain of every reason for which an envelope or a
// welcome is read past.
var ErrRejected = errors.New("group: rejected")

// Verdict reports whether an error of opening a welcome, or of Join, is the
// protocol's verdict on it: the welcome is at fault, and neither time nor another
// try will change that.
func Verdict(err error) bool {
	return errors.Is(err, ErrRejected) || errors.Is(err, ErrWelcome) || errors.Is(err, ErrStaleWelcome)
}

// rejection makes a rule an error that satisfies errors.Is(err, ErrRejected).
type rejection string

func (e rejection) Error() string { return "group: " + string(e) }
func (e rejection) Is(target error) bool {
	return target == ErrRejected || e == errPolicy && target == ErrForbidden
}

// Envelopes that no commit or message is taken from.
const (
	errUndecodable   = rejection("envelope does not decode")                     // G1
	errWrongGroup    = rejection("message of another group")                     // G2
	errNotPrivate    = rejection("not framed as PrivateMessage")                 // G3
	errByReference   = rejection("proposal outside a commit")                    // G4
	errSenderRemoved = rejection("sender was removed before")                    // G5
	errWrongInbox    = rejection("sender claims an inbox that does not own it")  // G6
	errTooOld        = rejection("epoch is more than three behind")              // G7
	errOwnMessage    = rejection("own message that nothing here waits for")      // G8
	errStaleCommit   = rejection("commit for an epoch that is over")             // G9
	errFutureEpoch   = rejection("epoch is ahead of the group")                  // G10
	errLeftBehind    = rejection("commit on a branch that the others have left") // G11
)

// What a commit must satisfy beyond RFC 9420, in the order of the checks.
const (
	errContext          = rejection("group's context lacks metadata, or has some that does not decode") // G34
	errAttributeSize    = rejection("attribute over its limit")                                         // G12
	errManyActors       = rejection("proposals by others than the committer")                           // G13
	errActorKey         = rejection("committer changed its signature key")                              // G14
	errProposalType     = rejection("proposal of a type that the profile does not use")                 // G15
	errLeafMetadata     = rejection("group metadata in a leaf")                                         // G16
	errNotRequired      = rejection("extension that the required capabilities do not name")             // G17
	errRequiredOfAll    = rejection("required extension that a member does not support")                // G18
	errSequenceBack     = rejection("sequence id decreased")                                            // G19
	errMissingIdentity  = rejection("no identity update has the cited sequence id")                     // G20
	errUnexpectedAdd    = rejection("installation added that no inbox gained")                          // G21
	errExpired          = rejection("key package outside its lifetime")                                 // G22
	errUnexpectedRemove = rejection("removed installations are not those that inboxes lost")            // G23
	errActorIdentity    = rejection("committer's inbox does not own its installation")                  // G24
	errPolicy           = rejection("not permitted to its committer")                                   // G25
)

// What a welcome must satisfy beyond RFC 9420.
const (
	errUnknownLeaf  = rejection("leaf of an installation that its inbox does not own")                         // G26
	errMissingLeaf  = rejection("installation missing from the tree")                                          // G27
	errDMMembers    = rejection("direct message between others")                                               // G28
	errDMAdmins     = rejection("direct message with admins")                                                  // G29
	errDMPolicy     = rejection("direct message with a group's permissions")                                   // G30
	errOneshot      = rejection("a oneshot group is nothing to join")                                          // G31
	errAdderUnknown = rejection("welcome signed by nobody in the group")                                       // G32
	errCursor       = rejection("welcome names a place that the log does not have")                            // G33
	errStillMember  = rejection("welcome to a group that this installation follows, and was not removed from") // G35
	errOtherKind    = rejection("welcome to another kind of conversation under the group's id")                // G36
)

// maxReason is how long the text of an error or of a standing may be where it is
// stored or logged: it may quote a string that a member chose.
const maxReason = 320

// brief cuts a text to what may be stored and logged.
func brief(s string) string {
	if s = strings.ToValidUTF8(s, "?"); len(s) <= maxReason {
		return s
	}
	end := maxReason
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}

// A briefError is an error whose text was cut.
type briefError struct {
	error
	text string
}

func (e *briefError) Error() string { return e.text }
func (e *briefError) Unwrap() error { return e.error }

// briefly cuts an error's text and keeps what it is.
func briefly(err error) error {
	if err == nil {
		return nil
	}
	if long := err.Error(); brief(long) != long {
		return &briefError{err, brief(long)}
	}
	return err
}
