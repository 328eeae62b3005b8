package sim

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"time"

	"github.com/conclave-chat/conclave/bus"
	"github.com/conclave-chat/conclave/bus/memory"
	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/persistence"
	storage "github.com/conclave-chat/conclave/persistence/memory"
)

// epochStart is when every world begins.
var epochStart = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// ctx never ends: in here nothing waits.
var ctx = context.Background()

// A world is everything that one seed has.
type world struct {
	seed    uint64
	planned int
	steps   int
	rand    *rand.Rand // what happens
	keys    io.Reader  // what keys are made of
	now     time.Time
	trace   hash.Hash
	log     io.Writer
	plant   plant
	attack  func(*Stage) // may be nil

	faults   map[fault]bool // those that this seed has
	calm     bool           // the tail: no faults any more
	counters map[string]int

	bus    *memory.Bus
	nextID uint64 // of the identity log
	people []*person
	byID   map[string]*person
	hosts  []*host
	homes  []*home
	groups []*truth
	sends  int // numbers messages
	squat  int // so many commits find junk in their place
	strays []stray
	reader *seat    // whose read of the log is under way
	ends   []uint64 // of plantTorn: where the log ended at each read
}

// A host is a process with one store. Its installations share what is public,
// where the seed lets them.
type host struct {
	*world
	index  int
	store  *storage.Store
	realm  *mls.Realm
	shared group.Shared
	space  persistence.Realm
	backup []backupRow

	putBack time.Time // when its store last was
	away    int       // until this step
}

// A home is one installation: its keys, its part of the store, and a seat in
// each group.
type home struct {
	*host
	name     string
	person   *person
	signer   *mls.Signer
	secrets  []*group.KeyPackageSecrets // newest last; those before still open welcomes
	hidden   bool                       // its key package cannot be had
	vault    *persistence.Vault
	key      persistence.Key
	known    map[string]uint64 // by inbox: how far the identity log was verified here
	seats    []*seat
	evil     bool // has broken the rules on purpose: nothing is promised to it
	taken    bool // and runs a client of its own
	restored bool // its store was once put back to an older state
}

func newWorld(seed uint64, o Options) *world {
	w := &world{
		seed:     seed,
		rand:     rand.New(rand.NewPCG(seed, 0x5eed)),
		keys:     rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "keys of %d", seed))),
		now:      epochStart.Add(time.Hour),
		trace:    sha256.New(),
		log:      o.Log,
		plant:    o.plant,
		attack:   o.Attack,
		planned:  o.Steps,
		faults:   map[fault]bool{},
		counters: map[string]int{},
		byID:     map[string]*person{},
	}
	if w.planned == 0 {
		w.planned = 80 + w.rand.IntN(160)
	}
	worst := w.chance(1, 10) // of days
	for _, f := range allFaults {
		n, isRare := rare[f]
		if !isRare {
			n = 3
		}
		w.faults[f] = w.chance(1, n) && !(worst && isRare) || worst && !isRare
	}
	for _, f := range pending {
		w.faults[f] = false
	}
	if w.attack != nil {
		w.underAttack()
	}
	for _, f := range o.With {
		w.faults[fault(f)] = true
	}
	w.faults[faultRewind] = w.faults[faultRewind] || w.faults[faultUnnoticed]
	if w.faults[faultRewind] {
		// An acknowledgement without an ID says nothing about a log that has
		// changed since.
		w.faults[faultNoIDs] = false
	}
	return w
}

// begin makes hosts, people and groups.
func (w *world) begin() {
	all, err := scripts()
	w.must(err)
	w.openLog()
	people := 2 + w.rand.IntN(3)
	if w.chance(1, 8) {
		people = 5 + w.rand.IntN(mostPeople-4)
	}
	level, share := mls.None, w.chance(2, 3)
	if share {
		level = mls.Public
	}
	for i := range 1 + w.rand.IntN(min(3, people)) {
		h := &host{world: w, index: i, store: storage.New(), realm: mls.NewRealm(level), space: persistence.Realm{byte(i)}}
		if share {
			h.shared = memo{}
		}
		w.hosts = append(w.hosts, h)
	}
	for i := range people {
		p := &person{script: all[i], index: i}
		w.people = append(w.people, p)
		w.byID[p.inbox] = p
		w.updateIdentity(p)
		if w.chance(1, 4) {
			w.updateIdentity(p)
		}
	}
	for i := range 1 + w.rand.IntN(6)/5 {
		w.createGroup(i)
	}
}

func (w *world) openLog() {
	w.bus = memory.New(memory.Config{
		Incarnation:     "sim",
		NoCompareAndSet: w.has(faultNoCompareAndSet),
		Now:             func() time.Time { return w.now },
		Faults:          w.torn(),
	})
}

