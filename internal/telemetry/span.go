package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// A Span is one stretch of work. The zero Span records nothing.
type Span struct{ span trace.Span }

// Send begins the span of one group message: from its sealing to the log's
// answer.
func (t *Telemetry) Send(ctx context.Context, kind Kind, bytes int) (context.Context, Span) {
	ctx, s := t.start(ctx, "conclave.send", trace.SpanKindProducer)
	if s.Recording() {
		s.span.SetAttributes(attribute.String("conclave.kind", kind.String()), attribute.Int("conclave.bytes", bytes))
	}
	return ctx, s
}

// Commit begins the span of one commit: from its plan to its merge.
func (t *Telemetry) Commit(ctx context.Context, added, removed int) (context.Context, Span) {
	ctx, s := t.start(ctx, "conclave.commit", trace.SpanKindInternal)
	if s.Recording() {
		s.span.SetAttributes(attribute.Int("conclave.added", added), attribute.Int("conclave.removed", removed))
	}
	return ctx, s
}

// Receive begins the span of a batch of deliveries.
func (t *Telemetry) Receive(messages int) Span {
	_, s := t.start(context.Background(), "conclave.receive", trace.SpanKindConsumer)
	if s.Recording() {
		s.span.SetAttributes(attribute.Int("conclave.messages", messages))
	}
	return s
}

func (t *Telemetry) start(ctx context.Context, name string, kind trace.SpanKind) (context.Context, Span) {
	if t.tracer == nil {
		return ctx, Span{}
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(kind))
	return ctx, Span{span}
}

// Recording tells whether anybody will see the span.
func (s Span) Recording() bool { return s.span != nil && s.span.IsRecording() }

// Fail marks the work as failed. The error's own words stay out of the trace,
// since they may name somebody.
func (s Span) Fail(reason Reason) {
	if s.Recording() {
		s.span.SetStatus(codes.Error, reason.String())
	}
}

// End ends the span.
func (s Span) End() {
	if s.span != nil {
		s.span.End()
	}
}
