package actors

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/persistence"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/identityapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// A Network is what a host asks of the network's own services: the identity
// log, the look-up from identifier to inbox, and key packages. node.Client is
// one.
type Network interface {
	// PublishIdentityUpdate appends a signed update to its inbox's log.
	PublishIdentityUpdate(ctx context.Context, u *associations.IdentityUpdate) error
	// GetIdentityUpdates reads logs; it answers in the order asked.
	GetIdentityUpdates(ctx context.Context, r *identityapi.GetIdentityUpdatesRequest) (*identityapi.GetIdentityUpdatesResponse, error)
	// GetInboxIDs looks identifiers up; those without an inbox are absent.
	GetInboxIDs(ctx context.Context, ids []identity.Identifier) (map[identity.Identifier]string, error)
	// UploadKeyPackage publishes an installation's newest key package.
	UploadKeyPackage(ctx context.Context, keyPackage []byte) error
	// FetchKeyPackages answers in the order asked; nil where there is none.
	FetchKeyPackages(ctx context.Context, installations [][]byte) ([][]byte, error)
	// PublishCommitLog appends entries to the commit logs of their groups.
	PublishCommitLog(ctx context.Context, entries []*mlsapi.PublishCommitLogRequest) error
	// QueryCommitLog reads a page of each log; it answers in the order asked.
	QueryCommitLog(ctx context.Context, queries []*mlsapi.QueryCommitLogRequest) ([]*mlsapi.QueryCommitLogResponse, error)
}

// identities has the identity logs of the inboxes that this host has met, in memory
// and in the store, so that members have names without the network. What a log says
// never changes, so all installations of the host share it.
type identities struct {
	ctx      context.Context // the host's
	network  Network
	verifier identity.Verifier
	store    persistence.Store
	log      *slog.Logger
	clock    logClock

	mu      sync.RWMutex
	inboxes map[string]*inbox
}

// An inbox is one log as far as it was read.
type inbox struct {
	mu       sync.Mutex
	log      identity.History
	loaded   bool  // the store's part is in log
	unjudged error // why what comes next could not be verified, and may be good
}

// Identity logs lie in the store in parts, as they were read, each sealed under
// a key from the inbox id: the files do not tell whom a host has met. A part is
// named by the update that it comes after, so that one which was not stored, or
// does not verify now, leaves no gap behind it: what follows is not found either,
// and is read from the network.
var spaceInboxes = persistence.Realm([]byte("identity logs 02"))

func partKey(id string, after uint64) (suffix []byte, secret [32]byte) {
	name := sha256.Sum256([]byte("inbox " + id))
	return binary.BigEndian.AppendUint64(name[:16:16], after), sha256.Sum256([]byte("key of inbox " + id))
}

// maxInboxes bounds the memory: beyond it the directory starts anew, and what
// is still needed is asked for again.
const maxInboxes = 200_000

func newIdentities(ctx context.Context, c Config) *identities {
	return &identities{ctx: ctx, network: c.Network, verifier: c.Verifier, store: c.Store, log: c.Logger, inboxes: map[string]*inbox{}}
}

// asOf returns what is known here of an inbox's state at seq, and whether an
// update has exactly that id and was there at a time: the form in which a replica
// asks.
func (d *identities) asOf(id string, seq uint64, by time.Time) (*identity.State, bool) {
	b := d.open(id)
	defer b.mu.Unlock()
	return b.log.AsOf(seq, by)
}

// latest returns what is known of an inbox: its newest state and sequence id.
func (d *identities) latest(id string) (*identity.State, uint64) {
	b := d.open(id)
	defer b.mu.Unlock()
	return b.log.Latest(), b.log.LatestID()
}

// tookBack reports whether an inbox had a member once, and has it no more.
func (d *identities) tookBack(id string, member identity.Identifier) bool {
	b := d.open(id)
	defer b.mu.Unlock()
	return b.log.TookBack(member)
}

