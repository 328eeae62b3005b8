package mls

import (
	"bytes"
	"maps"
	"slices"
)

// Proposal lists: RFC 9420, Sections 12.2 and 12.3.

// A StagedProposal is a proposal that a commit applies.
type StagedProposal struct {
	Proposal    Proposal
	SenderType  SenderType
	Sender      LeafIndex // who proposed it, for SenderMember
	ByReference bool      // it was sent in a message of its own
}

// A QueuedProposal is a proposal that waits for a commit.
type QueuedProposal struct {
	Proposal   Proposal
	SenderType SenderType
	Sender     LeafIndex // for SenderMember
	AAD        []byte
	Ref        []byte // by which commits name it

	content *authenticatedContent
	leafKey secret // private key of an own Update's leaf
}

func newQueuedProposal(a *authenticatedContent, suite CipherSuite) *QueuedProposal {
	return &QueuedProposal{
		Proposal:   a.proposal,
		SenderType: a.sender.Type,
		Sender:     a.sender.leaf(),
		AAD:        a.aad,
		Ref:        a.proposalRef(suite),
		content:    a,
	}
}

// maxQueued bounds the proposals that wait in one epoch.
const maxQueued = 1 << 12

// resolve lists a commit's proposals, looking up those sent by reference.
func (c *Commit) resolve(from sender, queue []*QueuedProposal) ([]StagedProposal, error) {
	list := make([]StagedProposal, 0, len(c.proposals))
	byRef := make(map[string]*QueuedProposal, len(queue))
	for _, q := range queue {
		byRef[string(q.Ref)] = q
	}
	for _, p := range c.proposals {
		if p.proposal != nil {
			list = append(list, StagedProposal{Proposal: p.proposal, SenderType: from.Type, Sender: from.leaf()})
			continue
		}
		if from.Type == SenderNewMemberCommit {
			return nil, errExternalCommit
		}
		q := byRef[string(p.ref)]
		if q == nil {
			return nil, ErrUnknownProposal
		}
		list = append(list, StagedProposal{Proposal: q.Proposal, SenderType: q.SenderType, Sender: q.Sender, ByReference: true})
	}
	return list, nil
}

// needsPath is the rule of Section 12.4: an empty commit has a path, and so has
// one with a proposal of a type that asks for it.
func needsPath(list []StagedProposal) bool {
	return len(list) == 0 || slices.ContainsFunc(list, func(p StagedProposal) bool { return p.Proposal.Type().needsPath() })
}

// A change is a valid proposal list, applied: the state before the committer's
// path.
type change struct {
	list         []StagedProposal
	tree         *tree
	extensions   Extensions
	requirements requirements
	leaves       []LeafIndex // updated or added; all, if the extensions changed
	added        []LeafIndex // in the new tree, in the order of the Adds
	keyPackages  []*KeyPackage
	removed      []LeafIndex // in the old tree
	psks         []PreSharedKeyID
	externalInit *ExternalInit // of an external commit
	reInit       *ReInit
}

// apply validates a proposal list (Section 12.2) and applies it (Section 12.3).
func (s *publicState) apply(realm *Realm, from sender, list []StagedProposal) (*change, error) {
	c := &change{list: list, extensions: s.context.Extensions}
	v := proposalCheck{
		state: s, realm: realm, from: from, change: c,
		touched: make(map[LeafIndex]bool), updates: make(map[LeafIndex]*LeafNode), psks: make(map[string]bool),
	}
	for _, p := range list {
		if err := v.check(p); err != nil {
			return nil, err
		}
	}
	if err := v.checkList(); err != nil {
		return nil, err
	}
	var err error
	if c.requirements, err = c.extensions.requirements(); err != nil {
		return nil, err
	}

	// Updates and removes touch different leaves, so their order does not
	// matter; what they replace goes first, so that a key may move between them.
	e := s.tree.edit()
	for _, p := range list {
		if p, ok := p.Proposal.(Remove); ok {
			e.blank(p.Removed)
			c.removed = append(c.removed, p.Removed)
		}
	}
	updated := slices.Sorted(maps.Keys(v.updates))
	for _, i := range updated {
		e.blank(i)
	}
	for _, i := range updated {
		e.place(i, v.updates[i].detached())
	}
	c.leaves = updated
	e.truncate()
	for _, k := range c.keyPackages {
		i := e.add(k.LeafNode.detached())
		c.added = append(c.added, i)
		c.leaves = append(c.leaves, i)
	}
	slices.Sort(c.removed)
	slices.Sort(c.leaves)
	if c.tree, err = e.done(); err != nil {
		return nil, err
	}
	if v.extensions {
		c.leaves = c.leaves[:0]
		for i := range c.tree.all() {
			c.leaves = append(c.leaves, i)
		}
	}
	return c, nil
}

