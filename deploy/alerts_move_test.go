package deploy

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/conclave-chat/conclave"
	"github.com/conclave-chat/conclave/actors"
	"github.com/conclave-chat/conclave/bus"
	membus "github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/internal/telemetry"
	memstore "github.com/conclave-chat/conclave/persistence/memory"
)

// series is a metric that an alert watches, with what it selects of it.
type series struct {
	alert, metric string
	labels        []*regexp.Regexp
}

// watched returns what the alerts of a group watch.
func watched(t *testing.T, group string) (all []series) {
	t.Helper()
	var f alertFile
	parse(t, "alerts.yaml", &f)
	selector := regexp.MustCompile(`\b(conclave_\w+)(?:\{([^}]*)\})?`)
	label := regexp.MustCompile(`(\w+)=~?"([^"]*)"`)
	for _, g := range f.Groups {
		if g.Name != group {
			continue
		}
		for _, r := range g.Rules {
			for _, m := range selector.FindAllStringSubmatch(r.Expr, -1) {
				s := series{alert: r.Alert, metric: m[1]}
				for _, l := range label.FindAllStringSubmatch(m[2], -1) {
					if l[1] != "job" { // which Prometheus adds
						s.labels = append(s.labels, regexp.MustCompile(l[1]+`="(?:`+l[2]+`)"`))
					}
				}
				all = append(all, s)
			}
		}
	}
	if len(all) == 0 {
		t.Fatalf("no alerts in group %q", group)
	}
	return all
}

// value sums what a page has of a series.
func (s series) value(t *testing.T, page string) (sum float64) {
	t.Helper()
lines:
	for _, m := range regexp.MustCompile(`(?m)^`+s.metric+`(\{[^}]*\})? (\S+)$`).FindAllStringSubmatch(page, -1) {
		for _, l := range s.labels {
			if !l.MatchString(m[1]) {
				continue lines
			}
		}
		v, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += v
	}
	return sum
}

// until asks for the page, as a scrape does, until an alert's series have a value.
func until(t *testing.T, ctx context.Context, page func() string, all []series, alert string) {
	t.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for _, s := range all {
		if s.alert != alert {
			continue
		}
		for s.value(t, page()) == 0 {
			select {
			case <-look.C:
			case <-ctx.Done():
				t.Fatalf("%s: %s never moves", alert, s.metric)
			}
		}
	}
}

// fickle is a bus that refuses messages for a while.
type fickle struct {
	*membus.Bus
	refuses atomic.Bool
}

func (f *fickle) Publish(ctx context.Context, topic bus.Topic, b []byte, o ...bus.PublishOption) (bus.Ack, error) {
	if f.refuses.Load() && topic.Kind() == bus.GroupMessages {
		return bus.Ack{}, bus.ErrRefused
	}
	return f.Bus.Publish(ctx, topic, b, o...)
}

