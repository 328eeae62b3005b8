package telemetry

import (
	"context"
	"encoding/hex"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func exported(t testing.TB) (*Telemetry, *Exporter) {
	x, err := Prometheus()
	if err != nil {
		t.Fatal(err)
	}
	tel, err := New(Config{MeterProvider: x.MeterProvider()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tel.Close(); err != nil {
			t.Error(err)
		}
		if err := x.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return tel, x
}

func scrape(x *Exporter) string {
	w := httptest.NewRecorder()
	x.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

func TestCountsAreExported(t *testing.T) {
	tel, x := exported(t)
	tel.Published.Of(KindCommit).Inc()
	tel.Deliveries.Of(KindApplication).Add(400)
	tel.Rejected.Of(ReasonUnverified).Inc()
	tel.Live.Of(ActorGroup).Set(5)
	tel.Live.Of(ActorGroup).Add(-2)
	tel.PublishLatency.Observe(3 * time.Millisecond)
	remove := tel.BeforeScrape(func() { tel.Queued.Add(7) })
	out := scrape(x)
	for _, want := range []string{
		`conclave_send_published_total{kind="commit"} 1`,
		`conclave_receive_deliveries_total{kind="application"} 400`,
		`conclave_receive_rejected_total{reason="unverified"} 1`,
		`conclave_actor_live{actor="group"} 3`,
		`conclave_queue_depth 7`,
		`conclave_publish_duration_seconds_bucket{le="0.005"} 1`,
		`conclave_publish_duration_seconds_bucket{le="0.0025"} 0`,
		`go_goroutines `,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the scrape has no %q", want)
		}
	}
	remove()
	if out = scrape(x); !strings.Contains(out, "conclave_queue_depth 7\n") {
		t.Error("BeforeScrape was not removed")
	}
}

// faults.md D13: a scrape names nobody.
func TestNoIDCanBecomeALabelValue(t *testing.T) {
	tel, x := exported(t)
	// The nearest that the types admit to smuggling bytes in: every number.
	for i := range 256 {
		tel.Published.Of(Kind(i)).Inc()
		tel.Rejected.Of(Reason(i)).Inc()
		tel.Restarts.Of(Actor(i)).Inc()
		tel.Live.Of(Actor(i)).Add(1)
	}
	out := scrape(x)
	if !strings.Contains(out, `conclave_send_published_total{kind="other"} 252`) {
		t.Error("unknown numbers are not counted as other")
	}
	allowed := map[string][]string{"kind": kindWords, "actor": actorWords, "reason": reasonWords, "standing": standingWords}
	pair := regexp.MustCompile(`(\w+)="([^"]*)"`)
	seen := map[string]bool{}
	series := 0
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "conclave_") {
			continue
		}
		series++
		for _, m := range pair.FindAllStringSubmatch(line, -1) {
			key, value := m[1], m[2]
			if raw, err := hex.DecodeString(value); err == nil && len(raw) >= 16 {
				t.Errorf("an id is exported: %s", line)
			}
			if key != "le" && !slices.Contains(allowed[key], value) {
				t.Errorf("a label outside the tables: %s", line)
			}
			seen[key+"="+value] = true
		}
	}
	for key, words := range allowed {
		for _, w := range words {
			if !seen[key+"="+w] {
				t.Errorf("%s=%q is never exported", key, w)
			}
		}
	}
	if series > 200 {
		t.Errorf("%d series: more than the tables have", series)
	}
}

func TestTablesFit(t *testing.T) {
	for _, words := range [][]string{kindWords, actorWords, reasonWords, standingWords} {
		if len(words) > maxWords || words[0] != "other" {
			t.Errorf("%q: at most %d words, the first is other", words, maxWords)
		}
	}
	if KindWelcome.String() != "welcome" || ActorNode.String() != "node" || ReasonForbidden.String() != "forbidden" ||
		Kind(99).String() != "other" {
		t.Error("a table is out of step with its constants")
	}
}

func TestSpansOfMessagesCommitsAndBatches(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	tel, err := New(Config{TracerProvider: provider})
	if err != nil {
		t.Fatal(err)
	}
	ctx, commit := tel.Commit(t.Context(), 3, 1)
	_, send := tel.Send(ctx, KindCommit, 512)
	send.Fail(ReasonTooLarge)
	send.End()
	commit.End()
	receive := tel.Receive(64)
	receive.End()
	spans := recorder.Ended()
	names := []string{}
	for _, s := range spans {
		names = append(names, s.Name())
	}
	if !slices.Equal(names, []string{"conclave.send", "conclave.commit", "conclave.receive"}) {
		t.Fatalf("spans: %q", names)
	}
	if s := spans[0]; s.Parent().SpanID() != spans[1].SpanContext().SpanID() ||
		s.Status().Code != codes.Error || s.Status().Description != "too_large" || len(s.Attributes()) != 2 {
		t.Errorf("send: %+v", s)
	}
	if err := provider.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestNobodyListens(t *testing.T) {
	tel := Nop()
	ctx, s := tel.Send(t.Context(), KindApplication, 1)
	if ctx != t.Context() || s.Recording() {
		t.Error("a span without a provider is something")
	}
	s.Fail(ReasonOther)
	s.End()
	tel.SaveLatency.Observe(time.Second)
	if err := tel.Close(); err != nil {
		t.Error(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		tel.Deliveries.Of(KindApplication).Inc()
		_, s := tel.Send(ctx, KindApplication, 1)
		s.End()
	}); n != 0 {
		t.Errorf("%v allocations per message", n)
	}
}

func BenchmarkCounter(b *testing.B) {
	tel, _ := exported(b)
	b.ReportAllocs()
	for b.Loop() {
		tel.Deliveries.Of(KindApplication).Inc()
	}
}

func BenchmarkHistogram(b *testing.B) {
	tel, _ := exported(b)
	b.ReportAllocs()
	for b.Loop() {
		tel.PublishLatency.Observe(time.Millisecond)
	}
}

func BenchmarkSpanNobodyListens(b *testing.B) {
	tel := Nop()
	b.ReportAllocs()
	for b.Loop() {
		s := tel.Receive(1)
		s.End()
	}
}

func BenchmarkScrape(b *testing.B) {
	_, x := exported(b)
	for b.Loop() {
		scrape(x)
	}
}
