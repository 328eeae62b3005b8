package node_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

const day = 24 * time.Hour

// noting starts a node that notes who reads what, for a hundred days.
func noting(t *testing.T, b *memory.Bus) *network {
	t.Helper()
	n, err := node.Serve(t.Context(), b, node.Config{Verifier: ethereum.Verifier{}, Retention: node.Retention{Unread: 100 * day}})
	if err != nil {
		t.Fatal(err)
	}
	return &network{b, node.NewClient(b), n}
}

// pass lets days go by.
func pass(days int) {
	<-time.After(time.Duration(days) * day)
	synctest.Wait()
}

// unread counts what a log holds of groups 1 to most, and returns those that nobody
// reads.
func unread(t *testing.T, b bus.Bus, most int) (groups []int, holdings []node.Holding, err error) {
	t.Helper()
	var census node.Census
	for g := 1; g <= most; g++ {
		for _, of := range []func([]byte) (bus.Topic, error){bus.CommitsOf, bus.MessagesOf, bus.CommitLogOf, bus.ReadsOf} {
			topic, err := of(id16(g))
			if err != nil {
				t.Fatal(err)
			}
			got, err := b.Read(t.Context(), 0, 1000, topic)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range got {
				census.Add(e.ID, e.Topic, e.Time, int64(len(e.Payload)))
			}
		}
	}
	holdings, _, err = census.Unread(t.Context(), b, time.Now())
	for _, h := range holdings {
		for g := 1; g <= most; g++ {
			if string(h.Group[:]) == string(id16(g)) {
				groups = append(groups, g)
			}
		}
	}
	return groups, holdings, err
}

// A group is read while somebody queries it, asks for its newest message or its
// commit log, or has a subscription open; it is in use while somebody writes to it.
// Of all others the log says, after the time for which it keeps that, that nobody
// reads them.
func TestGroupsThatNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Config{})
		defer b.Close()
		n := noting(t, b)
		defer n.node.Close()
		const queried, asked, compared, subscribed, written, junk, nothing = 1, 2, 3, 4, 5, 6, 7
		for g := queried; g <= junk; g++ {
			if err := n.send(t.Context(), private(id16(g), commit, "adds somebody")); err != nil {
				t.Fatal(err)
			}
		}
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			left <- n.node.SubscribeGroupMessages(ctx, &mlsapi.SubscribeGroupMessagesRequest{
				Filters: []*mlsapi.SubscribeGroupMessagesRequest_Filter{{GroupId: id16(subscribed)}},
			}, func(*mlsapi.GroupMessage) error { return nil })
		}()
		for range 11 {
			if _, _, err := unread(t, b, nothing); !errors.Is(err, node.ErrNotWatched) {
				t.Fatalf("before anybody can know: %v", err)
			}
			n.messages(t, id16(queried))
			n.messages(t, id16(nothing))
			_, err := n.node.GetNewestGroupMessage(t.Context(), &mlsapi.GetNewestGroupMessageRequest{GroupIds: [][]byte{id16(asked)}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := n.QueryCommitLog(t.Context(), []*mlsapi.QueryCommitLogRequest{{GroupId: id16(compared)}}); err != nil {
				t.Fatal(err)
			}
			pass(9)
		}
		if err := n.send(t.Context(), private(id16(written), commit, "is alone there")); err != nil {
			t.Fatal(err)
		}
		pass(2)
		groups, holdings, err := unread(t, b, nothing)
		if err != nil || len(groups) != 1 || groups[0] != junk {
			t.Fatalf("nobody reads %v, %v; want %d", groups, err, junk)
		}
		if h := holdings[0]; h.Entries != 1 || h.Bytes < 256 || h.Newest != h.Oldest || time.Since(h.Newest) < 100*day {
			t.Errorf("it holds %+v", h)
		}
		if topics, last, err := holdings[0].Topics(t.Context(), b); err != nil || len(topics) != 3 || last == 0 {
			t.Errorf("to delete: %v, %v, %v", topics, last, err)
		}
		if reads, err := bus.ReadsOf(id16(nothing)); err != nil {
			t.Error(err)
		} else if ends, err := b.Last(t.Context(), reads); err != nil || ends[0] != 0 {
			t.Errorf("a note of a group that holds nothing: %v, %v", ends, err)
		}

		// Somebody comes back at the last moment.
		n.messages(t, id16(junk))
		synctest.Wait()
		if _, _, err := holdings[0].Topics(t.Context(), b); !errors.Is(err, node.ErrInUse) {
			t.Errorf("to delete what is read: %v", err)
		}
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		// Those who had read all along go too, and so does the subscription.
		pass(101)
		if groups, _, err := unread(t, b, nothing); err != nil || len(groups) != 6 {
			t.Errorf("nobody reads %v, %v; want all six", groups, err)
		}
	})
}

// Time without a node is no time in which nobody reads.
func TestTheWatchOverReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Config{})
		defer b.Close()
		watched := func(want bool, when string) {
			t.Helper()
			_, _, err := unread(t, b, 1)
			if err != nil && !errors.Is(err, node.ErrNotWatched) || (err == nil) != want {
				t.Errorf("%s: %v", when, err)
			}
		}
		watched(false, "before there was a node")
		n := noting(t, b)
		pass(60)
		n.node.Close()
		pass(3)
		n = noting(t, b)
		pass(38)
		watched(true, "after a hundred days with an outage of three")
		n.node.Close()
		pass(8)
		watched(false, "after a week without a node")
		n = noting(t, b)
		pass(99)
		watched(false, "99 days later")
		pass(2)
		watched(true, "a hundred days later")
		n.node.Close()

		other, err := node.Serve(t.Context(), b, node.Config{Verifier: ethereum.Verifier{}, Retention: node.Retention{Unread: 200 * day}})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		pass(101)
		watched(false, "where notes are kept for longer now")
	})
}
