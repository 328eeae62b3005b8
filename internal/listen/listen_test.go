package listen

import (
	"net"
	"strings"
	"testing"
)

// What cannot be listened at is said in words that tell what to do.
func TestWhatCannotBeListenedAt(t *testing.T) {
	l, err := TCP("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	_, port, err := net.SplitHostPort(taken)
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		taken:             "port " + port + " is taken: ",
		"203.0.113.7:0":   "203.0.113.7 is no address of this machine: ",
		"here":            `"here" is not host:port`,
		"127.0.0.1:70000": "give host:port with a port from 0 to 65535",
		"no host:0":       `host "no host" has no address: `,
	} {
		if l, err := TCP(address); err == nil {
			l.Close()
			t.Errorf("listens at %s", address)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", address, err)
		}
	}
}
