package conclave

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/conclave-chat/conclave/actors"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/jetstream"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/persistence"
)

// Opening a host or a local database. Each leaves the rows unchanged.
var (
	ErrWrongKey      = persistence.ErrWrongKey     // the database key is not the one it was created with
	ErrNotFound      = persistence.ErrNotFound     // no such local database
	ErrDamaged       = persistence.ErrDamaged      // the store or the log is not what was written: restore a backup
	ErrRolledBack    = persistence.ErrRolledBack   // the store is older than its mark: see Config.AllowRolledBack
	ErrLocked        = persistence.ErrLocked       // another process has the directory open
	ErrFormatTooNew  = persistence.ErrFormatTooNew // a newer version wrote the store
	ErrFull          = persistence.ErrFull         // the disk of the store or of the log is full: make room
	ErrReadOnly      = errors.New("conclave: directory cannot be written to")
	ErrLogRolledBack = bus.ErrLogRolledBack // the bus's log is older than what was read from it
)

// named gives an error of opening the name that it has here: the store, the log
// and the system have words of their own for the same things.
func named(err error) error {
	for _, n := range []struct {
		name error
		is   []error
	}{
		{ErrDamaged, []error{bus.ErrDamaged}},
		{ErrLocked, []error{jetstream.ErrLocked}},
		{ErrFull, []error{bus.ErrFull, syscall.ENOSPC, syscall.EDQUOT}},
		{ErrReadOnly, []error{jetstream.ErrReadOnly, syscall.EROFS, os.ErrPermission}},
	} {
		if !errors.Is(err, n.name) && slices.ContainsFunc(n.is, func(is error) bool { return errors.Is(err, is) }) {
			return &namedError{err, n.name}
		}
	}
	return err
}

type namedError struct {
	error
	name error
}

func (e *namedError) Unwrap() error        { return e.error }
func (e *namedError) Is(target error) bool { return target == e.name }

// Addresses and members.
var (
	ErrBadAddress           = identity.ErrBadAddress         // not an address, or its checksum is wrong
	ErrTooManyInstallations = actors.ErrTooManyInstallations // the inbox has as many as one may have
	ErrGroupFull            = group.ErrGroupFull             // see *GroupFullError for the limit
	ErrAddressTaken         = actors.ErrAddressTaken         // the wallet belongs to another inbox
	ErrBadSignature         = actors.ErrBadSignature         // the wallet answered with what is not its own signature
	ErrNotOwner             = actors.ErrNotOwner             // not the wallet that the inbox names as its recovery address
	ErrMemberNotReachable   = errors.New("conclave: address has no installation to message")
)

// Groups.
var (
	ErrInvalid   = group.ErrInvalid   // the wish makes no sense: an id that is none, a member who removes itself
	ErrNotMember = group.ErrNotMember // the inbox is not in the group
	ErrForbidden = group.ErrForbidden // the group's permissions do not let this member do that
	ErrInactive  = group.ErrInactive  // this installation is not a member any more
	ErrRevoked   = group.ErrRevoked   // this installation was taken back by its inbox
	ErrPaused    = group.ErrPaused    // the group asks for a newer client than this one

	ErrNewerProfile = group.ErrNewerProfile // the group follows rules of a later XMTP version
	ErrTooLarge     = group.ErrTooLarge     // over the limit of an envelope or a field
	ErrRefused      = group.ErrRefused      // the network said no, as often as it was asked
	ErrNoGroup      = actors.ErrNoGroup     // this installation has no such group
	ErrNoMessage    = group.ErrNoMessage    // no message of that id, or for Retry none that failed
	ErrStore        = actors.ErrStore       // the host's store does not read or write, and says why; nothing was accepted
	ErrCrashed      = actors.ErrCrashed     // a part of the host failed over this again and again; nothing was accepted
	ErrAsleep       = actors.ErrAsleep      // the client was closed, or its local database deleted
	ErrClosed       = actors.ErrClosed      // the host is closed
)

// Deleting a local database.
var (
	ErrNotConfirmed = errors.New("conclave: deleting a local database loses its messages for good: confirm it")
	ErrStreamsOpen  = errors.New("conclave: local database is in use by open streams")
)

// A GroupFullError names the limit that a group would exceed. It is ErrGroupFull.
type GroupFullError = group.GroupFullError

// A MemberNotReachableError names who cannot be added, as the caller named them:
// addresses without an inbox, inboxes without an installation, or without one
// that can be messaged. It is ErrMemberNotReachable.
type MemberNotReachableError struct{ Addresses []string }

func (e *MemberNotReachableError) Error() string {
	return fmt.Sprintf("conclave: no installation to message at %s: its owner has to open a client first", strings.Join(e.Addresses, ", "))
}

func (e *MemberNotReachableError) Is(target error) bool { return target == ErrMemberNotReachable }
