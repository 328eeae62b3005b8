package node_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// put publishes to a group's topics as a host does, past the node.
func put(t testing.TB, b bus.Bus, id []byte, commits bool, payload []byte) uint64 {
	t.Helper()
	build := bus.MessagesOf
	if commits {
		build = bus.CommitsOf
	}
	topic, err := build(id)
	if err != nil {
		t.Fatal(err)
	}
	ack, err := b.Publish(t.Context(), topic, payload)
	if err != nil {
		t.Fatal(err)
	}
	return uint64(ack.ID)
}

func (n *network) query(t testing.TB, id []byte, p *mlsapi.PagingInfo) ([]uint64, *mlsapi.PagingInfo) {
	t.Helper()
	r, err := n.node.QueryGroupMessages(t.Context(), &mlsapi.QueryGroupMessagesRequest{GroupId: id, PagingInfo: p})
	if err != nil {
		t.Fatal(err)
	}
	ids := []uint64{}
	for _, m := range r.GetMessages() {
		ids = append(ids, m.GetV1().GetId())
	}
	return ids, r.GetPagingInfo()
}

// pageOf is what a page has to be, of all ids in rising order.
func pageOf(all []uint64, p *mlsapi.PagingInfo) (ids []uint64, info *mlsapi.PagingInfo) {
	limit := p.GetLimit()
	if limit < 1 || limit > 100 {
		limit = 100
	}
	info = &mlsapi.PagingInfo{Direction: p.GetDirection(), Limit: limit}
	ids = slices.Clone(all)
	if p.GetDirection() != mlsapi.SortDirection_SORT_DIRECTION_ASCENDING {
		info.Direction = mlsapi.SortDirection_SORT_DIRECTION_DESCENDING
		slices.Reverse(ids)
	}
	ids = slices.DeleteFunc(ids, func(id uint64) bool {
		switch {
		case p.GetIdCursor() == 0:
			return false
		case info.Direction == mlsapi.SortDirection_SORT_DIRECTION_ASCENDING:
			return id <= p.GetIdCursor()
		default:
			return id >= p.GetIdCursor()
		}
	})
	if len(ids) >= int(limit) {
		ids = ids[:limit]
		info.IdCursor = ids[limit-1]
	}
	return ids, info
}

// R7, C2: pages are those of a plain list, whatever else lies in the log: other groups'
// messages, junk, and stretches without anything. Junk takes nobody's place.
func TestPagesAreThoseOfAList(t *testing.T) {
	n := newNetwork(t, memory.Config{Shards: 2}, node.Limits{})
	random := rand.New(rand.NewPCG(3, 14))
	own, other := id16(1), id16(2)
	var all []uint64
	for i := range 1500 {
		valid := group.EncodeGroupMessage(private(own, application, fmt.Sprint(i)), nil, false)
		switch stretch := i / 250; {
		case stretch == 2 || random.IntN(3) == 0:
			put(t, n, other, i%2 == 0, group.EncodeGroupMessage(private(other, commit, fmt.Sprint(i)), nil, false))
		case stretch == 4 || random.IntN(4) == 0:
			junk := [][]byte{
				fmt.Appendf(nil, "\xff junk %d", i),
				nil,
				group.EncodeGroupMessage(fmt.Appendf(nil, "not MLS %d", i), nil, false),
				group.EncodeGroupMessage(private(other, commit, fmt.Sprint(i)), nil, false), // of another group
				valid[:len(valid)-1],
			}
			put(t, n, own, random.IntN(2) == 0, junk[random.IntN(len(junk))])
		default:
			all = append(all, put(t, n, own, random.IntN(2) == 0, valid))
		}
	}
	check := func(p *mlsapi.PagingInfo) {
		t.Helper()
		ids, info := n.query(t, own, p)
		wantIDs, wantInfo := pageOf(all, p)
		if !slices.Equal(ids, wantIDs) || info.String() != wantInfo.String() {
			t.Errorf("page %v:\n%v %v, want\n%v %v", p, ids, info, wantIDs, wantInfo)
		}
	}
	last := all[len(all)-1]
	for direction := range mlsapi.SortDirection(3) {
		check(nil)
		for _, limit := range []uint32{0, 1, 2, 99, 100, 101, math.MaxUint32} {
			for _, cursor := range []uint64{0, 1, 63, 64, 65, all[0], all[0] + 1, all[100], last - 1, last, last + 1} {
				check(&mlsapi.PagingInfo{Direction: direction, Limit: limit, IdCursor: cursor})
			}
		}
		for range 200 {
			check(&mlsapi.PagingInfo{Direction: direction, Limit: uint32(1 + random.IntN(100)), IdCursor: random.Uint64N(last + 2)})
		}
	}
	// Downwards a cursor above everything is above everything.
	check(&mlsapi.PagingInfo{IdCursor: math.MaxUint64})
	// Upwards it is a position that this log never had: another log's.
	_, err := n.node.QueryGroupMessages(t.Context(), &mlsapi.QueryGroupMessagesRequest{GroupId: own, PagingInfo: ascending(math.MaxUint64)})
	wantCode(t, err, bus.CodeUnavailable)
}

