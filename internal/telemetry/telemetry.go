// Package telemetry counts and traces what a host does. It is the only door to
// OpenTelemetry and to the Prometheus client.
//
// # Contract
//
//  1. Nearly free. Counting is one atomic addition, without allocation, and
//     costs the same whether anybody exports it or not; instruments are read
//     when they are scraped. Without a TracerProvider a span is nothing at all.
//  2. No ids. A label value is one of a fixed table of words: the types of
//     labels are closed, and no string can become one. So the number of series
//     is fixed when the program is compiled, and a scrape names nobody.
//  3. A span stands for a group message, a commit or a batch of deliveries,
//     never for a member's delivery. Attributes are computed only while a span
//     records. A span holds counts and words, no ids, no contents.
//
// One Telemetry serves all hosts of a process: two on one MeterProvider would
// write the same series.
package telemetry

import (
	"fmt"
	"slices"
	"sync"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// scope is the instrumentation scope of all instruments and spans.
const scope = "github.com/conclave-chat/conclave"

// The providers' types, so that a caller names them without the dependency.
type (
	TracerProvider = trace.TracerProvider
	MeterProvider  = metric.MeterProvider
)

// Config says where spans and metrics go. The zero value sends them nowhere.
type Config struct {
	TracerProvider TracerProvider
	MeterProvider  MeterProvider
}

// Telemetry is what a host counts. All of it is safe for concurrent use.
type Telemetry struct {
	// Sending, per group message.
	Attempts  By[Kind] // publishes that ended: accepted, refused or timed out
	Published By[Kind] // accepted by the log
	Failed    By[Kind] // given up after the last attempt

	// Receiving, per member.
	Deliveries By[Kind]   // applied to a replica
	Rejected   By[Reason] // refused for good; the cursor went past

	Epochs           Counter      // epochs entered
	Standings        By[Standing] // replicas that came to stand so to their log
	Forks            Counter      // replicas of which a commit log says that the others are elsewhere
	WelcomesRejected Counter      // welcomes that an installation could not or would not use
	StreamsBehind    Counter      // streams told to catch up from the store

	// Actors.
	Live         Levels[Actor] // that have not stopped
	Stalled      Levels[Actor] // that keep crashing, or miss an input
	Passivations By[Actor]     // stops because idle
	Restarts     By[Actor]     // starts after a crash
	Quarantined  By[Actor]     // messages that crashed their actor
	Dead         By[Actor]     // messages that no actor was left to handle

	// Queues.
	Queued Level // messages in all mailboxes

	// The node's services.
	Requests       Counter // answered, errors included
	RequestsFailed Counter // answered with an error
	OverBudget     Counter // of those, for want of a caller's or a group's budget
	Streams        Level   // subscriptions open
	Ready          Level   // 1 where it takes requests, by /readyz
	RequestLatency Histogram

	// Waits.
	PublishLatency Histogram // of the bus: until the log has it
	SaveLatency    Histogram // of the store: until a batch is applied

	tracer trace.Tracer // nil: no spans
	mu     sync.Mutex
	fill   []*func()
	hook   metric.Registration
}

// New registers all instruments with the config's providers.
func New(config Config) (*Telemetry, error) {
	t := &Telemetry{}
	if config.TracerProvider != nil {
		t.tracer = config.TracerProvider.Tracer(scope)
	}
	if config.MeterProvider == nil {
		return t, nil
	}
	if err := t.register(config.MeterProvider.Meter(scope)); err != nil {
		return nil, fmt.Errorf("telemetry: register instruments: %w", err)
	}
	return t, nil
}

// Nop counts for nobody.
func Nop() *Telemetry { return &Telemetry{} }

// BeforeScrape has fill called before every scrape: for levels that are
// computed rather than kept. It returns how to end that.
func (t *Telemetry) BeforeScrape(fill func()) (remove func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &fill
	t.fill = append(t.fill, p)
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.fill = slices.DeleteFunc(t.fill, func(q *func()) bool { return q == p })
	}
}

// Close ends the export. The counters may be used on.
func (t *Telemetry) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hook == nil {
		return nil
	}
	hook := t.hook
	t.hook = nil
	return hook.Unregister()
}
