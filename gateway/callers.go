package gateway

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/time/rate"
)

// A caller is whose credentials, or in an open deployment whose address, a
// request came with. It has a budget of its own.
type caller struct {
	limits           Limits
	calls, publishes *rate.Limiter
	slots            chan struct{} // one for each request that is read, worked on or answered
	waiting, streams atomic.Int64
	line             line
}

// enter waits for a place for one more request, or takes one for a stream.
func (c *caller) enter(ctx context.Context, stream bool) (leave func(), err error) {
	if stream {
		leave = func() { c.streams.Add(-1) }
		if c.streams.Add(1) > int64(c.limits.Streams) {
			leave()
			return nil, exhausted("too many open streams")
		}
		return leave, nil
	}
	leave = func() { <-c.slots }
	select {
	case c.slots <- struct{}{}:
		return leave, nil
	default:
	}
	defer c.waiting.Add(-1)
	if c.waiting.Add(1) > int64(c.limits.Waiting) {
		return nil, exhausted("too many requests at a time")
	}
	select {
	case c.slots <- struct{}{}:
		return leave, nil
	case <-ctx.Done():
		return nil, refusal(ctx, ctx.Err())
	}
}

// spend takes what a request costs out of the caller's budget.
func (c *caller) spend(of class, tokens int) error {
	l := c.calls
	if of.isPublish() {
		l = c.publishes
	}
	if !l.AllowN(time.Now(), tokens) {
		return exhausted("over the rate limit: try again later")
	}
	return nil
}

// callers remembers a bounded number of callers, those of late. A caller is
// forgotten when as many others as half the bound came since its last request.
type callers struct {
	limits Limits
	mu     sync.Mutex
	recent map[string]*caller
	older  map[string]*caller
}

func newCallers(l Limits) *callers {
	return &callers{limits: l, recent: map[string]*caller{}}
}

func (cs *callers) of(name string) *caller {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.recent[name]
	if c != nil {
		return c
	}
	if c = cs.older[name]; c == nil {
		c = &caller{
			limits: cs.limits,
			calls:  cs.limits.Calls.limiter(), publishes: cs.limits.Publishes.limiter(),
			slots: make(chan struct{}, cs.limits.Requests),
		}
	}
	if len(cs.recent) >= max(1, cs.limits.Callers/2) {
		cs.older, cs.recent = cs.recent, map[string]*caller{}
	}
	cs.recent[name] = c
	return c
}

func (r Rate) limiter() *rate.Limiter {
	if r == (Rate{}) {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(float64(r.PerMinute)/60), r.Burst)
}

// identify names who calls: by client certificate, by bearer token, or, where
// anybody may call, by address. Supervisors have no credentials.
func (g *Gateway) identify(r *http.Request) (string, error) {
	if g.open() || r.URL.Path == healthCheck {
		return address(r.RemoteAddr), nil
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		// It was valid when the connection was made, which may last.
		if shown := r.TLS.VerifiedChains[0][0]; shown.Subject.CommonName != "" && time.Now().Before(shown.NotAfter) {
			return shown.Subject.CommonName, nil
		}
	}
	if g.config.Authenticate != nil {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if strings.EqualFold(scheme, "Bearer") {
			if name, ok := g.config.Authenticate(strings.TrimSpace(token)); ok {
				return name, nil
			}
		}
	}
	return "", connect.NewError(connect.CodeUnauthenticated, errCredentials)
}

// address is whom a connection counts for: an IPv4 address, or the 64 bits of an
// IPv6 address that one customer has.
func address(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if ip = ip.Unmap().WithZone(""); ip.Is4() {
		return ip.String()
	}
	return netip.PrefixFrom(ip, 64).Masked().String()
}