// A client stops at the first page that is not full: those before must be.
func TestPagesToTheEnd(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	for i := range 300 {
		if err := n.send(t.Context(), private(id16(1), byte(1+i%3), fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	cursor := uint64(0)
	for _, want := range []int{100, 100, 100, 0} {
		ids, info := n.query(t, id16(1), ascending(cursor))
		if len(ids) != want || (info.GetIdCursor() == 0) != (want < 100) {
			t.Fatalf("a page of %d, %v; want %d", len(ids), info, want)
		}
		cursor = info.GetIdCursor()
	}
}

func TestQueriesOfBadIDsAreInvalid(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	for _, id := range [][]byte{nil, {}, id16(1)[:15], append(id16(1), 0), make([]byte, 1<<16)} {
		_, err := n.node.QueryGroupMessages(t.Context(), &mlsapi.QueryGroupMessagesRequest{GroupId: id})
		wantCode(t, err, bus.CodeInvalid)
		_, err = n.node.QueryWelcomeMessages(t.Context(), &mlsapi.QueryWelcomeMessagesRequest{InstallationKey: id})
		wantCode(t, err, bus.CodeInvalid)
	}
	if ids, info := n.query(t, id16(1), nil); len(ids) != 0 || info.GetIdCursor() != 0 {
		t.Errorf("an unknown group has %v, %v", ids, info)
	}
}

// B9: a page ends below what a client accepts as one answer, and says where to read
// on; nothing is lost, and no message is too large for a page.
func TestPagesOfLargeMessages(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	var all []uint64
	for i := range 40 {
		size := 2<<20 - 100
		if i%4 == 3 {
			size = 10
		}
		data := private(id16(1), application, fmt.Sprint(i)+strings.Repeat("x", size))
		all = append(all, put(t, n, id16(1), false, group.EncodeGroupMessage(data, nil, false)))
	}
	for _, direction := range []mlsapi.SortDirection{mlsapi.SortDirection_SORT_DIRECTION_ASCENDING, mlsapi.SortDirection_SORT_DIRECTION_DESCENDING} {
		var got []uint64
		for p := (&mlsapi.PagingInfo{Direction: direction}); ; {
			ids, info := n.query(t, id16(1), p)
			if len(ids) > 12 || len(ids) == 0 {
				t.Fatalf("a page of %d", len(ids))
			}
			got = append(got, ids...)
			if p.IdCursor = info.GetIdCursor(); p.IdCursor == 0 {
				break
			}
		}
		if direction == mlsapi.SortDirection_SORT_DIRECTION_DESCENDING {
			slices.Reverse(got)
		}
		if !slices.Equal(got, all) {
			t.Errorf("%v: got %v, want %v", direction, got, all)
		}
	}
}

// A counting bus knows how many envelopes were read from it.
type counting struct {
	bus.Bus
	read atomic.Int64
}

func (c *counting) Read(ctx context.Context, after bus.ID, limit int, topics ...bus.Topic) ([]bus.Envelope, error) {
	got, err := c.Bus.Read(ctx, after, limit, topics...)
	c.read.Add(int64(len(got)))
	return got, err
}

// What clients really ask for, downwards, reads one envelope however much there
// is; behind junk it is still found.
func TestNewestOfALongGroup(t *testing.T) {
	counted := new(counting)
	n := serveOn(t, memory.New(memory.Config{}), func(b bus.Bus) bus.Bus {
		counted.Bus = b
		return counted
	}, node.Limits{})
	var last uint64
	for i := range 2000 {
		last = put(t, n, id16(1), i%2 == 0, group.EncodeGroupMessage(private(id16(1), application, fmt.Sprint(i)), nil, false))
	}
	ids, info := n.query(t, id16(1), &mlsapi.PagingInfo{Limit: 1})
	if !slices.Equal(ids, []uint64{last}) || info.GetIdCursor() != last {
		t.Errorf("got %v %v, want %d", ids, info, last)
	}
	if n.newest(t, false, id16(1)); counted.read.Load() != 2 {
		t.Errorf("%d envelopes were read for two", counted.read.Load())
	}
	put(t, n, id16(1), true, []byte("junk"))
	if ids, _ := n.query(t, id16(1), &mlsapi.PagingInfo{Limit: 1}); !slices.Equal(ids, []uint64{last}) {
		t.Errorf("behind junk: %v, want %d", ids, last)
	}
	if got := n.newest(t, false, id16(1)); got[0].GetGroupMessage().GetV1().GetId() != last {
		t.Errorf("behind junk: %v, want %d", got, last)
	}
}
