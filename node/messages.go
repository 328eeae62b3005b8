package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

const (
	maxSend   = 256   // messages, or welcomes, of one request; real clients send 1, and at most 50
	maxNewest = 1_000 // groups of one GetNewestGroupMessage; real clients ask for as many
)

// errAnswerTooLarge: ask for less at a time.
var errAnswerTooLarge = errors.New("the answer would be too large")

// A publication is one envelope that was judged and may be appended.
type publication struct {
	topic   bus.Topic
	payload []byte
	same    []byte // what its repeats have in common, see bus.SameAs; nil: all of it
}

// admitAll judges a whole request before anything of it is stored: every entry,
// its size, and the budgets.
func admitAll[In any](ctx context.Context, n *Node, inputs []In, most int, encode func(In) (publication, error)) ([]publication, error) {
	if len(inputs) == 0 {
		return nil, fmt.Errorf("%w: nothing in it", errInvalid)
	}
	if len(inputs) > most {
		return nil, fmt.Errorf("%w: %d entries, at most %d", errInvalid, len(inputs), most)
	}
	publications := make([]publication, len(inputs))
	for i, in := range inputs {
		p, err := encode(in)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		if limit := n.bus.Info().MaxPayload; len(p.payload) > limit {
			return nil, fmt.Errorf("%w: entry %d has %d bytes, at most %d", errInvalid, i, len(p.payload), limit)
		}
		publications[i] = p
	}
	if err := n.budgets.spend(n.config.Now(), callerOf(ctx), publications); err != nil {
		return nil, err
	}
	return publications, nil
}

// forEver is how long the log keeps what must not be forgotten.
const forEver time.Duration = -1

// append publishes one envelope, which the log may forget after keep, where that
// is not forEver.
func (n *Node) append(ctx context.Context, p publication, ttl time.Duration) error {
	var opts []bus.PublishOption
	if ttl > 0 {
		opts = append(opts, bus.TTL(ttl))
	}
	if p.same != nil {
		opts = append(opts, bus.SameAs(p.same))
	}
	if _, err := n.bus.Publish(ctx, p.topic, p.payload, opts...); err != nil {
		return fmt.Errorf("append to the log: %w", err)
	}
	return nil
}

// SendGroupMessages appends MLS messages to their groups, in the order given. A
// message's group, and whether it belongs among the commits, is read from its
// framing: no more than that can be judged without being a member. All of them
// are judged before the first is stored; should the log fail in between, those
// before stay.
//
// A message that is sent again is answered like the first and stored once, within
// the bus's window, whatever HMAC and wish to push it comes with. Beyond that it is in the log twice: members know it by its
// hash or by its id and pass it over, as they do for ever with any repeat.
//
// Its errors have the codes invalid, exhausted and unavailable.
func (n *Node) SendGroupMessages(ctx context.Context, request *mlsapi.SendGroupMessagesRequest) (*emptypb.Empty, error) {
	return answer(ctx, n, messageWork, request, func(ctx context.Context, request *mlsapi.SendGroupMessagesRequest) (*emptypb.Empty, error) {
		publications, err := admitAll(ctx, n, request.GetMessages(), maxSend, encodeGroupMessage)
		if err != nil {
			return nil, err
		}
		for _, p := range publications {
			ttl := n.config.Retention.Messages
			if p.topic.Kind() == bus.GroupCommits {
				ttl = forEver // nobody gets past an epoch without its commit
			}
			if err := n.append(ctx, p, ttl); err != nil {
				return nil, err
			}
		}
		return new(emptypb.Empty), nil
	})
}

// publishers is how many welcomes of one request are on their way at a time.
const publishers = 16

// SendWelcomeMessages appends welcomes, and pointers to welcomes, to the topics
// that they name: installations', or any other 32 bytes where a pointer's welcome
// lies. They are started in the order given and ordered among each other no
// further. Repeats and errors are as with SendGroupMessages.
func (n *Node) SendWelcomeMessages(ctx context.Context, request *mlsapi.SendWelcomeMessagesRequest) (*emptypb.Empty, error) {
	return answer(ctx, n, messageWork, request, func(ctx context.Context, request *mlsapi.SendWelcomeMessagesRequest) (*emptypb.Empty, error) {
		publications, err := admitAll(ctx, n, request.GetMessages(), maxSend, encodeWelcome)
		if err != nil {
			return nil, err
		}
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(publishers)
		for _, p := range publications {
			g.Go(func() error { return n.append(ctx, p, n.config.Retention.Welcomes) })
		}
		return new(emptypb.Empty), g.Wait()
	})
}

// groupShelf is where a group's messages and commits lie.
func (n *Node) groupShelf(group []byte) (shelf[*mlsapi.GroupMessage], error) {
	topics, err := groupTopics(group)
	return shelf[*mlsapi.GroupMessage]{n.bus, topics, groupMessage}, err
}

