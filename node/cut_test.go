package node_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// sealed is what a host publishes of a message.
func sealed(t testing.TB, id []byte, kind byte, text string) []byte {
	t.Helper()
	payload, err := proto.Marshal(input(private(id, kind, text)))
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

// busy is a network in which commits, and a message between them, come between any
// two questions that the log is asked in one call, so many times.
func busy(t *testing.T, id []byte, times int) (n *network, all func() []uint64) {
	t.Helper()
	var published []uint64
	publish := func() {
		for _, kind := range []byte{commit, application, commit} {
			published = append(published, put(t, n, id, kind == commit, sealed(t, id, kind, fmt.Sprint(len(published)))))
		}
	}
	n = newNetwork(t, memory.Config{Faults: memory.Faults{
		Hit: func(f memory.Fault) bool {
			if f != memory.Between || times == 0 {
				return false
			}
			times--
			return true
		},
		Meanwhile: func() { publish() },
	}}, node.Limits{})
	publish()
	return n, func() []uint64 { return published }
}

// Whoever pages through a group that is being written to misses nothing: upwards by
// the cursor of the last page, and downwards from wherever the end was.
func TestPagesWhileOthersPublish(t *testing.T) {
	id := []byte("a group of theirs")[:16]
	const up = mlsapi.SortDirection_SORT_DIRECTION_ASCENDING
	for _, limit := range []uint32{1, 3, 100} {
		t.Run(fmt.Sprint("upwards, ", limit), func(t *testing.T) {
			n, all := busy(t, id, 60)
			var seen []uint64
			for cursor := uint64(0); ; {
				page, _ := n.query(t, id, &mlsapi.PagingInfo{Direction: up, Limit: limit, IdCursor: cursor})
				if len(page) == 0 {
					break
				}
				seen = append(seen, page...)
				cursor = seen[len(seen)-1]
			}
			if !slices.Equal(seen, all()) {
				t.Errorf("read %d, published %d", seen, all())
			}
		})
		t.Run(fmt.Sprint("downwards, ", limit), func(t *testing.T) {
			n, all := busy(t, id, 60)
			for range 10 {
				var seen []uint64
				for cursor := uint64(0); ; {
					page, info := n.query(t, id, &mlsapi.PagingInfo{Limit: limit, IdCursor: cursor})
					seen = append(seen, page...)
					if cursor = info.GetIdCursor(); cursor == 0 {
						break
					}
				}
				slices.Reverse(seen)
				if known := all(); !slices.Equal(seen, known[:len(seen)]) {
					t.Fatalf("read %d of %d", seen, known)
				}
			}
		})
	}
}

// The newest message of a group is one below which nothing is missing.
func TestNewestWhileOthersPublish(t *testing.T) {
	id := []byte("a group of theirs")[:16]
	n, all := busy(t, id, 30)
	for range 20 {
		r, err := n.node.GetNewestGroupMessage(t.Context(), &mlsapi.GetNewestGroupMessageRequest{GroupIds: [][]byte{id}})
		if err != nil {
			t.Fatal(err)
		}
		newest := r.GetResponses()[0].GetGroupMessage().GetV1().GetId()
		if !slices.Contains(all(), newest) {
			t.Fatalf("newest is %d of %d", newest, all())
		}
	}
}

// A subscription from a cursor brings what comes while it is opened, once.
func TestSubscribeWhileOthersPublish(t *testing.T) {
	id := []byte("a group of theirs")[:16]
	for _, quiet := range []bool{true, false} { // whether the cursor is at the end when it begins
		t.Run(fmt.Sprint("quiet ", quiet), func(t *testing.T) {
			n, all := busy(t, id, 10)
			cursor := all()[0]
			if quiet {
				cursor = all()[2]
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var seen []uint64
			end := uint64(0)
			ctx = node.WithOpened(ctx, func() error {
				end = put(t, n, id, false, sealed(t, id, application, "the end"))
				return nil
			})
			err := n.node.SubscribeGroupMessages(ctx, &mlsapi.SubscribeGroupMessagesRequest{
				Filters: []*mlsapi.SubscribeGroupMessagesRequest_Filter{{GroupId: id, IdCursor: cursor}},
			}, func(m *mlsapi.GroupMessage) error {
				if m.GetV1().GetId() == end {
					cancel()
					return nil
				}
				seen = append(seen, m.GetV1().GetId())
				return nil
			})
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			want := all()
			if want = want[slices.Index(want, cursor)+1:]; !slices.Equal(seen, want) || len(want) == 0 {
				t.Errorf("brought %d, want %d", seen, want)
			}
		})
	}
}
