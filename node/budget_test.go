package node_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/node"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// metered starts a node whose clock the test moves.
func metered(t *testing.T, limits node.Limits) (*network, *time.Time) {
	t.Helper()
	clock := now
	b := memory.New(memory.Config{Now: func() time.Time { return clock }})
	served, err := node.Serve(t.Context(), b, node.Config{
		Verifier: ethereum.Verifier{}, Now: func() time.Time { return clock }, Limits: limits,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		served.Close()
		b.Close()
	})
	return &network{b, node.NewClient(b), served}, &clock
}

// B9, W11: who is over its budget is told so before anything is stored; others are not
// concerned, and time fills the bucket again.
func TestCallersHaveBudgets(t *testing.T) {
	n, clock := metered(t, node.Limits{CallerMessages: node.Budget{PerMinute: 60, Burst: 10}})
	ada, bob := node.WithCaller(t.Context(), "ada"), node.WithCaller(t.Context(), "bob")
	next := 0
	batch := func(size int) (data [][]byte) {
		for range size {
			next++
			data = append(data, private(id16(1), application, fmt.Sprint(next)))
		}
		return data
	}
	if err := n.send(ada, batch(8)...); err != nil {
		t.Fatal(err)
	}
	wantCode(t, n.send(ada, batch(3)...), bus.CodeExhausted)
	wantCode(t, n.sendWelcomes(ada,
		welcome(&mlsapi.WelcomeMessageInput_V1{InstallationKey: id32(1), Data: []byte("1"), HpkePublicKey: []byte("k")}),
		welcome(&mlsapi.WelcomeMessageInput_V1{InstallationKey: id32(1), Data: []byte("2"), HpkePublicKey: []byte("k")}),
		welcome(&mlsapi.WelcomeMessageInput_V1{InstallationKey: id32(1), Data: []byte("3"), HpkePublicKey: []byte("k")}),
	), bus.CodeExhausted)
	_, err := n.node.BatchPublishCommitLog(ada, &mlsapi.BatchPublishCommitLogRequest{Requests: []*mlsapi.PublishCommitLogRequest{
		entry(id16(1), "1"), entry(id16(1), "2"), entry(id16(1), "3"),
	}})
	wantCode(t, err, bus.CodeExhausted)
	if got := len(n.messages(t, id16(1))); got != 8 {
		t.Errorf("%d messages are stored, want 8", got)
	}
	// What was refused took nothing: two are left.
	if err := n.send(ada, batch(2)...); err != nil {
		t.Errorf("the rest of the budget: %v", err)
	}
	if err := n.send(bob, batch(10)...); err != nil {
		t.Errorf("another caller: %v", err)
	}
	if err := n.send(t.Context(), batch(100)...); err != nil {
		t.Errorf("nobody's budget: %v", err)
	}
	*clock = clock.Add(5 * time.Second)
	wantCode(t, n.send(ada, batch(6)...), bus.CodeExhausted)
	if err := n.send(ada, batch(5)...); err != nil {
		t.Errorf("five seconds later: %v", err)
	}
	// More than a bucket ever holds takes a full one, and is not refused for ever.
	wantCode(t, n.send(ada, batch(20)...), bus.CodeExhausted)
	*clock = clock.Add(time.Hour)
	if err := n.send(ada, batch(20)...); err != nil {
		t.Errorf("a full bucket: %v", err)
	}
}