// QueryGroupMessages reads a page of a group's messages and commits, in the
// order of their ids. Direction is ascending only where it says so. Limit is 1 to
// 100, else 100. The cursor is exclusive, 0 means none, and one is given back
// only where there may be more. A page is shorter than asked only at the end, or
// where it would be over 16 MiB.
func (n *Node) QueryGroupMessages(ctx context.Context, request *mlsapi.QueryGroupMessagesRequest) (*mlsapi.QueryGroupMessagesResponse, error) {
	return answer(ctx, n, messageWork, request, func(ctx context.Context, request *mlsapi.QueryGroupMessagesRequest) (*mlsapi.QueryGroupMessagesResponse, error) {
		s, err := n.groupShelf(request.GetGroupId())
		if err != nil {
			return nil, err
		}
		n.reads.note(n.config.Now(), request.GetGroupId())
		messages, info, err := s.page(ctx, readPageRequest(request.GetPagingInfo()))
		if err != nil {
			return nil, err
		}
		return &mlsapi.QueryGroupMessagesResponse{Messages: messages, PagingInfo: info}, nil
	})
}

// QueryWelcomeMessages reads a page of a topic's welcomes, as QueryGroupMessages
// does of a group's messages.
func (n *Node) QueryWelcomeMessages(ctx context.Context, request *mlsapi.QueryWelcomeMessagesRequest) (*mlsapi.QueryWelcomeMessagesResponse, error) {
	return answer(ctx, n, messageWork, request, func(ctx context.Context, request *mlsapi.QueryWelcomeMessagesRequest) (*mlsapi.QueryWelcomeMessagesResponse, error) {
		topic, err := welcomeTopic(request.GetInstallationKey())
		if err != nil {
			return nil, err
		}
		s := shelf[*mlsapi.WelcomeMessage]{n.bus, []bus.Topic{topic}, welcomeMessage}
		messages, info, err := s.page(ctx, readPageRequest(request.GetPagingInfo()))
		if err != nil {
			return nil, err
		}
		return &mlsapi.QueryWelcomeMessagesResponse{Messages: messages, PagingInfo: info}, nil
	})
}

// GetNewestGroupMessage answers with the newest message or commit of each group,
// in the order asked, and with an empty answer where a group has none. Without
// include_content an answer has nothing but id, time, group and is_commit. At
// most 1,000 groups are asked for at a time; where their contents are over 16 MiB
// the error has the code too_large.
func (n *Node) GetNewestGroupMessage(ctx context.Context, request *mlsapi.GetNewestGroupMessageRequest) (*mlsapi.GetNewestGroupMessageResponse, error) {
	return answer(ctx, n, messageWork, request, n.newestOfGroups)
}

func (n *Node) newestOfGroups(ctx context.Context, request *mlsapi.GetNewestGroupMessageRequest) (*mlsapi.GetNewestGroupMessageResponse, error) {
	groups := request.GetGroupIds()
	if len(groups) == 0 || len(groups) > maxNewest {
		return nil, fmt.Errorf("%w: asks for %d groups, want 1 to %d", errInvalid, len(groups), maxNewest)
	}
	shelves := make([]shelf[*mlsapi.GroupMessage], len(groups))
	var topics []bus.Topic
	for i, id := range groups {
		var err error
		if shelves[i], err = n.groupShelf(id); err != nil {
			return nil, fmt.Errorf("group %d: %w", i, err)
		}
		topics = append(topics, shelves[i].topics...)
	}
	n.reads.note(n.config.Now(), groups...)
	ends, err := n.bus.Last(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("find the ends of %d groups: %w", len(groups), err)
	}
	responses := make([]*mlsapi.GetNewestGroupMessageResponse_Response, len(groups))
	var size atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for i, s := range shelves {
		responses[i] = new(mlsapi.GetNewestGroupMessageResponse_Response)
		end := slices.Max(ends[2*i : 2*i+2])
		if end == 0 {
			continue
		}
		g.Go(func() error {
			entries, _, err := s.downFrom(ctx, end, pageRequest{limit: 1})
			if err != nil || len(entries) == 0 {
				return err
			}
			m := entries[0].m
			if !request.GetIncludeContent() {
				m = headOf(m)
			} else if size.Add(int64(entries[0].size)) > maxPageBytes {
				return fmt.Errorf("%w: the newest messages of %d groups", errAnswerTooLarge, len(groups))
			}
			responses[i].GroupMessage = m
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return &mlsapi.GetNewestGroupMessageResponse{Responses: responses}, nil
}

// headOf is a message without its content.
func headOf(m *mlsapi.GroupMessage) *mlsapi.GroupMessage {
	v1 := m.GetV1()
	return &mlsapi.GroupMessage{Version: &mlsapi.GroupMessage_V1_{V1: &mlsapi.GroupMessage_V1{
		Id: v1.GetId(), CreatedNs: v1.GetCreatedNs(), GroupId: v1.GetGroupId(), IsCommit: v1.GetIsCommit(),
	}}}
}
