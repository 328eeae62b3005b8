package bus

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// A Topic names one log within a shard. The zero Topic is invalid. Topics are
// made from ids of fixed length only, in this file, so that no wildcard, blank
// or control character can ever be part of one.
type Topic struct {
	kind Kind
	id   [32]byte // a group id fills the first 16
}

// A Kind says what a topic carries.
type Kind uint8

const (
	GroupCommits  Kind = iota + 1 // g.<group>.c: MLS commits
	GroupMessages                 // g.<group>.a: everything else of a group
	Welcomes                      // w.<installation>, or the random topic a welcome pointer names
	Identity                      // i.<inbox>: identity updates; written by the node only
	KeyPackages                   // k.<installation>: key packages; written by the node only
	CommitLog                     // g.<group>.l: what members saw commits do; written by the node only
	GroupReads                    // g.<group>.r: that somebody reads the group; written by the node only
)

// ErrBadTopic: an id of the wrong length, or a string that no builder made.
var ErrBadTopic = errors.New("bus: not a topic")

func build(k Kind, id []byte, n int) (Topic, error) {
	if len(id) != n {
		return Topic{}, fmt.Errorf("%w: id of %d bytes, want %d", ErrBadTopic, len(id), n)
	}
	t := Topic{kind: k}
	copy(t.id[:], id)
	return t, nil
}

// CommitsOf is the topic of a group's commits; group is 16 bytes.
func CommitsOf(group []byte) (Topic, error) { return build(GroupCommits, group, 16) }

// MessagesOf is the topic of all else in a group; group is 16 bytes.
func MessagesOf(group []byte) (Topic, error) { return build(GroupMessages, group, 16) }

// CommitLogOf is the topic of a group's commit log; group is 16 bytes.
func CommitLogOf(group []byte) (Topic, error) { return build(CommitLog, group, 16) }

// ReadsOf is the topic of the notes that a group is read; group is 16 bytes.
func ReadsOf(group []byte) (Topic, error) { return build(GroupReads, group, 16) }

// WelcomesFor is the topic of an installation's welcomes; 32 bytes.
func WelcomesFor(installation []byte) (Topic, error) { return build(Welcomes, installation, 32) }

// IdentityOf is the topic of an inbox's identity updates; 32 bytes.
func IdentityOf(inbox []byte) (Topic, error) { return build(Identity, inbox, 32) }

// KeyPackagesOf is the topic of an installation's key packages; 32 bytes.
func KeyPackagesOf(installation []byte) (Topic, error) {
	return build(KeyPackages, installation, 32)
}

func (t Topic) Kind() Kind { return t.kind }

// ID returns the raw id: 16 bytes for a group, else 32.
func (t Topic) ID() []byte {
	id := t.id // a copy
	switch t.kind {
	case GroupCommits, GroupMessages, CommitLog, GroupReads:
		return id[:16]
	}
	return id[:]
}

// String returns the subject, such as "g.00112233445566778899aabbccddeeff.c".
func (t Topic) String() string {
	id := hex.EncodeToString(t.ID())
	switch t.kind {
	case GroupCommits:
		return "g." + id + ".c"
	case GroupMessages:
		return "g." + id + ".a"
	case CommitLog:
		return "g." + id + ".l"
	case GroupReads:
		return "g." + id + ".r"
	case Welcomes:
		return "w." + id
	case Identity:
		return "i." + id
	case KeyPackages:
		return "k." + id
	}
	return "invalid"
}

// ParseTopic is the inverse of String: it accepts exactly what String returns.
func ParseTopic(s string) (Topic, error) {
	t, ok := parse(s)
	if !ok {
		return Topic{}, fmt.Errorf("%w: %.80q", ErrBadTopic, s)
	}
	return t, nil
}

func parse(s string) (t Topic, ok bool) {
	if len(s) < 2 || s[1] != '.' {
		return Topic{}, false
	}
	body, n := s[2:], 32
	switch s[0] {
	case 'g':
		n = 16
		if len(body) != 2*n+2 || body[2*n] != '.' {
			return Topic{}, false
		}
		switch body[2*n+1] {
		case 'c':
			t.kind = GroupCommits
		case 'a':
			t.kind = GroupMessages
		case 'l':
			t.kind = CommitLog
		case 'r':
			t.kind = GroupReads
		default:
			return Topic{}, false
		}
		body = body[:2*n]
	case 'w':
		t.kind = Welcomes
	case 'i':
		t.kind = Identity
	case 'k':
		t.kind = KeyPackages
	default:
		return Topic{}, false
	}
	if len(body) != 2*n {
		return Topic{}, false
	}
	for i := range n {
		hi, lo := digit(body[2*i]), digit(body[2*i+1])
		if hi|lo > 15 {
			return Topic{}, false
		}
		t.id[i] = hi<<4 | lo
	}
	return t, true
}

// digit is the value of a lower-case hex digit, 255 for anything else:
// upper case would be a second name for one log.
func digit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}

// An ID is the wire id of an envelope: sequence × 64 + shard. It fits an int64,
// is unique over all shards and rises within each. On a foreign log (see
// Info.Foreign) it is the network's own number and has no parts.
type ID uint64

// MaxShards is the number of shards an ID has room for.
const MaxShards = 64

// MakeID is the one place where a sequence (from 1) and a shard become an ID.
func MakeID(sequence uint64, shard int) ID { return ID(sequence*MaxShards + uint64(shard)) }

func (id ID) Sequence() uint64 { return uint64(id) / MaxShards }
func (id ID) Shard() int       { return int(uint64(id) % MaxShards) }

// ShardOf places a topic: by the first bytes of its id, which is random or a
// hash, so both topics of a group meet in one shard.
func ShardOf(t Topic, shards int) int {
	if shards <= 1 {
		return 0
	}
	h := uint32(t.id[0])<<24 | uint32(t.id[1])<<16 | uint32(t.id[2])<<8 | uint32(t.id[3])
	return int(h % uint32(shards))
}

// OneShard returns the shard that all the topics lie in. It is an error if
// they do not, if there is none, or if after is a position in another shard.
func OneShard(shards int, after ID, topics ...Topic) (int, error) {
	if len(topics) == 0 {
		return 0, fmt.Errorf("%w: no topic given", ErrBadTopic)
	}
	shard := ShardOf(topics[0], shards)
	for _, t := range topics {
		if t.kind == 0 {
			return 0, fmt.Errorf("%w: the zero topic", ErrBadTopic)
		}
		if ShardOf(t, shards) != shard {
			return 0, fmt.Errorf("%w: topics of more than one shard", ErrBadTopic)
		}
	}
	if after != 0 && after.Shard() != shard {
		return 0, fmt.Errorf("%w: position in shard %d for topics of shard %d", ErrBadTopic, after.Shard(), shard)
	}
	return shard, nil
}
