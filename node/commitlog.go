package node

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/proto/contents"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// A group's commit log is what its members say their commits did, signed, so that
// they find out where one of them is in another state than the others. To the
// node it is opaque: it knows neither the group's secrets nor its members.
const (
	maxCommitLogPublish = 10 // entries of one request, as on XMTP's network
	maxCommitLogQuery   = 20 // groups of one request, as on XMTP's network

	// maxCommitLogEntry is the most bytes of an entry. A real one has 92 and the
	// signature's 100 beside them. 20 full pages fit into one answer of the bus.
	maxCommitLogEntry = 2 << 10
)

// Sizes of an Ed25519 signature and of its public key.
const (
	signatureSize = 64
	publicKeySize = 32
)

func encodeCommitLogEntry(in *mlsapi.PublishCommitLogRequest) (publication, error) {
	clean, topic, err := cleanCommitLogEntry(in)
	if err != nil {
		return publication{}, err
	}
	payload, err := encode(clean)
	return publication{topic: topic, payload: payload}, err
}

// cleanCommitLogEntry is an entry with the fields that the node knows, and its
// topic. The signature is for the members to verify.
func cleanCommitLogEntry(in *mlsapi.PublishCommitLogRequest) (*mlsapi.PublishCommitLogRequest, bus.Topic, error) {
	topic, err := commitLogTopic(in.GetGroupId())
	entry, signature := in.GetSerializedCommitLogEntry(), in.GetSignature()
	switch {
	case err != nil:
		return nil, bus.Topic{}, err
	case len(entry) == 0:
		return nil, bus.Topic{}, fmt.Errorf("%w: empty commit log entry", errInvalid)
	case len(entry) > maxCommitLogEntry:
		return nil, bus.Topic{}, fmt.Errorf("%w: commit log entry of %d bytes, at most %d", errInvalid, len(entry), maxCommitLogEntry)
	case len(signature.GetBytes()) != signatureSize || len(signature.GetPublicKey()) != publicKeySize:
		return nil, bus.Topic{}, fmt.Errorf("%w: commit log entry without an Ed25519 signature and its key", errInvalid)
	}
	clean := &mlsapi.PublishCommitLogRequest{
		GroupId: in.GetGroupId(), SerializedCommitLogEntry: entry, Signature: proto.CloneOf(signature),
	}
	clean.Signature.ProtoReflect().SetUnknown(nil)
	return clean, topic, nil
}

func commitLogTopic(group []byte) (bus.Topic, error) {
	topic, err := bus.CommitLogOf(group)
	if err != nil {
		return bus.Topic{}, fmt.Errorf("%w: a group id has 16 bytes, not %d", errInvalid, len(group))
	}
	return topic, nil
}

// commitLogEntry is an envelope of a commit log topic as clients see it.
func commitLogEntry(e bus.Envelope) (*contents.CommitLogEntry, bool) {
	in := new(mlsapi.PublishCommitLogRequest)
	if proto.Unmarshal(e.Payload, in) != nil {
		return nil, false
	}
	clean, topic, err := cleanCommitLogEntry(in)
	if err != nil || topic != e.Topic {
		return nil, false
	}
	return &contents.CommitLogEntry{
		SequenceId: uint64(e.ID), SerializedCommitLogEntry: clean.SerializedCommitLogEntry, Signature: clean.Signature,
	}, true
}

// BatchPublishCommitLog appends entries to their groups' commit logs, in the
// order given, at most 10 of them. All of them are judged before the first is
// stored. The same entry again is stored once within the bus's window, and
// readers expect repeats beyond it. Its errors have the codes invalid, exhausted
// and unavailable.
func (n *Node) BatchPublishCommitLog(ctx context.Context, request *mlsapi.BatchPublishCommitLogRequest) (*emptypb.Empty, error) {
	return answer(ctx, n, commitLogWork, request, func(ctx context.Context, request *mlsapi.BatchPublishCommitLogRequest) (*emptypb.Empty, error) {
		publications, err := admitAll(ctx, n, request.GetRequests(), maxCommitLogPublish, encodeCommitLogEntry)
		if err != nil {
			return nil, err
		}
		for _, p := range publications {
			if err := n.append(ctx, p, forEver); err != nil {
				return nil, err
			}
		}
		return new(emptypb.Empty), nil
	})
}

// BatchQueryCommitLog reads a page of each of at most 20 commit logs, in the
// order asked and each with its group's id. Pages are as those of
// QueryGroupMessages, but ascending also where no direction is named; asking for
// a descending one is invalid, and on XMTP's node an internal error.
func (n *Node) BatchQueryCommitLog(ctx context.Context, request *mlsapi.BatchQueryCommitLogRequest) (*mlsapi.BatchQueryCommitLogResponse, error) {
	return answer(ctx, n, commitLogWork, request, n.queryCommitLogs)
}

func (n *Node) queryCommitLogs(ctx context.Context, request *mlsapi.BatchQueryCommitLogRequest) (*mlsapi.BatchQueryCommitLogResponse, error) {
	queries := request.GetRequests()
	if len(queries) == 0 || len(queries) > maxCommitLogQuery {
		return nil, fmt.Errorf("%w: asks for %d commit logs, want 1 to %d", errInvalid, len(queries), maxCommitLogQuery)
	}
	shelves := make([]shelf[*contents.CommitLogEntry], len(queries))
	for i, q := range queries {
		topic, err := commitLogTopic(q.GetGroupId())
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		if q.GetPagingInfo().GetDirection() == mlsapi.SortDirection_SORT_DIRECTION_DESCENDING {
			return nil, fmt.Errorf("%w: entry %d: a commit log is read in ascending order only", errInvalid, i)
		}
		shelves[i] = shelf[*contents.CommitLogEntry]{n.bus, []bus.Topic{topic}, commitLogEntry}
		n.reads.note(n.config.Now(), q.GetGroupId())
	}
	responses := make([]*mlsapi.QueryCommitLogResponse, len(queries))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for i, q := range queries {
		g.Go(func() error {
			r := readPageRequest(q.GetPagingInfo())
			r.ascending = true
			entries, info, err := shelves[i].page(ctx, r)
			responses[i] = &mlsapi.QueryCommitLogResponse{GroupId: q.GetGroupId(), CommitLogEntries: entries, PagingInfo: info}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return &mlsapi.BatchQueryCommitLogResponse{Responses: responses}, nil
}
