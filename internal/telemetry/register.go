package telemetry

import (
	"context"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// register is the table of everything that is exported.
func (t *Telemetry) register(m metric.Meter) error {
	r := &registrar{meter: m}
	counters(r, "conclave.send.attempts", "Publishes that ended.", &t.Attempts)
	counters(r, "conclave.send.published", "Group messages accepted by the log.", &t.Published)
	counters(r, "conclave.send.failed", "Group messages given up.", &t.Failed)
	counters(r, "conclave.receive.deliveries", "Messages applied to a member's replica.", &t.Deliveries)
	counters(r, "conclave.receive.rejected", "Messages that a member's replica refused.", &t.Rejected)
	counter(r, "conclave.receive.epochs", "Epochs entered by members.", &t.Epochs)
	counters(r, "conclave.receive.standings", "Changes of how members stand to their groups' logs.", &t.Standings)
	counter(r, "conclave.receive.forks", "Replicas that stand in another epoch than the group's commit log.", &t.Forks)
	counter(r, "conclave.receive.welcomes.rejected", "Welcomes that an installation did not use.", &t.WelcomesRejected)
	counter(r, "conclave.stream.behind", "Streams told to catch up from the store.", &t.StreamsBehind)
	levels(r, "conclave.actor.live", "Actors that have not stopped.", &t.Live)
	levels(r, "conclave.actor.stalled", "Actors that keep crashing or miss an input.", &t.Stalled)
	counters(r, "conclave.actor.passivations", "Actors stopped because idle.", &t.Passivations)
	counters(r, "conclave.actor.restarts", "Actors started after a crash.", &t.Restarts)
	counters(r, "conclave.actor.quarantined", "Messages that crashed their actor.", &t.Quarantined)
	counters(r, "conclave.actor.dead", "Messages that no actor was left to handle.", &t.Dead)
	level(r, "conclave.queue.depth", "Messages in all mailboxes.", &t.Queued)
	counter(r, "conclave.node.requests", "Requests that the node answered.", &t.Requests)
	counter(r, "conclave.node.requests.failed", "Requests that the node answered with an error.", &t.RequestsFailed)
	counter(r, "conclave.node.requests.over_budget", "Requests that were over their caller's or their group's budget.", &t.OverBudget)
	level(r, "conclave.node.streams", "Subscriptions that are open at the node.", &t.Streams)
	level(r, "conclave.node.ready", "1 where the node takes requests.", &t.Ready)
	histogram(r, "conclave.node.request.duration", "From a request to its answer.", &t.RequestLatency)
	histogram(r, "conclave.publish.duration", "From a publish to its acknowledgement.", &t.PublishLatency)
	histogram(r, "conclave.save.duration", "From a batch to its being applied.", &t.SaveLatency)
	if r.err != nil {
		return r.err
	}
	hook, err := m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		t.mu.Lock()
		fill := slices.Clone(t.fill)
		t.mu.Unlock()
		for _, f := range fill {
			(*f)()
		}
		for _, observe := range r.observe {
			observe(o)
		}
		return nil
	}, r.observed...)
	t.hook = hook
	return err
}

// A registrar makes instruments until the first error.
type registrar struct {
	meter    metric.Meter
	observed []metric.Observable
	observe  []func(metric.Observer)
	err      error
}

// failed keeps the first error.
func (r *registrar) failed(err error) bool {
	if r.err == nil {
		r.err = err
	}
	return r.err != nil
}

func counters[L label](r *registrar, name, what string, by *By[L]) {
	c, err := r.meter.Int64ObservableCounter(name, metric.WithDescription(what))
	if !r.failed(err) {
		r.add(c, labelled[L](), func(i int) int64 { return int64(by.of[i].Value()) })
	}
}

func levels[L label](r *registrar, name, what string, by *Levels[L]) {
	g, err := r.meter.Int64ObservableGauge(name, metric.WithDescription(what))
	if !r.failed(err) {
		r.add(g, labelled[L](), func(i int) int64 { return by.of[i].Value() })
	}
}

// add exports the places that have words, and the others with the first.
func (r *registrar) add(to metric.Int64Observable, options []metric.ObserveOption, value func(int) int64) {
	r.observed = append(r.observed, to)
	r.observe = append(r.observe, func(o metric.Observer) {
		other := value(0)
		for i := len(options); i < maxWords; i++ {
			other += value(i)
		}
		o.ObserveInt64(to, other, options[0])
		for i, option := range options[1:] {
			o.ObserveInt64(to, value(i+1), option)
		}
	})
}

func counter(r *registrar, name, what string, n *Counter) {
	c, err := r.meter.Int64ObservableCounter(name, metric.WithDescription(what))
	if r.failed(err) {
		return
	}
	r.observed = append(r.observed, c)
	r.observe = append(r.observe, func(o metric.Observer) { o.ObserveInt64(c, int64(n.Value())) })
}

func level(r *registrar, name, what string, l *Level) {
	g, err := r.meter.Int64ObservableGauge(name, metric.WithDescription(what))
	if r.failed(err) {
		return
	}
	r.observed = append(r.observed, g)
	r.observe = append(r.observe, func(o metric.Observer) { o.ObserveInt64(g, l.Value()) })
}

func histogram(r *registrar, name, what string, h *Histogram) {
	out, err := r.meter.Float64Histogram(name, metric.WithDescription(what), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10))
	if !r.failed(err) {
		h.out = out
	}
}

// labelled returns one prebuilt option for each word of L.
func labelled[L label]() []metric.ObserveOption {
	var l L
	words := l.words()
	options := make([]metric.ObserveOption, len(words))
	for i, word := range words {
		options[i] = metric.WithAttributeSet(attribute.NewSet(attribute.String(l.key(), word)))
	}
	return options
}
