package xmtp_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	rpc "connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/bustest"
	"github.com/conclave-chat/conclave/bus/xmtp"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// A foreigner is a network that is not ours, on a real connect server: what it takes
// has up to 50 MiB, pages are as many entries as were asked for however large they
// are, and what its poll passes over is never streamed.
type foreigner struct {
	missed func(id uint64) bool // by the poll; nil: nothing

	mu       sync.Mutex
	grown    sync.Cond
	messages []*mlsapi.GroupMessage
	welcomes []*mlsapi.WelcomeMessage
	calls    map[string]int
}

func newForeigner(t testing.TB, missed func(id uint64) bool) (f *foreigner, url string) {
	f = &foreigner{missed: missed, calls: make(map[string]int)}
	f.grown.L = &f.mu
	const service = "/xmtp.mls.api.v1.MlsApi/"
	mux := http.NewServeMux()
	handle := func(name string, h http.Handler) { mux.Handle(service+name, h) }
	handle("SendGroupMessages", rpc.NewUnaryHandler(service+"SendGroupMessages", f.send))
	handle("QueryGroupMessages", rpc.NewUnaryHandler(service+"QueryGroupMessages", f.queryGroup))
	handle("QueryWelcomeMessages", rpc.NewUnaryHandler(service+"QueryWelcomeMessages", f.queryWelcomes))
	handle("GetNewestGroupMessage", rpc.NewUnaryHandler(service+"GetNewestGroupMessage", f.newest))
	handle("SubscribeGroupMessages", rpc.NewServerStreamHandler(service+"SubscribeGroupMessages", f.followGroups))
	handle("SubscribeWelcomeMessages", rpc.NewServerStreamHandler(service+"SubscribeWelcomeMessages", f.followWelcomes))

	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.calls[r.URL.Path[len(service):]]++
		f.mu.Unlock()
		mux.ServeHTTP(w, r)
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		<-served
	})
	return f, "http://" + l.Addr().String()
}

