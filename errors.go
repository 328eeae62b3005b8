package conclave

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/conclave-chat/conclave/actors"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
	"github.com/conclave-chat/conclave/bus/xmtp"
	"github.com/conclave-chat/conclave/content"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/persistence"
)

// An Error is what every method of this package returns where it fails. errors.Is
// finds the Err… that its Code stands for, and errors.As what it wraps.
// docs/errors.md lists the codes.
type Error struct {
	Op        string // what was asked for: "send"
	Code      string // "too_large"; it does not change from one version to the next
	Advice    string // what to do, and which field to change; "" where Detail says it
	Retryable bool   // the same call may succeed later, with nothing changed by the caller
	Err       error
	is        error // the Err… of Code
}

// Error is one sentence: what was asked for, what is wrong, and what to do.
func (e *Error) Error() string {
	text := "conclave: " + e.Op + ": " + e.Detail()
	if e.Advice != "" {
		text += ": " + e.Advice
	}
	return text
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is the Err… that Code stands for.
func (e *Error) Is(target error) bool { return e.is != nil && target == e.is }

// MarshalText implements encoding.TextMarshaler.
func (e *Error) MarshalText() ([]byte, error) { return []byte(e.Error()), nil }

// Detail says what is wrong, without Op and Advice.
func (e *Error) Detail() string {
	var said []string
	for line := range strings.SplitSeq(e.Err.Error(), "\n") {
		var parts []string
		for part := range strings.SplitSeq(line, ": ") {
			if !slices.Contains(layers, part) {
				parts = append(parts, part)
			}
		}
		said = append(said, strings.Join(parts, ": "))
	}
	return strings.Join(said, "; ")
}

// layers are the names that the packages below put before their errors. They say
// where something failed, which helps nobody who called this package.
var layers = []string{
	"conclave", "actors", "engine", "group", "mls", "hpke", "identity", "ethereum", "content", "node",
	"bus", "jetstream", "xmtp", "persistence", "badger", "telemetry",
}

// failing makes the error that a method returns an *Error.
func failing(op string, err *error) {
	if *err == nil {
		return
	}
	if inner, ok := (*err).(*Error); ok { // of another method of this package
		outer := *inner
		outer.Op, *err = op, &outer
		return
	}
	k := kindOf(*err)
	*err = &Error{Op: op, Code: k.code, Advice: k.advice, Retryable: k.retryable, Err: *err, is: k.err}
}

// A kind is what callers tell errors apart by.
type kind struct {
	err       error   // nil: no name, a fault of Conclave's own
	also      []error // what packages below call the same thing
	code      string
	retryable bool
	advice    string
}

// kindOf finds the first kind that an error is.
func kindOf(err error) kind {
	for _, k := range kinds {
		if errors.Is(err, k.err) || slices.ContainsFunc(k.also, func(also error) bool { return errors.Is(err, also) }) {
			return k
		}
	}
	return kind{code: "internal", advice: "this is a fault of Conclave: please report it"}
}

// kinds are all of them. An error that is several has the first one's code: the
// cause stands before what it caused.
var kinds = []kind{
	// The caller's arguments.
	{err: ErrBadAddress, code: "bad_address"},
	{err: ErrInvalid, also: []error{identity.ErrBadInboxID, identity.ErrBadIdentifier, content.ErrMalformed, content.ErrReserved, jetstream.ErrConfig, xmtp.ErrConfig}, code: "invalid"},
	{err: ErrUnknownType, code: "unknown_type", advice: "give its codec in Config.Codecs"},
	{err: ErrTooLarge, also: []error{bus.ErrTooLarge, content.ErrTooLarge}, code: "too_large", advice: "send less, or a link to it"},
	{err: ErrNotConfirmed, code: "not_confirmed", advice: "set DeleteOptions.Confirm"},
	{err: ErrStreamsOpen, code: "streams_open", advice: "end them, or set DeleteOptions.Force"},
	{err: ErrStreamUsed, code: "stream_used", advice: "call the method again for each loop"},

	// The host's directory.
	{err: ErrWrongKey, code: "wrong_key", advice: "give the key that it was made with in ClientOptions.DatabaseKey or Config.Keys, or make another installation under another ClientOptions.Database"},
	{err: ErrLocked, also: []error{jetstream.ErrLocked}, code: "locked", retryable: true, advice: "close that process, or give another Config.Dir"},
	{err: ErrRolledBack, code: "rolled_back", advice: "restore the newest copy, or set Config.AllowRolledBack"},
	{err: ErrFormatTooNew, code: "format_too_new", advice: "update Conclave"},
	{err: ErrFull, also: []error{bus.ErrFull, syscall.ENOSPC, syscall.EDQUOT}, code: "full", retryable: true, advice: "make room"},
	{err: ErrReadOnly, also: []error{jetstream.ErrReadOnly, syscall.EROFS, os.ErrPermission}, code: "read_only", advice: "let this process write to Config.Dir"},
	{err: ErrLogRolledBack, code: "log_rolled_back", advice: "connect to the log that this store belongs to, or give another Config.Dir"},
	{err: ErrDamaged, also: []error{bus.ErrDamaged, group.ErrCorrupt}, code: "damaged", advice: "restore a backup; a damaged log opens with Config.AcceptLoss, without what is lost"},
	{err: ErrStore, also: []error{persistence.ErrBroken}, code: "store_failed", retryable: true, advice: "see what the disk says; nothing was accepted"},

	// Members and wallets.
	{err: ErrMemberNotReachable, also: []error{group.ErrNotReachable}, code: "not_reachable", retryable: true, advice: "its owner has to open a client first"},
	{err: ErrGroupFull, code: "group_full", advice: "remove a member, or raise Config.GroupSize"},
	{err: ErrTooManyInstallations, code: "too_many_installations", advice: "take one back with Host.RevokeInstallations"},
	{err: ErrAddressTaken, code: "address_taken", advice: "remove it from that inbox first"},
	{err: ErrBadSignature, also: []error{identity.ErrBadSignature}, code: "bad_signature", advice: "give the wallet of that address"},
	{err: ErrNotOwner, code: "not_owner", advice: "give the wallet that made the inbox"},

	// What a group or the network says.
	{err: ErrNotMember, code: "not_member", advice: "see Group.Members"},
	{err: ErrForbidden, code: "forbidden", advice: "ask an admin of the group"},
	{err: ErrRevoked, code: "revoked", advice: "make a new installation with CreateClient under another ClientOptions.Database"},
	{err: ErrInactive, code: "inactive", advice: "ask a member to add this inbox again"},
	{err: ErrPaused, code: "paused", advice: "update Conclave"},
	{err: ErrNewerProfile, code: "newer_profile", advice: "update Conclave"},
	{err: ErrNoGroup, code: "no_group", advice: "see Conversations.List; Conversations.Sync brings those that others made"},
	{err: ErrNoMessage, code: "no_message", advice: "see Group.Messages"},
	{err: ErrNoRequest, code: "no_request", advice: "see Conversations.Requests"},
	{err: ErrNotFound, also: []error{identity.ErrNotCreated}, code: "not_found", advice: "see that the id is right"},
	{err: ErrRefused, also: []error{bus.ErrRefused}, code: "refused", advice: "see what it says"},
	{err: ErrNoNode, also: []error{bus.ErrNoService}, code: "no_node", retryable: true, advice: "start conclave serve, or set Config.ServeNode on one host"},
	{err: ErrUnavailable, also: []error{group.ErrUnanswered}, code: "unavailable", retryable: true, advice: "see that the server of Config.NATS or Config.XMTP runs"},

	// The host and its clients.
	{err: ErrAsleep, code: "asleep", advice: "open it with LoadClient or CreateClient"},
	{err: ErrClosed, also: []error{bus.ErrClosed, persistence.ErrClosed}, code: "closed", advice: "open a new host"},
	{err: ErrCrashed, code: "crashed", retryable: true, advice: "the log says what happened; nothing was accepted"},
	{err: context.Canceled, code: "canceled", retryable: true, advice: "the caller's context ended; what was accepted goes on"},
	{err: context.DeadlineExceeded, code: "deadline", retryable: true, advice: "wait longer; what was accepted goes on"},
}

// Opening a host or a local database. Each leaves the rows unchanged.
var (
	ErrWrongKey      = persistence.ErrWrongKey                                // the database key is not the one it was created with
	ErrNotFound      = persistence.ErrNotFound                                // no such local database, or no such inbox
	ErrDamaged       = persistence.ErrDamaged                                 // the store or the log is not what was written
	ErrRolledBack    = persistence.ErrRolledBack                              // the store is older than its mark: a copy was put back
	ErrLocked        = persistence.ErrLocked                                  // another process has the directory open
	ErrFormatTooNew  = persistence.ErrFormatTooNew                            // a newer version wrote the store
	ErrFull          = persistence.ErrFull                                    // the disk of the store or of the log is full
	ErrReadOnly      = errors.New("conclave: directory cannot be written to") // Config.Dir is read-only, or another user's
	ErrLogRolledBack = bus.ErrLogRolledBack                                   // the bus's log is older than what was read from it
)

// Addresses and members.
var (
	ErrBadAddress           = identity.ErrBadAddress                                         // not an address, or its checksum is wrong
	ErrTooManyInstallations = actors.ErrTooManyInstallations                                 // the inbox has as many as one may have
	ErrGroupFull            = group.ErrGroupFull                                             // see *GroupFullError for the limit
	ErrAddressTaken         = actors.ErrAddressTaken                                         // the wallet belongs to another inbox
	ErrBadSignature         = actors.ErrBadSignature                                         // the wallet answered with what is not its own signature
	ErrNotOwner             = actors.ErrNotOwner                                             // not the wallet that the inbox names as its recovery address
	ErrMemberNotReachable   = errors.New("conclave: address has no installation to message") // see *MemberNotReachableError for who
)

// Groups.
var (
	ErrInvalid   = group.ErrInvalid   // the arguments make no sense: nil, an id that is none, a member who removes itself
	ErrNotMember = group.ErrNotMember // the inbox is not in the group
	ErrForbidden = group.ErrForbidden // the group's permissions do not let this member do that
	ErrInactive  = group.ErrInactive  // this installation is not a member any more
	ErrRevoked   = group.ErrRevoked   // this installation was taken back by its inbox
	ErrPaused    = group.ErrPaused    // the group asks for a newer client than this one

	ErrNewerProfile = group.ErrNewerProfile  // the group follows rules of a later XMTP version
	ErrTooLarge     = group.ErrTooLarge      // over the limit of an envelope or a field
	ErrRefused      = group.ErrRefused       // the network said no, as often as it was asked
	ErrNoGroup      = actors.ErrNoGroup      // this installation has no such group
	ErrNoMessage    = group.ErrNoMessage     // no message of that id, or for Retry none that failed
	ErrNoRequest    = actors.ErrNoRequest    // the request was answered before, is older than 30 days, or its group is followed again
	ErrStore        = actors.ErrStore        // the host's store does not read or write, and says why
	ErrCrashed      = actors.ErrCrashed      // a part of the host failed over this again and again
	ErrAsleep       = actors.ErrAsleep       // the client was closed, or its local database deleted
	ErrClosed       = actors.ErrClosed       // the host is closed
	ErrUnavailable  = bus.ErrUnavailable     // the network does not answer
	ErrUnknownType  = content.ErrUnknownType // no codec here knows the content's type

	ErrNoNode     = errors.New("conclave: nobody serves the network's identity log and key packages") // the log is there, and no node on it
	ErrStreamUsed = errors.New("conclave: a stream is for one loop")                                  // there was a loop over this one before
)

// Deleting a local database.
var (
	ErrNotConfirmed = errors.New("conclave: deleting a local database loses its messages for good: confirm it") // deleting was not confirmed
	ErrStreamsOpen  = errors.New("conclave: local database is in use by open streams")                          // and would be pulled from under them
)

// A GroupFullError names the limit that a group would exceed. It is ErrGroupFull.
type GroupFullError = group.GroupFullError

// A MemberNotReachableError names who cannot be added, as the caller named them:
// addresses without an inbox, inboxes without an installation, or without one
// that can be messaged. It is ErrMemberNotReachable.
type MemberNotReachableError struct{ Addresses []string }

func (e *MemberNotReachableError) Error() string {
	return "conclave: no installation to message at " + strings.Join(e.Addresses, ", ")
}

func (e *MemberNotReachableError) Is(target error) bool { return target == ErrMemberNotReachable }
