package mls

// Message framing. See RFC 9420, Section 6.
//
// What came off the wire is an unverifiedContent; what this member signed, or
// whose signature it has verified, is an authenticatedContent. The types
// differ in nothing but that, and only verify and sign make the second.

// A WireFormat says what an MLSMessage holds. See RFC 9420, Section 17.2.
type WireFormat uint16

// The wire formats of RFC 9420.
const (
	WirePublicMessage  WireFormat = 1
	WirePrivateMessage WireFormat = 2
	WireWelcome        WireFormat = 3
	WireGroupInfo      WireFormat = 4
	WireKeyPackage     WireFormat = 5
)

// A ContentType says what a PublicMessage or PrivateMessage carries.
type ContentType uint8

// The content types of RFC 9420, Section 6.
const (
	ContentApplication ContentType = 1
	ContentProposal    ContentType = 2
	ContentCommit      ContentType = 3
)

func decodeContentType(r *reader) ContentType {
	c := ContentType(r.u8())
	if r.err == nil && (c < ContentApplication || c > ContentCommit) {
		r.fail(errContentType)
	}
	return c
}

// A SenderType says in what capacity somebody sent a message.
type SenderType uint8

// The sender types of RFC 9420, Section 6.
const (
	SenderMember            SenderType = 1
	SenderExternal          SenderType = 2 // One of the external_senders extension.
	SenderNewMemberProposal SenderType = 3 // Proposes to add itself.
	SenderNewMemberCommit   SenderType = 4 // Joins by an external commit.
)

// A sender is who sent a message. Its index is a leaf for SenderMember, a
// place in the external_senders extension for SenderExternal, else zero.
type sender struct {
	Type  SenderType
	index uint32
}

func memberSender(i LeafIndex) sender { return sender{Type: SenderMember, index: uint32(i)} }

func (s sender) leaf() LeafIndex { return LeafIndex(s.index) }

// bound reports whether the sender knows the epoch's GroupContext, which its
// signature then covers.
func (s sender) bound() bool {
	return s.Type == SenderMember || s.Type == SenderNewMemberCommit
}

func decodeSender(r *reader) (s sender) {
	s.Type = SenderType(r.u8())
	switch s.Type {
	case SenderMember, SenderExternal:
		s.index = r.u32()
	case SenderNewMemberProposal, SenderNewMemberCommit:
	default:
		r.fail(errSenderType)
	}
	return s
}

func (s sender) append(b []byte) []byte {
	b = appendU8(b, uint8(s.Type))
	if s.Type == SenderMember || s.Type == SenderExternal {
		b = appendU32(b, s.index)
	}
	return b
}

// framedContent is FramedContent. One of application, proposal and commit is
// set, by contentType; body is its encoding.
type framedContent struct {
	groupID     []byte
	epoch       uint64
	sender      sender
	aad         []byte // authenticated_data
	contentType ContentType
	body        []byte

	application []byte
	proposal    Proposal
	commit      *Commit
}

// content starts the content of a message of this epoch.
func (c *GroupContext) content(from sender, aad []byte) framedContent {
	return framedContent{groupID: c.GroupID, epoch: c.Epoch, sender: from, aad: aad}
}

func (f framedContent) withApplication(data []byte) framedContent {
	f.contentType, f.application, f.body = ContentApplication, data, appendVector(nil, data)
	return f
}

func (f framedContent) withProposal(p Proposal) framedContent {
	f.contentType, f.proposal, f.body = ContentProposal, p, appendProposal(nil, p)
	return f
}

func (f framedContent) withCommit(c *Commit) framedContent {
	f.contentType, f.commit, f.body = ContentCommit, c, c.append(nil)
	return f
}

func (f *framedContent) decode(r *reader) {
	f.groupID = r.vector()
	f.epoch = r.u64()
	f.sender = decodeSender(r)
	f.aad = r.vector()
	f.contentType = decodeContentType(r)
	f.decodeBody(r)
}

// decodeBody reads the content itself, for a contentType already read.
func (f *framedContent) decodeBody(r *reader) {
	start := r.in
	switch f.contentType {
	case ContentApplication:
		f.application = r.vector()
	case ContentProposal:
		f.proposal = decodeProposal(r)
	case ContentCommit:
		f.commit = decodeCommit(r)
	}
	n := len(start) - len(r.in)
	f.body = start[:n:n]
}

func (f *framedContent) append(b []byte) []byte {
	b = appendVector(b, f.groupID)
	b = appendU64(b, f.epoch)
	b = f.sender.append(b)
	b = appendVector(b, f.aad)
	b = appendU8(b, uint8(f.contentType))
	return append(b, f.body...)
}

// encodedSize bounds the length of what append writes, with room for the
// smaller parts of the structures around it.
func (f *framedContent) encodedSize() int {
	return 64 + len(f.groupID) + len(f.aad) + len(f.body)
}

