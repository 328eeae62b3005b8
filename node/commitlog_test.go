package node_test

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

func entry(group []byte, text string) *mlsapi.PublishCommitLogRequest {
	return &mlsapi.PublishCommitLogRequest{
		GroupId: group, SerializedCommitLogEntry: []byte(text),
		Signature: &associations.RecoverableEd25519Signature{Bytes: make([]byte, 64), PublicKey: make([]byte, 32)},
	}
}

func (n *network) queryLogs(t testing.TB, queries ...*mlsapi.QueryCommitLogRequest) []*mlsapi.QueryCommitLogResponse {
	t.Helper()
	r, err := n.QueryCommitLog(t.Context(), queries)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What is published for many groups is read in the order asked, page by page,
// in any number of requests, with the groups' ids.
func TestCommitLog(t *testing.T) {
	n := newNetwork(t, memory.Config{Shards: 4}, node.Limits{})
	var entries []*mlsapi.PublishCommitLogRequest
	for i := range 250 {
		entries = append(entries, entry(id16(0), fmt.Sprint("long ", i)))
	}
	for g := range 49 {
		entries = append(entries, entry(id16(g+1), fmt.Sprint("of ", g+1)))
	}
	if err := n.PublishCommitLog(t.Context(), entries); err != nil {
		t.Fatal(err)
	}
	var queries []*mlsapi.QueryCommitLogRequest
	for g := range 51 {
		queries = append(queries, &mlsapi.QueryCommitLogRequest{GroupId: id16(g), PagingInfo: ascending(0)})
	}
	responses := n.queryLogs(t, queries...)
	if len(responses) != len(queries) {
		t.Fatalf("%d answers to %d questions", len(responses), len(queries))
	}
	for g, r := range responses {
		if !bytes.Equal(r.GetGroupId(), id16(g)) {
			t.Errorf("answer %d is of group %q", g, r.GetGroupId())
		}
		want := 1
		switch g {
		case 0:
			want = 100
		case 50:
			want = 0
		}
		if got := r.GetCommitLogEntries(); len(got) != want {
			t.Errorf("group %d: %d entries", g, len(got))
		} else if want == 1 && (string(got[0].GetSerializedCommitLogEntry()) != fmt.Sprint("of ", g) || !proto.Equal(got[0].GetSignature(), entries[0].GetSignature())) {
			t.Errorf("group %d: %v", g, got[0])
		}
	}
	cursor, read := uint64(0), 0
	for _, want := range []int{100, 100, 50} {
		r := n.queryLogs(t, &mlsapi.QueryCommitLogRequest{GroupId: id16(0), PagingInfo: &mlsapi.PagingInfo{IdCursor: cursor, Limit: math.MaxUint32}})[0]
		info := r.GetPagingInfo()
		if len(r.GetCommitLogEntries()) != want || info.GetDirection() != mlsapi.SortDirection_SORT_DIRECTION_ASCENDING || info.GetLimit() != 100 {
			t.Fatalf("%d entries, want %d, %v", len(r.GetCommitLogEntries()), want, info)
		}
		for _, e := range r.GetCommitLogEntries() {
			if e.GetSequenceId() <= cursor || string(e.GetSerializedCommitLogEntry()) != fmt.Sprint("long ", read) {
				t.Fatalf("entry %d is %v", read, e)
			}
			cursor = e.GetSequenceId()
			read++
		}
		if (info.GetIdCursor() == cursor) != (want == 100) {
			t.Errorf("a page of %d says %v", want, info)
		}
	}
	if got := n.messages(t, id16(0)); len(got) != 0 {
		t.Errorf("the commit log is served as %d messages", len(got))
	}
}

func TestBadCommitLogEntriesAreRefused(t *testing.T) {
	n := newNetwork(t, memory.Config{Shards: 4}, node.Limits{})
	unsigned := func(edit func(*associations.RecoverableEd25519Signature)) *mlsapi.PublishCommitLogRequest {
		e := entry(id16(1), "e")
		edit(e.Signature)
		return e
	}
	for name, bad := range map[string]*mlsapi.PublishCommitLogRequest{
		"nil":             nil,
		"no group":        entry(nil, "e"),
		"group of 32":     entry(id32(1), "e"),
		"no entry":        entry(id16(1), ""),
		"too large":       entry(id16(1), string(make([]byte, 2049))),
		"no signature":    {GroupId: id16(1), SerializedCommitLogEntry: []byte("e")},
		"empty signature": unsigned(func(s *associations.RecoverableEd25519Signature) { s.Bytes = nil }),
		"short key":       unsigned(func(s *associations.RecoverableEd25519Signature) { s.PublicKey = s.PublicKey[1:] }),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := n.node.BatchPublishCommitLog(t.Context(), &mlsapi.BatchPublishCommitLogRequest{
				Requests: []*mlsapi.PublishCommitLogRequest{entry(id16(1), "good"), bad},
			})
			wantCode(t, err, bus.CodeInvalid)
		})
	}
	for _, count := range []int{0, 11} {
		request := new(mlsapi.BatchPublishCommitLogRequest)
		for i := range count {
			request.Requests = append(request.Requests, entry(id16(i), "e"))
		}
		_, err := n.node.BatchPublishCommitLog(t.Context(), request)
		wantCode(t, err, bus.CodeInvalid)
	}
	nothingStored(t, n.Bus)
}

func TestBadCommitLogQueriesAreRefused(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	many := make([]*mlsapi.QueryCommitLogRequest, 21)
	for i := range many {
		many[i] = &mlsapi.QueryCommitLogRequest{GroupId: id16(i)}
	}
	for name, queries := range map[string][]*mlsapi.QueryCommitLogRequest{
		"none":       nil,
		"21":         many,
		"nil":        {nil},
		"no group":   {{GroupId: id16(1)}, {}},
		"bad group":  {{GroupId: id32(1)}},
		"descending": {{GroupId: id16(1), PagingInfo: &mlsapi.PagingInfo{Direction: mlsapi.SortDirection_SORT_DIRECTION_DESCENDING}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := n.node.BatchQueryCommitLog(t.Context(), &mlsapi.BatchQueryCommitLogRequest{Requests: queries})
			wantCode(t, err, bus.CodeInvalid)
		})
	}
}

// R7: junk in a commit log's topic is passed over; full pages of the largest entries
// fit into one answer of the bus.
func TestCommitLogPagesAreFull(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	var queries []*mlsapi.QueryCommitLogRequest
	for g := range 20 {
		topic, err := bus.CommitLogOf(id16(g))
		if err != nil {
			t.Fatal(err)
		}
		var entries []*mlsapi.PublishCommitLogRequest
		for i := range 100 {
			if _, err := n.Publish(t.Context(), topic, fmt.Appendf(nil, "junk %d", i)); err != nil {
				t.Fatal(err)
			}
			entries = append(entries, entry(id16(g), fmt.Sprintf("%02048d", i)))
		}
		if err := n.PublishCommitLog(t.Context(), entries); err != nil {
			t.Fatal(err)
		}
		queries = append(queries, &mlsapi.QueryCommitLogRequest{GroupId: id16(g)})
	}
	for g, r := range n.queryLogs(t, queries...) {
		if len(r.GetCommitLogEntries()) != 100 {
			t.Errorf("group %d: a page of %d", g, len(r.GetCommitLogEntries()))
		}
	}
}
