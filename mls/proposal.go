package mls

// ProposalType names a proposal; see RFC 9420, Section 17.4.
type ProposalType uint16

// The proposal types of RFC 9420.
const (
	ProposalAdd                    ProposalType = 1
	ProposalUpdate                 ProposalType = 2
	ProposalRemove                 ProposalType = 3
	ProposalPreSharedKey           ProposalType = 4
	ProposalReInit                 ProposalType = 5
	ProposalExternalInit           ProposalType = 6
	ProposalGroupContextExtensions ProposalType = 7
)

func (t ProposalType) isDefault() bool {
	return t >= ProposalAdd && t <= ProposalGroupContextExtensions
}

// needsPath is the "Path Required" column of RFC 9420, Section 17.4.
func (t ProposalType) needsPath() bool {
	switch t {
	case ProposalAdd, ProposalPreSharedKey, ProposalReInit:
		return false
	}
	return true
}

// fromOutside is the "External" column of RFC 9420, Section 17.4.
func (t ProposalType) fromOutside() bool {
	switch t {
	case ProposalAdd, ProposalRemove, ProposalPreSharedKey, ProposalReInit, ProposalGroupContextExtensions:
		return true
	}
	return false
}

// A Proposal is one change to a group: Add, Update, Remove, PreSharedKey,
// ReInit, ExternalInit or GroupContextExtensions. See RFC 9420, Section 12.1.
type Proposal interface {
	Type() ProposalType
	appendBody(b []byte) []byte
}

// Add brings a client into the group.
type Add struct{ KeyPackage *KeyPackage }

// Update replaces its sender's leaf.
type Update struct{ LeafNode *LeafNode }

// Remove takes a member out of the group.
type Remove struct{ Removed LeafIndex }

// PreSharedKey mixes a pre-shared key into the next epoch.
type PreSharedKey struct{ ID PreSharedKeyID }

// ReInit closes the group in favour of a new one with other parameters.
type ReInit struct {
	GroupID     []byte
	Version     uint16
	CipherSuite CipherSuite
	Extensions  Extensions
}

// ExternalInit carries an external joiner's init secret to the group.
type ExternalInit struct{ KEMOutput []byte }

// GroupContextExtensions replaces the group context's extensions as a whole.
type GroupContextExtensions struct{ Extensions Extensions }

// Type returns ProposalAdd.
func (Add) Type() ProposalType { return ProposalAdd }

// Type returns ProposalUpdate.
func (Update) Type() ProposalType { return ProposalUpdate }

// Type returns ProposalRemove.
func (Remove) Type() ProposalType { return ProposalRemove }

// Type returns ProposalPreSharedKey.
func (PreSharedKey) Type() ProposalType { return ProposalPreSharedKey }

// Type returns ProposalReInit.
func (ReInit) Type() ProposalType { return ProposalReInit }

// Type returns ProposalExternalInit.
func (ExternalInit) Type() ProposalType { return ProposalExternalInit }

// Type returns ProposalGroupContextExtensions.
func (GroupContextExtensions) Type() ProposalType { return ProposalGroupContextExtensions }

func (p Add) appendBody(b []byte) []byte          { return p.KeyPackage.append(b) }
func (p Update) appendBody(b []byte) []byte       { return p.LeafNode.append(b) }
func (p Remove) appendBody(b []byte) []byte       { return appendU32(b, uint32(p.Removed)) }
func (p PreSharedKey) appendBody(b []byte) []byte { return p.ID.append(b) }
func (p ReInit) appendBody(b []byte) []byte {
	b = appendVector(b, p.GroupID)
	b = appendU16(appendU16(b, p.Version), uint16(p.CipherSuite))
	return p.Extensions.append(b)
}
func (p ExternalInit) appendBody(b []byte) []byte           { return appendVector(b, p.KEMOutput) }
func (p GroupContextExtensions) appendBody(b []byte) []byte { return p.Extensions.append(b) }

func appendProposal(b []byte, p Proposal) []byte {
	return p.appendBody(appendU16(b, uint16(p.Type())))
}

// decodeProposal refuses unknown types: the structure has no length, so what
// follows an unknown proposal cannot be found.
func decodeProposal(r *reader) Proposal {
	switch ProposalType(r.u16()) {
	case ProposalAdd:
		return Add{KeyPackage: decodeKeyPackage(r)}
	case ProposalUpdate:
		return Update{LeafNode: decodeLeafNode(r)}
	case ProposalRemove:
		return Remove{Removed: LeafIndex(r.u32())}
	case ProposalPreSharedKey:
		return PreSharedKey{ID: decodePreSharedKeyID(r)}
	case ProposalReInit:
		return ReInit{
			GroupID:     r.vector(),
			Version:     r.u16(),
			CipherSuite: CipherSuite(r.u16()),
			Extensions:  decodeExtensions(r),
		}
	case ProposalExternalInit:
		return ExternalInit{KEMOutput: r.vector()}
	case ProposalGroupContextExtensions:
		return GroupContextExtensions{Extensions: decodeExtensions(r)}
	}
	r.fail(errProposalType)
	return nil
}

// A proposalOrRef is a proposal in a commit: by value, or by the ProposalRef of
// the message that sent it. See RFC 9420, Section 12.4.
type proposalOrRef struct {
	proposal Proposal // nil: by reference
	ref      []byte
}

const (
	proposalByValue     = 1
	proposalByReference = 2
)

func decodeProposalOrRef(r *reader) (p proposalOrRef) {
	switch r.u8() {
	case proposalByValue:
		p.proposal = decodeProposal(r)
	case proposalByReference:
		// A hash, Section 5.2. Shorter ones are refused here: two bytes that
		// become a slice would let a message grow fiftyfold when it is decoded.
		if p.ref = r.vector(); len(p.ref) < hashSize {
			r.fail(errProposalRef)
		}
	default:
		r.fail(errProposalOrRef)
	}
	return p
}

func (p proposalOrRef) append(b []byte) []byte {
	if p.proposal == nil {
		return appendVector(appendU8(b, proposalByReference), p.ref)
	}
	return appendProposal(appendU8(b, proposalByValue), p.proposal)
}
