package conclave

import (
	"errors"
	"log/slog"
	"time"

	"github.com/conclave-chat/conclave/actors"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/content"
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
	// ServeNode also serves the network's identity log and key packages; the
	// embedded default always does.
	ServeNode bool

	// Bus and Store stand in for the above. The host does not close them.
	Bus   bus.Bus
	Store persistence.Store

	// Keys wakes installations with the host. Nil: each is opened by its owner.
	Keys KeyProvider

	// Sharing says what co-hosted members of a group may share.
	Sharing Sharing

	// GroupSize is the number of inboxes that a group may grow to by this
	// host's commits; 400 where zero. It never decides what is valid.
	GroupSize int

	// IdleAfter puts a group or installation to sleep that nobody asked
	// anything for so long; a minute where zero. Asleep it costs disk only.
	IdleAfter time.Duration

	// AllowRolledBack opens a store that is older than what was once saved, for
	// reading, and for sending once it has caught up and renewed its keys.
	AllowRolledBack bool

	// Codecs are content types beyond those that are built in.
	Codecs []content.Codec

	// Logger is silent where nil. No key, no plaintext and no whole id goes to it.
	Logger *slog.Logger
	// Telemetry receives spans and counters; nil costs nothing.
	Telemetry *telemetry.Telemetry

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

func (s Sharing) level() mls.Level {
	if s == ShareNone {
		return mls.None
	}
	return mls.Public
}

func (c Config) validate() (Config, error) {
	switch {
	case c.Dir == "" && (c.Store == nil || c.Bus == nil && c.NATS == ""):
		return c, errors.New("conclave: Config.Dir is empty: give a directory, or a Store and a Bus")
	case c.Bus != nil && c.NATS != "":
		return c, errors.New("conclave: Config has both a Bus and a NATS URL: give one")
	case c.GroupSize < 0:
		return c, errors.New("conclave: Config.GroupSize is negative")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, nil
}

func (c Config) groupLimits() group.Limits { return group.Limits{Members: c.GroupSize} }
