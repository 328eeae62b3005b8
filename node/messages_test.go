package node_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/contents"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// Content types of RFC 9420.
const (
	application = 1
	proposal    = 2
	commit      = 3
)

const (
	curve25519   = contents.WelcomeWrapperAlgorithm_WELCOME_WRAPPER_ALGORITHM_CURVE25519
	symmetricKey = contents.WelcomeWrapperAlgorithm_WELCOME_WRAPPER_ALGORITHM_SYMMETRIC_KEY
	xwingPointer = contents.WelcomePointerWrapperAlgorithm_WELCOME_POINTER_WRAPPER_ALGORITHM_XWING_MLKEM_768_DRAFT_6
)

// vector is opaque data<V>.
func vector(b []byte) []byte {
	switch n := len(b); {
	case n < 1<<6:
		return append([]byte{byte(n)}, b...)
	case n < 1<<14:
		return append(binary.BigEndian.AppendUint16(nil, 1<<14|uint16(n)), b...)
	default:
		return append(binary.BigEndian.AppendUint32(nil, 2<<30|uint32(n)), b...)
	}
}

// private is a PrivateMessage in its framing, with a ciphertext of any kind.
func private(group []byte, content byte, ciphertext string) []byte {
	b := append([]byte{0, 1, 0, 2}, vector(group)...)
	b = append(b, make([]byte, 8)...) // epoch
	b = append(b, content, 0)         // no authenticated data
	return append(append(b, vector([]byte("sender"))...), vector([]byte(ciphertext))...)
}

// publicRemove is a PublicMessage by which a member proposes to remove a leaf.
func publicRemove(group []byte) []byte {
	b := append([]byte{0, 1, 0, 1}, vector(group)...)
	b = append(b, make([]byte, 8)...)
	b = append(b, 1, 0, 0, 0, 0, 0, proposal, 0, 3, 0, 0, 0, 1)
	return append(append(b, vector([]byte("signature"))...), vector([]byte("tag"))...)
}

func input(data []byte) *mlsapi.GroupMessageInput {
	return &mlsapi.GroupMessageInput{Version: &mlsapi.GroupMessageInput_V1_{V1: &mlsapi.GroupMessageInput_V1{
		Data: data, SenderHmac: bytes.Repeat([]byte{7}, 32), ShouldPush: true,
	}}}
}

func welcome(v1 *mlsapi.WelcomeMessageInput_V1) *mlsapi.WelcomeMessageInput {
	return &mlsapi.WelcomeMessageInput{Version: &mlsapi.WelcomeMessageInput_V1_{V1: v1}}
}

func pointer(p *mlsapi.WelcomeMessageInput_WelcomePointer) *mlsapi.WelcomeMessageInput {
	return &mlsapi.WelcomeMessageInput{Version: &mlsapi.WelcomeMessageInput_WelcomePointer_{WelcomePointer: p}}
}

// id16 and id32 are ids of a group and of an installation.
func id16(n int) []byte { return fmt.Appendf(nil, "%016d", n) }
func id32(n int) []byte { return fmt.Appendf(nil, "%032d", n) }

func (n *network) send(ctx context.Context, data ...[]byte) error {
	request := new(mlsapi.SendGroupMessagesRequest)
	for _, d := range data {
		request.Messages = append(request.Messages, input(d))
	}
	_, err := n.node.SendGroupMessages(ctx, request)
	return err
}

func (n *network) sendWelcomes(ctx context.Context, welcomes ...*mlsapi.WelcomeMessageInput) error {
	_, err := n.node.SendWelcomeMessages(ctx, &mlsapi.SendWelcomeMessagesRequest{Messages: welcomes})
	return err
}

func ascending(cursor uint64) *mlsapi.PagingInfo {
	return &mlsapi.PagingInfo{Direction: mlsapi.SortDirection_SORT_DIRECTION_ASCENDING, IdCursor: cursor}
}