// open returns an inbox with its mutex held and its stored log loaded.
func (d *identities) open(id string) *inbox {
	b := d.inbox(id)
	b.mu.Lock()
	if !b.loaded {
		b.loaded = true
		if err := d.load(id, b); err != nil && d.ctx.Err() == nil {
			d.log.Warn("stored identity log not read", keyErr, err) // the network has it
		}
	}
	return b
}

func (d *identities) load(id string, b *inbox) error {
	for {
		before := b.log.LatestID()
		suffix, secret := partKey(id, before)
		row, err := persistence.GetShared(d.ctx, d.store, spaceInboxes, suffix, secret)
		if errors.Is(err, persistence.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		part := new(identityapi.GetIdentityUpdatesResponse_Response)
		if err := proto.Unmarshal(row, part); err != nil {
			return err
		}
		verified, _ := verifyAll(part.Updates, unasked{d.verifier})
		extend(&b.log, part.Updates, verified)
		if b.log.LatestID() == before {
			return nil
		}
	}
}

// unasked verifies without asking a chain, for whom others wait. What a contract
// signed is then read from the network again.
type unasked struct{ identity.Verifier }

func (unasked) VerifyContract(identity.Account, *uint64, [32]byte, []byte) (uint64, error) {
	return 0, identity.ErrNeedChain
}

func (d *identities) inbox(id string) *inbox {
	d.mu.RLock()
	b := d.inboxes[id]
	d.mu.RUnlock()
	if b != nil {
		return b
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if b = d.inboxes[id]; b == nil {
		if len(d.inboxes) >= maxInboxes {
			clear(d.inboxes)
		}
		b = new(inbox)
		d.inboxes[id] = b
	}
	return b
}

// resolve reads what a replica waits for. Where an update that it needs could not
// be judged, since no chain answers, it is not known whether the update exists. One
// that may still come, and count, is waited for: see identity.Settled.
func (d *identities) resolve(ctx context.Context, need []group.IdentityAt) error {
	if err := d.refresh(ctx, inboxesOf(need)); err != nil {
		return err
	}
	if coming := slices.DeleteFunc(slices.Clone(need), d.settled); len(coming) > 0 {
		last := slices.MaxFunc(coming, func(a, b group.IdentityAt) int { return a.By.Compare(b.By) })
		if !pause(ctx, nil, d.clock.until(last.By.Add(identity.Settled))) {
			return ctx.Err()
		}
		if err := d.refresh(ctx, inboxesOf(coming)); err != nil {
			return err
		}
	}
	for _, n := range need {
		if err := d.known(n); err != nil {
			return err
		}
	}
	return nil
}

// settled reports whether no update that comes yet is what a replica asks for: ids
// rise, and one that the log takes from now on is too late.
func (d *identities) settled(n group.IdentityAt) bool {
	_, latest := d.latest(n.Inbox)
	d.clock.saw(n.By)
	return latest >= n.Sequence || n.By.IsZero() || d.clock.until(n.By.Add(identity.Settled)) <= 0
}

func (d *identities) known(n group.IdentityAt) error {
	b := d.open(n.Inbox)
	defer b.mu.Unlock()
	if _, exact := b.log.AsOf(n.Sequence, n.By); exact || b.unjudged == nil {
		return nil
	}
	return fmt.Errorf("actors: identity update not judged: %w", b.unjudged)
}

// refreshChunk is how many inboxes one request asks for.
const refreshChunk = 250

// refresh reads what the logs have beyond what is known.
func (d *identities) refresh(ctx context.Context, ids []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	// What is no inbox id, which a member can put into a group, has no log.
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { _, err := identity.ParseInboxID(id); return err != nil })
	for len(ids) > 0 {
		chunk := ids[:min(len(ids), refreshChunk)]
		ids = ids[len(chunk):]
		g.Go(func() error { return d.refreshChunk(ctx, chunk) })
	}
	return g.Wait()
}

func (d *identities) refreshChunk(ctx context.Context, ids []string) error {
	request := &identityapi.GetIdentityUpdatesRequest{}
	for _, id := range ids {
		_, known := d.latest(id)
		request.Requests = append(request.Requests, &identityapi.GetIdentityUpdatesRequest_Request{InboxId: id, SequenceId: known})
	}
	response, err := d.network.GetIdentityUpdates(ctx, request)
	if err != nil {
		return fmt.Errorf("actors: read identity log: %w", err)
	}
	if len(response.Responses) != len(ids) {
		return fmt.Errorf("actors: asked for %d identity logs, got %d", len(ids), len(response.Responses))
	}
	var rows persistence.Batch
	for i, answer := range response.Responses {
		if err := isOf(answer, ids[i]); err != nil {
			return err
		}
		if len(answer.Updates) > 0 {
			d.append(&rows, answer, request.Requests[i].SequenceId)
		}
	}
	if len(rows.Ops) == 0 {
		return nil
	}
	if err := d.store.Apply(ctx, &rows, persistence.Lazy); err != nil {
		d.log.Warn("identity log not stored", keyErr, err) // the network has it
	}
	return nil
}

var errAnotherInbox = errors.New("actors: the network answered with another inbox's log")

// isOf checks that an answer is the log of an inbox: nothing else ties the inbox
// to its log, whose every update is good where it belongs.
func isOf(answer *identityapi.GetIdentityUpdatesResponse_Response, id string) error {
	if answer.InboxId != id || slices.ContainsFunc(answer.Updates, func(u *identityapi.GetIdentityUpdatesResponse_IdentityUpdateLog) bool {
		return u.GetUpdate().GetInboxId() != id
	}) {
		return errAnotherInbox
	}
	return nil
}

// append adds what is new in an answer to its inbox's log and, as a row, to the
// store. The answer has what comes after an update that was known.
func (d *identities) append(rows *persistence.Batch, answer *identityapi.GetIdentityUpdatesResponse_Response, after uint64) {
	// A contract's signature takes as long as its chain does to answer, and the
	// members of many groups read the inbox meanwhile.
	verified, err := verifyAll(answer.Updates, d.verifier)
	b := d.open(answer.InboxId)
	defer b.mu.Unlock()
	before := b.log.LatestID()
	if before < after {
		return // forgotten meanwhile: what lies between is missing
	}
	if b.unjudged = nil; errors.Is(err, identity.ErrNeedChain) {
		b.unjudged = err
	}
	extend(&b.log, answer.Updates, verified)
	if b.log.LatestID() == before {
		return
	}
	row, err := proto.Marshal(&identityapi.GetIdentityUpdatesResponse_Response{
		InboxId: answer.InboxId,
		Updates: slices.DeleteFunc(slices.Clone(answer.Updates), func(u *identityapi.GetIdentityUpdatesResponse_IdentityUpdateLog) bool {
			return u.SequenceId <= before || u.SequenceId > b.log.LatestID()
		}),
	})
	if err != nil {
		d.log.Warn("identity log not stored", keyErr, err)
		return
	}
	suffix, secret := partKey(answer.InboxId, before)
	persistence.PutShared(rows, spaceInboxes, suffix, secret, row)
}

// verifyAll returns the updates up to the first that does not verify, and why it
// does not.
func verifyAll(updates []*identityapi.GetIdentityUpdatesResponse_IdentityUpdateLog, v identity.Verifier) (all []identity.Verified, err error) {
	for _, u := range updates {
		verified, err := identity.Verify(u.Update, v)
		if err != nil {
			return all, err
		}
		all = append(all, verified)
	}
	return all, nil
}

// extend adds verified updates to a log. One that does not fit breaks the inbox
// for everybody alike; the states before it stay.
func extend(log *identity.History, updates []*identityapi.GetIdentityUpdatesResponse_IdentityUpdateLog, verified []identity.Verified) {
	for i, v := range verified {
		if log.Append(updates[i].SequenceId, timeOf(updates[i].ServerTimestampNs), v) != nil {
			return
		}
	}
}

// timeOf reads a time of the identity log; 0 is none.
func timeOf(ns uint64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(ns))
}
