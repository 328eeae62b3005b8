package group

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"

	"golang.org/x/crypto/chacha20poly1305"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/mls/hpke"
	"github.com/conclave-chat/conclave/proto/contents"
	"github.com/conclave-chat/conclave/proto/mlsapi"
)

// A commit's Welcome is one MLSMessage for all joiners. Each gets it wrapped
// once more to a key of its own, so that the network cannot tell what it is;
// or, where there are many, a pointer to one copy under a shared key.

// ErrWelcome says that a welcome does not open, or is not one.
var ErrWelcome = errors.New("group: welcome does not open")

type wrapper = contents.WelcomeWrapperAlgorithm

const (
	wrapX25519    = contents.WelcomeWrapperAlgorithm_WELCOME_WRAPPER_ALGORITHM_CURVE25519
	wrapXWing     = contents.WelcomeWrapperAlgorithm_WELCOME_WRAPPER_ALGORITHM_XWING_MLKEM_768_DRAFT_6
	wrapSymmetric = contents.WelcomeWrapperAlgorithm_WELCOME_WRAPPER_ALGORITHM_SYMMETRIC_KEY

	pointerXWing  = contents.WelcomePointerWrapperAlgorithm_WELCOME_POINTER_WRAPPER_ALGORITHM_XWING_MLKEM_768_DRAFT_6
	pointeeChaCha = contents.WelcomePointeeEncryptionAeadType_WELCOME_POINTEE_ENCRYPTION_AEAD_TYPE_CHACHA20_POLY1305
)

// pointersAbove is how many capable joiners make a pointer worth its extra
// envelope; real clients point above two.
const pointersAbove = 2

// welcomeInfo is HPKE's info: RFC 9420's EncryptContext, Section 5.1.3, with an
// empty context.
var welcomeInfo = appendVector(appendVector(nil, []byte("MLS 1.0 MLS_WELCOME")), nil)

// A WelcomeEnvelope is a welcome as it stands on an installation's topic.
type WelcomeEnvelope struct {
	Installation []byte
	PublicKey    []byte // of the recipient: says which key package's secrets open it; empty for a pointee
	Pointer      bool   // holds a pointer, not a Welcome

	data, metadata []byte
	algorithm      wrapper
}

// ParseWelcome decodes an envelope's payload.
func ParseWelcome(payload []byte) (*WelcomeEnvelope, error) {
	var m mlsapi.WelcomeMessageInput
	if err := proto.Unmarshal(payload, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWelcome, err)
	}
	switch v := m.Version.(type) {
	case *mlsapi.WelcomeMessageInput_V1_:
		return &WelcomeEnvelope{Installation: v.V1.InstallationKey, PublicKey: v.V1.HpkePublicKey,
			data: v.V1.Data, metadata: v.V1.WelcomeMetadata, algorithm: v.V1.WrapperAlgorithm}, nil
	case *mlsapi.WelcomeMessageInput_WelcomePointer_:
		p := v.WelcomePointer
		return &WelcomeEnvelope{Installation: p.InstallationKey, PublicKey: p.HpkePublicKey, Pointer: true,
			data: p.WelcomePointer, algorithm: wrapXWing}, nil
	}
	return nil, fmt.Errorf("%w: no known version", ErrWelcome)
}

// Sealed is what was wrapped: repeats of a welcome are known by it.
func (e *WelcomeEnvelope) Sealed() []byte { return e.data }

// A Welcome is what a joiner needs of a welcome, out of its wrapping.
type Welcome struct {
	Data    []byte       // an MLSMessage
	Cursor  uint64       // the commit that added the joiner: it reads what follows
	Message *mls.Message // Data parsed, where that was done already
}

// OpenWelcome unwraps a welcome with the secrets of the key package that it
// names.
func OpenWelcome(e *WelcomeEnvelope, s *KeyPackageSecrets) (Welcome, error) {
	if e.Pointer {
		return Welcome{}, fmt.Errorf("%w: it is a pointer", ErrWelcome)
	}
	data, metadata, err := unwrap(e, s)
	if err != nil {
		return Welcome{}, err
	}
	return newWelcome(data, metadata)
}

