package group

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/mls/hpke"
	"github.com/conclave-chat/conclave/proto/contents"
)

// ErrKeyPackage says that a key package is not one that XMTP's profile can use.
var ErrKeyPackage = errors.New("group: unusable key package")

// A key package is valid for 84 days. It starts an hour early, for clocks that
// differ.
const (
	keyPackageLifetime = 84 * 24 * time.Hour
	keyPackageEarly    = time.Hour
)

// A KeyPackage is a verified key package with what XMTP adds to it.
type KeyPackage struct {
	MLS   *mls.KeyPackage
	Inbox string // whose installation it claims to be; the identity log decides

	wrapper  []byte // the X-Wing key that welcomes are wrapped to; nil: the init key
	pointers bool   // understands welcome pointers
}

// Installation returns the installation's public key.
func (k *KeyPackage) Installation() []byte { return k.MLS.LeafNode.SignatureKey }

// PublicKeys returns the keys to which a welcome may be wrapped.
func (k *KeyPackage) PublicKeys() [][]byte {
	keys := [][]byte{k.MLS.InitKey}
	if k.wrapper != nil {
		keys = append(keys, k.wrapper)
	}
	return keys
}

// ParseKeyPackage decodes and verifies a key package. Its lifetime is judged
// when it is used, see ValidAt.
func ParseKeyPackage(realm *mls.Realm, b []byte) (*KeyPackage, error) {
	k, err := realm.ParseKeyPackage(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeyPackage, err)
	}
	if k.CipherSuite != v3.suite {
		return nil, fmt.Errorf("%w: cipher suite %v", ErrKeyPackage, k.CipherSuite)
	}
	inbox, err := inboxOf(k.LeafNode.Credential)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeyPackage, err)
	}
	// A committer encrypts to whomever it adds: one key that fails would fail
	// the whole commit, or the welcomes of all.
	for _, key := range [][]byte{k.InitKey, k.LeafNode.EncryptionKey} {
		if err := hpke.X25519.TryPublicKey(key); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrKeyPackage, err)
		}
	}
	p := &KeyPackage{MLS: k, Inbox: inbox}
	if data, ok := k.Extensions.Get(extWelcomeWrapper); ok {
		var w contents.WelcomeWrapperEncryption
		if err := proto.Unmarshal(data, &w); err != nil {
			return nil, fmt.Errorf("%w: welcome wrapper: %w", ErrKeyPackage, err)
		}
		// Another algorithm is for newer clients; the init key still serves.
		if w.Algorithm == contents.WelcomeWrapperAlgorithm_WELCOME_WRAPPER_ALGORITHM_XWING_MLKEM_768_DRAFT_6 {
			if err := xwing.TryPublicKey(w.PubKey); err != nil {
				return nil, fmt.Errorf("%w: welcome wrapper: %w", ErrKeyPackage, err)
			}
			p.wrapper = w.PubKey
		}
	}
	if data, ok := k.Extensions.Get(extWelcomePointee); ok {
		var w contents.WelcomePointeeEncryptionAeadTypesExtension
		if err := proto.Unmarshal(data, &w); err != nil {
			return nil, fmt.Errorf("%w: welcome pointee: %w", ErrKeyPackage, err)
		}
		for _, t := range w.SupportedAeadTypes {
			// Pointers are only ever wrapped with X-Wing.
			p.pointers = p.pointers || p.wrapper != nil &&
				t == contents.WelcomePointeeEncryptionAeadType_WELCOME_POINTEE_ENCRYPTION_AEAD_TYPE_CHACHA20_POLY1305
		}
	}
	return p, nil
}

// Lifetime returns from when until when the key package may be used.
func (k *KeyPackage) Lifetime() (notBefore, notAfter time.Time) {
	l := k.MLS.LeafNode.Lifetime
	return unixTime(l.NotBefore), unixTime(l.NotAfter)
}

// unixTime is a time in seconds since 1970; one that no calendar reaches is the
// last that fits.
func unixTime(seconds uint64) time.Time {
	return time.Unix(int64(min(seconds, math.MaxInt32<<8)), 0).UTC()
}

// ValidAt reports whether the key package may be used at a time: it has begun,
// has not ended, and does not last longer than any may.
func (k *KeyPackage) ValidAt(t time.Time) bool { return validLifetime(k.MLS.LeafNode.Lifetime, t) }

func validLifetime(l mls.Lifetime, t time.Time) bool {
	now := uint64(max(t.Unix(), 0))
	longest := uint64((keyPackageLifetime + keyPackageEarly) / time.Second)
	return l.NotBefore < now && now < l.NotAfter && l.NotAfter-l.NotBefore <= longest
}

// KeyPackageConfig says whose key package to make.
type KeyPackageConfig struct {
	Rand   io.Reader
	Signer *mls.Signer
	Inbox  string
	Now    time.Time
}

