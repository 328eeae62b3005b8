package group

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/conclave-chat/conclave/identity"
	"github.com/conclave-chat/conclave/mls"
	"github.com/conclave-chat/conclave/proto/contents"
)

// CreateConfig says what a new group is like.
type CreateConfig struct {
	ID          []byte // 16 bytes; nil: random
	Kind        Kind   // zero: KindGroup
	Peer        string // of a direct message: the other inbox
	Name        string
	ImageURL    string
	Description string
	Attributes  map[string]string // further ones
	Permissions Preset
	Now         time.Time

	oneshot *contents.OneshotMessage // of KindOneshot
}

func (c *CreateConfig) validate() error {
	if c.Kind == 0 {
		c.Kind = KindGroup
	}
	if c.ID != nil && len(c.ID) != groupIDSize {
		return fmt.Errorf("%w: group id of %d bytes, want %d", ErrInvalid, len(c.ID), groupIDSize)
	}
	if c.Kind == KindDM {
		if _, err := identity.ParseInboxID(c.Peer); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	attributes := map[string]string{AttributeName: c.Name, AttributeDescription: c.Description, AttributeImageURL: c.ImageURL}
	maps.Copy(attributes, c.Attributes)
	for name, v := range attributes {
		if limit, ok := v3.attributeLimit[name]; ok && len(v) > limit {
			return fmt.Errorf("%w: %s of %d bytes, at most %d", ErrTooLarge, name, len(v), limit)
		}
		if !utf8.ValidString(name) || !utf8.ValidString(v) {
			return fmt.Errorf("%w: attribute is not UTF-8", ErrInvalid)
		}
	}
	return nil
}

// dmMembers are the two inboxes of a direct message, its creator first.
func (c *CreateConfig) dmMembers(creator string) [2]string {
	if c.Kind != KindDM {
		return [2]string{}
	}
	return [2]string{creator, c.Peer}
}

const groupIDSize = 16

// Create makes a group whose only member is this installation. Nothing is
// published: members come with AddMembers.
func Create(env Env, c CreateConfig) (*Replica, Effects, error) {
	env = env.withDefaults()
	if err := c.validate(); err != nil {
		return nil, Effects{}, err
	}
	random := make([]byte, groupIDSize+32)
	if _, err := io.ReadFull(env.Rand, random); err != nil {
		return nil, Effects{}, fmt.Errorf("group: create: %w", err)
	}
	if c.ID == nil {
		c.ID = random[:groupIDSize]
	}
	now := uint64(c.Now.Unix())
	g, err := mls.Create(mls.CreateConfig{
		Realm:        env.Realm,
		Rand:         env.Rand,
		Suite:        v3.suite,
		GroupID:      c.ID,
		Signer:       env.Signer,
		Credential:   credentialOf(env.Inbox),
		Capabilities: v3.creator,
		Lifetime: mls.Lifetime{
			NotBefore: now - uint64(keyPackageEarly/time.Second),
			NotAfter:  now + uint64(keyPackageLifetime/time.Second),
		},
		Extensions: firstExtensions(c, env.Inbox, hex.EncodeToString(random[groupIDSize:])),
	})
	if err != nil {
		return nil, Effects{}, fmt.Errorf("group: create: %w", err)
	}
	s := &step{Replica: Replica{env: env, id: c.ID, facts: facts{created: c.Now}, position: position{standing: Following}, caughtUp: true}}
	s.chain.at = c.Now
	s.keysUpdated, s.appliedAt = c.Now, c.Now // the creator's keys are of no key package
	if err := s.begun(g); err != nil {
		return nil, Effects{}, fmt.Errorf("group: create: %w", err)
	}
	r := s.Replica
	return &r, s.fx, nil
}

// begun starts a replica at an MLS state.
func (s *step) begun(g *mls.Group) (err error) {
	if s.meta, err = s.decode(g.Extensions()); err != nil {
		return err
	}
	s.kind, s.dm = s.meta.Kind, s.meta.DM
	s.saveMLS(g.Rows(s.saved))
	s.group, s.saved, s.opened = g, g, s.phase()
	s.savedRatchets()
	s.addStorageKey()
	s.emit(Activated{s.addedBy})
	s.putBack = s.env.PutBack
	s.dirt, s.fx.Durable = true, true
	s.finish()
	return nil
}

// clockSkew is how far the log's clock and the store's may differ.
const clockSkew = 24 * time.Hour

// JoinConfig is a welcome and what opens it.
type JoinConfig struct {
	Welcome   Welcome
	Secrets   *KeyPackageSecrets
	WelcomeID uint64
	Created   time.Time // when the welcome was accepted by the log

	// Resolved says that what an UnresolvedError named was looked up: what
	// Env.Identity does not know now does not exist.
	Resolved bool

	// Previous is the replica of the same group, where there is one. Its standing
	// says whose welcome takes its place: see admission.
	Previous *Replica

	// InOrder asks for ErrBehind where Previous is still a member by what it has
	// read, and the welcome's cursor is beyond that: the host reads the log to its
	// end, and then asks with Complete.
	InOrder bool

	// Complete says that Previous has read the log to its end since the welcome
	// came. The cursor is its sender's to choose: one that is still ahead is not
	// in the log, and the welcome is rejected.
	Complete bool

	// Accepted says that the owner accepts whoever signed the welcome: without it,
	// one whom Previous does not know may be an UnknownAdderError.
	Accepted bool
}

// Join makes a replica from a welcome, after checking that the group is what
// its members say. The log is read from the welcome's cursor.
//
// The rows must be saved in one transaction with the deletion of the key
// package's secrets, unless they serve for further welcomes.
func Join(env Env, c JoinConfig) (*Replica, Effects, error) {
	env = env.withDefaults()
	m, err := c.message(env)
	if err != nil {
		return nil, Effects{}, err
	}
	g, info, err := mls.Join(c.mls(env, m))
	if err != nil {
		return nil, Effects{}, fmt.Errorf("%w: join: %w", ErrRejected, beyondProfile(err))
	}
	if len(g.GroupID()) != groupIDSize {
		return nil, Effects{}, errWrongGroup
	}
	s := &step{Replica: Replica{env: env, id: g.GroupID(), position: position{standing: Following}}}
	if err := s.welcomed(g, info, c); err != nil {
		return nil, Effects{}, briefly(err)
	}
	r := s.Replica
	return &r, s.fx, nil
}

// welcomed checks a joined state and starts the replica at it.
func (s *step) welcomed(g *mls.Group, info *mls.JoinInfo, c JoinConfig) error {
	if p := c.Previous; p != nil {
		if !bytes.Equal(p.id, s.id) {
			return errWrongGroup
		}
		if err := p.makesRoom(g, c); err != nil {
			return err
		}
	}
	meta, err := s.decode(g.Extensions())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRejected, err)
	}
	adderLeaf, ok := g.Member(info.Signer)
	if !ok {
		return errAdderUnknown
	}
	adder, err := inboxOf(adderLeaf.Credential)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRejected, err)
	}
	s.lookedUp = c.Resolved
	if err := s.checkTree(g, meta); err != nil {
		return err
	}
	if meta.Kind == KindOneshot {
		return readdOf(meta, adder, adderLeaf)
	}
	if err := checkKind(meta, adder, s.env.Inbox); err != nil {
		return err
	}
	if p := c.Previous; p != nil {
		if err := p.admits(adder, meta, c.Accepted); err != nil {
			return err
		}
	}
	s.facts = facts{created: c.Created, addedBy: adder, welcome: c.WelcomeID}
	s.cursor, s.lastCommit, s.joined = c.Welcome.Cursor, c.Welcome.Cursor, c.Welcome.Cursor
	s.chain = chain{base: s.cursor, at: c.Created}
	if s.joined > 0 {
		s.path = []milestone{{at: s.joined}}
	}
	s.appliedAt = c.Created
	s.lives = []mark{lifeOf(g)}
	if c.Previous != nil {
		s.succeed(c.Previous, g.Epoch(), meta)
	}
	key := welcomeKey(c.Created)
	content := welcomeTranscript(adder, s.env.Inbox)
	message := Message{
		ID:      NewMessageID(s.id, key, content),
		Time:    c.Created,
		Kind:    MembershipChange,
		Status:  StatusPublished,
		Sender:  adder,
		Key:     key,
		Content: content,
	}
	message.Position = positionOf(s.cursor, message.ID)
	s.put(TableMessage, message.Position.key(), s.encodeIndex(message, usedKey{epoch: g.Epoch()}, true))
	s.pauseBelow(meta)
	s.read()
	s.lookedUp = false
	if err := s.begun(g); err != nil {
		return fmt.Errorf("%w: %w", ErrRejected, err)
	}
	s.emit(MessageChanged{message})
	if c.Created.Before(s.putBack.Add(clockSkew)) { // it may have joined and sent before
		s.mend()
		s.finish()
	}
	return nil
}