func newWelcome(data, metadata []byte) (Welcome, error) {
	var m contents.WelcomeMetadata // absent: cursor 0, and older envelopes are read past
	if err := proto.Unmarshal(metadata, &m); err != nil {
		return Welcome{}, fmt.Errorf("%w: metadata: %w", ErrWelcome, err)
	}
	if m.MessageCursor > math.MaxInt64 { // no log counts so far
		return Welcome{}, fmt.Errorf("%w: %w", ErrWelcome, errCursor)
	}
	return Welcome{Data: data, Cursor: m.MessageCursor}, nil
}

// A WelcomePointer says where the Welcome lies, and under which key.
type WelcomePointer struct {
	Destination []byte // topic of the pointee: WelcomesFor(Destination)

	key, dataNonce, metadataNonce []byte
}

// OpenPointer unwraps a welcome pointer.
func OpenPointer(e *WelcomeEnvelope, s *KeyPackageSecrets) (*WelcomePointer, error) {
	if !e.Pointer {
		return nil, fmt.Errorf("%w: it is no pointer", ErrWelcome)
	}
	data, _, err := unwrap(e, s)
	if err != nil {
		return nil, err
	}
	var m contents.WelcomePointer
	if err := proto.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("%w: pointer: %w", ErrWelcome, err)
	}
	p := m.GetWelcomeV1Pointer()
	if p == nil || p.AeadType != pointeeChaCha || len(p.Destination) != 32 ||
		len(p.EncryptionKey) != chacha20poly1305.KeySize ||
		len(p.DataNonce) != chacha20poly1305.NonceSize || len(p.WelcomeMetadataNonce) != chacha20poly1305.NonceSize {
		return nil, fmt.Errorf("%w: malformed pointer", ErrWelcome)
	}
	return &WelcomePointer{p.Destination, p.EncryptionKey, p.DataNonce, p.WelcomeMetadataNonce}, nil
}

// Open unwraps the pointee, the first envelope at the pointer's destination.
func (p *WelcomePointer) Open(e *WelcomeEnvelope) (Welcome, error) {
	if e.Pointer || e.algorithm != wrapSymmetric {
		return Welcome{}, fmt.Errorf("%w: not a pointee", ErrWelcome)
	}
	aead, err := chacha20poly1305.New(p.key)
	if err != nil {
		return Welcome{}, fmt.Errorf("%w: %w", ErrWelcome, err)
	}
	data, err := aead.Open(nil, p.dataNonce, e.data, nil)
	if err != nil {
		return Welcome{}, fmt.Errorf("%w: pointee: %w", ErrWelcome, err)
	}
	var metadata []byte
	if len(e.metadata) > 0 {
		if metadata, err = aead.Open(nil, p.metadataNonce, e.metadata, nil); err != nil {
			return Welcome{}, fmt.Errorf("%w: pointee metadata: %w", ErrWelcome, err)
		}
	}
	return newWelcome(data, metadata)
}

// OpenShared is Open for a host whose installations join by one pointee: the
// first to hold its key decrypts and parses it for all. The pointee must be the
// first envelope at the destination, so that it is one for everybody.
func (p *WelcomePointer) OpenShared(realm *mls.Realm, shared Shared, e *WelcomeEnvelope) (Welcome, error) {
	if shared == nil {
		return p.Open(e)
	}
	h := sha256.New()
	for _, b := range [][]byte{[]byte("pointee"), p.Destination, p.key, p.dataNonce, p.metadataNonce} {
		h.Write(b)
	}
	key := [32]byte(h.Sum(nil))
	if w, ok := shared.Get(key).(Welcome); ok {
		return w, nil
	}
	w, err := p.Open(e)
	if err != nil {
		return Welcome{}, err
	}
	if w.Message, err = realm.Parse(w.Data); err != nil {
		return Welcome{}, fmt.Errorf("%w: %w", ErrWelcome, err)
	}
	shared.Put(key, w)
	return w, nil
}

