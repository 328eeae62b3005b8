package node

import (
	"fmt"
	"testing"
	"time"
)

// B9: whoever makes names up makes nobody remember more than so many, and does
// not fill the bucket of one who publishes all the while.
func TestBucketsAreBounded(t *testing.T) {
	b, at := newBuckets(Budget{PerMinute: 1}), time.Unix(0, 0)
	if r := b.reserve(at, "busy", 1); r.DelayFrom(at) != 0 {
		t.Fatal("a new bucket is not full")
	}
	for i := range 3 * maxBuckets {
		b.reserve(at, fmt.Sprint(i), 1)
		if i%1000 == 0 && b.bucket("busy").TokensAt(at) > 0 {
			t.Fatalf("after %d others a bucket in use is full again", i)
		}
	}
	if n := len(b.young) + len(b.old); n > maxBuckets {
		t.Errorf("%d buckets are remembered, at most %d should be", n, maxBuckets)
	}
}
