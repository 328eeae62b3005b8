package actors

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/persistence"
)

// A welcome waits for its owner where it would bring an installation back into a
// group whose log it cannot follow, and its adder is no member that it knows there
// (group.UnknownAdderError):
//
//	state   | is left when
//	none    | Config.Admit says yes: the welcome is taken
//	        | else its row is stored, with the cursor of welcomes: → stored
//	stored  | its owner accepts, and the welcome is taken or refused: → none
//	        | its owner declines, or asks after requestLife: → none
//	        | the same inbox sends a newer one for the group: → none
//
// Strangers fill no store: there are at most maxRequests, and what comes beyond is
// refused, so that none pushes another out.

// A Request is a welcome that waits for its owner.
type Request struct {
	Group   GroupID
	AddedBy string // inbox id
	At      time.Time

	welcome uint64 // id of the welcome
}

// ErrNoRequest: the request was answered before, or is too old, or its group is
// followed again.
var ErrNoRequest = errors.New("actors: no such request")

const (
	maxRequests = 16
	requestLife = 30 * 24 * time.Hour // as long as a key package is the newest
)

// A requestRow is what is needed to take the welcome later, when its key package
// may have been replaced.
type requestRow struct {
	AddedBy string    `json:"added_by"`
	At      time.Time `json:"at"`
	Cursor  uint64    `json:"cursor"`
	Welcome []byte    `json:"welcome"`
	Secrets []byte    `json:"secrets"`
}

func (r *Request) suffix() []byte { return rowSuffix(r.Group, encodeCursor(r.welcome)) }

// Requests lists the welcomes that wait for an installation's owner, oldest first.
func (s *System) Requests(ctx context.Context, in InstallationID) ([]Request, error) {
	installation, err := s.installation(in)
	if err != nil {
		return nil, err
	}
	all, err := installation.requests(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(r Request) bool { return s.expired(r) }), nil
}

func (s *System) expired(r Request) bool { return s.cfg.Now().Sub(r.At) > requestLife }

func (in *installation) requests(ctx context.Context) (all []Request, err error) {
	scan := in.vault.Scan(ctx, typeRequest, nil, nil, func(suffix, row []byte) bool {
		var r requestRow
		if len(suffix) != len(GroupID{})+8 || json.Unmarshal(row, &r) != nil {
			err = fmt.Errorf("%w: request", persistence.ErrDamaged)
			return false
		}
		at := len(GroupID{})
		all = append(all, Request{Group: GroupID(suffix[:at]), AddedBy: r.AddedBy, At: r.At, welcome: decodeCursor(suffix[at:])})
		return true
	})
	slices.SortFunc(all, func(a, b Request) int { return a.At.Compare(b.At) })
	return all, errors.Join(scan, err)
}

// request stores a welcome to wait for its owner, in one transaction with the cursor.
func (a *installationActor) request(ctx *engine.Context, m rejoined, unknown *group.UnknownAdderError) error {
	var b persistence.Batch
	room, err := a.keepRequest(ctx.Context(), &b, m.group, unknown.Adder, m.guest.join)
	if err != nil {
		return crash(fmt.Errorf("keep request: %w", err))
	}
	if !room {
		return a.done(ctx, m.guest, fmt.Errorf("%w: too many wait for their owner: %w", group.ErrRejected, unknown))
	}
	a.passed(&b, m.guest)
	if err := a.in.vault.Apply(ctx.Context(), &b, persistence.Lazy); err != nil {
		return crash(fmt.Errorf("keep request: %w", err))
	}
	a.sys.log.Warn("welcome waits for its owner", groupAttr(m.group), installationAttr(a.in.id), keyErr, group.ErrUnknownAdder)
	a.wentPast(m.guest)
	return nil
}

