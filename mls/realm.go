package mls

import (
	"crypto/sha256"
	"runtime"
	"sync"
	"weak"
)

// Level says what the members of a Realm share.
type Level uint8

const (
	// None: nothing. Every member computes for itself.
	None Level = iota
	// Public: what anyone who sees a group's traffic decrypted may know. Parsed
	// messages, ratchet trees, the public outcome of a commit, and signatures
	// that verified. No secret is shared.
	Public
)

// The bounds of what a realm remembers. Each memory holds at most twice that.
const (
	rememberMessages    = 64
	rememberTransitions = 128 // and handshake messages
	rememberKeyPackages = 2048
	rememberSignatures  = 1 << 15
)

// A Realm is one trust domain, whose members may share work: what one of them
// has computed from public bytes, others look up by those bytes' hash. It is
// only ever an accelerator; every result is what the member would have computed
// itself, errors included. A nil Realm shares nothing. It is safe for use by
// several goroutines.
type Realm struct {
	level       Level
	messages    memory[*Message]
	keyPackages memory[*KeyPackage]
	handshakes  memory[*authenticatedContent]
	transitions memory[outcome]
	signatures  memory[struct{}]
	states      interned
}

// NewRealm returns a realm that shares at the given level.
func NewRealm(l Level) *Realm { return &Realm{level: l} }

func (r *Realm) shares() bool { return r != nil && r.level >= Public }

// Parse decodes exactly one MLSMessage. Nothing in it is verified. The message
// keeps b, which must not be modified any more.
func (r *Realm) Parse(b []byte) (*Message, error) {
	if !r.shares() {
		return parseMessage(b)
	}
	key := sha256.Sum256(b)
	if m, ok := r.messages.get(key); ok {
		return m, nil
	}
	m, err := parseMessage(b)
	if err == nil {
		r.messages.put(key, m, rememberMessages)
	}
	return m, err
}

// ParseKeyPackage decodes exactly one KeyPackage (not an MLSMessage) and checks
// it as far as that is possible outside a group: RFC 9420, Section 10.1. The
// lifetime is the caller's to judge. The key package keeps b.
func (r *Realm) ParseKeyPackage(b []byte) (*KeyPackage, error) {
	key := sha256.Sum256(b)
	if r.shares() {
		if k, ok := r.keyPackages.get(key); ok {
			return k, nil
		}
	}
	d := newReader(b)
	k := decodeKeyPackage(d)
	if err := d.end(); err != nil {
		return nil, err
	}
	if err := k.verify(r); err != nil {
		return nil, err
	}
	if r.shares() {
		r.keyPackages.put(key, k, rememberKeyPackages)
	}
	return k, nil
}

// verify is VerifyWithLabel. Only signatures that verified are remembered.
func (r *Realm) verify(suite CipherSuite, public []byte, label string, content, sig []byte) error {
	check := func() error { return suite.verifyWithLabel(public, label, content, sig) }
	if !r.shares() {
		return check()
	}
	return r.remembered(suite, public, label, content, sig, check)
}

// remembered looks up whether a signature over what content names has verified,
// or checks it.
func (r *Realm) remembered(suite CipherSuite, public []byte, label string, content, sig []byte, check func() error) error {
	b := make([]byte, 0, 32+len(public)+len(label)+len(content)+len(sig))
	b = appendVector(appendU16(b, uint16(suite)), public)
	b = appendVector(appendVector(b, []byte(label)), content)
	key := sha256.Sum256(append(b, sig...))
	if _, ok := r.signatures.get(key); ok {
		return nil
	}
	if err := check(); err != nil {
		return err
	}
	r.signatures.put(key, struct{}{}, rememberSignatures)
	return nil
}

// A contentID names the content of a handshake message and the state that it was
// verified in, by their hash. The zero value names nothing.
type contentID [sha256.Size]byte

// handshake returns the verified content of a handshake message: remembered, or
// computed.
func (r *Realm) handshake(id contentID, compute func() (*authenticatedContent, error)) (*authenticatedContent, error) {
	if a, ok := r.handshakes.get(id); ok {
		return a, nil
	}
	a, err := compute()
	if err == nil {
		r.handshakes.put(id, a, rememberTransitions)
	}
	return a, err
}

// transition returns what a commit makes of a state: remembered, or computed.
// Its verdict depends on the state and the commit's content alone, so a refusal
// is remembered like a success. The id may be zero.
func (r *Realm) transition(from *publicState, a *authenticatedContent, id contentID, compute func() (*transition, error)) (*transition, error) {
	if !r.shares() {
		return compute()
	}
	if id == (contentID{}) {
		id = sha256.Sum256(a.append(from.id[:]))
	}
	if o, ok := r.transitions.get(id); ok {
		return o.t, o.err
	}
	t, err := compute()
	if err == nil {
		t.next = r.states.share(t.next)
	}
	r.transitions.put(id, outcome{t, err}, rememberTransitions)
	return t, err
}

type outcome struct {
	t   *transition
	err error
}

// share returns the state that this realm's members of an epoch have in common.
func (r *Realm) share(s *publicState) *publicState {
	if !r.shares() {
		return s
	}
	return r.states.share(s)
}

// shared returns the state with the given id, if some member is in it.
func (r *Realm) shared(id stateID) (*publicState, bool) {
	if !r.shares() {
		return nil, false
	}
	return r.states.get(id)
}

// A memory is a bounded map from hashes to values: what was not asked for while
// limit newer values came is forgotten. The zero value is empty.
type memory[V any] struct {
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]V
}

func (m *memory[V]) get(key [sha256.Size]byte) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.young[key]; ok {
		return v, true
	}
	v, ok := m.old[key]
	if ok {
		m.young[key] = v
	}
	return v, ok
}

func (m *memory[V]) put(key [sha256.Size]byte, v V, limit int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.young == nil || len(m.young) >= limit {
		m.old, m.young = m.young, make(map[[sha256.Size]byte]V)
	}
	m.young[key] = v
}

// interned holds the states that somebody uses, and none that nobody does.
type interned struct {
	mu     sync.Mutex
	states map[stateID]weak.Pointer[publicState]
}

func (i *interned) get(id stateID) (*publicState, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.states[id].Value()
	return s, s != nil
}

func (i *interned) share(s *publicState) *publicState {
	i.mu.Lock()
	defer i.mu.Unlock()
	if known := i.states[s.id].Value(); known != nil {
		return known
	}
	if i.states == nil {
		i.states = make(map[stateID]weak.Pointer[publicState])
	}
	i.states[s.id] = weak.Make(s)
	runtime.AddCleanup(s, i.forget, s.id)
	return s
}

// forget drops the entry of a state that was collected, unless the same state
// has come back since.
func (i *interned) forget(id stateID) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.states[id].Value() == nil {
		delete(i.states, id)
	}
}