// succeed takes over from the life before: history and failed messages stay,
// the old life's keys go, and what it wrote down of commits: it may have been
// in an epoch without the others. Where it had read further than the welcome,
// it could not follow what it read: that is read again. What waits to be sent was
// not meant for a group of somebody whom the life before did not know: it fails.
func (s *step) succeed(p *Replica, epoch uint64, meta *Metadata) {
	s.next, s.marks, s.rewinds, s.rejected = p.next, p.marks, p.rewinds, p.rejected
	if s.cursor < p.cursor {
		s.rewinds++
	}
	s.known = p.known
	s.era = p.era
	if epoch <= p.group.Epoch() {
		s.era++
	}
	for _, m := range p.path {
		if m.own != 0 {
			s.delete(TableSealed, keyOf(m.own))
		}
	}
	s.intents = slices.Clone(p.intents)
	for _, it := range p.intents {
		switch {
		case it.isCheck(), it.isReoffer():
			s.drop(it)
		case it.state == stateFetching:
			s.change(it, func(it *intent) { it.state, it.got = statePlanned, nil })
		case it.state == stateWelcoming && it.acked == 0:
			s.done(it, errLeftBehind) // the log lost the commit, and nobody offers it again
		case it.inFlight():
			s.unseal(it) // for an epoch of the life before; receivers know a message that they have
		}
	}
	s.strays, s.used = p.strays, p.used
	s.forgetStrays(func(stray) bool { return true })
	s.saved = p.saved // its rows are replaced
	s.forgetRecords()
	s.lives = append(slices.DeleteFunc(slices.Clone(p.lives), func(m mark) bool { return m == s.lives[0] }), s.lives[0])
	s.lives = s.lives[max(0, len(s.lives)-livesKept):]
	if p.standing == Inactive {
		// It read them in the log that the new life goes on with; its own is among
		// them, and nobody opens what it sealed before that.
		s.removals = slices.DeleteFunc(slices.Clone(p.removals), func(r removal) bool { return r.epoch > epoch })
	}
	s.former = p.formerAfter(s.addedBy)
	s.standing, s.revoked = p.standing, p.revoked
	s.reinstate(meta)
	s.met(inputCame, "") // what the life before waited for is gone
	s.met(welcomedBack, "")
	if !p.knowsAdder(s.addedBy) {
		s.failAll(fmt.Errorf("%w: somebody else's group has its id now", ErrInactive))
	}
}

