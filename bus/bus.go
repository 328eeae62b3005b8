// Package bus is the port to the message bus: RFC 9750's Delivery Service as
// this house needs it, an ordered log of topics.
//
// # Contract
//
// A bus is a fixed number of shards. A shard is a log: every envelope has a
// sequence in it, and all topics of one group lie in one shard, so that one
// sequence orders a group's commits and messages. Every adapter promises, and
// package bustest checks:
//
//  1. Order. Envelopes of one shard become visible in the order of their IDs,
//     never a lower ID after a higher one; an ID is never reused within one
//     incarnation of the log, and is unique over all shards.
//  2. Durability and read-your-writes. When Publish returns without error the
//     envelope survives a crash, and every later Read by anybody sees it.
//  3. Idempotence. Publishing the same payload to the same topic again within
//     the adapter's window stores it once; where SameAs names a part of it, the
//     same part does. Beyond the window a repeat is stored again: consumers
//     de-duplicate for ever by themselves.
//  4. No gap, no double. A Feed delivers each envelope of a followed topic
//     whose ID is above the starting ID, once, in order, replayed or live. An
//     adapter whose feeds may have gaps says so: Info.Gapless.
//  5. Nothing is dropped. A full bus refuses (ErrFull); it never makes room by
//     forgetting.
//  6. A log that went backwards is said, never skipped: ErrLogRolledBack.
//  7. One cut. A Read of several topics shows the log as it was at one moment
//     after the call began: where it returns an envelope, it returns whatever of
//     its topics lies between the position and that envelope. Whoever reads on
//     from the last one it was given misses nothing.
//
// # What an adapter may do
//
// A caller reckons with all of it. Package memory does it under a seed, and
// package bustest checks that the promises above hold through it.
//
//   - Answers of two calls are of two moments. Others publish between a Last or an
//     End and the Read that follows, and between the topics of one Last. Whoever
//     joins two answers bounds both by one End, asked first.
//   - A failed or timed-out Publish has an unknown outcome unless its error is one
//     of ErrConflict, ErrFull, ErrTooLarge or ErrRefused. It was stored, or never
//     will be, or it lands later, behind whatever others publish until then. The
//     caller reads the log before it sends anything else in its place. A copy that
//     lands after that read is still a copy.
//   - What was published twice may lie in the log twice, however far apart.
//   - A feed lags. What a Publish has acknowledged, or a Read has shown, it brings
//     later.
//   - A feed brings what it took before a Follow, an Unfollow or an
//     ErrLogRolledBack that has come in between, once: of topics that are followed
//     no more, from below the new position, and before it begins there.
//   - A feed that is not Gapless passes over envelopes for ever, without a word, and
//     is in order all the same. What it brings says that there is news; the reader
//     reads from its own cursor, in batches, since each Read is a call over the
//     network. There is no news of what was passed over: the reader looks from time
//     to time.
//   - IDs of a topic have gaps: other topics lie there, or what was forgotten.
//   - Any call fails with ErrUnavailable for a while. One that only asks has changed
//     nothing.
//   - On a foreign log (Info.Foreign) Read, Last and End may be answered by a
//     replica that lags: promise 2 holds later. Promises 1 and 7 hold.
//   - A foreign log holds what nobody here would have taken. An entry that is too
//     large for this host comes as an envelope with an empty payload, to be read
//     past.
//
// Compare-and-set (ExpectLast) is a capability that an adapter may lack; it
// saves work and is never needed for correctness. Following everything
// (Feed.FollowAll) is another, which only a node needs.
package bus

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"
)

// MaxPayload is the default limit of one envelope's payload, in bytes.
const MaxPayload = 2 << 20

// An Envelope is one entry of the log. Payload is opaque to the bus, shared by
// all who receive it, and must not be changed.
type Envelope struct {
	ID      ID
	Topic   Topic
	Time    time.Time // when the log accepted it, by the bus's clock, in UTC
	Payload []byte
}

// An Ack says that an envelope is in the log.
type Ack struct {
	ID        ID        // 0 where the adapter does not learn it: read it back
	Time      time.Time // zero where not learnt
	Duplicate bool      // the same bytes were there before; ID is the first one's
}

