package memory_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
)

func topic(t *testing.T, n int) bus.Topic {
	t.Helper()
	m, err := bus.MessagesOf(fmt.Appendf(nil, "%016d", n))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// The same calls give the same log, to the last ID and time.
func TestSameCallsGiveTheSameLog(t *testing.T) {
	run := func() (log []string) {
		at := time.Unix(1_000_000, 0)
		b := memory.New(memory.Config{Shards: 4, Incarnation: "fixed", Now: func() time.Time {
			at = at.Add(time.Millisecond)
			return at
		}})
		defer b.Close()
		for n := range 50 {
			if _, err := b.Publish(t.Context(), topic(t, n%7), fmt.Append(nil, n)); err != nil {
				t.Fatal(err)
			}
		}
		for n := range 7 {
			got, err := b.Read(t.Context(), 0, 100, topic(t, n))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range got {
				log = append(log, fmt.Sprint(e.ID, e.Topic, e.Time, string(e.Payload)))
			}
		}
		return append(log, fmt.Sprint(b.Info()))
	}
	if a, b := fmt.Sprint(run()), fmt.Sprint(run()); a != b {
		t.Fatalf("first\n%s\nthen\n%s", a, b)
	}
}

// Beyond the window a repeat is stored again: consumers de-duplicate for ever.
func TestRepeatBeyondTheWindowIsStoredAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Config{DedupWindow: time.Minute})
		defer b.Close()
		publish := func(want bool) {
			t.Helper()
			if ack, err := b.Publish(t.Context(), topic(t, 1), []byte("x")); err != nil || ack.Duplicate != want {
				t.Fatalf("%+v, %v; want Duplicate %v", ack, err, want)
			}
		}
		publish(false)
		time.Sleep(time.Minute)
		publish(true)
		time.Sleep(time.Second)
		publish(false)
	})
}

// Room is made by what has expired, never by what has not.
func TestFullLogMakesRoomOfTheExpiredOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New(memory.Config{MaxBytes: 400})
		defer b.Close()
		publish := func(payload string, opts ...bus.PublishOption) error {
			_, err := b.Publish(t.Context(), topic(t, 1), fmt.Appendf(nil, "%036s", payload), opts...)
			return err
		}
		if err := publish("kept"); err != nil {
			t.Fatal(err)
		}
		for n := range 3 {
			if err := publish(fmt.Sprint(n), bus.TTL(time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		if err := publish("too much"); err == nil {
			t.Fatal("a full log took one more")
		}
		time.Sleep(time.Second)
		if err := publish("fits"); err != nil {
			t.Fatal(err)
		}
		if got, err := b.Read(t.Context(), 0, 10, topic(t, 1)); err != nil || len(got) != 2 {
			t.Fatalf("%d envelopes, %v", len(got), err)
		}
	})
}
