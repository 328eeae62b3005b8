package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/identityapi"
)

// An inboxLog is what is valid of an inbox's topic.
type inboxLog struct {
	state   *identity.State
	entries []logEntry
	own     *candidate // verified here already, and about to be read back
}

type logEntry struct {
	hash [32]byte // of the update's bytes
	size int      // of the update in bytes
	log  *identityapi.GetIdentityUpdatesResponse_IdentityUpdateLog
}

// holds reports whether the log has an update of these very bytes.
func (l *inboxLog) holds(hash [32]byte) bool {
	return slices.ContainsFunc(l.entries, func(e logEntry) bool { return e.hash == hash })
}

// A candidate is an update whose signatures verify, and that wants to enter its
// inbox's log.
type candidate struct {
	bytes    []byte
	hash     [32]byte
	update   *associations.IdentityUpdate
	verified identity.Verified
}

func (n *Node) newCandidate(ctx context.Context, update *associations.IdentityUpdate, b []byte) (*candidate, error) {
	verified, err := identity.Verify(update, n.inTime(ctx))
	if errors.Is(err, identity.ErrNeedChain) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	return &candidate{b, sha256.Sum256(b), update, verified}, nil
}

// workOf is the class of a request to append an update.
func workOf(u *associations.IdentityUpdate) class {
	if signedByContract(u) {
		return chainWork
	}
	return updateWork
}

// signedByContract reports whether an update has a signature that a chain is
// asked about.
func signedByContract(u *associations.IdentityUpdate) bool { return contractSignatures(u) > 0 }

// contractSignatures counts them.
func contractSignatures(u *associations.IdentityUpdate) (n int) {
	for _, a := range u.GetActions() {
		for _, s := range []*associations.Signature{
			a.GetCreateInbox().GetInitialIdentifierSignature(),
			a.GetAdd().GetExistingMemberSignature(), a.GetAdd().GetNewMemberSignature(),
			a.GetRevoke().GetRecoveryIdentifierSignature(),
			a.GetChangeRecoveryAddress().GetExistingRecoveryIdentifierSignature(),
		} {
			if s.GetErc_6492() != nil {
				n++
			}
		}
	}
	return n
}

// asksChain reports whether reading an entry into its log asks a chain.
func asksChain(l inboxLog, e bus.Envelope) bool {
	if l.own != nil && bytes.Equal(l.own.bytes, e.Payload) {
		return false
	}
	update, err := identity.Decode(e.Payload)
	return err == nil && signedByContract(update)
}

// inTime asks no chain for a request that is over: an update, or a log, may name
// a hundred contracts. Each question takes a place of its own.
type inTime struct {
	identity.Verifier
	ctx       context.Context
	questions *pool
}

func (n *Node) inTime(ctx context.Context) inTime {
	return inTime{n.config.Verifier, ctx, n.pools[questionWork]}
}

func (v inTime) VerifyContract(account identity.Account, block *uint64, hash [32]byte, sig []byte) (uint64, error) {
	leave, err := v.questions.enter(v.ctx, callerOf(v.ctx))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", err, identity.ErrNeedChain)
	}
	defer leave()
	if err := v.ctx.Err(); err != nil {
		return 0, fmt.Errorf("%w: %w", err, identity.ErrNeedChain)
	}
	return v.Verifier.VerifyContract(account, block, hash, sig)
}

// readUpdate takes the next entry of an inbox's topic into its log, or passes it
// over where it is not valid there. Only where no verdict can be had is it an
// error.
func (n *Node) readUpdate(ctx context.Context, l *inboxLog, e bus.Envelope) error {
	var err error
	c := l.own
	if c == nil || !bytes.Equal(c.bytes, e.Payload) {
		c, err = n.readCandidate(ctx, e)
	}
	if errors.Is(err, identity.ErrNeedChain) {
		if invalid := n.invalidOnAnyChain(l, e); invalid != nil {
			return n.passOver(invalid)
		}
		return err
	}
	if err != nil {
		return n.passOver(err)
	}
	state, err := l.state.Apply(c.verified)
	if err != nil {
		return n.passOver(err)
	}
	l.state = state
	l.entries = append(l.entries, logEntry{
		hash: c.hash, size: len(c.bytes),
		log: &identityapi.GetIdentityUpdatesResponse_IdentityUpdateLog{
			SequenceId: uint64(e.ID), ServerTimestampNs: uint64(e.Time.UnixNano()), Update: c.update,
		},
	})
	return nil
}