func TestGroupsHaveBudgets(t *testing.T) {
	n, clock := metered(t, node.Limits{
		GroupMessages: node.Budget{PerMinute: 3},
		GroupBytes:    node.Budget{PerMinute: 10_000},
		CallerBytes:   node.Budget{PerMinute: 25_000},
	})
	ctx := node.WithCaller(t.Context(), "ada")
	message := func(g int, text string) []byte { return private(id16(g), application, text) }
	if err := n.send(ctx, message(1, "1"), message(1, "2"), message(1, "3"), message(2, "1")); err != nil {
		t.Fatal(err)
	}
	// One group over its budget refuses the whole request, and takes none of
	// the other's.
	wantCode(t, n.send(ctx, message(2, "2"), message(1, "4")), bus.CodeExhausted)
	if err := n.send(ctx, message(2, "2"), message(2, "3")); err != nil {
		t.Error(err)
	}
	long := strings.Repeat("x", 9_000)
	if err := n.send(ctx, message(3, long)); err != nil {
		t.Fatal(err)
	}
	wantCode(t, n.send(ctx, message(3, long+"y")), bus.CodeExhausted) // the group's bytes
	if err := n.send(ctx, message(4, long)); err != nil {
		t.Fatal(err)
	}
	wantCode(t, n.send(ctx, message(5, long)), bus.CodeExhausted) // the caller's bytes
	if err := n.send(node.WithCaller(t.Context(), "bob"), message(5, long)); err != nil {
		t.Error(err)
	}
	*clock = clock.Add(time.Minute)
	if err := n.send(ctx, message(1, "4"), message(3, long+"y")); err != nil {
		t.Errorf("a minute later: %v", err)
	}
	if got := len(n.messages(t, id16(1))); got != 4 {
		t.Errorf("%d messages, want 4", got)
	}
}

// A caller that was given no budget has one of bytes all the same, which everything
// that it publishes counts against, however small; so has a group.
func TestBytesHaveABudgetByDefault(t *testing.T) {
	n, clock := metered(t, node.Limits{})
	flood, honest := node.WithCaller(t.Context(), "203.0.113.9"), node.WithCaller(t.Context(), "203.0.113.10")
	junk := private(id16(1), application, strings.Repeat("x", 1<<20)) // a repeat is stored once, and counts
	taken := 0
	for ; taken < 1000; taken++ {
		if err := n.send(flood, junk); err != nil {
			wantCode(t, err, bus.CodeExhausted)
			break
		}
	}
	if want := node.DefaultCallerBytes.Burst>>20 - 1; taken != want {
		t.Errorf("%d MiB were taken of one caller, want %d", taken, want)
	}
	if err := n.send(honest, private(id16(1), application, "hello")); err != nil {
		t.Errorf("another caller: %v", err)
	}
	for range 10_000 { // what is left is less than a mebibyte
		_, err := n.node.BatchPublishCommitLog(flood, &mlsapi.BatchPublishCommitLogRequest{Requests: []*mlsapi.PublishCommitLogRequest{entry(id16(1), "1")}})
		if err != nil {
			wantCode(t, err, bus.CodeExhausted)
			if !strings.Contains(err.Error(), "over budget: the caller's bytes: ask again in ") {
				t.Errorf("refused with %v", err)
			}
			break
		}
		taken++
	}
	if taken > node.DefaultCallerBytes.Burst>>20+4096 {
		t.Error("entries of commit logs cost nothing")
	}
	*clock = clock.Add(time.Minute)
	if err := n.send(flood, junk); err != nil {
		t.Errorf("a minute later: %v", err)
	}
	for i := range 5 { // of so many callers, one group takes no more than its own budget
		for range 250 {
			if err := n.send(node.WithCaller(t.Context(), fmt.Sprint("many", i)), junk); err != nil {
				if !strings.Contains(err.Error(), "the group's bytes") {
					t.Errorf("refused with %v", err)
				}
				return
			}
		}
	}
	t.Error("a group has no budget of bytes")
}

// However many share a budget at the same instant, they get what is in it.
func TestABudgetIsSpentOnce(t *testing.T) {
	n, _ := metered(t, node.Limits{CallerMessages: node.Budget{PerMinute: 1, Burst: 50}})
	ctx := node.WithCaller(t.Context(), "ada")
	var g errgroup.Group
	for i := range 200 {
		g.Go(func() error {
			_ = n.send(ctx, private(id16(1), application, fmt.Sprint(i))) // most are refused
			return nil
		})
	}
	_ = g.Wait()
	if got := len(n.messages(t, id16(1))); got != 50 {
		t.Errorf("%d messages, want 50", got)
	}
}