// unwrap opens both parts, which are the first and second message of one HPKE
// context. The algorithm that the envelope names chooses the private key.
func unwrap(e *WelcomeEnvelope, s *KeyPackageSecrets) (data, metadata []byte, err error) {
	type attempt struct {
		kem             hpke.KEM
		private, public []byte
	}
	var attempts []attempt
	switch {
	case e.algorithm == wrapSymmetric:
		return nil, nil, fmt.Errorf("%w: a pointee without its pointer", ErrWelcome)
	case e.algorithm == wrapXWing && s.WelcomeSeed != nil:
		// The registered KEM id is announced as the deployed one's successor.
		for _, kem := range []hpke.KEM{xwing, hpke.XWing(0x647a)} {
			attempts = append(attempts, attempt{kem, s.WelcomeSeed, s.KeyPackage.wrapper})
		}
	case e.algorithm == wrapXWing:
		return nil, nil, fmt.Errorf("%w: no post-quantum key", ErrWelcome)
	default:
		attempts = []attempt{{hpke.X25519, s.MLS.InitKey, s.KeyPackage.MLS.InitKey}}
	}
	enc, rest, ok := cutVector(e.data)
	ciphertext, rest, ok2 := cutVector(rest)
	if !ok || !ok2 || len(rest) > 0 {
		return nil, nil, fmt.Errorf("%w: malformed ciphertext", ErrWelcome)
	}
	for _, a := range attempts {
		c, setupErr := hpke.Suite{KEM: a.kem, AEAD: hpke.ChaCha20Poly1305}.SetupRecipient(a.private, a.public, enc, welcomeInfo)
		if setupErr != nil {
			err = setupErr
			continue
		}
		if data, err = c.Open(nil, ciphertext); err != nil {
			continue
		}
		if len(e.metadata) > 0 {
			if metadata, err = c.Open(nil, e.metadata); err != nil {
				continue
			}
		}
		return data, metadata, nil
	}
	return nil, nil, fmt.Errorf("%w: %w", ErrWelcome, err)
}

// A joiner is somebody to welcome.
type joiner struct {
	installation []byte
	key          []byte
	algorithm    wrapper
	pointers     bool
}

func joinerOf(k *KeyPackage) joiner {
	if k.wrapper != nil {
		return joiner{k.Installation(), k.wrapper, wrapXWing, k.pointers}
	}
	return joiner{k.Installation(), k.MLS.InitKey, wrapX25519, false}
}

// wrapRandom is enough randomness for any one wrapping.
const wrapRandom = 96

// wrapAll makes the envelopes that bring a Welcome to all joiners: the pointee
// first, so that nobody finds a pointer to nothing. each runs the wrappings,
// which are independent, in parallel where the host gives it processors.
func wrapAll(random io.Reader, each func(int, func(int)), welcome []byte, cursor uint64, joiners []joiner) ([]Outbound, error) {
	metadata := marshal(&contents.WelcomeMetadata{MessageCursor: cursor})
	capable := 0
	for _, j := range joiners {
		if j.pointers {
			capable++
		}
	}
	var out []Outbound
	var pointer []byte
	if capable > pointersAbove {
		pointee, p, err := wrapPointee(random, welcome, metadata)
		if err != nil {
			return nil, err
		}
		out, pointer = append(out, pointee), p
	}
	// Randomness is drawn in order, whatever order the work is done in.
	seeds := make([]byte, wrapRandom*len(joiners))
	if _, err := io.ReadFull(random, seeds); err != nil {
		return nil, fmt.Errorf("group: wrap welcomes: %w", err)
	}
	wrapped, errs := make([]Outbound, len(joiners)), make([]error, len(joiners))
	each(len(joiners), func(i int) {
		seed := bytes.NewReader(seeds[i*wrapRandom:][:wrapRandom])
		wrapped[i], errs[i] = joiners[i].wrap(seed, welcome, metadata, pointer)
	})
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("group: wrap welcomes: %w", err)
	}
	return append(out, wrapped...), nil
}