// Whatever an alert about hosts watches moves when a host gets into that trouble.
func TestHostAlertsMove(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	exporter, err := telemetry.Prometheus()
	ok(err)
	log := &fickle{Bus: membus.New(membus.Config{})}
	var trouble atomic.Pointer[func()]
	host, err := conclave.Open(ctx, conclave.Config{
		Bus: log, Store: memstore.New(), ServeNode: true, MeterProvider: exporter.MeterProvider(),
		Fault: func(p actors.Point) error {
			if f := trouble.Load(); f != nil && p == actors.PointGroup {
				(*f)()
			}
			return nil
		},
	})
	ok(err)
	page := func() string {
		w := httptest.NewRecorder()
		exporter.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return w.Body.String()
	}
	all := watched(t, "conclave")
	var clients [2]*conclave.Client
	for i := range clients {
		wallet, err := ethereum.GenerateKey()
		ok(err)
		clients[i], err = host.CreateClient(ctx, wallet, conclave.ClientOptions{})
		ok(err)
	}
	room, err := clients[0].Conversations().NewGroup(ctx, []string{clients[1].Address()}, conclave.GroupOptions{})
	ok(err)
	send := func() conclave.MessageID {
		id, err := room.Send(ctx, conclave.Text("hello"))
		ok(err)
		_, err = room.Wait(ctx, id)
		ok(err)
		return id
	}
	id := send()
	until(t, ctx, page, all, "ConclavePublishLatency")
	until(t, ctx, page, all, "ConclaveSaveLatency")

	log.refuses.Store(true)
	send()
	log.refuses.Store(false)
	until(t, ctx, page, all, "ConclaveMessagesFailed")

	unread := clients[1].Conversations().StreamAllMessages(ctx)
	for range 400 {
		_, err := room.Send(ctx, conclave.Text("more than fits"))
		ok(err)
	}
	until(t, ctx, page, all, "ConclaveStreamsBehind")
	for range unread {
		break
	}

	messages, err := room.Messages(ctx, conclave.MessageQuery{Status: conclave.Published})
	ok(err)
	ok(clients[1].Conversations().SyncAll(ctx))
	ok(room.UpdateName(ctx, "what the log loses"))
	ok(clients[1].Conversations().SyncAll(ctx))
	for _, m := range messages {
		if m.ID == id {
			log.Rewind(0, bus.ID(m.Position))
		}
	}
	ok(clients[1].Conversations().SyncAll(ctx))
	until(t, ctx, page, all, "ConclaveGroupStalled")

	gate := make(chan struct{})
	wait := func() { <-gate }
	trouble.Store(&wait)
	var asking sync.WaitGroup
	patient, enough := context.WithCancel(ctx)
	for range 4 {
		asking.Go(func() { _, _ = room.Info(patient) })
	}
	until(t, ctx, page, all, "ConclaveQueueDepth")
	crash := func() { panic("trouble") }
	trouble.Store(&crash)
	close(gate)
	enough()
	asking.Wait()
	for page := page; (series{metric: "conclave_actor_stalled"}).value(t, page()) == 0 && ctx.Err() == nil; {
		soon, stop := context.WithTimeout(ctx, 200*time.Millisecond)
		_, _ = room.Info(soon) // crashes it once more, unless it rests
		stop()
	}
	for _, alert := range []string{"ConclaveActorStalled", "ConclaveActorRestarts", "ConclaveMessagesQuarantined"} {
		until(t, ctx, page, all, alert)
	}
	trouble.Store(nil)
	tried := map[string]bool{
		"ConclavePublishLatency": true, "ConclaveSaveLatency": true, "ConclaveMessagesFailed": true, "ConclaveStreamsBehind": true, "ConclaveGroupStalled": true,
		"ConclaveQueueDepth": true, "ConclaveActorStalled": true, "ConclaveActorRestarts": true, "ConclaveMessagesQuarantined": true,
	}
	for _, s := range all {
		if !tried[s.alert] {
			t.Errorf("nothing shows that %s moves", s.alert)
		}
	}
	// The stalled actor rests before it starts again: that is not waited for.
	soon, stop := context.WithTimeout(ctx, 2*time.Second)
	defer stop()
	if err := host.Close(soon); err != nil && soon.Err() == nil {
		t.Error(err)
	}
	ok(log.Close())
}

// Whatever an alert about nodes watches is moved by a node that is used.
func TestNodeAlertsMove(t *testing.T) {
	binary := binary(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	serve := exec.CommandContext(ctx, binary, "serve", "--dir", t.TempDir(), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--xmtp", "127.0.0.1:0", "--xmtp-web=", "--group-messages", "1")
	out, err := serve.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = serve.Process.Kill(); _ = serve.Wait() })
	var health, network string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if at := regexp.MustCompile(`http://[^/, ]+`).FindString(lines.Text()); strings.HasPrefix(lines.Text(), "XMTP API at") {
			network = at
		} else if strings.HasPrefix(lines.Text(), "health") {
			health = at
		}
		if strings.HasPrefix(lines.Text(), "serving") {
			break
		}
	}
	get := func(response *http.Response, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		b, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	page := func() string { return get(http.Get(health + "/metrics")) }
	host, err := conclave.Open(ctx, conclave.Config{Dir: t.TempDir(), XMTP: network})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close(ctx)
	wallet, err := ethereum.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	client, err := host.CreateClient(ctx, wallet, conclave.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_ = client.Conversations().StreamAllMessages(ctx)
	get(http.Post(network+"/xmtp.identity.api.v1.IdentityApi/GetIdentityUpdates", "application/json", strings.NewReader(`{"requests":[{"inboxId":"nobody"}]}`)))
	for range 2 { // to one group, which may have one
		get(http.Post(network+"/xmtp.mls.api.v1.MlsApi/SendGroupMessages", "application/json", strings.NewReader(`{"messages":[{"v1":{"data":"AAEAAhAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEBAAEAAQA="}}]}`)))
	}
	all := watched(t, "conclave-node")
	for _, s := range all {
		until(t, ctx, page, all, s.alert)
	}
}
