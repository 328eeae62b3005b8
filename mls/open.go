package mls

import (
	"bytes"
	"crypto/sha256"
)

// Opening messages: from a message, which nothing is known of, to a verified
// content, to what it means for the group.

// Content is what a message held: an *Application, a *QueuedProposal or a
// *StagedCommit.
type Content interface{ isContent() }

func (*Application) isContent()    {}
func (*QueuedProposal) isContent() {}
func (*StagedCommit) isContent()   {}

// An Application is application data, verified.
type Application struct {
	Sender     LeafIndex
	Leaf       *LeafNode // of the sender in the message's epoch
	Epoch      uint64
	Generation uint32
	AAD, Data  []byte
}

// Open decrypts and verifies a PublicMessage or PrivateMessage.
//
// Application data can be of a past epoch, as far as that is live; the next
// group can open it no more. A proposal waits in the next group for a commit.
// A commit is staged: next is the receiver, in which nothing was consumed,
// until Merge.
func (g *Group) Open(m *Message) (next *Group, c Content, err error) {
	switch m.wire {
	case WirePublicMessage:
		return g.openPublic(m.public)
	case WirePrivateMessage:
		return g.openPrivate(m.private)
	}
	return g, nil, errMessageKind
}

func (g *Group) openPublic(m *publicMessage) (*Group, Content, error) {
	if err := g.accepts(m.content.groupID, m.content.epoch); err != nil {
		return g, nil, err
	}
	u, err := m.open(g.secrets, g.encoded)
	if err != nil {
		return g, nil, err
	}
	if u.sender == memberSender(g.own) {
		return g, nil, &OwnMessageError{Epoch: u.epoch, ContentType: u.contentType}
	}
	a, err := g.verify(g.realm, u)
	if err != nil {
		return g, nil, err
	}
	if a.contentType == ContentCommit {
		return g.openCommit(a, contentID{})
	}
	return g.enqueue(a, nil)
}

// accepts says whether a handshake message is for this group and epoch.
func (g *Group) accepts(groupID []byte, epoch uint64) error {
	switch {
	case !bytes.Equal(groupID, g.GroupID()):
		return ErrWrongGroup
	case !g.active:
		return ErrNotMember
	case epoch != g.Epoch():
		return &EpochError{Got: epoch, Want: g.Epoch()}
	}
	return nil
}

// verify checks a content's signature against the epoch that it is of.
func (e *epoch) verify(realm *Realm, u *unverifiedContent) (*authenticatedContent, error) {
	key, err := e.signatureKey(&u.framedContent)
	if err != nil {
		return nil, err
	}
	return u.verifyIn(realm, e.publicState, key)
}

func (g *Group) openPrivate(m *privateMessage) (*Group, Content, error) {
	e := &g.epoch
	if m.contentType == ContentApplication {
		switch e = g.live(m.epoch); {
		case !bytes.Equal(m.groupID, g.GroupID()):
			return g, nil, ErrWrongGroup
		case m.epoch > g.Epoch():
			return g, nil, &EpochError{Got: m.epoch, Want: g.Epoch()}
		case e == nil || e.secrets == nil:
			return g, nil, ErrEpochTooOld
		}
	} else if err := g.accepts(m.groupID, m.epoch); err != nil {
		return g, nil, err
	}
	d, err := m.senderData(e.secrets)
	if err != nil {
		return g, nil, err
	}
	own := d.leaf == g.own
	if own && d.generation < e.ratchets.nextGeneration(g.own, ratchetFor(m.contentType)) {
		return g, nil, &OwnMessageError{Epoch: m.epoch, ContentType: m.contentType, Generation: d.generation}
	}
	ratchets, plaintext, err := m.decrypt(e.ratchets, d)
	if err != nil {
		return g, nil, err
	}
	a, id, err := g.authenticate(e, m, d.leaf, plaintext)
	switch {
	case err != nil:
		return g, nil, err
	case own:
		// Sent by this member after the copy was made that this group is
		// restored from: only the signature tells it from a forgery that wants
		// the generation to run away.
		own := &OwnMessageError{Epoch: m.epoch, ContentType: m.contentType, Generation: d.generation, Verified: true}
		if a.contentType == ContentCommit {
			own.Commit, _ = g.stagePublic(a, id) // what everybody refuses is no commit
		}
		return g, nil, own
	case a.contentType == ContentCommit:
		return g.openCommit(a, id)
	}
	next := g.withRatchets(m.epoch, ratchets)
	if a.contentType == ContentProposal {
		queued, q, err := next.enqueue(a, nil)
		if err != nil {
			return g, nil, err
		}
		return queued, q, nil
	}
	leaf, _ := e.tree.member(d.leaf)
	return next, &Application{
		Sender:     d.leaf,
		Leaf:       leaf,
		Epoch:      m.epoch,
		Generation: d.generation,
		AAD:        a.aad,
		Data:       a.application,
	}, nil
}