// checkTree compares the tree with the membership list: every leaf is an
// installation that its inbox owned at the cited update, and every such
// installation has a leaf or is named as failed. The result is equal for all
// who join this tree with this list.
func (s *step) checkTree(g *mls.Group, meta *Metadata) error {
	h := sha256.New()
	h.Write([]byte("members"))
	h.Write(g.Context().TreeHash)
	h.Write(meta.digest[:])
	key := [32]byte(h.Sum(nil))
	if s.recall(key) == true {
		return nil
	}
	want := map[string]bool{} // by installation key; two inboxes may own one
	states := make(map[string]*identity.State, len(meta.Members))
	var need []IdentityAt
	for _, inbox := range slices.Sorted(maps.Keys(meta.Members)) {
		seq := meta.Members[inbox]
		if seq == 0 {
			continue // nobody: some client wrote it down, and no installation is its
		}
		state, exact := s.env.Identity(inbox, seq, time.Time{}) // when it was cited is not known here
		if !exact {
			need = append(need, IdentityAt{Inbox: inbox, Sequence: seq})
			continue
		}
		states[inbox] = state
		for _, key := range installationsOf(state) {
			want[string(key)] = true
		}
	}
	switch {
	case len(need) > 0 && s.lookedUp:
		return fmt.Errorf("%w: inbox %s at %d", errMissingIdentity, need[0].Inbox, need[0].Sequence)
	case len(need) > 0:
		return &UnresolvedError{Group: s.id, Need: need}
	}
	for _, leaf := range g.Members() {
		inbox, err := inboxOf(leaf.Credential)
		if err != nil || !ownsInstallation(states[inbox], leaf.SignatureKey) {
			return fmt.Errorf("%w: inbox %s", errUnknownLeaf, inbox)
		}
		delete(want, string(leaf.SignatureKey))
	}
	for _, key := range meta.Failed {
		delete(want, string(key))
	}
	if len(want) > 0 {
		key := slices.Min(slices.Collect(maps.Keys(want))) // the same for all who say so
		return fmt.Errorf("%w: %x", errMissingLeaf, key)
	}
	if s.env.Shared != nil {
		s.env.Shared.Put(key, true)
	}
	return nil
}

// checkKind: a direct message is between its adder and us, and nobody is above
// the other. Its permissions are wrong only where every one differs from a
// direct message's, which is how real clients read the rule.
func checkKind(m *Metadata, adder, self string) error {
	switch m.Kind {
	case KindDM:
	default:
		return nil
	}
	one, two := m.DM[0], m.DM[1]
	if adder == self {
		if one != self && two != self {
			return errDMMembers
		}
	} else if !(one == self && two == adder || one == adder && two == self) {
		return errDMMembers
	}
	if len(m.Admins)+len(m.SuperAdmins) > 0 {
		return errDMAdmins
	}
	if p, dm := &m.Permissions, dmPermissions(); p.AddMember.String() != dm.AddMember.String() &&
		p.RemoveMember.String() != dm.RemoveMember.String() &&
		p.AddAdmin.String() != dm.AddAdmin.String() &&
		p.RemoveAdmin.String() != dm.RemoveAdmin.String() &&
		p.UpdatePermissions.String() != dm.UpdatePermissions.String() &&
		!maps.EqualFunc(p.Metadata, dm.Metadata, func(a, b Policy) bool { return a.String() == b.String() }) {
		return errDMPolicy
	}
	return nil
}