// NewKeyPackage makes a key package of last resort with a post-quantum key for
// welcomes. It serves for many groups, until the next one replaces it.
func NewKeyPackage(c KeyPackageConfig) (*KeyPackage, *KeyPackageSecrets, error) {
	seed, public, err := xwing.GenerateKey(c.Rand)
	if err != nil {
		return nil, nil, fmt.Errorf("group: generate welcome key: %w", err)
	}
	now := uint64(c.Now.Unix())
	k, secrets, err := mls.NewKeyPackage(mls.KeyPackageConfig{
		Rand:         c.Rand,
		Suite:        v3.suite,
		Signer:       c.Signer,
		Credential:   credentialOf(c.Inbox),
		Capabilities: v3.keyPackage,
		Lifetime: mls.Lifetime{
			NotBefore: now - uint64(keyPackageEarly/time.Second),
			NotAfter:  now + uint64(keyPackageLifetime/time.Second),
		},
		LeafExtensions: mls.Extensions{
			{Type: mls.ExtensionApplicationID, Data: appendVector(nil, []byte(c.Inbox))},
		},
		Extensions: mls.Extensions{
			{Type: mls.ExtensionLastResort, Data: []byte{}},
			{Type: extWelcomePointee, Data: marshal(&contents.WelcomePointeeEncryptionAeadTypesExtension{
				SupportedAeadTypes: []contents.WelcomePointeeEncryptionAeadType{
					contents.WelcomePointeeEncryptionAeadType_WELCOME_POINTEE_ENCRYPTION_AEAD_TYPE_CHACHA20_POLY1305}})},
			{Type: extWelcomeWrapper, Data: marshal(&contents.WelcomeWrapperEncryption{
				PubKey:    public,
				Algorithm: contents.WelcomeWrapperAlgorithm_WELCOME_WRAPPER_ALGORITHM_XWING_MLKEM_768_DRAFT_6})},
		},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("group: make key package: %w", err)
	}
	kp := &KeyPackage{MLS: k, Inbox: c.Inbox, wrapper: public, pointers: true}
	return kp, &KeyPackageSecrets{KeyPackage: kp, MLS: secrets, WelcomeSeed: seed}, nil
}

// KeyPackageSecrets are a key package with its private keys.
type KeyPackageSecrets struct {
	KeyPackage  *KeyPackage
	MLS         *mls.KeyPackageSecrets
	WelcomeSeed []byte // of the X-Wing key, 32 bytes; nil where the key package has none
}

func (*KeyPackageSecrets) String() string   { return "[redacted]" }
func (*KeyPackageSecrets) GoString() string { return "[redacted]" }

// PublicKeys returns the keys to which a welcome may be wrapped: hosts find the
// secrets for a welcome by the key that it names.
func (s *KeyPackageSecrets) PublicKeys() [][]byte { return s.KeyPackage.PublicKeys() }

const keyPackageFormat = 1

// MarshalBinary encodes the secrets for storage.
func (s *KeyPackageSecrets) MarshalBinary() ([]byte, error) {
	private, err := s.MLS.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("group: encode key package secrets: %w", err)
	}
	w := newRow(keyPackageFormat, 2048)
	w.bytes(s.KeyPackage.MLS.Bytes())
	w.bytes(private)
	w.bytes(s.WelcomeSeed)
	return w.b, nil
}

// UnmarshalKeyPackageSecrets decodes what MarshalBinary wrote.
func UnmarshalKeyPackageSecrets(b []byte) (*KeyPackageSecrets, error) {
	r := rowReader(b, keyPackageFormat)
	public, private, seed := r.bytes(), r.bytes(), r.bytes()
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("group: decode key package secrets: %w", err)
	}
	k, err := ParseKeyPackage(nil, public)
	if err != nil {
		return nil, fmt.Errorf("group: decode key package secrets: %w", err)
	}
	s := &KeyPackageSecrets{KeyPackage: k, MLS: new(mls.KeyPackageSecrets)}
	if err := s.MLS.UnmarshalBinary(private); err != nil {
		return nil, fmt.Errorf("group: decode key package secrets: %w", err)
	}
	if len(seed) > 0 {
		s.WelcomeSeed = bytes.Clone(seed)
	}
	return s, nil
}

// xwing is the KEM that wraps welcomes: an early draft's id, which is what
// deployed clients speak. See OpenWelcome for the registered one.
var xwing = hpke.XWing(0x004d)

// credentialOf is a leaf's credential: MlsCredential{inbox_id}.
func credentialOf(inbox string) mls.Credential {
	b := protowire.AppendTag(nil, 1, protowire.BytesType)
	return mls.BasicCredential(protowire.AppendString(b, inbox))
}

var errCredential = errors.New("group: credential names no inbox")

// inboxOf reads the inbox that a leaf claims.
func inboxOf(c mls.Credential) (string, error) {
	if c.Type != mls.CredentialBasic {
		return "", errCredential
	}
	var inbox []byte
	err := eachBytesField(c.Identity, func(n protowire.Number, v []byte) {
		if n == 1 {
			inbox = v
		}
	})
	if err != nil || len(inbox) == 0 {
		return "", errCredential
	}
	return string(inbox), nil
}