// store appends a message of a group, as SendGroupMessages does.
func (f *foreigner) store(data []byte) {
	id, kind, err := group.Framing(data)
	if err != nil {
		panic(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.messages = append(f.messages, &mlsapi.GroupMessage{Version: &mlsapi.GroupMessage_V1_{V1: &mlsapi.GroupMessage_V1{
		Id: uint64(len(f.messages) + 1), CreatedNs: uint64(time.Now().UnixNano()), GroupId: id, Data: data,
		IsCommit: kind == group.TopicCommits,
	}}})
	f.grown.Broadcast()
}

// storeWelcome appends a welcome.
func (f *foreigner) storeWelcome(installation, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.welcomes = append(f.welcomes, &mlsapi.WelcomeMessage{Version: &mlsapi.WelcomeMessage_V1_{V1: &mlsapi.WelcomeMessage_V1{
		Id: uint64(len(f.welcomes) + 1), CreatedNs: uint64(time.Now().UnixNano()), InstallationKey: installation, Data: data,
	}}})
	f.grown.Broadcast()
}

func (f *foreigner) send(_ context.Context, r *rpc.Request[mlsapi.SendGroupMessagesRequest]) (*rpc.Response[emptypb.Empty], error) {
	for _, m := range r.Msg.GetMessages() {
		f.store(m.GetV1().GetData())
	}
	return rpc.NewResponse(new(emptypb.Empty)), nil
}

// pageOf is a page as XMTP's node makes it.
func pageOf[M any](all []M, id func(M) uint64, p *mlsapi.PagingInfo) (page []M, told *mlsapi.PagingInfo) {
	limit := int(p.GetLimit())
	if limit == 0 || limit > 100 {
		limit = 100
	}
	all = slices.Clone(all)
	ascending := p.GetDirection() == mlsapi.SortDirection_SORT_DIRECTION_ASCENDING
	if !ascending {
		slices.Reverse(all)
	}
	for _, m := range all {
		if cursor := p.GetIdCursor(); cursor == 0 || ascending && id(m) > cursor || !ascending && id(m) < cursor {
			page = append(page, m)
		}
	}
	told = &mlsapi.PagingInfo{Direction: p.GetDirection(), Limit: uint32(limit)}
	if len(page) >= limit {
		page = page[:limit]
		told.IdCursor = id(page[limit-1])
	}
	return page, told
}

func messageID(m *mlsapi.GroupMessage) uint64   { return m.GetV1().GetId() }
func welcomeID(m *mlsapi.WelcomeMessage) uint64 { return m.GetV1().GetId() }

func (f *foreigner) ofGroup(id []byte) (all []*mlsapi.GroupMessage) {
	for _, m := range f.messages {
		if bytes.Equal(m.GetV1().GetGroupId(), id) {
			all = append(all, m)
		}
	}
	return all
}

func (f *foreigner) queryGroup(_ context.Context, r *rpc.Request[mlsapi.QueryGroupMessagesRequest]) (*rpc.Response[mlsapi.QueryGroupMessagesResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	page, told := pageOf(f.ofGroup(r.Msg.GetGroupId()), messageID, r.Msg.GetPagingInfo())
	return rpc.NewResponse(&mlsapi.QueryGroupMessagesResponse{Messages: page, PagingInfo: told}), nil
}

func (f *foreigner) queryWelcomes(_ context.Context, r *rpc.Request[mlsapi.QueryWelcomeMessagesRequest]) (*rpc.Response[mlsapi.QueryWelcomeMessagesResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	page, told := pageOf(f.welcomes, welcomeID, r.Msg.GetPagingInfo())
	return rpc.NewResponse(&mlsapi.QueryWelcomeMessagesResponse{Messages: page, PagingInfo: told}), nil
}

func (f *foreigner) newest(_ context.Context, r *rpc.Request[mlsapi.GetNewestGroupMessageRequest]) (*rpc.Response[mlsapi.GetNewestGroupMessageResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	answer := new(mlsapi.GetNewestGroupMessageResponse)
	for _, id := range r.Msg.GetGroupIds() {
		one := new(mlsapi.GetNewestGroupMessageResponse_Response)
		if all := f.ofGroup(id); len(all) > 0 {
			one.GroupMessage = proto.CloneOf(all[len(all)-1])
			one.GroupMessage.GetV1().Data = nil
		}
		answer.Responses = append(answer.Responses, one)
	}
	return rpc.NewResponse(answer), nil
}

// stream sends what there is above the cursors, then what comes, but for what the
// poll misses.
func stream[M any](ctx context.Context, f *foreigner, list func() []M, id func(M) uint64, wanted func(M, bool) bool, send func(M) error) error {
	stop := context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.grown.Broadcast()
	})
	defer stop()
	for sent, live := 0, false; ; live = true {
		f.mu.Lock()
		for len(list()) == sent && live && ctx.Err() == nil {
			f.grown.Wait()
		}
		news := list()[sent:]
		sent += len(news)
		f.mu.Unlock()
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, m := range news {
			if !wanted(m, live) || live && f.missed != nil && f.missed(id(m)) {
				continue
			}
			if err := send(m); err != nil {
				return err
			}
		}
	}
}

func (f *foreigner) followGroups(ctx context.Context, r *rpc.Request[mlsapi.SubscribeGroupMessagesRequest], s *rpc.ServerStream[mlsapi.GroupMessage]) error {
	cursors := make(map[string]uint64)
	for _, filter := range r.Msg.GetFilters() {
		cursors[string(filter.GetGroupId())] = filter.GetIdCursor()
	}
	return stream(ctx, f, func() []*mlsapi.GroupMessage { return f.messages }, messageID, func(m *mlsapi.GroupMessage, live bool) bool {
		cursor, followed := cursors[string(m.GetV1().GetGroupId())]
		return followed && messageID(m) > cursor
	}, s.Send)
}

func (f *foreigner) followWelcomes(ctx context.Context, r *rpc.Request[mlsapi.SubscribeWelcomeMessagesRequest], s *rpc.ServerStream[mlsapi.WelcomeMessage]) error {
	return stream(ctx, f, func() []*mlsapi.WelcomeMessage { return f.welcomes }, welcomeID, func(m *mlsapi.WelcomeMessage, live bool) bool {
		return welcomeID(m) > r.Msg.GetFilters()[0].GetIdCursor()
	}, s.Send)
}

func (f *foreigner) count(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

// A feed of such a network has holes. Whoever takes it for a hint, and reads from the
// own cursor, misses nothing.
func TestAFeedWithHolesIsAHint(t *testing.T) {
	open := func(t *testing.T, _ int) bustest.Harness {
		_, url := newForeigner(t, func(id uint64) bool { return id%3 != 0 })
		b := connect(t, xmtp.Config{URL: url})
		if b.Info().Gapless {
			t.Fatal("the feed is said to be gapless")
		}
		return bustest.Harness{Bus: b, Payload: payload}
	}
	bustest.RunCase(t, "cut/a reader that takes a feed with holes for a hint misses nothing", open)
}

// What a hint costs: one call where the page is not full.
func TestAHintCostsOneCall(t *testing.T) {
	const hinted, each = 50, 3
	ctx := patient(t)
	f, url := newForeigner(t, nil)
	b := connect(t, xmtp.Config{URL: url})
	c, m := topics(t, 1)
	var after bus.ID
	for range hinted {
		for range each {
			f.store(privateMessage(m.ID(), application, "text"))
		}
		got, err := b.Read(ctx, after, 256, c, m)
		if err != nil || len(got) != each {
			t.Fatalf("%d envelopes, %v", len(got), err)
		}
		after = got[each-1].ID
	}
	if calls := f.count("QueryGroupMessages"); calls != hinted {
		t.Errorf("%d reads are %d calls", hinted, calls)
	}
}

// A stranger's entry of 30 MiB, which no client of XMTP's can read, is read past: it
// comes as an envelope without a payload, all around it comes whole, and groups on
// the same stream hear nothing of it.
func TestALargeEntryIsReadPast(t *testing.T) {
	const before, behind = 45, 130
	ctx := patient(t)
	f, url := newForeigner(t, nil)
	b := connect(t, xmtp.Config{URL: url})
	c, m := topics(t, 1)
	otherC, otherM := topics(t, 2)
	huge := string(make([]byte, 30<<20))
	for range before {
		f.store(privateMessage(m.ID(), application, "small"))
	}
	f.store(privateMessage(m.ID(), application, huge))
	f.store(privateMessage(c.ID(), commit, huge))
	for range behind {
		f.store(privateMessage(m.ID(), application, "small"))
	}
	f.store(privateMessage(otherM.ID(), application, "hello"))

	check := func(t *testing.T, got []bus.Envelope) {
		t.Helper()
		if len(got) != before+2+behind {
			t.Fatalf("%d envelopes, want %d", len(got), before+2+behind)
		}
		for i, e := range got {
			empty := i == before || i == before+1
			if int(e.ID) != i+1 || (len(e.Payload) == 0) != empty || (e.Topic == c) != (i == before+1) {
				t.Fatalf("envelope %d of %v has %d bytes", e.ID, e.Topic, len(e.Payload))
			}
			if _, err := group.DecodeGroupMessage(e.Payload); (err != nil) != empty {
				t.Fatalf("envelope %d: %v", e.ID, err)
			}
		}
	}
	t.Run("read", func(t *testing.T) {
		got, err := b.Read(ctx, 0, 1000, c, m)
		if err != nil {
			t.Fatal(err)
		}
		check(t, got)
	})
	t.Run("read, where there is but one", func(t *testing.T) {
		_, m := topics(t, 3)
		f.store(privateMessage(m.ID(), application, "small"))
		f.store(privateMessage(m.ID(), application, huge))
		f.store(privateMessage(m.ID(), application, "small"))
		before := f.count("QueryGroupMessages")
		got, err := b.Read(ctx, 0, 1000, m)
		if err != nil || len(got) != 3 || len(got[1].Payload) != 0 {
			t.Fatalf("%d envelopes, %v", len(got), err)
		}
		if calls := f.count("QueryGroupMessages") - before; calls != 2 {
			t.Errorf("read by %d calls", calls)
		}
	})
	t.Run("feed", func(t *testing.T) {
		feed := follow(t, b)
		if err := errors.Join(feed.Follow(ctx, 0, c, m), feed.Follow(ctx, 0, otherC, otherM)); err != nil {
			t.Fatal(err)
		}
		got, disturbed := receive(ctx, t, feed, before+2+behind+1)
		if disturbed > 0 {
			t.Errorf("the stream broke %d times", disturbed)
		}
		got = slices.DeleteFunc(got, func(e bus.Envelope) bool { return e.Topic == otherM })
		check(t, got)
	})
	t.Run("welcomes", func(t *testing.T) {
		w, err := bus.WelcomesFor(make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"first", huge, "last"} {
			f.storeWelcome(w.ID(), []byte(text))
		}
		feed := follow(t, b)
		if err := feed.Follow(ctx, 0, w); err != nil {
			t.Fatal(err)
		}
		streamed, disturbed := receive(ctx, t, feed, 3)
		read, err := b.Read(ctx, 0, 100, w)
		if err != nil || len(read) != 3 || disturbed > 0 {
			t.Fatalf("%d welcomes, %v; the stream broke %d times", len(read), err, disturbed)
		}
		for i := range 3 {
			if (len(read[i].Payload) == 0) != (i == 1) || (len(streamed[i].Payload) == 0) != (i == 1) {
				t.Errorf("welcome %d has %d bytes, streamed %d", i, len(read[i].Payload), len(streamed[i].Payload))
			}
		}
		if last, err := b.Last(ctx, w, m, c); err != nil || last[0] != 3 {
			t.Errorf("last: %d, %v", last, err)
		}
	})
}
