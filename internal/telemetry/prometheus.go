package telemetry

import (
	"context"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/metric"
)

// An Exporter shows metrics to a Prometheus server, from a registry of its own.
type Exporter struct {
	registry *prometheus.Registry
	provider *sdk.MeterProvider
}

// Prometheus returns an exporter of the Go runtime's and the process's metrics,
// and of every Telemetry made with its MeterProvider.
func Prometheus() (*Exporter, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reader, err := exporter.New(exporter.WithRegisterer(registry), exporter.WithoutScopeInfo(), exporter.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("telemetry: make Prometheus exporter: %w", err)
	}
	return &Exporter{registry, sdk.NewMeterProvider(sdk.WithReader(reader))}, nil
}

// MeterProvider is what Config wants.
func (x *Exporter) MeterProvider() MeterProvider { return x.provider }

// Handler serves the text format.
func (x *Exporter) Handler() http.Handler {
	return promhttp.HandlerFor(x.registry, promhttp.HandlerOpts{})
}

// Shutdown ends the export.
func (x *Exporter) Shutdown(ctx context.Context) error { return x.provider.Shutdown(ctx) }
