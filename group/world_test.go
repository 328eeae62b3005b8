package group_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-chat/conclave/group"
	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/identity/ethereum"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/associations"
	"github.com/conclave-chat/conclave/proto/contents"
)

// A world is what replicas stand in: one log, one identity service, and for
// each installation a store that outlives its replica. Everything in it is
// real but the network, which does what a script says, and the clock.
type world struct {
	t       testing.TB
	rand    *rand.ChaCha8
	now     time.Time
	log     []entry
	lastID  uint64
	damaged uint64            // the first envelope that was lost, and whose loss was accepted; 0: none was
	inboxes map[string]*inbox // by name
	byID    map[string]*inbox // by inbox id
	homes   map[string]*home
	order   []string // homes, as they came
	bodies  sharedRows
	realm   *mls.Realm
	shared  group.Shared
	out     strings.Builder
	many    int // messages that "many" has sent
}

// An entry is one envelope of the log.
type entry struct {
	id      uint64
	at      time.Time
	topic   group.Topic
	key     string // topic id
	payload []byte
}

// An inbox is a person: a wallet and an identity log.
type inbox struct {
	name   string
	id     string
	wallet *ethereum.Key
	log    identity.History
}

// A store is what an installation has on disk.
type store struct {
	rows    rows
	welcome uint64 // last welcome taken
}

func (s store) clone() store { return store{s.rows.clone(), s.welcome} }

// A home is where an installation lives: its keys, its store, and its replica
// while the process runs.
type home struct {
	*world
	name    string
	inbox   *inbox
	signer  *mls.Signer
	secrets *group.KeyPackageSecrets
	replica *group.Replica
	outbox  []group.Outbound
	fetches []group.Fetch
	read    uint64 // mark of a read that is asked for
	resolve []group.IdentityAt
	store
	limits  group.Limits
	offline bool // identities cannot be looked up
	backup  store
	alone   bool
	version string // of the client; empty: this one's
	keyless bool   // its key package cannot be had
	putBack time.Time
	slow    []group.Outbound // publishes without an answer that are still on their way

	again           bool               // it had been a member before
	requests, aside []group.JoinConfig // welcomes that wait for the owner, and for a newer client
	usurped         *mls.Group         // a group of a stranger's, of an id that is another's
}

func newWorld(t testing.TB) *world {
	w := &world{
		t:       t,
		rand:    rand.NewChaCha8(sha256.Sum256([]byte("group scripts"))),
		now:     time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC),
		inboxes: map[string]*inbox{},
		byID:    map[string]*inbox{},
		homes:   map[string]*home{},
		realm:   mls.NewRealm(mls.Public),
		shared:  memo{},
		bodies:  sharedRows{},
	}
	return w
}

// memo is the simplest Shared: one goroutine, one script.
type memo map[[32]byte]any

func (m memo) Get(key [32]byte) any    { return m[key] }
func (m memo) Put(key [32]byte, v any) { m[key] = v }

// install gives a person one more installation; the first one makes the inbox.
func (w *world) install(name, person string) *home {
	in := w.inboxes[person]
	key := sha256.Sum256([]byte("installation " + name))
	private := ed25519.NewKeyFromSeed(key[:])
	signer, err := mls.NewSigner(mls.MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519, key[:])
	w.must(err)
	who, err := identity.InstallationFrom(signer.Public())
	w.must(err)
	var draft *identity.Draft
	if in == nil {
		in, draft = w.newInbox(person, who)
	} else {
		draft = identity.NewDraft(in.id, w.tick()).Add(who, in.wallet.Identifier())
	}
	w.must(draft.Sign(in.wallet))
	w.must(draft.SignInstallation(private))
	w.update(in, draft)
	h := &home{world: w, name: name, inbox: in, signer: signer, store: store{rows: rows{}}, limits: group.Limits{KeyAge: -1}}
	_, h.secrets, err = group.NewKeyPackage(group.KeyPackageConfig{Rand: w.rand, Signer: signer, Inbox: in.id, Now: w.now})
	w.must(err)
	w.homes[name] = h
	w.order = append(w.order, name)
	return h
}

// revoke takes an installation away from its inbox.
func (w *world) revoke(name string) {
	h := w.homes[name]
	who, err := identity.InstallationFrom(h.signer.Public())
	w.must(err)
	draft := identity.NewDraft(h.inbox.id, w.tick()).Revoke(who, h.inbox.wallet.Identifier())
	w.must(draft.Sign(h.inbox.wallet))
	w.update(h.inbox, draft)
}

