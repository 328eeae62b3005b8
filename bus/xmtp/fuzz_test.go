package xmtp

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// B6: whatever a network answers, what comes out of it is of the log that was
// asked for, in order, and can be read by a host.
func FuzzAnswers(f *testing.F) {
	group, installation := bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{2}, 32)
	seed := func(m proto.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint64(0), true)
		f.Add(b, uint64(9), false)
	}
	entry := func(id uint64, data []byte) *mlsapi.GroupMessage {
		return &mlsapi.GroupMessage{Version: &mlsapi.GroupMessage_V1_{V1: &mlsapi.GroupMessage_V1{Id: id, CreatedNs: 1 << 63, GroupId: group, Data: data}}}
	}
	seed(&mlsapi.QueryGroupMessagesResponse{
		Messages:   []*mlsapi.GroupMessage{entry(1, []byte{0, 1, 0, 2}), entry(2, nil), {}},
		PagingInfo: &mlsapi.PagingInfo{IdCursor: 2},
	})
	seed(&mlsapi.QueryWelcomeMessagesResponse{Messages: []*mlsapi.WelcomeMessage{
		{Version: &mlsapi.WelcomeMessage_V1_{V1: &mlsapi.WelcomeMessage_V1{Id: 3, InstallationKey: installation}}},
		{Version: &mlsapi.WelcomeMessage_WelcomePointer_{WelcomePointer: &mlsapi.WelcomeMessage_WelcomePointer{Id: 2, InstallationKey: installation}}},
	}})
	f.Fuzz(func(t *testing.T, answer []byte, cursor uint64, ascending bool) {
		asked := &mlsapi.PagingInfo{Direction: mlsapi.SortDirection_SORT_DIRECTION_DESCENDING, Limit: 3, IdCursor: cursor}
		if ascending {
			asked.Direction = mlsapi.SortDirection_SORT_DIRECTION_ASCENDING
		}
		check := func(l logID, p page, err error) {
			last := bus.ID(cursor)
			for _, e := range p.envelopes {
				if logOf(e.Topic) != l || e.ID == 0 || ascending && e.ID <= last || !ascending && last != 0 && e.ID >= last {
					t.Fatalf("%+v after %d", e, last)
				}
				last = e.ID
			}
			if err != nil && len(p.envelopes) > 0 || p.more && len(p.envelopes) == 0 {
				t.Fatalf("%+v, %v", p, err)
			}
		}
		messages := new(mlsapi.QueryGroupMessagesResponse)
		if proto.Unmarshal(answer, messages) == nil {
			l := logID{id: string(group)}
			p, err := readPage(l, asked, messages.GetMessages(), messages.GetPagingInfo(), groupEnvelope)
			check(l, p, err)
		}
		welcomes := new(mlsapi.QueryWelcomeMessagesResponse)
		if proto.Unmarshal(answer, welcomes) == nil {
			l := logID{welcomes: true, id: string(installation)}
			p, err := readPage(l, asked, welcomes.GetMessages(), welcomes.GetPagingInfo(), welcomeEnvelope)
			check(l, p, err)
		}
	})
}
