package mls

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
)

// keepEpochs is how many past epochs' application messages a member can open.
const keepEpochs = 3

// A Group is one member's state: an immutable snapshot. Every verb returns the
// next one; where it returns an error, the receiver is what it was. Store the
// next one's Rows, then go on with it.
type Group struct {
	realm  *Realm
	signer *Signer
	psk    PSKSource
	own    LeafIndex
	active bool
	epoch  // the current one
	keys   *pathKeys
	queue  []*QueuedProposal // of the current epoch, in the order of their arrival
	past   []epoch           // the latest first
}

// An epoch is what a member needs to open its messages.
type epoch struct {
	*publicState
	secrets  *epochSecrets
	ratchets secretTree
	lineage  *lineage
}

// A PSKSource finds pre-shared keys. Resumption keys of the group's own live
// epochs are not asked for.
type PSKSource func(PreSharedKeyID) (psk []byte, ok bool)

// Errors that callers tell apart. What is none of them and not ErrInvalid is a
// failure of the caller's own means, such as its source of randomness.
var (
	// ErrWrongEpoch says that a message is for another epoch than the group's;
	// the error is an *EpochError.
	ErrWrongEpoch = errors.New("mls: wrong epoch")
	// ErrEpochTooOld says that the keys of a message's epoch are gone.
	ErrEpochTooOld = errors.New("mls: epoch too old")
	// ErrWrongGroup says that a message belongs to another group.
	ErrWrongGroup = errors.New("mls: message of another group")
	// ErrOwnMessage says that this member sent the message itself; the error is
	// an *OwnMessageError.
	ErrOwnMessage = errors.New("mls: own message")
	// ErrNotMember says that this member is not, or no longer, in the group.
	ErrNotMember = errors.New("mls: not a member")
	// ErrUnknownProposal says that a commit refers to a proposal that was not
	// received.
	ErrUnknownProposal = errors.New("mls: commit refers to an unknown proposal")
	// ErrUnknownPSK says that a pre-shared key is not at hand.
	ErrUnknownPSK = errors.New("mls: unknown pre-shared key")
	// ErrCannotDecryptPath says that a commit is valid as far as others can see,
	// but does not hold this member's path secret. Its sender is malicious, or this
	// member's state is damaged, or a copy of it made the commit; the way back is an
	// external commit or to be added again.
	ErrCannotDecryptPath = errors.New("mls: commit does not hold this member's path secret")
)

// An EpochError says which epoch a message, or a staged commit, is for.
type EpochError struct{ Got, Want uint64 }

func (e *EpochError) Error() string {
	return fmt.Sprintf("mls: wrong epoch: %d instead of %d", e.Got, e.Want)
}

// Is makes an EpochError an ErrWrongEpoch.
func (e *EpochError) Is(target error) bool { return target == ErrWrongEpoch }

// An OwnMessageError says which of its generations this member used for a
// message. A group restored from an old copy must SkipTo beyond it.
type OwnMessageError struct {
	Epoch       uint64
	ContentType ContentType
	Generation  uint32
	// Verified: it carries this member's signature, and a generation that this
	// group has not used; it was sent by a copy that went on further. Otherwise
	// the generation is behind, its key is gone, and anybody may have bent what
	// came after the sender's data.
	Verified bool
	// Commit is what a verified commit means to everybody else; nil where it means
	// nothing. It can be judged, and not merged: its secrets are with that copy.
	Commit *StagedCommit
}

func (e *OwnMessageError) Error() string {
	return fmt.Sprintf("mls: own message: epoch %d generation %d", e.Epoch, e.Generation)
}

// Is makes an OwnMessageError an ErrOwnMessage.
func (e *OwnMessageError) Is(target error) bool { return target == ErrOwnMessage }

// A PathError says that a commit is valid as far as no secret is needed to tell, and
// that this member cannot open its path: others may be able to, and go on without it.
// It is an ErrCannotDecryptPath.
type PathError struct {
	// Commit is what the commit means to those who can open it. It can be judged,
	// and not merged.
	Commit *StagedCommit
	cause  error
}

func (e *PathError) Error() string { return e.cause.Error() }
func (e *PathError) Unwrap() error { return e.cause }

// CreateConfig says what group to create, and who creates it.
type CreateConfig struct {
	Realm          *Realm
	Rand           io.Reader
	Suite          CipherSuite
	GroupID        []byte
	Signer         *Signer
	Credential     Credential
	Capabilities   Capabilities
	Lifetime       Lifetime
	LeafExtensions Extensions
	Extensions     Extensions // of the group context
	PSK            PSKSource  // may be nil
}

