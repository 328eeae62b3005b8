package mls

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
)

// CommitConfig says what to commit.
type CommitConfig struct {
	Rand io.Reader
	// Proposals are sent by value. Update is not among them: the commit's path
	// is the committer's update.
	Proposals []Proposal
	// ByReference commits the queued proposals as well, but those of this
	// member's own leaf, those that are not valid beside the others, and those that
	// others overrule: a Remove goes before an Update of the same leaf, the latest
	// Update before earlier ones.
	ByReference bool
	AAD         []byte
	// NoPath leaves the path away, which RFC 9420 allows where all proposals
	// are Adds, PSKs or a ReInit. The committer's keys then stay as they are.
	NoPath bool
	// Public frames the commit as a PublicMessage.
	Public bool
	// Info is added to the extensions of the Welcome's GroupInfo.
	Info Extensions
	// Each runs the encryptions; nil: one after the other.
	Each Each
}

// Commit makes a commit, and the Welcome for those whom it adds, and stages it.
// The receiver is not changed; see StagedCommit.Sent for making a second one in
// the same epoch. See RFC 9420, Section 12.4.1.
func (g *Group) Commit(c CommitConfig) (*StagedCommit, error) {
	if !g.active {
		return nil, ErrNotMember
	}
	commit := new(Commit)
	for _, p := range c.Proposals {
		commit.proposals = append(commit.proposals, proposalOrRef{proposal: p})
	}
	if c.ByReference {
		for _, q := range g.valid(c.Proposals, g.committable(c.Proposals)) {
			commit.proposals = append(commit.proposals, proposalOrRef{ref: q.Ref})
		}
	}
	leaf, _ := g.tree.member(g.own)
	return g.create(creation{
		CommitConfig: c,
		commit:       commit,
		from:         memberSender(g.own),
		leaf:         *leaf,
		init:         g.secrets.init,
	})
}

// committable chooses of the queue what can stand in one list beside the
// proposals given (Section 12.2).
func (g *Group) committable(byValue []Proposal) []*QueuedProposal {
	removed := make(map[LeafIndex]bool)
	for _, p := range byValue {
		if r, ok := p.(Remove); ok {
			removed[r.Removed] = true
		}
	}
	var chosen []*QueuedProposal
	for _, q := range g.queue {
		if r, ok := q.Proposal.(Remove); ok && r.Removed != g.own && !removed[r.Removed] {
			removed[r.Removed] = true
			chosen = append(chosen, q)
		}
	}
	updated := make(map[LeafIndex]bool)
	for _, q := range slices.Backward(g.queue) {
		switch q.Proposal.(type) {
		case Remove:
		case Update:
			if q.Sender != g.own && !removed[q.Sender] && !updated[q.Sender] {
				updated[q.Sender] = true
				chosen = append(chosen, q)
			}
		default:
			chosen = append(chosen, q)
		}
	}
	order := func(q *QueuedProposal) int { return slices.Index(g.queue, q) }
	slices.SortFunc(chosen, func(a, b *QueuedProposal) int { return order(a) - order(b) })
	return chosen
}

// valid drops the queued proposals with which a commit would not be valid: whoever
// sent one must not keep the others from committing. Where all are, they are looked
// at once.
func (g *Group) valid(byValue []Proposal, queued []*QueuedProposal) (chosen []*QueuedProposal) {
	list := make([]StagedProposal, 0, len(byValue)+len(queued))
	for _, p := range byValue {
		list = append(list, StagedProposal{Proposal: p, SenderType: SenderMember, Sender: g.own})
	}
	var take func(some []*QueuedProposal)
	take = func(some []*QueuedProposal) {
		with := list
		for _, q := range some {
			with = append(with, StagedProposal{Proposal: q.Proposal, SenderType: q.SenderType, Sender: q.Sender, ByReference: true})
		}
		switch {
		case len(some) == 0:
		case g.applies(with) == nil:
			list, chosen = with, append(chosen, some...)
		case len(some) > 1:
			take(some[:len(some)/2])
			take(some[len(some)/2:])
		}
	}
	take(queued)
	return chosen
}

// applies checks a proposal list of an own commit as far as it does without a path.
func (g *Group) applies(list []StagedProposal) error {
	change, err := g.apply(g.realm, memberSender(g.own), list)
	if err != nil {
		return err
	}
	if err := (&transition{change: change}).checkTree(change.tree, g.tree); err != nil {
		return err
	}
	_, err = g.findPSKs(change.psks)
	return err
}

// A creation is a commit in the making, by a member or by an external joiner.
type creation struct {
	CommitConfig
	commit *Commit
	from   sender
	leaf   LeafNode // what the committer's new leaf takes over
	init   secret   // init secret of the epoch before
}

