package mls

import (
	"bytes"
	"slices"
)

// LeafNodeSource says how a leaf came into the tree; see RFC 9420, Section 7.2.
type LeafNodeSource uint8

// The sources of a leaf node.
const (
	SourceKeyPackage LeafNodeSource = 1
	SourceUpdate     LeafNodeSource = 2
	SourceCommit     LeafNodeSource = 3
)

// Capabilities lists what a client supports beyond RFC 9420's defaults. See RFC
// 9420, Section 7.2.
type Capabilities struct {
	Versions     []uint16
	CipherSuites []CipherSuite
	Extensions   []ExtensionType
	Proposals    []ProposalType
	Credentials  []CredentialType
}

func decodeCapabilities(r *reader) Capabilities {
	return Capabilities{
		Versions:     decodeU16List[uint16](r),
		CipherSuites: decodeU16List[CipherSuite](r),
		Extensions:   decodeU16List[ExtensionType](r),
		Proposals:    decodeU16List[ProposalType](r),
		Credentials:  decodeU16List[CredentialType](r),
	}
}

func (c Capabilities) append(b []byte) []byte {
	b = appendU16List(b, c.Versions)
	b = appendU16List(b, c.CipherSuites)
	b = appendU16List(b, c.Extensions)
	b = appendU16List(b, c.Proposals)
	return appendU16List(b, c.Credentials)
}

func (c *Capabilities) supportsExtension(t ExtensionType) bool {
	return t.isDefault() || slices.Contains(c.Extensions, t)
}

func (c *Capabilities) supportsProposal(t ProposalType) bool {
	return t.isDefault() || slices.Contains(c.Proposals, t)
}

func (c *Capabilities) supportsCredential(t CredentialType) bool {
	return slices.Contains(c.Credentials, t)
}

// meets checks a group's requirements: every extension of the group context,
// and what its required_capabilities names. See RFC 9420, Sections 11.1 and 13.4.
func (c *Capabilities) meets(q requirements) error {
	for _, t := range q.extensions {
		if !c.supportsExtension(t) {
			return errExtensionUnsupported
		}
	}
	for _, t := range q.proposals {
		if !c.supportsProposal(t) {
			return errProposalUnsupported
		}
	}
	for _, t := range q.credentials {
		if !c.supportsCredential(t) {
			return errCredentialUnsupported
		}
	}
	return nil
}

// requirements is what a group context asks of each member's capabilities.
type requirements struct {
	extensions  []ExtensionType
	proposals   []ProposalType
	credentials []CredentialType
}

func (x Extensions) requirements() (requirements, error) {
	var q requirements
	for _, e := range x {
		if !e.Type.isDefault() {
			q.extensions = append(q.extensions, e.Type)
		}
	}
	data, ok := x.Get(ExtensionRequiredCapabilities)
	if !ok {
		return q, nil
	}
	c, err := ParseRequiredCapabilities(data)
	if err != nil {
		return q, err
	}
	q.extensions = append(q.extensions, c.Extensions...)
	q.proposals, q.credentials = c.Proposals, c.Credentials
	return q, nil
}

// Lifetime is when a key package may be used, in Unix seconds, both ends
// included. This package has no clock: whoever adds a member judges it.
type Lifetime struct{ NotBefore, NotAfter uint64 }

// A LeafNode is one client's appearance in a group, signed by that client. It
// is immutable. See RFC 9420, Section 7.2.
type LeafNode struct {
	EncryptionKey []byte
	SignatureKey  []byte
	Credential    Credential
	Capabilities  Capabilities
	Source        LeafNodeSource
	Lifetime      Lifetime // SourceKeyPackage only
	ParentHash    []byte   // SourceCommit only
	Extensions    Extensions
	Signature     []byte

	raw []byte // the encoding
	tbs int    // raw[:tbs] is what precedes the signature
}

func decodeLeafNode(r *reader) *LeafNode {
	start := r.in
	n := &LeafNode{
		EncryptionKey: r.vector(),
		SignatureKey:  r.vector(),
		Credential:    decodeCredential(r),
		Capabilities:  decodeCapabilities(r),
		Source:        LeafNodeSource(r.u8()),
	}
	switch n.Source {
	case SourceKeyPackage:
		n.Lifetime = Lifetime{NotBefore: r.u64(), NotAfter: r.u64()}
	case SourceUpdate:
	case SourceCommit:
		n.ParentHash = r.vector()
	default:
		r.fail(errLeafSource)
	}
	n.Extensions = decodeExtensions(r)
	n.tbs = len(start) - len(r.in)
	n.Signature = r.vector()
	if r.err == nil {
		n.raw = start[: len(start)-len(r.in) : len(start)-len(r.in)]
	}
	return n
}

func (n *LeafNode) append(b []byte) []byte { return append(b, n.raw...) }

// Equal reports whether two leaves are the same, byte for byte.
func (n *LeafNode) Equal(m *LeafNode) bool { return bytes.Equal(n.raw, m.raw) }

// detached returns the leaf over a buffer of its own, so that a leaf that stays
// in the tree does not keep the message alive that brought it.
func (n *LeafNode) detached() *LeafNode {
	return decodeLeafNode(newReader(bytes.Clone(n.raw)))
}

// tbsBytes is LeafNodeTBS: the leaf before its signature, and for a leaf made
// within a group its place there.
func (n *LeafNode) tbsBytes(groupID []byte, i LeafIndex) []byte {
	if n.Source == SourceKeyPackage {
		return n.raw[:n.tbs]
	}
	b := append(make([]byte, 0, n.tbs+len(groupID)+8), n.raw[:n.tbs]...)
	return appendU32(appendVector(b, groupID), uint32(i))
}

// signed encodes and signs a leaf whose fields are set.
func (n LeafNode) signed(suite CipherSuite, signer *Signer, groupID []byte, i LeafIndex) (*LeafNode, error) {
	b := appendVector(nil, n.EncryptionKey)
	b = appendVector(b, n.SignatureKey)
	b = n.Credential.append(b)
	b = n.Capabilities.append(b)
	b = appendU8(b, uint8(n.Source))
	switch n.Source {
	case SourceKeyPackage:
		b = appendU64(appendU64(b, n.Lifetime.NotBefore), n.Lifetime.NotAfter)
	case SourceCommit:
		b = appendVector(b, n.ParentHash)
	}
	b = n.Extensions.append(b)
	n.raw, n.tbs = b, len(b)
	sig, err := suite.signWithLabel(signer, labelLeafNode, n.tbsBytes(groupID, i))
	if err != nil {
		return nil, err
	}
	r := newReader(appendVector(b, sig))
	return decodeLeafNode(r), r.end()
}

// verify checks what a leaf says by itself: its signature and that its own
// extensions and credential are among its capabilities. The group's part, the
// rest of Section 7.3, is the tree's: see tree.checkLeaf.
func (n *LeafNode) verify(realm *Realm, suite CipherSuite, groupID []byte, i LeafIndex) error {
	if err := n.Extensions.unique(); err != nil {
		return err
	}
	for _, e := range n.Extensions {
		if !n.Capabilities.supportsExtension(e.Type) {
			return errExtensionUnsupported
		}
	}
	if !n.Capabilities.supportsCredential(n.Credential.Type) {
		return errCredentialUnsupported
	}
	return realm.verify(suite, n.SignatureKey, labelLeafNode, n.tbsBytes(groupID, i), n.Signature)
}