// messages are all of a group, as a client reads them.
func (n *network) messages(t testing.TB, group []byte) (all []*mlsapi.GroupMessage_V1) {
	t.Helper()
	for cursor := uint64(0); ; {
		r, err := n.node.QueryGroupMessages(t.Context(), &mlsapi.QueryGroupMessagesRequest{GroupId: group, PagingInfo: ascending(cursor)})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range r.GetMessages() {
			all = append(all, m.GetV1())
		}
		if cursor = r.GetPagingInfo().GetIdCursor(); cursor == 0 {
			return all
		}
	}
}

func (n *network) welcomes(t testing.TB, topic []byte) []*mlsapi.WelcomeMessage {
	t.Helper()
	r, err := n.node.QueryWelcomeMessages(t.Context(), &mlsapi.QueryWelcomeMessagesRequest{InstallationKey: topic, PagingInfo: ascending(0)})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetMessages()
}

// nothingStored fails where any shard of the log has an entry.
func nothingStored(t testing.TB, b *memory.Bus) {
	t.Helper()
	for first := range 256 { // of the id: they meet every shard
		topic, err := bus.WelcomesFor(append([]byte{0, 0, 0, byte(first)}, make([]byte, 28)...))
		if err != nil {
			t.Fatal(err)
		}
		if end, err := b.End(t.Context(), topic); err != nil || end != 0 {
			t.Fatalf("the log ends at %d, %v; want nothing stored", end, err)
		}
	}
}

