package actors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/conclave-chat/conclave/actors/engine"
	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/persistence"
)

// A key package serves for every welcome until the next one replaces it. XMTP's
// clients replace it soon after a welcome, and every thirty days; the secrets of
// the old one open the welcomes that are still on their way. The host does this
// for all its installations, one after another. None has to wake for it but to read
// its welcomes, before secrets that they may need are deleted.
const (
	keyPackageAge   = 30 * 24 * time.Hour
	keyPackageSoon  = 5 * time.Second // after a welcome
	keyPackageKept  = 24 * time.Hour  // the secrets of one that was replaced
	keyPackageRetry = time.Minute     // after an upload that got no answer
	keyPackageScan  = time.Hour       // how often the host looks whose turn it is
	// keyPackageSpace lies between two replacements of a host: a large group that
	// all join at once is not followed by as many uploads at once.
	keyPackageSpace = 50 * time.Millisecond
	// maxRetired bounds what an installation keeps: with as many, a welcome
	// replaces the key package once the oldest of them is deleted.
	maxRetired = 32
)

// A keyRing says what an installation's rows of type typeKeyPackage are.
type keyRing struct {
	Next    time.Time `json:"next"`              // when a new key package is due
	Pending []byte    `json:"pending,omitempty"` // one that is stored here, and maybe not yet on the network
	Retired []retired `json:"retired,omitempty"` // oldest first
}

// retired are the rows of a key package that was replaced.
type retired struct {
	Until time.Time `json:"until"`
	Rows  [][]byte  `json:"rows"`
}

// A keySchedule is what a host remembers of an installation's key packages while it
// is open.
type keySchedule struct {
	turn sync.Mutex // held by whoever replaces

	mu  sync.Mutex
	due time.Time // when there is something to do
}

func (k *keySchedule) set(due time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.due = due
}

// isDue allows for a timer that is ahead of the clock.
func (k *keySchedule) isDue(now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.due.After(now.Add(time.Second))
}

// keyRing reads an installation's ring. One that has none yet has the key
// package it registered with. A welcome since the last replacement makes the
// next one due.
func (s *System) keyRing(ctx context.Context, in *installation) (keyRing, error) {
	ring := keyRing{Next: in.record.Created.Add(keyPackageAge)}
	row, err := in.vault.Get(ctx, typeKeyRing, nil)
	if err == nil {
		err = json.Unmarshal(row, &ring)
	}
	if err != nil && !errors.Is(err, persistence.ErrNotFound) {
		return ring, fmt.Errorf("actors: read key ring: %w", err)
	}
	switch _, err := in.vault.Get(ctx, typeWelcomed, nil); {
	case err == nil && len(ring.Retired) < maxRetired:
		ring.Next = time.Time{}
	case err != nil && !errors.Is(err, persistence.ErrNotFound):
		return ring, fmt.Errorf("actors: read key ring: %w", err)
	}
	return ring, nil
}

// due is when there is something to do for a ring.
func (r *keyRing) due() time.Time {
	if r.Pending != nil {
		return time.Time{}
	}
	if len(r.Retired) > 0 && r.Retired[0].Until.Before(r.Next) {
		return r.Retired[0].Until
	}
	return r.Next
}

// uploadable reports whether there is a pending key package in its lifetime. One
// that waited too long for the network would be of use to nobody.
func (r *keyRing) uploadable(now time.Time) bool {
	if r.Pending == nil {
		return false
	}
	k, err := group.ParseKeyPackage(nil, r.Pending)
	return err == nil && k.ValidAt(now)
}

// welcomed notes in a batch that a welcome used the key package.
func (in *installation) welcomed(b *persistence.Batch) { in.vault.Put(b, typeWelcomed, nil, []byte{}) }

// renewSoon asks for a new key package after a welcome was taken.
func (s *System) renewSoon(in *installation) {
	in.keys.set(s.cfg.Now().Add(keyPackageSoon))
	s.tellHost(keysDue{in, keyPackageSoon})
}