// Create makes a group of one. See RFC 9420, Section 11.
func Create(c CreateConfig) (*Group, error) {
	if err := c.Suite.supported(); err != nil {
		return nil, err
	}
	private, public, err := c.Suite.generateKeyPair(c.Rand)
	if err != nil {
		return nil, fmt.Errorf("generate leaf key: %w", err)
	}
	leaf, err := LeafNode{
		EncryptionKey: public,
		SignatureKey:  c.Signer.Public(),
		Credential:    c.Credential,
		Capabilities:  c.Capabilities,
		Source:        SourceKeyPackage,
		Lifetime:      c.Lifetime,
		Extensions:    c.LeafExtensions,
	}.signed(c.Suite, c.Signer, nil, 0)
	if err != nil {
		return nil, fmt.Errorf("sign leaf: %w", err)
	}
	if err := c.Extensions.checkContext(); err != nil {
		return nil, err
	}
	q, err := c.Extensions.requirements()
	if err != nil {
		return nil, err
	}
	t, err := newTree(c.Suite, leaf)
	if err != nil {
		return nil, err
	}
	if err := t.validate(c.Realm, c.GroupID, q); err != nil {
		return nil, fmt.Errorf("check own leaf: %w", err)
	}
	epochSecret := make(secret, c.Suite.hashSize())
	if _, err := io.ReadFull(c.Rand, epochSecret); err != nil {
		return nil, fmt.Errorf("generate epoch secret: %w", err)
	}
	secrets, encryption := c.Suite.newEpochSecrets(epochSecret)
	context := &GroupContext{CipherSuite: c.Suite, GroupID: slices.Clone(c.GroupID), TreeHash: t.hash(), Extensions: c.Extensions}
	state := c.Realm.share(context.confirmed(t, secrets.confirmationTag(nil)))
	return &Group{
		realm:  c.Realm,
		signer: c.Signer,
		psk:    c.PSK,
		active: true,
		epoch:  newEpoch(state, secrets, encryption),
		keys:   &pathKeys{leaf: private},
	}, nil
}

// Format prints which group, epoch and member this is.
func (g Group) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "Group(%x epoch %d leaf %d)", g.GroupID(), g.Epoch(), g.own)
}

// newEpoch starts the secret tree. The first epoch a member is in begins its
// lineage.
func newEpoch(s *publicState, secrets *epochSecrets, encryption secret) epoch {
	e := epoch{publicState: s, secrets: secrets}
	e.ratchets = newSecretTree(s.context.CipherSuite, encryption, uint32(s.tree.leaves()))
	e.lineage = e.newLineage()
	return e
}

// WithPSK returns the group with another source of pre-shared keys.
func (g *Group) WithPSK(f PSKSource) *Group {
	next := *g
	next.psk = f
	return &next
}

// Active reports whether this member is in the group. One that was removed can
// open what was sent before, and nothing else.
func (g *Group) Active() bool { return g.active }

// Suite returns the group's cipher suite.
func (g *Group) Suite() CipherSuite { return g.context.CipherSuite }

// GroupID returns the group's id. It must not be modified.
func (g *Group) GroupID() []byte { return g.context.GroupID }

// Epoch returns the number of the current epoch.
func (g *Group) Epoch() uint64 { return g.context.Epoch }

// Context returns the group context of the current epoch. It must not be
// modified.
func (g *Group) Context() *GroupContext { return g.context }

// Extensions returns the group context's extensions. They must not be modified.
func (g *Group) Extensions() Extensions { return g.context.Extensions }

// EpochAuthenticator returns the value by which members can compare whether
// they are in the same epoch of the same group. See RFC 9420, Section 8.7.
func (g *Group) EpochAuthenticator() []byte { return slices.Clone(g.secrets.authenticator) }

// OwnLeaf returns this member's place.
func (g *Group) OwnLeaf() LeafIndex { return g.own }

// Member returns the leaf at i, if there is a member.
func (g *Group) Member(i LeafIndex) (*LeafNode, bool) { return g.tree.member(i) }

// Members walks the members in the order of their leaves.
func (g *Group) Members() iter.Seq2[LeafIndex, *LeafNode] { return g.tree.all() }

// MembersAt is Members in a live epoch, the current one or one of the three before
// it. It yields nothing where the epoch is not live.
func (g *Group) MembersAt(epoch uint64) iter.Seq2[LeafIndex, *LeafNode] {
	if e := g.live(epoch); e != nil {
		return e.tree.all()
	}
	return func(func(LeafIndex, *LeafNode) bool) {}
}

// Size is the number of members.
func (g *Group) Size() int { return g.tree.size() }

// Find returns the place of the member with this signature key.
func (g *Group) Find(signatureKey []byte) (LeafIndex, bool) {
	i, ok := g.tree.signatureKeys.get(signatureKey)
	return LeafIndex(i), ok
}

// Queued returns the proposals that wait for a commit in the current epoch.
func (g *Group) Queued() []*QueuedProposal { return slices.Clone(g.queue) }