// wrap makes the envelope of one joiner: a pointer where there is one and the
// joiner reads it.
func (j joiner) wrap(random io.Reader, welcome, metadata, pointer []byte) (Outbound, error) {
	kem := hpke.X25519
	if j.algorithm == wrapXWing {
		kem = xwing
	}
	enc, c, err := hpke.Suite{KEM: kem, AEAD: hpke.ChaCha20Poly1305}.SetupSender(random, j.key, welcomeInfo)
	if err != nil {
		return Outbound{}, err
	}
	plaintext := welcome
	if j.pointers && pointer != nil {
		plaintext = pointer
	}
	ciphertext, err := c.Seal(nil, plaintext)
	if err != nil {
		return Outbound{}, err
	}
	data := appendVector(appendVector(nil, enc), ciphertext)
	m := new(mlsapi.WelcomeMessageInput)
	if j.pointers && pointer != nil {
		m.Version = &mlsapi.WelcomeMessageInput_WelcomePointer_{WelcomePointer: &mlsapi.WelcomeMessageInput_WelcomePointer{
			InstallationKey: j.installation, WelcomePointer: data, HpkePublicKey: j.key, WrapperAlgorithm: pointerXWing}}
	} else {
		if metadata, err = c.Seal(nil, metadata); err != nil {
			return Outbound{}, err
		}
		m.Version = &mlsapi.WelcomeMessageInput_V1_{V1: &mlsapi.WelcomeMessageInput_V1{
			InstallationKey: j.installation, Data: data, HpkePublicKey: j.key,
			WrapperAlgorithm: j.algorithm, WelcomeMetadata: metadata}}
	}
	return Outbound{Topic: TopicWelcomes, ID: j.installation, Payload: marshal(m)}, nil
}

// wrapPointee makes the one copy that pointers lead to, and the pointer.
func wrapPointee(random io.Reader, welcome, metadata []byte) (Outbound, []byte, error) {
	p := &contents.WelcomePointer_WelcomeV1Pointer{
		Destination:          make([]byte, 32),
		AeadType:             pointeeChaCha,
		EncryptionKey:        make([]byte, chacha20poly1305.KeySize),
		DataNonce:            make([]byte, chacha20poly1305.NonceSize),
		WelcomeMetadataNonce: make([]byte, chacha20poly1305.NonceSize),
	}
	for _, b := range [][]byte{p.Destination, p.EncryptionKey, p.DataNonce, p.WelcomeMetadataNonce} {
		if _, err := io.ReadFull(random, b); err != nil {
			return Outbound{}, nil, fmt.Errorf("group: wrap pointee: %w", err)
		}
	}
	if bytes.Equal(p.DataNonce, p.WelcomeMetadataNonce) { // once in 2^96; one key must not seal twice under it
		p.WelcomeMetadataNonce[0] ^= 1
	}
	aead, err := chacha20poly1305.New(p.EncryptionKey)
	if err != nil {
		return Outbound{}, nil, fmt.Errorf("group: wrap pointee: %w", err)
	}
	payload := marshal(&mlsapi.WelcomeMessageInput{Version: &mlsapi.WelcomeMessageInput_V1_{V1: &mlsapi.WelcomeMessageInput_V1{
		InstallationKey:  p.Destination,
		Data:             aead.Seal(nil, p.DataNonce, welcome, nil),
		WrapperAlgorithm: wrapSymmetric,
		WelcomeMetadata:  aead.Seal(nil, p.WelcomeMetadataNonce, metadata, nil),
	}}})
	pointer := marshal(&contents.WelcomePointer{Version: &contents.WelcomePointer_WelcomeV1Pointer_{WelcomeV1Pointer: p}})
	return Outbound{Topic: TopicWelcomes, ID: p.Destination, Payload: payload}, pointer, nil
}