// invalidOnAnyChain says why an entry would be passed over even if the contracts
// that it names had signed it. Else junk that names a chain which cannot be asked
// would keep the log from being read.
func (n *Node) invalidOnAnyChain(l *inboxLog, e bus.Envelope) error {
	update, err := identity.Decode(e.Payload)
	if err != nil {
		return err
	}
	verified, err := identity.Verify(update, identity.Trusting{Verifier: n.config.Verifier})
	if err != nil {
		return err
	}
	_, err = l.state.Apply(verified)
	return err
}

func (n *Node) readCandidate(ctx context.Context, e bus.Envelope) (*candidate, error) {
	update, err := identity.Decode(e.Payload)
	if err != nil {
		return nil, err
	}
	topic, err := inboxTopic(update.GetInboxId())
	if err != nil {
		return nil, err
	}
	if topic != e.Topic {
		return nil, fmt.Errorf("%w: entry names another inbox", errInvalid)
	}
	return n.newCandidate(ctx, update, e.Payload)
}

func (n *Node) passOver(reason error) error {
	n.config.Logger.Warn("invalid entry in an identity log passed over", "error", reason)
	return nil
}

func inboxTopic(id string) (bus.Topic, error) {
	raw, err := identity.ParseInboxID(id)
	if err != nil {
		return bus.Topic{}, fmt.Errorf("%w: %w", errInvalid, err)
	}
	return bus.IdentityOf(raw[:])
}

// maxUpdate is the most bytes of an update: a full log fits into one answer, so
// that no inbox is unreadable. A real update has about 400.
const maxUpdate = 24 << 10

// PublishIdentityUpdate appends a signed update to its inbox's log. The same
// update again is no error, and appends nothing.
func (n *Node) PublishIdentityUpdate(ctx context.Context, request *identityapi.PublishIdentityUpdateRequest) (*identityapi.PublishIdentityUpdateResponse, error) {
	return answer(ctx, n, workOf(request.GetIdentityUpdate()), request, n.publishUpdate)
}

func (n *Node) publishUpdate(ctx context.Context, request *identityapi.PublishIdentityUpdateRequest) (*identityapi.PublishIdentityUpdateResponse, error) {
	update := request.GetIdentityUpdate()
	topic, err := inboxTopic(update.GetInboxId())
	if err != nil {
		return nil, err
	}
	if len(update.GetActions()) == 0 {
		// It would need no signature: anybody could fill anybody's log.
		return nil, fmt.Errorf("%w: update without an action", errInvalid)
	}
	b, err := identity.Encode(update)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	if len(b) > maxUpdate {
		return nil, fmt.Errorf("%w: update of %d bytes, at most %d", errInvalid, len(b), maxUpdate)
	}
	// Paid before it is verified, which costs more than to store it.
	if err := n.budgets.spend(n.config.Now(), callerOf(ctx), []publication{{topic: topic, payload: b}}); err != nil {
		return nil, err
	}
	if err := n.budgets.ask(n.config.Now(), callerOf(ctx), contractSignatures(update)); err != nil {
		return nil, err
	}
	c, err := n.newCandidate(ctx, update, b)
	if err != nil {
		return nil, err
	}
	t := n.inboxes.topic(topic)
	if err := n.inboxes.take(ctx, t); err != nil {
		return nil, err
	}
	defer t.give()
	if err := n.appendUpdate(ctx, t, c); err != nil {
		return nil, err
	}
	return new(identityapi.PublishIdentityUpdateResponse), nil
}

// attempts is how often an update that lost a race, or whose fate is unknown, is
// judged anew.
const attempts = 8