// authenticate decodes and verifies what a private message held. All members of
// an epoch find the same in a handshake message; an application message is
// nobody's business but the member's.
func (g *Group) authenticate(e *epoch, m *privateMessage, from LeafIndex, plaintext []byte) (*authenticatedContent, contentID, error) {
	verify := func() (*authenticatedContent, error) {
		u, err := m.decodeContent(from, plaintext)
		if err != nil {
			return nil, err
		}
		return e.verify(g.realm, u)
	}
	if m.contentType == ContentApplication || !g.realm.shares() {
		a, err := verify()
		return a, contentID{}, err
	}
	h := sha256.New()
	h.Write(appendU32(appendVector(e.id[:], m.contentAAD), uint32(from)))
	h.Write(plaintext)
	id := contentID(h.Sum(nil))
	a, err := g.realm.handshake(id, verify)
	return a, id, err
}

// Vouches reports whether a handshake message was sent by a member in a past epoch
// that is live. Nothing is consumed, and whether it was valid is not asked.
func (g *Group) Vouches(m *Message) bool {
	if m.wire != WirePrivateMessage || !bytes.Equal(m.private.groupID, g.GroupID()) || m.private.epoch >= g.Epoch() {
		return false
	}
	e := g.live(m.private.epoch)
	if e == nil || e.secrets == nil {
		return false
	}
	d, err := m.private.senderData(e.secrets)
	if err != nil {
		return false
	}
	_, plaintext, err := m.private.decrypt(e.ratchets, d)
	if err != nil {
		return false
	}
	_, _, err = g.authenticate(e, m.private, d.leaf, plaintext)
	return err == nil
}

// Knows reports whether another group's epoch is this group's, or a past one of it
// that is live.
func (g *Group) Knows(other *Group) bool {
	e := g.live(other.Epoch())
	return e != nil && bytes.Equal(e.encoded, other.encoded)
}

// withRatchets replaces the secret tree of a live epoch.
func (g *Group) withRatchets(number uint64, ratchets secretTree) *Group {
	next := *g
	if number == g.Epoch() {
		next.ratchets = ratchets
		return &next
	}
	next.past = append([]epoch(nil), g.past...)
	next.live(number).ratchets = ratchets
	return &next
}

// enqueue keeps a proposal for a commit that names it. One that is there
// already is not kept twice.
func (g *Group) enqueue(a *authenticatedContent, leafKey secret) (*Group, Content, error) {
	q := newQueuedProposal(a, g.Suite())
	q.leafKey = leafKey
	for _, known := range g.queue {
		if bytes.Equal(known.Ref, q.Ref) {
			return g, known, nil
		}
	}
	if len(g.queue) == maxQueued {
		return g, nil, errQueueFull
	}
	next := *g
	next.queue = append(g.queue[:len(g.queue):len(g.queue)], q)
	return &next, q, nil
}

func (g *Group) openCommit(a *authenticatedContent, id contentID) (*Group, Content, error) {
	s, err := g.stage(a, id)
	if err != nil {
		return g, nil, err
	}
	return g, s, nil
}
