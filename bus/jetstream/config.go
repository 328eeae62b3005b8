package jetstream

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/conclave-chat/conclave/bus"
)

// Config says where the log is. Exactly one of Dir and URL is needed, the rest
// has defaults.
type Config struct {
	// Dir is the folder of an embedded server. It belongs to one process at a
	// time, which a lock in it enforces.
	Dir string
	// URL is that of a NATS server or of several servers of a cluster,
	// separated by commas, version 2.15.2 or later, with JetStream, a
	// max_payload of 8 MiB and sync_interval: always. A user and password, or a
	// token, that stand in it are Credentials.
	URL string

	// Deployment names the streams: upper-case letters, digits and '-'.
	// CONCLAVE when empty. One server can hold several deployments.
	Deployment string
	// Shards is the number of streams, 1 to 64. It is fixed when a deployment
	// is created: 1 when zero then; later zero means whatever it is, and
	// another number is an error.
	Shards int
	// Replicas of each stream when a deployment is created; 1 when zero.
	Replicas int
	// MaxBytes is the limit of each stream, after which Publish returns
	// bus.ErrFull. When zero, the disk is the limit for a new deployment, and
	// an old one keeps what it has.
	MaxBytes int64
	// MaxPayload is the limit of one envelope in bytes; bus.MaxPayload when
	// zero. A server that accepts less lowers it.
	MaxPayload int

	// SyncInterval is how long the embedded server may wait before it writes
	// to disk what it has acknowledged. Zero means that it never acknowledges
	// what is not on disk.
	SyncInterval time.Duration
	// AcceptLoss opens a log that is damaged with what is left of it: for an
	// operator who has no backup. What is lost stays lost, and Info.Losses says
	// to everybody that there was something.
	AcceptLoss bool
	// Listen opens the embedded server to others: host:port. Off loopback it
	// requires Credentials.User and Password, which they then present.
	Listen string

	// Credentials are presented to URL, or asked of hosts by Listen: HostRights is
	// what they may do. Without any, Listen makes a password, and URL on this
	// machine presents it where both processes are the same user's.
	Credentials Credentials
	// Hosts are the users and passwords of further hosts that reach Listen: whoever
	// shares a user reads the answers that the other one gets, and is shut out with it.
	Hosts []Credentials
	// Nodes is the user and password of other nodes that reach Listen, which have
	// NodeRights; nobody has them when empty. Operators is that of operators, which
	// have OperatorRights.
	Nodes, Operators Credentials
	// InboxPrefix is where answers to this host arrive: the one subject that it
	// needs to subscribe to beside the services that it serves. When empty,
	// <Deployment>.inbox.<Credentials.User or "host">.
	InboxPrefix string

	// Wait has Open wait, until its context ends, for servers at URL that cannot
	// be reached, and log that it does. Credentials that are refused, and a
	// configuration that cannot be meant, are errors at once.
	Wait bool

	// RetryFor is how long a call repeats itself while the bus cannot be
	// reached or elects a leader, unless its context ends before; 15 s when
	// zero. It must stay below the 30 s in which a repeat is recognised.
	RetryFor time.Duration

	// Logger hears about connections, rollbacks and the embedded server;
	// silent when nil.
	Logger *slog.Logger
}

// Credentials prove to a server who the host is. An installation's MLS key
// must never be among them: the server chooses the bytes that are signed.
type Credentials struct {
	User, Password string
	PasswordFile   string      // a one-line file in place of Password; for URL it is read for each connection, for Listen see Bus.ReadPasswords
	NKeySeedFile   string      // file with an NKey seed
	File           string      // .creds file with a JWT and a seed
	TLS            *tls.Config // for URL: the client's; for Listen: the server's

	token string // of URL
}

// String hides the password, as do the other ways to print a Credentials.
func (c Credentials) String() string       { return "[redacted]" }
func (c Credentials) GoString() string     { return "[redacted]" }
func (c Credentials) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// MarshalJSON implements json.Marshaler.
func (c Credentials) MarshalJSON() ([]byte, error) { return []byte(`"[redacted]"`), nil }

