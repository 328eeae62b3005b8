package group

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// A MessageID identifies a message for all members: it is a hash of the group,
// the sender's idempotency key and the content's exact bytes.
type MessageID [32]byte

func (id MessageID) String() string { return hex.EncodeToString(id[:]) }

// NewMessageID computes the id of a message.
func NewMessageID(group []byte, key string, content []byte) (id MessageID) {
	b := make([]byte, 0, len(group)+len(key)+len(content)+2)
	b = append(append(b, group...), '\t')
	b = append(append(b, key...), '\t')
	return sha256.Sum256(append(b, content...))
}

// A DeliveryStatus says how far a message got. Its numbers are stored.
type DeliveryStatus uint8

const (
	StatusUnpublished DeliveryStatus = 1 // only here so far; shown to its sender as not yet sent
	StatusPublished   DeliveryStatus = 2 // in the group's log, readable by its members
	StatusFailed      DeliveryStatus = 3 // given up; nobody else has it, and nobody will unless it is retried
)

// A MessageKind tells what somebody sent from what a replica wrote down. Its
// numbers are stored.
type MessageKind uint8

const (
	ApplicationMessage MessageKind = 1
	MembershipChange   MessageKind = 2 // the transcript of a commit: content is a GroupUpdated
)

// A Message is one entry of a group's history.
type Message struct {
	ID           MessageID
	Position     Position // where it is in the log; zero unless StatusPublished
	Time         time.Time
	Kind         MessageKind
	Status       DeliveryStatus
	Sender       string // inbox id
	Installation []byte // the sender's, 32 bytes
	Key          string // idempotency key
	Content      []byte // a serialised EncodedContent, exactly as sent
	Push         bool   // only of own messages: whether it asked for a push notification
	Attempts     int    // only of own messages that are not Published
	Reason       string // why it Failed
}

// A Position is a message's place in a group's history, by the log. Positions
// of one group rise. The message's id is part of it, so that messages stay apart
// that had the same place before and after a log went backwards.
type Position struct {
	ID      uint64  // of the envelope
	Message [8]byte // the first bytes of the MessageID
}

func positionOf(id uint64, m MessageID) Position { return Position{id, [8]byte(m[:])} }

func (p Position) key() []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, 16), p.ID), p.Message[:]...)
}

func parsePosition(key []byte) (p Position, ok bool) {
	if len(key) != 16 {
		return p, false
	}
	p.ID = binary.BigEndian.Uint64(key)
	copy(p.Message[:], key[8:])
	return p, true
}

// ErrPlaintext says that an opened message holds no content that this version
// reads.
var ErrPlaintext = errors.New("group: no readable content in message")

// Field numbers of PlaintextEnvelope and its V1. It is read and written on the
// path of every message, so it is done without reflection.
const (
	fieldEnvelopeV1 = 1
	fieldEnvelopeV2 = 2
	fieldContent    = 1
	fieldKey        = 2
)

// encodePlaintext wraps a content as PlaintextEnvelope.V1.
func encodePlaintext(key string, content []byte) []byte {
	n := sizeField(len(content)) + sizeField(len(key))
	b := make([]byte, 0, sizeField(n))
	b = protowire.AppendTag(b, fieldEnvelopeV1, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(n))
	if len(content) > 0 {
		b = protowire.AppendTag(b, fieldContent, protowire.BytesType)
		b = protowire.AppendBytes(b, content)
	}
	if key != "" {
		b = protowire.AppendTag(b, fieldKey, protowire.BytesType)
		b = protowire.AppendString(b, key)
	}
	return b
}

// sizeField is the size of a bytes field below number 16; empty ones are not
// written.
func sizeField(n int) int {
	if n == 0 {
		return 0
	}
	return 1 + protowire.SizeBytes(n)
}

// decodePlaintext reads a PlaintextEnvelope as every protobuf reader does: of
// repeated fields the last wins, messages are merged, of V1 and V2 the later one
// counts. V2 carries only what is not for people; it is not read, as real
// clients do not.
func decodePlaintext(b []byte) (key string, content []byte, err error) {
	var v1 []byte
	err = eachBytesField(b, func(n protowire.Number, v []byte) {
		switch n {
		case fieldEnvelopeV1:
			if v1 == nil {
				v1 = v
			} else {
				v1 = slices.Concat(v1, v) // which merges them
			}
		case fieldEnvelopeV2:
			v1 = nil
		}
	})
	if err != nil {
		return "", nil, err
	}
	if v1 == nil {
		return "", nil, fmt.Errorf("%w: not a V1 envelope", ErrPlaintext)
	}
	err = eachBytesField(v1, func(n protowire.Number, v []byte) {
		switch n {
		case fieldContent:
			content = v
		case fieldKey:
			key = string(v)
		}
	})
	if err == nil && !utf8.ValidString(key) {
		err = fmt.Errorf("%w: key is not UTF-8", ErrPlaintext)
	}
	return key, content, err
}

