package gateway

import (
	"cmp"
	"runtime"
	"time"
)

// Limits bound each caller, and Working all of them; zero fields get the default.
type Limits struct {
	// Working is how many requests are worked on at a time while several callers
	// have some; default one for each core. Callers take turns, one has at most
	// half of them, and who has none at work never waits.
	Working int
	// Requests of one caller that are read, worked on and answered at a time;
	// default 4 for each core. The others wait.
	Requests int
	Waiting  int // requests of one caller that wait; default 4,000
	Streams  int // open streams of one caller; default 5,000, half of what a node takes
	Callers  int // that are remembered; default 50,000, about 300 bytes each

	// RequestBytes is for a request that sends messages or welcomes; default 25
	// MiB, what XMTP's clients send at most. Others, and all JSON, have 1 MiB.
	RequestBytes int
	// ReadTimeout is for a whole request to arrive; default two minutes, what XMTP's clients wait for an answer.
	ReadTimeout time.Duration
	// StallTimeout is how long a caller may leave an answer, or a message of a
	// stream, unread before it is cut off; default 30 s.
	StallTimeout time.Duration

	Calls     Rate // of all procedures that do not publish; unlimited when zero
	Publishes Rate // of messages, welcomes, commit log entries, key packages and identity updates; unlimited when zero
}

// A Rate is a token bucket.
type Rate struct {
	PerMinute int // tokens that come back
	Burst     int // tokens in a full bucket
}

// The rates of XMTP's own network, for each caller.
var (
	XMTPCalls     = Rate{PerMinute: 4000, Burst: 20_000}
	XMTPPublishes = Rate{PerMinute: 600, Burst: 3000}
)

func (l Limits) withDefaults() Limits {
	l.Working = cmp.Or(l.Working, runtime.GOMAXPROCS(0))
	l.Requests = cmp.Or(l.Requests, 4*runtime.GOMAXPROCS(0))
	l.Waiting = cmp.Or(l.Waiting, 4000)
	l.Streams = cmp.Or(l.Streams, 5000)
	l.Callers = cmp.Or(l.Callers, 50_000)
	l.RequestBytes = cmp.Or(l.RequestBytes, 25<<20)
	l.ReadTimeout = cmp.Or(l.ReadTimeout, 2*time.Minute)
	l.StallTimeout = cmp.Or(l.StallTimeout, 30*time.Second)
	return l
}