// ErrConfig: a Config that cannot be meant.
var ErrConfig = errors.New("jetstream: invalid configuration")

// dedupWindow is how long the streams recognise a repeat.
const dedupWindow = 30 * time.Second

// headroom is what headers and subject may add to a payload.
const headroom = 4 << 10

func (c Config) withDefaults() (Config, error) {
	if (c.Dir == "") == (c.URL == "") {
		return c, fmt.Errorf("%w: exactly one of Dir and URL is needed", ErrConfig)
	}
	if c.Deployment == "" {
		c.Deployment = "CONCLAVE"
	}
	var err error
	if c.URL, c.Credentials, err = splitURL(c.URL, c.Credentials); err != nil {
		return c, err
	}
	for _, r := range c.Deployment {
		if (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' {
			return c, fmt.Errorf("%w: Deployment %q: upper-case letters, digits and '-' only", ErrConfig, c.Deployment)
		}
	}
	if c.Shards < 0 || c.Shards > bus.MaxShards {
		return c, fmt.Errorf("%w: %d shards, at most %d", ErrConfig, c.Shards, bus.MaxShards)
	}
	if c.Replicas < 0 || c.Replicas > 5 || c.MaxBytes < 0 || c.MaxPayload < 0 || c.SyncInterval < 0 {
		return c, fmt.Errorf("%w: Replicas, MaxBytes, MaxPayload or SyncInterval out of range", ErrConfig)
	}
	if c.Dir != "" && c.Replicas > 1 {
		return c, fmt.Errorf("%w: an embedded server has one replica", ErrConfig)
	}
	if c.Dir == "" && (c.Listen != "" || c.SyncInterval != 0 || c.AcceptLoss) {
		return c, fmt.Errorf("%w: Listen, SyncInterval and AcceptLoss belong to an embedded server", ErrConfig)
	}
	c.Replicas = max(c.Replicas, 1)
	if c.MaxPayload == 0 {
		c.MaxPayload = bus.MaxPayload
	}
	if c.MaxPayload > bus.MaxRequest {
		return c, fmt.Errorf("%w: MaxPayload %d, at most %d", ErrConfig, c.MaxPayload, bus.MaxRequest)
	}
	if c.InboxPrefix == "" {
		c.InboxPrefix = c.Deployment + ".inbox." + cmp.Or(c.Credentials.User, "host")
	}
	if strings.ContainsAny(c.InboxPrefix, "*> \t\r\n\x00") || strings.HasSuffix(c.InboxPrefix, ".") {
		return c, fmt.Errorf("%w: InboxPrefix %q is not a subject; set one where the user's name is none", ErrConfig, c.InboxPrefix)
	}
	if c.RetryFor == 0 {
		c.RetryFor = 15 * time.Second
	}
	if c.RetryFor < 0 || c.RetryFor >= dedupWindow {
		return c, fmt.Errorf("%w: RetryFor must be positive and below %v", ErrConfig, dedupWindow)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Listen != "" {
		host, _, err := net.SplitHostPort(c.Listen)
		if err != nil {
			return c, fmt.Errorf("%w: Listen: %w", ErrConfig, err)
		}
		if !isLoopback(host) && !c.Credentials.complete() {
			return c, fmt.Errorf("%w: Listen on %s is reachable from other machines: set Credentials.User and Password", ErrConfig, c.Listen)
		}
		taken := map[string]bool{}
		for n, u := range append([]Credentials{c.Credentials, c.Nodes, c.Operators}, c.Hosts...) {
			if n < 3 && u.User == "" && u.Password == "" && u.PasswordFile == "" {
				continue
			}
			if !u.complete() || taken[u.User] || c.Credentials.User == "" && u.User == localUser {
				return c, fmt.Errorf("%w: Credentials, Hosts, Nodes and Operators each need a User of their own, and a Password", ErrConfig)
			}
			taken[u.User] = true
		}
	}
	return c, nil
}

// splitURL takes the credentials out of a list of URLs: what stands in them would
// be in every error and log line of a connection. No part of them is shown.
func splitURL(urls string, c Credentials) (string, Credentials, error) {
	if !strings.Contains(urls, "@") {
		return urls, c, nil
	}
	var plain []string
	var found *url.Userinfo
	for n, part := range strings.Split(urls, ",") {
		part = strings.TrimSpace(part)
		if !strings.Contains(part, "://") {
			part = "nats://" + part
		}
		u, err := url.Parse(part)
		if err != nil {
			return Redact(urls), c, fmt.Errorf("%w: number %d of the URLs is none; a user and password that are not letters and digits belong in Credentials", ErrConfig, n+1)
		}
		if u.User != nil {
			if found != nil && found.String() != u.User.String() {
				return Redact(urls), c, fmt.Errorf("%w: the URLs name several users: give one, in Credentials", ErrConfig)
			}
			found, u.User = u.User, nil
		}
		plain = append(plain, u.String())
	}
	urls = strings.Join(plain, ",")
	if found == nil {
		return urls, c, nil
	}
	if c.User != "" || c.NKeySeedFile != "" || c.File != "" {
		return urls, c, fmt.Errorf("%w: the URL names a user, and Credentials do too: give one of them", ErrConfig)
	}
	if password, isUser := found.Password(); isUser {
		c.User, c.Password = found.Username(), password
	} else {
		c.token = found.Username()
	}
	return urls, c, nil
}

// userinfo is what may be credentials, up to the host of a URL, and a key before it.
var userinfo = regexp.MustCompile(`(\w+=)?[^\s"']*@`)

// Redact returns a text, such as an error's, without the credentials of URLs in
// it, however malformed those are.
func Redact(text string) string { return userinfo.ReplaceAllString(text, "${1}[redacted]@") }

// RedactURLs returns a list of URLs without their credentials.
func RedactURLs(urls string) string {
	plain, _, _ := splitURL(urls, Credentials{})
	return Redact(plain)
}

// complete says that there are a user and a password.
func (c Credentials) complete() bool {
	return c.User != "" && (c.Password != "") != (c.PasswordFile != "")
}

// none says that there are no credentials.
func (c Credentials) none() bool {
	return c.User == "" && c.token == "" && c.NKeySeedFile == "" && c.File == ""
}

// dialOptions are the credentials as the client library wants them, for a server.
func (c Credentials) dialOptions(server string) ([]nats.Option, error) {
	var opts []nats.Option
	if c.none() {
		opts = append(opts, nats.UserInfoHandler(func() (user, password string) { return findLocalSecret(server) }))
	}
	if c.User != "" && c.PasswordFile == "" {
		opts = append(opts, nats.UserInfo(c.User, c.Password))
	}
	if c.token != "" {
		opts = append(opts, nats.Token(c.token))
	}
	if c.PasswordFile != "" {
		if _, err := ReadSecret(c.PasswordFile); err != nil {
			return nil, err
		}
		opts = append(opts, nats.UserInfoHandler(func() (user, password string) {
			password, _ = ReadSecret(c.PasswordFile) // a file that is being replaced is refused, and read again
			return c.User, password
		}))
	}
	if c.NKeySeedFile != "" {
		o, err := nats.NkeyOptionFromSeed(c.NKeySeedFile)
		if err != nil {
			return nil, fmt.Errorf("read NKey seed: %w", err)
		}
		opts = append(opts, o)
	}
	if c.File != "" {
		opts = append(opts, nats.UserCredentials(c.File))
	}
	if c.TLS != nil {
		opts = append(opts, nats.Secure(c.TLS))
	}
	return opts, nil
}

// ReadSecret reads a file with a secret as its only line.
func ReadSecret(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	secret := strings.TrimRight(string(b), "\r\n")
	if secret == "" || strings.ContainsAny(secret, "\r\n") {
		return "", fmt.Errorf("%s is to hold one line, with the secret", file)
	}
	return secret, nil
}
