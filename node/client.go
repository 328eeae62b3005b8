package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/identityapi"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// A Client asks the services of whichever node serves a bus. What is more than
// one request may ask for is split; a node's refusal comes back as a
// *bus.ServiceError, and bus.ErrNoService where no node serves. It is safe for
// concurrent use.
type Client struct{ bus bus.Bus }

// NewClient returns a client of the nodes on a bus.
func NewClient(b bus.Bus) *Client { return &Client{b} }

// PublishIdentityUpdate appends a signed update to its inbox's log. When it
// returns nil, everybody who reads the log sees it. The same update again is no
// error, so after an unknown outcome it is simply sent again.
func (c *Client) PublishIdentityUpdate(ctx context.Context, u *associations.IdentityUpdate) error {
	err := c.ask(ctx, bus.PublishIdentityUpdate, &identityapi.PublishIdentityUpdateRequest{IdentityUpdate: u}, nil)
	if err != nil {
		return fmt.Errorf("node: publish identity update: %w", err)
	}
	return nil
}

// GetIdentityUpdates reads identity logs, each from after the sequence id asked
// for. It answers in the order asked, for any number of inboxes.
func (c *Client) GetIdentityUpdates(ctx context.Context, r *identityapi.GetIdentityUpdatesRequest) (*identityapi.GetIdentityUpdatesResponse, error) {
	responses, err := inBatches(ctx, MaxBatch, r.GetRequests(), func(ctx context.Context, part []*identityapi.GetIdentityUpdatesRequest_Request) ([]*identityapi.GetIdentityUpdatesResponse_Response, error) {
		answer := new(identityapi.GetIdentityUpdatesResponse)
		err := c.ask(ctx, bus.GetIdentityUpdates, &identityapi.GetIdentityUpdatesRequest{Requests: part}, answer)
		return answer.GetResponses(), err
	})
	if err != nil {
		return nil, fmt.Errorf("node: get identity updates: %w", err)
	}
	return &identityapi.GetIdentityUpdatesResponse{Responses: responses}, nil
}

// GetInboxIDs looks up the inbox of each identifier; those without one are
// absent from the answer. Up to MaxBatch of them are one request.
func (c *Client) GetInboxIDs(ctx context.Context, ids []identity.Identifier) (map[identity.Identifier]string, error) {
	responses, err := inBatches(ctx, MaxBatch, ids, func(ctx context.Context, part []identity.Identifier) ([]*identityapi.GetInboxIdsResponse_Response, error) {
		request, answer := new(identityapi.GetInboxIdsRequest), new(identityapi.GetInboxIdsResponse)
		for _, id := range part {
			request.Requests = append(request.Requests, &identityapi.GetInboxIdsRequest_Request{
				Identifier: id.String(), IdentifierKind: id.ProtoKind(),
			})
		}
		err := c.ask(ctx, bus.GetInboxIds, request, answer)
		return answer.GetResponses(), err
	})
	if err != nil {
		return nil, fmt.Errorf("node: get inbox ids: %w", err)
	}
	inboxes := make(map[identity.Identifier]string, len(ids))
	for i, r := range responses {
		if r.InboxId != nil {
			inboxes[ids[i]] = r.GetInboxId()
		}
	}
	return inboxes, nil
}

// UploadKeyPackage publishes an installation's newest key package, as bare TLS
// bytes. It replaces the one before.
func (c *Client) UploadKeyPackage(ctx context.Context, keyPackage []byte) error {
	err := c.ask(ctx, bus.UploadKeyPackage, &mlsapi.UploadKeyPackageRequest{
		KeyPackage:          &mlsapi.KeyPackageUpload{KeyPackageTlsSerialized: keyPackage},
		IsInboxIdCredential: true,
	}, nil)
	if err != nil {
		return fmt.Errorf("node: upload key package: %w", err)
	}
	return nil
}