// Info describes the deployment behind a bus.
type Info struct {
	Incarnation   string // changes when the log is made anew; an ID means nothing in another incarnation
	Shards        int    // fixed when the deployment is created; 1 to 64
	MaxPayload    int    // bytes
	CompareAndSet bool   // ExpectLast works
	FollowAll     bool   // Feed.FollowAll works

	// Losses is how often an operator accepted that the log has lost entries: see
	// Bus.Lost. What is missing is missed by whoever had not read it.
	Losses int

	// Gapless: a feed keeps contract 4. Where it is false a feed may pass over
	// envelopes for ever: what it delivers is a hint that there is news, and
	// whoever must miss nothing reads from its own cursor.
	Gapless bool

	// Foreign: the log belongs to a network that takes only what it
	// understands and promises less. Its IDs are its own, made by no MakeID.
	// Each group, and the welcomes of each installation, is what is called a
	// shard here; they have no number, and Shards is 1. Publish learns no ID
	// and leaves a TTL to the network, a log that went backwards may go
	// unnoticed, and nothing can be served.
	Foreign bool
}

// A Bus is safe for concurrent use. Every method that waits is bounded by its
// context. Methods that take topics refuse with ErrBadTopic the zero Topic, no
// topic at all, topics of several shards where one is asked for, and an after
// that is a position in another shard.
type Bus interface {
	// Info returns the deployment's constants, read when the bus was opened
	// and again after each reconnect.
	Info() Info

	// Publish appends payload to topic and returns when it is durable.
	Publish(ctx context.Context, topic Topic, payload []byte, opts ...PublishOption) (Ack, error)

	// Read returns up to limit envelopes of the topics, which must lie in one
	// shard (the two of a group do), with IDs above after, in rising order, as
	// one cut: see promise 7. Fewer than limit means that the end was reached, as
	// it was when the call began or later. It returns ErrLogRolledBack where
	// after is beyond the end of the log.
	Read(ctx context.Context, after ID, limit int, topics ...Topic) ([]Envelope, error)

	// Last returns the newest ID of each topic, 0 where it has none, in the
	// order asked: each as it was at a moment of its own, none before the call
	// began. So where none is above a position, nothing was above it when the
	// call began; what lies below the largest is not known. Where both topics of a group are asked for, a foreign log
	// may tell 0 of the older one: the larger is right.
	Last(ctx context.Context, topics ...Topic) ([]ID, error)

	// End returns the newest ID of the shard that holds topic, of whatever
	// topic it is, 0 where the shard is empty.
	End(ctx context.Context, topic Topic) (ID, error)

	// Lost returns the position in topic's shard behind which the log may lack
	// entries whose loss an operator accepted, however often: whoever has read on from
	// there has read what is left. It reports false where none was. It is as
	// Info is: read when the bus was opened, and again after each reconnect.
	Lost(topic Topic) (after ID, lost bool)

	// Open starts a feed that follows nothing yet.
	Open(ctx context.Context) (Feed, error)

	// Request asks the service of that name and returns its answer. It returns
	// ErrNoService where nobody serves it. A handler's error comes back as a
	// *ServiceError.
	Request(ctx context.Context, service string, payload []byte) ([]byte, error)

	// Serve answers requests until the returned stop is called; stop waits for
	// the handlers that run. Handlers run concurrently.
	Serve(service string, handle Handler) (stop func(), err error)

	// Close ends all feeds and services. It is idempotent.
	Close() error
}

// A Handler answers one request. Its context carries the asker's deadline and
// ends when the service's bus is closed; an asker that gives up is not seen.
type Handler func(ctx context.Context, payload []byte) ([]byte, error)

// A Feed delivers what is published to the topics it follows. Follow, Unfollow
// and Close are safe for concurrent use; Next belongs to one reader.
type Feed interface {
	// Follow adds topics of one shard: everything in them with an ID above
	// after is delivered, merged in the order of IDs. Following a topic again
	// restarts it from after. It returns ErrLogRolledBack where after is
	// beyond the end of the log.
	Follow(ctx context.Context, after ID, topics ...Topic) error

	// FollowAll delivers whatever is published from now on to any topic of any
	// shard, in the order of IDs within each shard. The promises are those of
	// Follow: a reader that falls behind catches up from the log. After
	// ErrLogRolledBack it takes up the shard that was dropped, from its end as
	// it is then, and leaves the others as they are. A feed follows topics or
	// everything: whichever is asked for second is refused with ErrBadTopic.
	// An adapter without the capability returns errors.ErrUnsupported.
	FollowAll(ctx context.Context) error

	// Unfollow stops delivery of the topics. Envelopes already taken from the
	// log may still be delivered by the Next that runs.
	Unfollow(topics ...Topic)

	// Next blocks until there is something and returns it as one batch, at
	// most 512 envelopes. It never returns an empty batch without an error.
	// ErrClosed ends the feed. ErrLogRolledBack names a shard that went
	// backwards: the feed has dropped that shard's topics; follow them anew.
	// Any other error is temporary; call Next again.
	Next(ctx context.Context) ([]Envelope, error)

	Close() error
}