// updateIdentity brings a person's next update into the identity log.
func (w *world) updateIdentity(p *person) bool {
	n := len(p.seqs)
	if n == len(p.states) {
		return false
	}
	w.nextID++
	p.seqs = append(p.seqs, w.nextID)
	w.tell("person %d: update %d is %d", p.index, n, w.nextID)
	if p.adds[n] >= 0 {
		w.install(p, p.adds[n])
	}
	return true
}

func (w *world) install(p *person, n int) {
	h := &home{
		host:   w.hosts[w.rand.IntN(len(w.hosts))],
		name:   fmt.Sprintf("%d.%d", p.index, n),
		person: p,
		signer: p.signers[n],
		known:  map[string]uint64{},
	}
	h.key, h.host.backup = persistence.Key{byte(len(w.homes) + 1)}, nil
	var err error
	h.vault, err = persistence.CreateVault(ctx, h.store, [32]byte(h.signer.Public()), h.key, w.keys)
	w.must(err)
	w.homes = append(w.homes, h)
	h.renewKeyPackage()
	for _, g := range w.groups {
		h.seats = append(h.seats, &seat{home: h, truth: g, pending: map[group.MessageID]bool{}})
	}
}

func (h *home) renewKeyPackage() {
	_, secrets, err := group.NewKeyPackage(group.KeyPackageConfig{Rand: h.keys, Signer: h.signer, Inbox: h.person.inbox, Now: h.now})
	h.must(err)
	h.secrets = append(h.secrets, secrets)
}

// createGroup lets somebody make a group and ask for some members.
func (w *world) createGroup(n int) {
	founder, preset := w.homes[w.rand.IntN(len(w.homes))], group.Preset(w.rand.IntN(3))
	var inboxes []string
	for _, p := range w.people {
		if p.inbox != founder.person.inbox && w.chance(3, 4) {
			inboxes = append(inboxes, p.inbox)
		}
	}
	w.found(n, founder, preset, inboxes)
}

// found makes a group and asks for its members.
func (w *world) found(n int, founder *home, preset group.Preset, inboxes []string) {
	g := newTruth(w, n)
	w.groups = append(w.groups, g)
	for _, h := range w.homes {
		h.seats = append(h.seats, &seat{home: h, truth: g, pending: map[group.MessageID]bool{}})
	}
	s := founder.seats[n]
	s.home.evil = false
	g.founder = s.home
	r, fx, err := group.Create(s.env(), group.CreateConfig{ID: g.id, Name: "a group", Now: w.now, Permissions: preset})
	w.must(err)
	s.replica, s.rows, s.live = r, true, true
	g.found(s)
	var b persistence.Batch
	s.addRows(&b, fx.Save)
	w.must(s.vault.Apply(ctx, &b, persistence.Durable))
	s.carryRest(fx)
	if len(inboxes) > 0 {
		s.submit(group.AddMembers{Inboxes: inboxes})
	}
}

// publish puts an envelope into the log.
func (w *world) publish(t group.Topic, id, payload []byte, opts ...bus.PublishOption) (bus.Ack, error) {
	topic, err := topicOf(t, id)
	w.must(err)
	return w.bus.Publish(ctx, topic, payload, opts...)
}

func topicOf(t group.Topic, id []byte) (bus.Topic, error) {
	switch t {
	case group.TopicCommits:
		return bus.CommitsOf(id)
	case group.TopicMessages:
		return bus.MessagesOf(id)
	}
	return bus.WelcomesFor(id)
}

// end is the newest ID of the log.
func (w *world) end() uint64 {
	id, err := w.bus.End(ctx, w.groups[0].commits)
	w.must(err)
	return uint64(id)
}

// wait lets time pass.
func (w *world) wait(d time.Duration) { w.now = w.now.Add(d) }

func (w *world) chance(n, of int) bool { return w.rand.IntN(of) < n }

// identity is Env.Identity of one installation. Nobody here cites what is not there yet.
func (h *home) identity(inbox string, seq uint64, _ time.Time) (*identity.State, bool) {
	p := h.byID[inbox]
	if p == nil {
		return nil, false
	}
	known := p.newest()
	if h.has(faultLateIdentity) {
		known = h.known[inbox]
	}
	state, exact := p.at(seq, known)
	if !exact && known < seq {
		h.counters[string(faultLateIdentity)]++
	}
	return state, exact
}

// lookUp verifies an inbox's log up to its newest update.
func (h *home) lookUp(inbox string) {
	if p := h.byID[inbox]; p != nil {
		h.known[inbox] = p.newest()
	}
}

// memo is a group.Shared for one goroutine.
type memo map[[32]byte]any

func (m memo) Get(key [32]byte) any    { return m[key] }
func (m memo) Put(key [32]byte, v any) { m[key] = v }