// create follows Section 12.4.1 step by step.
func (g *Group) create(c creation) (*StagedCommit, error) {
	suite := g.Suite()
	list, err := c.commit.resolve(c.from, g.queue)
	if err != nil {
		return nil, err
	}
	change, err := g.apply(g.realm, c.from, list)
	if err != nil {
		return nil, fmt.Errorf("apply proposals: %w", err)
	}
	if c.NoPath && needsPath(list) {
		return nil, errPathMissing
	}
	t := &transition{change: change, committer: c.from.leaf()}
	after := change.tree
	if c.from.Type == SenderNewMemberCommit {
		if after, t.committer, err = after.withVacancy(); err != nil {
			return nil, err
		}
	}
	var (
		keys         *pathKeys
		draft        *pathDraft
		commitSecret = suite.zeroSecret()
	)
	if c.NoPath {
		keys = g.keys.carry(g.keys.leaf, g.tree, after)
	} else {
		draft, err = after.newPath(c.Rand, t.committer, c.leaf, g.signer, g.GroupID())
		if err != nil {
			return nil, fmt.Errorf("make path: %w", err)
		}
		after, keys, commitSecret = draft.tree, draft.keys, draft.commitSecret
		t.steps = draft.steps
		t.pathContext = g.provisional(change, after).append(nil)
		if t.path, err = draft.seal(c.Rand, t.added, t.pathContext, c.Each); err != nil {
			return nil, fmt.Errorf("encrypt path: %w", err)
		}
		c.commit.path = t.path
	}
	if err := t.checkTree(after, g.tree); err != nil {
		return nil, fmt.Errorf("check leaves: %w", err)
	}

	psks, err := g.findPSKs(t.psks)
	if err != nil {
		return nil, err
	}
	pskSecret := suite.pskSecret(psks)
	wire := WirePrivateMessage
	if c.Public || c.from.Type == SenderNewMemberCommit {
		wire = WirePublicMessage
	}
	a, err := g.context.content(c.from, c.AAD).withCommit(c.commit).sign(suite, g.signer, wire, g.encoded)
	if err != nil {
		return nil, fmt.Errorf("sign commit: %w", err)
	}
	context := g.successor(a, change, after)
	encoded := context.append(nil)
	joiner, secrets, encryption := suite.nextEpochSecrets(c.init, commitSecret, pskSecret, encoded)
	a.confirmationTag = secrets.confirmationTag(context.ConfirmedTranscriptHash)
	t.next = g.realm.share(context.confirmed(after, a.confirmationTag))

	s := &StagedCommit{
		transition: t,
		from:       g.publicState,
		own:        true,
		aad:        c.AAD,
		ownLeaf:    t.committer,
		keys:       keys,
		entered:    newEpoch(t.next, secrets, encryption),
		private:    &stagedSecrets{content: a, commit: commitSecret, psk: pskSecret},
	}
	if s.sent, s.message, err = g.frame(c.Rand, a); err != nil {
		return nil, fmt.Errorf("frame commit: %w", err)
	}
	if len(t.added) > 0 {
		w := welcoming{transition: t, epoch: &s.entered, draft: draft, joiner: joiner, psk: pskSecret}
		if s.welcome, err = w.seal(c.CommitConfig, g.signer); err != nil {
			return nil, fmt.Errorf("make welcome: %w", err)
		}
	}
	return s, nil
}

// frame protects a signed content with the keys of the current epoch. A private
// one uses a generation of this member's.
func (g *Group) frame(rand io.Reader, a *authenticatedContent) (next *Group, message []byte, err error) {
	if a.wire == WirePublicMessage {
		return g, g.secrets.sealPublic(a, g.encoded), nil
	}
	ratchets, message, err := g.secrets.sealPrivate(rand, g.ratchets, a, 0)
	if err != nil {
		return g, nil, err
	}
	return g.withRatchets(g.Epoch(), ratchets), message, nil
}

// Propose sends a proposal for somebody to commit. An Update without a LeafNode
// renews this member's leaf key. The next group has it queued, and has used one
// generation more: it must be stored before the message is sent.
func (g *Group) Propose(rand io.Reader, p Proposal, aad []byte) (next *Group, message []byte, err error) {
	if !g.active {
		return g, nil, ErrNotMember
	}
	var leafKey secret
	if _, ok := p.(Update); ok {
		if p, leafKey, err = g.newUpdate(rand); err != nil {
			return g, nil, fmt.Errorf("make update: %w", err)
		}
	}
	a, err := g.context.content(memberSender(g.own), aad).withProposal(p).sign(g.Suite(), g.signer, WirePrivateMessage, g.encoded)
	if err != nil {
		return g, nil, fmt.Errorf("sign proposal: %w", err)
	}
	sent, message, err := g.frame(rand, a)
	if err != nil {
		return g, nil, err
	}
	next, _, err = sent.enqueue(a, leafKey)
	if err != nil {
		return g, nil, err
	}
	return next, message, nil
}

func (g *Group) newUpdate(rand io.Reader) (Update, secret, error) {
	private, public, err := g.Suite().generateKeyPair(rand)
	if err != nil {
		return Update{}, nil, err
	}
	old, _ := g.tree.member(g.own)
	leaf := *old
	leaf.EncryptionKey, leaf.SignatureKey = public, g.signer.Public()
	leaf.Source = SourceUpdate
	signed, err := leaf.signed(g.Suite(), g.signer, g.GroupID(), g.own)
	return Update{LeafNode: signed}, private, err
}