// eachBytesField walks a protobuf message's length-delimited fields.
func eachBytesField(b []byte, field func(protowire.Number, []byte)) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: %w", ErrPlaintext, protowire.ParseError(n))
		}
		b = b[n:]
		if typ == protowire.BytesType {
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return fmt.Errorf("%w: %w", ErrPlaintext, protowire.ParseError(n))
			}
			field(num, v)
			b = b[n:]
			continue
		}
		n = protowire.ConsumeFieldValue(num, typ, b)
		if n < 0 {
			return fmt.Errorf("%w: %w", ErrPlaintext, protowire.ParseError(n))
		}
		b = b[n:]
	}
	return nil
}

// A HMACKey is an inbox's secret for marking its own messages, so that a push
// server can leave them out without learning anything else. All installations
// of an inbox share it.
type HMACKey []byte

func (HMACKey) String() string   { return "[redacted]" }
func (HMACKey) GoString() string { return "[redacted]" }

// hmacPeriod is how long one derived key is used: 30 days.
const hmacPeriod = 30 * 24 * 60 * 60

// Derive returns the key for one group and period; periods are counted from
// 1970 in steps of 30 days.
func (k HMACKey) Derive(group []byte, period int64) ([]byte, error) {
	ikm := append(append([]byte(nil), k...), group...)
	info := binary.LittleEndian.AppendUint64(append([]byte(nil), group...), uint64(period))
	return hkdf.Key(sha256.New, ikm, []byte("libXMTP HKDF salt!"), string(info), 42)
}

// A PushKey is the key of one period of 30 days in one group: whoever has it can
// tell its inbox's messages from others'. It prints as [redacted].
type PushKey struct {
	Key   []byte
	Epoch int64 // the period, counted from 1970
}

func (PushKey) String() string   { return "[redacted]" }
func (PushKey) GoString() string { return "[redacted]" }

// Around derives the keys of the period at a time, of the one before it and of
// the one after it: a push server is told in advance.
func (k HMACKey) Around(group []byte, at time.Time) (keys []PushKey, err error) {
	now := at.Unix() / hmacPeriod
	for period := now - 1; period <= now+1; period++ {
		key, err := k.Derive(group, period)
		if err != nil {
			return nil, fmt.Errorf("group: derive push key: %w", err)
		}
		keys = append(keys, PushKey{key, period})
	}
	return keys, nil
}

// mark computes an envelope's sender_hmac. Without a key it is zeros, which
// everybody accepts and which hides nothing and tells nothing.
func (k HMACKey) mark(group []byte, at time.Time, data []byte) ([]byte, error) {
	if len(k) == 0 {
		return make([]byte, sha256.Size), nil
	}
	key, err := k.Derive(group, at.Unix()/hmacPeriod)
	if err != nil {
		return nil, fmt.Errorf("group: derive push key: %w", err)
	}
	h := hmac.New(sha256.New, key)
	h.Write(data)
	return h.Sum(nil), nil
}

// EncodeGroupMessage wraps an MLSMessage for the wire.
func EncodeGroupMessage(data, senderHMAC []byte, push bool) []byte {
	return marshal(&mlsapi.GroupMessageInput{Version: &mlsapi.GroupMessageInput_V1_{V1: &mlsapi.GroupMessageInput_V1{
		Data: data, SenderHmac: senderHMAC, ShouldPush: push}}})
}

// DecodeGroupMessage returns the MLSMessage inside an envelope's payload.
func DecodeGroupMessage(payload []byte) (data []byte, err error) {
	var m mlsapi.GroupMessageInput
	if err := proto.Unmarshal(payload, &m); err != nil {
		return nil, fmt.Errorf("group: decode envelope: %w", err)
	}
	v1 := m.GetV1()
	if v1 == nil {
		return nil, fmt.Errorf("group: decode envelope: %w", ErrPlaintext)
	}
	return v1.Data, nil
}

// ErrFraming says that bytes are not a message to a group.
var ErrFraming = errors.New("group: not a message to a group")

// Framing reads from an MLSMessage's cleartext which group it is for, and to
// which of that group's topics it belongs. Proposals go with the commits that they
// are for: nobody gets past an epoch without them. Whether it is of a member, or
// of the epoch that it claims, only members can tell.
func Framing(data []byte) (group []byte, topic Topic, err error) {
	m, err := (*mls.Realm)(nil).Parse(data)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrFraming, err)
	}
	switch m.WireFormat() {
	case mls.WirePublicMessage, mls.WirePrivateMessage:
	default:
		return nil, 0, fmt.Errorf("%w: wire format %d", ErrFraming, m.WireFormat())
	}
	if m.ContentType() == mls.ContentApplication {
		return m.GroupID(), TopicMessages, nil
	}
	return m.GroupID(), TopicCommits, nil
}
