package group

import (
	"encoding/hex"
	"fmt"
	"slices"
)

// How the values of this package that callers see are written: as words, and ids
// as lower-case hex. It is what JSON and logs show. Nothing that is stored or sent
// is written so.

// wordOf is the word of a value, "invalid" where it has none.
func wordOf[T ~uint8](words []string, v T) string {
	if int(v) >= len(words) || words[v] == "" {
		return "invalid"
	}
	return words[v]
}

// marshalWord writes a value's word. The zero value of a type whose values begin at
// one is empty.
func marshalWord[T ~uint8](words []string, v T) ([]byte, error) {
	if int(v) >= len(words) {
		return nil, fmt.Errorf("%w: %T %d", ErrInvalid, v, v)
	}
	return []byte(words[v]), nil
}

// unmarshalWord reads what marshalWord wrote.
func unmarshalWord[T ~uint8](words []string, v *T, text []byte) error {
	i := slices.Index(words, string(text))
	if i < 0 {
		return fmt.Errorf("%w: %T %.40q is none of %q", ErrInvalid, *v, text, words)
	}
	*v = T(i)
	return nil
}

var (
	roleWords   = []string{Member: "member", Admin: "admin", SuperAdmin: "super_admin"}
	presetWords = []string{PresetDefault: "default", PresetAdminOnly: "admin_only", PresetAllMembers: "all_members"}
	kindWords   = []string{ApplicationMessage: "application", MembershipChange: "membership_change"}
	statusWords = []string{StatusUnpublished: "unpublished", StatusPublished: "published", StatusFailed: "failed"}
)

// Valid reports whether it is one of the roles there are.
func (r Role) Valid() bool { return int(r) < len(roleWords) }

func (r Role) String() string { return wordOf(roleWords, r) }

// MarshalText implements encoding.TextMarshaler.
func (r Role) MarshalText() ([]byte, error) { return marshalWord(roleWords, r) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Role) UnmarshalText(text []byte) error { return unmarshalWord(roleWords, r, text) }

// Valid reports whether it is one of the presets there are.
func (p Preset) Valid() bool { return int(p) < len(presetWords) }

func (p Preset) String() string { return wordOf(presetWords, p) }

// MarshalText implements encoding.TextMarshaler.
func (p Preset) MarshalText() ([]byte, error) { return marshalWord(presetWords, p) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Preset) UnmarshalText(text []byte) error { return unmarshalWord(presetWords, p, text) }

func (k MessageKind) String() string { return wordOf(kindWords, k) }

// MarshalText implements encoding.TextMarshaler.
func (k MessageKind) MarshalText() ([]byte, error) { return marshalWord(kindWords, k) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *MessageKind) UnmarshalText(text []byte) error { return unmarshalWord(kindWords, k, text) }

// Valid reports whether it is one of the statuses there are.
func (s DeliveryStatus) Valid() bool { return s > 0 && int(s) < len(statusWords) }

func (s DeliveryStatus) String() string { return wordOf(statusWords, s) }

// MarshalText implements encoding.TextMarshaler.
func (s DeliveryStatus) MarshalText() ([]byte, error) { return marshalWord(statusWords, s) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *DeliveryStatus) UnmarshalText(text []byte) error { return unmarshalWord(statusWords, s, text) }

func (st Standing) String() string { return wordOf(standingWords, st) }

// MarshalText implements encoding.TextMarshaler.
func (st Standing) MarshalText() ([]byte, error) { return marshalWord(standingWords, st) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (st *Standing) UnmarshalText(text []byte) error {
	return unmarshalWord(standingWords, st, text)
}

// MarshalText implements encoding.TextMarshaler.
func (id MessageID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *MessageID) UnmarshalText(text []byte) error { return ParseID(id[:], string(text)) }

// ParseID reads an id from its lower-case hex digits, as many as it has room for.
// Where they are something else, the id is unchanged.
func ParseID(id []byte, text string) error {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(id) || hex.EncodeToString(b) != text {
		return fmt.Errorf("%w: %.80q is not %d lower-case hex digits", ErrInvalid, text, 2*len(id))
	}
	copy(id, b)
	return nil
}