// tellHost tells the host's own actor something that it will find by itself if
// it is just starting.
func (s *System) tellHost(msg any) {
	if ref, ok := s.engine.Lookup(hostName); ok {
		_ = s.engine.Tell(ref, msg)
	}
}

// renew does what is due for an installation's key packages: it deletes the
// secrets of those that were replaced long enough ago, and replaces the newest.
// It returns when to try again where that did not work.
func (s *System) renew(ctx context.Context, in *installation) (retry time.Duration, err error) {
	in.keys.turn.Lock()
	defer in.keys.turn.Unlock()
	ring, err := s.keyRing(ctx, in)
	if err != nil {
		return keyPackageRetry, err
	}
	now := s.cfg.Now()
	if err := s.forgetRetired(ctx, in, &ring, now); err != nil {
		return keyPackageRetry, err
	}
	if ring.Pending == nil && ring.Next.After(now.Add(time.Second)) {
		in.keys.set(ring.due())
		return 0, nil
	}
	if !ring.uploadable(now) {
		if err := s.makeKeyPackage(ctx, in, &ring, now); err != nil {
			return keyPackageRetry, err
		}
	}
	c, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	if err := s.cfg.Network.UploadKeyPackage(c, ring.Pending); err != nil {
		retry = keyPackageRetry
		if refused := new(bus.ServiceError); errors.As(err, &refused) && refused.Code == bus.CodeInvalid {
			retry = keyPackageScan
		}
		in.keys.set(now.Add(retry))
		return retry, fmt.Errorf("actors: upload key package: %w", err)
	}
	if err := s.retire(ctx, in, &ring, now); err != nil {
		return keyPackageRetry, err
	}
	in.keys.set(ring.due())
	return 0, nil
}

// makeKeyPackage stores the secrets of a new key package before anybody can have
// it. What a crash leaves is uploaded by the next turn.
func (s *System) makeKeyPackage(ctx context.Context, in *installation, ring *keyRing, now time.Time) error {
	keyPackage, secrets, err := group.NewKeyPackage(group.KeyPackageConfig{Rand: s.cfg.Rand, Signer: in.env.Signer, Inbox: in.record.Inbox, Now: now})
	if err != nil {
		return err
	}
	sealed, err := secrets.MarshalBinary()
	if err != nil {
		return err
	}
	ring.Pending = keyPackage.MLS.Bytes()
	var b persistence.Batch
	for _, public := range secrets.PublicKeys() {
		in.vault.Put(&b, typeKeyPackage, keyPackageSuffix(public), sealed)
	}
	in.vault.Delete(&b, typeWelcomed, nil)
	return s.saveRing(ctx, in, &b, ring, persistence.Durable)
}

// retire notes that the network has the pending key package: all others that are
// in use until now have been replaced.
func (s *System) retire(ctx context.Context, in *installation, ring *keyRing, now time.Time) error {
	pending, err := group.ParseKeyPackage(nil, ring.Pending)
	if err != nil {
		return fmt.Errorf("%w: pending key package: %w", persistence.ErrDamaged, err)
	}
	known := map[string]bool{}
	for _, public := range pending.PublicKeys() {
		known[string(keyPackageSuffix(public))] = true
	}
	for _, r := range ring.Retired {
		for _, row := range r.Rows {
			known[string(row)] = true
		}
	}
	old := retired{Until: now.Add(keyPackageKept)}
	if err := in.vault.Scan(ctx, typeKeyPackage, nil, nil, func(suffix, _ []byte) bool {
		if !known[string(suffix)] {
			old.Rows = append(old.Rows, slices.Clone(suffix))
		}
		return true
	}); err != nil {
		return fmt.Errorf("actors: read key packages: %w", err)
	}
	if len(old.Rows) > 0 {
		ring.Retired = append(ring.Retired, old)
	}
	ring.Pending, ring.Next = nil, now.Add(keyPackageAge)
	return s.saveRing(ctx, in, new(persistence.Batch), ring, persistence.Lazy)
}