// proposalCheck walks a list once.
type proposalCheck struct {
	state      *publicState
	realm      *Realm
	from       sender
	change     *change
	touched    map[LeafIndex]bool // by an Update or Remove
	updates    map[LeafIndex]*LeafNode
	psks       map[string]bool // by their encoded ids
	extensions bool            // a GroupContextExtensions was seen
}

// check is Section 12.1 for one proposal, with the rules of Section 12.2 about
// more than one of its kind.
func (v *proposalCheck) check(p StagedProposal) error {
	suite := v.state.context.CipherSuite
	switch body := p.Proposal.(type) {
	case Add:
		if body.KeyPackage.CipherSuite != suite {
			return errKeyPackageSuite
		}
		v.change.keyPackages = append(v.change.keyPackages, body.KeyPackage)
		return body.KeyPackage.verify(v.realm)
	case Update:
		if p.SenderType != SenderMember || v.fromCommitter(p.Sender) {
			return errOwnUpdate
		}
		if err := v.touch(p.Sender); err != nil {
			return err
		}
		v.updates[p.Sender] = body.LeafNode
		return v.state.checkUpdate(v.realm, body.LeafNode, p.Sender)
	case Remove:
		if v.fromCommitter(body.Removed) {
			return errRemoveCommitter
		}
		return v.touch(body.Removed)
	case PreSharedKey:
		return v.checkPSK(body.ID)
	case ReInit:
		if body.Version < mls10 {
			return errReInitVersion
		}
		v.change.reInit = &body
	case ExternalInit:
		if v.change.externalInit != nil {
			return errExternalCommit
		}
		v.change.externalInit = &body
	case GroupContextExtensions:
		if v.extensions {
			return errTwoExtensionChanges
		}
		v.extensions = true
		v.change.extensions = body.Extensions
		return body.Extensions.checkContext()
	}
	return nil
}

func (v *proposalCheck) fromCommitter(i LeafIndex) bool {
	return v.from.Type == SenderMember && v.from.leaf() == i
}

// touch notes the one Update or Remove that a leaf may have.
func (v *proposalCheck) touch(i LeafIndex) error {
	if _, ok := v.state.tree.member(i); !ok {
		return errBlankLeaf
	}
	if v.touched[i] {
		return errLeafChangedTwice
	}
	v.touched[i] = true
	return nil
}

// checkPSK is Section 12.1.4, and that no PSK is named twice. Reinitialization
// and branching have their own first commits; in this one their usages are
// invalid.
func (v *proposalCheck) checkPSK(id PreSharedKeyID) error {
	if err := id.check(v.state.context.CipherSuite); err != nil {
		return err
	}
	if id.Type == PSKResumption && id.Usage != ResumptionApplication {
		return errPSKUsage
	}
	if len(v.change.psks) == maxPSKs {
		return errTooManyPSKs
	}
	encoded := string(id.append(nil))
	if v.psks[encoded] {
		return errPSKTwice
	}
	v.psks[encoded] = true
	v.change.psks = append(v.change.psks, id)
	return nil
}

func (p *PreSharedKeyID) check(suite CipherSuite) error {
	if len(p.Nonce) != suite.hashSize() {
		return errPSKNonce
	}
	return nil
}

// checkList is what Section 12.2 says of a list as a whole.
func (v *proposalCheck) checkList() error {
	if v.from.Type != SenderNewMemberCommit {
		if v.change.externalInit != nil {
			return errExternalInitInside
		}
		if v.change.reInit != nil && len(v.change.list) > 1 {
			return errReInitWithOthers
		}
		return nil
	}
	removes := 0
	for _, p := range v.change.list {
		switch p.Proposal.(type) {
		case ExternalInit, PreSharedKey:
		case Remove:
			removes++
		default:
			return errExternalCommit
		}
	}
	if v.change.externalInit == nil || removes > 1 {
		return errExternalCommit
	}
	return nil
}

// checkUpdate is Section 7.3 for a leaf that replaces the one at i.
func (s *publicState) checkUpdate(realm *Realm, leaf *LeafNode, i LeafIndex) error {
	old, ok := s.tree.member(i)
	if !ok {
		return errBlankLeaf
	}
	if leaf.Source != SourceUpdate {
		return errLeafSource
	}
	if bytes.Equal(leaf.EncryptionKey, old.EncryptionKey) {
		return errEncryptionKeyTaken
	}
	return leaf.verify(realm, s.context.CipherSuite, s.context.GroupID, i)
}

// checkContext checks a group context's extensions: no type twice, all in their
// place, and those that this package reads well-formed.
func (x Extensions) checkContext() error {
	if err := x.check(inGroupContext); err != nil {
		return err
	}
	if data, ok := x.Get(ExtensionExternalSenders); ok {
		if _, err := ParseExternalSenders(data); err != nil {
			return err
		}
	}
	_, err := x.requirements()
	return err
}
