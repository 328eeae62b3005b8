package actors

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/identityapi"
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
}

// A directory remembers the identity log of the inboxes that this host has met.
// Its facts never change, so all installations of the host share them.
type directory struct {
	network  Network
	verifier identity.Verifier

	mu      sync.RWMutex
	inboxes map[string]*inbox
}

// An inbox is one log as far as it was read.
type inbox struct {
	mu  sync.Mutex
	log identity.History
}

// maxInboxes bounds the memory: beyond it the directory starts anew, and what
// is still needed is asked for again.
const maxInboxes = 200_000

func newDirectory(n Network, v identity.Verifier) *directory {
	return &directory{network: n, verifier: v, inboxes: map[string]*inbox{}}
}

// asOf returns what is known here of an inbox's state at seq, and whether an
// update has exactly that id: the form in which a replica asks.
func (d *directory) asOf(id string, seq uint64) (*identity.State, bool) {
	d.mu.RLock()
	b := d.inboxes[id]
	d.mu.RUnlock()
	if b == nil {
		return nil, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.AsOf(seq)
}

// latest returns what is known of an inbox: its newest state and sequence id.
func (d *directory) latest(id string) (*identity.State, uint64) {
	d.mu.RLock()
	b := d.inboxes[id]
	d.mu.RUnlock()
	if b == nil {
		return nil, 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Latest(), b.log.LatestID()
}

func (d *directory) inbox(id string) *inbox {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.inboxes[id]
	if b == nil {
		if len(d.inboxes) >= maxInboxes {
			clear(d.inboxes)
		}
		b = new(inbox)
		d.inboxes[id] = b
	}
	return b
}

// refreshChunk is how many inboxes one request asks for.
const refreshChunk = 250

// refresh reads what the logs have beyond what is known.
func (d *directory) refresh(ctx context.Context, ids []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for len(ids) > 0 {
		chunk := ids[:min(len(ids), refreshChunk)]
		ids = ids[len(chunk):]
		g.Go(func() error { return d.refreshChunk(ctx, chunk) })
	}
	return g.Wait()
}

func (d *directory) refreshChunk(ctx context.Context, ids []string) error {
	request := &identityapi.GetIdentityUpdatesRequest{}
	for _, id := range ids {
		_, known := d.latest(id)
		request.Requests = append(request.Requests, &identityapi.GetIdentityUpdatesRequest_Request{InboxId: id, SequenceId: known})
	}
	response, err := d.network.GetIdentityUpdates(ctx, request)
	if err != nil {
		return fmt.Errorf("actors: read identity log: %w", err)
	}
	for _, answer := range response.Responses {
		if len(answer.Updates) > 0 {
			d.append(answer.InboxId, answer.Updates)
		}
	}
	return nil
}

// append verifies updates and adds them to an inbox's log. An update that does
// not verify breaks the inbox for everybody alike; the states before it stay.
func (d *directory) append(id string, updates []*identityapi.GetIdentityUpdatesResponse_IdentityUpdateLog) {
	b := d.inbox(id)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range updates {
		if u.SequenceId <= b.log.LatestID() {
			continue
		}
		verified, err := identity.Verify(u.Update, d.verifier)
		if err != nil || b.log.Append(u.SequenceId, verified) != nil {
			return
		}
	}
}