// forgetRetired deletes the secrets that no welcome can be for any more. The
// welcomes are read first: of an installation whose owner is away, those that
// came while a key package served may have waited ever since.
func (s *System) forgetRetired(ctx context.Context, in *installation, ring *keyRing, now time.Time) error {
	if len(ring.Retired) == 0 || ring.Retired[0].Until.After(now) {
		return nil
	}
	c, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	if err := s.SyncWelcomes(c, in.id); err != nil {
		return fmt.Errorf("actors: read welcomes: %w", err)
	}
	var b persistence.Batch
	ring.Retired = slices.DeleteFunc(ring.Retired, func(r retired) bool {
		if r.Until.After(now) {
			return false
		}
		for _, row := range r.Rows {
			in.vault.Delete(&b, typeKeyPackage, row)
		}
		return true
	})
	return s.saveRing(ctx, in, &b, ring, persistence.Lazy)
}

func (s *System) saveRing(ctx context.Context, in *installation, b *persistence.Batch, ring *keyRing, d persistence.Durability) error {
	row, err := json.Marshal(ring)
	if err != nil {
		return fmt.Errorf("actors: encode key ring: %w", err)
	}
	in.vault.Put(b, typeKeyRing, nil, row)
	if err := in.vault.Apply(ctx, b, d); err != nil {
		return fmt.Errorf("actors: store key ring: %w", err)
	}
	return nil
}

// What the host's actor is told of key packages.
type (
	// keysDue asks for a turn.
	keysDue struct {
		in    *installation
		delay time.Duration
	}
	// keysTurn is the turn of whoever is first.
	keysTurn struct{}
	// keysDone says that a turn is over.
	keysDone struct {
		of    *hostActor // who gave it
		in    *installation
		retry time.Duration
	}
	// keysScan looks whose turn it is.
	keysScan struct{}
)

// keyTurns are the installations that wait for their turn, each once.
type keyTurns struct {
	queue  []*installation
	at     map[*installation]time.Time
	taking bool // a timer or a turn is under way
}

func (a *hostActor) keysDue(ctx *engine.Context, in *installation, delay time.Duration) {
	if _, waits := a.turns.at[in]; waits {
		return
	}
	if a.turns.at == nil {
		a.turns.at = map[*installation]time.Time{}
	}
	a.turns.queue = append(a.turns.queue, in)
	a.turns.at[in] = time.Now().Add(delay)
	a.nextTurn(ctx)
}

func (a *hostActor) nextTurn(ctx *engine.Context) {
	if a.turns.taking || len(a.turns.queue) == 0 {
		return
	}
	a.turns.taking = true
	first := a.turns.at[a.turns.queue[0]]
	ctx.After(max(time.Until(first), keyPackageSpace), keysTurn{})
}

func (a *hostActor) keysTurn(ctx *engine.Context) {
	in := a.turns.queue[0]
	a.turns.queue = a.turns.queue[1:]
	delete(a.turns.at, in)
	self, s := ctx.Self(), a.sys
	s.beside(func(c context.Context) {
		var retry time.Duration
		if open, err := s.installation(in.id); err == nil && open == in {
			if retry, err = s.renew(c, in); err != nil && !s.closing() {
				s.log.Warn("key package not replaced", installationAttr(in.id), keyErr, err)
			}
		}
		_ = s.engine.Tell(self, keysDone{a, in, retry})
	})
}

func (a *hostActor) keysDone(ctx *engine.Context, m keysDone) {
	if m.of != a {
		return // of a life before a crash
	}
	a.turns.taking = false
	if m.retry > 0 && m.retry < keyPackageScan {
		a.keysDue(ctx, m.in, m.retry)
	}
	a.nextTurn(ctx)
}

// keysScan gives everybody a turn whose key packages need it now or soon, since
// a life before a crash may have known of that, and comes again.
func (a *hostActor) keysScan(ctx *engine.Context) {
	soon := a.sys.cfg.Now().Add(keyPackageSoon)
	a.sys.mu.RLock()
	var due []*installation
	for _, in := range a.sys.installations {
		if in.keys.isDue(soon) {
			due = append(due, in)
		}
	}
	a.sys.mu.RUnlock()
	for _, in := range due {
		a.keysDue(ctx, in, keyPackageSoon)
	}
	ctx.After(keyPackageScan, keysScan{})
}
