package features

import (
	"context"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/conclave-chat/conclave"
)

// meter is OpenTelemetry's own provider, and what a host has told it: the sum of a
// counter or level over the label values that contain word.
func meter(t *testing.T) (provider *metric.MeterProvider, value func(name, word string) int64) {
	t.Helper()
	reader := metric.NewManualReader()
	provider = metric.NewMeterProvider(metric.WithReader(reader))
	return provider, func(name, word string) (sum int64) {
		t.Helper()
		var all metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &all); err != nil {
			t.Fatal(err)
		}
		add := func(points []metricdata.DataPoint[int64]) {
			for _, p := range points {
				if strings.Contains(p.Attributes.Encoded(attribute.DefaultEncoder()), word) {
					sum += p.Value
				}
			}
		}
		found := false
		for _, scope := range all.ScopeMetrics {
			for _, m := range scope.Metrics {
				if m.Name != name {
					continue
				}
				found = true
				switch data := m.Data.(type) {
				case metricdata.Sum[int64]:
					add(data.DataPoints)
				case metricdata.Gauge[int64]:
					add(data.DataPoints)
				case metricdata.Histogram[float64]:
					for _, p := range data.DataPoints {
						sum += int64(p.Count)
					}
				}
			}
		}
		if !found && word != "" {
			t.Errorf("there is no metric %s", name)
		}
		return sum
	}
}

// A service hands a host OpenTelemetry's own providers, and gets its metrics and
// spans; a second host on the same provider in turn counts there too.
func TestOpenTelemetryProviders(t *testing.T) {
	provider, value := meter(t)
	spans := tracetest.NewSpanRecorder()
	tracer := trace.NewTracerProvider(trace.WithSpanProcessor(spans))
	t.Cleanup(func() { _ = tracer.Shutdown(context.Background()) })
	for round := range int64(2) {
		w := newWorld(t, func(c *conclave.Config) { c.MeterProvider, c.TracerProvider = provider, tracer })
		c := w.clients(2)
		w.send(w.newGroup(conclave.GroupOptions{}, c...), "hello")
		if round == 0 {
			for name, word := range map[string]string{
				"conclave.send.published": "application", "conclave.send.attempts": "commit", "conclave.publish.duration": "", "conclave.save.duration": "",
				"conclave.actor.live": "group", "conclave.node.requests": "",
			} {
				if value(name, word) == 0 {
					t.Errorf("%s{%s} did not move", name, word)
				}
			}
		}
		w.do(w.host.Close(w.ctx))
	}
	if len(spans.Ended()) == 0 {
		t.Error("no spans")
	}
}