// double makes an inbox of another wallet, whose installation is another inbox's too.
func (w *world) double(person, name string) {
	key := sha256.Sum256([]byte("installation " + name))
	who, err := identity.InstallationFrom(w.homes[name].signer.Public())
	w.must(err)
	in, draft := w.newInbox(person, who)
	w.must(draft.Sign(in.wallet))
	w.must(draft.SignInstallation(ed25519.NewKeyFromSeed(key[:])))
	w.update(in, draft)
}

// newInbox makes an inbox, and the update that has yet to be signed.
func (w *world) newInbox(person string, first identity.Identifier) (*inbox, *identity.Draft) {
	seed := sha256.Sum256([]byte("wallet " + person))
	wallet, err := ethereum.ParseKey(seed[:])
	w.must(err)
	id, err := identity.InboxID(wallet.Identifier(), identity.DefaultNonce)
	w.must(err)
	in := &inbox{name: person, id: id, wallet: wallet}
	w.inboxes[person], w.byID[id] = in, in
	draft, err := identity.Register(wallet.Identifier(), identity.DefaultNonce, first, w.tick())
	w.must(err)
	return in, draft
}

// takeIn adds an installation to its inbox once more.
func (w *world) takeIn(name string) {
	h := w.homes[name]
	key := sha256.Sum256([]byte("installation " + name))
	who, err := identity.InstallationFrom(h.signer.Public())
	w.must(err)
	draft := identity.NewDraft(h.inbox.id, w.tick()).Add(who, h.inbox.wallet.Identifier())
	w.must(draft.Sign(h.inbox.wallet))
	w.must(draft.SignInstallation(ed25519.NewKeyFromSeed(key[:])))
	w.update(h.inbox, draft)
}

func (w *world) update(in *inbox, draft *identity.Draft) {
	u, err := draft.Update()
	w.must(err)
	in.append(w.t, w.nextID(), w.now, u)
}

