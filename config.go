package conclave

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/conclave-chat/conclave/actors"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/internal/telemetry"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/persistence"
)

// Config says what a host stands on. The zero value but for Dir is a host on
// its own.
type Config struct {
	// Dir holds the store, and the log of the embedded NATS server. One process
	// opens it at a time.
	Dir string

	// NATS is the URL of a server, or of a cluster's servers separated by
	// commas, in place of the embedded one. Somebody must serve the node there:
	// `conclave serve`, or a host with ServeNode.
	NATS string
	// XMTP is the URL of an XMTP network to join in place of all this: the gRPC
	// port of `conclave serve --xmtp`, or of another's deployment. A network
	// that asks for a token or a client certificate is a Bus, see bus/xmtp.
	XMTP string
	// ServeNode also serves the network's identity log and key packages; the
	// embedded default always does, and an XMTP network does it itself.
	ServeNode bool

	// Bus and Store stand in for the above. The host does not close them.
	Bus   bus.Bus
	Store persistence.Store

	// Chains has the URL of a JSON-RPC endpoint, http or https, for each chain id
	// whose smart contract wallets this host asks by itself. Without any it
	// believes what the node says about them.
	Chains map[uint64]string
	// ChainsPrivate lets a name in one of these URLs lead to an address that is not
	// public. An address that a URL names as a number is asked in any case, and so
	// is localhost.
	ChainsPrivate bool

	// Keys wakes installations with the host. Nil: each is opened by its owner.
	Keys KeyProvider

	// Sharing says what co-hosted members of a group may share.
	Sharing Sharing

	// GroupSize is the number of inboxes that a group may grow to by this
	// host's commits; 400 where zero. It never decides what is valid.
	GroupSize int

	// KeyAge is how old the keys may be with which a member sends: past it, and
	// before its first message in a group that it was added to, it renews them.
	// 30 days where zero; negative: only by Group.UpdateKeys.
	KeyAge time.Duration

	// CommitLogEvery is how often the host compares where its groups stand with
	// what others publish of it, see Info.Forked, and publishes its own; 5
	// minutes where zero, never where negative.
	CommitLogEvery time.Duration

	// Admit answers requests as they come: true takes the welcome of somebody whom
	// an installation does not know, to a group whose log it cannot follow. Where it
	// is nil or says no, the request waits for the owner: see Conversations.Requests.
	// The installation's welcomes wait for the answer.
	Admit func(Request) bool

	// IdleAfter puts a group or installation to sleep that nobody asked
	// anything for so long; a minute where zero. Asleep it costs disk only.
	IdleAfter time.Duration

	// AllowRolledBack opens a store that is older than what was once saved, for
	// reading, and for sending once it has caught up and renewed its keys. It is
	// needed once: the store remembers, and each group renews its keys when it
	// next wakes.
	AllowRolledBack bool

	// AcceptLoss opens an embedded log that is damaged with what is left of it, for
	// an operator who has no backup. What is lost stays lost.
	AcceptLoss bool

	// Codecs are content types beyond those that are built in.
	Codecs []Codec

	// Logger is silent where nil. No key, no plaintext and no whole id goes to it.
	Logger *slog.Logger
	// TracerProvider and MeterProvider are OpenTelemetry's own, and receive spans
	// and metrics; nil costs nothing. Two hosts at a time on one MeterProvider would
	// write the same series.
	TracerProvider telemetry.TracerProvider
	MeterProvider  telemetry.MeterProvider

	// Now is the clock; time.Now where nil.
	Now func() time.Time
	// Fault injects failures, to show that a service survives them.
	Fault func(actors.Point) error
}

// Sharing is what co-hosted members of one group share. Every result is the
// same at either level.
type Sharing uint8

const (
	SharePublic Sharing = iota // what every member can see anyway: trees, verdicts, verified signatures
	ShareNone                  // nothing
)

var sharingWords = []string{SharePublic: "public", ShareNone: "none"}

func (s Sharing) String() string {
	if int(s) >= len(sharingWords) {
		return "invalid"
	}
	return sharingWords[s]
}

// MarshalText implements encoding.TextMarshaler.
func (s Sharing) MarshalText() ([]byte, error) {
	if int(s) >= len(sharingWords) {
		return nil, fmt.Errorf("%w: Sharing is %d", ErrInvalid, s)
	}
	return []byte(sharingWords[s]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Sharing) UnmarshalText(text []byte) error {
	i := slices.Index(sharingWords, string(text))
	if i < 0 {
		return fmt.Errorf("%w: %.40q is none of %q", ErrInvalid, text, sharingWords)
	}
	*s = Sharing(i)
	return nil
}

func (s Sharing) level() mls.Level {
	if s == ShareNone {
		return mls.None
	}
	return mls.Public
}

func (c Config) validate() (Config, error) {
	switch {
	case c.Dir == "" && (c.Store == nil || c.embedded()):
		return c, fmt.Errorf("%w: Config.Dir is empty: give a directory, or a Store and a Bus", ErrInvalid)
	case c.Bus != nil && (c.NATS != "" || c.XMTP != "") || c.NATS != "" && c.XMTP != "":
		return c, fmt.Errorf("%w: Config has more than one of Bus, NATS and XMTP: give one", ErrInvalid)
	case c.ServeNode && (c.XMTP != "" || c.Bus != nil && c.Bus.Info().Foreign):
		return c, fmt.Errorf("%w: Config.ServeNode is set, and an XMTP network has its own node: leave it out", ErrInvalid)
	case c.GroupSize < 0:
		return c, fmt.Errorf("%w: Config.GroupSize is %d: give 0 for 400", ErrInvalid, c.GroupSize)
	case c.IdleAfter < 0:
		return c, fmt.Errorf("%w: Config.IdleAfter is %v: give 0 for a minute", ErrInvalid, c.IdleAfter)
	case c.Sharing > ShareNone:
		return c, fmt.Errorf("%w: Config.Sharing is %d: give SharePublic or ShareNone", ErrInvalid, c.Sharing)
	case slices.Contains(c.Codecs, nil):
		return c, fmt.Errorf("%w: Config.Codecs has a nil", ErrInvalid)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, nil
}

// embedded says that the host has its own NATS server.
func (c Config) embedded() bool { return c.Bus == nil && c.NATS == "" && c.XMTP == "" }

func (c Config) groupLimits() group.Limits {
	return group.Limits{Members: c.GroupSize, KeyAge: c.KeyAge}
}
