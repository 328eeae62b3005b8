package persistence

import (
	"crypto/sha256"
	"errors"
	"fmt"
)

// The key space of a store, one space a byte:
//
//	0x01 | name                            host row, in the clear
//	0x02 | installation                    the installation's data key, wrapped by its database key
//	0x03 | installation | type | suffix    record, sealed under the data key
//	0x04 | realm | suffix | tag            shared record, sealed under a key from the secret that tag names
//	0x05 | len | group | installation      pin: the lowest epoch whose shared records the member needs
//
// An installation has 32 bytes, a realm 16, a type 1, a tag 8, and len is the
// length of the group id in one byte. Keys lie in the clear on disk: a suffix
// consists of ids, epochs and sequence numbers (big-endian, so that they sort),
// never of a name or of anything derived from a secret. The tag alone comes
// from a secret, through a hash: who lacks the secret learns that two rows have
// the same one, and nothing else.
const (
	spaceHost   = 0x01
	spaceKey    = 0x02
	spaceRecord = 0x03
	spaceShared = 0x04
	spacePin    = 0x05
)

// A RecordType says what a record is about. Whoever stores records of a type
// fixes its number, its plaintext and its suffix; numbers are part of the format.
type RecordType byte

// A Realm is one trust domain: records are shared inside it only.
type Realm [16]byte

const (
	recordPrefixLen = 1 + 32 + 1
	sharedPrefixLen = 1 + len(Realm{})
	tagLen          = 8
)

func hostKey(name string) []byte { return append([]byte{spaceHost}, name...) }

func vaultKey(installation [32]byte) []byte { return append([]byte{spaceKey}, installation[:]...) }

// recordKey returns the key of a record, and of a range of records where suffix
// is a prefix of theirs.
func recordKey(installation [32]byte, t RecordType, suffix []byte) []byte {
	key := make([]byte, 0, recordPrefixLen+len(suffix))
	key = append(key, spaceRecord)
	key = append(key, installation[:]...)
	key = append(key, byte(t))
	return append(key, suffix...)
}

func sharedKey(realm Realm, suffix []byte, secret *[32]byte) []byte {
	tag := sha256.Sum256(append([]byte("conclave shared tag"), secret[:]...))
	key := sharedPrefix(realm, len(suffix)+tagLen)
	key = append(key, suffix...)
	return append(key, tag[:tagLen]...)
}

func sharedPrefix(realm Realm, room int) []byte {
	key := make([]byte, 0, sharedPrefixLen+room)
	key = append(key, spaceShared)
	return append(key, realm[:]...)
}

func pinKey(group []byte, installation [32]byte) []byte {
	return append(pinPrefix(group), installation[:]...)
}

func pinPrefix(group []byte) []byte {
	key := make([]byte, 0, 2+len(group)+32)
	key = append(key, spacePin, byte(len(group)))
	return append(key, group...)
}

// pinOwner returns the installation that a pin belongs to.
func pinOwner(key []byte) (installation [32]byte, err error) {
	if len(key) < 2+32 || len(key) != 2+int(key[1])+32 {
		return installation, fmt.Errorf("%w: pin of %d bytes", ErrDamaged, len(key))
	}
	return [32]byte(key[len(key)-32:]), nil
}

var errGroupID = errors.New("persistence: group id is empty or over 255 bytes")