func (in *inbox) append(t testing.TB, seq uint64, at time.Time, u *associations.IdentityUpdate) {
	v, err := identity.Verify(u, ethereum.Verifier{})
	if err == nil {
		err = in.log.Append(seq, at, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// at is Env.Identity over a complete log.
func (in *inbox) at(seq uint64, by time.Time) (*identity.State, bool) {
	if in == nil {
		return nil, false
	}
	return in.log.AsOf(seq, by)
}

func (w *world) nextID() uint64 { w.lastID++; return w.lastID }

func (w *world) tick() time.Time {
	w.now = w.now.Add(time.Second)
	return w.now
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// publish appends an envelope to the log.
func (w *world) publish(topic group.Topic, key, payload []byte) entry {
	e := entry{w.nextID(), w.tick(), topic, string(key), payload}
	w.log = append(w.log, e)
	return e
}

// lose takes what lies beyond an ID out of the log.
func (w *world) lose(to string) {
	id, err := strconv.ParseUint(to, 10, 64)
	w.must(err)
	w.log = slices.DeleteFunc(w.log, func(e entry) bool { return e.id > id })
	w.lastID = id
}

// last is the newest ID on a topic.
func (w *world) last(topic group.Topic, key []byte) uint64 {
	for _, e := range slices.Backward(w.log) {
		if e.topic == topic && e.key == string(key) {
			return e.id
		}
	}
	return 0
}

func (w *world) printf(format string, args ...any) { fmt.Fprintf(&w.out, format+"\n", args...) }

func (h *home) env() group.Env {
	e := group.Env{
		Realm:   h.realm,
		Signer:  h.signer,
		Inbox:   h.inbox.id,
		Rand:    h.world.rand,
		Limits:  h.limits,
		Shared:  h.shared,
		Version: h.version,
		PutBack: h.putBack,
		Stored:  h.stored,
		Identity: func(id string, seq uint64, by time.Time) (*identity.State, bool) {
			if h.offline {
				return nil, false
			}
			return h.byID[id].at(seq, by)
		},
	}
	if h.alone {
		e.Realm, e.Shared = nil, nil
	}
	return e
}

// step feeds one input to the replica and carries the effects out.
func (h *home) step(in group.Input) {
	fx, err := h.replica.Step(in)
	if err != nil {
		h.printf("%s: error: %v", h.name, err)
		return
	}
	h.carry(fx)
}

// carry does what a host does: save, then queue what is to be sent, then tell.
func (h *home) carry(fx group.Effects) {
	h.save(fx.Save)
	for _, o := range fx.Send {
		if !fx.Durable {
			h.t.Fatalf("%s sends what is not durable", h.name)
		}
		h.outbox = append(h.outbox, o)
	}
	h.fetches = append(h.fetches, fx.Fetch...)
	if fx.Read != 0 {
		h.read = fx.Read
	}
	if len(fx.Resolve) > 0 {
		h.resolve = fx.Resolve
	}
	for _, e := range fx.Emit {
		h.tell(e)
	}
	if fx.Back != nil {
		h.printf("%s: goes back to %d", h.name, *fx.Back)
		h.rewound(*fx.Back)
	}
}

// rewound tells the replica that the log ends at an ID.
func (h *home) rewound(end uint64) {
	h.outbox = slices.DeleteFunc(h.outbox, func(o group.Outbound) bool { return o.Topic != group.TopicWelcomes })
	h.step(group.Rewound{End: end, Lost: h.damaged > 0, LostAfter: h.damaged - min(h.damaged, 1), Rows: h.reader()})
}

func (h *home) save(list []group.Row) {
	for _, r := range list {
		if len(r.Key) > 64 {
			h.t.Fatalf("key of %d bytes in table %d", len(r.Key), r.Table)
		}
		if r.Table.Shared() {
			h.bodies.put(h.t, r)
		} else {
			h.rows.put(r)
		}
	}
}

// tell prints an event as a person would say it.
func (h *home) tell(e group.Event) {
	switch e := e.(type) {
	case group.MessageChanged:
		h.printf("%s: %s", h.name, h.describe(e.Message))
	case group.EpochChanged:
		h.printf("%s: epoch %d", h.name, e.Epoch)
	case group.Activated:
		by := ""
		if h.again {
			by = ", added again by " + h.byID[e.AddedBy].name
		}
		h.printf("%s: active%s", h.name, by)
	case group.Deactivated:
		h.printf("%s: removed", h.name)
	case group.StandingChanged:
		switch e.Standing {
		case group.Inactive: // said by Deactivated
		case group.Following:
			h.printf("%s: follows again", h.name)
		default:
			h.printf("%s: %v: %s", h.name, e.Standing, h.names(e.Reason))
		}
	case group.Rejected:
		h.printf("%s: rejected envelope %d: %s", h.name, e.ID, h.names(e.Reason.Error()))
	case group.IntentDone:
		var note string
		if len(e.Unreachable) > 0 {
			note = fmt.Sprintf(", unreachable %v", e.Unreachable)
		}
		if e.Err != nil {
			h.printf("%s: intent %d failed: %s%s", h.name, e.Intent, h.names(e.Err.Error()), h.names(note))
		} else {
			h.printf("%s: intent %d done%s", h.name, e.Intent, h.names(note))
		}
	}
}

// names puts people's names in the place of ids.
func (w *world) names(s string) string {
	for _, in := range w.inboxes {
		s = strings.ReplaceAll(s, in.id, in.name)
	}
	for _, h := range w.homes {
		s = strings.ReplaceAll(s, hex.EncodeToString(h.signer.Public()), h.name)
	}
	return s
}

func (w *world) describe(m group.Message) string {
	status := ""
	if m.Status != group.StatusPublished {
		status = fmt.Sprintf(" [%v, %d attempts]", m.Status, m.Attempts)
	}
	if m.Reason != "" {
		status += " because " + m.Reason
	}
	return fmt.Sprintf("%s: %s%s", w.byID[m.Sender].name, w.text(m), status)
}

// text shows a message's content.
func (w *world) text(m group.Message) string {
	var c contents.EncodedContent
	if m.Kind == group.ApplicationMessage {
		return fmt.Sprintf("%q", m.Content)
	}
	w.must(proto.Unmarshal(m.Content, &c))
	var u contents.GroupUpdated
	w.must(proto.Unmarshal(c.Content, &u))
	var parts []string
	for _, l := range []struct {
		what string
		list []*contents.GroupUpdated_Inbox
	}{
		{"added", u.AddedInboxes}, {"removed", u.RemovedInboxes}, {"left", u.LeftInboxes},
		{"admin", u.AddedAdminInboxes}, {"no admin", u.RemovedAdminInboxes},
		{"super admin", u.AddedSuperAdminInboxes}, {"no super admin", u.RemovedSuperAdminInboxes},
	} {
		var who []string
		for _, in := range l.list {
			if known := w.byID[in.InboxId]; known != nil {
				who = append(who, known.name)
			} else {
				who = append(who, "somebody")
			}
		}
		if len(who) > 0 {
			slices.Sort(who)
			parts = append(parts, l.what+" "+strings.Join(who, " "))
		}
	}
	for _, f := range u.MetadataFieldChanges {
		parts = append(parts, fmt.Sprintf("%s %q -> %q", f.FieldName, f.GetOldValue(), f.GetNewValue()))
	}
	return "(" + strings.Join(parts, ", ") + ")"
}

// service answers what does not depend on the group's log, until nothing is
// asked any more.
func (h *home) service() {
	for h.replica != nil && !h.offline && (len(h.fetches) > 0 || len(h.resolve) > 0) {
		if len(h.resolve) > 0 {
			h.resolve = nil
			h.step(group.Resolved{})
			continue
		}
		f := h.fetches[0]
		h.fetches = h.fetches[1:]
		answer := group.Fetched{Intent: f.Intent, Now: h.tick()}
		for _, id := range f.Inboxes {
			answer.Inboxes = append(answer.Inboxes, h.fetch(id))
		}
		h.step(answer)
	}
}

func (w *world) fetch(id string) group.FetchedInbox {
	out := group.FetchedInbox{Inbox: id}
	in := w.byID[id]
	if in == nil {
		return out
	}
	out.Sequence = in.log.LatestID()
	for _, name := range w.order {
		if h := w.homes[name]; h.inbox == in && !h.keyless {
			out.KeyPackages = append(out.KeyPackages, h.secrets.KeyPackage.MLS.Bytes())
		}
	}
	return out
}

// send puts the outbox into the log, as the bus would do on a good day, or as
// the fault says.
func (h *home) send(fault string) {
	h.service()
	for len(h.outbox) > 0 {
		o := h.outbox[0]
		h.outbox = h.outbox[1:]
		if o.Topic == group.TopicWelcomes {
			h.publish(o.Topic, o.ID, o.Payload)
			if !slices.ContainsFunc(h.outbox, func(p group.Outbound) bool {
				return p.Topic == group.TopicWelcomes && p.Intent == o.Intent
			}) {
				h.printf("%s: welcomes of intent %d are out", h.name, o.Intent)
				h.step(group.WelcomesSent{Intent: o.Intent})
			}
			continue
		}
		what := "message"
		if o.Topic == group.TopicCommits {
			what = "commit"
		}
		switch fault {
		case "refused":
			h.printf("%s: %s of intent %d refused", h.name, what, o.Intent)
			h.step(group.Refused{Intent: o.Intent, Reason: "bus says no"})
		case "final":
			h.printf("%s: %s of intent %d refused for good", h.name, what, o.Intent)
			h.step(group.Refused{Intent: o.Intent, Reason: "bus says never", Final: true})
		case "late":
			h.printf("%s: %s of intent %d gets no answer, and is on its way", h.name, what, o.Intent)
			h.slow = append(h.slow, o)
			h.step(group.Unknown{Intent: o.Intent})
		case "lost":
			h.printf("%s: %s of intent %d lost without an answer", h.name, what, o.Intent)
			h.step(group.Unknown{Intent: o.Intent})
		default:
			if last := h.last(o.Topic, o.ID); o.ExpectLast && last != o.Last && fault != "nocas" {
				h.printf("%s: %s of intent %d conflicts", h.name, what, o.Intent)
				h.step(group.Conflict{Intent: o.Intent})
				break
			}
			e := h.publish(o.Topic, o.ID, o.Payload)
			if fault == "unanswered" {
				h.printf("%s: %s of intent %d is envelope %d, no answer", h.name, what, o.Intent, e.id)
				h.step(group.Unknown{Intent: o.Intent})
				break
			}
			h.printf("%s: %s of intent %d is envelope %d", h.name, what, o.Intent, e.id)
			h.step(group.Published{Intent: o.Intent, ID: e.id})
		}
		if fault != "" && fault != "nocas" {
			return // one at a time
		}
		h.service()
	}
}

// deliver brings an installation everything in the log that it has not read:
// welcomes first, then the group.
func (h *home) deliver() {
	h.takeWelcomes()
	h.readLog()
}

func (h *home) readLog() {
	if h.replica == nil {
		return
	}
	mark := h.read
	for again := true; again; {
		again = false
		after := h.replica.ReadFrom()
		for _, e := range h.log {
			if e.id <= after || e.topic == group.TopicWelcomes || e.key != string(h.replica.ID()) {
				continue
			}
			d := delivery(e)
			d.After, after = after, e.id
			h.step(d)
			h.service()
		}
		if h.read > mark { // asked for while reading
			mark, again = h.read, true
		}
	}
	h.step(group.CaughtUp{End: h.lastID, Mark: mark, Now: h.now})
	h.service()
}

func delivery(e entry) group.Delivered {
	data, err := group.DecodeGroupMessage(e.payload)
	if err != nil {
		data = nil
	}
	return group.Delivered{ID: e.id, Time: e.at, Commit: e.topic == group.TopicCommits, Data: data}
}

func (h *home) takeWelcomes() {
	for _, e := range h.log {
		if e.topic != group.TopicWelcomes || e.key != string(h.signer.Public()) || e.id <= h.welcome {
			continue
		}
		h.welcome = e.id
		welcome, err := h.unwrap(e.payload)
		if err != nil {
			h.printf("%s: welcome %d does not open: %v", h.name, e.id, err)
			continue
		}
		if !h.join(group.JoinConfig{
			Welcome: welcome, Secrets: h.secrets, WelcomeID: e.id, Created: e.at, Previous: h.replica, InOrder: true,
		}) {
			h.welcome = e.id - 1
			return
		}
	}
}

// join takes a welcome, as a host does: where the replica is behind, the log is
// read first. It reports false where that had to stop.
func (h *home) join(c group.JoinConfig) bool {
	r, fx, err := group.Join(h.env(), c)
	if errors.Is(err, group.ErrBehind) {
		h.readLog()
		c.Complete = true
		r, fx, err = group.Join(h.env(), c)
	}
	switch {
	case errors.Is(err, group.ErrBehind):
		return false
	case errors.Is(err, group.ErrUnknownAdder):
		h.requests = append(h.requests, c)
		h.printf("%s: welcome %d waits for its owner: %s", h.name, c.WelcomeID, h.names(err.Error()))
	case errors.Is(err, group.ErrPaused):
		h.aside = append(h.aside, c)
		h.printf("%s: welcome %d is set aside: %s", h.name, c.WelcomeID, h.names(err.Error()))
	case err != nil:
		h.printf("%s: welcome %d refused: %s", h.name, c.WelcomeID, h.names(err.Error()))
	default:
		h.again = c.Previous != nil
		h.replica = r
		h.carry(fx)
	}
	return true
}

func (h *home) unwrap(payload []byte) (group.Welcome, error) {
	e, err := group.ParseWelcome(payload)
	if err != nil {
		return group.Welcome{}, err
	}
	if !e.Pointer {
		return group.OpenWelcome(e, h.secrets)
	}
	p, err := group.OpenPointer(e, h.secrets)
	if err != nil {
		return group.Welcome{}, err
	}
	for _, c := range h.log {
		if c.topic == group.TopicWelcomes && c.key == string(p.Destination) {
			pointee, err := group.ParseWelcome(c.payload)
			if err != nil {
				return group.Welcome{}, err
			}
			return p.OpenShared(h.realm, h.shared, pointee)
		}
	}
	return group.Welcome{}, errors.New("pointee missing")
}

// crash drops the replica and everything that was not saved, and loads it.
func (h *home) crash() {
	h.outbox, h.fetches, h.resolve, h.read = nil, nil, nil, 0
	r, fx, err := group.Load(h.env(), h.reader())
	if err != nil {
		h.printf("%s: load: %v", h.name, err)
		h.replica = nil
		return
	}
	h.replica = r
	h.carry(fx)
}

// sync lets everybody send and read until nothing moves.
func (w *world) sync(names []string) {
	for range 50 {
		before, out := w.lastID, w.out.Len()
		for _, name := range names {
			h := w.homes[name]
			h.deliver()
			if h.replica != nil {
				h.send("")
			}
		}
		if w.lastID == before && w.out.Len() == out {
			return
		}
	}
	w.t.Fatal("the world does not come to rest")
}

// agree checks what must hold after every step: who is in an epoch is in the
// same one, but for those who say that the log has another.
func (w *world) agree() {
	authenticators := map[uint64][]byte{}
	for _, name := range w.order {
		r := w.homes[name].replica
		if r == nil || !r.Active() {
			continue
		}
		if st, _ := r.Standing(); st == group.Lost || st == group.Stranded {
			continue // in an epoch that the log does not have
		}
		a := r.EpochAuthenticator()
		if b, ok := authenticators[r.Epoch()]; ok && !bytes.Equal(a, b) {
			w.t.Errorf("%s has another epoch %d than the rest", name, r.Epoch())
		}
		authenticators[r.Epoch()] = a
	}
}