// A PublishOption changes one Publish.
type PublishOption func(*PublishOptions)

// PublishOptions is what the options add up to; adapters read it.
type PublishOptions struct {
	ExpectLast bool
	Last       ID
	TTL        time.Duration
	SameAs     []byte
}

// ExpectLast makes the publish conditional: it is refused with ErrConflict
// unless last is the topic's newest ID (0: the topic is empty). An adapter
// without the capability ignores it. A refusal is not proof of defeat, since
// the condition is checked before de-duplication: read the log.
func ExpectLast(last ID) PublishOption {
	return func(o *PublishOptions) { o.ExpectLast, o.Last = true, last }
}

// TTL lets the log forget the envelope after d. Never set on a commit.
func TTL(d time.Duration) PublishOption {
	return func(o *PublishOptions) { o.TTL = d }
}

// SameAs makes the publish a repeat of every other to that topic that names the
// same bytes, whatever else is in their payloads. It is the part of the payload
// that its consumers go by. A foreign log knows its repeats by itself.
func SameAs(part []byte) PublishOption {
	return func(o *PublishOptions) { o.SameAs = part }
}

// RepeatKey is what all repeats of a publish have in common, for adapters. It names
// the topic, so that nobody silences others by what he publishes elsewhere.
func (o PublishOptions) RepeatKey(t Topic, payload []byte) (key [32]byte) {
	h := sha256.New()
	h.Write([]byte(t.String())) // of fixed length for its kind
	if o.SameAs != nil {
		h.Write([]byte("\x00same as\x00"))
		payload = o.SameAs
	}
	h.Write(payload)
	h.Sum(key[:0])
	return key
}

// Gather folds options into one value, for adapters.
func Gather(opts []PublishOption) PublishOptions {
	var o PublishOptions
	for _, f := range opts {
		f(&o)
	}
	return o
}

// Publishing: what a caller does next depends on which.
var (
	// ErrConflict: the ExpectLast condition did not hold. Read the log.
	ErrConflict = errors.New("bus: topic has moved on")
	// ErrFull: the log is at its limit and refuses; nothing was dropped. Wait.
	ErrFull = errors.New("bus: log is full")
	// ErrTooLarge: the payload is over Info.MaxPayload. It will never fit.
	ErrTooLarge = errors.New("bus: payload is over the limit")
	// ErrRefused: the bus understood and said no (permissions, budget).
	ErrRefused = errors.New("bus: refused")
)

// NotStored reports whether a Publish that ended with err has certainly stored
// nothing and never will. Where the same bytes were tried before and got no
// answer, it says nothing of that try.
func NotStored(err error) bool {
	return errors.Is(err, ErrFull) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrRefused)
}

// Reading and connecting.
var (
	// ErrLogRolledBack: the log ends before a position that was read from it,
	// or is another incarnation. Stop sending; read again from what is there.
	ErrLogRolledBack = errors.New("bus: log went backwards")
	// ErrDamaged: the log says of itself that it has lost something between its
	// first and its last entry, or an entry is not what was stored. An operator
	// decides what becomes of it; nothing is skipped before that.
	ErrDamaged = errors.New("bus: log is damaged")
	// ErrUnavailable: the bus cannot be reached now. Wait and try again.
	ErrUnavailable = errors.New("bus: unavailable")
	// ErrNoService: nobody serves that name.
	ErrNoService = errors.New("bus: no such service")
	// ErrClosed: this bus or feed was closed by its owner.
	ErrClosed = errors.New("bus: closed")
)

// A ServiceError is the answer of a service that could not do what was asked.
type ServiceError struct {
	Code    string // a word for programs: "invalid", "not_found", "exhausted", …
	Message string // a sentence for people
}

func (e *ServiceError) Error() string { return "bus: service answered " + e.Code + ": " + e.Message }