// What was sent comes back byte for byte, in order, under ids that are unique
// over all groups, with the time of the log, and with the commits marked.
func TestGroupMessages(t *testing.T) {
	n := newNetwork(t, memory.Config{Shards: 4}, node.Limits{})
	contentOf := []byte{commit, application, application, commit, proposal, application}
	ids := map[uint64]bool{}
	const groups = 8
	for i, content := range contentOf {
		var batch [][]byte
		for g := range groups {
			batch = append(batch, private(id16(g), content, fmt.Sprint(i)))
		}
		if err := n.send(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	for g := range groups {
		got := n.messages(t, id16(g))
		if len(got) != len(contentOf) {
			t.Fatalf("group %d has %d messages", g, len(got))
		}
		for i, m := range got {
			want := &mlsapi.GroupMessage_V1{
				Id: m.Id, CreatedNs: uint64(now.UnixNano()), GroupId: id16(g),
				Data: private(id16(g), contentOf[i], fmt.Sprint(i)), SenderHmac: bytes.Repeat([]byte{7}, 32),
				ShouldPush: true, IsCommit: contentOf[i] != application,
			}
			if !proto.Equal(m, want) {
				t.Errorf("group %d, message %d is %v", g, i, m)
			}
			if m.Id == 0 || ids[m.Id] || i > 0 && m.Id <= got[i-1].Id {
				t.Errorf("group %d, message %d has the id %d", g, i, m.Id)
			}
			ids[m.Id] = true
		}
	}
}

func TestPublicMessagesAreCarried(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	if err := n.send(t.Context(), publicRemove(id16(1))); err != nil {
		t.Fatal(err)
	}
	if got := n.messages(t, id16(1)); len(got) != 1 || !got[0].IsCommit || !bytes.Equal(got[0].Data, publicRemove(id16(1))) {
		t.Errorf("got %v", got)
	}
}

// S11, B9: of a request with one bad message nothing is stored.
func TestBadGroupMessagesAreRefused(t *testing.T) {
	const limit = 4096
	n := newNetwork(t, memory.Config{Shards: 4, MaxPayload: limit}, node.Limits{})
	good := private(id16(1), application, "good")
	for name, data := range map[string][]byte{
		"empty":            {},
		"cut":              good[:len(good)-1],
		"trailing byte":    append(bytes.Clone(good), 0),
		"other version":    append([]byte{0, 2}, good[2:]...),
		"no wire format":   {0, 1, 0, 9},
		"a Welcome":        {0, 1, 0, 3, 0, 3, 0, 0},
		"a GroupInfo":      append([]byte{0, 1, 0, 4}, good[4:]...),
		"no content type":  private(id16(1), 4, ""),
		"length too long":  append([]byte{0, 1, 0, 2, 0xbf, 0xff, 0xff, 0xff}, good[5:]...),
		"group of 0 bytes": private(nil, application, ""),
		"group of 15":      private(id16(1)[:15], application, ""),
		"group of 32":      private(id32(1), application, ""),
		"over the limit":   private(id16(1), application, strings.Repeat("x", limit)),
	} {
		t.Run(name, func(t *testing.T) {
			wantCode(t, n.send(t.Context(), good, data), bus.CodeInvalid)
		})
	}
	wantCode(t, n.send(t.Context()), bus.CodeInvalid)
	wantCode(t, n.send(t.Context(), make([][]byte, 257)...), bus.CodeInvalid)
	for _, entry := range []*mlsapi.GroupMessageInput{nil, {}} {
		_, err := n.node.SendGroupMessages(t.Context(), &mlsapi.SendGroupMessagesRequest{
			Messages: []*mlsapi.GroupMessageInput{input(good), entry},
		})
		wantCode(t, err, bus.CodeInvalid)
	}
	err := n.send(t.Context(), private(id16(1)[:15], application, ""))
	if err == nil || !strings.Contains(err.Error(), "16 bytes, not 15") {
		t.Errorf("the refusal does not say what a group id is: %v", err)
	}
	nothingStored(t, n.Bus)
}

// R1: a client that got no answer sends the same again, and it is stored once.
func TestRepeatsAreStoredOnce(t *testing.T) {
	n := newNetwork(t, memory.Config{}, node.Limits{})
	data := private(id16(1), commit, "same")
	// A field of a later version must not make the repeat look new.
	later := input(data)
	later.GetV1().ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	w := welcome(&mlsapi.WelcomeMessageInput_V1{InstallationKey: id32(1), Data: []byte("w"), HpkePublicKey: []byte("k")})
	for range 3 {
		if err := n.send(t.Context(), data, data); err != nil {
			t.Fatal(err)
		}
		if _, err := n.node.SendGroupMessages(t.Context(), &mlsapi.SendGroupMessagesRequest{Messages: []*mlsapi.GroupMessageInput{later}}); err != nil {
			t.Fatal(err)
		}
		if err := n.sendWelcomes(t.Context(), w, w); err != nil {
			t.Fatal(err)
		}
	}
	if got := n.messages(t, id16(1)); len(got) != 1 {
		t.Errorf("%d messages", len(got))
	}
	if got := n.welcomes(t, id32(1)); len(got) != 1 {
		t.Errorf("%d welcomes", len(got))
	}
}

// Messages and welcomes are forgotten in time, commits and proposals never.
func TestRetention(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		name             string
		retention        node.Retention
		after            time.Duration
		message, welcome bool // are still there
	}{
		{"default, before", node.Retention{}, 29 * day, true, true},
		{"default, after the messages'", node.Retention{}, 31 * day, false, true},
		{"default, after both", node.Retention{}, 91 * day, false, false},
		{"chosen", node.Retention{Messages: time.Hour, Welcomes: time.Minute}, 2 * time.Minute, true, false},
		{"for ever", node.Retention{Messages: -1, Welcomes: -1}, 4000 * day, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			clock := now
			b := memory.New(memory.Config{Now: func() time.Time { return clock }})
			served, err := node.Serve(t.Context(), b, node.Config{
				Verifier: ethereum.Verifier{}, Now: func() time.Time { return clock }, Retention: c.retention,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			defer served.Close()
			n := &network{b, node.NewClient(b), served}
			if err := n.send(t.Context(), private(id16(1), commit, ""), private(id16(1), application, ""), publicRemove(id16(1))); err != nil {
				t.Fatal(err)
			}
			if err := n.sendWelcomes(t.Context(), welcome(&mlsapi.WelcomeMessageInput_V1{InstallationKey: id32(1), Data: []byte("w"), HpkePublicKey: []byte("k")})); err != nil {
				t.Fatal(err)
			}
			clock = now.Add(c.after)
			want := 2
			if c.message {
				want++
			}
			if got := n.messages(t, id16(1)); len(got) != want {
				t.Errorf("%d messages, want %d", len(got), want)
			}
			if got := n.welcomes(t, id32(1)); (len(got) == 1) != c.welcome {
				t.Errorf("%d welcomes", len(got))
			}
		})
	}
}

// captured are the files that real clients' bytes were written to.
func captured(t *testing.T, glob string) (files [][]byte) {
	t.Helper()
	dir := os.Getenv("CONCLAVE_VECTORS")
	if dir == "" {
		t.Skip("CONCLAVE_VECTORS is not set (official files: github.com/mlswg/mls-implementations test-vectors; these lie beside them in xmtp/)")
	}
	paths, err := filepath.Glob(filepath.Join(dir, "xmtp", glob))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no %s: %v", glob, err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, b)
	}
	return files
}

// What real clients send is accepted, and comes back byte for byte.
func TestRealMessages(t *testing.T) {
	n := newNetwork(t, memory.Config{Shards: 4}, node.Limits{})
	files := captured(t, "gm_*.bin")
	for _, data := range files {
		if err := n.send(t.Context(), data); err != nil {
			t.Fatal(err)
		}
		got := n.messages(t, data[5:21])
		if last := got[len(got)-1]; !bytes.Equal(last.Data, data) {
			t.Error("a message came back in other bytes")
		}
	}
	t.Logf("%d messages", len(files))
}

// newest asks for the newest message of groups.
func (n *network) newest(t testing.TB, content bool, groups ...[]byte) []*mlsapi.GetNewestGroupMessageResponse_Response {
	t.Helper()
	r, err := n.node.GetNewestGroupMessage(t.Context(), &mlsapi.GetNewestGroupMessageRequest{GroupIds: groups, IncludeContent: content})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetResponses()
}

func TestNewestGroupMessage(t *testing.T) {
	n := newNetwork(t, memory.Config{Shards: 4}, node.Limits{})
	var groups [][]byte
	for g := range 500 {
		groups = append(groups, id16(g))
		if g%3 == 0 {
			continue // has none
		}
		last := byte(application)
		if g%3 == 2 {
			last = commit
		}
		if err := n.send(t.Context(), private(id16(g), commit, "first"), private(id16(g), last, "last")); err != nil {
			t.Fatal(err)
		}
	}
	groups = append(groups, groups[1]) // asked twice
	for _, content := range []bool{false, true} {
		got := n.newest(t, content, groups...)
		if len(got) != len(groups) {
			t.Fatalf("%d answers to %d questions", len(got), len(groups))
		}
		for i, r := range got {
			all := n.messages(t, groups[i])
			if len(all) == 0 {
				if r.GroupMessage != nil {
					t.Errorf("group %d: %v, want nothing", i, r)
				}
				continue
			}
			want := all[len(all)-1]
			if !content {
				want = &mlsapi.GroupMessage_V1{Id: want.Id, CreatedNs: want.CreatedNs, GroupId: want.GroupId, IsCommit: want.IsCommit}
			}
			if !proto.Equal(r.GetGroupMessage().GetV1(), want) {
				t.Errorf("group %d: %v", i, r)
			}
		}
	}
	for _, bad := range [][][]byte{nil, {id16(1), nil}, {id16(1), id32(1)}, make([][]byte, 1001)} {
		_, err := n.node.GetNewestGroupMessage(t.Context(), &mlsapi.GetNewestGroupMessageRequest{GroupIds: bad})
		wantCode(t, err, bus.CodeInvalid)
	}
	// Too much at a time is said, and is there in halves.
	for g := range 10 {
		if err := n.send(t.Context(), private(groups[g], application, strings.Repeat("x", 2<<20-100))); err != nil {
			t.Fatal(err)
		}
	}
	_, err := n.node.GetNewestGroupMessage(t.Context(), &mlsapi.GetNewestGroupMessageRequest{GroupIds: groups[:10], IncludeContent: true})
	wantCode(t, err, bus.CodeTooLarge)
	if got := n.newest(t, true, groups[:5]...); len(got) != 5 {
		t.Errorf("%d of 5", len(got))
	}
}

// The same promises on the real log: many who send at once to many groups, pages
// in both directions that agree, repeats stored once.
func TestMessagesOnJetStream(t *testing.T) {
	n := onJetStream(t, openJetStream(t))
	const groups, each = 4, 130
	var g errgroup.Group
	for i := range groups {
		g.Go(func() error {
			for k := range each {
				data := private(id16(i), byte(1+2*(k%2)), fmt.Sprint(k)) // application, commit, application, …
				if err := errors.Join(n.send(t.Context(), data), n.send(t.Context(), data)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	for i := range groups {
		all := n.messages(t, id16(i))
		if len(all) != each {
			t.Fatalf("group %d has %d messages", i, len(all))
		}
		var up []uint64
		for k, m := range all {
			if seen[m.Id] || !bytes.Equal(m.Data, private(id16(i), byte(1+2*(k%2)), fmt.Sprint(k))) || m.IsCommit != (k%2 == 1) {
				t.Fatalf("group %d, message %d is %v", i, k, m)
			}
			seen[m.Id] = true
			up = append(up, m.Id)
		}
		for _, p := range []*mlsapi.PagingInfo{nil, {Limit: 1}, {IdCursor: up[110]}, {IdCursor: up[3]}, ascending(up[29]), ascending(up[30]), ascending(up[each-1])} {
			ids, info := n.query(t, id16(i), p)
			wantIDs, wantInfo := pageOf(up, p)
			if !slices.Equal(ids, wantIDs) || !proto.Equal(info, wantInfo) {
				t.Errorf("page %v: %v %v", p, ids, info)
			}
		}
		if got := n.newest(t, true, id16(99), id16(i)); got[0].GroupMessage != nil || !proto.Equal(got[1].GetGroupMessage().GetV1(), all[each-1]) {
			t.Errorf("newest of group %d: %v", i, got)
		}
	}
	if err := n.sendWelcomes(t.Context(), welcome(&mlsapi.WelcomeMessageInput_V1{InstallationKey: id32(1), Data: []byte("w"), HpkePublicKey: []byte("k")})); err != nil {
		t.Fatal(err)
	}
	if got := n.welcomes(t, id32(1)); len(got) != 1 {
		t.Errorf("%d welcomes", len(got))
	}
	if err := n.PublishCommitLog(t.Context(), []*mlsapi.PublishCommitLogRequest{entry(id16(1), "a"), entry(id16(1), "b")}); err != nil {
		t.Fatal(err)
	}
	if got := n.queryLogs(t, &mlsapi.QueryCommitLogRequest{GroupId: id16(1)}); len(got[0].GetCommitLogEntries()) != 2 {
		t.Errorf("commit log %v", got)
	}
	_, err := n.node.QueryGroupMessages(t.Context(), &mlsapi.QueryGroupMessagesRequest{GroupId: id16(1), PagingInfo: ascending(1 << 60)})
	wantCode(t, err, bus.CodeUnavailable)
}

// B11: on the real log messages and welcomes are forgotten when their time is
// over, and commits, proposals and commit logs are not; a reader who had read
// them all, and one who had read nothing, then agree.
func TestRetentionOnJetStream(t *testing.T) {
	b := openJetStream(t)
	served, err := node.Serve(t.Context(), b, node.Config{
		Verifier: ethereum.Verifier{}, Retention: node.Retention{Messages: time.Second, Welcomes: time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(served.Close)
	n := &network{Client: node.NewClient(b), node: served}
	group := id16(1)
	if err := n.send(t.Context(), private(group, commit, "1"), private(group, application, "2"), private(group, proposal, "3"), private(group, application, "4")); err != nil {
		t.Fatal(err)
	}
	if err := n.sendWelcomes(t.Context(), welcome(&mlsapi.WelcomeMessageInput_V1{InstallationKey: id32(1), Data: []byte("w"), HpkePublicKey: []byte("k")})); err != nil {
		t.Fatal(err)
	}
	if err := n.PublishCommitLog(t.Context(), []*mlsapi.PublishCommitLogRequest{entry(group, "a")}); err != nil {
		t.Fatal(err)
	}
	topic, err := bus.MessagesOf(group)
	if err != nil {
		t.Fatal(err)
	}
	last, err := b.End(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	tick, patience := time.NewTicker(50*time.Millisecond), time.After(30*time.Second)
	defer tick.Stop()
	for len(n.messages(t, group))+len(n.welcomes(t, id32(1))) != 2 {
		select {
		case <-tick.C:
		case <-patience:
			t.Fatalf("%d messages and %d welcomes are kept", len(n.messages(t, group)), len(n.welcomes(t, id32(1))))
		}
	}
	for i, m := range n.messages(t, group) {
		if !m.GetIsCommit() {
			t.Errorf("message %d of those that are kept is no commit", i)
		}
	}
	if got := n.queryLogs(t, &mlsapi.QueryCommitLogRequest{GroupId: group}); len(got[0].GetCommitLogEntries()) != 1 {
		t.Errorf("commit log %v", got)
	}
	// What a reader has read may be gone: its cursor holds.
	for _, direction := range []mlsapi.SortDirection{mlsapi.SortDirection_SORT_DIRECTION_ASCENDING, mlsapi.SortDirection_SORT_DIRECTION_DESCENDING} {
		r, err := served.QueryGroupMessages(t.Context(), &mlsapi.QueryGroupMessagesRequest{GroupId: group, PagingInfo: &mlsapi.PagingInfo{IdCursor: uint64(last), Direction: direction}})
		if want := 2 * int(direction-mlsapi.SortDirection_SORT_DIRECTION_ASCENDING); err != nil || len(r.GetMessages()) != want {
			t.Errorf("from the cursor, %v: %d messages, %v", direction, len(r.GetMessages()), err)
		}
	}
}

// Anybody can copy what another has sent. Under another HMAC, or another wish to
// push it, the same ciphertext is a repeat all the same, and so is a welcome beside
// other metadata; the first one stays. A host that publishes to the bus by itself
// names the same.
func TestACopyUnderAnotherMarkIsARepeat(t *testing.T) {
	n := newNetwork(t, memory.Config{Shards: 4}, node.Limits{})
	for _, content := range []byte{application, commit} {
		group := id16(int(content))
		data := private(group, content, "what alice said")
		send := func(hmac string, push bool) {
			t.Helper()
			_, err := n.node.SendGroupMessages(t.Context(), &mlsapi.SendGroupMessagesRequest{Messages: []*mlsapi.GroupMessageInput{{
				Version: &mlsapi.GroupMessageInput_V1_{V1: &mlsapi.GroupMessageInput_V1{Data: data, SenderHmac: []byte(hmac), ShouldPush: push}}}}})
			if err != nil {
				t.Fatal(err)
			}
		}
		send("alice", true)
		for i := range 10 {
			send(fmt.Sprint("mallory", i), i%2 == 0)
		}
		if got := n.messages(t, group); len(got) != 1 || string(got[0].GetSenderHmac()) != "alice" {
			t.Errorf("content type %d: %d messages, the first of %q", content, len(got), got[0].GetSenderHmac())
		}
	}
	for i := range 3 {
		err := n.sendWelcomes(t.Context(),
			welcome(&mlsapi.WelcomeMessageInput_V1{InstallationKey: id32(1), Data: []byte("sealed"), HpkePublicKey: []byte("key"), WelcomeMetadata: fmt.Append(nil, i)}),
			pointer(&mlsapi.WelcomeMessageInput_WelcomePointer{InstallationKey: id32(2), WelcomePointer: []byte("sealed"), HpkePublicKey: fmt.Append(nil, i), WrapperAlgorithm: xwingPointer}))
		if err != nil {
			t.Fatal(err)
		}
	}
	if one, two := n.welcomes(t, id32(1)), n.welcomes(t, id32(2)); len(one) != 1 || len(two) != 1 {
		t.Errorf("%d welcomes and %d pointers", len(one), len(two))
	}
}
