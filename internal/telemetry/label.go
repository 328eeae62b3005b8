package telemetry

// A label is a closed enumeration. Its methods are unexported and its values
// are small numbers, so that no other package can make a label out of an id.
type label interface {
	~uint8
	key() string
	words() []string // by value; the first stands for everything unknown
}

// maxWords is the longest table of words: an array instead of a map is what
// makes a labelled counter as cheap as a plain one.
const maxWords = 9

// slot is the place of l in such an array. A number that no constant has may
// land in a place without a word, which is exported as the first.
func slot[L label](l L) int {
	if l < maxWords {
		return int(l)
	}
	return 0
}

// word is the word of l.
func word[L label](l L) string {
	if int(l) < len(l.words()) {
		return l.words()[l]
	}
	return l.words()[0]
}

// A Kind is what a group message is.
type Kind uint8

const (
	KindOther Kind = iota
	KindApplication
	KindCommit
	KindProposal
	KindWelcome
)

var kindWords = []string{"other", "application", "commit", "proposal", "welcome"}

func (Kind) key() string      { return "kind" }
func (Kind) words() []string  { return kindWords }
func (k Kind) String() string { return word(k) }

// An Actor is what an actor is.
type Actor uint8

const (
	ActorOther Actor = iota
	ActorHost
	ActorInstallation
	ActorGroup
	ActorStream
	ActorNode
)

var actorWords = []string{"other", "host", "installation", "group", "stream", "node"}

func (Actor) key() string      { return "actor" }
func (Actor) words() []string  { return actorWords }
func (a Actor) String() string { return word(a) }

// A Reason is why a member refused a message.
type Reason uint8

const (
	ReasonOther         Reason = iota
	ReasonMalformed            // does not decode
	ReasonTooLarge             // over a limit
	ReasonWrongEpoch           // of an epoch that is gone, or a commit that lost
	ReasonUnverified           // a signature, tag or identity that does not hold
	ReasonUndecryptable        // no key, or a generation used before
	ReasonForbidden            // against the group's policy
)

var reasonWords = []string{"other", "malformed", "too_large", "wrong_epoch", "unverified", "undecryptable", "forbidden"}

func (Reason) key() string      { return "reason" }
func (Reason) words() []string  { return reasonWords }
func (r Reason) String() string { return word(r) }

// A Standing is how a member stands to its group's log.
type Standing uint8

const (
	StandingOther Standing = iota
	StandingFollowing
	StandingWaiting
	StandingApart
	StandingLost
	StandingPaused
	StandingRevoked
	StandingStranded
	StandingInactive
)

var standingWords = []string{"other", "following", "waiting", "apart", "lost", "paused", "revoked", "stranded", "inactive"}

func (Standing) key() string      { return "standing" }
func (Standing) words() []string  { return standingWords }
func (s Standing) String() string { return word(s) }
