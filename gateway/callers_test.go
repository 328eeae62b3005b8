package gateway

import (
	"fmt"
	"testing"
)

// However many callers come, the memory of them is bounded, and who calls on is
// not forgotten: a budget is no larger for being one of many.
func TestCallersAreBounded(t *testing.T) {
	cs := newCallers(Limits{Callers: 100, Calls: Rate{PerMinute: 1, Burst: 10}}.withDefaults())
	regular := cs.of("regular")
	for i := range 100_000 {
		cs.of(fmt.Sprint("caller ", i))
		if i%50 == 0 && cs.of("regular") != regular {
			t.Fatalf("forgotten after %d others", i)
		}
		if n := len(cs.recent) + len(cs.older); n > 100 {
			t.Fatalf("%d callers are remembered", n)
		}
	}
	if cs.of("caller 5") == nil || cs.of("regular") != regular {
		t.Error("who calls on is forgotten")
	}
}

// An open deployment knows callers by address: those that one customer has are
// one caller, however they are written.
func TestAddress(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:1":               "192.0.2.1",
		"[::ffff:192.0.2.1]:1":      "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:1":  "2001:db8:1:2::/64",
		"[2001:db8:1:2:ffff::1]:99": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:1":          "fe80::/64",
		"pipe":                      "pipe",
	} {
		if got := address(remote); got != want {
			t.Errorf("%s is %s, want %s", remote, got, want)
		}
	}
}