// checkSender is which senders may send what. See RFC 9420, Section 6.1.
func (f *framedContent) checkSender() error {
	ok := false
	switch f.sender.Type {
	case SenderMember:
		ok = true
	case SenderExternal:
		ok = f.contentType == ContentProposal && f.proposal.Type().fromOutside()
	case SenderNewMemberProposal:
		ok = f.contentType == ContentProposal && f.proposal.Type() == ProposalAdd
	case SenderNewMemberCommit:
		ok = f.contentType == ContentCommit
	}
	if !ok {
		return errSenderContent
	}
	return nil
}

// unverifiedContent is AuthenticatedContent as it came off the wire: its
// signature has not been verified. A commit's confirmation tag is the next
// epoch's to verify, in both types.
type unverifiedContent struct {
	wire WireFormat
	framedContent
	signature       []byte
	confirmationTag []byte // Commits only.
}

// authenticatedContent is AuthenticatedContent with a signature that verifies
// under the key of its sender. It is immutable, but for the confirmation tag
// that a committer sets.
type authenticatedContent unverifiedContent

func (u *unverifiedContent) decode(r *reader) {
	u.wire = WireFormat(r.u16())
	u.framedContent.decode(r)
	u.decodeAuth(r)
}

// decodeAuth is FramedContentAuthData.
func (u *unverifiedContent) decodeAuth(r *reader) {
	u.signature = r.vector()
	if u.contentType == ContentCommit {
		u.confirmationTag = r.vector()
	}
}

func (u *unverifiedContent) appendAuth(b []byte) []byte {
	b = appendVector(b, u.signature)
	if u.contentType == ContentCommit {
		b = appendVector(b, u.confirmationTag)
	}
	return b
}

// appendTBS is FramedContentTBS. The encoded GroupContext is that of the
// message's epoch; senders outside the group do not sign it.
func (u *unverifiedContent) appendTBS(b, groupContext []byte) []byte {
	b = appendU16(b, mls10)
	b = appendU16(b, uint16(u.wire))
	b = u.framedContent.append(b)
	if u.sender.bound() {
		b = append(b, groupContext...)
	}
	return b
}

func (u *unverifiedContent) tbs(groupContext []byte) []byte {
	size := u.encodedSize() + len(groupContext) + len(u.signature) + len(u.confirmationTag)
	return u.appendTBS(make([]byte, 0, size), groupContext)
}

// verify checks the signature under the key that belongs to the sender's type
// and index. See RFC 9420, Section 6.1.
func (u *unverifiedContent) verify(realm *Realm, s CipherSuite, public, groupContext []byte) (*authenticatedContent, error) {
	if err := u.checkSender(); err != nil {
		return nil, err
	}
	if err := realm.verify(s, public, labelFramedContent, u.tbs(groupContext), u.signature); err != nil {
		return nil, err
	}
	return (*authenticatedContent)(u), nil
}

// verifyIn is verify against a state that the realm knows by its id. The id binds
// the context, which is as long as the group is large: a verdict is looked up
// without hashing all of it again for every member.
func (u *unverifiedContent) verifyIn(realm *Realm, state *publicState, public []byte) (*authenticatedContent, error) {
	suite := state.context.CipherSuite
	if !realm.shares() {
		return u.verify(realm, suite, public, state.encoded)
	}
	if err := u.checkSender(); err != nil {
		return nil, err
	}
	err := realm.remembered(suite, public, labelFramedContent+" in state", u.tbs(state.id[:]), u.signature, func() error {
		return suite.verifyWithLabel(public, labelFramedContent, u.tbs(state.encoded), u.signature)
	})
	if err != nil {
		return nil, err
	}
	return (*authenticatedContent)(u), nil
}

// sign makes the content of an outgoing message. A committer sets the
// confirmation tag afterwards: it depends on the signature.
func (f framedContent) sign(s CipherSuite, signer *Signer, wire WireFormat, groupContext []byte) (*authenticatedContent, error) {
	if wire == WirePublicMessage && f.contentType == ContentApplication {
		return nil, errApplicationInPublic
	}
	u := &unverifiedContent{wire: wire, framedContent: f}
	if err := u.checkSender(); err != nil {
		return nil, err
	}
	var err error
	u.signature, err = s.signWithLabel(signer, labelFramedContent, u.tbs(groupContext))
	if err != nil {
		return nil, err
	}
	return (*authenticatedContent)(u), nil
}

// append is AuthenticatedContent.
func (a *authenticatedContent) append(b []byte) []byte {
	b = appendU16(b, uint16(a.wire))
	b = a.framedContent.append(b)
	return (*unverifiedContent)(a).appendAuth(b)
}

// proposalRef names a proposal message in the commits that cover it. See
// RFC 9420, Section 5.2.
func (a *authenticatedContent) proposalRef(s CipherSuite) []byte {
	return s.refHash(labelProposalRef, a.append(nil))
}
