package jetstream

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/conclave-chat/conclave/bus"
)

// A log that goes backwards after its end was asked for, and before that is followed
// from: who followed from there all the same would hear nothing of what comes up to
// it. The end is asked for again.
func TestAFollowThatARewindOvertakes(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	b, err := Open(ctx, Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	m, err := bus.MessagesOf(make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	var end bus.ID
	for n := range 3 {
		ack, err := b.Publish(ctx, m, fmt.Append(nil, n))
		if err != nil {
			t.Fatal(err)
		}
		end = ack.ID
	}
	for name, follow := range map[string]func(f *feed, rewinds int) error{
		"topics":     func(f *feed, rewinds int) error { return f.followTopics(b.tails[0], rewinds, end, []bus.Topic{m}) },
		"everything": func(f *feed, rewinds int) error { return f.followFrom(b.tails[0], rewinds, end) },
	} {
		t.Run(name, func(t *testing.T) {
			opened, err := b.Open(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer opened.Close()
			f := opened.(*feed)
			before := b.tails[0].rewound()
			b.tails[0].rolledBack(jetstream.StreamState{LastSeq: 1}, "a test says so")
			if err := follow(f, before); !errors.Is(err, errRewound) {
				t.Errorf("with an end from before: %v", err)
			}
			if err := follow(f, b.tails[0].rewound()); err != nil {
				t.Errorf("with one from after: %v", err)
			}
		})
	}
}