// appendUpdate brings a candidate into the log, exactly once. The caller has the
// tail's turn, which orders the writers of this node; compare-and-set orders those of several,
// and where the bus has none, the order of the log does: what it makes invalid is
// passed over, and the next turn of the loop says why.
func (n *Node) appendUpdate(ctx context.Context, t *cachedTopic[inboxLog], c *candidate) error {
	t.value.own = c
	defer func() { t.value.own = nil }()
	unsettled := errRaced
	for try := 0; ; try++ {
		end, err := n.bus.Last(ctx, t.topic)
		if err != nil {
			return fmt.Errorf("find the end of the log: %w", err)
		}
		if err := n.inboxes.catchUp(ctx, t, end[0]); err != nil {
			return err
		}
		if t.value.holds(c.hash) {
			return nil
		}
		if try == attempts {
			return fmt.Errorf("append to the identity log: %w", unsettled)
		}
		next, err := n.admit(&t.value, c)
		if err != nil {
			return err
		}
		// Notes first: without its update a note is harmless, not the reverse.
		if err := n.note(ctx, c, t.value.state, next); err != nil {
			return err
		}
		_, err = n.bus.Publish(ctx, t.topic, c.bytes, bus.ExpectLast(t.last))
		switch {
		case err == nil, errors.Is(err, bus.ErrConflict):
			unsettled = errRaced
		case errors.Is(err, bus.ErrFull), errors.Is(err, bus.ErrTooLarge), errors.Is(err, bus.ErrRefused), ctx.Err() != nil:
			return fmt.Errorf("append to the identity log: %w", err)
		default: // perhaps it is in the log: read it
			unsettled = err
		}
	}
}

// admit says what the inbox becomes with the candidate, or why not.
func (n *Node) admit(l *inboxLog, c *candidate) (*identity.State, error) {
	limits := n.config.Limits
	if len(l.entries) >= limits.Updates {
		return nil, fmt.Errorf("%w: %d updates", errLogFull, len(l.entries))
	}
	if len(l.entries) >= limits.Updates-limits.Reserved && !onlyRevokes(c.update) {
		return nil, fmt.Errorf("%w: the last %d updates are kept for revocations", errLogFull, limits.Reserved)
	}
	next, err := l.state.Apply(c.verified)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	if next.Recovery().IsZeroAddress() {
		return nil, fmt.Errorf("%w: nobody can sign for the zero address", errInvalid)
	}
	return next, nil
}

// onlyRevokes reports whether an update takes rights away and gives none but the
// recovery identifier's to another.
func onlyRevokes(u *associations.IdentityUpdate) bool {
	return !slices.ContainsFunc(u.GetActions(), func(a *associations.IdentityAction) bool {
		return a.GetRevoke() == nil && a.GetChangeRecoveryAddress() == nil
	})
}

// GetIdentityUpdates reads identity logs, each from after the sequence id asked
// for, in the order asked. Where the answer would be over 16 MiB the error has the
// code too_large; each log by itself is smaller.
func (n *Node) GetIdentityUpdates(ctx context.Context, request *identityapi.GetIdentityUpdatesRequest) (*identityapi.GetIdentityUpdatesResponse, error) {
	return answer(ctx, n, lookUpWork, request, n.getUpdates)
}

func (n *Node) getUpdates(ctx context.Context, request *identityapi.GetIdentityUpdatesRequest) (*identityapi.GetIdentityUpdatesResponse, error) {
	if err := checkBatch(len(request.GetRequests()), MaxBatch); err != nil {
		return nil, err
	}
	topics := make([]bus.Topic, len(request.GetRequests()))
	for i, r := range request.GetRequests() {
		var err error
		if topics[i], err = inboxTopic(r.GetInboxId()); err != nil {
			return nil, err
		}
	}
	logs, err := n.inboxes.current(ctx, topics)
	if err != nil {
		return nil, err
	}
	response, size := new(identityapi.GetIdentityUpdatesResponse), 0
	for i, r := range request.GetRequests() {
		answer := &identityapi.GetIdentityUpdatesResponse_Response{InboxId: r.GetInboxId()}
		for _, e := range logs[i].entries {
			if e.log.SequenceId > r.GetSequenceId() {
				answer.Updates = append(answer.Updates, e.log)
				size += e.size
			}
		}
		if size > maxPageBytes {
			return nil, fmt.Errorf("%w: the logs of %d inboxes", errAnswerTooLarge, len(topics))
		}
		response.Responses = append(response.Responses, answer)
	}
	return response, nil
}