// FetchKeyPackages returns the newest key package of each installation, in the
// order asked, nil where there is none. They are as they were uploaded: whoever
// uses one verifies it.
func (c *Client) FetchKeyPackages(ctx context.Context, installations [][]byte) ([][]byte, error) {
	answers, err := inBatches(ctx, MaxBatch, installations, func(ctx context.Context, part [][]byte) ([]*mlsapi.FetchKeyPackagesResponse_KeyPackage, error) {
		answer := new(mlsapi.FetchKeyPackagesResponse)
		err := c.ask(ctx, bus.FetchKeyPackages, &mlsapi.FetchKeyPackagesRequest{InstallationKeys: part}, answer)
		return answer.GetKeyPackages(), err
	})
	if err != nil {
		return nil, fmt.Errorf("node: fetch key packages: %w", err)
	}
	packages := make([][]byte, len(answers))
	for i, a := range answers {
		packages[i] = a.GetKeyPackageTlsSerialized()
	}
	return packages, nil
}

// PublishCommitLog appends entries to their groups' commit logs, in the order
// given. Those before one that fails are in the log; the same entry again, soon
// after, is stored once.
func (c *Client) PublishCommitLog(ctx context.Context, entries []*mlsapi.PublishCommitLogRequest) error {
	for part := range slices.Chunk(entries, maxCommitLogPublish) {
		if err := c.ask(ctx, bus.PublishCommitLog, &mlsapi.BatchPublishCommitLogRequest{Requests: part}, nil); err != nil {
			return fmt.Errorf("node: publish commit log: %w", err)
		}
	}
	return nil
}

// QueryCommitLog reads one page of each commit log, in the order asked.
func (c *Client) QueryCommitLog(ctx context.Context, queries []*mlsapi.QueryCommitLogRequest) ([]*mlsapi.QueryCommitLogResponse, error) {
	responses, err := inBatches(ctx, maxCommitLogQuery, queries, func(ctx context.Context, part []*mlsapi.QueryCommitLogRequest) ([]*mlsapi.QueryCommitLogResponse, error) {
		answer := new(mlsapi.BatchQueryCommitLogResponse)
		err := c.ask(ctx, bus.QueryCommitLog, &mlsapi.BatchQueryCommitLogRequest{Requests: part}, answer)
		return answer.GetResponses(), err
	})
	if err != nil {
		return nil, fmt.Errorf("node: query commit log: %w", err)
	}
	return responses, nil
}

// answerTime is how long a request waits: whoever took it may be gone.
const answerTime = 15 * time.Second

// ask sends one request. A nil answer says that it has no fields.
func (c *Client) ask(ctx context.Context, service string, request, answer proto.Message) error {
	payload, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	b, err := c.bus.Request(waiting, service, payload)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: no answer of %s within %v", bus.ErrUnavailable, service, answerTime)
	}
	if err != nil || answer == nil {
		return err
	}
	if err := proto.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("read the answer of %s: %w", service, err)
	}
	return nil
}

var errShortAnswer = errors.New("the answer is not as long as the question")

// askers is how many requests of one call are on their way at a time.
const askers = 4

// inBatches asks for any number of things in requests of at most so many and
// puts the answers together. A batch whose answer is too large is asked in
// halves.
func inBatches[Q, A any](ctx context.Context, most int, questions []Q, ask func(context.Context, []Q) ([]A, error)) ([]A, error) {
	var halving func(ctx context.Context, part []Q) ([]A, error)
	halving = func(ctx context.Context, part []Q) ([]A, error) {
		answers, err := ask(ctx, part)
		var refused *bus.ServiceError
		if errors.As(err, &refused) && refused.Code == bus.CodeTooLarge && len(part) > 1 {
			first, err := halving(ctx, part[:len(part)/2])
			if err != nil {
				return nil, err
			}
			second, err := halving(ctx, part[len(part)/2:])
			return slices.Concat(first, second), err
		}
		if err == nil && len(answers) != len(part) {
			err = errShortAnswer
		}
		return answers, err
	}
	parts := slices.Collect(slices.Chunk(questions, most))
	answers := make([][]A, len(parts))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(askers)
	for i, part := range parts {
		g.Go(func() (err error) {
			answers[i], err = halving(ctx, part)
			return err
		})
	}
	err := g.Wait()
	return slices.Concat(answers...), err
}
