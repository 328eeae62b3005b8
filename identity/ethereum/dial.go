package ethereum

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// A ChainsOption changes what NewChains does.
type ChainsOption func(*chainsOptions)

type chainsOptions struct{ private bool }

// AllowPrivate lets the names in the URLs of endpoints lead to addresses that are
// not public, as the names of containers do.
func AllowPrivate() ChainsOption { return func(o *chainsOptions) { o.private = true } }

var errPrivate = errors.New("its name leads to an address that is not public: name the address itself, or allow private ones (Config.ChainsPrivate, serve --rpc-private)")

const (
	dialTimeout = 5 * time.Second
	// replyTimeout bounds the wait for the headers of a reply; askTimeout bounds all.
	replyTimeout = 8 * time.Second
)

// clientFor makes the client of one endpoint. It follows no redirect: the reply of a
// server would choose where the next question goes. The address is judged when it is
// dialed, so that a name which resolves anew is judged anew. A proxy that the
// environment names is dialed like an endpoint.
func clientFor(host string, private bool) *http.Client {
	dialer := &net.Dialer{Timeout: dialTimeout, Control: func(_, address string, _ syscall.RawConn) error {
		if private || mayDial(host, address) {
			return nil
		}
		return errPrivate
	}}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = dialer.DialContext
	transport.ResponseHeaderTimeout = replyTimeout
	transport.MaxResponseHeaderBytes = maxReply
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// mayDial reports whether an endpoint whose URL names a host may be asked at an
// address.
func mayDial(host, address string) bool {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return false
	}
	ip := at.Addr().Unmap()
	if ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() || reserved(ip) {
		return false // nobody's endpoint is there, but services of clouds are
	}
	if !ip.IsPrivate() && !ip.IsLoopback() && !sharedSpace.Contains(ip) {
		return true
	}
	named, err := netip.ParseAddr(host)
	return err == nil && named.Unmap().WithZone("") == ip || host == "localhost" && ip.IsLoopback()
}

var (
	sharedSpace = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598: behind a carrier's NAT, or a cloud's
	reservedIn  = []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("192.0.0.0/24"),
		netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), // an IPv4 address inside, any of them
		netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("2001::/32"),
	}
)

// reserved reports whether an address is for special use, or hides another one.
func reserved(ip netip.Addr) bool {
	for _, p := range reservedIn {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}