// Export derives a secret of n bytes from the current epoch for use outside of
// MLS. See RFC 9420, Section 8.5.
func (g *Group) Export(label string, context []byte, n int) ([]byte, error) {
	if !g.active {
		return nil, ErrNotMember
	}
	return g.secrets.export(label, context, n)
}

// Info returns a signed GroupInfo, an MLSMessage, with which others can join by
// an external commit. See RFC 9420, Section 12.4.3.
func (g *Group) Info() ([]byte, error) {
	if !g.active {
		return nil, ErrNotMember
	}
	_, external, err := g.secrets.externalKeyPair()
	if err != nil {
		return nil, fmt.Errorf("derive external key: %w", err)
	}
	info, err := g.groupInfo(g.own, g.signer, Extensions{{Type: ExtensionExternalPub, Data: appendVector(nil, external)}})
	if err != nil {
		return nil, fmt.Errorf("sign group info: %w", err)
	}
	return info.append(appendMessageHeader(nil, WireGroupInfo)), nil
}

// groupInfo signs what a newcomer must know of an epoch, with the tree.
func (e *epoch) groupInfo(signerLeaf LeafIndex, signer *Signer, extra Extensions) (*GroupInfo, error) {
	return GroupInfo{
		context:         e.context,
		extensions:      append(extra, Extension{Type: ExtensionRatchetTree, Data: e.tree.append(nil)}),
		confirmationTag: e.secrets.confirmationTag(e.context.ConfirmedTranscriptHash),
		signer:          signerLeaf,
	}.signed(e.context.CipherSuite, signer)
}

// Seal encrypts application data as a PrivateMessage (an MLSMessage). The next
// group has used one generation more: it must be stored before the message is
// sent. See RFC 9420, Section 15.
func (g *Group) Seal(rand io.Reader, aad, data []byte) (next *Group, message []byte, err error) {
	if !g.active {
		return g, nil, ErrNotMember
	}
	return g.sealPrivate(rand, g.context.content(memberSender(g.own), aad).withApplication(data))
}

func (g *Group) sealPrivate(rand io.Reader, content framedContent) (*Group, []byte, error) {
	a, err := content.sign(g.Suite(), g.signer, WirePrivateMessage, g.encoded)
	if err != nil {
		return g, nil, fmt.Errorf("sign message: %w", err)
	}
	ratchets, message, err := g.secrets.sealPrivate(rand, g.ratchets, a, 0)
	if err != nil {
		return g, nil, err
	}
	next := *g
	next.ratchets = ratchets
	return &next, message, nil
}

// SkipTo returns the group whose next message of the given type uses a
// generation above the given one: an OwnMessageError's, or one that may have
// been used since this group was stored. Another epoch than the current one is
// ignored, since nothing will be sent in it any more.
func (g *Group) SkipTo(epoch uint64, t ContentType, generation uint32) (*Group, error) {
	if epoch != g.Epoch() || !g.active {
		return g, nil
	}
	ratchets, err := g.ratchets.skipTo(g.own, ratchetFor(t), max(generation, generation+1))
	if err != nil {
		return g, fmt.Errorf("skip own generations: %w", err)
	}
	next := *g
	next.ratchets = ratchets
	return &next, nil
}

// Used returns the group without the key of another member's application message,
// as after opening it. A key that is gone, or of an epoch that is, is ignored: a
// group restored from an older copy becomes what it was.
func (g *Group) Used(epoch uint64, sender LeafIndex, generation uint32) *Group {
	e := g.live(epoch)
	if e == nil || sender == g.own {
		return g
	}
	ratchets, _, err := e.ratchets.open(sender, applicationRatchet, generation)
	if err != nil {
		return g
	}
	return g.withRatchets(epoch, ratchets)
}

// findPSKs looks up the pre-shared keys of a commit or Welcome, in its order.
func (g *Group) findPSKs(ids []PreSharedKeyID) ([]preSharedKey, error) {
	keys := make([]preSharedKey, 0, len(ids))
	for _, id := range ids {
		key := g.resumptionPSK(id)
		if key == nil && g.psk != nil {
			if k, ok := g.psk(id); ok {
				key = k
			}
		}
		if key == nil {
			return nil, ErrUnknownPSK
		}
		keys = append(keys, preSharedKey{id, key})
	}
	return keys, nil
}

// resumptionPSK is the resumption secret of a live epoch; nil if the id does
// not name one.
func (g *Group) resumptionPSK(id PreSharedKeyID) secret {
	if id.Type != PSKResumption || g.secrets == nil || !bytes.Equal(id.GroupID, g.GroupID()) {
		return nil
	}
	if e := g.live(id.Epoch); e != nil {
		return e.secrets.resumption
	}
	return nil
}

// live returns the current or a past epoch by its number, nil if it is gone.
func (g *Group) live(number uint64) *epoch {
	if number == g.Epoch() {
		return &g.epoch
	}
	for i := range g.past {
		if g.past[i].context.Epoch == number {
			return &g.past[i]
		}
	}
	return nil
}