// keepRequest adds a welcome to a batch, to wait for its owner. It reports false
// where too many wait.
func (a *installationActor) keepRequest(ctx context.Context, b *persistence.Batch, id GroupID, adder string, c *group.JoinConfig) (bool, error) {
	all, err := a.in.requests(ctx)
	if err != nil {
		return false, err
	}
	waiting := 0
	for _, r := range all {
		if a.sys.expired(r) || r.Group == id && r.AddedBy == adder {
			a.in.vault.Delete(b, typeRequest, r.suffix())
			continue
		}
		waiting++
	}
	if waiting >= maxRequests {
		return false, nil
	}
	secrets, err := c.Secrets.MarshalBinary()
	if err != nil {
		return false, err
	}
	row, err := json.Marshal(requestRow{adder, c.Created, c.Welcome.Cursor, c.Welcome.Data, secrets})
	if err != nil {
		return false, err
	}
	r := Request{Group: id, welcome: c.WelcomeID}
	a.in.vault.Put(b, typeRequest, r.suffix(), row)
	return true, nil
}

// admit asks the host's owner about a welcome by somebody who is not known.
func (s *System) admit(id GroupID, adder string, c *group.JoinConfig) bool {
	return s.cfg.Admit != nil && s.cfg.Admit(Request{Group: id, AddedBy: adder, At: c.Created, welcome: c.WelcomeID})
}

// Accept takes the welcome of a request. Where the group is followed again, or was
// joined otherwise, that is refused: the request is gone, and it is ErrNoRequest.
func (s *System) Accept(ctx context.Context, in InstallationID, r Request) error {
	installation, err := s.installation(in)
	if err != nil {
		return err
	}
	c, err := s.requested(ctx, installation, r)
	if err != nil {
		return err
	}
	name := groupName(in, r.Group)
	err = s.rejoin(ctx, nil, name, *c, false)
	if need := new(group.UnresolvedError); errors.As(err, &need) {
		if err = s.inboxes.resolve(ctx, need.Need); err != nil {
			return err
		}
		c.Resolved = true
		err = s.rejoin(ctx, nil, name, *c, false)
	}
	if err == nil {
		return s.forgetRequest(ctx, installation, r, true)
	}
	if group.Verdict(err) {
		err = errors.Join(fmt.Errorf("%w: %w", ErrNoRequest, err), s.forgetRequest(ctx, installation, r, false))
	}
	return err
}

// requested reads a request's welcome.
func (s *System) requested(ctx context.Context, in *installation, r Request) (*group.JoinConfig, error) {
	row, err := in.vault.Get(ctx, typeRequest, r.suffix())
	if errors.Is(err, persistence.ErrNotFound) || err == nil && s.expired(r) {
		return nil, ErrNoRequest
	}
	if err != nil {
		return nil, err
	}
	var kept requestRow
	if err := json.Unmarshal(row, &kept); err != nil {
		return nil, fmt.Errorf("%w: request: %w", persistence.ErrDamaged, err)
	}
	secrets, err := group.UnmarshalKeyPackageSecrets(bytes.Clone(kept.Secrets))
	if err != nil {
		return nil, fmt.Errorf("%w: request: %w", persistence.ErrDamaged, err)
	}
	return &group.JoinConfig{
		Welcome: group.Welcome{Data: kept.Welcome, Cursor: kept.Cursor}, Secrets: secrets,
		WelcomeID: r.welcome, Created: kept.At, InOrder: true, Accepted: true,
	}, nil
}

// Decline forgets a request.
func (s *System) Decline(ctx context.Context, in InstallationID, r Request) error {
	installation, err := s.installation(in)
	if err != nil {
		return err
	}
	if _, err := s.requested(ctx, installation, r); err != nil {
		return err
	}
	return s.forgetRequest(ctx, installation, r, false)
}

// forgetRequest deletes a request. A welcome that was taken used its key package.
func (s *System) forgetRequest(ctx context.Context, in *installation, r Request, taken bool) error {
	var b persistence.Batch
	in.vault.Delete(&b, typeRequest, r.suffix())
	if taken {
		in.welcomed(&b)
	}
	if err := in.vault.Apply(ctx, &b, persistence.Lazy); err != nil {
		return fmt.Errorf("actors: forget request: %w", err)
	}
	if taken {
		s.renewSoon(in)
	}
	return nil
}