// welcoming makes a commit's Welcome (Section 12.4.3.1).
type welcoming struct {
	*transition
	*epoch
	draft       *pathDraft // nil without a path
	joiner, psk secret
}

func (w *welcoming) seal(c CommitConfig, signer *Signer) ([]byte, error) {
	suite := w.context.CipherSuite
	info, err := w.groupInfo(w.committer, signer, slices.Clone(c.Info))
	if err != nil {
		return nil, err
	}
	key, nonce := suite.welcomeKey(suite.welcomeSecret(w.joiner, w.psk))
	welcome := &Welcome{
		suite:     suite,
		secrets:   make([]encryptedGroupSecrets, len(w.added)),
		groupInfo: suite.sealAEAD(key, nonce, nil, info.raw),
	}
	var jobs sealJobs
	for k, i := range w.added {
		s := groupSecrets{joinerSecret: w.joiner, psks: w.psks}
		if w.draft != nil {
			common := commonAncestor(w.committer, i)
			at := slices.IndexFunc(w.steps, func(s pathStep) bool { return s.node == common })
			s.pathSecret = w.draft.secrets[at]
		}
		welcome.secrets[k].newMember = w.keyPackages[k].Ref()
		jobs.add(w.keyPackages[k].InitKey, s.append(nil), &welcome.secrets[k].secrets)
	}
	if err := jobs.run(c.Rand, suite, labelWelcome, welcome.groupInfo, c.Each, orFail); err != nil {
		return nil, err
	}
	return welcome.append(appendMessageHeader(nil, WireWelcome)), nil
}

const labelWelcome = "Welcome"

// welcomeKey derives the key and nonce of a Welcome's GroupInfo.
func (s CipherSuite) welcomeKey(welcomeSecret secret) (key, nonce []byte) {
	return s.expandWithLabel(welcomeSecret, "key", nil, s.keySize()),
		s.expandWithLabel(welcomeSecret, "nonce", nil, nonceSize)
}

// MarshalBinary encodes an own staged commit, but for its message, so that it
// survives a restart. The result holds secrets. A commit that joins externally
// cannot be stored: after a restart, join anew.
func (s *StagedCommit) MarshalBinary() ([]byte, error) {
	if !s.own || s.External() {
		return nil, errNotStorable
	}
	hash := sha256.Sum256(s.message)
	b := append([]byte{stagedFormat}, s.from.id[:]...)
	b = append(b, hash[:]...)
	b = appendVector(b, s.private.content.append(nil))
	b = appendVector(b, s.welcome)
	b = appendVector(b, s.private.commit)
	b = appendVector(b, s.private.psk)
	b = appendU32(b, s.sent.ratchets.nextGeneration(s.sent.own, handshakeRatchet))
	return s.keys.append(b), nil
}

const stagedFormat = 1

// UnmarshalStaged reads what MarshalBinary wrote, for the group that made the
// commit and the message that it made.
func (g *Group) UnmarshalStaged(b, message []byte) (*StagedCommit, error) {
	r := newReader(bytes.Clone(b))
	format, from, hash := r.u8(), r.take(sha256.Size), r.take(sha256.Size)
	content, welcome := r.vector(), r.vector()
	private := &stagedSecrets{commit: r.vector(), psk: r.vector()}
	generation, keys := r.u32(), decodePathKeys(r)
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("decode staged commit: %w", err)
	}
	sum := sha256.Sum256(message)
	switch {
	case format != stagedFormat || !bytes.Equal(hash, sum[:]):
		return nil, errStagedFormat
	case !g.active:
		return nil, ErrNotMember
	case !bytes.Equal(from, g.id[:]):
		return nil, ErrWrongEpoch
	}
	u := new(unverifiedContent)
	r = newReader(content)
	u.decode(r)
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("decode staged commit: %w", err)
	}
	a, err := g.verify(g.realm, u)
	if err != nil {
		return nil, err
	}
	if a.contentType != ContentCommit || a.sender != memberSender(g.own) {
		return nil, errStagedFormat
	}
	list, err := a.commit.resolve(a.sender, g.queue)
	if err != nil {
		return nil, err
	}
	t, err := g.publicState.transition(g.realm, a, list)
	if err != nil {
		return nil, err
	}
	if !keys.fit(t.next.tree, g.own) {
		return nil, errStagedFormat
	}
	t.next = g.realm.share(t.next)
	private.content = a
	ratchets, err := g.ratchets.skipTo(g.own, handshakeRatchet, generation)
	if err != nil {
		return nil, err
	}
	s := &StagedCommit{
		transition: t,
		from:       g.publicState,
		own:        true,
		aad:        a.aad,
		message:    message,
		sent:       g.withRatchets(g.Epoch(), ratchets),
		ownLeaf:    g.own,
		keys:       keys,
		private:    private,
	}
	if len(welcome) > 0 {
		s.welcome = welcome
	}
	if s.entered, err = t.enter(g.secrets.init, private.commit, private.psk, a.confirmationTag); err != nil {
		return nil, err
	}
	return s, nil
}
